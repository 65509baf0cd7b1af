//! How often each machine called lately, in this process. Losing it harms nobody.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use runner_manager_core::domain::RunnerName;

/// How many calls a machine may make at once, and how many a second over a longer time. Each second it says at most two words
/// of its job and one heartbeat.
const BURST: f64 = 60.0;
const PER_SECOND: f64 = 4.0;
/// Of how many machines it is known how often they called: those that called last. Each has a valid token.
const MOST_KNOWN: usize = 50_000;

/// The machines that called lately.
#[derive(Debug, Default)]
pub(in crate::http) struct Turns(Mutex<HashMap<RunnerName, (f64, Timestamp)>>);

impl Turns {
    /// Whether a machine may call now.
    pub(super) fn take(&self, runner: &RunnerName, now: Timestamp) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN && !known.contains_key(runner) {
            // Who did not call for as long as it takes to have all calls back is as good as unknown.
            let full = |last: Timestamp| now.duration_since(last).as_secs_f64() >= BURST / PER_SECOND;
            known.retain(|_, (_, last)| !full(*last));
            if known.len() >= MOST_KNOWN {
                known.clear();
            }
        }
        let (left, last) = known.entry(runner.clone()).or_insert((BURST, now));
        let since = now.duration_since(*last).as_secs_f64().max(0.0);
        *left = since.mul_add(PER_SECOND, *left).min(BURST);
        *last = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use runner_manager_core::domain::RunnerName;

    use super::{MOST_KNOWN, Turns};

    #[test]
    fn a_machine_that_calls_without_end_is_slowed_down_alone() {
        let (turns, now) = (Turns::default(), Timestamp::UNIX_EPOCH);
        let runner = |number: usize| RunnerName::new(format!("acme-linux-{number}")).unwrap();
        let taken = (0..1_000).filter(|_| turns.take(&runner(1), now)).count();
        assert_eq!(taken, 60, "as many as at once, and none more");
        assert!(turns.take(&runner(2), now));
        let later = now + SignedDuration::from_secs(10);
        assert_eq!((0..1_000).filter(|_| turns.take(&runner(1), later)).count(), 40);
        for number in 0..MOST_KNOWN + 10 {
            turns.take(&runner(number), later);
        }
        assert!(turns.0.lock().unwrap().len() <= MOST_KNOWN);
    }
}
