//! Whether and when a failed call is worth another try: what the error types of all traits share.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whether and when a failed call is worth another try. Retry policies look at this alone; callers that
/// want to act on *what* failed look at the error's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retry {
    /// Not before somebody changes something.
    Never,
    /// After a growing pause.
    Backoff,
    /// Not before this long from now: the other side said so.
    After(Duration),
}

/// A growing pause with a ceiling: `base * 2^(attempt - 1)`, at most `ceiling`, of which the last half is
/// drawn from `entropy` so that those who failed together do not return together.
///
/// ```
/// use std::time::Duration;
/// use runner_manager_core::retry::Backoff;
///
/// let backoff = Backoff { base: Duration::from_secs(1), ceiling: Duration::from_secs(60) };
/// let pause = backoff.pause(3, 0);
/// assert_eq!(pause, Duration::from_secs(2));
/// assert!(backoff.pause(100, u64::MAX) <= Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure.
    pub base: Duration,
    /// The longest pause.
    pub ceiling: Duration,
}

impl Backoff {
    /// The pause after the `attempt`th failure in a row, counted from 1.
    pub fn pause(self, attempt: u32, entropy: u64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let full = self.base.saturating_mul(1 << doublings).min(self.ceiling);
        let half = full / 2;
        let share = u32::try_from(entropy >> 32).expect("the upper half of 64 bits has 32");
        half + half.mul_f64(f64::from(share) / f64::from(u32::MAX))
    }
}
