//! The HTTP face of the manager: its routes, and what they share.
//!
//! [`webhook`] takes in what GitHub sends, [`bootstrap`] what machines say, [`api`] tells what is going on, [`operate`] has something done,
//! [`routes`] lists and describes both; [`health`] tells whether all is well, [`events`] that something changed; [`auth`] decides who may ask. [`server`] accepts connections. Nothing in
//! here decides anything about runners: that is the manager's.

mod answer;
mod api;
pub(crate) mod auth;
mod body;
mod bootstrap;
mod events;
mod health;
mod lingering;
mod operate;
mod routes;
pub(crate) mod server;
#[cfg(test)]
mod tests;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use runner_manager_core::clock::{Clock, timeout};
use runner_manager_core::config::Webhooks;
use runner_manager_core::manager::Manager;
use tokio_util::sync::CancellationToken;

pub(crate) use self::answer::Refusal;
use self::auth::Access;
use self::body::Bodies;
use self::events::Watchers;
use crate::dashboard;
use crate::metrics::Metrics;

/// How long an answer that only reads may take. One that waits longer helps nobody.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What the routes work with. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct AppState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: AppParts,
    bodies: Bodies,
    watchers: Watchers,
    turns: bootstrap::Turns,
    metrics: Metrics,
}

/// What [`AppState`] is made from.
#[derive(Debug)]
pub(crate) struct AppParts {
    /// The manager that is told and asked.
    pub(crate) manager: Manager,
    /// The clock of all time-outs.
    pub(crate) clock: Arc<dyn Clock>,
    /// How webhooks prove that they come from GitHub.
    pub(crate) webhooks: Webhooks,
    /// Who may ask.
    pub(crate) access: Access,
    /// Cancelled when the server stops: what streams ends then.
    pub(crate) stop: CancellationToken,
}

impl AppState {
    /// A state with nothing in flight.
    pub(crate) fn new(parts: AppParts) -> Self {
        let bodies = Bodies::new(parts.clock.clone());
        let watchers = Watchers::default();
        let turns = bootstrap::Turns::default();
        Self(Arc::new(Shared { parts, bodies, watchers, turns, metrics: Metrics::default() }))
    }

    pub(crate) fn manager(&self) -> &Manager {
        &self.0.parts.manager
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.0.parts.clock
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

/// All routes of a manager.
pub(crate) fn router(state: AppState) -> Router {
    let watched = Router::new()
        .route("/", get(dashboard::page))
        .route("/metrics", get(crate::metrics::scrape))
        .route_layer(from_fn_with_state(state.clone(), in_time))
        .merge(routes::router(&state))
        .route_layer(from_fn_with_state(state.clone(), auth::guard));
    Router::new()
        .route("/webhook", post(webhook::receive))
        .merge(bootstrap::router(&state))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/assets/{name}", get(dashboard::asset))
        .merge(watched)
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .layer(from_fn(common_headers))
        .with_state(state)
}

async fn in_time(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match timeout(state.clock(), ANSWER_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(late) => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("the store: {late}")).into_response()
        }
    }
}

/// Nothing is kept by caches unless the route says so, and nothing is taken for what it is not.
async fn common_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
