//! The keys that take a duration: what they default to, and what makes sense.

use std::time::Duration;

use jiff::fmt::friendly::{SpanParser, SpanPrinter};

use super::cursor::{Cursor, Fields};
use crate::domain::Limits;

/// A key that takes a duration.
#[derive(Debug, Clone, Copy)]
pub(super) struct DurationKey {
    pub(super) name: &'static str,
    /// The shortest that is taken.
    pub(super) least: Duration,
    /// The longest that is taken.
    pub(super) most: Duration,
    /// None where nothing happens unless the key is given.
    pub(super) default: Option<Duration>,
    pub(super) meaning: &'static str,
}

/// How often GitHub and the backends are listed and compared with the records.
pub(super) const SWEEP_INTERVAL: DurationKey = DurationKey {
    name: "sweep_interval",
    least: Duration::from_secs(30),
    most: Duration::from_hours(1),
    default: Some(Duration::from_mins(5)),
    meaning: "How often GitHub and the backends are listed and compared with the records.",
};

/// How long connecting to Redis may take.
pub(super) const CONNECT_TIMEOUT: DurationKey = DurationKey {
    name: "connect_timeout",
    least: Duration::from_millis(100),
    most: Duration::from_secs(30),
    default: Some(Duration::from_secs(3)),
    meaning: "`redis`: how long connecting may take, signing in included.",
};

/// How long an answer of Redis may take.
pub(super) const RESPONSE_TIMEOUT: DurationKey = DurationKey {
    name: "response_timeout",
    least: Duration::from_millis(100),
    most: Duration::from_secs(30),
    default: Some(Duration::from_secs(5)),
    meaning: "`redis`: how long an answer may take.",
};

const WEEK: Duration = Duration::from_hours(7 * 24);
const DAY: Duration = Duration::from_hours(24);

/// The keys of [`Limits`], in its order.
pub(super) fn limit_keys() -> [DurationKey; 6] {
    let default = Limits::default();
    let key = |name, least, most, default, meaning| DurationKey { name, least, most, default, meaning };
    [
        key(
            "start_timeout",
            Duration::from_secs(10),
            DAY,
            Some(default.start_timeout),
            "From asking the backend until the runner is registered and online; then it is replaced.",
        ),
        key(
            "idle_timeout",
            Duration::ZERO,
            DAY,
            Some(default.idle_timeout),
            "How long a runner that no job needs may stay idle.",
        ),
        key(
            "max_idle_age",
            Duration::from_mins(10),
            WEEK,
            Some(default.max_idle_age),
            "How old an idle runner may become before a new one takes its place.",
        ),
        key(
            "max_job_time",
            Duration::from_mins(1),
            WEEK,
            default.max_job_time,
            "How long a job may run before its runner is taken away, which kills the job. Without it, for ever.",
        ),
        key(
            "retire_timeout",
            Duration::from_mins(1),
            DAY,
            Some(default.retire_timeout),
            "How long taking a runner away may last before it is shown as stuck. It goes on all the same.",
        ),
        key(
            "removal_grace",
            Duration::from_secs(1),
            Duration::from_mins(10),
            Some(default.removal_grace),
            "How long an idle runner's instance is kept after GitHub removed its registration, so that a job \
             assigned at the last moment shows itself.",
        ),
    ]
}

/// Reads the keys of [`Limits`].
pub(super) fn limits(fields: &Fields<'_>) -> Option<Limits> {
    let [start, idle, age, job, retire, grace] =
        limit_keys().map(|key| fields.or(key.name, key.default, |at| key.parse(at).map(Some)));
    Some(Limits {
        start_timeout: start??,
        idle_timeout: idle??,
        max_idle_age: age??,
        max_job_time: job?,
        retire_timeout: retire??,
        removal_grace: grace??,
    })
}

/// Reads [`SWEEP_INTERVAL`].
pub(super) fn sweep_interval(fields: &Fields<'_>) -> Option<Duration> {
    SWEEP_INTERVAL.read(fields)
}

impl DurationKey {
    /// Reads a key that has a default.
    pub(super) fn read(&self, fields: &Fields<'_>) -> Option<Duration> {
        fields.or(self.name, self.default, |at| self.parse(at).map(Some))?
    }

    fn parse(&self, at: &Cursor<'_>) -> Option<Duration> {
        let expected = "a duration such as 90s, 10m, 12h or 1h30m";
        let text = at.text_as(expected)?;
        let Ok(duration) = SpanParser::new().parse_unsigned_duration(text) else {
            at.fault(format!("expected {expected}, found `{text}`"));
            return None;
        };
        if !(self.least..=self.most).contains(&duration) {
            let (least, most) = (friendly(self.least), friendly(self.most));
            at.fault(format!("expected a duration from {least} to {most}, found `{text}`"));
            return None;
        }
        Some(duration)
    }
}

/// A duration as a user would write it.
pub(super) fn friendly(duration: Duration) -> String {
    SpanPrinter::new().unsigned_duration_to_string(&duration)
}
