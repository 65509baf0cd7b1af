//! The store as a replica reaches it.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager_core::domain::{
    EndedRunner, GroupName, HookPlace, HookRecord, JobId, Runner, RunnerName, WorkflowJob,
};
use runner_manager_core::store::{
    Applied, Change, DeploymentView, GroupView, JobFilter, Page, RunnerFilter, Store, StoreError, Versioned,
    Write,
};

use super::{Call, Failure, Process, Side};
use crate::trace::Who;

/// A replica's way to the store.
#[derive(Debug)]
pub(crate) struct FaultyStore(pub(crate) Arc<Process>);

/// What a replica is told of a call to the storage that failed.
pub(super) fn failed(what: &'static str) -> impl Fn(Failure) -> StoreError + Send {
    move |failure| match failure {
        Failure::Refused => StoreError::Unavailable(format!("{what} was not sent"), None),
        Failure::Lost => StoreError::Unclear(format!("the answer to {what} was lost"), None),
    }
}

/// The same of a call that only reads: nothing is unclear about it.
fn unread(what: &'static str) -> impl Fn(Failure) -> StoreError + Send {
    move |_| StoreError::Unavailable(format!("{what} was not answered"), None)
}

const fn call(name: &'static str) -> Call {
    Call { side: Side::Store, name }
}

impl FaultyStore {
    async fn write(&self, write: Write) -> Result<Applied, StoreError> {
        let shared = &self.0.shared;
        let applied = shared.storage.apply(write.clone()).await?;
        let now = shared.now();
        let group = match write.changes.iter().find_map(reserved_in) {
            Some(group) => shared.storage.group(group).await?,
            None => None,
        };
        if !applied.repeated {
            for change in &write.changes {
                if let Some((outcome, detail)) = told(change) {
                    shared.note(Who::Replica(self.0.replica), "write", outcome, || detail);
                }
            }
            let mut cloud = shared.cloud();
            let mut state = shared.state();
            let state = &mut *state;
            state.checker.wrote(&state.ledger, &write, group.as_ref(), cloud.books(now), now);
            state.ledger.pushed(&write.tasks, now);
            if let Some(token) = write.claim.as_ref().filter(|_| write.ends_claim) {
                state.checker.used(&state.ledger, token, "ack", now);
                state.ledger.ended(token, None);
            }
        }
        Ok(applied)
    }
}

fn reserved_in(change: &Change) -> Option<&GroupName> {
    match change {
        Change::ReserveRunner { runner } => Some(&runner.group),
        _ => None,
    }
}

fn told(change: &Change) -> Option<(&'static str, String)> {
    let state = |runner: &Runner| format!("{} {:?}", runner.name, runner.state);
    match change {
        Change::ReserveRunner { runner } => Some(("reserved", runner.name.to_string())),
        Change::AdoptRunner { runner } => Some(("adopted", state(runner))),
        Change::PutRunner { runner, .. } => Some((runner.phase().as_str(), state(runner))),
        Change::EndRunner { ended, .. } => Some(("ended", format!("{}: {}", ended.name, ended.why))),
        Change::PutJob { job, .. } => Some(("job", format!("{} {:?}", job.id, job.state))),
        Change::PutGroup { record, .. } => {
            let draining = record.draining.map(|why| format!(" {why:?}")).unwrap_or_default();
            Some(("group", format!("{} max {}{draining}", record.spec.name, record.spec.bounds.max())))
        }
        Change::RemoveGroup { name, .. } => Some(("group removed", name.to_string())),
        Change::Trust { .. } => Some(("trust", String::new())),
        Change::PutDeployment { .. } | Change::PutHook { .. } | Change::RemoveHook { .. } => None,
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.0.call(call("now"), unread("now"), self.0.shared.storage.now()).await
    }

    async fn deployment(&self) -> Result<DeploymentView, StoreError> {
        let made = self.0.shared.storage.deployment();
        self.0.call(call("deployment"), unread("deployment"), made).await
    }

    async fn apply(&self, write: Write) -> Result<Applied, StoreError> {
        self.0.call(call("apply"), failed("apply"), self.write(write)).await
    }

    async fn group(&self, name: &GroupName) -> Result<Option<GroupView>, StoreError> {
        self.0.call(call("group"), unread("group"), self.0.shared.storage.group(name)).await
    }

    async fn groups(&self) -> Result<Vec<GroupView>, StoreError> {
        self.0.call(call("groups"), unread("groups"), self.0.shared.storage.groups()).await
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Versioned<Runner>>, StoreError> {
        self.0.call(call("runner"), unread("runner"), self.0.shared.storage.runner(name)).await
    }

    async fn runners(
        &self,
        filter: &RunnerFilter,
        page: &Page<RunnerName>,
    ) -> Result<Vec<Versioned<Runner>>, StoreError> {
        let made = self.0.shared.storage.runners(filter, page);
        self.0.call(call("runners"), unread("runners"), made).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Versioned<WorkflowJob>>, StoreError> {
        self.0.call(call("job"), unread("job"), self.0.shared.storage.job(id)).await
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        page: &Page<JobId>,
    ) -> Result<Vec<Versioned<WorkflowJob>>, StoreError> {
        self.0.call(call("jobs"), unread("jobs"), self.0.shared.storage.jobs(filter, page)).await
    }

    async fn hook(&self, place: &HookPlace) -> Result<Option<Versioned<HookRecord>>, StoreError> {
        self.0.call(call("hook"), unread("hook"), self.0.shared.storage.hook(place)).await
    }

    async fn hooks(&self) -> Result<Vec<Versioned<HookRecord>>, StoreError> {
        self.0.call(call("hooks"), unread("hooks"), self.0.shared.storage.hooks()).await
    }

    async fn ended_runners(&self, limit: usize) -> Result<Vec<EndedRunner>, StoreError> {
        let made = self.0.shared.storage.ended_runners(limit);
        self.0.call(call("ended_runners"), unread("ended_runners"), made).await
    }
}
