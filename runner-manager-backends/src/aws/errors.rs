//! What the failures of AWS' services mean: a refusal counts by its code, and by its status where the code is
//! not known. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use hyper_util::client::legacy::Error as HttpError;
use runner_manager_core::backend::{BackendError, BackendErrorKind};
use runner_manager_core::retry::Retry;

/// The most of what a service says that is told on.
const MOST_TOLD: usize = 300;

/// For how long nobody asks again after EC2 said that there are too many calls: its bucket for starting instances
/// gets two tokens a second, and it does not tell of a time.
/// <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>
const THROTTLE_PAUSE: Duration = Duration::from_secs(2);

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A service's refusal.
    #[error("{code}: {message}")]
    Refused {
        /// The service's word for it.
        code: String,
        /// What it says of it.
        message: String,
        status: u16,
    },
    /// There are no credentials: nothing was sent.
    #[error("there are no credentials: {0}")]
    NoCredentials(String),
    /// Credentials could not be had just now: nothing was sent.
    #[error("the credentials could not be had: {0}")]
    CredentialsLate(String),
    /// The call makes no sense to the SDK: nothing was sent.
    #[error("{0}")]
    Senseless(String),
    /// There is no connection to the service: nothing was sent.
    #[error("the service cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time, or one that cannot be used.
    #[error("the answer was lost: {0}")]
    Unanswered(String),
    /// Something that the settings name does not exist; in whole words.
    #[error("{0}")]
    Missing(String),
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

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        if let SdkError::ServiceError(refusal) = &error {
            let (code, message) = (refusal.err().code(), refusal.err().message());
            return Self::Refused {
                code: code.unwrap_or("no code").to_owned(),
                message: told(message.unwrap_or("without a reason")),
                status: refusal.raw().status().as_u16(),
            };
        }
        let source = error.source();
        let words = told(&chain(source));
        if let Some(why) = source.and_then(find::<CredentialsError>) {
            return of_credentials(why, words);
        }
        match &error {
            SdkError::ConstructionFailure(_) => Self::Senseless(words),
            SdkError::DispatchFailure(_)
                if source.and_then(find::<HttpError>).is_some_and(HttpError::is_connect) =>
            {
                Self::Unreachable(words)
            }
            _ => Self::Unanswered(words),
        }
    }
}

/// A provider that asks a service may have been refused by it, which is said by the words alone.
fn of_credentials(why: &CredentialsError, words: String) -> Failure {
    const REFUSALS: [&str; 7] = [
        "AccessDenied",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "UnauthorizedException",
        "InvalidIdentityToken",
        "NoSuchEntity",
    ];
    let refused = REFUSALS.iter().any(|word| words.contains(word));
    match why {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            Failure::NoCredentials(words)
        }
        _ if refused => Failure::NoCredentials(words),
        _ => Failure::CredentialsLate(words),
    }
}

/// The first error of a kind among what is behind an error, itself included.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |error| (**error).source()).find_map(|error| error.downcast_ref())
}

