//! What can be made to go wrong. Everything is off by default, can be changed while the simulator runs,
//! and is counted in the [`Books`](super::Books) each time it strikes.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// All faults. Probabilities are between 0 (never, the default) and 1 (always).
///
/// ```
/// # use runner_manager_core::testing::simulator::{Effect, Faults, RequestFault};
/// let listing_fails = Effect::Answer { status: 502, retry_after: None };
/// let fault = RequestFault::always(listing_fails).on("GET", "/orgs/*/actions/runners").with_probability(0.2);
/// let mut faults = Faults { requests: vec![fault], ..Faults::default() };
/// faults.webhooks.lost = 0.1;
///
/// // The same as JSON, as the control face takes it.
/// let json = r#"{
///     "webhooks": {"lost": 0.1},
///     "requests": [{
///         "method": "GET", "path": "/orgs/*/actions/runners", "probability": 0.2,
///         "effect": {"answer": {"status": 502}}
///     }]
/// }"#;
/// assert_eq!(serde_json::from_str::<Faults>(json)?, faults);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// What happens to webhook deliveries.
    pub webhooks: WebhookFaults,
    /// What happens to requests; all that match a request are looked at, in this order.
    pub requests: Vec<RequestFault>,
    /// GitHub's secondary limit on making JIT configs.
    pub jit_limit: Option<JitLimit>,
    /// Requests of one token (all tokens of one installation together) in an hour, for each of the
    /// resources `core` and `actions_runner_registration`. None stands for a million.
    pub hourly_budget: Option<u32>,
    /// `busy` that reads false although a job runs. Each strikes by itself; of those that strike one job the
    /// longest holds.
    pub lying_busy: Vec<LyingBusy>,
}

/// What happens to webhook deliveries. Redeliveries run the same risks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookFaults {
    /// Never sent, and in no delivery log: only asking the REST API finds out.
    pub lost: f64,
    /// Never arrives, but the delivery log shows a failed attempt that can be redelivered.
    pub failed: f64,
    /// Sent twice with one guid.
    pub doubled: f64,
    /// Held back for a time within [`delay`](Self::delay).
    pub delayed: f64,
    /// How long a delayed one is held back.
    pub delay: DurationRange,
    /// Held back until the hook's next delivery has gone out (or 10 s, should none come).
    pub reordered: f64,
}

impl Default for WebhookFaults {
    fn default() -> Self {
        let delay = DurationRange { min: SignedDuration::from_secs(1), max: SignedDuration::from_secs(60) };
        Self { lost: 0.0, failed: 0.0, doubled: 0.0, delayed: 0.0, delay, reordered: 0.0 }
    }
}

/// From `min` to `max`, both included. In JSON: ISO 8601 durations, as in `"PT1.5S"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DurationRange {
    /// The shortest.
    pub min: SignedDuration,
    /// The longest.
    pub max: SignedDuration,
}

/// A fault that strikes requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestFault {
    /// Only requests of this method, upper case. None: all.
    #[serde(default)]
    pub method: Option<String>,
    /// Only paths that begin with these segments, where `*` stands for any one segment, as in
    /// `/orgs/*/actions/runners`; without `/api/v3`. None: all.
    #[serde(default)]
    pub path: Option<String>,
    /// How often it strikes.
    #[serde(default = "always")]
    pub probability: f64,
    /// Not from this time on. None: for ever.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// What happens.
    pub effect: Effect,
}

impl RequestFault {
    /// This effect on every request, for ever.
    pub fn always(effect: Effect) -> Self {
        Self { method: None, path: None, probability: 1.0, until: None, effect }
    }

    /// The same on one route only: see [`method`](Self::method) and [`path`](Self::path).
    #[must_use]
    pub fn on(mut self, method: &str, path: &str) -> Self {
        self.method = Some(method.to_owned());
        self.path = Some(path.to_owned());
        self
    }

    /// The same, with this probability.
    #[must_use]
    pub fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// The same, until this time.
    #[must_use]
    pub fn until(mut self, until: Timestamp) -> Self {
        self.until = Some(until);
        self
    }

