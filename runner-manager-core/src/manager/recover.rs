//! Asks GitHub which jobs of a scope are open, and takes in what no webhook told.
//!
//! It only records jobs, by the one path that webhooks take too; how many runners that comes to is the groups'
//! affair. Where GitHub's log shows that all webhooks got through it looks less often. What was looked into lately, and is as was to be expected, is passed over for a while: this process
//! remembers it, and one that does not know looks. A record that a listing lacks is not closed by that: the job is asked for by itself, and what it
//! says counts.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use super::calls::{CallError, Purpose};
use super::intake::Taken;
use super::looked::Heard;
use super::redeliver::HooksOfScope;
use super::worker::{TaskError, Work};
use crate::domain::{
    Conclusion, JobId, JobObservation, JobReport, OpenRuns, OperationId, Repository, RunId, Scope,
    WorkflowJob, later,
};
use crate::github::{GitHubError, GitHubErrorKind};
use crate::policy::recovery::{
    Found, Known, Listed, Listing, found, has_surely_ended, is_in_doubt, is_looked_into, listing_due,
};
use crate::policy::redelivery::vouches;
use crate::retry::Retry;
use crate::store::{JobFilter, Page, StoreError};

/// How many jobs one run adds. The rest is added by the next one, soon after.
const MOST_ADDED: usize = 1_000;

/// How many jobs one run asks for by themselves, and how many it adds that nobody serves: no more than the next
/// one could ask for. The others are asked for by other runs.
const MOST_ASKED: usize = 100;

/// How soon the next run follows one that did not get to its end.
const SOON: Duration = Duration::from_mins(1);

/// How often a repository is asked for that does not answer.
const TRIES: usize = 2;

/// How many jobs are read from the store at a time.
const PAGE: usize = 500;

/// How many of the jobs heard of last are looked at for what is going on.
const JOBS_HEARD_OF: usize = 1_000;

/// What one run has found so far.
#[derive(Debug)]
struct Recovery {
    /// When it began, by the store's time: what it knows is no older.
    begun: Timestamp,
    /// All jobs that were listed.
    open: BTreeSet<JobId>,
    /// Runs that are open, and whose jobs were not listed.
    passed: BTreeSet<RunId>,
    /// Repositories that were listed completely.
    listed: BTreeSet<Repository>,
    /// How many repositories GitHub does not show us. We can know nothing of their jobs.
    hidden: usize,
    /// Repositories that have not answered.
    unknown: BTreeSet<Repository>,
    /// Repositories that need not be listed yet, since a log vouches for them.
    put_off: BTreeSet<Repository>,
    /// Jobs that were added, of which nobody serves `unserved`.
    added: usize,
    unserved: usize,
    /// Jobs that were on record and went on.
    advanced: usize,
    /// Jobs that were left for the next run.
    left: usize,
}

impl Recovery {
    const fn begin(begun: Timestamp) -> Self {
        Self {
            begun,
            open: BTreeSet::new(),
            passed: BTreeSet::new(),
            listed: BTreeSet::new(),
            hidden: 0,
            unknown: BTreeSet::new(),
            put_off: BTreeSet::new(),
            added: 0,
            unserved: 0,
            advanced: 0,
            left: 0,
        }
    }

    /// Whether the store knows now whatever GitHub had to say.
    fn is_complete(&self) -> bool {
        self.unknown.is_empty() && self.left == 0
    }

    fn listing_of(&self, job: &WorkflowJob) -> Listing {
        if self.open.contains(&job.id) || self.passed.contains(&job.run) {
            Listing::With
        } else if self.listed.contains(&job.repository) {
            Listing::Without
        } else if self.unknown.contains(&job.repository) || self.put_off.contains(&job.repository) {
            Listing::Unknown
        } else {
            Listing::None
        }
    }

    /// Names a write of this run: its repeat is known, and another run's is another one.
    fn operation(&self, seen: &JobObservation) -> OperationId {
        let state = match &seen.report {
            JobReport::Waiting => "waiting",
            JobReport::Queued => "queued",
            JobReport::InProgress { .. } => "in_progress",
            JobReport::Completed { .. } => "completed",
        };
        OperationId::new(format!("recovered:{}:{}:{state}:{}", seen.id, seen.attempt, self.begun))
    }

