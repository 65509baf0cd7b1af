//! One call: its request, and what an answer to it means, by its status and where that is not enough by its
//! headers and body.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::transport::{CallName, TransportError};
use crate::github::{GitHubError, GitHubErrorKind};
use crate::retry::Retry;

/// How long to stay away where GitHub says "too many calls" without saying for how long. Its documentation
/// asks for at least a minute.
const UNANNOUNCED_WAIT: Duration = Duration::from_mins(1);
/// The longest wait that is taken from an answer. GitHub's periods last an hour.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// How much of what GitHub says is kept, in characters.
const LONGEST_DETAIL: usize = 500;

/// What is asked of GitHub, as far as its refusals differ in meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing changes.
    Read,
    /// Something is made under a name that nothing else has: a registration, a runner group.
    Register,
    /// A registration is removed.
    Remove,
    /// Anything else that changes something.
    Write,
}

/// A call: its name for errors, and its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) effect: Effect,
}

impl Operation {
    pub(super) const fn read(name: &'static str) -> Self {
        Self { name, effect: Effect::Read }
    }

    pub(super) fn get(self, path: &str) -> Result<Request<Bytes>, GitHubError> {
        self.request(Method::GET, path, Bytes::new())
    }

    pub(super) fn post(self, path: &str, body: &impl Serialize) -> Result<Request<Bytes>, GitHubError> {
        self.send(Method::POST, path, body)
    }

