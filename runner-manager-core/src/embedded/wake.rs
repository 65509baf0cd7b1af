//! Waking those who wait for a task, and nobody else.
//!
//! One who waits on a lane is woken when a task is due there. Only one is woken for however many tasks: who
//! claims and leaves some behind wakes the next. Time is kept by one of those who wait, so that a task that
//! becomes due wakes one as well; when that one leaves, another takes over.
//!
//! While a lane is full, the end of a hold wakes one. All who wait on a lane are taken to have one bound, as the
//! workers of one process do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::step::{Wake, Wakes};
use crate::baton::Baton;
use crate::clock::Clock;

/// Those who wait, by lane. A lane is remembered from its first wait on.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<BTreeMap<String, Arc<Waiters>>>);

impl Lanes {
    /// Those who wait on a lane.
    pub(super) fn of(&self, lane: &str) -> Arc<Waiters> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lanes.entry(lane.to_owned()).or_default())
    }

    /// Wakes one who waits on each lane: the tables are others than they were.
    #[cfg(feature = "testing")]
    pub(super) fn wake_all(&self) {
        let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.values().for_each(|waiters| waiters.due.notify_one());
    }

    /// Tells those who wait what an operation did. Told in the order of the operations.
    pub(super) fn tell(&self, wakes: &Wakes) {
        for (lane, wake) in wakes {
            self.of(lane).tell(wake);
        }
    }
}

/// Those who wait on one lane.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// A task is due.
    due: Notify,
    /// Something happens earlier than was known.
    earlier: Notify,
    /// Whether no more tasks may be held: then the end of a hold is what those who wait are waiting for.
    full: AtomicBool,
    /// When something happens next.
    next: Mutex<Option<Timestamp>>,
    /// Held by the one who keeps the time.
    timekeeper: tokio::sync::Mutex<()>,
}

impl Waiters {
    /// Waits until a task may be due, and no longer than `limit`. Tells whether one may be.
    pub(super) async fn wait(&self, clock: &dyn Clock, limit: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.due.notified() => true,
            () = self.keep_time(clock) => true,
            () = clock.sleep(limit) => false,
        }
    }

    /// Makes sure that another is woken where this one was and leaves before it claimed.
    pub(super) const fn baton(&self) -> Baton<'_> {
        Baton::of(&self.due)
    }

    async fn keep_time(&self, clock: &dyn Clock) {
        let _timekeeper = self.timekeeper.lock().await;
        loop {
            let Some(next) = *self.next() else {
                self.earlier.notified().await;
                continue;
            };
            let left = Duration::try_from(next.duration_since(clock.now())).unwrap_or(Duration::ZERO);
            if left.is_zero() {
                return;
            }
            tokio::select! {
                biased;
                () = self.earlier.notified() => {}
                () = clock.sleep(left) => return,
            }
        }
    }

    fn tell(&self, wake: &Wake) {
        let mut next = self.next();
        let before = *next;
        let known = next.filter(|_| !wake.looked_up);
        *next = known.into_iter().chain(wake.at).min();
        if next.is_some_and(|next| before.is_none_or(|before| next < before)) {
            self.earlier.notify_one();
        }
        let freed = wake.freed && self.full.load(Ordering::Relaxed);
        if let Some(full) = wake.full {
            self.full.store(full, Ordering::Relaxed);
        }
        if wake.due || freed {
            self.due.notify_one();
        }
    }

    fn next(&self) -> std::sync::MutexGuard<'_, Option<Timestamp>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use jiff::Timestamp;

    use super::{Waiters, Wake};
    use crate::clock::SimulatedClock;

    #[test]
    fn who_was_woken_and_did_not_claim_hands_on() {
        let clock = SimulatedClock::new(Timestamp::UNIX_EPOCH);
        let waiters = Waiters::default();
        let wait = || waiters.wait(&clock, Duration::from_secs(1)).now_or_never();
        assert_eq!(wait(), None);
        waiters.tell(&Wake { due: true, ..Wake::default() });
        assert_eq!(wait(), Some(true));
        drop(waiters.baton());
        assert_eq!(wait(), Some(true));
        waiters.baton().done();
        assert_eq!(wait(), None);
    }
}
