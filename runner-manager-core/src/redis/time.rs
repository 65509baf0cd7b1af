//! The server's time, told between two looks at it: what is decided needs the time more often than anything else.
//!
//! What is told is never ahead of the server, as long as the process' clock runs like the server's: a look is noted when
//! its answer is there, so it tells a little less than the time. It does not go back while the server's does not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::later;

/// How long the time is told by one look. Clocks do not drift apart in that, and one that is set is noticed.
const TOLD_FOR: Duration = Duration::from_secs(1);

/// What is known of the server's time.
#[derive(Debug, Default)]
pub(super) struct ServerTime(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    last_look: Option<Look>,
    /// The latest time that was told.
    told: Option<Timestamp>,
}

#[derive(Debug)]
struct Look {
    /// What the server said.
    said: Timestamp,
    /// When its answer was there, by the process' clock.
    at: Timestamp,
}

impl ServerTime {
    /// The time, where it is known: `now` is what the process' clock shows.
    pub(super) fn told(&self, now: Timestamp) -> Option<Timestamp> {
        self.lock().tell(now)
    }

    /// Notes what the server said, when the process' clock shows `now`, and tells the time.
    pub(super) fn note(&self, said: Timestamp, now: Timestamp) -> Timestamp {
        let mut known = self.lock();
        known.last_look = Some(Look { said, at: now });
        known.tell(now).unwrap_or(said)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn tell(&mut self, now: Timestamp) -> Option<Timestamp> {
        let look = self.last_look.as_ref()?;
        let passed =
            Duration::try_from(now.duration_since(look.at)).ok().filter(|passed| *passed <= TOLD_FOR)?;
        let time = later(look.said, passed);
        // An answer that was slower on its way tells less than was told already, which is the time all the same.
        let told = self.told.filter(|told| *told > time && *told < later(time, TOLD_FOR)).unwrap_or(time);
        self.told = Some(told);
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::ServerTime;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }

    #[test]
    fn it_goes_on_with_the_clock_for_a_second() {
        let time = ServerTime::default();
        assert_eq!(time.told(at(0)), None);
        assert_eq!(time.note(at(70_000), at(5_000)), at(70_000));
        assert_eq!(time.told(at(5_400)), Some(at(70_400)));
        assert_eq!(time.told(at(6_000)), Some(at(71_000)));
        assert_eq!(time.told(at(6_001)), None, "the server is asked again");
        assert_eq!(time.told(at(4_999)), None, "the clock was set back");
    }

    #[test]
    fn a_slower_answer_does_not_take_it_back() {
        let time = ServerTime::default();
        time.note(at(70_000), at(5_000));
        assert_eq!(time.told(at(6_000)), Some(at(71_000)));
        // This answer took 30 ms.
        assert_eq!(time.note(at(71_000), at(6_030)), at(71_000));
        assert_eq!(time.told(at(6_040)), Some(at(71_010)));
    }

    #[test]
    fn a_server_that_was_set_back_is_followed() {
        let time = ServerTime::default();
        time.note(at(70_000), at(5_000));
        let hour = 3_600_000;
        assert_eq!(time.note(at(71_001 - hour), at(6_001)), at(71_001 - hour));
    }
}
