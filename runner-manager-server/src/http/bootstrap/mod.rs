//! `/bootstrap/v1/...`: what machines ask and say. The contract stands with the scripts, in the module `bootstrap` of
//! `runner-manager-backends`; bodies are forms, and answers plain text, so that bash needs no parser for them. [`table`] lists
//! and describes the calls, [`turns`] counts how often each machine made one.
//!
//! In this order, so that a stranger costs as little as can be: the token, which is checked without asking anybody, so that a
//! wrong one and an unknown runner are answered alike; how often this machine has called lately; the body, within its
//! bounds; and then the manager.

mod table;
mod turns;

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use runner_manager_core::clock::timeout;
use runner_manager_core::domain::{JobMoment, JobSignal, RunId, Secret};
use runner_manager_core::manager::{Caller, Denied, Pulse, Reply};

pub(super) use self::table::{SECURITY, paths};
pub(super) use self::turns::Turns;
use super::AppState;
use super::body::MAX_BODY;

/// The largest body, in bytes: a failure tells the last lines of a log.
const MAX_FORM: usize = 64 * 1024;
const _: () = assert!(MAX_FORM < MAX_BODY);
/// How long a call may take. The machine gives up after 20 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(18);
/// What a machine may have done last, with what is told of that; none where its listener waits.
const STEPS: [(&str, Option<&str>); 4] = [
    ("began", Some("its script began")),
    ("downloading", Some("downloads the runner")),
    ("started", Some("started the runner")),
    ("listening", None),
];
/// What its listener may do.
const PULSES: [(&str, Pulse); 3] =
    [("starting", Pulse::Starting), ("idle", Pulse::Idle), ("busy", Pulse::Busy)];
/// Why it may end, and whether that is a failure.
const REASONS: [(&str, bool); 4] =
    [("asked", false), ("finished", false), ("listener-ended", true), ("ended", true)];

/// The routes.
pub(super) fn router(state: &AppState) -> Router<AppState> {
    table::table()
        .into_iter()
        .fold(Router::new(), |router, call| router.route(&call.path(), call.handler))
        .route_layer(from_fn_with_state(state.clone(), guard))
}