    pub(super) fn matches(&self, method: &str, segments: &[&str], now: Timestamp) -> bool {
        let in_time = self.until.is_none_or(|until| now < until);
        in_time && self.method.as_deref().is_none_or(|wanted| wanted == method) && self.covers(segments)
    }

    fn covers(&self, segments: &[&str]) -> bool {
        let Some(path) = &self.path else { return true };
        let mut given = segments.iter();
        path.split('/').filter(|wanted| !wanted.is_empty()).all(|wanted| {
            given.next().is_some_and(|segment| wanted == "*" || wanted.eq_ignore_ascii_case(segment))
        })
    }
}

fn always() -> f64 {
    1.0
}

/// What happens to a request that a [`RequestFault`] strikes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The answer is held back: [`Answer::latency`](super::Answer::latency).
    Delay(DurationRange),
    /// Nothing is done, and this is the answer.
    Answer {
        /// 403, 429 or 5xx.
        status: u16,
        /// For 403 and 429: seconds announced in `retry-after`. None: refused without saying for how long.
        retry_after: Option<u32>,
    },
    /// What was asked is done, and the connection breaks before the answer is out:
    /// [`Answer::reply_lost`](super::Answer::reply_lost).
    LoseReply,
    /// Entries are missing from a listing, each with the fault's probability; `total_count` counts them.
    SkipEntries,
}

/// GitHub's secondary limit, as it strikes those who make many JIT configs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JitLimit {
    /// JIT configs that one token gets in any 60 seconds.
    pub per_minute: u32,
    /// Whether a refusal says in `retry-after` how long to wait.
    pub announced: bool,
}

/// `busy` reads false for a time after a job has started. A DELETE in that time succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LyingBusy {
    /// How many of the jobs that start.
    pub probability: f64,
    /// For how long, counted from the job's start.
    pub lasts: SignedDuration,
    /// Whether a DELETE in that time takes the runner out of GitHub's lists and nothing more: its agent runs the job
    /// to the end, as long as it has a machine. Otherwise (the default) it kills the job at once, which the books note
    /// as a [violation](super::Violation::RunningJobKilled).
    #[serde(default)]
    pub spares: bool,
}

/// The kinds of faults, as the books count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// [`WebhookFaults::lost`]
    WebhookLost,
    /// [`WebhookFaults::failed`]
    WebhookFailed,
    /// [`WebhookFaults::doubled`]
    WebhookDoubled,
    /// [`WebhookFaults::delayed`]
    WebhookDelayed,
    /// [`WebhookFaults::reordered`]
    WebhookReordered,
    /// [`Effect::Delay`]
    Delay,
    /// [`Effect::Answer`] with 403.
    Answer403,
    /// [`Effect::Answer`] with 429.
    Answer429,
    /// [`Effect::Answer`] with any other status.
    AnswerError,
    /// [`Effect::LoseReply`]
    LostReply,
    /// One entry left out by [`Effect::SkipEntries`].
    SkippedEntry,
    /// A request refused by [`Faults::jit_limit`].
    JitLimit,
    /// A request refused by [`Faults::hourly_budget`].
    HourlyBudget,
    /// A job started on a runner whose `busy` then lies.
    LyingBusy,
    /// An answer that said `busy: false` of a runner with a job.
    LyingBusyRead,
    /// A DELETE that was accepted of a runner with a job.
    LyingBusyDelete,
}

impl FaultKind {
    /// All kinds, for a test that wants each to have struck.
    pub const ALL: [Self; 16] = [
        Self::WebhookLost,
        Self::WebhookFailed,
        Self::WebhookDoubled,
        Self::WebhookDelayed,
        Self::WebhookReordered,
        Self::Delay,
        Self::Answer403,
        Self::Answer429,
        Self::AnswerError,
        Self::LostReply,
        Self::SkippedEntry,
        Self::JitLimit,
        Self::HourlyBudget,
        Self::LyingBusy,
        Self::LyingBusyRead,
        Self::LyingBusyDelete,
    ];
}
