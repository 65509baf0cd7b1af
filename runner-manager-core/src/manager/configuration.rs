//! Which groups are configured: what a replica offers, what becomes of it, and what others see of that.
//!
//! The groups in the store are those of one configuration, known by its fingerprint; which one that is stands in
//! the deployment's record. [`policy::configuration`](crate::policy::configuration) says whose holds. Groups and
//! record are changed in one write; where there are more groups than one write takes, every write names the
//! record's version, so that two replicas that start at the same moment cannot mix theirs, and what a crash
//! left half done is finished by the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use super::advance::MOST_CONFLICTS;
use crate::domain::{
    BackendName, Deployment, Digest, GroupName, Incarnation, PlacementKey, Replica, RunnerGroup, Scope, later,
};
use crate::policy::configuration::{Offer, Verdict, applied, judge, lives};
use crate::queue::{NewTask, Task};
use crate::store::{
    Change, DeploymentView, Draining, Expected, GroupRecord, GroupView, RunnerFilter, StoreError, Write,
    all_runners,
};

/// How many groups one write changes at most.
const BATCH: usize = 50;

/// How many heartbeats a replica may miss before it is taken to run no more, and one of slack.
const MISSED_HEARTBEATS: u32 = 4;

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Runners live on a backend that neither this process nor another replica that runs can reach.
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

/// What became of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configured {
    /// It is the deployment's from now on.
    Applied,
    /// It was the deployment's already: nothing was written.
    Current,
    /// Another one has replaced it, and other replicas live that have that one: this replica works by the
    /// store's groups, and shows that its own differ.
    Drift,
}

/// What this process would configure, and what became of that.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// Held while a configuration is offered: one at a time.
    gate: tokio::sync::Mutex<()>,
    offered: Mutex<Option<Offered>>,
}

/// A configuration that this process offered.
#[derive(Debug, Clone)]
pub(super) struct Offered {
    groups: Arc<[RunnerGroup]>,
    pub(super) digest: Digest,
    /// The store's life in which it was offered.
    incarnation: Incarnation,
    /// Whether another configuration is the deployment's.
    drift: bool,
    /// Until when those who have the other one may turn out not to run any more: so long is the start.
    undecided_until: Timestamp,
    /// Since when the store has none at all.
    missing_since: Option<Timestamp>,
}

impl Own {
    pub(super) fn get(&self) -> Option<Offered> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, offered: Offered) {
        *self.offered.lock().unwrap_or_else(PoisonError::into_inner) = Some(offered);
    }
}

impl Manager {
    /// Makes the store's groups those that are configured: new ones are added, changed ones written, and
    /// those that are configured no more make no new runners and go once they are empty. To be called at
    /// start.
    ///
    /// Where it is the deployment's configuration already, nothing is written. Where another replica has
    /// replaced it and others live that have that one, it is not applied: see [`Configured::Drift`].
    ///
    /// # Errors
    /// [`ConfigureError`] when the store cannot take it, or when runners live on a backend that nobody
    /// reaches any more: nobody could take them away. Nothing was changed then.
    pub async fn configure(&self, groups: Vec<RunnerGroup>) -> Result<Configured, ConfigureError> {
        self.take_configuration(groups, Offer::Start).await
    }

    /// As [`configure`](Self::configure), for a file that was changed and that somebody wants to be read anew:
    /// it is applied whatever other replicas have.
    ///
    /// # Errors
    /// As [`configure`](Self::configure).
    pub async fn reconfigure(&self, groups: Vec<RunnerGroup>) -> Result<Configured, ConfigureError> {
        self.take_configuration(groups, Offer::Reload).await
    }

    async fn take_configuration(
        &self,
        groups: Vec<RunnerGroup>,
        offer: Offer,
    ) -> Result<Configured, ConfigureError> {
        let _alone = self.inner.own.gate.lock().await;
        self.all_backends_are_there().await?;
        let digest = Deployment::fingerprint(&groups);
        let (outcome, incarnation) = self.offer(&groups, &digest, offer).await?;
        // One look more than it takes for who died just before to be known for dead.
        let undecided = self.patience() + 2 * self.parts().settings.heartbeat;
        let undecided_until = later(self.now().await?, undecided);
        let drift = self.inner.own.get().is_some_and(|own| own.drift);
        self.inner.own.set(Offered {
            groups: groups.into(),
            digest,
            incarnation,
            drift,
            undecided_until,
            missing_since: None,
        });
        self.note_drift(outcome == Configured::Drift);
        Ok(outcome)
    }

