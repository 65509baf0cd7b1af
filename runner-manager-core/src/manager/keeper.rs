//! Looks after the record that all replicas share: says that this one runs, sees whether the store is trusted,
//! and whether the configuration is still there.
//!
//! One loop a replica. What it finds is written down by compare-and-set, so that it does not matter which
//! replica finds it first.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Manager;
use super::advance::MOST_CONFLICTS;
use crate::clock::timeout;
use crate::domain::{Deployment, Doubt, later};
use crate::policy::configuration::lives;
use crate::store::{Change, DeploymentView, Expected, StoreError};

/// How long a replica that was not seen is remembered.
const REMEMBERED: Duration = Duration::from_mins(10);

/// The pause after a first look that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How long a stop may take to say that this replica is gone.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

impl Manager {
    /// The look that comes before any work: tried until it succeeds, or until it is time to stop.
    pub(super) async fn first_look(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match self.look().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, "the deployment's record could not be looked at");
                    self.parts().clock.sleep(FIRST_PAUSE).await;
                }
            }
        }
    }

    /// Looks again and again until `stop` is cancelled.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let looking = async {
            loop {
                self.parts().clock.sleep(self.parts().settings.heartbeat).await;
                if let Err(error) = self.look().await {
                    tracing::warn!(%error, "the deployment's record could not be looked at");
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = looking => {}
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        self.see_to_the_configuration().await?;
        if self.see_to_the_record().await? {
            self.settle_doubt().await?;
        }
        Ok(())
    }

    /// Writes down that this replica runs, and a doubt where the store was started anew. Tells whether there
    /// is one.
    async fn see_to_the_record(&self) -> Result<bool, StoreError> {
        for _ in 0..MOST_CONFLICTS {
            let view = self.store().deployment().await?;
            let now = self.now().await?;
            let before = view.record.as_ref().map_or_else(Deployment::new, |record| record.value.clone());
            let mut record = before.clone();
            record.replicas.retain(|_, replica| lives(replica, REMEMBERED, now));
            if let Some(own) = self.inner.own.get() {
                let said = record.replicas.get(&self.inner.replica);
                let heartbeat = self.parts().settings.heartbeat;
                let holds = said.is_some_and(|said| {
                    said.configuration == own.digest && now < later(said.seen_at, heartbeat)
                });
                if !holds {
                    let said = self.heartbeat(&own.digest, now);
                    record.replicas.insert(self.inner.replica.clone(), said);
                }
            }
            let known = record.doubt.as_ref().is_some_and(|doubt| doubt.incarnation == view.incarnation);
            let mut tasks = Vec::new();
            if view.trusted {
                record.doubt = None;
            } else if !known {
                tracing::warn!(
                    incarnation = view.incarnation.as_str(),
                    "the store was started anew: nothing is created or removed on its word until all outside \
                     was listed"
                );
                let incarnation = view.incarnation.clone();
                record.doubt = Some(Doubt { incarnation, since: now, taken_in: [].into() });
                // A word about what was found before is not about what is found now.
                record.withheld.clear();
                record.go_ons.iter_mut().for_each(|go_on| go_on.left.clear());
                self.inner.catalogue.forget();
                tasks = self.periodic_tasks().await?;
            }
            if record == before {
                return Ok(!view.trusted);
            }
            match self.write_down(None, vec![put(record, &view)], tasks).await {
                Ok(()) => return Ok(!view.trusted),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict { record: "the deployment".to_owned() })
    }

    /// Says that this replica runs no more, so that nobody waits for it. If that fails it is found out later.
    pub(super) async fn leave_the_deployment(&self) {
        let leaving = timeout(&*self.parts().clock, LEAVE_WITHIN, self.forget_this_replica());
        match leaving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "this replica could not say that it leaves"),
            Err(error) => tracing::debug!(%error, "this replica could not say that it leaves"),
        }
    }

    async fn forget_this_replica(&self) -> Result<(), StoreError> {
        for _ in 0..MOST_CONFLICTS {
            let view = self.store().deployment().await?;
            let Some(mut record) = view.record.as_ref().map(|record| record.value.clone()) else {
                return Ok(());
            };
            if record.replicas.remove(&self.inner.replica).is_none() {
                return Ok(());
            }
            match self.write_down(None, vec![put(record, &view)], Vec::new()).await {
                Err(StoreError::Conflict { .. }) => {}
                outcome => return outcome,
            }
        }
        Ok(())
    }
}

fn put(record: Deployment, view: &DeploymentView) -> Change {
    let expected = view.record.as_ref().map_or(Expected::Absent, |found| Expected::Version(found.version));
    Change::PutDeployment { record, expected }
}
