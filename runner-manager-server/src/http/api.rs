//! `GET /api/v1/...`: what is going on, as JSON.
//!
//! Lists come in pages: `limit` (1 to 500, 100 by default), and `after`, which is the `next` of the page before.

use axum::Json;
use axum::extract::{
    Path, Query, State,
    rejection::{PathRejection, QueryRejection},
};
use http::StatusCode;
use runner_manager_core::domain::{GroupName, JobId, Phase, RunnerName, Withheld};
use runner_manager_core::store::{JobFilter, Page, RunnerFilter};
use schemars::JsonSchema;
use serde::Deserialize;

use super::AppState;
use super::answer::Refusal;
use crate::view::{Deployment, EndedRunner, Group, Job, Listing, Queue, Runner, Status, Sweeps};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 500;

/// What a list of runners may be asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunnersQuery {
    /// Those after this name.
    #[schemars(with = "Option<String>")]
    after: Option<RunnerName>,
    /// How many at most.
    limit: Option<usize>,
    /// Those of this group.
    #[schemars(with = "Option<String>")]
    group: Option<GroupName>,
    /// Those in this state; needs `group`.
    state: Option<Phase>,
}

/// What a list of jobs may be asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JobsQuery {
    /// Those after this number, in the list's own order.
    after: Option<u64>,
    /// How many at most.
    limit: Option<usize>,
    /// Those that wait and count for this group, those made first first.
    #[schemars(with = "Option<String>")]
    group: Option<GroupName>,
    /// `true`: those that wait and that no group serves, those made first first.
    #[serde(default)]
    unserved: bool,
}

/// What the list of ended runners may be asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndedQuery {
    /// How many at most.
    limit: Option<usize>,
}

/// `GET /api/v1/groups`: all groups, by name.
pub(super) async fn groups(State(state): State<AppState>) -> Result<Json<Listing<Group>>, Refusal> {
    let items = state.manager().groups().await?.iter().map(Group::from).collect();
    Ok(Json(Listing { items, next: None }))
}

/// `GET /api/v1/runners`: runners by name, or those of one state, the longest in it first.
pub(super) async fn runners(
    State(state): State<AppState>,
    query: Result<Query<RunnersQuery>, QueryRejection>,
) -> Result<Json<Listing<Runner>>, Refusal> {
    let Query(query) = query.map_err(|error| bad_request(error.body_text()))?;
    let filter = match (query.group, query.state) {
        (None, None) => RunnerFilter::All,
        (Some(group), None) => RunnerFilter::Group(group),
        (Some(group), Some(phase)) => RunnerFilter::Phase(group, phase),
        (None, Some(_)) => return Err(bad_request("`state` needs a `group`")),
    };
    let page = Page { after: query.after, limit: bounded(query.limit)? };
    let found = state.manager().runners(&filter, &page).await?;
    let items = Runner::all(state.manager(), found.iter().map(|runner| &runner.value)).await?;
    Ok(Json(listing(items, page.limit, |runner| runner.name.clone())))
}

/// `GET /api/v1/ended-runners`: the runners that ended last, newest first.
pub(super) async fn ended_runners(
    State(state): State<AppState>,
    query: Result<Query<EndedQuery>, QueryRejection>,
) -> Result<Json<Listing<EndedRunner>>, Refusal> {
    let Query(query) = query.map_err(|error| bad_request(error.body_text()))?;
    let ended = state.manager().ended_runners(bounded(query.limit)?).await?;
    Ok(Json(Listing { items: ended.iter().map(EndedRunner::from).collect(), next: None }))
}

/// `GET /api/v1/jobs`: jobs, those first heard of last first, each with why it waits.
pub(super) async fn jobs(
    State(state): State<AppState>,
    query: Result<Query<JobsQuery>, QueryRejection>,
) -> Result<Json<Listing<Job>>, Refusal> {
    let Query(query) = query.map_err(|error| bad_request(error.body_text()))?;
    let filter = match (query.group, query.unserved) {
        (None, false) => JobFilter::All,
        (Some(group), false) => JobFilter::Queued(group),
        (None, true) => JobFilter::Unserved,
        (Some(_), true) => return Err(bad_request("`group` and `unserved` exclude each other")),
    };
    let page = Page { after: query.after.map(JobId), limit: bounded(query.limit)? };
    let items: Vec<Job> = state.manager().jobs(&filter, &page).await?.iter().map(Job::from).collect();
    Ok(Json(listing(items, page.limit, |job| job.id.to_string())))
}

/// `GET /api/v1/jobs/{id}`: one job, with why it waits and the runners that failed meanwhile.
pub(super) async fn job(
    State(state): State<AppState>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<Json<Job>, Refusal> {
    let Path(id) = id.map_err(|_| bad_request("a job's id is GitHub's number of it"))?;
    match state.manager().job(JobId(id)).await? {
        Some(status) => Ok(Json(Job::from(&status))),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, format!("no job {id} is on record"))),
    }
}

/// `GET /api/v1/queue`: how the queue of background work fares.
pub(super) async fn queue(State(state): State<AppState>) -> Result<Json<Queue>, Refusal> {
    Ok(Json(state.manager().queue_statistics().await?.into()))
}

/// `GET /api/v1/deployment`.
pub(super) async fn deployment(State(state): State<AppState>) -> Result<Json<Deployment>, Refusal> {
    Ok(Json(state.manager().deployment().await?.into()))
}

/// `GET /api/v1/sweeps`.
pub(super) async fn sweeps(State(state): State<AppState>) -> Result<Json<Sweeps>, Refusal> {
    Ok(Json(Sweeps::new(&state.manager().deployment().await?, Withheld::MOST_NAMED)))
}

/// `GET /api/v1/status`.
pub(super) async fn status(State(state): State<AppState>) -> Result<Json<Status>, Refusal> {
    Ok(Json(Status::of(state.manager(), state.clock().now()).await?))
}

fn bounded(limit: Option<usize>) -> Result<usize, Refusal> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        limit => Err(bad_request(format!("`limit` is {limit}, expected 1 to {MAX_LIMIT}"))),
    }
}

/// A page that is full may be followed by another one, which may be empty.
fn listing<T>(items: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Listing<T> {
    let next = items.last().filter(|_| items.len() == limit).map(key);
    Listing { items, next }
}

fn bad_request(reason: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, reason)
}