    /// How long a replica that says nothing is taken to run.
    pub(super) fn patience(&self) -> Duration {
        self.parts().settings.heartbeat * MISSED_HEARTBEATS
    }

    /// Offers the configuration again where the store lost it, or where it is not decided yet whether those
    /// who have another one still run.
    pub(super) async fn see_to_the_configuration(&self) -> Result<(), StoreError> {
        let _alone = self.inner.own.gate.lock().await;
        let Some(mut own) = self.inner.own.get() else { return Ok(()) };
        let (view, now) = (self.store().deployment().await?, self.now().await?);
        let present = view.record.as_ref().and_then(|record| record.value.configuration.as_ref());
        let missing_since = own.missing_since.unwrap_or(now);
        own.missing_since = present.is_none().then_some(missing_since);
        let again = match present {
            // Those whose configuration held before are first to bring it back.
            None => !own.drift || now >= later(missing_since, self.patience()),
            Some(_) if own.drift => now < own.undecided_until,
            Some(_) => own.incarnation != view.incarnation,
        };
        let mut drift = present.is_some_and(|present| *present != own.digest);
        own.incarnation = view.incarnation;
        if again {
            let (outcome, incarnation) = self.offer(&own.groups, &own.digest, Offer::Start).await?;
            drift = outcome == Configured::Drift;
            own.incarnation = incarnation;
        }
        self.inner.own.set(own);
        self.note_drift(drift);
        Ok(())
    }

    /// The fingerprint of this process' own configuration.
    pub(super) fn own_digest(&self) -> Option<Digest> {
        self.inner.own.get().map(|own| own.digest)
    }

    fn note_drift(&self, drift: bool) {
        let Some(mut own) = self.inner.own.get() else { return };
        let digest = own.digest.as_str();
        match (own.drift, drift) {
            (false, true) => tracing::warn!(
                digest,
                "configuration drift: the groups of this replica's file are not the deployment's; it works by \
                 the deployment's"
            ),
            (true, false) => tracing::info!(digest, "the configuration drift has ended"),
            (false, false) | (true, true) => return,
        }
        own.drift = drift;
        self.inner.own.set(own);
    }

