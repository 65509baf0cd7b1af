//! What vCenter's failures mean: a fault counts by its type, and only what is no fault by its status.

use std::error::Error as _;
use std::fmt;

use runner_manager_core::backend::{BackendError, BackendErrorKind};
use runner_manager_core::clock::TimedOut;

use super::xml::{Element, Reference};

/// A failed call.
#[derive(Debug)]
pub(super) enum Failure {
    /// vCenter's refusal.
    Fault(Box<Fault>),
    /// vCenter could not be reached: nothing was sent.
    Unreachable(reqwest::Error),
    /// It did not prove that it is the one: nothing was sent.
    Untrusted(String),
    /// An answer that is not vCenter's: of a proxy before it, or of one that starts up.
    Status(u16),
    /// The answer broke off or cannot be read; in words that quote nothing of it.
    Broken(String),
    /// No answer in time.
    TimedOut(TimedOut),
    /// Something that the settings name does not exist; in whole words.
    Missing(String),
    /// The settings and the inventory do not fit together; in whole words.
    Unfit(String),
}

/// A fault: <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vmodl.MethodFault.html>.
#[derive(Debug)]
pub(super) struct Fault {
    /// The fault's type, such as `NoPermission`.
    pub(super) kind: String,
    /// What vCenter says of it.
    pub(super) message: String,
    /// Its fields.
    pub(super) detail: Element,
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
        match error.source().and_then(tls_error).and_then(untrusted) {
            Some(untrusted) => untrusted,
            None => Self::Unreachable(error),
        }
    }
}

/// The failure of TLS behind an error.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    // An `io::Error` tells as its source what is behind the error in it, and not that itself.
    if let Some(held) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return tls_error(held);
    }
    tls_error(error.source()?)
}

fn untrusted(error: &rustls::Error) -> Option<Failure> {
    match error {
        // What the check of a thumbprint said.
        rustls::Error::General(told) => Some(Failure::Untrusted(told.clone())),
        rustls::Error::InvalidCertificate(why) => Some(Failure::Untrusted(format!(
            "the server's certificate is not trusted ({why}): give ca_file or thumbprint"
        ))),
        _ => None,
    }
}

impl From<TimedOut> for Failure {
    fn from(timed_out: TimedOut) -> Self {
        Self::TimedOut(timed_out)
    }
}

impl Failure {
    /// Whether it is a fault of a type.
    pub(super) fn is(&self, kind: &str) -> bool {
        matches!(self, Self::Fault(fault) if fault.kind == kind)
    }

    /// Whether it is the fault that this object does not exist (any more). A session that was renewed has lost its
    /// collectors, and that fault says no more than that.
    pub(super) fn tells_gone(&self, object: &Reference) -> bool {
        match self {
            Self::Fault(fault) if fault.kind == "ManagedObjectNotFound" => {
                fault.detail.child("obj").and_then(Reference::read).as_ref() == Some(object)
            }
            _ => false,
        }
    }

    /// The task that is in the way, where that is the fault.
    pub(super) fn task_in_the_way(&self) -> Option<Reference> {
        match self {
            Self::Fault(fault) if fault.kind == "TaskInProgress" => {
                fault.detail.child("task").and_then(Reference::read)
            }
            _ => None,
        }
    }

