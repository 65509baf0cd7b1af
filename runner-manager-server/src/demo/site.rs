//! interim
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use runner_manager_core::domain::{DeliveryId, Secret};
use runner_manager_core::github::GitHub;
use runner_manager_core::manager::Manager;
use runner_manager_core::webhook::{Webhook, parse, verify};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) manager: Manager,
    pub(super) github: Arc<dyn GitHub>,
    pub(super) secret: Secret,
}

pub(super) async fn serve_site(listener: TcpListener, site: Site, stop: CancellationToken) {
    let router = Router::new().route("/webhook", post(receive)).with_state(site);
    let _ = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
}

async fn receive(State(site): State<Site>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let get = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    if verify(std::slice::from_ref(&site.secret), &body, get("x-hub-signature-256")).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(webhook) = parse(get("x-github-event").unwrap_or_default(), &body) else {
        return StatusCode::BAD_REQUEST;
    };
    if let Webhook::WorkflowJob(seen) = webhook {
        let delivery = DeliveryId::new(get("x-github-delivery").unwrap_or_default());
        if site.manager.observe(&delivery, &seen).await.is_err() {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
    }
    StatusCode::ACCEPTED
}