    /// Offers a configuration to the deployment, and writes what follows. Tells in which life of the store.
    async fn offer(
        &self,
        groups: &[RunnerGroup],
        digest: &Digest,
        offer: Offer,
    ) -> Result<(Configured, Incarnation), StoreError> {
        let (mut conflicts, mut begun) = (0, false);
        loop {
            let view = self.store().deployment().await?;
            let now = self.now().await?;
            let before = view.record.as_ref().map_or_else(Deployment::new, |record| record.value.clone());
            let verdict = judge(&before, &self.inner.replica, digest, offer, self.patience(), now);
            // Somebody else's came in between: two do not fight.
            if verdict == Verdict::Drift || begun && verdict != Verdict::Current {
                return Ok((Configured::Drift, view.incarnation));
            }
            let mut changes = self.differences(groups).await?;
            let (finished, taken) = (changes.len() <= BATCH, changes.len().min(BATCH));
            if verdict == Verdict::Current && changes.is_empty() {
                let outcome = if begun { Configured::Applied } else { Configured::Current };
                return Ok((outcome, view.incarnation));
            }
            let mut record = applied(&before, digest);
            record.replicas.insert(self.inner.replica.clone(), self.heartbeat(digest, now));
            changes.truncate(taken);
            match self.write_groups(changes, record, &view).await {
                Ok(()) if finished => {
                    self.inner.catalogue.forget();
                    return Ok((Configured::Applied, view.incarnation));
                }
                Ok(()) => begun = true,
                Err(StoreError::Conflict { .. }) if conflicts < MOST_CONFLICTS => conflicts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// What has to be written for the store's groups to be these.
    async fn differences(&self, groups: &[RunnerGroup]) -> Result<Vec<(GroupRecord, Expected)>, StoreError> {
        let mut known: BTreeMap<GroupName, GroupView> = BTreeMap::new();
        for view in self.store().groups().await? {
            known.insert(view.record.value.spec.name.clone(), view);
        }
        let mut changes = Vec::new();
        for spec in groups {
            let before = known.remove(&spec.name).map(|view| view.record);
            let record = next_record(spec.clone(), before.as_ref().map(|before| &before.value));
            match before {
                Some(before) if before.value == record => {}
                Some(before) => changes.push((record, Expected::Version(before.version))),
                None => changes.push((record, Expected::Absent)),
            }
        }
        for (name, view) in known {
            let mut record = view.record.value;
            if record.draining != Some(Draining::Removed) {
                tracing::info!(group = %name, "configured no more: it drains");
                record.draining = Some(Draining::Removed);
                changes.push((record, Expected::Version(view.record.version)));
            }
        }
        Ok(changes)
    }

    async fn write_groups(
        &self,
        groups: Vec<(GroupRecord, Expected)>,
        record: Deployment,
        view: &DeploymentView,
    ) -> Result<(), StoreError> {
        let mut tasks = vec![NewTask::now(Task::SyncConfiguration)];
        for (group, _) in &groups {
            let (name, scope) = (group.spec.name.clone(), group.spec.scope.clone());
            tasks.push(NewTask::now(Task::Reconcile { group: name }));
            tasks.push(NewTask::now(Task::SweepScope { scope: scope.clone() }));
            tasks.push(NewTask::now(Task::RecoverJobs { scope: scope.clone() }));
            tasks.extend(self.redelivery_task(&scope));
            if !matches!(scope, Scope::Repository(_)) {
                tasks.push(NewTask::now(Task::SyncGitHubGroups { scope }));
            }
        }
        let expected =
            view.record.as_ref().map_or(Expected::Absent, |record| Expected::Version(record.version));
        let mut changes = vec![Change::PutDeployment { record, expected }];
        changes.extend(groups.into_iter().map(|(record, expected)| Change::PutGroup { record, expected }));
        let write = Write {
            operation: self.operation(),
            claim: None,
            ends_claim: false,
            on_trust: false,
            changes,
            tasks,
        };
        self.apply(write).await.map(drop)
    }

    /// What this replica says of itself.
    pub(super) fn heartbeat(&self, digest: &Digest, now: Timestamp) -> Replica {
        let backends = self.parts().backends.keys().cloned().collect();
        Replica { configuration: digest.clone(), seen_at: now, backends }
    }

    /// The backends that the other replicas that run can reach.
    pub(super) async fn reached_by_others(&self) -> Result<BTreeSet<BackendName>, StoreError> {
        let Some(record) = self.store().deployment().await?.record else { return Ok(BTreeSet::new()) };
        let now = self.now().await?;
        let others = record
            .value
            .replicas
            .into_iter()
            .filter(|(id, other)| *id != self.inner.replica && lives(other, self.patience(), now));
        Ok(others.flat_map(|(_, other)| other.backends).collect())
    }

    /// Refuses to start where runners live on a backend that no replica that runs can reach.
    async fn all_backends_are_there(&self) -> Result<(), ConfigureError> {
        let mut stranded: BTreeMap<BackendName, usize> = BTreeMap::new();
        for runner in all_runners(self.store(), &RunnerFilter::All).await? {
            if self.backend(&runner.value.backend).is_none() {
                *stranded.entry(runner.value.backend).or_default() += 1;
            }
        }
        if stranded.is_empty() {
            return Ok(());
        }
        let reached = self.reached_by_others().await?;
        match stranded.into_iter().find(|(backend, _)| !reached.contains(backend)) {
            Some((backend, runners)) => Err(ConfigureError::BackendInUse { backend, runners }),
            None => Ok(()),
        }
    }
}

/// A group's record under a new specification: what is known of placements that it still has is kept, and a
/// drain that an operator asked for goes on.
fn next_record(spec: RunnerGroup, before: Option<&GroupRecord>) -> GroupRecord {
    let keeps = |key: &PlacementKey| spec.placement(key).is_some();
    let placements = before.map_or_else(BTreeMap::new, |before| {
        let kept = before.placements.iter().filter(|(key, _)| keeps(key));
        kept.map(|(key, health)| (key.clone(), health.clone())).collect()
    });
    let same_registration = |before: &&GroupRecord| {
        before.spec.scope == spec.scope && before.spec.github_group == spec.github_group
    };
    let registration = before.filter(same_registration).and_then(|before| before.registration.clone());
    let draining = before.and_then(|before| before.draining).filter(|why| *why == Draining::Operator);
    let same_group = |before: &&GroupRecord| {
        let (now, then) = (&spec.github_group, &before.spec.github_group);
        before.spec.scope == spec.scope && now.is_called(&then.name)
    };
    let github = before.filter(same_group).and_then(|before| before.github.clone());
    GroupRecord { spec, draining, placements, registration, github }
}
