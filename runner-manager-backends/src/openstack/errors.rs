//! What the failures of OpenStack's services mean: a refusal counts by its words first, and by its status where the
//! words say nothing.

use std::error::Error as _;
use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use runner_manager_core::backend::{BackendError, BackendErrorKind};
use runner_manager_core::clock::TimedOut;
use runner_manager_core::domain::InstanceFailure;
use runner_manager_core::retry::Retry;
use serde_json::Value;

use super::catalog::Service;

/// The most of what a service says that is told on.
const MOST_TOLD: usize = 300;

/// The longest word that is told on: an id has 36 characters, and names of policies twice as many.
const MOST_OF_A_WORD: usize = 100;

/// The longest pause that a service may ask for.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A service's refusal, or that of a proxy before it.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// The service could not be reached: nothing was sent.
    #[error("the service cannot be reached: {0}")]
    Unreachable(String),
    /// Keystone refused who signs in: nothing was sent to another service.
    #[error("Keystone refuses who signs in: {0}")]
    NotSignedIn(String),
    /// Signing in failed for another reason: nothing was sent to another service.
    #[error("signing in: {0}")]
    SigningIn(Box<Self>),
    /// The answer broke off or cannot be read; in words that quote nothing of it.
    #[error("the answer cannot be used: {0}")]
    Broken(String),
    /// No answer in time.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// Something that the settings name does not exist; in whole words.
    #[error("{0}")]
    Missing(String),
    /// The settings and the cloud do not fit together; in whole words.
    #[error("{0}")]
    Unfit(String),
    /// The cloud has no such service, as far as the catalog tells.
    #[error("the catalog has no endpoint of the {service} service{place}")]
    NoService {
        /// The service.
        service: Service,
        /// Where it was looked for.
        place: String,
    },
    /// A part of the cloud does not answer, so that what it has is unknown.
    #[error("{0}")]
    Incomplete(String),
}

/// A refusal.
#[derive(Debug, thiserror::Error)]
#[error("{status}{}{}: {message}", if kind.is_empty() { "" } else { " " }, kind)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// The word for it in the answer, such as `badRequest` or `OverQuota`; empty where there is none.
    pub(super) kind: String,
    /// What the service says of it.
    pub(super) message: String,
    retry_after: Option<Duration>,
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
        if !error.is_connect() {
            return Self::Broken("the connection ended before the answer did".to_owned());
        }
        let mut told = String::new();
        let mut behind = error.source();
        while let Some(source) = behind {
            told = format!("{told}{}{source}", if told.is_empty() { "" } else { ": " });
            behind = source.source();
        }
        if told.contains("certificate") {
            told.push_str(" (give ca_file)");
        }
        Self::Unreachable(told)
    }
}

impl Refusal {
    /// Reads a refusal. Nova and Cinder wrap its words in an object that is called like its kind, Neutron tells the
    /// kind as `type`, Keystone as `title`; Glance and proxies answer with pages, which are not told on.
    pub(super) fn read(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let wrapped = answer.as_object().and_then(|object| object.iter().next());
        let (word, inner) = wrapped.map_or(("", &Value::Null), |(word, inner)| (word.as_str(), inner));
        let text = |key: &str| inner[key].as_str().or_else(|| answer[key].as_str());
        let kind =
            text("type").or_else(|| text("title")).unwrap_or(if inner.is_object() { word } else { "" });
        let message = text("message").or_else(|| inner.as_str()).map(told);
        let message =
            message.unwrap_or_else(|| if is_a_balancers(status, body) { NOBODY } else { SILENCE }.to_owned());
        Self { status, kind: told(kind), message, retry_after: pause(headers) }
    }

    /// What it means for a call.
    fn meaning(&self, effect: Effect) -> BackendErrorKind {
        match (self.status, shortage(&format!("{} {}", self.kind, self.message))) {
            (500.., _) if self.had_no_effect() => BackendErrorKind::Unavailable,
            (405 | 406 | 501, None) => BackendErrorKind::Unsupported,
            (500.., _) => effect.unanswered(),
            (_, Some(InstanceFailure::QuotaExceeded)) => BackendErrorKind::QuotaExceeded,
            (_, Some(_)) => BackendErrorKind::NoCapacity,
            (401, None) => BackendErrorKind::Unauthenticated,
            (403, None) => BackendErrorKind::PermissionDenied,
            (404, None) => BackendErrorKind::NotFound,
            (413 | 429, None) => BackendErrorKind::RateLimited,
            (400, None) if self.tells_missing() => BackendErrorKind::NotFound,
            (400, None) => BackendErrorKind::InvalidConfig,
            // Several networks to choose from; a port or a name that is in use; a server that is locked.
            (409, None) if self.message.contains("Multiple possible networks") => {
                BackendErrorKind::InvalidConfig
            }
            (_, None) => BackendErrorKind::Unexpected,
        }
    }

