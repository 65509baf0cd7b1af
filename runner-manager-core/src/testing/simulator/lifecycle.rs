//! Jobs and their runs from queued to completed. Each change of a job's state happens in
//! [`Simulator::set_status`], which keeps the books, the queue, the run and the webhooks together.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    Conclusion, Job, JobId, JobSpec, JobStatus, NotPossible, Removal, RunId, Simulator, jobs::workflow_path,
    runs::Run, timers::Timer, webhooks::Event,
};

/// Queued jobs that any one runner can equally take or not take.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket {
    pub(super) owner: u64,
    pub(super) repository: u64,
    pub(super) workflow: String,
    pub(super) labels: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    pub(super) by_id: BTreeMap<JobId, Job>,
    pub(super) runs: BTreeMap<RunId, Run>,
    /// Runs of a repository, and those of them under each status and conclusion.
    pub(super) runs_by_word: BTreeMap<(u64, &'static str), BTreeSet<RunId>>,
    /// Never holds an empty set.
    pub(super) queue: BTreeMap<Bucket, BTreeSet<JobId>>,
}

const FIRST_JOB: u64 = 40_000_000_001;
const FIRST_RUN: u64 = 10_000_000_001;

impl Simulator {
    /// Queues a job (or lets it wait, see [`JobSpec::waiting`]).
    ///
    /// # Errors
    ///
    /// If the run does not exist or is of another repository, if the repository is not `owner/name`, or not
    /// there with [`create_on_demand`](super::Settings::create_on_demand) off.
    pub fn queue_job(&mut self, spec: &JobSpec, now: Timestamp) -> Result<JobId, NotPossible> {
        let now = self.advance(now);
        let (owner, name) = spec.repository.split_once('/').ok_or(NotPossible::Unknown)?;
        let repository = self.resolve_repository(owner, name).ok_or(NotPossible::Unknown)?;
        let run = match spec.run {
            Some(run) => {
                let found = self.jobs.runs.get(&run).filter(|found| found.repository == repository);
                found.ok_or(NotPossible::Unknown)?.id
            }
            None => self.add_run(repository, &spec.workflow_name, now),
        };
        let job = self.job_of(spec, run, repository, now);
        let first = if spec.waiting { JobStatus::Waiting } else { JobStatus::Queued };
        Ok(self.add_job(job, first, now))
    }

    /// Queues as many of the kind, each in a run of its own unless the spec names one.
    ///
    /// # Errors
    ///
    /// As [`queue_job`](Self::queue_job); none is queued then.
    pub fn queue_jobs(
        &mut self,
        spec: &JobSpec,
        count: usize,
        now: Timestamp,
    ) -> Result<Vec<JobId>, NotPossible> {
        (0..count).map(|_| self.queue_job(spec, now)).collect()
    }

    /// Approves a waiting job, which is queued then.
    ///
    /// # Errors
    ///
    /// If it does not wait.
    pub fn release_job(&mut self, job: JobId, now: Timestamp) -> Result<(), NotPossible> {
        let now = self.advance(now);
        self.expect_status(job, &[JobStatus::Waiting])?;
        self.set_status(job, JobStatus::Queued, None, now);
        Ok(())
    }

    /// Ends a waiting or queued job as skipped: `completed` without any runner.
    ///
    /// # Errors
    ///
    /// If it has begun or ended.
    pub fn skip_job(&mut self, job: JobId, now: Timestamp) -> Result<(), NotPossible> {
        let now = self.advance(now);
        self.expect_status(job, &[JobStatus::Waiting, JobStatus::Queued])?;
        self.set_status(job, JobStatus::Completed, Some(Conclusion::Skipped), now);
        Ok(())
    }

    /// Cancels a run: jobs without a runner end at once, running ones when their agent ends them, or after
    /// [`cancel_grace`](super::Timings::cancel_grace).
    ///
    /// # Errors
    ///
    /// If the run is completed.
    pub fn cancel_run(&mut self, run: RunId, now: Timestamp) -> Result<(), NotPossible> {
        let now = self.advance(now);
        let jobs = self.open_jobs(run)?;
        for job in jobs {
            if self.jobs.by_id[&job].status == JobStatus::InProgress {
                self.jobs.by_id.get_mut(&job).expect("looked up above").cancel_requested = true;
                self.set_timer(now + self.settings.timings.cancel_grace, Timer::CancelOverdue(job));
            } else {
                self.set_status(job, JobStatus::Completed, Some(Conclusion::Cancelled), now);
            }
        }
        Ok(())
    }

    /// Cancels a run without waiting for the agents.
    ///
    /// # Errors
    ///
    /// If the run is completed.
    pub fn force_cancel_run(&mut self, run: RunId, now: Timestamp) -> Result<(), NotPossible> {
        let now = self.advance(now);
        for job in self.open_jobs(run)? {
            self.force_cancel_job(job, now);
        }
        Ok(())
    }