    fn log(&self, scope: &Scope) {
        let Self { hidden, added, unserved, advanced, left, .. } = *self;
        let (open, passed) = (self.open.len(), self.passed.len());
        let (listed, unknown) = (self.listed.len(), self.unknown.len());
        let news = added + advanced + left + unknown > 0;
        if news {
            tracing::info!(
                %scope, open, passed, added, unserved, advanced, left, listed, hidden, unknown,
                "jobs listed at GitHub"
            );
        } else {
            tracing::debug!(%scope, open, passed, listed, hidden, "jobs listed at GitHub: nothing new");
        }
    }
}

impl Manager {
    /// Lists the open jobs of a scope's repositories and takes in what is new.
    pub(super) async fn recover_jobs(&self, scope: &Scope) -> Result<Work, TaskError> {
        self.inner.catalogue.forget();
        if !self.scopes().await?.contains(scope) {
            return Ok(Work::Done);
        }
        let heard = self.heard().await?;
        let repositories = self.repositories_to_ask(scope, &heard).await?;
        let mut run = Recovery::begin(self.now().await?);
        self.list_jobs(scope, repositories, &heard, &mut run).await?;
        self.ask_for_the_missing(scope, &heard, &mut run).await?;
        run.log(scope);
        let interval = self.parts().settings.recover_interval;
        let pause = if run.is_complete() { interval } else { interval.min(SOON) };
        Ok(Work::AgainAt(later(self.now().await?, pause)))
    }

    /// The repositories of a scope whose jobs a group could serve, in another order each time, so that one that
    /// a run did not get to comes first in another.
    async fn repositories_to_ask(&self, scope: &Scope, heard: &Heard) -> Result<Vec<Repository>, TaskError> {
        let listed = match scope {
            Scope::Enterprise(slug) => heard.of_enterprise(slug),
            Scope::Organization(_) | Scope::Repository(_) => {
                let listed = self.list_github(Purpose::Recovery, scope, "repositories", |github| {
                    github.repositories(scope)
                });
                listed.await?
            }
        };
        let mut repositories: Vec<Repository> =
            listed.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        self.turn(&mut repositories);
        Ok(repositories)
    }

    /// What was heard of jobs lately.
    async fn heard(&self) -> Result<Heard, StoreError> {
        let jobs = self.store().jobs(&JobFilter::All, &Page::first(JOBS_HEARD_OF)).await?;
        Ok(jobs.into_iter().map(|job| job.value).collect())
    }

    /// Begins a list at another place each time.
    pub(super) fn turn<T>(&self, list: &mut [T]) {
        if !list.is_empty() {
            let by = self.entropy() % list.len() as u64;
            list.rotate_left(usize::try_from(by).expect("less than a length"));
        }
    }

    /// Lists the open jobs of each repository. One that does not answer keeps no other from being asked, and is
    /// asked again at the end.
    async fn list_jobs(
        &self,
        scope: &Scope,
        repositories: Vec<Repository>,
        heard: &Heard,
        run: &mut Recovery,
    ) -> Result<(), TaskError> {
        let hooks = self.hooks_of(scope).await?;
        let mut due = Vec::new();
        for repository in repositories {
            let listed = self.inner.looked.listed(&repository);
            let vouched = is_vouched_for(&hooks, &listed, run.begun);
            match listing_due(&listed, heard.last(&repository), vouched, run.begun) {
                Some(which) => {
                    run.unknown.insert(repository.clone());
                    due.push((repository, which, vouched));
                }
                None if vouched => {
                    run.put_off.insert(repository);
                }
                None => {}
            }
        }
        for _ in 0..TRIES {
            for (repository, which, vouched) in std::mem::take(&mut due) {
                match self.open_jobs(scope, &repository, (which, vouched), heard, run).await? {
                    Answer::Jobs { jobs, any_open } => {
                        let (is_first, added) =
                            (self.inner.looked.listed(&repository).at.is_none(), run.added);
                        for seen in jobs {
                            self.take_in_listed(seen, run).await?;
                        }
                        self.inner.looked.note(&repository, which, any_open, run.begun);
                        if run.added > added && !is_first {
                            self.inner.looked.note_unheard(&repository, run.begun);
                        }
                        run.unknown.remove(&repository);
                        run.listed.insert(repository);
                    }
                    Answer::Hidden => {
                        run.unknown.remove(&repository);
                        run.hidden += 1;
                    }
                    Answer::Unknown => due.push((repository, which, vouched)),
                }
            }
        }
        Ok(())
    }

