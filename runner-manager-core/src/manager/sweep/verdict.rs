//! Whether a sweep may do what it would: asks the policy, and keeps what is left as it is where all replicas and
//! operators see it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::super::Manager;
use super::super::advance::MOST_CONFLICTS;
use crate::domain::{Deployment, Finding, GoOn, Source, WithheldBecause};
use crate::policy::orphans::most_condemned;
use crate::policy::sweeps::{Found, GoOnRefusal, Verdict, judge, noted, went_on};
use crate::queue::{ClaimToken, NewTask, Task};
use crate::store::{Change, Expected, StoreError};

/// How many findings one line of the log names.
const LOGGED: usize = 20;

/// Why a sweep does not go on at an operator's word.
#[derive(Debug, thiserror::Error)]
pub enum GoOnError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not about what the last sweep stopped at.
    #[error(transparent)]
    Refused(#[from] GoOnRefusal),
}

impl Manager {
    /// Whether the sweeps of this replica only say what they would do.
    pub fn sweeps_are_dry(&self) -> bool {
        self.inner.dry_run.load(Ordering::Relaxed)
    }

    /// Has the sweeps of this replica only say what they would do, or do it again; everything is listed at once
    /// where that is another way than before. What was begun goes on either way.
    ///
    /// # Errors
    /// [`StoreError`] when the sweeps cannot be queued: then the next ones go the new way.
    pub async fn set_dry_sweeps(&self, dry_run: bool) -> Result<(), StoreError> {
        if self.inner.dry_run.swap(dry_run, Ordering::Relaxed) == dry_run {
            return Ok(());
        }
        tracing::info!(dry_run, "the sweeps go another way from here on");
        self.queue().push(self.periodic_tasks().await?).await
    }

    /// Has the sweep of something go on that stopped because it would have condemned too much: with exactly the
    /// findings of `mark` (see [`Withheld::mark`](crate::domain::Withheld::mark)), and as long as every sweep finds
    /// them again. `by` is who says so.
    ///
    /// # Errors
    /// [`GoOnError`] when the store cannot take it, or when the last sweep found something else, or nothing that
    /// was too much. Nothing was changed then.
    pub async fn go_on(&self, source: &Source, mark: &str, by: &str) -> Result<GoOn, GoOnError> {
        for _ in 0..MOST_CONFLICTS {
            let now = self.now().await?;
            let Some(view) = self.store().deployment().await?.record else {
                return Err(GoOnRefusal::NotStopped(source.clone()).into());
            };
            let record = went_on(view.value, source, mark, by, now)?;
            let said = record.go_ons[0].clone();
            let change = Change::PutDeployment { record, expected: Expected::Version(view.version) };
            match self.write_down(None, vec![change], vec![NewTask::now(sweep_of(source))]).await {
                Ok(()) => {
                    tracing::warn!(%source, by, count = said.count, "an operator has the sweep go on");
                    return Ok(said);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict { record: "the deployment".to_owned() }.into())
    }

    /// What a sweep may do of what it found. Whatever is left as it is stands in the deployment's record then.
    pub(super) async fn weigh(
        &self,
        claim: &ClaimToken,
        source: &Source,
        findings: BTreeSet<Finding>,
        looked_at: usize,
    ) -> Result<BTreeSet<Finding>, StoreError> {
        let found = Found { source: source.clone(), findings, looked_at, dry_run: self.sweeps_are_dry() };
        for _ in 0..MOST_CONFLICTS {
            let (view, now) = (self.store().deployment().await?, self.now().await?);
            let before = view.record.as_ref().map_or_else(Deployment::new, |record| record.value.clone());
            let verdict = judge(&before, &found);
            let record = noted(before.clone(), &found, &verdict, now);
            if record != before {
                let expected =
                    view.record.map_or(Expected::Absent, |record| Expected::Version(record.version));
                let change = Change::PutDeployment { record, expected };
                match self.write_down(Some(claim), vec![change], Vec::new()).await {
                    Ok(()) => {}
                    Err(StoreError::Conflict { .. }) => continue,
                    Err(error) => return Err(error),
                }
            }
            self.tell(&found, &verdict);
            return Ok(verdict.done);
        }
        Err(StoreError::Conflict { record: "the deployment".to_owned() })
    }

    /// What is listed no more has nothing left to go on with.
    pub(super) async fn nothing_to_weigh(
        &self,
        claim: &ClaimToken,
        source: &Source,
    ) -> Result<(), StoreError> {
        self.weigh(claim, source, BTreeSet::new(), 0).await.map(drop)
    }

    fn tell(&self, found: &Found, verdict: &Verdict) {
        let Some((because, withheld)) = &verdict.withheld else { return };
        let (source, looked_at, condemned) = (&found.source, found.looked_at, withheld.len());
        let some = withheld.iter().take(LOGGED).map(ToString::to_string).collect::<Vec<_>>().join("; ");
        match because {
            WithheldBecause::DryRun => {
                tracing::warn!(%source, condemned, looked_at, would = some, "a dry run: the sweep did nothing");
            }
            WithheldBecause::TooMuch => {
                self.inner
                    .statistics
                    .count(|counters| *counters.sweeps_held.entry(subject(source)).or_default() += 1);
                tracing::error!(
                    %source,
                    condemned,
                    looked_at,
                    most = most_condemned(looked_at),
                    would = some,
                    "the sweep would condemn too much of what it looked at, so it leaves it: see whether the \
                     listing is right; `runner-manager sweep show` says how it goes on"
                );
            }
        }
    }
}

/// What is counted: a name that tells a backend from a scope.
fn subject(source: &Source) -> String {
    match source {
        Source::Instances(backend) => format!("backend {backend}"),
        Source::Runners(scope) => scope.to_string(),
    }
}

fn sweep_of(source: &Source) -> Task {
    match source.clone() {
        Source::Instances(backend) => Task::SweepBackend { backend },
        Source::Runners(scope) => Task::SweepScope { scope },
    }
}
