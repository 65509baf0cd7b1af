//! Waking those who wait for a task.
//!
//! Scripts put a token into a lane's wake list when one who waits should look at the lane. Of those of a process
//! who wait on a lane one keeps the time: it blocks on that list until a token comes, or until something happens
//! on the lane by itself. It then looks, and the next one keeps the time. So a process has one connection that
//! blocks for each lane, however many wait.
//!
//! A token that is lost with the one who took it delays a task by [`LOOK_AT_LEAST`] at most: after that time
//! whoever keeps the time looks anyway.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::link::Link;
use crate::baton::Baton;
use crate::clock::Clock;
use crate::domain::later;
use crate::store::StoreError;

/// How long one who waits goes without looking at the lane.
const LOOK_AT_LEAST: Duration = Duration::from_secs(2);

/// Those of this process who wait, by lane. A lane is remembered from its first wait on.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<BTreeMap<String, Arc<Waiters>>>);

impl Lanes {
    /// Those who wait on a lane.
    pub(super) fn of(&self, lane: &str) -> Arc<Waiters> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lanes.entry(lane.to_owned()).or_default())
    }
}

/// Those of this process who wait on one lane.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// How many claim or wait now.
    present: AtomicUsize,
    /// One who was woken has left before it looked.
    handed_on: Notify,
    /// When something happens next on the lane, by this process' clock.
    next: Mutex<Option<Timestamp>>,
    /// Held by the one who keeps the time.
    timekeeper: tokio::sync::Mutex<()>,
}

impl Waiters {
    /// Notes when something happens next on the lane by itself, as a look at it has shown.
    pub(super) fn note_next(&self, next: Option<Timestamp>) {
        *self.next() = next;
    }

    /// Waits until the lane is worth a look, and no longer than `end`. Tells whether it is.
    pub(super) async fn wait(
        &self,
        link: &Link,
        clock: &dyn Clock,
        tokens: &str,
        end: Timestamp,
    ) -> Result<bool, StoreError> {
        let left = Duration::try_from(end.duration_since(clock.now())).unwrap_or(Duration::ZERO);
        let _timekeeper = tokio::select! {
            biased;
            () = self.handed_on.notified() => return Ok(true),
            guard = self.timekeeper.lock() => guard,
            () = clock.sleep(left) => return Ok(false),
        };
        let now = clock.now();
        let next = self.next().unwrap_or(Timestamp::MAX).min(later(now, LOOK_AT_LEAST));
        let until = next.min(end);
        let limit = Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO);
        if !limit.is_zero() {
            tokio::select! {
                biased;
                () = self.handed_on.notified() => return Ok(true),
                woken = link.wait(tokens, limit) => if woken? { return Ok(true) },
            }
        }
        // The one who looks now notes it anew: it is not for all who keep the time until then.
        if next < end {
            self.note_next(None);
        }
        Ok(next < end)
    }

    /// Makes sure that another is woken where this one was and leaves before it looked.
    pub(super) const fn baton(&self) -> Baton<'_> {
        Baton::of(&self.handed_on)
    }

    fn next(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who claims or waits on a lane.
#[derive(Debug)]
pub(super) struct Present<'w>(&'w Waiters);

impl<'w> Present<'w> {
    /// Counts as present from here on.
    pub(super) fn on(waiters: &'w Waiters) -> Self {
        waiters.present.fetch_add(1, Ordering::Relaxed);
        Self(waiters)
    }

    /// Whether nobody else of this process is.
    pub(super) fn is_alone(&self) -> bool {
        self.0.present.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
    }
}
