//! The agent's side: what the actions runner on an instance does, without one.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    FaultKind, Job, JobId, JobStatus, Removal, RunId, RunnerId, SessionId, Simulator, Violation,
    jobs::{Conclusion, JobRunner},
    lifecycle::Bucket,
    timers::Timer,
    world::ScopeId,
};

/// Why an agent was not let in.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ConnectRefusal {
    /// It is not a JIT config.
    #[error("this is not a JIT config")]
    Malformed,
    /// It was not made here.
    #[error("the JIT config was not made by this GitHub")]
    Unknown,
    /// Another agent has connected with it before.
    #[error("the JIT config was already used")]
    AlreadyUsed,
    /// Its registration has been removed.
    #[error("the registration has been deleted")]
    Deleted,
}

/// The session is over: its job ended, or its registration was removed under it. The agent is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session has ended, or never was")]
pub struct SessionEnded;

/// A job as its agent gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentJob {
    /// The job.
    pub id: JobId,
    /// Its run.
    pub run: RunId,
    /// The run's attempt.
    pub attempt: u64,
    /// `owner/name`.
    pub repository: String,
    /// The job's name.
    pub name: String,
    /// Its workflow's name.
    pub workflow_name: String,
    /// For how long it is to be run.
    pub seconds: u64,
}

#[derive(Debug)]
struct Session {
    runner: RunnerId,
    seen_at: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: BTreeMap<SessionId, Session>,
    last_id: u64,
}

impl Sessions {
    pub(super) fn remove(&mut self, id: SessionId) {
        self.by_id.remove(&id);
    }
}

impl Simulator {
    /// An agent connects with what `generate-jitconfig` gave; its runner is online then.
    ///
    /// # Errors
    ///
    /// The reason, which is also counted in [`Books::refusals`](super::Books::refusals).
    pub fn connect(&mut self, jit_config: &str, now: Timestamp) -> Result<SessionId, ConnectRefusal> {
        let now = self.advance(now);
        self.open_session(jit_config, now).inspect_err(|refusal| {
            *self.books.refusals.entry(*refusal).or_default() += 1;
        })
    }

    /// The agent asks for a job, and gets the oldest that its runner may take: in scope, with no label that
    /// the runner lacks, allowed by the runner's group. It gets its own again while it has one.
    ///
    /// # Errors
    ///
    /// If the session has ended.
    pub fn poll(&mut self, session: SessionId, now: Timestamp) -> Result<Option<AgentJob>, SessionEnded> {
        let now = self.advance(now);
        let runner = self.seen(session, now)?;
        let job = self.runners.job_of(runner).or_else(|| {
            let job = self.oldest_job_for(runner)?;
            self.begin(runner, job, now);
            Some(job)
        });
        Ok(job.map(|job| agent_job(&self.jobs.by_id[&job])))
    }

    /// What decides which jobs the runner of a session may take, as one text: agents with the same text may take
    /// the same jobs. None if the session has ended.
    pub fn may_take(&self, session: SessionId) -> Option<String> {
        let registration = self.runners.get(self.session_runner(session)?)?;
        let (scope, group) = (registration.scope, registration.runner.group_id);
        Some(format!("{scope:?} {group} {:?}", registration.label_set))
    }

    /// The agent shows that it is there, and learns whether its job is to be cancelled.
    ///
    /// # Errors
    ///
    /// If the session has ended.
    pub fn heartbeat(&mut self, session: SessionId, now: Timestamp) -> Result<bool, SessionEnded> {
        let now = self.advance(now);
        let runner = self.seen(session, now)?;
        let job = self.runners.job_of(runner);
        Ok(job.is_some_and(|job| self.jobs.by_id[&job].cancel_requested))
    }

