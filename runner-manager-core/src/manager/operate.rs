//! What people see and do: the configuration, the lists with their reasons, drain, resume, retire.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Manager;
use super::advance::MOST_CONFLICTS;
use crate::domain::{
    BackendName, EndedRunner, GroupName, JobId, Phase, Runner, RunnerGroup, RunnerName, WorkflowJob,
};
use crate::policy::lifecycle::{Event, is_overdue};
use crate::policy::placement::{Choice, choose};
use crate::policy::waiting::{WaitReason, reason};
use crate::queue::{DeadTask, NewTask, QueueStatistics, Task};
use crate::store::{
    Change, Draining, Expected, GroupCounts, GroupRecord, GroupView, JobFilter, Page, RunnerFilter,
    StoreError, Versioned, Write, all_runners,
};

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Runners live on a backend that is not configured.
    #[error(
        "{runners} runners live on backend {backend}, which is configured no more: keep it until they are gone \
         (take away its groups first)"
    )]
    BackendInUse {
        /// The backend.
        backend: BackendName,
        /// How many runners live on it.
        runners: usize,
    },
}

/// A group as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// The record.
    pub record: GroupRecord,
    /// How many of each there are.
    pub counts: GroupCounts,
    /// Until when it can make no runners, where all its placements are set back.
    pub blocked_until: Option<jiff::Timestamp>,
}

/// A job as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// The record.
    pub job: WorkflowJob,
    /// Why it waits, where it does.
    pub reason: Option<WaitReason>,
}

impl Manager {
    /// Makes the store's groups those that are configured: new ones are added, changed ones written, and
    /// those that are configured no more make no new runners and go once they are empty. At start and on
    /// reload only.
    ///
    /// # Errors
    /// [`ConfigureError`] when the store cannot take it, or when runners live on a backend that is configured
    /// no more: nobody could take them away. Nothing was changed then.
    pub async fn configure(&self, groups: Vec<RunnerGroup>) -> Result<(), ConfigureError> {
        self.all_backends_are_there().await?;
        let mut known: BTreeMap<GroupName, GroupView> = BTreeMap::new();
        for view in self.store().groups().await? {
            known.insert(view.record.value.spec.name.clone(), view);
        }
        for spec in groups {
            let before = known.remove(&spec.name);
            self.put_spec(spec, before).await?;
        }
        for (name, view) in known {
            if view.record.value.draining != Some(Draining::Removed) {
                tracing::info!(group = %name, "configured no more: it drains");
            }
            self.set_draining(&name, |_| Some(Draining::Removed)).await?;
        }
        self.inner.catalogue.forget();
        Ok(self.queue().push(vec![NewTask::now(Task::SyncConfiguration)]).await?)
    }

    async fn all_backends_are_there(&self) -> Result<(), ConfigureError> {
        let mut stranded: BTreeMap<BackendName, usize> = BTreeMap::new();
        for runner in all_runners(self.store(), &RunnerFilter::All).await? {
            if self.backend(&runner.value.backend).is_none() {
                *stranded.entry(runner.value.backend).or_default() += 1;
            }
        }
        match stranded.into_iter().next() {
            Some((backend, runners)) => Err(ConfigureError::BackendInUse { backend, runners }),
            None => Ok(()),
        }
    }

    async fn put_spec(&self, spec: RunnerGroup, before: Option<GroupView>) -> Result<(), StoreError> {
        let name = spec.name.clone();
        let mut view = before;
        for _ in 0..MOST_CONFLICTS {
            let record = next_record(spec.clone(), view.as_ref().map(|view| &view.record.value));
            let expected =
                view.as_ref().map_or(Expected::Absent, |view| Expected::Version(view.record.version));
            match self.write_group(record, expected).await {
                Err(StoreError::Conflict { .. }) => view = self.store().group(&name).await?,
                outcome => return outcome,
            }
        }
        Err(StoreError::Conflict { record: format!("group {name}") })
    }

    async fn write_group(&self, record: GroupRecord, expected: Expected) -> Result<(), StoreError> {
        let group = record.spec.name.clone();
        let tasks = vec![
            NewTask::now(Task::Reconcile { group }),
            NewTask::now(Task::SweepScope { scope: record.spec.scope.clone() }),
        ];
        let changes = vec![Change::PutGroup { record, expected }];
        self.apply(Write { operation: self.operation(), claim: None, on_trust: false, changes, tasks })
            .await
            .map(|_| ())
    }

    /// Has a group make no new runners: its waiting jobs go to other groups, its idle runners go, its busy
    /// ones finish. Tells whether there is such a group.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot take it.
    pub async fn drain(&self, group: &GroupName) -> Result<bool, StoreError> {
        self.set_draining(group, |before| before.or(Some(Draining::Operator))).await
    }