    /// The open jobs of a repository, without those of runs that need not be looked into.
    async fn open_jobs(
        &self,
        scope: &Scope,
        repository: &Repository,
        (which, vouched): (OpenRuns, bool),
        heard: &Heard,
        run: &mut Recovery,
    ) -> Result<Answer, TaskError> {
        let account = Scope::Repository(repository.clone());
        let listed = self.list_github(Purpose::Recovery, &account, "open_runs", |github| {
            github.open_runs(repository, which)
        });
        let runs = match answer(repository, listed.await)? {
            Ok(runs) => runs,
            Err(answer) => return Ok(answer),
        };
        // After a start nobody knows what was missed: everything is looked into.
        let is_first = self.inner.looked.listed(repository).at.is_none();
        let mut into = BTreeSet::new();
        for open in &runs {
            let explained = !is_first && heard.explains(open.id);
            let is_looked_into = is_looked_into(open, explained, vouched, run.begun);
            if is_looked_into { &mut into } else { &mut run.passed }.insert(open.id);
        }
        let mut jobs = Vec::new();
        for id in &into {
            let listed = self.list_github(Purpose::Recovery, &account, "open_jobs", |github| {
                github.open_jobs(repository, *id)
            });
            match answer(repository, listed.await)? {
                Ok(found) => jobs.extend(found),
                Err(answer) => return Ok(answer),
            }
        }
        if let Scope::Enterprise(slug) = scope {
            for job in &mut jobs {
                job.enterprise = Some(slug.clone());
            }
        }
        Ok(Answer::Jobs { jobs, any_open: !runs.is_empty() })
    }

    /// Takes in a job that GitHub listed, if it is any of our business.
    async fn take_in_listed(&self, mut seen: JobObservation, run: &mut Recovery) -> Result<(), StoreError> {
        run.open.insert(seen.id);
        let before = self.store().job(seen.id).await?;
        if let (Some(before), None) = (&before, &seen.enterprise) {
            seen.enterprise.clone_from(&before.value.enterprise);
        }
        let known = Known {
            job: before.is_some(),
            runner: self.has_runner_of(&seen).await?,
            served: self.group_for(&seen).await?.is_some(),
        };
        let is_new = before.is_none();
        match found(&seen, known, run.begun) {
            Found::Passed => return Ok(()),
            Found::Unserved if run.unserved == MOST_ASKED => return Ok(()),
            Found::Wanted | Found::Unserved if is_new && run.added == MOST_ADDED => {
                run.left += 1;
                return Ok(());
            }
            Found::Unserved => run.unserved += 1,
            Found::Wanted => {}
        }
        if self.take_in_after(before, &run.operation(&seen), &seen, Some(run.begun)).await? == Taken::Recorded
        {
            *(if is_new { &mut run.added } else { &mut run.advanced }) += 1;
        }
        Ok(())
    }

    /// Whether a runner that is on record has the job.
    async fn has_runner_of(&self, seen: &JobObservation) -> Result<bool, StoreError> {
        let JobReport::InProgress { runner, .. } = &seen.report else { return Ok(false) };
        match self.our_runner(runner) {
            Some(name) => Ok(self.store().runner(&name).await?.is_some()),
            None => Ok(false),
        }
    }

    /// Asks by itself for each job that waits by its record, or presumably began, and that its repository's listing
    /// lacks.
    async fn ask_for_the_missing(
        &self,
        scope: &Scope,
        heard: &Heard,
        run: &mut Recovery,
    ) -> Result<(), TaskError> {
        let mut missing = self.missing(scope, run).await?;
        let presumed = heard.presumed.iter().filter(|job| {
            scope.covers(&job.repository, job.enterprise.as_deref())
                && is_in_doubt(job, run.listing_of(job), run.begun)
        });
        missing.extend(presumed.cloned());
        self.turn(&mut missing);
        for job in missing.iter().take(MOST_ASKED) {
            if let Some(seen) = self.ask_once_more(job).await?
                && self.take_in(&run.operation(&seen), &seen, Some(run.begun)).await? == Taken::Recorded
            {
                run.advanced += 1;
            }
        }
        Ok(())
    }

