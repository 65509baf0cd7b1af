//! `/api/v1/events`: a stream of server-sent events, one whenever something changed.
//!
//! Each event, named `snapshot`, says how much there is of everything; who wants to know what, asks the lists.
//! The records are read at most once a second however many listen, and not at all while nobody does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::StatusCode;
use jiff::Timestamp;
use runner_manager_core::clock::timeout;
use runner_manager_core::domain::{JobId, later};
use runner_manager_core::store::{GroupCounts, JobFilter, Page, RunnerFilter, StoreError};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::answer::Refusal;
use super::{ANSWER_WITHIN, AppState};
use crate::dashboard::ROWS;
use crate::view::Deployment;

/// How many may listen at once.
const MOST_LISTENERS: usize = 64;
/// The least time between two events, and between two looks at the records.
const PACE: Duration = Duration::from_secs(1);

/// Those who listen, and what they were told last.
#[derive(Debug)]
pub(super) struct Watchers {
    slots: Arc<Semaphore>,
    last: Mutex<Option<(Timestamp, Arc<str>)>>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self { slots: Arc::new(Semaphore::new(MOST_LISTENERS)), last: Mutex::default() }
    }
}

/// How much there is of everything.
#[derive(Debug, Serialize)]
struct Snapshot {
    /// Each group by its name.
    groups: BTreeMap<String, GroupSnapshot>,
    /// The job that was heard of last.
    latest_job: Option<JobId>,
    /// The runner that ended last.
    latest_end: Option<String>,
    /// Differs where anything differs that the page shows of jobs and runners, and in its remarks.
    digest: String,
}

/// How much there is in one group.
#[derive(Debug, Serialize)]
struct GroupSnapshot {
    #[serde(flatten)]
    counts: GroupCounts,
    /// Until when it can make no runners.
    blocked_until: Option<Timestamp>,
}

/// What one listener has been told.
struct Listener {
    state: AppState,
    told: Option<Arc<str>>,
    _slot: OwnedSemaphorePermit,
}

/// `GET /api/v1/events`.
pub(super) async fn stream(State(state): State<AppState>) -> Response {
    let Ok(slot) = state.0.watchers.slots.clone().try_acquire_owned() else {
        let reason = format!("{MOST_LISTENERS} listen already");
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    };
    let listener = Listener { state, told: None, _slot: slot };
    Sse::new(stream::unfold(listener, next)).keep_alive(KeepAlive::default()).into_response()
}

/// Waits until there is something that the listener was not told; none once the server stops.
async fn next(mut listener: Listener) -> Option<(Result<Event, Infallible>, Listener)> {
    let stop = listener.state.0.parts.stop.clone();
    loop {
        if listener.told.is_some() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = listener.state.clock().sleep(PACE) => {}
            }
        }
        // While the store does not answer there is nothing to tell; the next look may succeed.
        let seen = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            seen = look(&listener.state) => seen,
        };
        let told = listener.told.replace(seen.clone());
        if told.as_ref() != Some(&seen) && !seen.is_empty() {
            return Some((Ok(Event::default().event("snapshot").data(&*seen)), listener));
        }
    }
}

/// The snapshot, at most [`PACE`] old; empty while the store does not answer.
async fn look(state: &AppState) -> Arc<str> {
    let mut last = state.0.watchers.last.lock().await;
    let now = state.clock().now();
    match &*last {
        Some((at, text)) if now < later(*at, PACE) => text.clone(),
        _ => {
            let snapshot = timeout(state.clock(), ANSWER_WITHIN, snapshot(state)).await;
            let text = match snapshot {
                Ok(Ok(snapshot)) => serde_json::to_string(&snapshot).unwrap_or_default(),
                Ok(Err(_)) | Err(_) => String::new(),
            };
            let text: Arc<str> = text.into();
            *last = Some((now, text.clone()));
            text
        }
    }
}

async fn snapshot(state: &AppState) -> Result<Snapshot, StoreError> {
    let manager = state.manager();
    let groups = manager.groups().await?.into_iter().map(|group| {
        let blocked_until = group.blocked_until;
        (group.record.spec.name.to_string(), GroupSnapshot { counts: group.counts, blocked_until })
    });
    let jobs = manager.jobs(&JobFilter::All, &Page::first(ROWS)).await?;
    let runners = manager.runners(&RunnerFilter::All, &Page::first(ROWS)).await?;
    let mut digest = Sha256::new();
    for status in &jobs {
        digest.update(format!("{} {:?} {:?};", status.job.id, status.job.state, status.reason));
    }
    for runner in &runners {
        digest.update(format!("{} {};", runner.value.name, runner.version.0));
    }
    for remark in Deployment::from(manager.deployment().await?).remarks() {
        digest.update(remark);
    }
    Ok(Snapshot {
        groups: groups.collect(),
        latest_job: jobs.first().map(|status| status.job.id),
        latest_end: manager.ended_runners(1).await?.first().map(|ended| ended.name.to_string()),
        digest: hex::encode(&digest.finalize()[..8]),
    })
}
