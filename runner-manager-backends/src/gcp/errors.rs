//! What the failures of Compute mean: a refusal and an operation's error count by the words that they bear, and by their
//! status where no word is known.
//! <https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-vm-creation>

use std::error::Error;
use std::time::Duration;

use google_cloud_compute_v1::model;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use runner_manager_core::backend::{BackendError, BackendErrorKind};
use runner_manager_core::clock::TimedOut;
use runner_manager_core::retry::Retry;
use serde::Deserialize;

/// The most of what a service says that is told on.
const MOST_TOLD: usize = 400;

/// For how long nobody asks again after too many calls, where Compute does not tell: its budgets are of a minute.
/// <https://cloud.google.com/compute/api-quota>
const THROTTLE_PAUSE: Duration = Duration::from_secs(10);

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Compute's refusal.
    #[error("{}: {message}", .words.first().map_or("no reason", String::as_str))]
    Refused {
        /// Its words for it, the plainest first.
        words: Vec<String>,
        /// What it says of it.
        message: String,
        status: u16,
        retry_after: Option<Duration>,
    },
    /// An operation ended, and had not done what it was to do.
    #[error("{}: {message}", .words.first().map_or("no code", String::as_str))]
    Ended {
        /// Its codes, the first first.
        words: Vec<String>,
        /// What it says of them.
        message: String,
    },
    /// There are no credentials, or they were refused: nothing was sent.
    #[error("there are no credentials: {0}")]
    NoCredentials(String),
    /// Credentials could not be had just now: nothing was sent.
    #[error("the credentials could not be had: {0}")]
    CredentialsLate(String),
    /// There is no connection to the service: nothing was sent.
    #[error("the service cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time, or one that broke off or makes no sense.
    #[error("the answer was lost: {0}")]
    Unanswered(String),
    /// A list that is not complete.
    #[error("the list is not complete: {0}")]
    Partial(String),
    /// The settings and the cloud do not fit together; in whole words.
    #[error("{0}")]
    Unfit(String),
}

/// Whether a call changes something, and so is unclear without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Some,
}

impl Effect {
    const fn unanswered(self) -> BackendErrorKind {
        match self {
            Self::None => BackendErrorKind::Unavailable,
            Self::Some => BackendErrorKind::Unclear,
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let words = told(&chain(&error));
        if error.is_connect() { Self::Unreachable(words) } else { Self::Unanswered(words) }
    }
}

impl From<TimedOut> for Failure {
    fn from(_: TimedOut) -> Self {
        Self::Unanswered("none came in time".to_owned())
    }
}

/// The words of an error and of all that is behind it.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut words = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if words.last().is_none_or(|last| !last.contains(&text)) {
            words.push(text);
        }
        source = error.source();
    }
    words.join(": ")
}

/// What is told on of a service's words.
pub(super) fn told(words: &str) -> String {
    let mut told: String =
        words.trim().chars().map(|char| if char.is_control() { ' ' } else { char }).take(MOST_TOLD).collect();
    if told.len() < words.trim().len() {
        told.push_str("...");
    }
    told
}

/// The body of a refusal. <https://cloud.google.com/apis/design/errors>
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    error: Refusal,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    message: String,
    status: String,
    errors: Vec<Reason>,
    details: Vec<Reason>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
}

