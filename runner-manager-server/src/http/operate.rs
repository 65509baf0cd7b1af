//! `POST /api/v1/...`: what operators have the manager do.
//!
//! Every request is JSON, even where it says nothing: a page of another site can have a browser send a form with
//! the password that it remembers, but not JSON. Who did what is logged.

use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;
use runner_manager_core::domain::{GroupName, RunnerName, Source};
use runner_manager_core::manager::{GoOnError, Retirement};
use runner_manager_core::policy::sweeps::GoOnRefusal;
use schemars::JsonSchema;
use serde::Deserialize;

use super::AppState;
use super::answer::Refusal;
use super::auth::Caller;
use crate::view::{GoOn, Group, Retired};

/// How many names a hint gives.
const HINTS: usize = 10;
/// How far back a runner that ended is looked for.
const ENDED: usize = 1_000;

/// A request that says nothing: `{}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// How a runner is to go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetireRequest {
    /// Also where it runs a job, which is killed by that. Default false.
    #[serde(default)]
    force: bool,
}

/// Which sweep is to go on, and with what.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GoOnRequest {
    /// The backend by its name, or the scope such as `organization:acme`.
    source: String,
    /// The mark of the findings that are meant, as `/api/v1/sweeps` tells it.
    mark: String,
}

type Body<T> = Result<Json<T>, JsonRejection>;
type Named = Result<Path<String>, PathRejection>;

/// `POST /api/v1/groups/{name}/drain`.
pub(super) async fn drain(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    name: Named,
    body: Body<Nothing>,
) -> Result<Json<Group>, Refusal> {
    let Nothing {} = read(body)?;
    let name = group_name(&state, name).await?;
    let found = state.manager().drain(&name).await?;
    tracing::info!(by = caller.name, group = name.as_str(), found, "an operator drains a group");
    group(&state, &name).await
}

/// `POST /api/v1/groups/{name}/resume`.
pub(super) async fn resume(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    name: Named,
    body: Body<Nothing>,
) -> Result<Json<Group>, Refusal> {
    let Nothing {} = read(body)?;
    let name = group_name(&state, name).await?;
    let found = state.manager().resume(&name).await?;
    tracing::info!(by = caller.name, group = name.as_str(), found, "an operator resumes a group");
    group(&state, &name).await
}

/// `POST /api/v1/runners/{name}/retire`.
pub(super) async fn retire(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    name: Named,
    body: Body<RetireRequest>,
) -> Result<Json<Retired>, Refusal> {
    let RetireRequest { force } = read(body)?;
    let name = text(name)?;
    let Ok(runner) = RunnerName::new(&*name) else { return Err(no_runner(&state, &name).await?) };
    let outcome = state.manager().retire(&runner, force).await?;
    tracing::info!(
        by = caller.name,
        runner = runner.as_str(),
        force,
        ?outcome,
        "an operator has a runner go"
    );
    let (outcome, detail) = match outcome {
        Retirement::Unknown => return Err(no_runner(&state, &name).await?),
        Retirement::Busy { job } => {
            let job = job.map_or_else(|| "a job".to_owned(), |job| format!("job {job}"));
            return Err(conflict(format!(
                "{runner} runs {job}: drain its group to let it finish, or say force, which kills the job"
            )));
        }
        Retirement::BeingCreated => {
            return Err(conflict(format!(
                "{runner} is being created: nobody knows yet what there is of it; ask again in a minute"
            )));
        }
        Retirement::Leaving => (
            "leaving",
            "it goes once GitHub has said twice that it runs no job; if it gets one before, it stays",
        ),
        Retirement::Retiring => ("retiring", "it is being taken away"),
        Retirement::Gone => ("gone", "nothing is left of it"),
    };
    Ok(Json(Retired { runner: name, outcome: outcome.to_owned(), detail: detail.to_owned() }))
}

/// `POST /api/v1/sweeps/go-on`.
pub(super) async fn go_on(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    body: Body<GoOnRequest>,
) -> Result<Json<GoOn>, Refusal> {
    let GoOnRequest { source, mark } = read(body)?;
    let source: Source =
        source.parse().map_err(|wrong| Refusal::new(StatusCode::BAD_REQUEST, format!("{wrong}")))?;
    match state.manager().go_on(&source, &mark, &caller.name).await {
        Ok(said) => Ok(Json(GoOn::from(&said))),
        Err(GoOnError::Store(error)) => Err(error.into()),
        Err(GoOnError::Refused(refusal @ GoOnRefusal::NotStopped(_))) => {
            let stopped = state.manager().deployment().await?.withheld;
            let stopped = stopped.iter().map(|withheld| withheld.source.word());
            Err(not_found(refusal.to_string(), "stopped", stopped))
        }
        Err(GoOnError::Refused(refusal)) => Err(conflict(refusal.to_string())),
    }
}

fn read<T>(body: Body<T>) -> Result<T, Refusal> {
    let refuse = |wrong: JsonRejection| Refusal::new(wrong.status(), wrong.body_text());
    body.map(|Json(body)| body).map_err(refuse)
}

fn text(name: Named) -> Result<String, Refusal> {
    let refuse = |wrong: PathRejection| Refusal::new(StatusCode::BAD_REQUEST, wrong.body_text());
    name.map(|Path(name)| name).map_err(refuse)
}

fn conflict(reason: String) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, reason)
}

/// A refusal that says what there is.
fn not_found(what: impl std::fmt::Display, there: &str, names: impl Iterator<Item = String>) -> Refusal {
    let names: Vec<String> = names.take(HINTS).collect();
    let hint = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Refusal::new(StatusCode::NOT_FOUND, format!("{what}; {there}: {hint}"))
}

/// The name of a group that is there.
async fn group_name(state: &AppState, name: Named) -> Result<GroupName, Refusal> {
    let name = text(name)?;
    let groups = state.manager().groups().await?;
    let names = || groups.iter().map(|group| &group.record.spec.name);
    match names().find(|known| known.as_str() == name) {
        Some(known) => Ok(known.clone()),
        None => Err(not_found(format!("no group `{name}`"), "there are", names().map(ToString::to_string))),
    }
}

/// The group as it is now.
async fn group(state: &AppState, name: &GroupName) -> Result<Json<Group>, Refusal> {
    let groups = state.manager().groups().await?;
    let found = groups.iter().find(|group| group.record.spec.name == *name);
    let gone = || Refusal::new(StatusCode::NOT_FOUND, format!("group `{name}` is gone"));
    found.map(|group| Json(Group::from(group))).ok_or_else(gone)
}

async fn no_runner(state: &AppState, name: &str) -> Result<Refusal, Refusal> {
    let ended = state.manager().ended_runners(ENDED).await?;
    let reason = match ended.iter().find(|ended| ended.name.as_str() == name) {
        Some(ended) => format!("runner `{name}` ended at {:.0}: {}", ended.ended_at, ended.why),
        None => format!("no runner `{name}` is on record: `runner-manager runners` lists them"),
    };
    Ok(Refusal::new(StatusCode::NOT_FOUND, reason))
}