    /// Runs one completed job again, as a new job in the run's next attempt.
    ///
    /// # Errors
    ///
    /// If its run is not completed, or the job is not of its latest attempt.
    pub fn rerun_job(&mut self, job: JobId, now: Timestamp) -> Result<JobId, NotPossible> {
        let now = self.advance(now);
        let run = self.jobs.by_id.get(&job).ok_or(NotPossible::Unknown)?.run;
        self.rerun(run, &|candidate| candidate.id == job, now)?.pop().ok_or(NotPossible::WrongState)
    }

    /// Runs what failed or was cancelled again.
    ///
    /// # Errors
    ///
    /// If the run is not completed.
    pub fn rerun_failed_jobs(&mut self, run: RunId, now: Timestamp) -> Result<Vec<JobId>, NotPossible> {
        let now = self.advance(now);
        let failed = [Some(Conclusion::Failure), Some(Conclusion::Cancelled)];
        self.rerun(run, &|job| failed.contains(&job.conclusion), now)
    }

    /// Runs all jobs of a run again.
    ///
    /// # Errors
    ///
    /// If the run is not completed.
    pub fn rerun_run(&mut self, run: RunId, now: Timestamp) -> Result<Vec<JobId>, NotPossible> {
        let now = self.advance(now);
        self.rerun(run, &|_| true, now)
    }