impl Failure {
    /// The failure that an answer other than a success is.
    pub(super) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let Refusal { message, status: general, errors, details } =
            serde_json::from_slice::<Body>(body).unwrap_or_default().error;
        let reasons = errors.into_iter().chain(details).map(|one| one.reason);
        let words = reasons.chain([general]).filter(|word| !word.is_empty()).map(|word| told(&word));
        let message =
            if message.is_empty() { format!("status {status}, and no reason") } else { told(&message) };
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self::Refused {
            words: words.collect(),
            message,
            status: status.as_u16(),
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    /// The failure of an operation; `None` where it has done what it was to do.
    pub(super) fn of(operation: &model::Operation) -> Option<Self> {
        let errors = operation.error.as_ref().map(|error| error.errors.as_slice()).unwrap_or_default();
        let status = operation.http_error_status_code.unwrap_or_default();
        if errors.is_empty() && status == 0 {
            return None;
        }
        let words = errors.iter().filter_map(|error| error.code.as_deref()).map(told).collect();
        let messages: Vec<&str> = errors.iter().filter_map(|error| error.message.as_deref()).collect();
        let message = if messages.is_empty() {
            operation.http_error_message.clone().unwrap_or_else(|| "without a reason".to_owned())
        } else {
            messages.join("; ")
        };
        Some(Self::Ended { words, message: told(&message) })
    }

    /// The same without what Compute repeats of a value that it refuses: all from the first of these texts on.
    pub(super) fn without(mut self, beginnings: &[&str]) -> Self {
        if let Self::Refused { message, .. } | Self::Ended { message, .. } = &mut self
            && let Some(at) = beginnings.iter().filter_map(|text| message.find(text)).min()
        {
            message.truncate(at);
            message.push_str("...");
        }
        self
    }

    fn words(&self) -> &[String] {
        match self {
            Self::Refused { words, .. } | Self::Ended { words, .. } => words,
            _ => &[],
        }
    }

    /// Whether it bears a word, in whichever spelling.
    pub(super) fn says(&self, wanted: &str) -> bool {
        self.words().iter().any(|word| spelled(word) == wanted)
    }

    /// Whether Compute says that what the call is about does not exist.
    pub(super) const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    pub(super) fn meaning(&self, effect: Effect) -> BackendErrorKind {
        let known = || self.words().iter().find_map(|word| meaning(&spelled(word)));
        match self {
            Self::Refused { status: 401, .. } | Self::NoCredentials(_) => BackendErrorKind::Unauthenticated,
            Self::Refused { status, .. } => known().unwrap_or(match status {
                403 => BackendErrorKind::PermissionDenied,
                404 => BackendErrorKind::NotFound,
                429 => BackendErrorKind::RateLimited,
                408 | 500.. => effect.unanswered(),
                _ => BackendErrorKind::Unexpected,
            }),
            Self::Ended { .. } => known().unwrap_or(BackendErrorKind::Unexpected),
            Self::CredentialsLate(_) | Self::Unreachable(_) | Self::Partial(_) => {
                BackendErrorKind::Unavailable
            }
            Self::Unanswered(_) => effect.unanswered(),
            Self::Unfit(_) => BackendErrorKind::InvalidConfig,
        }
    }

    /// The error of an operation on something.
    pub(super) fn to_error(
        &self,
        operation: &'static str,
        effect: Effect,
        what: impl std::fmt::Display,
    ) -> BackendError {
        let kind = self.meaning(effect);
        let error = BackendError::new(kind, operation, format!("{what}: {self}"));
        let pause = match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        };
        match (kind, pause) {
            (BackendErrorKind::RateLimited, pause) => {
                error.retry(Retry::After(pause.unwrap_or(THROTTLE_PAUSE)))
            }
            (BackendErrorKind::Unavailable, Some(pause)) => error.retry(Retry::After(pause)),
            _ => error,
        }
    }
}

/// A word in capitals: refusals say `quotaExceeded`, operations `QUOTA_EXCEEDED`.
fn spelled(word: &str) -> String {
    if !word.contains(|char: char| char.is_ascii_lowercase()) {
        return word.to_owned();
    }
    let mut spelled = String::new();
    for char in word.chars() {
        if char.is_ascii_uppercase() && !spelled.is_empty() {
            spelled.push('_');
        }
        spelled.push(char.to_ascii_uppercase());
    }
    spelled
}

