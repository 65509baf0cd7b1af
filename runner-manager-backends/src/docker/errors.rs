//! What the engine's failures mean: its words count first, its status where they say nothing.

use std::fmt;

use bollard::errors::Error;
use runner_manager_core::backend::{BackendError, BackendErrorKind};

/// A failed call to the engine, with what it was about.
#[derive(Debug)]
pub(super) enum Failure {
    /// The engine, or the way to it.
    Engine(Error),
    /// No answer in time.
    TimedOut(runner_manager_core::clock::TimedOut),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<runner_manager_core::clock::TimedOut> for Failure {
    fn from(timed_out: runner_manager_core::clock::TimedOut) -> Self {
        Self::TimedOut(timed_out)
    }
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

impl Failure {
    /// The status of the engine's refusal, where it was one.
    pub(super) const fn status(&self) -> Option<u16> {
        match self {
            Self::Engine(Error::DockerResponseServerError { status_code, .. }) => Some(*status_code),
            _ => None,
        }
    }

    /// What the engine said, in lower case; empty where it said nothing.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Engine(
                Error::DockerResponseServerError { message, .. }
                | Error::DockerStreamError { error: message },
            ) => message.to_ascii_lowercase(),
            _ => String::new(),
        }
    }

    /// What kind of failure it is for a call of that effect.
    pub(super) fn kind(&self, effect: Effect) -> BackendErrorKind {
        match self {
            Self::TimedOut(_) => effect.unanswered(),
            Self::Engine(error) => match error {
                Error::DockerResponseServerError { status_code, .. } => {
                    by_words(&self.words()).unwrap_or_else(|| by_status(*status_code, effect))
                }
                Error::DockerStreamError { .. } => {
                    by_words(&self.words()).unwrap_or(BackendErrorKind::Unexpected)
                }
                Error::SocketNotFoundError(_) => BackendErrorKind::Unavailable,
                Error::HyperLegacyError { err } if err.is_connect() => BackendErrorKind::Unavailable,
                _ => effect.unanswered(),
            },
        }
    }

    /// The error of a call, which was about `what`.
    pub(super) fn into_error(
        self,
        operation: &'static str,
        effect: Effect,
        what: impl fmt::Display,
    ) -> BackendError {
        let kind = self.kind(effect);
        let said = match &self {
            Self::Engine(Error::DockerResponseServerError { message, .. }) => message.trim().to_owned(),
            Self::Engine(Error::DockerStreamError { error }) => error.trim().to_owned(),
            Self::Engine(Error::SocketNotFoundError(path)) => {
                format!("there is no socket {path}: is the engine running?")
            }
            Self::Engine(Error::HyperLegacyError { err }) if err.is_connect() => {
                "the engine cannot be reached".to_owned()
            }
            Self::Engine(Error::RequestTimeoutError) => "the engine did not answer in time".to_owned(),
            Self::Engine(_) => "the engine's answer broke off or could not be read".to_owned(),
            Self::TimedOut(timed_out) => format!("the engine gave {timed_out}"),
        };
        let error = BackendError::new(kind, operation, format!("{what}: {said}"));
        match self {
            // It quotes the answer, and an answer that tells of a container bears its JIT config.
            Self::Engine(Error::JsonDataError { .. }) => error,
            Self::Engine(source) => error.because(source),
            Self::TimedOut(source) => error.because(source),
        }
    }
}

