//! `/bootstrap/v1/...`: what machines ask and say. The contract stands with the scripts, in the module `bootstrap` of
//! `runner-manager-backends`; bodies are forms, and answers plain text, so that bash needs no parser for them.
//!
//! In this order, so that a stranger costs as little as can be: the token, which is checked without asking anybody, so that a
//! wrong one and an unknown runner are answered alike; how often this machine has called lately; the body, within its
//! bounds; and then the manager.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use runner_manager_core::clock::timeout;
use runner_manager_core::domain::{JobMoment, JobSignal, RunId, RunnerName, Secret};
use runner_manager_core::manager::{Caller, Denied, Pulse, Reply};

use super::AppState;
use super::answer::Refusal;
use super::body::MAX_BODY;

/// The largest body, in bytes: a failure tells the last lines of a log.
const MAX_FORM: usize = 64 * 1024;
const _: () = assert!(MAX_FORM < MAX_BODY);
/// How long a call may take. The machine gives up after 20 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(18);
/// How many calls a machine may make at once, and how many a second over a longer time. Each second it says at most two words
/// of its job and one heartbeat.
const BURST: f64 = 60.0;
const PER_SECOND: f64 = 4.0;
/// Of how many machines it is known how often they called: those that called last. Each has a valid token.
const MOST_KNOWN: usize = 50_000;

/// How often each machine called lately, in this process. Losing it harms nobody.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<RunnerName, (f64, Timestamp)>>);

impl Turns {
    /// Whether a machine may call now.
    fn take(&self, runner: &RunnerName, now: Timestamp) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN && !known.contains_key(runner) {
            // Who did not call for as long as it takes to have all calls back is as good as unknown.
            let full = |last: Timestamp| now.duration_since(last).as_secs_f64() >= BURST / PER_SECOND;
            known.retain(|_, (_, last)| !full(*last));
            if known.len() >= MOST_KNOWN {
                known.clear();
            }
        }
        let (left, last) = known.entry(runner.clone()).or_insert((BURST, now));
        let since = now.duration_since(*last).as_secs_f64().max(0.0);
        *left = since.mul_add(PER_SECOND, *left).min(BURST);
        *last = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }
}

/// The routes.
pub(super) fn router(state: &AppState) -> Router<AppState> {
    Router::new()
        .route("/bootstrap/v1/runners/{runner}/script", get(script))
        .route("/bootstrap/v1/runners/{runner}/jit-config", post(jit_config))
        .route("/bootstrap/v1/runners/{runner}/progress", post(progress))
        .route("/bootstrap/v1/runners/{runner}/heartbeat", post(heartbeat))
        .route("/bootstrap/v1/runners/{runner}/job-started", post(job_started))
        .route("/bootstrap/v1/runners/{runner}/job-completed", post(job_completed))
        .route("/bootstrap/v1/runners/{runner}/failed", post(failed))
        .route("/bootstrap/v1/runners/{runner}/left", post(left))
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
        let caller = bearer(request.headers()).and_then(|token| state.manager().caller(&runner, token));
        let Some(caller) = caller else {
            return refused(StatusCode::UNAUTHORIZED, "no token of this runner");
        };
        if !state.0.turns.take(caller.runner(), state.clock().now()) {
            return again(StatusCode::TOO_MANY_REQUESTS, "too many calls");
        }
        let (mut head, body) = request.into_parts();
        match form(&head.headers, body).await {
            Ok(form) => head.extensions.insert(form),
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
    const STEPS: [(&str, Option<&str>); 4] = [
        ("began", Some("its script began")),
        ("downloading", Some("downloads the runner")),
        ("started", Some("started the runner")),
        ("listening", None),
    ];
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
    const STATES: [(&str, Pulse); 3] =
        [("starting", Pulse::Starting), ("idle", Pulse::Idle), ("busy", Pulse::Busy)];
    let pulse = match form.word("state", &STATES) {
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
    const REASONS: [(&str, bool); 4] =
        [("asked", false), ("finished", false), ("listener-ended", true), ("ended", true)];
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
        Denied::Store(error) => Refusal::from(error).into_response(),
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

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use runner_manager_core::domain::RunnerName;

    use super::{MOST_KNOWN, Turns};

    #[test]
    fn a_machine_that_calls_without_end_is_slowed_down_alone() {
        let (turns, now) = (Turns::default(), Timestamp::UNIX_EPOCH);
        let runner = |number: usize| RunnerName::new(format!("acme-linux-{number}")).unwrap();
        let taken = (0..1_000).filter(|_| turns.take(&runner(1), now)).count();
        assert_eq!(taken, 60, "as many as at once, and none more");
        assert!(turns.take(&runner(2), now));
        let later = now + SignedDuration::from_secs(10);
        assert_eq!((0..1_000).filter(|_| turns.take(&runner(1), later)).count(), 40);
        for number in 0..MOST_KNOWN + 10 {
            turns.take(&runner(number), later);
        }
        assert!(turns.0.lock().unwrap().len() <= MOST_KNOWN);
    }
}