    /// A job as GitHub truly has it.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.by_id.get(&id)
    }

    /// All jobs that ever were, oldest first.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.by_id.values()
    }

    fn rerun(
        &mut self,
        run: RunId,
        chosen: &dyn Fn(&Job) -> bool,
        now: Timestamp,
    ) -> Result<Vec<JobId>, NotPossible> {
        let found = self.jobs.runs.get(&run).ok_or(NotPossible::Unknown)?;
        if found.status() != JobStatus::Completed {
            return Err(NotPossible::WrongState);
        }
        let jobs: Vec<Job> =
            found.latest.iter().map(|id| &self.jobs.by_id[id]).filter(|job| chosen(job)).cloned().collect();
        if jobs.is_empty() {
            return Err(NotPossible::WrongState);
        }
        self.jobs.runs.get_mut(&run).expect("looked up above").begin_attempt(&jobs, now);
        Ok(jobs.into_iter().map(|job| self.add_again(job, now)).collect())
    }

    fn add_again(&mut self, old: Job, now: Timestamp) -> JobId {
        let attempt = self.jobs.runs[&old.run].attempt;
        let job = Job {
            attempt,
            conclusion: None,
            runner: None,
            created_at: now,
            started_at: None,
            completed_at: None,
            lost: false,
            cancel_requested: false,
            ..old
        };
        self.add_job(job, JobStatus::Queued, now)
    }

    fn job_of(&self, spec: &JobSpec, run: RunId, repository_id: u64, now: Timestamp) -> Job {
        Job {
            id: JobId(0),
            run,
            attempt: self.jobs.runs[&run].attempt,
            repository: self.world.repository(repository_id).full_name.clone(),
            name: spec.name.clone(),
            workflow_name: spec.workflow_name.clone(),
            labels: spec.labels.clone(),
            seconds: spec.seconds,
            status: JobStatus::Waiting,
            conclusion: None,
            runner: None,
            created_at: now,
            started_at: None,
            completed_at: None,
            lost: false,
            cancel_requested: false,
            repository_id,
        }
    }

    fn add_run(&mut self, repository: u64, workflow: &str, now: Timestamp) -> RunId {
        let id = RunId(self.settings.numbers_from + FIRST_RUN + self.jobs.runs.len() as u64);
        let number = self.jobs.runs_by_word.get(&(repository, "")).map_or(0, BTreeSet::len) as u64 + 1;
        self.jobs.runs.insert(id, Run::new(id, repository, number, workflow, now));
        self.jobs.runs_by_word.entry((repository, "")).or_default().insert(id);
        id
    }

    fn add_job(&mut self, mut job: Job, status: JobStatus, now: Timestamp) -> JobId {
        let id = JobId(self.settings.numbers_from + FIRST_JOB + self.jobs.by_id.len() as u64);
        job.id = id;
        job.status = status;
        self.jobs.runs.get_mut(&job.run).expect("the caller made or found it").add(&job);
        self.jobs.by_id.insert(id, job);
        self.books.jobs.total += 1;
        self.entered(id, now);
        id
    }

    fn expect_status(&self, job: JobId, wanted: &[JobStatus]) -> Result<(), NotPossible> {
        let status = self.jobs.by_id.get(&job).ok_or(NotPossible::Unknown)?.status;
        if wanted.contains(&status) { Ok(()) } else { Err(NotPossible::WrongState) }
    }

    fn open_jobs(&self, run: RunId) -> Result<Vec<JobId>, NotPossible> {
        let run = self.jobs.runs.get(&run).ok_or(NotPossible::Unknown)?;
        let is_open = |id: &&JobId| self.jobs.by_id[*id].status != JobStatus::Completed;
        let open: Vec<JobId> = run.latest.iter().filter(is_open).copied().collect();
        if open.is_empty() { Err(NotPossible::WrongState) } else { Ok(open) }
    }

    pub(super) fn cancel_if_queued(&mut self, job: JobId, at: Timestamp) {
        if self.jobs.by_id[&job].status == JobStatus::Queued {
            self.set_status(job, JobStatus::Completed, Some(Conclusion::Cancelled), at);
        }
    }

    pub(super) fn force_cancel_job(&mut self, job: JobId, at: Timestamp) {
        match self.jobs.by_id[&job].status {
            JobStatus::InProgress => {
                self.complete_job(job, Conclusion::Cancelled, true, Removal::Finished, at);
            }
            JobStatus::Waiting | JobStatus::Queued => {
                self.set_status(job, JobStatus::Completed, Some(Conclusion::Cancelled), at);
            }
            JobStatus::Completed => {}
        }
    }

    /// Ends a job that runs, and its ephemeral registration with it.
    pub(super) fn complete_job(
        &mut self,
        job: JobId,
        conclusion: Conclusion,
        lost: bool,
        why: Removal,
        at: Timestamp,
    ) {
        let found = self.jobs.by_id.get_mut(&job).expect("the runner holds a job that is there");
        found.lost = lost;
        let conclusion = if found.cancel_requested { Conclusion::Cancelled } else { conclusion };
        let runner = found.runner.as_ref().map(|runner| runner.id);
        self.books.jobs.lost += u64::from(lost);
        self.set_status(job, JobStatus::Completed, Some(conclusion), at);
        if let Some(runner) = runner {
            self.remove_runner(runner, why);
        }
    }

    /// The one place where a job changes.
    pub(super) fn set_status(
        &mut self,
        id: JobId,
        status: JobStatus,
        conclusion: Option<Conclusion>,
        at: Timestamp,
    ) {
        self.left(id);
        let job = self.jobs.by_id.get_mut(&id).expect("the caller looked it up");
        job.status = status;
        job.conclusion = conclusion;
        match status {
            JobStatus::InProgress => job.started_at = Some(at),
            JobStatus::Completed => job.completed_at = Some(at),
            JobStatus::Waiting | JobStatus::Queued => {}
        }
        let run = self.jobs.runs.get_mut(&job.run).expect("each job has a run");
        run.add_tally(job);
        self.entered(id, at);
    }

    /// Takes a job out of what goes by its status.
    fn left(&mut self, id: JobId) {
        let job = &self.jobs.by_id[&id];
        let status = job.status;
        self.jobs.runs.get_mut(&job.run).expect("each job has a run").remove_tally(job);
        *self.gauge(status) -= 1;
        if status == JobStatus::Queued {
            let bucket = self.bucket(id);
            if let Some(queued) = self.jobs.queue.get_mut(&bucket) {
                queued.remove(&id);
                if queued.is_empty() {
                    self.jobs.queue.remove(&bucket);
                }
            }
        }
    }

    /// Puts a job into what goes by its status, and tells the hooks.
    fn entered(&mut self, id: JobId, at: Timestamp) {
        let job = &self.jobs.by_id[&id];
        let (run, status, conclusion) = (job.run, job.status, job.conclusion);
        *self.gauge(status) += 1;
        match status {
            JobStatus::Queued => {
                let bucket = self.bucket(id);
                self.jobs.queue.entry(bucket).or_default().insert(id);
                self.set_timer(at + self.settings.timings.queued_job, Timer::JobQueuedTooLong(id));
            }
            JobStatus::Completed => match conclusion {
                Some(Conclusion::Success) => self.books.jobs.succeeded += 1,
                Some(Conclusion::Failure) => self.books.jobs.failed += 1,
                Some(Conclusion::Cancelled | Conclusion::Skipped) | None => self.books.jobs.cancelled += 1,
            },
            JobStatus::Waiting | JobStatus::InProgress => {}
        }
        self.reindex_run(run, at);
        self.emit(&Event::Job(Box::new(self.jobs.by_id[&id].clone())), at);
    }

    fn gauge(&mut self, status: JobStatus) -> &mut u64 {
        let jobs = &mut self.books.jobs;
        match status {
            JobStatus::Waiting => &mut jobs.waiting,
            JobStatus::Queued => &mut jobs.queued,
            JobStatus::InProgress => &mut jobs.in_progress,
            JobStatus::Completed => &mut jobs.completed,
        }
    }

    fn bucket(&self, id: JobId) -> Bucket {
        let job = &self.jobs.by_id[&id];
        let mut labels: Vec<String> = job.labels.iter().map(|label| label.to_lowercase()).collect();
        labels.sort();
        labels.dedup();
        let repository = job.repository_id;
        let owner = self.world.repository(repository).owner;
        let workflow = format!("{}/{}@refs/heads/main", job.repository, workflow_path(&job.workflow_name));
        Bucket { owner, repository, workflow, labels }
    }
}