/// What a word means; `None` for one that is not known, or says nothing of the cause.
/// <https://cloud.google.com/compute/docs/reference/rest/v1/errors> and, of exhausted zones,
/// <https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-resource-availability>
fn meaning(word: &str) -> Option<BackendErrorKind> {
    use BackendErrorKind as Kind;
    let has = |part: &str| word.contains(part);
    Some(match word {
        _ if has("POOL_EXHAUSTED") || has("STOCKOUT") || has("IP_SPACE_EXHAUSTED") => Kind::NoCapacity,
        _ if has("RATE_LIMIT_EXCEEDED") || has("RATE_EXCEEDED") => Kind::RateLimited,
        _ if has("QUOTA_EXCEEDED") || has("LIMIT_EXCEEDED") => Kind::QuotaExceeded,
        "RESOURCE_EXHAUSTED" | "TOO_MANY_REQUESTS" => Kind::RateLimited,
        "AUTH_ERROR" | "UNAUTHENTICATED" | "CREDENTIALS_MISSING" | "ACCOUNT_STATE_INVALID" => {
            Kind::Unauthenticated
        }
        _ if word.starts_with("ACCESS_TOKEN_") && !has("SCOPE") => Kind::Unauthenticated,
        "FORBIDDEN" | "ACCESS_NOT_CONFIGURED" | "SERVICE_DISABLED" | "BILLING_DISABLED" => {
            Kind::PermissionDenied
        }
        _ if has("PERMISSION") || has("ACCESS_DENIED") || has("SCOPE_INSUFFICIENT") => Kind::PermissionDenied,
        _ if has("NOT_FOUND") => Kind::NotFound,
        // The call had no effect, and may have one later.
        "RESOURCE_NOT_READY" | "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE" => Kind::Unavailable,
        "REQUIRED"
        | "BAD_REQUEST"
        | "PARSE_ERROR"
        | "FAILED_PRECONDITION"
        | "OUT_OF_RANGE"
        | "UPLOAD_TOO_LARGE" => Kind::InvalidConfig,
        // The condition is an organization's policy.
        _ if [
            "INVALID",
            "UNSUPPORTED",
            "NOT_SUPPORTED",
            "MALFORMED",
            "INCOMPATIBLE",
            "CONDITION_NOT_MET",
        ]
        .into_iter()
        .any(has) =>
        {
            Kind::InvalidConfig
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use runner_manager_core::backend::BackendErrorKind as Kind;
    use serde_json::json;

    use super::{Effect, Failure, meaning, spelled, told};

    fn refused(status: u16, reason: &str) -> Failure {
        let body = json!({"error": {"code": status, "message": "because", "errors": [{"reason": reason}]}});
        Failure::refused(
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            body.to_string().as_bytes(),
        )
    }

    #[test]
    fn words_are_told_apart() {
        for (word, kind) in [
            ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", Kind::NoCapacity),
            ("stockout", Kind::NoCapacity),
            ("IP_SPACE_EXHAUSTED_WITH_DETAILS", Kind::NoCapacity),
            ("rateLimitExceeded", Kind::RateLimited),
            ("userRateLimitExceeded", Kind::RateLimited),
            ("RESOURCE_OPERATION_RATE_EXCEEDED", Kind::RateLimited),
            ("quotaExceeded", Kind::QuotaExceeded),
            ("limitExceeded", Kind::QuotaExceeded),
            ("insufficientPermissions", Kind::PermissionDenied),
            ("ACCESS_TOKEN_SCOPE_INSUFFICIENT", Kind::PermissionDenied),
            ("ACCESS_TOKEN_EXPIRED", Kind::Unauthenticated),
            ("accessNotConfigured", Kind::PermissionDenied),
            ("RESOURCE_NOT_FOUND", Kind::NotFound),
            ("resourceNotReady", Kind::Unavailable),
            ("invalid", Kind::InvalidConfig),
            ("UNSUPPORTED_OPERATION", Kind::InvalidConfig),
            ("conditionNotMet", Kind::InvalidConfig),
        ] {
            assert_eq!(meaning(&spelled(word)), Some(kind), "{word}");
        }
        assert_eq!(meaning("INTERNAL_ERROR"), None);
    }

    #[test]
    fn what_is_not_known_counts_by_its_status() {
        let of = |failure: Failure| [failure.meaning(Effect::None), failure.meaning(Effect::Some)];
        assert_eq!(of(refused(500, "internalError")), [Kind::Unavailable, Kind::Unclear]);
        assert_eq!(of(refused(503, "backendError")), [Kind::Unavailable, Kind::Unclear]);
        assert_eq!(of(refused(400, "somethingNew")), [Kind::Unexpected; 2]);
        assert_eq!(of(refused(401, "required")), [Kind::Unauthenticated; 2]);
        // A word counts more than the status: a limit on calls and a quota both come with 403.
        assert_eq!(of(refused(403, "rateLimitExceeded")), [Kind::RateLimited; 2]);
        assert_eq!(of(refused(403, "quotaExceeded")), [Kind::QuotaExceeded; 2]);
        assert_eq!(of(refused(503, "ZONE_RESOURCE_POOL_EXHAUSTED")), [Kind::NoCapacity; 2]);
        let page = Failure::refused(StatusCode::BAD_GATEWAY, &HeaderMap::new(), b"<html>");
        assert_eq!(of(page), [Kind::Unavailable, Kind::Unclear]);
    }

    #[test]
    fn what_is_repeated_of_the_script_is_not_told_on() {
        let message =
            "Invalid value for field 'metadata': '#!/bin/bash jit_config=abcdefgh'. It is too long.";
        let body = json!({"error": {"message": message, "errors": [{"reason": "invalid"}]}}).to_string();
        let failure = Failure::refused(StatusCode::BAD_REQUEST, &HeaderMap::new(), body.as_bytes());
        let failure = failure.without(&["abcdefgh", "#!/bin/bash"]);
        assert_eq!(failure.to_string(), "invalid: Invalid value for field 'metadata': '...");
    }

    #[test]
    fn the_plainest_reason_comes_first_and_details_count() {
        let body = json!({"error": {"code": 403, "message": "m", "status": "PERMISSION_DENIED", "details": [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED"},
        ]}});
        let failure = Failure::refused(StatusCode::FORBIDDEN, &HeaderMap::new(), body.to_string().as_bytes());
        assert_eq!(failure.meaning(Effect::Some), Kind::RateLimited);
        assert_eq!(failure.to_string(), "RATE_LIMIT_EXCEEDED: m");
        assert!(told(&"x".repeat(1000)).len() < 410);
    }
}