    /// What kind of failure it is for a call of that effect.
    pub(super) fn kind(&self, effect: Effect) -> BackendErrorKind {
        match self {
            Self::Fault(fault) => by_type(&fault.kind, effect),
            Self::Unreachable(_) => BackendErrorKind::Unavailable,
            Self::Untrusted(_) | Self::Unfit(_) => BackendErrorKind::InvalidConfig,
            Self::Missing(_) => BackendErrorKind::NotFound,
            Self::Status(status) => by_status(*status, effect),
            Self::Broken(_) | Self::TimedOut(_) => effect.unanswered(),
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
        let error = BackendError::new(kind, operation, format!("{what}: {self}"));
        match self {
            Self::Unreachable(source) => error.because(source),
            Self::TimedOut(source) => error.because(source),
            _ => error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Unreachable(_) => f.write_str("vCenter cannot be reached"),
            Self::Status(status) => {
                write!(
                    f,
                    "an answer of status {status}, which is not vCenter's own: a proxy's, or it starts up"
                )
            }
            Self::Broken(why) => write!(f, "vCenter's answer is of no use: {why}"),
            Self::TimedOut(timed_out) => write!(f, "vCenter gave {timed_out}"),
            Self::Untrusted(told) | Self::Missing(told) | Self::Unfit(told) => f.write_str(told),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        match self.kind.as_str() {
            "NoPermission" => {
                let privilege = self.detail.text_of("privilegeId").unwrap_or("it does not say which");
                let object = self.detail.text_of("object").unwrap_or("an object");
                write!(f, " (the user lacks the privilege {privilege} on {object})")
            }
            "InvalidLogin" => f.write_str(" (username or password is wrong)"),
            "InvalidArgument" => {
                write!(f, " ({})", self.detail.text_of("invalidProperty").unwrap_or("it does not say which"))
            }
            _ => Ok(()),
        }
    }
}

/// The types are those of vSphere's API reference, where each tells what it extends; the ones that an answer
/// here can be of stand in groups with what they mean to us.
fn by_type(kind: &str, effect: Effect) -> BackendErrorKind {
    match kind {
        "NoDiskSpace"
        | "InsufficientStorageSpace"
        | "InsufficientStorageIops"
        | "NoCompatibleHost"
        | "NoCompatibleHostWithAccessToDevice"
        | "NoCompatibleDatastore"
        | "NotEnoughLicenses"
        | "NotEnoughCpus"
        | "LicenseExpired"
        | "LicenseRestricted"
        | "NoLicenseServerConfigured"
        | "VmLimitLicense" => BackendErrorKind::NoCapacity,
        // InsufficientResourcesFault and all that extend it: CPU, memory, hosts, failover, GPUs, ...
        insufficient if insufficient.starts_with("Insufficient") => BackendErrorKind::NoCapacity,
        "InvalidLogin"
        | "NotAuthenticated"
        | "PasswordExpired"
        | "InvalidClientCertificate"
        | "SSPIChallenge" => BackendErrorKind::Unauthenticated,
        "NoPermission" | "RestrictedVersion" | "HostAccessRestrictedToManagementServer" => {
            BackendErrorKind::PermissionDenied
        }
        "ManagedObjectNotFound" | "NotFound" | "FileNotFound" => BackendErrorKind::NotFound,
        "NotSupported" | "MethodNotFound" | "NotImplemented" | "UnsupportedVimApiVersion" => {
            BackendErrorKind::Unsupported
        }
        "InvalidArgument"
        | "InvalidName"
        | "DuplicateName"
        | "InvalidProperty"
        | "InvalidRequest"
        | "InvalidType"
        | "InvalidFolder"
        | "InvalidDatastore"
        | "InvalidDatastorePath"
        | "FileAlreadyExists"
        | "CannotCreateFile"
        | "UnsupportedGuest"
        | "VmConfigFault"
        | "CustomizationFault"
        | "LinkedCloneNotSupported"
        | "SnapshotFault"
        | "MigrationFault"
        | "DatacenterMismatch" => BackendErrorKind::InvalidConfig,
        device if device.starts_with("InvalidDevice") || device.ends_with("NotSupported") => {
            BackendErrorKind::InvalidConfig
        }
        "TaskInProgress"
        | "InvalidState"
        | "InvalidPowerState"
        | "InvalidHostState"
        | "ConcurrentAccess"
        | "HostNotConnected"
        | "HostNotReachable"
        | "HostConnectFault"
        | "InvalidHostConnectionState"
        | "ResourceInUse"
        | "ResourceNotAvailable"
        | "InaccessibleDatastore" => BackendErrorKind::Unavailable,
        // What was given up half-way.
        "RequestCanceled" | "Timedout" | "HostCommunication" => effect.unanswered(),
        _ => BackendErrorKind::Unexpected,
    }
}

const fn by_status(status: u16, effect: Effect) -> BackendErrorKind {
    match status {
        401 => BackendErrorKind::Unauthenticated,
        403 => BackendErrorKind::PermissionDenied,
        404 => BackendErrorKind::InvalidConfig,
        429 => BackendErrorKind::RateLimited,
        // vCenter's own front says so while the service behind it starts.
        503 => BackendErrorKind::Unavailable,
        _ => effect.unanswered(),
    }
}

#[cfg(test)]
mod tests {
    use runner_manager_core::backend::BackendErrorKind;

    use super::{Effect, Failure, Fault};
    use crate::vsphere::xml::Element;

    fn fault(kind: &str, detail: Element) -> Failure {
        Failure::Fault(Box::new(Fault { kind: kind.to_owned(), message: "it said so".to_owned(), detail }))
    }

    #[test]
    fn faults_count_by_their_type() {
        for (kind, expected) in [
            ("NoDiskSpace", BackendErrorKind::NoCapacity),
            ("InsufficientStorageSpace", BackendErrorKind::NoCapacity),
            ("InsufficientMemoryResourcesFault", BackendErrorKind::NoCapacity),
            ("NotEnoughLicenses", BackendErrorKind::NoCapacity),
            ("NoCompatibleHost", BackendErrorKind::NoCapacity),
            ("InvalidLogin", BackendErrorKind::Unauthenticated),
            ("NoPermission", BackendErrorKind::PermissionDenied),
            ("ManagedObjectNotFound", BackendErrorKind::NotFound),
            ("InvalidDeviceSpec", BackendErrorKind::InvalidConfig),
            ("DeviceNotSupported", BackendErrorKind::InvalidConfig),
            ("NotSupported", BackendErrorKind::Unsupported),
            ("TaskInProgress", BackendErrorKind::Unavailable),
            ("RequestCanceled", BackendErrorKind::Unclear),
            ("SystemError", BackendErrorKind::Unexpected),
        ] {
            assert_eq!(fault(kind, Element::new("fault")).kind(Effect::Some), expected, "{kind}");
        }
    }

    #[test]
    fn a_lost_answer_is_unclear_only_where_something_may_have_changed() {
        let lost = || Failure::Broken("it broke off".to_owned());
        assert_eq!(lost().kind(Effect::Some), BackendErrorKind::Unclear);
        assert_eq!(lost().kind(Effect::None), BackendErrorKind::Unavailable);
        assert_eq!(Failure::Status(502).kind(Effect::Some), BackendErrorKind::Unclear);
        assert_eq!(Failure::Status(503).kind(Effect::Some), BackendErrorKind::Unavailable);
    }

    #[test]
    fn a_missing_privilege_is_named() {
        let detail = Element::new("fault")
            .with(Element::value("object", "group-v3"))
            .with(Element::value("privilegeId", "VirtualMachine.Inventory.CreateFromExisting"));
        let error = fault("NoPermission", detail).into_error("create", Effect::Some, "machine x");
        assert_eq!(error.kind, BackendErrorKind::PermissionDenied);
        assert!(error.detail.contains("VirtualMachine.Inventory.CreateFromExisting on group-v3"), "{error}");
    }
}
