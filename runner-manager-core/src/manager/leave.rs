//! Leave to call the outside: asked for from the budgets that all replicas share, and given back.
//!
//! It is asked for always, also where nothing bounds the calls: whoever was told to stay away says so there, and that holds
//! for all. What bounds a call is said in [`bounds`](super::bounds), and the call is made in [`calls`](super::calls).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use super::bounds::Bounds;
use super::worker::TaskError;
use crate::budget::{Bound, BudgetKey, Permission, Permit, Rate};
use crate::domain::later;
use crate::store::StoreError;

/// How much longer than its call a permit is good for, so that none runs out while the call is under way.
const PERMIT_MARGIN: Duration = Duration::from_secs(10);

/// A wait that a worker sits out. For a longer one the task is put back.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// How many short waits in a row a worker sits out.
const SHORT_WAITS: usize = 5;

/// By how much two answers may differ in when they say that a period ends, and mean the same.
const ABOUT_NOW: Duration = Duration::from_secs(2);

/// What this process knows of waits: it has its own tasks queue up, rather than all come at once when the first
/// of them may.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<BTreeMap<BudgetKey, Timestamp>>);

impl Waits {
    /// How long a call waits that was told to wait for a rate: those who wait come one after the other, a little
    /// faster than the rate lets them pass.
    fn queue_up(&self, key: &BudgetKey, rate: Option<Rate>, pause: Duration, now: Timestamp) -> Duration {
        let Some(rate) = rate.filter(|_| pause > SHORT_WAIT) else { return pause };
        let apart = rate.per.mul_f64(0.9) / rate.calls.max(1);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = known.get(key).map_or(now, |last| later(*last, apart)).max(later(now, pause));
        known.insert(key.clone(), next);
        Duration::try_from(next.duration_since(now)).unwrap_or(pause)
    }

    /// Whether nobody here has said yet that something is left alone until this time.
    pub(super) fn is_news(&self, key: &BudgetKey, until: Timestamp) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = known.get(key).is_none_or(|told| until > later(*told, ABOUT_NOW));
        if is_news {
            known.insert(key.clone(), until);
        }
        is_news
    }
}

/// Leave to make one call.
#[derive(Debug)]
#[must_use = "it has to be given back"]
pub(super) struct Leave {
    permit: Permit,
    /// What all leave alone where the answer says so.
    pub(super) left_alone: Vec<BudgetKey>,
}

/// What keeps a call from being made, and for how long.
#[derive(Debug)]
struct Held<'a> {
    key: &'a BudgetKey,
    rate: Option<Rate>,
    pause: Duration,
}

impl Leave {
    /// Parts leave that was had for two calls at once: for the one within these bounds, and for the other.
    pub(super) fn part(self, one: &Bounds) -> (Self, Self) {
        let Permit { keys, number } = self.permit;
        let (own, others) = keys.into_iter().partition(|key| one.all.iter().any(|bound| bound.key == *key));
        let (alone, others_alone) = self.left_alone.into_iter().partition(|key| one.left_alone.contains(key));
        (
            Self { permit: Permit { keys: own, number }, left_alone: alone },
            Self { permit: Permit { keys: others, number }, left_alone: others_alone },
        )
    }
}

impl Manager {
    /// Gives back leave: the call is over, or is not made.
    pub(super) async fn give_back(&self, leave: Leave) {
        if let Err(error) = self.parts().storage.budgets.give_back(&leave.permit).await {
            // It counts until its lease is over.
            tracing::debug!(keys = ?leave.permit.keys, %error, "a permit was not given back");
        }
    }

    pub(super) async fn stay_away(&self, key: &BudgetKey, pause: Duration, why: &str) {
        tracing::warn!(%key, ?pause, why, "too many calls: it is left alone");
        let said = match self.now().await {
            Ok(now) => self.parts().storage.budgets.pause(key, later(now, pause)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = said {
            tracing::warn!(%key, %error, "the other replicas were not told");
        }
    }

    pub(super) async fn leave(
        &self,
        bounds: Bounds,
        limit: Duration,
        what: &str,
    ) -> Result<Leave, TaskError> {
        self.leave_by_any(&[bounds], limit, what).await.map(|(_, leave)| leave)
    }

    /// Leave by the first way that is open. A short wait is sat out.
    pub(super) async fn leave_by_any(
        &self,
        ways: &[Bounds],
        limit: Duration,
        what: &str,
    ) -> Result<(usize, Leave), TaskError> {
        let mut tries = SHORT_WAITS;
        loop {
            let mut shortest: Option<Held<'_>> = None;
            for (number, way) in ways.iter().enumerate() {
                match self.try_leave(way, limit).await? {
                    Ok(leave) => return Ok((number, leave)),
                    Err(held) if shortest.as_ref().is_some_and(|other| other.pause <= held.pause) => {}
                    Err(held) => shortest = Some(held),
                }
            }
            let Held { key, rate, pause } = shortest.expect("there is a way, and it is not open");
            tries -= 1;
            if pause > SHORT_WAIT || tries == 0 {
                let pause = self.inner.waits.queue_up(key, rate, pause, self.parts().clock.now());
                let reason = format!("{what}: {key} is not to be asked now");
                return Err(TaskError::NotNow { reason, pause });
            }
            self.parts().clock.sleep(pause).await;
        }
    }

    /// Leave by one way.
    async fn try_leave<'b>(
        &self,
        Bounds { all, left_alone }: &'b Bounds,
        limit: Duration,
    ) -> Result<Result<Leave, Held<'b>>, StoreError> {
        match self.parts().storage.budgets.take(all, limit + PERMIT_MARGIN).await? {
            Permission::Granted(permit) => Ok(Ok(Leave { permit, left_alone: left_alone.clone() })),
            Permission::Wait { until, bound } => {
                let Bound { key, quota } = &all[bound.min(all.len() - 1)];
                Ok(Err(Held { key, rate: quota.rate, pause: self.time_until(until).await? }))
            }
        }
    }

    async fn time_until(&self, until: Timestamp) -> Result<Duration, StoreError> {
        let pause = Duration::try_from(until.duration_since(self.now().await?)).unwrap_or_default();
        Ok(pause.max(Duration::from_millis(1)))
    }
}
