//! Arithmetic on points in time that cannot overflow.

use std::time::Duration;

use jiff::Timestamp;

/// The point `after` later than `from`; the end of time where that would overflow.
pub fn later(from: Timestamp, after: Duration) -> Timestamp {
    from.checked_add(after).unwrap_or(Timestamp::MAX)
}
