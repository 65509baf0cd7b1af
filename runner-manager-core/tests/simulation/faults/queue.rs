//! The queue and the budgets as a replica reaches them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager_core::budget::{Bound, BudgetKey, Budgets, Permission, Permit};
use runner_manager_core::queue::{Claim, ClaimToken, DeadTask, Lane, NewTask, QueueStatistics, TaskQueue};
use runner_manager_core::store::StoreError;

use super::store::failed;
use super::{Call, Process, Side};
use crate::shared::Promise;
use crate::throttle::WAITS;
use crate::trace::Who;

/// A replica's way to the queue.
#[derive(Debug)]
pub(crate) struct FaultyQueue(pub(crate) Arc<Process>);

/// One who waits in a claim: while they do, nothing that is due may be kept from them.
struct Waiting<'p>(&'p Process, Lane);

impl<'p> Waiting<'p> {
    fn new(process: &'p Process, lane: &Lane, bound: usize) -> Self {
        process.shared.state().checker.waits(lane, bound, true);
        Self(process, lane.clone())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.shared.state().checker.waits(&self.1, 0, false);
    }
}

impl FaultyQueue {
    const fn call(name: &'static str) -> Call {
        Call { side: Side::Queue, name }
    }

    fn note(&self, what: &'static str, outcome: &'static str, detail: impl FnOnce() -> String) {
        self.0.shared.note(Who::Replica(self.0.replica), what, outcome, detail);
    }

    /// Notes what ended a hold.
    fn ended(&self, what: &'static str, token: &ClaimToken, back: Option<(Timestamp, bool)>) {
        let now = self.0.shared.now();
        self.note(what, "ok", || token.key.clone());
        let mut state = self.0.shared.state();
        let state = &mut *state;
        state.checker.used(&state.ledger, token, what, now);
        state.ledger.ended(token, back);
    }
}

#[async_trait]
impl TaskQueue for FaultyQueue {
    async fn push(&self, tasks: Vec<NewTask>) -> Result<(), StoreError> {
        let made = async {
            self.0.shared.storage.push(tasks.clone()).await?;
            let now = self.0.shared.now();
            self.note("push", "ok", || keys(&tasks));
            self.0.shared.state().ledger.pushed(&tasks, now);
            Ok(())
        };
        self.0.call(Self::call("push"), failed("push"), made).await
    }

    async fn claim(
        &self,
        lane: &Lane,
        most: usize,
        bound: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        let made = async {
            let waiting = Waiting::new(&self.0, lane, bound);
            let claims = self.0.shared.storage.claim(lane, most, bound, lease, wait).await?;
            drop(waiting);
            for claim in &claims {
                self.note("claim", "ok", || format!("{} (attempt {})", claim.task, claim.attempt));
            }
            let now = self.0.shared.now();
            let mut state = self.0.shared.state();
            state.ledger.end_leases(now);
            state.ledger.claimed(self.0.replica, &claims);
            Ok(claims)
        };
        self.0.call(Self::call("claim"), failed("claim"), made).await
    }

    async fn extend(&self, token: &ClaimToken, lease: Duration) -> Result<Timestamp, StoreError> {
        let made = async {
            let until = self.0.shared.storage.extend(token, lease).await?;
            let now = self.0.shared.now();
            self.note("extend", "ok", || token.key.clone());
            let mut state = self.0.shared.state();
            let state = &mut *state;
            state.checker.used(&state.ledger, token, "extend", now);
            state.ledger.extended(token, until);
            Ok(until)
        };
        self.0.call(Self::call("extend"), failed("extend"), made).await
    }

    async fn ack(&self, token: &ClaimToken) -> Result<(), StoreError> {
        let made = async {
            self.0.shared.storage.ack(token).await?;
            self.ended("ack", token, None);
            Ok(())
        };
        self.0.call(Self::call("ack"), failed("ack"), made).await
    }

    async fn retry(&self, token: &ClaimToken, when: Timestamp, reason: &str) -> Result<(), StoreError> {
        let made = async {
            self.0.shared.storage.retry(token, when, reason).await?;
            let at = when.max(self.0.shared.now());
            self.ended("retry", token, Some((at, true)));
            Ok(())
        };
        self.0.call(Self::call("retry"), failed("retry"), made).await
    }

    async fn release(&self, token: &ClaimToken) -> Result<(), StoreError> {
        let made = async {
            self.0.shared.storage.release(token).await?;
            let at = self.0.shared.now();
            self.ended("release", token, Some((at, false)));
            Ok(())
        };
        self.0.call(Self::call("release"), failed("release"), made).await
    }

    async fn bury(&self, token: &ClaimToken, reason: &str) -> Result<(), StoreError> {
        let made = async {
            self.0.shared.storage.bury(token, reason).await?;
            self.ended("bury", token, None);
            Ok(())
        };
        self.0.call(Self::call("bury"), failed("bury"), made).await
    }

    async fn dead(&self, limit: usize) -> Result<Vec<DeadTask>, StoreError> {
        self.0.call(Self::call("dead"), failed("dead"), self.0.shared.storage.dead(limit)).await
    }

    async fn revive(&self, key: &str) -> Result<bool, StoreError> {
        self.0.call(Self::call("revive"), failed("revive"), self.0.shared.storage.revive(key)).await
    }

    async fn statistics(&self) -> Result<QueueStatistics, StoreError> {
        let made = self.0.shared.storage.statistics();
        self.0.call(Self::call("statistics"), failed("statistics"), made).await
    }
}

fn keys(tasks: &[NewTask]) -> String {
    tasks.iter().map(|task| task.task.key()).collect::<Vec<_>>().join(" ")
}

/// A replica's way to the budgets.
#[derive(Debug)]
pub(crate) struct FaultyBudgets(pub(crate) Arc<Process>);

impl FaultyBudgets {
    const fn call(name: &'static str) -> Call {
        Call { side: Side::Budgets, name }
    }
}

#[async_trait]
impl Budgets for FaultyBudgets {
    async fn take(&self, bounds: &[Bound], lease: Duration) -> Result<Permission, StoreError> {
        let made = async {
            let permission = self.0.shared.storage.take(bounds, lease).await?;
            let now = self.0.shared.now();
            let mut state = self.0.shared.state();
            match &permission {
                Permission::Granted(_) => {
                    for bound in bounds {
                        if let Some(wrong) = state.checker.limits.granted(self.0.replica, bound, now) {
                            state.checker.broken(Promise::Limits, wrong);
                        }
                    }
                }
                Permission::Wait { bound, .. } => {
                    let key = bounds[*bound].key.as_str();
                    if let Some((_, word)) = WAITS.iter().find(|(part, _)| key.ends_with(part)) {
                        state.strike(*word);
                    }
                }
            }
            Ok(permission)
        };
        self.0.call(Self::call("take"), failed("take"), made).await
    }

    async fn give_back(&self, permit: &Permit) -> Result<(), StoreError> {
        let made = self.0.shared.storage.give_back(permit);
        self.0.call(Self::call("give_back"), failed("give_back"), made).await
    }

    async fn pause(&self, key: &BudgetKey, until: Timestamp) -> Result<(), StoreError> {
        let made = async {
            self.0.shared.storage.pause(key, until).await?;
            self.0.shared.state().checker.limits.paused(key, until);
            Ok(())
        };
        self.0.call(Self::call("pause"), failed("pause"), made).await
    }
}