fn chain(error: Option<&(dyn Error + 'static)>) -> String {
    let mut words: Vec<String> = Vec::new();
    for error in std::iter::successors(error, |error| (**error).source()) {
        let text = error.to_string();
        if words.last().is_none_or(|last| !last.contains(&text)) {
            words.push(text);
        }
    }
    if words.is_empty() { "nobody says why".to_owned() } else { words.join(": ") }
}

/// What is told on of a service's words. What is encoded in a refusal is for administrators' tools, and long.
pub(super) fn told(words: &str) -> String {
    let words = words.split("Encoded authorization failure message").next().unwrap_or_default().trim();
    let mut told: String =
        words.chars().map(|char| if char.is_control() { ' ' } else { char }).take(MOST_TOLD).collect();
    if told.len() < words.len() {
        told.push_str("...");
    }
    told
}

/// What a refusal's code means; `None` for one that is not known.
pub(super) fn meaning(code: &str, message: &str) -> Option<BackendErrorKind> {
    use BackendErrorKind as Kind;
    Some(match code {
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacityOnHost"
        | "InsufficientCapacity"
        | "InsufficientFreeAddressesInSubnet"
        | "InsufficientAddressCapacity"
        | "InsufficientVolumeCapacity"
        | "ReservationCapacityExceeded"
        | "UnfulfillableCapacity"
        | "SpotMaxPriceTooLow" => Kind::NoCapacity,
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "EC2ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "SlowDown" => Kind::RateLimited,
        "MaxSpotInstanceCountExceeded"
        | "MaxSpotFleetRequestCountExceeded"
        | "RequestResourceCountExceeded"
        | "PendingVerification" => Kind::QuotaExceeded,
        _ if code.ends_with("LimitExceeded") || code.ends_with("QuotaExceeded") => Kind::QuotaExceeded,
        // Of an image that is somebody else's, and not shared.
        "AuthFailure" if message.contains("Not authorized for images") => Kind::NotFound,
        "AuthFailure"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidAccessKeyId"
        | "OptInRequired" => Kind::Unauthenticated,
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
        | "Blocked" => Kind::PermissionDenied,
        // An instance was made with this token before: which, is found by its name.
        "IdempotentParameterMismatch" | "IdempotentInstanceTerminated" => Kind::Unclear,
        "NoSuchEntity" | "ParameterNotFound" | "InvalidAMIID.Unavailable" | "VPCIdNotSpecified" => {
            Kind::NotFound
        }
        _ if code.ends_with(".NotFound") => Kind::NotFound,
        "InternalError" | "InternalFailure" | "Unavailable" | "ServiceUnavailable" | "ServerInternal" => {
            return None;
        }
        "Unsupported" | "UnsupportedOperation" | "UnsupportedInstanceTypeOnHost" | "NoSuchVersion" => {
            Kind::InvalidConfig
        }
        "OperationNotPermitted" | "IncorrectInstanceState" | "IncorrectState" => Kind::Unexpected,
        _ if ["Invalid", "Missing", "Unknown", "Malformed", "Validation", "Unsupported", "Gateway"]
            .iter()
            .any(|beginning| code.starts_with(beginning)) =>
        {
            Kind::InvalidConfig
        }
        _ => return None,
    })
}

impl Failure {
    /// The code of a refusal.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            _ => "",
        }
    }

    pub(super) fn meaning(&self, effect: Effect) -> BackendErrorKind {
        match self {
            Self::Refused { code, message, status } => meaning(code, message).unwrap_or(if *status >= 500 {
                effect.unanswered()
            } else {
                BackendErrorKind::Unexpected
            }),
            Self::NoCredentials(_) => BackendErrorKind::Unauthenticated,
            Self::CredentialsLate(_) | Self::Unreachable(_) => BackendErrorKind::Unavailable,
            Self::Unanswered(_) => effect.unanswered(),
            Self::Missing(_) => BackendErrorKind::NotFound,
            Self::Senseless(_) | Self::Unfit(_) => BackendErrorKind::InvalidConfig,
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
        if kind == BackendErrorKind::RateLimited { error.retry(Retry::After(THROTTLE_PAUSE)) } else { error }
    }
}

#[cfg(test)]
mod tests {
    use runner_manager_core::backend::BackendErrorKind as Kind;

    use super::{Effect, Failure, meaning, told};

    #[test]
    fn codes_are_told_apart() {
        for (code, message, kind) in [
            ("InsufficientInstanceCapacity", "", Kind::NoCapacity),
            ("InsufficientFreeAddressesInSubnet", "", Kind::NoCapacity),
            ("VcpuLimitExceeded", "", Kind::QuotaExceeded),
            ("MaxSpotInstanceCountExceeded", "", Kind::QuotaExceeded),
            ("RequestLimitExceeded", "", Kind::RateLimited),
            ("UnauthorizedOperation", "", Kind::PermissionDenied),
            (
                "AuthFailure",
                "AWS was not able to validate the provided access credentials",
                Kind::Unauthenticated,
            ),
            ("AuthFailure", "Not authorized for images: [ami-1]", Kind::NotFound),
            ("InvalidAMIID.NotFound", "", Kind::NotFound),
            ("InvalidParameterCombination", "", Kind::InvalidConfig),
            ("Unsupported", "not supported in your requested Availability Zone", Kind::InvalidConfig),
            ("IdempotentParameterMismatch", "", Kind::Unclear),
        ] {
            assert_eq!(meaning(code, message), Some(kind), "{code}");
        }
    }

    #[test]
    fn what_is_not_known_counts_by_its_status() {
        let of = |code: &str, status| {
            let failure = Failure::Refused { code: code.to_owned(), message: String::new(), status };
            [failure.meaning(Effect::None), failure.meaning(Effect::Some)]
        };
        assert_eq!(of("InternalError", 500), [Kind::Unavailable, Kind::Unclear]);
        assert_eq!(of("no code", 502), [Kind::Unavailable, Kind::Unclear]);
        assert_eq!(of("SomethingNew", 400), [Kind::Unexpected, Kind::Unexpected]);
        // A limit on calls is told with a status of 503, and the call had no effect.
        assert_eq!(of("RequestLimitExceeded", 503), [Kind::RateLimited, Kind::RateLimited]);
    }

    #[test]
    fn what_is_encoded_is_not_told_on() {
        let words =
            "You are not authorized to perform this operation. Encoded authorization failure message: abc";
        assert_eq!(told(words), "You are not authorized to perform this operation.");
        assert!(told(&"x".repeat(1000)).len() < 310);
    }
}
