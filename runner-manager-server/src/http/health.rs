//! `/healthz` and `/readyz`: whether the process lives, and whether it can work.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use runner_manager_core::clock::timeout;
use serde::Serialize;

use super::AppState;
use crate::view::Deployment;

/// How long the store may take to answer: shorter than the usual time-out of a probe.
const STORE_WITHIN: Duration = Duration::from_secs(2);

/// The answer of both.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    /// Whether all is well.
    ok: bool,
    /// What was looked at: `ok`, or what is wrong with it.
    checks: BTreeMap<&'static str, String>,
    /// What people should know, though webhooks are taken in all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remarks: Vec<String>,
}

/// The process answers: it lives. Nothing else is looked at, so that a store that is down restarts nobody.
pub(super) async fn alive() -> Json<Health> {
    Json(Health { ok: true, checks: BTreeMap::new(), remarks: Vec::new() })
}

/// 200 where webhooks can be taken in (the store takes writes), with remarks about what else is not as usual; 503
/// where not, with the names of what is in the way.
pub(super) async fn ready(State(state): State<AppState>) -> (StatusCode, Json<Health>) {
    let asked = async {
        state.manager().ready().await?;
        state.manager().deployment().await
    };
    let (store, remarks) = match timeout(state.clock(), STORE_WITHIN, asked).await {
        Ok(Ok(deployment)) => (Ok(()), Deployment::from(deployment).remarks()),
        Ok(Err(error)) => (Err(error.to_string()), Vec::new()),
        Err(late) => (Err(late.to_string()), Vec::new()),
    };
    let running = if state.0.parts.stop.is_cancelled() { Err("it stops".to_owned()) } else { Ok(()) };
    let ok = store.is_ok() && running.is_ok();
    let checks = [("store", store), ("manager", running)];
    let checks =
        checks.map(|(what, found)| (what, found.map_or_else(|wrong| wrong, |()| "ok".to_owned()))).into();
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Health { ok, checks, remarks }))
}
