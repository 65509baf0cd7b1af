//! Webhooks: whether one is GitHub's, and what it says.
//!
//! It owns the signature and the payload. Receiving, answering and recording are others' affairs. What comes
//! in may be anything: nothing in here panics, and no payload makes it slow.

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::Value;
use sha2::Sha256;

use crate::domain::{JobObservation, Repository, RepositoryError, Secret};
use crate::rest::models::Job;

/// The header that holds the signature.
pub const SIGNATURE_HEADER: &str = "X-Hub-Signature-256";
/// The header that names the event.
pub const EVENT_HEADER: &str = "X-GitHub-Event";
/// The header that names the delivery; a redelivery bears the same name.
pub const DELIVERY_HEADER: &str = "X-GitHub-Delivery";

/// Why a body is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error("there is no {SIGNATURE_HEADER} header: set a secret for the webhook at GitHub")]
    Missing,
    /// It is not `sha256=` with 64 hexadecimal digits.
    #[error("the {SIGNATURE_HEADER} header is not `sha256=` with 64 hexadecimal digits")]
    Malformed,
    /// None of our secrets makes this signature of this body.
    #[error(
        "the signature does not fit: the webhook's secret at GitHub is not ours, or the body was changed"
    )]
    Wrong,
}

/// Checks that a body was signed with one of our secrets: `sha256=` and the HMAC-SHA256 of the bytes as they
/// came. Several secrets serve while one takes the place of another. The comparison takes the same time
/// wherever the signatures differ, and whichever secret fits.
///
/// Source: <https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries>.
///
/// # Errors
/// [`SignatureError`] when it was not, also when there are no secrets.
///
/// ```
/// use runner_manager_core::domain::Secret;
/// use runner_manager_core::webhook::{SignatureError, verify};
///
/// // GitHub's own example.
/// let secrets = [Secret::new("It's a Secret to Everybody")];
/// let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
/// assert_eq!(verify(&secrets, b"Hello, World!", Some(signature)), Ok(()));
/// assert_eq!(verify(&secrets, b"Hello, World?", Some(signature)), Err(SignatureError::Wrong));
/// ```
pub fn verify<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    body: &[u8],
    signature: Option<&str>,
) -> Result<(), SignatureError> {
    let signature = signature.ok_or(SignatureError::Missing)?;
    let digits = signature.strip_prefix("sha256=").ok_or(SignatureError::Malformed)?;
    let mut given = [0; 32];
    hex::decode_to_slice(digits, &mut given).map_err(|_| SignatureError::Malformed)?;
    let fits = |secret: &Secret| code(secret, body).verify_slice(&given).is_ok();
    // All are tried, so that the time does not tell which one fits.
    let one_fits = secrets.into_iter().fold(false, |found, secret| found | fits(secret));
    if one_fits { Ok(()) } else { Err(SignatureError::Wrong) }
}

/// The signature that GitHub would send for a body.
pub fn sign(secret: &Secret, body: &[u8]) -> String {
    format!("sha256={}", hex::encode(code(secret, body).finalize().into_bytes()))
}

fn code(secret: &Secret, body: &[u8]) -> Hmac<Sha256> {
    let key = secret.expose().as_bytes();
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length").chain_update(body)
}

/// What a webhook says.
#[derive(Debug, Clone, PartialEq)]
pub enum Webhook {
    /// GitHub tries whether we are there.
    Ping,
    /// Something about a job.
    WorkflowJob(Box<JobObservation>),
    /// Nothing for us.
    Ignored {
        /// The event's name, with its action where it has one.
        event: String,
        /// Why it is nothing for us.
        because: String,
    },
}

/// Why a payload cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It is not JSON, or not that of the event that it is said to be.
    #[error("the payload is not what GitHub sends for a workflow job")]
    Json(#[from] serde_json::Error),
    /// Its repository is none.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

#[derive(Deserialize)]
struct Payload {
    action: String,
    workflow_job: Value,
    repository: Named,
    #[serde(default)]
    enterprise: Option<Enterprise>,
}

#[derive(Deserialize)]
struct Named {
    full_name: String,
    #[serde(default)]
    private: Option<bool>,
}

#[derive(Deserialize)]
struct Enterprise {
    slug: String,
}

/// Reads the payload of an event (`X-GitHub-Event`).
///
/// Of a `workflow_job` the action counts, not the job's own `status`: GitHub sends `queued` also with a job
/// that says `waiting`. A job with a label that no runner of ours can offer is ignored, and so is an action
/// that is new to us.
///
/// # Errors
/// [`PayloadError`] when a `workflow_job` is not readable as one. Other events are not read at all.
pub fn parse(event: &str, body: &[u8]) -> Result<Webhook, PayloadError> {
    match event {
        "ping" => Ok(Webhook::Ping),
        "workflow_job" => parse_job(body),
        other => Ok(ignored(other.to_owned(), &"only workflow jobs matter")),
    }
}

fn parse_job(body: &[u8]) -> Result<Webhook, PayloadError> {
    let payload: Payload = serde_json::from_slice(body)?;
    let event = format!("workflow_job.{}", payload.action);
    if !matches!(payload.action.as_str(), "queued" | "waiting" | "in_progress" | "completed") {
        return Ok(ignored(event, &"the action is not known"));
    }
    let job: Job = serde_json::from_value(payload.workflow_job)?;
    let repository: Repository = payload.repository.full_name.parse()?;
    let enterprise = payload.enterprise.map(|enterprise| enterprise.slug);
    match job.observe(&payload.action, repository, enterprise) {
        Ok(observation) => {
            let public = payload.repository.private == Some(false);
            Ok(Webhook::WorkflowJob(Box::new(JobObservation { public, ..observation })))
        }
        Err(why) => Ok(ignored(event, &why)),
    }
}

fn ignored(event: String, because: &impl ToString) -> Webhook {
    Webhook::Ignored { event, because: because.to_string() }
}

#[cfg(test)]
mod tests;