/// Lets a request through that bears its runner's token, and reads its form.
async fn guard(
    State(state): State<AppState>,
    Path(runner): Path<String>,
    request: Request,
    next: axum::middleware::Next,
) -> Response {
    let answered = async {
        let token = bearer(request.headers()).map(str::to_owned).unwrap_or_default();
        let Some(caller) = state.manager().caller(&runner, &token) else {
            return refused(StatusCode::UNAUTHORIZED, "no token of this runner");
        };
        if !state.0.turns.take(caller.runner(), state.clock().now()) {
            return again(StatusCode::TOO_MANY_REQUESTS, "too many calls");
        }
        let (mut head, body) = request.into_parts();
        match form(&head.headers, body).await {
            Ok(form) => head.extensions.insert(form.without(&token)),
            Err(refusal) => return refusal,
        };
        head.extensions.insert(caller);
        next.run(Request::from_parts(head, Body::empty())).await
    };
    match timeout(state.clock(), ANSWER_WITHIN, answered).await {
        Ok(response) => response,
        Err(late) => again(StatusCode::SERVICE_UNAVAILABLE, &late.to_string()),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// The fields of a body.
#[derive(Debug, Clone, Default)]
struct Form(HashMap<String, String>);

impl Form {
    /// The same without the machine's token, which a log may have that it tells the last lines of.
    fn without(self, token: &str) -> Self {
        let withheld = |(key, value): (String, String)| (key, value.replace(token, "[secret]"));
        Self(self.0.into_iter().map(withheld).collect())
    }

    fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// A word of a list; none where there is none, or another one.
    fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Result<T, WrongField> {
        let given = self.get(key);
        let found = words.iter().find(|(word, _)| *word == given).map(|(_, value)| *value);
        found.ok_or(WrongField(key))
    }

    fn parsed<T: std::str::FromStr>(&self, key: &'static str) -> Result<T, WrongField> {
        self.get(key).parse().map_err(|_| WrongField(key))
    }
}

/// A field that is missing, or has what it cannot have.
#[derive(Debug)]
struct WrongField(&'static str);

impl IntoResponse for WrongField {
    fn into_response(self) -> Response {
        refused(StatusCode::BAD_REQUEST, &format!("the field {} is not as it should be", self.0))
    }
}

async fn form(headers: &HeaderMap, body: Body) -> Result<Form, Response> {
    let is_form = headers.get(CONTENT_TYPE).is_none_or(|value| {
        value.to_str().is_ok_and(|text| text.starts_with("application/x-www-form-urlencoded"))
    });
    if !is_form {
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is no form"));
    }
    let bytes = axum::body::to_bytes(body, MAX_FORM).await;
    let bytes =
        bytes.map_err(|_| refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or broke off"))?;
    Ok(Form(form_urlencoded::parse(&bytes).into_owned().collect()))
}

async fn script(State(state): State<AppState>, Extension(caller): Extension<Caller>) -> Response {
    secret(state.manager().start_script(&caller).await)
}

async fn jit_config(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Extension(form): Extension<Form>,
) -> Response {
    let boot = form.get("boot");
    if boot.is_empty() {
        return refused(StatusCode::BAD_REQUEST, "there is no field boot");
    }
    secret(state.manager().jit_config(&caller, boot).await)
}

async fn progress(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Extension(form): Extension<Form>,
) -> Response {
    let done = match form.word("step", &STEPS) {
        Ok(Some(what)) => state.manager().hear_of_progress(&caller, what).await,
        Ok(None) => state.manager().hear_of_listener(&caller).await,
        Err(wrong) => return wrong.into_response(),
    };
    nothing(done)
}

async fn heartbeat(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Extension(form): Extension<Form>,
) -> Response {
    let pulse = match form.word("state", &PULSES) {
        Ok(pulse) => pulse,
        Err(wrong) => return wrong.into_response(),
    };
    match state.manager().hear_of_pulse(&caller, pulse).await {
        Ok(Reply::Stay) => plain(StatusCode::OK, "stay"),
        Ok(Reply::Leave) => plain(StatusCode::OK, "leave"),
        Err(denied) => denial(denied),
    }
}

async fn job_started(
    state: State<AppState>,
    caller: Extension<Caller>,
    Extension(form): Extension<Form>,
) -> Response {
    job(state, caller, &form, JobMoment::Begins).await
}

async fn job_completed(
    state: State<AppState>,
    caller: Extension<Caller>,
    Extension(form): Extension<Form>,
) -> Response {
    job(state, caller, &form, JobMoment::Ends).await
}

async fn job(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    form: &Form,
    moment: JobMoment,
) -> Response {
    match signal(&caller, form, moment) {
        Ok(signal) => nothing(state.manager().hear_of_own_job(&caller, signal).await),
        Err(wrong) => wrong.into_response(),
    }
}

fn signal(caller: &Caller, form: &Form, moment: JobMoment) -> Result<JobSignal, WrongField> {
    Ok(JobSignal {
        runner: caller.runner().clone(),
        repository: form.parsed("repository")?,
        run: RunId(form.parsed("run_id")?),
        attempt: form.parsed("run_attempt")?,
        key: runner_manager_core::domain::bounded(form.get("job"), 256),
        moment,
    })
}

async fn failed(
    state: State<AppState>,
    caller: Extension<Caller>,
    Extension(form): Extension<Form>,
) -> Response {
    end(state, caller, &form, true).await
}

async fn left(
    state: State<AppState>,
    caller: Extension<Caller>,
    Extension(form): Extension<Form>,
) -> Response {
    match form.word("reason", &REASONS) {
        Ok(failed) => end(state, caller, &form, failed).await,
        Err(wrong) => wrong.into_response(),
    }
}

async fn end(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    form: &Form,
    failed: bool,
) -> Response {
    let detail = format!("{}: {}", form.get("reason"), form.get("detail"));
    nothing(state.manager().hear_of_end(&caller, failed, &detail).await)
}

fn secret(answer: Result<Secret, Denied>) -> Response {
    match answer {
        Ok(secret) => plain(StatusCode::OK, secret.expose()),
        Err(denied) => denial(denied),
    }
}

fn nothing(answer: Result<(), Denied>) -> Response {
    match answer {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(denied) => denial(denied),
    }
}

fn denial(denied: Denied) -> Response {
    match denied {
        Denied::Gone => refused(StatusCode::GONE, &denied.to_string()),
        Denied::Refused(_) => refused(StatusCode::CONFLICT, &denied.to_string()),
        Denied::NotNow(_) => again(StatusCode::SERVICE_UNAVAILABLE, &denied.to_string()),
        Denied::Store(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
            // Where it is and what it said is nothing for a machine on which jobs run.
            again(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer")
        }
        other => again(StatusCode::SERVICE_UNAVAILABLE, &other.to_string()),
    }
}

/// What a repeat would not change. What is left of a body is not read, so the connection ends.
fn refused(status: StatusCode, what: &str) -> Response {
    ([(CONNECTION, HeaderValue::from_static("close"))], plain(status, what)).into_response()
}

fn again(status: StatusCode, what: &str) -> Response {
    ([(RETRY_AFTER, HeaderValue::from_static("2"))], refused(status, what)).into_response()
}

fn plain(status: StatusCode, text: &str) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], text.to_owned())
        .into_response()
}
