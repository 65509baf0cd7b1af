//! The trait [`GitHub`] over GitHub's REST API, by any [`Transport`].
//!
//! It owns the paths, the JSON, the pages and the meaning of each refusal. It leaves alone how a request
//! travels, which credentials it bears (both: [`transport`]), and whether a failed call is tried again: that
//! is the manager's affair, so nothing in here asks twice for the same thing.
//!
//! Everything is as in version 2022-11-28 of the API: <https://docs.github.com/rest>.

mod answers;
mod books;
mod check;
mod groups;
mod hooks;
pub(crate) mod models;
mod operation;
mod pages;
#[cfg(test)]
mod tests;
pub mod transport;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::IF_NONE_MATCH;
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tracing::debug;

use self::answers::Answers;
use self::books::Books;
#[cfg(any(feature = "octocrab", feature = "testing"))]
pub(crate) use self::check::installation_path;
pub(crate) use self::check::owner;
use self::models::{JitAnswer, JitBody, Job, JobError, RepositoryEntry, Runner};
#[cfg(feature = "octocrab")]
pub(crate) use self::operation::asks_to_wait;
pub(crate) use self::operation::clocks_apart;
use self::operation::{Effect, Operation, is_about_suspension};
use self::pages::Listing;
pub use self::transport::{As, CallName, Transport, TransportError};
use crate::clock::Clock;
use crate::domain::{
    GitHubGroupId, GitHubRunnerId, GroupAccess, GroupRules, JobId, JobObservation, Label, OpenRun, OpenRuns,
    RegisteredGroup, Repository, RunId, RunnerName, Scope, WebhookDelivery,
};
use crate::github::{
    Budget, GitHub, GitHubError, GitHubErrorKind, Hook, HookSpec, Intent, JitConfig, JitRequest,
    RegisteredHook, RegisteredRunner,
};

/// The words under which GitHub lists runs that have not ended. A run is listed under one of them, and any may
/// have a job in the queue: one that is in progress has begun with another one of its jobs. In the order in
/// which a run comes by them, so that one that moves on while they are asked for is not missed.
const OPEN_RUNS: [&str; 5] = ["requested", "pending", "waiting", "queued", "in_progress"];
const MOVING_RUNS: [&str; 2] = ["queued", "in_progress"];

/// GitHub over its REST API.
///
/// ```
/// use std::sync::Arc;
///
/// use async_trait::async_trait;
/// use bytes::Bytes;
/// use runner_manager_core::clock::SystemClock;
/// use runner_manager_core::domain::Scope;
/// use runner_manager_core::github::GitHub;
/// use runner_manager_core::rest::{As, RestGitHub, Transport, TransportError};
///
/// /// Answers each request with an empty listing.
/// #[derive(Debug)]
/// struct Nothing;
///
/// #[async_trait]
/// impl Transport for Nothing {
///     async fn send(
///         &self,
///         _: As<'_>,
///         request: http::Request<Bytes>,
///     ) -> Result<http::Response<Bytes>, TransportError> {
///         assert_eq!(request.uri(), "/orgs/acme/actions/runners?per_page=100");
///         Ok(http::Response::new(Bytes::from(r#"{"total_count": 0, "runners": []}"#)))
///     }
///
///     fn account(&self, _: As<'_>) -> String {
///         "token".to_owned()
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let github = RestGitHub::new(Arc::new(Nothing), Arc::new(SystemClock));
/// let acme = Scope::organization("acme").unwrap();
/// assert!(github.runners(&acme).await?.is_empty());
/// # Ok::<(), runner_manager_core::github::GitHubError>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct RestGitHub {
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    books: Books,
    answers: Answers,
}

impl RestGitHub {
    /// GitHub by a transport. The clock tells how far away a reset of a budget is.
    pub fn new(transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        Self { transport, clock, books: Books::default(), answers: Answers::default() }
    }

