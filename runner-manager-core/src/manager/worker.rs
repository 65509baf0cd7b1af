//! Claims tasks, holds their leases while they are worked on, and stops in order.
//!
//! Every lane has workers of its own, as many as may be under way at a time. A worker waits in the queue's
//! `claim`, which returns as soon as there is something to do: nothing is polled.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use jiff::Timestamp;

use super::Manager;
use crate::clock::timeout;
use crate::domain::later;
use crate::flaws::{Flaw, is_on};
use crate::policy::lifecycle::Event;
use crate::queue::{Claim, Lane, NewTask, Task};
use crate::retry::{Backoff, Retry};
use crate::store::StoreError;

/// The pauses of a task that failed.
const TASK_BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), ceiling: Duration::from_mins(1) };

/// The pause of a lane whose storage does not answer.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// How long a task waits that rests on the word of a store that is not trusted. It is brought forward as soon
/// as trust is said.
const UNTRUSTED_PAUSE: Duration = Duration::from_secs(15);

/// How long one claim waits for a task before it asks anew.
const CLAIM_WAIT: Duration = Duration::from_secs(30);

/// How long a stop waits for a claim that is being answered.
const LAST_CLAIM: Duration = Duration::from_millis(100);

/// How many tasks one claim takes at most.
const CLAIM_BATCH: usize = 16;

/// How many listings are under way at a time.
const SWEEP_CONCURRENCY: usize = 4;

/// How a task went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// There is nothing more to do for it.
    Done,
    /// It was ended with the last thing that was written for it.
    Ended,
    /// The same task is to come again at a time.
    AgainAt(Timestamp),
}

/// Why a task did not go.
#[derive(Debug, thiserror::Error)]
pub(super) enum TaskError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something outside failed; another try is to be made when it says.
    #[error("{reason}")]
    Outside {
        /// What failed.
        reason: String,
        /// When it is worth another try.
        retry: Retry,
    },
    /// Nothing failed, but what is to be asked is not to be asked now.
    #[error("{reason}")]
    NotNow {
        /// What has to wait.
        reason: String,
        /// For how long.
        pause: Duration,
    },
}

impl TaskError {
    pub(super) fn outside(reason: impl std::fmt::Display, retry: Retry) -> Self {
        Self::Outside { reason: reason.to_string(), retry }
    }
}