/// What the engine's words tell. They are those of moby's daemon and of registries.
fn by_words(words: &str) -> Option<BackendErrorKind> {
    let has = |any: &[&str]| any.iter().any(|part| words.contains(part));
    if has(&["toomanyrequests", "rate limit"]) {
        Some(BackendErrorKind::RateLimited)
    } else if has(&["no space left on device", "cannot allocate memory"]) {
        Some(BackendErrorKind::NoCapacity)
    } else if has(&["denied: requested access", "pull access denied", "insufficient_scope"]) {
        // Docker Hub says so of what does not exist, too.
        Some(BackendErrorKind::PermissionDenied)
    } else if has(&["unauthorized", "no basic auth credentials"]) {
        Some(BackendErrorKind::Unauthenticated)
    } else if has(&[
        "no such image",
        "manifest unknown",
        "manifest for",
        "no matching manifest",
        "repository name not known",
    ]) {
        Some(BackendErrorKind::NotFound)
    } else if has(&[
        "no such host",
        "connection refused",
        "i/o timeout",
        "network is unreachable",
        "tls handshake",
    ]) {
        Some(BackendErrorKind::Unavailable)
    } else if has(&["network ", "volume "]) && has(&["not found", "no such"]) {
        Some(BackendErrorKind::NotFound)
    } else if has(&[
        "oci runtime",
        "executable file not found",
        "unknown runtime",
        "unknown or invalid runtime",
        "memory limit",
        "range of cpus",
        "invalid reference format",
        "invalid volume",
        "invalid mount",
        "invalid bind",
        "bind source path does not exist",
        "mount denied",
        "unable to find user",
        "invalid characters",
    ]) {
        Some(BackendErrorKind::InvalidConfig)
    } else {
        None
    }
}

const fn by_status(status: u16, effect: Effect) -> BackendErrorKind {
    match status {
        400 | 409 | 422 => BackendErrorKind::InvalidConfig,
        401 => BackendErrorKind::Unauthenticated,
        403 => BackendErrorKind::PermissionDenied,
        404 => BackendErrorKind::NotFound,
        429 => BackendErrorKind::RateLimited,
        501 => BackendErrorKind::Unsupported,
        503 => BackendErrorKind::Unavailable,
        // The engine itself does not use these: something between us and it does.
        502 | 504 => effect.unanswered(),
        _ => BackendErrorKind::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use bollard::errors::Error;
    use runner_manager_core::backend::BackendErrorKind;

    use super::{Effect, Failure};

    fn refused(status_code: u16, message: &str) -> Failure {
        Failure::Engine(Error::DockerResponseServerError { status_code, message: message.to_owned() })
    }

    /// The messages are the engine's own, of versions 20.10 to 28.
    #[test]
    fn words_count_more_than_the_status() {
        for (status, words, kind) in [
            (404, "No such image: nope:latest", BackendErrorKind::NotFound),
            (404, "network nowhere not found", BackendErrorKind::NotFound),
            (500, "write /var/lib/docker/x: no space left on device", BackendErrorKind::NoCapacity),
            (400, "Minimum memory limit allowed is 6MB", BackendErrorKind::InvalidConfig),
            (
                500,
                "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs",
                BackendErrorKind::InvalidConfig,
            ),
            (
                400,
                "OCI runtime create failed: exec: \"/x\": no such file or directory",
                BackendErrorKind::InvalidConfig,
            ),
            (404, "pull access denied for x, repository does not exist", BackendErrorKind::PermissionDenied),
            (500, "Get \"https://r/v2/\": dial tcp: lookup r: no such host", BackendErrorKind::Unavailable),
            (500, "toomanyrequests: You have reached your pull rate limit", BackendErrorKind::RateLimited),
            (500, "unauthorized: authentication required", BackendErrorKind::Unauthenticated),
            (500, "something else", BackendErrorKind::Unexpected),
            (504, "", BackendErrorKind::Unclear),
        ] {
            assert_eq!(refused(status, words).kind(Effect::Some), kind, "{status} {words}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_unclear_and_not_quoted() {
        let broken = Error::JsonDataError { message: "a-jit-config".to_owned(), column: 1 };
        let error = Failure::Engine(broken).into_error("create", Effect::Some, "container x");
        assert_eq!(error.kind, BackendErrorKind::Unclear);
        assert!(!format!("{error:?} {error}").contains("a-jit-config"));
    }

    #[test]
    fn a_missing_socket_is_told_by_name() {
        let failure = Failure::Engine(Error::SocketNotFoundError("/no/socket".to_owned()));
        let error = failure.into_error("create", Effect::Some, "engine");
        assert_eq!(error.kind, BackendErrorKind::Unavailable);
        assert!(error.detail.contains("/no/socket"));
    }
}
