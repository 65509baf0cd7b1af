//! What people see and do: the lists with their reasons, drain, resume, retire.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use super::Manager;
use super::advance::{Fed, MOST_CONFLICTS};
use crate::domain::{
    BackendName, Digest, EndedRunner, GoOn, GroupName, HookRecord, JobRef, Phase, Replica, ReplicaId, Runner,
    RunnerName, RunnerState, Withheld,
};
use crate::policy::configuration::lives;
use crate::policy::doubt::Progress;
use crate::policy::lifecycle::{Event, is_overdue};
use crate::policy::placement::{Choice, choose};
use crate::queue::{DeadTask, NewTask, QueueStatistics, Task};
use crate::store::{
    Change, Draining, Expected, GroupCounts, GroupRecord, Page, RunnerFilter, StoreError, Versioned, Write,
};

/// A group as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// The record.
    pub record: GroupRecord,
    /// How many of each there are.
    pub counts: GroupCounts,
    /// Until when it can make no runners, where all its placements are set back.
    pub blocked_until: Option<Timestamp>,
}

/// The deployment as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentStatus {
    /// The replica that answers.
    pub replica: ReplicaId,
    /// Which groups are configured; none before anything was.
    pub configuration: Option<Digest>,
    /// How often a configuration was applied.
    pub revision: u64,
    /// Whether the replica that answers has another configuration than the deployment.
    pub config_drift: bool,
    /// Whether the store's word is relied on.
    pub trusted: bool,
    /// How far the listings have come, where it is not.
    pub doubt: Option<Progress>,
    /// The replicas that were heard of, by their names.
    pub replicas: Vec<ReplicaStatus>,
    /// GitHub's hooks that may lead here, by the keys of their places.
    pub hooks: Vec<HookRecord>,
    /// Whether the sweeps of the replica that answers only say what they would do.
    pub sweep_dry_run: bool,
    /// What the last sweeps found and left as it is.
    pub withheld: Vec<Withheld>,
    /// The words of operators by which sweeps went on, the last first.
    pub go_ons: Vec<GoOn>,
}

/// A replica as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its name: another one with every start.
    pub id: ReplicaId,
    /// Which groups its own file configures.
    pub configuration: Digest,
    /// Whether these are not the deployment's.
    pub config_drift: bool,
    /// When it last said that it runs.
    pub seen_at: Timestamp,
    /// Whether that is so lately that it is taken to run.
    pub lives: bool,
    /// The backends that it can reach.
    pub backends: BTreeSet<BackendName>,
}

/// What became of an operator's wish that a runner goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retirement {
    /// There is no such runner.
    Unknown,
    /// It runs a job, which only force ends: nothing was done.
    Busy {
        /// The job, where it is known.
        job: Option<JobRef>,
    },
    /// Its backend is being asked for its instance: it is left until that exists.
    BeingCreated,
    /// It has no job as far as is known: it goes once GitHub has said so twice, unless it gets one before.
    Leaving,
    /// It is being taken away.
    Retiring,
    /// Nothing of it was made yet, or is left.
    Gone,
}

impl Retirement {
    fn of(state: RunnerState) -> Self {
        match state {
            RunnerState::Busy { job } => Self::Busy { job },
            RunnerState::Requested | RunnerState::Creating { .. } => Self::BeingCreated,
            RunnerState::Booting | RunnerState::Idle { .. } => Self::Leaving,
            RunnerState::Retiring { .. } => Self::Retiring,
        }
    }
}

impl Manager {
    /// What the replicas agree on, and whether the store is trusted.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn deployment(&self) -> Result<DeploymentStatus, StoreError> {
        let (view, now) = (self.store().deployment().await?, self.now().await?);
        let doubt = if view.trusted { None } else { self.doubt_progress().await? };
        let record = view.record.map(|record| record.value).unwrap_or_default();
        let drifts = |digest: &Digest| record.configuration.as_ref().is_some_and(|ours| ours != digest);
        let status = |(id, replica): (&ReplicaId, &Replica)| ReplicaStatus {
            id: id.clone(),
            config_drift: drifts(&replica.configuration),
            configuration: replica.configuration.clone(),
            seen_at: replica.seen_at,
            lives: lives(replica, self.patience(), now),
            backends: replica.backends.clone(),
        };
        Ok(DeploymentStatus {
            hooks: self.hooks().await?,
            replica: self.inner.replica.clone(),
            config_drift: self.own_digest().is_some_and(|digest| drifts(&digest)),
            trusted: view.trusted,
            doubt,
            replicas: record.replicas.iter().map(status).collect(),
            revision: record.revision,
            configuration: record.configuration,
            sweep_dry_run: self.sweeps_are_dry(),
            withheld: record.withheld,
            go_ons: record.go_ons,
        })
    }

    async fn write_group(&self, record: GroupRecord, expected: Expected) -> Result<(), StoreError> {
        let group = record.spec.name.clone();
        let scope = record.spec.scope.clone();
        let mut tasks = vec![
            NewTask::now(Task::Reconcile { group }),
            NewTask::now(Task::SweepScope { scope: scope.clone() }),
        ];
        if expected == Expected::Absent {
            tasks.extend(self.redelivery_task(&scope));
            tasks.push(NewTask::now(Task::RecoverJobs { scope }));
        }
        let changes = vec![Change::PutGroup { record, expected }];
        self.apply(Write {
            operation: self.operation(),
            claim: None,
            ends_claim: false,
            on_trust: false,
            changes,
            tasks,
        })
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

    /// Has a runner go: an idle one in order, a busy one only with `force`, which kills its job. Tells what
    /// became of it.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot take it.
    pub async fn retire(&self, runner: &RunnerName, force: bool) -> Result<Retirement, StoreError> {
        let Some(record) = self.store().runner(runner).await? else { return Ok(Retirement::Unknown) };
        if !force && record.value.phase() == Phase::Booting {
            // It may be online, or busy, since it was last looked at.
            if let Ok((reading, None)) = self.registration_reading(&record.value.scope, &record.value).await {
                self.feed(None, runner, &reading).await?;
            }
        }
        Ok(match self.feed(None, runner, &Event::OperatorRetire { force }).await? {
            Fed::Gone => Retirement::Gone,
            Fed::Alive(runner) => Retirement::of(runner.value.state),
        })
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

    /// The runners that ended last, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn ended_runners(&self, limit: usize) -> Result<Vec<EndedRunner>, StoreError> {
        self.store().ended_runners(limit).await
    }

    /// What is known of GitHub's hooks that may lead here, by the keys of their places.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn hooks(&self) -> Result<Vec<HookRecord>, StoreError> {
        Ok(self.store().hooks().await?.into_iter().map(|hook| hook.value).collect())
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