impl Manager {
    /// Works until `stop` is cancelled: then claims nothing more, waits up to
    /// [`stop_within`](super::Settings::stop_within) for what is under way, puts back what is not done by
    /// then, and returns.
    pub async fn run(&self, stop: CancellationToken) {
        self.first_look(&stop).await;
        self.begin_sweeps(&stop).await;
        let mut keeper = JoinSet::new();
        keeper.spawn(self.clone().keep(stop.clone()));
        let abandon = CancellationToken::new();
        let mut lanes = JoinSet::new();
        for (lane, concurrency, bound) in self.lanes() {
            lanes.spawn(self.clone().serve_lane(lane, concurrency, bound, stop.clone(), abandon.clone()));
        }
        stop.cancelled().await;
        tracing::info!("stopping: no more tasks are claimed");
        let within = self.parts().settings.stop_within;
        let clock = self.parts().clock.clone();
        if timeout(&*clock, within, async { while lanes.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!(?within, "tasks are still under way: they are put back");
            abandon.cancel();
            while lanes.join_next().await.is_some() {}
        }
        while keeper.join_next().await.is_some() {}
        self.leave_the_deployment().await;
        tracing::info!("stopped");
    }

    /// The lanes: how many tasks of each are worked on at a time here, and how many by all replicas together.
    fn lanes(&self) -> Vec<(Lane, usize, usize)> {
        let own = self.parts().backends.iter().map(|(name, connected)| {
            let concurrency = connected.concurrency.max(1);
            (Lane::backend(name), concurrency, concurrency)
        });
        [
            (Lane::control(), self.parts().settings.control_concurrency.max(1), usize::MAX),
            (Lane::sweeps(), SWEEP_CONCURRENCY, usize::MAX),
        ]
        .into_iter()
        .chain(own)
        .collect()
    }

    /// Queues the first run of every periodic task; each run queues the next one.
    async fn begin_sweeps(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match self.push_sweeps().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, "the sweeps could not be queued");
                    self.parts().clock.sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    async fn push_sweeps(&self) -> Result<(), StoreError> {
        self.queue().push(self.periodic_tasks().await?).await
    }

    /// The tasks that are always there: each run queues the next one.
    pub(super) async fn periodic_tasks(&self) -> Result<Vec<NewTask>, StoreError> {
        let scopes = self.scopes().await?;
        let sweeps = scopes.iter().cloned().map(|scope| Task::SweepScope { scope });
        let jobs = scopes.iter().cloned().map(|scope| Task::RecoverJobs { scope });
        let groups =
            self.scopes_with_groups().await?.into_iter().map(|scope| Task::SyncGitHubGroups { scope });
        let backends =
            self.parts().backends.keys().map(|backend| Task::SweepBackend { backend: backend.clone() });
        let hooks = self.redelivery_tasks().await?;
        Ok(sweeps.chain(jobs).chain(groups).chain(backends).chain(hooks).map(NewTask::now).collect())
    }

    async fn serve_lane(
        self,
        lane: Lane,
        concurrency: usize,
        bound: usize,
        stop: CancellationToken,
        abandon: CancellationToken,
    ) {
        let slots = Arc::new(Semaphore::new(concurrency));
        let mut running = JoinSet::new();
        while !stop.is_cancelled() {
            let Some(free) = free_slots(&slots, &stop).await else { break };
            let most = free.min(CLAIM_BATCH);
            let lease = self.parts().settings.lease;
            let mut claiming = self.queue().claim(&lane, most, bound, lease, CLAIM_WAIT);
            let claims = tokio::select! {
                biased;
                claims = &mut claiming => claims,
                () = stop.cancelled() => {
                    self.let_go(claiming).await;
                    break;
                }
            };
            match claims {
                Ok(claims) => {
                    for claim in claims {
                        let permit = slots.clone().acquire_owned().await;
                        let (manager, abandon) = (self.clone(), abandon.clone());
                        running.spawn(async move {
                            manager.work(claim, &abandon).await;
                            drop(permit);
                        });
                    }
                }
                Err(error) => {
                    tracing::error!(lane = lane.as_str(), %error, "no task could be claimed");
                    self.parts().clock.sleep(STORE_PAUSE).await;
                }
            }
            while running.try_join_next().is_some() {}
        }
        while running.join_next().await.is_some() {}
    }

    /// Ends a claim that may be being answered at this moment: what it got is put back.
    async fn let_go(&self, claiming: impl Future<Output = Result<Vec<Claim>, StoreError>> + Send) {
        let Ok(Ok(claims)) = timeout(&*self.parts().clock, LAST_CLAIM, claiming).await else { return };
        for claim in claims {
            self.report(&claim, "released", self.queue().release(&claim.token).await);
        }
    }

    /// Works on one task under its lease, and says to the queue how it went.
    async fn work(&self, claim: Claim, abandon: &CancellationToken) {
        let kind = claim.task.kind();
        if is_on(Flaw::AckBeforeActing) {
            self.report(&claim, "done", self.queue().ack(&claim.token).await);
        }
        let outcome = tokio::select! {
            biased;
            outcome = std::panic::AssertUnwindSafe(self.perform(&claim)).catch_unwind() => Some(outcome),
            () = self.hold(&claim) => None,
            () = abandon.cancelled() => {
                self.report(&claim, "released", self.queue().release(&claim.token).await);
                return;
            }
        };
        match outcome {
            None => self.count(kind, "lost"),
            Some(Ok(Ok(Work::Ended))) => self.count(kind, "done"),
            Some(Ok(Ok(Work::Done))) => self.report(&claim, "done", self.queue().ack(&claim.token).await),
            Some(Ok(Ok(Work::AgainAt(at)))) => {
                self.report(&claim, "later", self.again(&claim, at).await);
            }
            Some(Ok(Err(error))) => self.failed(&claim, &error).await,
            Some(Err(_)) => {
                let error = TaskError::outside("a bug: the worker panicked", Retry::Backoff);
                self.failed(&claim, &error).await;
            }
        }
    }

    async fn again(&self, claim: &Claim, at: Timestamp) -> Result<(), StoreError> {
        self.queue().push(vec![NewTask::at(claim.task.clone(), at)]).await?;
        self.queue().ack(&claim.token).await
    }

    async fn failed(&self, claim: &Claim, error: &TaskError) {
        // By the store's time: this process' own may be minutes ahead, and what is put back waits that long.
        let Ok(now) = self.now().await else {
            tracing::warn!(task = %claim.task, %error, "task failed, and so does the store: its lease runs out");
            return self.count(claim.task.kind(), "lost");
        };
        self.note_trouble(claim, error).await;
        let pause = match error {
            TaskError::Store(StoreError::LostClaim) => return self.count(claim.task.kind(), "lost"),
            TaskError::Store(StoreError::Corrupt(..)) => {
                tracing::error!(task = %claim.task, %error, "task given up");
                let answer = self.queue().bury(&claim.token, &error.to_string()).await;
                return self.report(claim, "buried", answer);
            }
            TaskError::Store(StoreError::Untrusted) => {
                tracing::info!(task = %claim.task, "task waits until the store is relied on again");
                let at = later(now, UNTRUSTED_PAUSE);
                return self.report(claim, "later", self.again(claim, at).await);
            }
            // Queued anew rather than put back, so that whatever happens meanwhile can bring it forward.
            TaskError::Outside { retry: Retry::After(pause), .. } => {
                tracing::debug!(task = %claim.task, ?pause, %error, "task has to wait");
                let at = later(now, *pause + TASK_BACKOFF.pause(1, self.entropy()));
                return self.report(claim, "failed", self.again(claim, at).await);
            }
            TaskError::NotNow { pause, .. } => {
                tracing::debug!(task = %claim.task, ?pause, %error, "task has to wait");
                let at = later(now, *pause + TASK_BACKOFF.pause(1, self.entropy()));
                return self.report(claim, "later", self.again(claim, at).await);
            }
            TaskError::Outside { .. } | TaskError::Store(_) => {
                TASK_BACKOFF.pause(claim.attempt, self.entropy())
            }
        };
        tracing::warn!(task = %claim.task, attempt = claim.attempt, ?pause, %error, "task failed");
        let answer = self.queue().retry(&claim.token, later(now, pause), &error.to_string()).await;
        self.report(claim, "failed", answer);
    }

    /// Has a runner's record tell what failed for it.
    async fn note_trouble(&self, claim: &Claim, error: &TaskError) {
        let TaskError::Outside { reason, .. } = error else { return };
        let (Task::Provision { runner, .. } | Task::Retire { runner, .. }) = &claim.task else { return };
        let event = Event::Troubled { detail: reason.clone() };
        if let Err(error) = self.feed(Some(&claim.token), runner, &event).await {
            tracing::debug!(runner = runner.as_str(), %error, "what failed for it is not on record");
        }
    }

    /// Extends the lease again and again; returns when it is lost.
    async fn hold(&self, claim: &Claim) {
        let lease = self.parts().settings.lease;
        loop {
            self.parts().clock.sleep(lease / 3).await;
            // Any other failure is met by the next try, well before the lease ends.
            if let Err(StoreError::LostClaim) = self.queue().extend(&claim.token, lease).await {
                tracing::warn!(task = %claim.task, "the lease was lost");
                return;
            }
        }
    }

    fn report(&self, claim: &Claim, outcome: &'static str, answer: Result<(), StoreError>) {
        match answer {
            Ok(()) => self.count(claim.task.kind(), outcome),
            // Its lease runs out, and it is worked on again.
            Err(error) => {
                self.count(claim.task.kind(), "lost");
                tracing::warn!(task = %claim.task, outcome, %error, "the queue did not take the outcome");
            }
        }
    }

    fn count(&self, kind: &'static str, outcome: &'static str) {
        self.inner.statistics.count(|counters| *counters.tasks.entry((kind, outcome)).or_default() += 1);
    }

    async fn perform(&self, claim: &Claim) -> Result<Work, TaskError> {
        let token = &claim.token;
        match &claim.task {
            Task::Reconcile { group } => self.reconcile(token, group).await,
            Task::Provision { runner, .. } => self.provision(token, runner).await,
            Task::Retire { runner, .. } => self.retire_task(token, runner).await,
            Task::Forget { scope, runner } => self.forget(scope, runner).await,
            Task::SweepScope { scope } => self.sweep_scope(token, scope).await,
            Task::SweepBackend { backend } => self.sweep_backend(token, backend).await,
            Task::RecoverJobs { scope } => self.recover_jobs(scope).await,
            Task::RedeliverWebhooks { place } => self.redeliver_webhooks(token, place).await,
            Task::SyncGitHubGroups { scope } => self.sync_github_groups(token, scope).await,
            Task::FollowLostJob { job } => self.follow_lost_job(token, *job).await,
            Task::SyncConfiguration => self.place_unserved(token).await,
        }
    }
}

/// How many more tasks may be worked on: at least one, or none when it is time to stop.
async fn free_slots(slots: &Semaphore, stop: &CancellationToken) -> Option<usize> {
    let permit = tokio::select! {
        biased;
        () = stop.cancelled() => return None,
        permit = slots.acquire() => permit.ok()?,
    };
    drop(permit);
    Some(slots.available_permits().max(1))
}