    /// The agent ends its job. The registration goes with it, and the session.
    ///
    /// # Errors
    ///
    /// If the session has ended, or has no job.
    pub fn finish(
        &mut self,
        session: SessionId,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<(), SessionEnded> {
        let now = self.advance(now);
        let runner = self.seen(session, now)?;
        let job = self.runners.job_of(runner).ok_or(SessionEnded)?;
        self.complete_job(job, conclusion, false, Removal::Finished, now);
        Ok(())
    }

    /// The agent is stopped in order. Without a job its runner is offline then, and its JIT config used up;
    /// a job is cancelled, and counts as lost.
    ///
    /// # Errors
    ///
    /// If the session has ended.
    pub fn disconnect(&mut self, session: SessionId, now: Timestamp) -> Result<(), SessionEnded> {
        let now = self.advance(now);
        let runner = self.close(session)?;
        if let Some(job) = self.runners.job_of(runner) {
            self.complete_job(job, Conclusion::Cancelled, true, Removal::Finished, now);
        }
        Ok(())
    }

    /// The agent's machine is lost. The runner is offline; with a job it stays busy for
    /// [`lost_runner`](super::Timings::lost_runner), and the job fails then.
    ///
    /// # Errors
    ///
    /// If the session has ended.
    pub fn die(&mut self, session: SessionId, now: Timestamp) -> Result<(), SessionEnded> {
        let now = self.advance(now);
        let runner = self.close(session)?;
        if let Some(job) = self.runners.job_of(runner) {
            self.set_timer(now + self.settings.timings.lost_runner, Timer::RunnerLost(runner, job));
        }
        Ok(())
    }

    pub(super) fn check_silence(&mut self, session: SessionId, at: Timestamp) {
        let Some(limit) = self.settings.timings.heartbeat else { return };
        let Some(seen_at) = self.sessions.by_id.get(&session).map(|session| session.seen_at) else { return };
        if seen_at + limit <= at {
            self.die(session, at).expect("the session was just looked up");
        } else {
            self.set_timer(seen_at + limit, Timer::Silence(session));
        }
    }

    pub(super) fn name_system(&mut self, session: SessionId, os: &str) {
        let runner = self.sessions.by_id.get(&session).map(|session| session.runner);
        if let Some(runner) = runner.and_then(|runner| self.runners.get_mut(runner)) {
            os.clone_into(&mut runner.runner.os);
        }
    }

    pub(super) fn session_runner(&self, session: SessionId) -> Option<RunnerId> {
        self.sessions.by_id.get(&session).map(|session| session.runner)
    }

    fn open_session(&mut self, jit_config: &str, now: Timestamp) -> Result<SessionId, ConnectRefusal> {
        let secret = secret_of(jit_config).ok_or(ConnectRefusal::Malformed)?;
        let runner = self.runners.find_secret(&secret).ok_or(ConnectRefusal::Unknown)?;
        let registration = self.runners.get_mut(runner).ok_or(ConnectRefusal::Deleted)?;
        if registration.used {
            return Err(ConnectRefusal::AlreadyUsed);
        }
        self.sessions.last_id += 1;
        let id = SessionId(self.sessions.last_id);
        registration.used = true;
        registration.runner.session = Some(id);
        "linux".clone_into(&mut registration.runner.os);
        self.sessions.by_id.insert(id, Session { runner, seen_at: now });
        if let Some(limit) = self.settings.timings.heartbeat {
            self.set_timer(now + limit, Timer::Silence(id));
        }
        Ok(id)
    }

    fn seen(&mut self, session: SessionId, now: Timestamp) -> Result<RunnerId, SessionEnded> {
        let session = self.sessions.by_id.get_mut(&session).ok_or(SessionEnded)?;
        session.seen_at = now;
        Ok(session.runner)
    }

    fn close(&mut self, session: SessionId) -> Result<RunnerId, SessionEnded> {
        let runner = self.sessions.by_id.remove(&session).ok_or(SessionEnded)?.runner;
        self.runners.get_mut(runner).expect("a session has a runner").runner.session = None;
        Ok(runner)
    }

    fn oldest_job_for(&self, runner: RunnerId) -> Option<JobId> {
        let registration = self.runners.get(runner)?;
        let scope = registration.scope;
        let group = self.groups.get(scope, registration.runner.group_id)?;
        let oldest_of = |owner: u64, repository: Option<u64>| {
            let (first, last) = (repository.unwrap_or(0), repository.unwrap_or(u64::MAX));
            let from = Bucket { owner, repository: first, workflow: String::new(), labels: Vec::new() };
            self.jobs
                .queue
                .range(from..)
                .take_while(move |(bucket, _)| bucket.owner == owner && bucket.repository <= last)
                .filter(|(bucket, _)| {
                    bucket.labels.iter().all(|label| registration.label_set.contains(label))
                })
                .filter(|(bucket, _)| group.allows(&self.world, scope, bucket.repository, &bucket.workflow))
                .filter_map(|(_, jobs)| jobs.first().copied())
                .min()
        };
        match scope {
            ScopeId::Repository(id) => oldest_of(self.world.repository(id).owner, Some(id)),
            ScopeId::Organization(id) => oldest_of(id, None),
            ScopeId::Enterprise(id) => {
                let organizations = &self.world.enterprise(id).organizations;
                organizations.iter().filter_map(|owner| oldest_of(*owner, None)).min()
            }
        }
    }

    fn begin(&mut self, id: RunnerId, job: JobId, now: Timestamp) {
        let lies = self.settings.faults.lying_busy.iter();
        let lie = lies.filter(|lie| self.chance.chance(lie.probability)).copied().max_by_key(|lie| lie.lasts);
        if lie.is_some() {
            self.books.count_fault(FaultKind::LyingBusy);
        }
        let registration = self.runners.get_mut(id).expect("a session has a runner");
        registration.runner.job = Some(job);
        registration.lie = lie.map(|lie| (now + lie.lasts, lie.spares));
        let (name, group_id) = (registration.runner.name.clone(), registration.runner.group_id);
        let group_name = self.groups.name(registration.scope, group_id);
        let found = self.jobs.by_id.get_mut(&job).expect("the queue holds what is there");
        found.runner = Some(JobRunner { id, name, group_id, group_name });
        let runs = self.books.runs_by_job.entry(job).or_default();
        *runs += 1;
        if *runs > 1 {
            self.books.violations.push(Violation::JobRunTwice { job, runner: id, at: now });
        }
        self.set_status(job, JobStatus::InProgress, None, now);
    }
}

fn agent_job(job: &Job) -> AgentJob {
    AgentJob {
        id: job.id,
        run: job.run,
        attempt: job.attempt,
        repository: job.repository.clone(),
        name: job.name.clone(),
        workflow_name: job.workflow_name.clone(),
        seconds: job.seconds,
    }
}

/// What the simulator knows a registration by, out of the encoded JIT config.
fn secret_of(jit_config: &str) -> Option<String> {
    let decode = |text: &str| -> Option<Value> {
        serde_json::from_slice(&BASE64_STANDARD.decode(text.trim()).ok()?).ok()
    };
    let credentials = decode(decode(jit_config)?.get(".credentials")?.as_str()?)?;
    Some(credentials.get("Data")?.get("ClientId")?.as_str()?.to_owned())
}