    async fn missing(&self, scope: &Scope, run: &Recovery) -> Result<Vec<WorkflowJob>, StoreError> {
        let groups = self.listed_groups().await?;
        let own = groups.iter().filter(|group| group.spec.scope == *scope);
        let filters = own.map(|group| JobFilter::Queued(group.spec.name.clone()));
        let mut missing = Vec::new();
        for filter in filters.chain([JobFilter::Unserved]) {
            let mut after = None;
            loop {
                let page = self.store().jobs(&filter, &Page { after, limit: PAGE }).await?;
                after = page.last().map(|last| last.value.id);
                let is_last = page.len() < PAGE;
                missing.extend(page.into_iter().map(|job| job.value).filter(|job| {
                    let ours = filter != JobFilter::Unserved
                        || scope.covers(&job.repository, job.enterprise.as_deref());
                    ours && is_in_doubt(job, run.listing_of(job), run.begun)
                }));
                if is_last {
                    break;
                }
            }
        }
        Ok(missing)
    }

    /// What GitHub says of one job that waits by its record; none where it does not say.
    async fn ask_once_more(&self, job: &WorkflowJob) -> Result<Option<JobObservation>, TaskError> {
        let scope = Scope::Repository(job.repository.clone());
        match self.ask_github(&scope, "job", |github| github.job(&job.repository, job.id)).await {
            Ok(Some(seen)) => return Ok(Some(seen)),
            Ok(None) => {}
            Err(CallError::Failed(error)) if error.kind == GitHubErrorKind::NotFound => {}
            Err(error) => match TaskError::from(error) {
                TaskError::Outside { reason, retry: Retry::Never | Retry::Backoff } => {
                    tracing::warn!(job = %job.reference(), reason, "GitHub did not say how the job fares");
                    return Ok(None);
                }
                error => return Err(error),
            },
        }
        let has_ended = has_surely_ended(job, self.now().await?);
        tracing::warn!(job = %job.reference(), has_ended, "GitHub shows no such job");
        Ok(has_ended.then(|| end_of(job)))
    }
}

/// Whether the logs of hooks vouch for a repository's webhooks since it was last listed. After a start nobody knows what
/// was missed.
fn is_vouched_for(hooks: &HooksOfScope, listed: &Listed, now: Timestamp) -> bool {
    listed.at.is_some_and(|since| hooks.of_one_way(|hook| vouches(hook, since, now)))
}

/// What GitHub listed, or what it means that it did not.
fn answer<T>(
    repository: &Repository,
    listed: Result<T, CallError<GitHubError>>,
) -> Result<Result<T, Answer>, TaskError> {
    let error = match listed {
        Ok(listed) => return Ok(Ok(listed)),
        Err(CallError::Failed(error)) => error,
        Err(CallError::TimedOut(error)) => {
            tracing::warn!(%repository, %error, "GitHub did not list its jobs");
            return Ok(Err(Answer::Unknown));
        }
        Err(CallError::NotMade(error)) => return Err(error),
    };
    tracing::warn!(%repository, %error, "GitHub did not list its jobs");
    match error.kind {
        GitHubErrorKind::NotFound | GitHubErrorKind::PermissionDenied | GitHubErrorKind::NoInstallation => {
            Ok(Err(Answer::Hidden))
        }
        // No other repository would be answered either.
        GitHubErrorKind::RateLimited | GitHubErrorKind::Unauthenticated => {
            Err(TaskError::outside(&error, error.retry))
        }
        GitHubErrorKind::NameTaken
        | GitHubErrorKind::Busy
        | GitHubErrorKind::Invalid
        | GitHubErrorKind::Unavailable
        | GitHubErrorKind::Unclear
        | GitHubErrorKind::Unexpected => Ok(Err(Answer::Unknown)),
    }
}

/// What GitHub said of a repository.
enum Answer {
    /// Its open jobs, and whether it has open runs.
    Jobs { jobs: Vec<JobObservation>, any_open: bool },
    /// It is not there, or not for us to see.
    Hidden,
    /// Nothing.
    Unknown,
}

/// The end of a job of which GitHub knows nothing any more.
fn end_of(job: &WorkflowJob) -> JobObservation {
    JobObservation {
        id: job.id,
        run: job.run,
        attempt: job.attempt,
        repository: job.repository.clone(),
        enterprise: job.enterprise.clone(),
        public: job.public,
        name: job.name.clone(),
        workflow: job.workflow.clone(),
        labels: job.labels.clone(),
        created_at: job.created_at,
        report: JobReport::Completed { conclusion: Conclusion::Other, runner: None, ended_at: None },
    }
}