    /// Ends a drain that an operator asked for. Tells whether there is such a group.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot take it.
    pub async fn resume(&self, group: &GroupName) -> Result<bool, StoreError> {
        let resumed =
            self.set_draining(group, |before| before.filter(|why| *why == Draining::Removed)).await?;
        self.queue().push(vec![NewTask::now(Task::SyncConfiguration)]).await?;
        Ok(resumed)
    }

    async fn set_draining(
        &self,
        group: &GroupName,
        next: impl Fn(Option<Draining>) -> Option<Draining>,
    ) -> Result<bool, StoreError> {
        for _ in 0..MOST_CONFLICTS {
            let Some(view) = self.store().group(group).await? else { return Ok(false) };
            let mut record = view.record.value;
            record.draining = next(record.draining);
            match self.write_group(record, Expected::Version(view.record.version)).await {
                Ok(()) => {
                    self.inner.catalogue.forget();
                    return Ok(true);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict { record: format!("group {group}") })
    }

    /// Has a runner go: an idle one in order, a busy one only with `force`, which kills its job. One that its
    /// backend is being asked for is left until it exists. Tells whether there is such a runner.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot take it.
    pub async fn retire(&self, runner: &RunnerName, force: bool) -> Result<bool, StoreError> {
        let Some(record) = self.store().runner(runner).await? else { return Ok(false) };
        if !force && record.value.phase() == Phase::Booting {
            // It may be online, or busy, since it was last looked at.
            if let Ok((reading, None)) = self.registration_reading(&record.value.scope, &record.value).await {
                self.feed(None, runner, &reading).await?;
            }
        }
        self.feed(None, runner, &Event::OperatorRetire { force }).await?;
        Ok(true)
    }

    /// Whether the store works now, so that webhooks can be taken in.
    ///
    /// # Errors
    /// When it does not: why.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.store().ready().await
    }

    /// All groups, by name.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn groups(&self) -> Result<Vec<GroupStatus>, StoreError> {
        let now = self.now().await?;
        let views = self.store().groups().await?;
        Ok(views
            .into_iter()
            .map(|view| {
                let blocked_until = match choose(&view.record.value, now) {
                    Choice::Use(_) | Choice::Probe(_) => None,
                    Choice::Blocked { until } => Some(until),
                };
                GroupStatus { record: view.record.value, counts: view.counts, blocked_until }
            })
            .collect())
    }

    /// A page of runners.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn runners(
        &self,
        filter: &RunnerFilter,
        page: &Page<RunnerName>,
    ) -> Result<Vec<Versioned<Runner>>, StoreError> {
        self.store().runners(filter, page).await
    }

    /// Whether a runner's retirement takes longer than its group's `retire_timeout`.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn is_overdue(&self, runner: &Runner) -> Result<bool, StoreError> {
        Ok(is_overdue(runner, &self.limits_of(runner).await?, self.now().await?))
    }

    /// A page of jobs, each with why it waits.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn jobs(&self, filter: &JobFilter, page: &Page<JobId>) -> Result<Vec<JobStatus>, StoreError> {
        let (now, groups) = (self.now().await?, self.store().groups().await?);
        let jobs = self.store().jobs(filter, page).await?;
        Ok(jobs
            .into_iter()
            .map(|job| JobStatus { reason: reason(&job.value, &groups, now), job: job.value })
            .collect())
    }

    /// One job, with why it waits; `None` where it is not on record.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn job(&self, id: JobId) -> Result<Option<JobStatus>, StoreError> {
        let Some(job) = self.store().job(id).await? else { return Ok(None) };
        let (now, groups) = (self.now().await?, self.store().groups().await?);
        Ok(Some(JobStatus { reason: reason(&job.value, &groups, now), job: job.value }))
    }

    /// The runners that ended last, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn ended_runners(&self, limit: usize) -> Result<Vec<EndedRunner>, StoreError> {
        self.store().ended_runners(limit).await
    }

    /// How the queue fares.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn queue_statistics(&self) -> Result<QueueStatistics, StoreError> {
        self.queue().statistics().await
    }

    /// The tasks that were given up, the last first.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn dead_tasks(&self, limit: usize) -> Result<Vec<DeadTask>, StoreError> {
        self.queue().dead(limit).await
    }
}

/// A group's record under a new specification: what is known of placements that it still has is kept, and a
/// drain that an operator asked for goes on.
fn next_record(spec: RunnerGroup, before: Option<&GroupRecord>) -> GroupRecord {
    let keeps = |key: &crate::domain::PlacementKey| spec.placement(key).is_some();
    let placements = before.map_or_else(BTreeMap::new, |before| {
        let kept = before.placements.iter().filter(|(key, _)| keeps(key));
        kept.map(|(key, health)| (key.clone(), health.clone())).collect()
    });
    let same_registration = |before: &&GroupRecord| {
        before.spec.scope == spec.scope && before.spec.github_group == spec.github_group
    };
    let registration = before.filter(same_registration).and_then(|before| before.registration.clone());
    let draining = before.and_then(|before| before.draining).filter(|why| *why == Draining::Operator);
    GroupRecord { spec, draining, placements, registration }
}
