//! The clock: the one place that reads the time and waits.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::domain::later;

/// Tells the time and waits.
///
/// Two exist: the system's ([`SystemClock`]) and the simulated one ([`SimulatedClock`]). Where replicas must
/// agree, time is the store's ([`Store::now`](crate::store::Store::now)), not this.
///
/// # Behaviour
/// The conformance suite (`testing::conformance::clock`) tests these, by these names:
/// - `now_does_not_go_back`: two readings, one after the other, never go back by more than the system's own
///   corrections.
/// - `sleep_waits_its_time`: `sleep` ends no earlier than its duration after it was called.
/// - `sleep_can_be_dropped`: a `sleep` that is dropped leaves nothing behind.
///
/// # Errors
/// None: a clock always answers.
///
/// ```
/// use std::time::Duration;
/// use jiff::Timestamp;
/// use runner_manager_core::clock::{Clock, SimulatedClock};
///
/// let clock = SimulatedClock::new(Timestamp::UNIX_EPOCH);
/// clock.advance(Duration::from_secs(5));
/// assert_eq!(clock.now().as_second(), 5);
/// ```
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Waits for a duration.
    async fn sleep(&self, duration: Duration);
}

/// A call did not end in the time it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
pub struct TimedOut(pub Duration);

/// Waits for `future`, but no longer than `limit`. The future is asked first, so that one that is ready
/// always wins.
///
/// # Errors
/// [`TimedOut`] when the limit passed first; the future is dropped then.
pub async fn timeout<F: Future>(
    clock: &dyn Clock,
    limit: Duration,
    future: F,
) -> Result<F::Output, TimedOut> {
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = clock.sleep(limit) => Err(TimedOut(limit)),
    }
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock's one home")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock's one home")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A clock that stands still until somebody moves it: for tests and simulations.
#[derive(Debug)]
pub struct SimulatedClock(Mutex<Simulated>);

#[derive(Debug)]
struct Simulated {
    now: Timestamp,
    sleepers: BTreeMap<(Timestamp, u64), oneshot::Sender<()>>,
    count: u64,
}

impl SimulatedClock {
    /// A clock that shows `now`.
    pub const fn new(now: Timestamp) -> Self {
        Self(Mutex::new(Simulated { now, sleepers: BTreeMap::new(), count: 0 }))
    }

    /// Moves the clock on and wakes whoever waits for a time until then, in the order of their times.
    pub fn advance(&self, by: Duration) {
        let mut clock = self.lock();
        clock.now = later(clock.now, by);
        let now = clock.now;
        while let Some(first) = clock.sleepers.first_entry().filter(|first| first.key().0 <= now) {
            // A sleeper that was dropped hears nothing, which is as it should be.
            let _ = first.remove().send(());
        }
    }

    /// When the first of those who wait wants to wake; none where nobody waits.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let mut clock = self.lock();
        clock.sleepers.retain(|_, sleeper| !sleeper.is_closed());
        clock.sleepers.first_key_value().map(|((at, _), _)| *at)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Simulated> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        self.lock().now
    }

    async fn sleep(&self, duration: Duration) {
        let woken = {
            let mut clock = self.lock();
            let (sender, woken) = oneshot::channel();
            clock.count += 1;
            let key = (later(clock.now, duration), clock.count);
            clock.sleepers.insert(key, sender);
            woken
        };
        // An error means that the clock itself is gone: then nobody can wait for it any more.
        let _ = woken.await;
    }
}