    /// A request with a body.
    pub(super) fn send(
        self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Request<Bytes>, GitHubError> {
        let body = serde_json::to_vec(body).expect("our bodies are plain data, which always serializes");
        self.request(method, path, body.into())
    }

    /// A request to be sent. Names were checked when they were read, but a link is what GitHub made it.
    pub(super) fn request(
        self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Bytes>, GitHubError> {
        let mut request = Request::builder().method(method).uri(path).extension(CallName(self.name));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(body).map_err(|why| {
            self.error(GitHubErrorKind::Unexpected, "this makes no address at GitHub").because(why)
        })
    }

    /// The JSON of an answer of success.
    pub(super) fn read_json<T: DeserializeOwned>(self, answer: &Response<Bytes>) -> Result<T, GitHubError> {
        serde_json::from_slice(answer.body()).map_err(|why| self.unreadable(why))
    }

    pub(super) fn error(self, kind: GitHubErrorKind, detail: impl Into<String>) -> GitHubError {
        GitHubError::new(kind, self.name, detail)
    }

    /// What it means when the call was sent and no usable answer came: a read had no effect.
    const fn without_answer(self) -> GitHubErrorKind {
        match self.effect {
            Effect::Read => GitHubErrorKind::Unavailable,
            Effect::Register | Effect::Remove | Effect::Write => GitHubErrorKind::Unclear,
        }
    }

    /// The error for an answer of success that cannot be read. What it quotes is a kind of value, no secret.
    pub(super) fn unreadable(self, why: serde_json::Error) -> GitHubError {
        let kind = match self.effect {
            Effect::Read => GitHubErrorKind::Unexpected,
            Effect::Register | Effect::Remove | Effect::Write => GitHubErrorKind::Unclear,
        };
        self.error(kind, "GitHub's answer cannot be read").because(why)
    }

    /// The error for an answer that is not success.
    pub(super) fn refusal(self, answer: &Response<Bytes>, now: Timestamp) -> GitHubError {
        let (status, said) = (answer.status(), said(answer));
        if let Some(wait) = rate_limit(answer, &said, now) {
            return self.error(GitHubErrorKind::RateLimited, said).retry(Retry::After(wait));
        }
        let kind = self.kind(status);
        let error = self.error(kind, said);
        match announced(answer.headers()).filter(|_| status.is_server_error()) {
            Some(wait) => error.retry(Retry::After(wait)),
            None => error,
        }
    }

    fn kind(self, status: StatusCode) -> GitHubErrorKind {
        match (status.as_u16(), self.effect) {
            (401, _) => GitHubErrorKind::Unauthenticated,
            (403, _) => GitHubErrorKind::PermissionDenied,
            (404 | 410, _) => GitHubErrorKind::NotFound,
            (409, Effect::Register) => GitHubErrorKind::NameTaken,
            (422, Effect::Remove) => GitHubErrorKind::Busy,
            // A redirect comes here where it was not followed: the scope has another name now.
            (300..=400 | 422, _) => GitHubErrorKind::Invalid,
            (500.., _) => self.without_answer(),
            _ => GitHubErrorKind::Unexpected,
        }
    }

    /// The error for a call that the transport got no answer to.
    pub(super) fn unanswered(self, error: TransportError, now: Timestamp) -> GitHubError {
        match error {
            TransportError::NotSent(_) => {
                self.error(GitHubErrorKind::Unavailable, "GitHub could not be reached").because(error)
            }
            TransportError::Unclear(_) => {
                self.error(self.without_answer(), "GitHub did not answer").because(error)
            }
            TransportError::TooLarge { .. } => {
                let kind = match self.effect {
                    Effect::Read => GitHubErrorKind::Unexpected,
                    Effect::Register | Effect::Remove | Effect::Write => GitHubErrorKind::Unclear,
                };
                self.error(kind, "GitHub's answer is too large").because(error)
            }
            TransportError::Refused { app, account, answer } => self.refused(app, &account, &answer, now),
            TransportError::Held { pause, .. } => {
                self.error(GitHubErrorKind::RateLimited, error.to_string()).retry(Retry::After(pause))
            }
            TransportError::NoApp => {
                self.error(GitHubErrorKind::Invalid, "this needs an App, and there is only a token")
            }
        }
    }
}

impl Operation {
    /// The error for a call that was not sent, since GitHub gave no credentials for it: it had no effect. An
    /// App that is not installed must not look like a runner that is not registered.
    pub(super) fn refused(
        self,
        app: u64,
        account: &str,
        answer: &Response<Bytes>,
        now: Timestamp,
    ) -> GitHubError {
        let refused = Self::read(self.name).refusal(answer, now);
        let said = &refused.detail;
        let (kind, detail) = match refused.kind {
            GitHubErrorKind::NotFound => (GitHubErrorKind::NoInstallation, not_installed(app, account)),
            _ if is_about_suspension(answer) => (GitHubErrorKind::NoInstallation, suspended(app, account)),
            GitHubErrorKind::Unauthenticated => (GitHubErrorKind::Unauthenticated, unknown_app(app, said)),
            kind => (kind, format!("GitHub gave App {app} no credentials for {account}: {said}")),
        };
        let error = self.error(kind, detail);
        if kind == GitHubErrorKind::NoInstallation { error } else { error.retry(refused.retry) }
    }
}

/// What to do about an App without an installation.
pub(super) fn not_installed(app: u64, account: &str) -> String {
    format!(
        "App {app} is not installed on {account}, or may not see this: install it there{}",
        for_enterprise(account)
    )
}

/// What to do about an App whose installation is suspended.
pub(super) fn suspended(app: u64, account: &str) -> String {
    format!(
        "the installation of App {app} on {account} is suspended: lift that in the settings of {account} under \
         GitHub Apps{}",
        for_enterprise(account)
    )
}

/// What to do about an App that GitHub does not take for one.
pub(super) fn unknown_app(app: u64, said: &str) -> String {
    format!("GitHub does not know App {app} by its id and private key ({said}): check both")
}

/// What works where an App may not: <https://docs.github.com/rest/actions/self-hosted-runners>.
pub(super) const CLASSIC_TOKEN: &str = "; for the runners of an enterprise GitHub documents a classic token with \
                                        `manage_runners:enterprise`, and no permission of an App";

fn for_enterprise(account: &str) -> &'static str {
    if account.starts_with("enterprise ") { CLASSIC_TOKEN } else { "" }
}

/// Whether a refusal says that an installation is suspended.
pub(super) fn is_about_suspension(answer: &Response<Bytes>) -> bool {
    answer.status() == StatusCode::FORBIDDEN && said(answer).to_lowercase().contains("suspended")
}

/// For how long an answer wants nothing more of whoever asked: there were too many calls, or this was the last
/// one of its period.
#[cfg_attr(not(feature = "octocrab"), expect(dead_code, reason = "only a transport with an App asks"))]
pub(crate) fn asks_to_wait(answer: &Response<Bytes>, now: Timestamp) -> Option<Duration> {
    let spent = number(answer.headers(), "x-ratelimit-remaining") == Some(0);
    let left = || until_reset(answer.headers(), now).unwrap_or(UNANNOUNCED_WAIT);
    rate_limit(answer, &said(answer), now).or_else(|| spent.then(left))
}

/// How long to stay away, where an answer says that there were too many calls.
fn rate_limit(answer: &Response<Bytes>, said: &str, now: Timestamp) -> Option<Duration> {
    let (status, headers) = (answer.status(), answer.headers());
    if status != StatusCode::FORBIDDEN && status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    if let Some(wait) = announced(headers) {
        return Some(wait);
    }
    if number(headers, "x-ratelimit-remaining") == Some(0) {
        return Some(until_reset(headers, now).unwrap_or(UNANNOUNCED_WAIT));
    }
    let said = said.to_lowercase();
    let named = said.contains("rate limit") || said.contains("abuse detection");
    (named || status == StatusCode::TOO_MANY_REQUESTS).then_some(UNANNOUNCED_WAIT)
}

fn announced(headers: &HeaderMap) -> Option<Duration> {
    let header = headers.get("retry-after")?;
    let seconds = header.to_str().ok().and_then(|text| text.trim().parse().ok());
    Some(seconds.map_or(UNANNOUNCED_WAIT, Duration::from_secs).min(LONGEST_WAIT))
}

fn until_reset(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let reset = i64::try_from(number(headers, "x-ratelimit-reset")?).ok()?;
    let wait = Timestamp::from_second(reset).ok()?.duration_since(answered_at(headers, now));
    // A reset that is past by our clock is near by GitHub's.
    Some(Duration::try_from(wait).unwrap_or(Duration::from_secs(1)).min(LONGEST_WAIT))
}

/// When an answer was given, by GitHub's clock: what it says of times is meant by that, and ours may be off.
pub(super) fn answered_at(headers: &HeaderMap, now: Timestamp) -> Timestamp {
    dated(headers).unwrap_or(now)
}

/// The date of an answer.
fn dated(headers: &HeaderMap) -> Option<Timestamp> {
    let date = headers.get(DATE)?.to_str().ok()?;
    rfc2822::parse(date).ok().map(|told| told.timestamp())
}

/// How far GitHub's clock is ahead of ours, by the date of an answer that was on its way between two points in
/// time: not at all where the date is between them.
pub(crate) fn clocks_apart(headers: &HeaderMap, begun: Timestamp, now: Timestamp) -> Option<SignedDuration> {
    let told = dated(headers)?;
    Some(told.duration_since(told.clamp(begun, now.max(begun))))
}

/// A header that holds a number.
pub(super) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
    #[serde(default)]
    errors: Value,
}

/// What GitHub says in an answer, for people.
fn said(answer: &Response<Bytes>) -> String {
    let text = match serde_json::from_slice::<ErrorBody>(answer.body()) {
        Ok(ErrorBody { message, errors: Value::Null }) => message,
        Ok(ErrorBody { message, errors }) => format!("{message} {errors}"),
        Err(_) => String::new(),
    };
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text: String = text.chars().take(LONGEST_DETAIL).collect();
    let status = answer.status();
    if text.is_empty() { format!("status {status}") } else { format!("status {}: {text}", status.as_u16()) }
}