    /// Whether a 5xx says that the request reached nobody who could have acted on it: a load balancer without
    /// servers, or a service that could not ask Keystone about the token.
    fn had_no_effect(&self) -> bool {
        self.status == 503
            && (self.message == NOBODY
                || self.message.contains("Keystone service is temporarily unavailable"))
    }

    /// Nova tells of what does not exist as of a bad request.
    fn tells_missing(&self) -> bool {
        const WORDS: [&str; 5] =
            ["could not be found", "an not find", "nable to find", "Invalid key_name", "Invalid imageRef"];
        WORDS.iter().any(|words| self.message.contains(words))
    }
}

/// What `HAProxy` answers where it has nobody to hand a request to.
const NOBODY: &str = "the load balancer has no server for it";

/// What stands in for words that are not there.
const SILENCE: &str = "without a reason";

fn is_a_balancers(status: u16, body: &[u8]) -> bool {
    let page = String::from_utf8_lossy(&body[..body.len().min(1000)]);
    status == 503 && page.contains("No server is available to handle this request")
}

/// What the words of a refusal, or of a server's fault, say is short; `None` where they speak of something else.
pub(super) fn shortage(words: &str) -> Option<InstanceFailure> {
    const QUOTA: [&str; 8] = [
        "quota exceeded",
        "overquota",
        "over quota",
        "exceeds quota",
        "exceeds available quota",
        "exceeds allowed",
        "maximum number of ports exceeded",
        "maximum number of floating ips exceeded",
    ];
    const ROOM: [&str; 6] = [
        "no valid host",
        "no fixed ip addresses",
        "no more ip addresses",
        "ipaddressgenerationfailure",
        "externalipaddressexhausted",
        "insufficient compute resources",
    ];
    let words = words.to_lowercase();
    let says = |all: &[&str]| all.iter().any(|some| words.contains(some));
    if says(&QUOTA) {
        Some(InstanceFailure::QuotaExceeded)
    } else if says(&ROOM) {
        Some(InstanceFailure::NoCapacity)
    } else {
        None
    }
}

/// What is told on of a service's words. What comes after `Value:` repeats what it was sent, where user data with a
/// JIT config may be; so may any word that is longer than words are.
pub(super) fn told(words: &str) -> String {
    let words = words.split("Value:").next().unwrap_or_default();
    let short = words.split_whitespace().map(|word| if word.len() > MOST_OF_A_WORD { "..." } else { word });
    let whole = short.collect::<Vec<_>>().join(" ");
    match whole.char_indices().nth(MOST_TOLD) {
        Some((end, _)) => format!("{}...", &whole[..end]),
        None => whole,
    }
}

/// How long to wait, where the service says so in seconds.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

impl Failure {
    /// Whether the service says that what was asked for does not exist.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == 404)
    }

    /// Whether Keystone refuses who signs in: 404 is its word for an application credential that it does not know.
    pub(super) fn refuses_credentials(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                refusal.status == 401 || (refusal.status == 404 && !refusal.kind.is_empty())
            }
            _ => false,
        }
    }

    /// Whether it is a refusal of a status.
    pub(super) fn is(&self, status: u16) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == status)
    }

    fn meaning(&self, effect: Effect) -> BackendErrorKind {
        match self {
            Self::Refused(refusal) => refusal.meaning(effect),
            Self::Unreachable(_) | Self::Incomplete(_) => BackendErrorKind::Unavailable,
            Self::NotSignedIn(_) => BackendErrorKind::Unauthenticated,
            // Whatever came of it, the call itself was not made.
            Self::SigningIn(failure) => failure.meaning(Effect::None),
            Self::Broken(_) | Self::TimedOut(_) => effect.unanswered(),
            Self::Missing(_) => BackendErrorKind::NotFound,
            Self::Unfit(_) | Self::NoService { .. } => BackendErrorKind::InvalidConfig,
        }
    }

    /// The error of an operation on something.
    pub(super) fn into_error(
        self,
        operation: &'static str,
        effect: Effect,
        what: impl std::fmt::Display,
    ) -> BackendError {
        let error = BackendError::new(self.meaning(effect), operation, format!("{what}: {self}"));
        match self {
            Self::Refused(refusal) => match refusal.retry_after {
                Some(pause) => error.retry(Retry::After(pause)),
                None => error,
            },
            _ => error,
        }
    }
}