    /// Sends a request; an answer that is not success is an error.
    async fn call(
        &self,
        operation: Operation,
        who: As<'_>,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, GitHubError> {
        let answer = self.send(operation, who, request).await?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(operation.refusal(&answer, self.clock.now()))
        }
    }

    /// Sends a request and notes what the answer says of the budget.
    async fn send(
        &self,
        operation: Operation,
        who: As<'_>,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, GitHubError> {
        let begun = self.clock.now();
        let sent = self.transport.send(who, request).await;
        let now = self.clock.now();
        let answer = sent.map_err(|error| operation.unanswered(error, now))?;
        self.books.note_budget(&self.transport.account(who), answer.headers(), now);
        self.books.note_clocks(clocks_apart(answer.headers(), begun, now));
        match (self.transport.app(), who) {
            // A token that was good until then is refused by the words alone.
            (Some(app), As::Scope(scope)) if is_about_suspension(&answer) => {
                Err(operation.refused(app, &owner(scope), &answer, now))
            }
            _ => Ok(answer),
        }
    }

    async fn get(
        &self,
        operation: Operation,
        who: As<'_>,
        path: &str,
    ) -> Result<Response<Bytes>, GitHubError> {
        self.call(operation, who, operation.get(path)?).await
    }

    /// Gets what is asked for again and again. Where it is as it was, GitHub says so, which costs nothing.
    async fn get_again(
        &self,
        operation: Operation,
        who: As<'_>,
        path: &str,
    ) -> Result<Response<Bytes>, GitHubError> {
        let account = self.transport.account(who);
        let kept = self.answers.find(&account, path);
        let mut request = operation.get(path)?;
        if let Some(kept) = &kept {
            request.headers_mut().insert(IF_NONE_MATCH, kept.tag.clone());
        }
        let answer = self.send(operation, who, request).await?;
        match kept {
            Some(kept) if answer.status() == StatusCode::NOT_MODIFIED => Ok(kept.answer()),
            _ if answer.status().is_success() => {
                self.answers.keep(&account, path, &answer);
                Ok(answer)
            }
            _ => Err(operation.refusal(&answer, self.clock.now())),
        }
    }

    /// Gets one thing of a place: none where the place shows itself, but the thing is not there. A 404 alone
    /// says less, since GitHub gives it also to credentials that may not see the place.
    async fn get_one<T: DeserializeOwned>(
        &self,
        operation: Operation,
        scope: &Scope,
        path: &str,
        place: &str,
    ) -> Result<Option<T>, GitHubError> {
        match self.get(operation, As::Scope(scope), path).await {
            Ok(answer) => {
                self.books.note_visible(place, self.clock.now());
                operation.read_json(&answer).map(Some)
            }
            Err(error) if error.kind == GitHubErrorKind::NotFound => {
                self.expect_visible(operation, scope, place).await.map(|()| None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that the credentials may see a place, so that what is not in there is truly absent. Asks
    /// only where the place was not seen in the last minute: absent runners are an everyday matter.
    async fn expect_visible(
        &self,
        operation: Operation,
        scope: &Scope,
        place: &str,
    ) -> Result<(), GitHubError> {
        if !self.books.is_visible(place, self.clock.now()) {
            let asking = Operation::read(operation.name);
            self.get(asking, As::Scope(scope), &format!("{place}?per_page=1")).await?;
            self.books.note_visible(place, self.clock.now());
        }
        Ok(())
    }

    async fn list_runners(
        &self,
        operation: Operation,
        scope: &Scope,
        filter: &str,
    ) -> Result<Vec<RegisteredRunner>, GitHubError> {
        let place = runners_path(scope);
        let listing = Listing { operation, who: As::Scope(scope), path: &place };
        let runners: Vec<Runner> = self.list(listing, filter).await?;
        self.books.note_visible(&place, self.clock.now());
        Ok(runners.into_iter().map(RegisteredRunner::from).collect())
    }

    /// All repositories of an organization, which an installation and a token list by different calls.
    async fn repositories_of(
        &self,
        operation: Operation,
        scope: &Scope,
        organization: &str,
    ) -> Result<Vec<Repository>, GitHubError> {
        let who = As::Scope(scope);
        let entries: Vec<RepositoryEntry> = if self.transport.app().is_some() {
            self.list(Listing { operation, who, path: "/installation/repositories" }, "").await?
        } else {
            let path = format!("/orgs/{organization}/repos");
            let mut entries = Vec::new();
            self.pages(Listing { operation, who, path: &path }, "", |answer| {
                entries.extend(operation.read_json::<Vec<RepositoryEntry>>(answer)?);
                Ok(ControlFlow::Continue(()))
            })
            .await?;
            entries
        };
        let open = entries.into_iter().filter(|entry| !entry.archived && !entry.disabled);
        let repositories = open.map(Repository::try_from).collect::<Result<Vec<_>, _>>();
        let all = repositories.map_err(|why| {
            operation.error(GitHubErrorKind::Unexpected, "GitHub named no repository").because(why)
        })?;
        Ok(all.into_iter().filter(|repository| scope.covers(repository, None)).collect())
    }
}

#[async_trait]
impl GitHub for RestGitHub {
    async fn create_jit_config(&self, request: &JitRequest) -> Result<JitConfig, GitHubError> {
        let operation = Operation { name: "create_jit_config", effect: Effect::Register };
        let labels = request.labels.iter().map(Label::as_str).collect();
        let body = JitBody { name: request.name.as_str(), runner_group_id: request.group, labels };
        let path = format!("{}/generate-jitconfig", runners_path(&request.scope));
        let answer = self.call(operation, As::Scope(&request.scope), operation.post(&path, &body)?).await?;
        let JitAnswer { runner, encoded_jit_config } = operation.read_json(&answer)?;
        Ok(JitConfig { id: runner.id, encoded: encoded_jit_config })
    }

    async fn runners(&self, scope: &Scope) -> Result<Vec<RegisteredRunner>, GitHubError> {
        self.list_runners(Operation::read("runners"), scope, "").await
    }

    async fn runner(
        &self,
        scope: &Scope,
        id: GitHubRunnerId,
    ) -> Result<Option<RegisteredRunner>, GitHubError> {
        let place = runners_path(scope);
        let path = format!("{place}/{id}");
        let runner: Option<Runner> = self.get_one(Operation::read("runner"), scope, &path, &place).await?;
        Ok(runner.map(RegisteredRunner::from))
    }

    async fn find_runner(
        &self,
        scope: &Scope,
        name: &RunnerName,
    ) -> Result<Option<RegisteredRunner>, GitHubError> {
        // A server that does not know the filter lists all, and none promises to look for the whole name.
        let listed =
            self.list_runners(Operation::read("find_runner"), scope, &format!("name={name}")).await?;
        Ok(listed.into_iter().find(|runner| runner.name.eq_ignore_ascii_case(name.as_str())))
    }

    async fn remove_runner(&self, scope: &Scope, id: GitHubRunnerId) -> Result<(), GitHubError> {
        let operation = Operation { name: "remove_runner", effect: Effect::Remove };
        let place = runners_path(scope);
        let request = operation.request(Method::DELETE, &format!("{place}/{id}"), Bytes::new())?;
        match self.call(operation, As::Scope(scope), request).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == GitHubErrorKind::NotFound => {
                self.expect_visible(operation, scope, &place).await
            }
            Err(error) => Err(error),
        }
    }

    async fn runner_groups(&self, scope: &Scope) -> Result<Vec<RegisteredGroup>, GitHubError> {
        self.list_groups(scope).await
    }

    async fn create_runner_group(
        &self,
        scope: &Scope,
        name: &str,
        rules: &GroupRules,
    ) -> Result<RegisteredGroup, GitHubError> {
        self.make_group(scope, name, rules).await
    }

    async fn update_runner_group(
        &self,
        scope: &Scope,
        id: GitHubGroupId,
        name: &str,
        rules: &GroupRules,
    ) -> Result<RegisteredGroup, GitHubError> {
        self.change_group(scope, id, name, rules).await
    }

    async fn group_members(&self, scope: &Scope, id: GitHubGroupId) -> Result<GroupAccess, GitHubError> {
        self.list_members(scope, id).await
    }

    async fn set_group_members(
        &self,
        scope: &Scope,
        id: GitHubGroupId,
        members: &GroupAccess,
    ) -> Result<(), GitHubError> {
        self.put_members(scope, id, members).await
    }

    async fn open_runs(&self, repository: &Repository, which: OpenRuns) -> Result<Vec<OpenRun>, GitHubError> {
        let operation = Operation::read("open_runs");
        let scope = Scope::Repository(repository.clone());
        let path = format!("{}/actions/runs", scope_path(&scope));
        let listing = Listing { operation, who: As::Scope(&scope), path: &path };
        let words: &[&str] = match which {
            OpenRuns::All => &OPEN_RUNS,
            OpenRuns::Moving => &MOVING_RUNS,
        };
        let mut runs = BTreeMap::new();
        for status in words {
            runs.extend(self.runs(listing, status).await?);
        }
        Ok(runs.into_values().map(OpenRun::from).collect())
    }

    async fn latest_jobs(
        &self,
        repository: &Repository,
        run: RunId,
    ) -> Result<Vec<JobObservation>, GitHubError> {
        let scope = Scope::Repository(repository.clone());
        let path = format!("{}/actions/runs/{run}/jobs", scope_path(&scope));
        let listing =
            Listing { operation: Operation::read("latest_jobs"), who: As::Scope(&scope), path: &path };
        let jobs: Vec<Job> = self.list(listing, "filter=latest").await?;
        let told = jobs.into_iter().filter_map(|job| {
            observe(job, repository).inspect_err(|why| debug!(%repository, %run, %why, "no job for us")).ok()
        });
        Ok(told.collect())
    }

    async fn repositories(&self, scope: &Scope) -> Result<Vec<Repository>, GitHubError> {
        let operation = Operation::read("repositories");
        match scope {
            Scope::Repository(repository) => Ok(vec![repository.clone()]),
            Scope::Organization(name) => self.repositories_of(operation, scope, name).await,
            Scope::Enterprise(_) => Err(operation.error(
                GitHubErrorKind::Invalid,
                "GitHub has no call that lists an enterprise's repositories",
            )),
        }
    }

    async fn job(&self, repository: &Repository, id: JobId) -> Result<Option<JobObservation>, GitHubError> {
        let operation = Operation::read("job");
        let scope = Scope::Repository(repository.clone());
        let base = format!("{}/actions", scope_path(&scope));
        let (path, place) = (format!("{base}/jobs/{id}"), format!("{base}/runs"));
        let job: Option<Job> = self.get_one(operation, &scope, &path, &place).await?;
        job.map(|job| observe(job, repository)).transpose().map_err(|why| {
            operation.error(GitHubErrorKind::Unexpected, "the job cannot be told in our words").because(why)
        })
    }

    async fn rerun_job(&self, repository: &Repository, id: JobId) -> Result<(), GitHubError> {
        let operation = Operation { name: "rerun_job", effect: Effect::Write };
        let scope = Scope::Repository(repository.clone());
        let path = format!("{}/actions/jobs/{id}/rerun", scope_path(&scope));
        let request = operation.request(Method::POST, &path, Bytes::new())?;
        self.call(operation, As::Scope(&scope), request).await.map(drop)
    }

    async fn hooks(&self, scope: &Scope) -> Result<Vec<RegisteredHook>, GitHubError> {
        self.list_hooks(scope).await
    }

    async fn app_hook(&self) -> Result<RegisteredHook, GitHubError> {
        self.hook_of_the_app().await
    }

    async fn create_hook(&self, scope: &Scope, spec: &HookSpec) -> Result<RegisteredHook, GitHubError> {
        self.make_hook(scope, spec).await
    }

    async fn update_hook(&self, hook: &Hook, spec: &HookSpec) -> Result<(), GitHubError> {
        self.change_hook(hook, spec).await
    }

    async fn delete_hook(&self, hook: &Hook) -> Result<(), GitHubError> {
        self.take_hook_away(hook).await
    }

    async fn deliveries(
        &self,
        hook: &Hook,
        since: Timestamp,
        most: usize,
    ) -> Result<Vec<WebhookDelivery>, GitHubError> {
        self.list_deliveries(hook, since, most).await
    }

    async fn redeliver(&self, hook: &Hook, id: u64) -> Result<(), GitHubError> {
        self.deliver_again(hook, id).await
    }

    async fn check(&self, scope: &Scope, intent: Intent) -> Result<Vec<String>, GitHubError> {
        self.what_is_missing(scope, intent).await
    }

    fn account(&self, scope: &Scope) -> String {
        self.transport.account(As::Scope(scope))
    }

    fn budget(&self, scope: &Scope) -> Option<Budget> {
        self.books.budget(&self.transport.account(As::Scope(scope)), self.clock.now())
    }
}

fn scope_path(scope: &Scope) -> String {
    match scope {
        Scope::Organization(name) => format!("/orgs/{name}"),
        Scope::Repository(repository) => format!("/repos/{repository}"),
        Scope::Enterprise(slug) => format!("/enterprises/{slug}"),
    }
}

fn runners_path(scope: &Scope) -> String {
    format!("{}/actions/runners", scope_path(scope))
}

fn observe(job: Job, repository: &Repository) -> Result<JobObservation, JobError> {
    let status = job.status.clone();
    job.observe(&status, repository.clone(), None)
}
