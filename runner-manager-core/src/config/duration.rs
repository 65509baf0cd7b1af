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

/// How long a task is held without a sign of life.
pub(super) const LEASE: DurationKey = DurationKey {
    name: "lease",
    least: Duration::from_secs(3),
    most: Duration::from_mins(15),
    default: Some(Duration::from_secs(90)),
    meaning: "How long a replica that gives no sign of life holds what it works on, before another one goes on with it.",
};

/// How long a call may take.
pub(super) const CALL_TIMEOUT: DurationKey = DurationKey {
    name: "call_timeout",
    least: Duration::from_secs(1),
    most: Duration::from_mins(7),
    default: Some(Duration::from_secs(40)),
    meaning: "How long one call to GitHub or to a backend may take. Less than half of `lease`.",
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

/// How often GitHub is asked for the jobs that no webhook told of.
pub(super) const RECOVER_INTERVAL: DurationKey = DurationKey {
    name: "recover_interval",
    least: Duration::from_secs(30),
    most: Duration::from_hours(1),
    default: Some(Duration::from_mins(5)),
    meaning: "How often GitHub is asked which jobs wait and run, for those that no webhook told of.",
};

/// How often logs of webhook deliveries are read. None at all reads none.
pub(super) const REDELIVER_INTERVAL: DurationKey = DurationKey {
    name: "redeliver_interval",
    least: Duration::ZERO,
    most: Duration::from_hours(1),
    default: Some(Duration::from_mins(2)),
    meaning: "How often GitHub's log of a hook that leads here is read, to have webhooks that failed delivered again. \
              `0s` switches it off; else at least 30s.",
};

/// The shortest [`REDELIVER_INTERVAL`] that is any.
const SHORTEST_REDELIVER_INTERVAL: Duration = Duration::from_secs(30);

/// The period of a rate of calls.
pub(super) const RATE_PERIOD: DurationKey = DurationKey {
    name: "per",
    least: Duration::from_secs(1),
    most: Duration::from_hours(1),
    default: None,
    meaning: "In any period of this length.",
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

/// Reads [`LEASE`] and [`CALL_TIMEOUT`], which have to fit.
pub(super) fn lease_and_call_timeout(fields: &Fields<'_>) -> Option<(Duration, Duration)> {
    let (lease, call_timeout) = (LEASE.read(fields), CALL_TIMEOUT.read(fields));
    let (lease, call_timeout) = (lease?, call_timeout?);
    // The default of one fits into the default of the other: the key that is to blame is there.
    let blamed = fields.optional(CALL_TIMEOUT.name).or_else(|| fields.optional(LEASE.name));
    blamed.is_none_or(|at| fits_into(at, call_timeout, lease)).then_some((lease, call_timeout))
}

/// Whether a call ends so early that the lease of whoever makes it still holds; else that is a fault.
pub(super) fn fits_into(at: &Cursor<'_>, call_timeout: Duration, lease: Duration) -> bool {
    let fits = call_timeout * 2 < lease;
    if !fits {
        let (shown, most) = (friendly(call_timeout), friendly(lease / 2));
        at.fault(format!(
            "a call_timeout of {shown} outlives the lease: it must be less than half of it, {most}"
        ));
    }
    fits
}

/// Reads [`REDELIVER_INTERVAL`]: zero where it is switched off.
pub(super) fn redeliver_interval(fields: &Fields<'_>) -> Option<Duration> {
    let interval = REDELIVER_INTERVAL.read(fields)?;
    if interval.is_zero() || interval >= SHORTEST_REDELIVER_INTERVAL {
        return Some(interval);
    }
    if let Some(at) = fields.optional(REDELIVER_INTERVAL.name) {
        let least = friendly(SHORTEST_REDELIVER_INTERVAL);
        at.fault(format!("expected 0s, which switches it off, or at least {least}"));
    }
    None
}

impl DurationKey {
    /// Reads a key that has a default.
    pub(super) fn read(&self, fields: &Fields<'_>) -> Option<Duration> {
        fields.or(self.name, self.default, |at| self.parse(at).map(Some))?
    }

    pub(super) fn parse(&self, at: &Cursor<'_>) -> Option<Duration> {
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
