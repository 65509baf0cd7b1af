//! `POST /webhook`: what GitHub says, taken in.
//!
//! In this order, so that a stranger costs as little as can be: the length that the request declares, whether
//! there is a signature at all, the body within its bounds, the signature over the bytes as they came, the
//! other headers, the payload, and then the manager. 202 means that the event is durable, or that there is
//! nothing in it for us.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use runner_manager_core::clock::timeout;
use runner_manager_core::config::Webhooks;
use runner_manager_core::domain::{DeliveryId, JobObservation};
use runner_manager_core::manager::Taken;
use runner_manager_core::webhook::{
    DELIVERY_HEADER, EVENT_HEADER, SIGNATURE_HEADER, SignatureError, Webhook, parse, verify,
};
use serde::Serialize;

use super::answer::Refusal;
use super::body::declared_length;
use super::{ANSWER_WITHIN, AppState};

/// The longest delivery name that is taken; GitHub's are UUIDs of 36 characters.
const MAX_DELIVERY: usize = 128;

/// What was done with a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Accepted {
    /// What was done.
    outcome: Outcome,
    /// In words, where there is something to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// What was done with a webhook, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// What it says about a job is recorded.
    Recorded,
    /// It says what is on record already.
    NothingNew,
    /// This very delivery was taken in before.
    Repeated,
    /// It is not about a job.
    Ignored,
    /// GitHub tries whether we are there: we are.
    Pong,
}

/// Takes in one webhook.
pub(super) async fn receive(State(state): State<AppState>, request: Request) -> Response {
    let received = state.clock().now();
    let (head, body) = request.into_parts();
    let taken = take(&state, &head.headers, body).await;
    let seconds = state.clock().now().duration_since(received).as_secs_f64();
    let status = taken.as_ref().map_or_else(Refusal::status, |_| StatusCode::ACCEPTED);
    state.metrics().webhook(status, seconds);
    let [delivery, event] = [DELIVERY_HEADER, EVENT_HEADER].map(|name| named(&head.headers, name));
    match taken {
        Ok(accepted) => {
            let Accepted { outcome, detail } = &accepted;
            tracing::info!(delivery, event, ?outcome, detail, seconds, "webhook taken");
            (StatusCode::ACCEPTED, Json(accepted)).into_response()
        }
        Err(refusal) => {
            let (status, reason) = (status.as_u16(), refusal.reason());
            tracing::warn!(delivery, event, status, reason, seconds, "webhook refused");
            // What is left of the body is not read, so the connection cannot be used again.
            ([(CONNECTION, HeaderValue::from_static("close"))], refusal).into_response()
        }
    }
}

async fn take(state: &AppState, headers: &HeaderMap, body: Body) -> Result<Accepted, Refusal> {
    let declared = declared_length(headers)?;
    let signature = headers.get(SIGNATURE_HEADER).map(|value| value.to_str().unwrap_or_default());
    let webhooks = &state.0.parts.webhooks;
    if let (Webhooks::Signed(_), None) = (webhooks, signature) {
        if declared.is_none() {
            // One that is too large is told so even where only reading it can show that it is.
            state.0.bodies.discard(body).await?;
        }
        return Err(unauthorized(SignatureError::Missing));
    }
    let held = state.0.bodies.read(headers, body).await?;
    if let Webhooks::Signed(secrets) = webhooks {
        verify(secrets.iter(), &held.bytes, signature).map_err(unauthorized)?;
    }
    let event = required(headers, EVENT_HEADER)?;
    let delivery = delivery(headers)?;
    is_json(headers)?;
    let webhook = parse(event, &held.bytes).map_err(|error| unreadable(&error))?;
    drop(held);
    match webhook {
        Webhook::Ping => Ok(Accepted { outcome: Outcome::Pong, detail: None }),
        Webhook::Ignored { event, because } => {
            Ok(Accepted { outcome: Outcome::Ignored, detail: Some(format!("{event}: {because}")) })
        }
        Webhook::WorkflowJob(seen) => observe(state, &delivery, &seen).await,
    }
}

fn unauthorized(error: SignatureError) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, error.to_string())
}

async fn observe(
    state: &AppState,
    delivery: &DeliveryId,
    seen: &JobObservation,
) -> Result<Accepted, Refusal> {
    let taken = timeout(state.clock(), ANSWER_WITHIN, state.manager().observe(delivery, seen)).await;
    let taken = taken
        .map_err(|late| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("the store: {late}")))??;
    let outcome = match taken {
        Taken::Recorded => Outcome::Recorded,
        Taken::NothingNew => Outcome::NothingNew,
        Taken::Repeated => Outcome::Repeated,
    };
    Ok(Accepted { outcome, detail: Some(format!("job {} of {}", seen.id, seen.repository)) })
}

fn unreadable(error: &dyn std::error::Error) -> Refusal {
    let mut reason = error.to_string();
    if let Some(source) = error.source() {
        reason = format!("{reason}: {source}");
    }
    Refusal::new(StatusCode::BAD_REQUEST, reason)
}

fn is_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = named(headers, CONTENT_TYPE.as_str());
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let reason = format!(
        "the content type is `{essence}`: set the webhook's content type at GitHub to application/json"
    );
    Err(Refusal::new(StatusCode::BAD_REQUEST, reason))
}

fn delivery(headers: &HeaderMap) -> Result<DeliveryId, Refusal> {
    let name = required(headers, DELIVERY_HEADER)?;
    if name.len() <= MAX_DELIVERY && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(DeliveryId::new(name));
    }
    Err(Refusal::new(StatusCode::BAD_REQUEST, format!("the {DELIVERY_HEADER} header names no delivery")))
}

fn required<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Refusal> {
    match named(headers, name) {
        "" => Err(Refusal::new(StatusCode::BAD_REQUEST, format!("there is no {name} header"))),
        value => Ok(value),
    }
}

fn named<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
