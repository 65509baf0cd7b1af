//! What an HTTP server does with the calls of machines, for you to take along: whoever serves it, it is one function from
//! a request to an answer.
//!
//! The contract stands in the documentation of module `bootstrap` of `runner-manager-backends`, whose scripts make these
//! calls. A server of yours bounds the bodies (64 KiB), how long an answer takes (18 s), and how often one machine calls.

use std::collections::HashMap;

use http::{Method, Request, Response, StatusCode, header};
use runner_manager_core::domain::{JobMoment, JobSignal, RunId, Secret};
use runner_manager_core::manager::{Caller, Denied, Manager, Pulse, Reply};

/// What a machine is answered: plain text, so that a shell can read it.
type Answer = Result<(StatusCode, String), StatusCode>;

/// Answers a request below `/bootstrap/v1/`.
pub(crate) async fn answer(manager: &Manager, request: &Request<String>) -> Response<String> {
    let (status, text) = answered(manager, request).await.unwrap_or_else(|status| (status, String::new()));
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response
}

async fn answered(manager: &Manager, request: &Request<String>) -> Answer {
    let path = request.uri().path().strip_prefix("/bootstrap/v1/runners/").ok_or(StatusCode::NOT_FOUND)?;
    let (runner, what) = path.split_once('/').ok_or(StatusCode::NOT_FOUND)?;
    // First of all the token: nothing is read, and nobody asked, for a stranger.
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|bearer| bearer.strip_prefix("Bearer ")).unwrap_or_default();
    let caller = manager.caller(runner, token).ok_or(StatusCode::UNAUTHORIZED)?;
    let form: HashMap<String, String> =
        form_urlencoded::parse(request.body().as_bytes()).into_owned().collect();
    let form = |key: &str| form.get(key).map_or("", String::as_str);
    match (request.method(), what) {
        (&Method::GET, "script") => secret(manager.start_script(&caller).await),
        (&Method::POST, "jit-config") => secret(manager.jit_config(&caller, form("boot")).await),
        (&Method::POST, "progress") if form("step") == "listening" => {
            nothing(manager.hear_of_listener(&caller).await)
        }
        (&Method::POST, "progress") => nothing(manager.hear_of_progress(&caller, form("step")).await),
        (&Method::POST, "heartbeat") => heartbeat(manager, &caller, form("state")).await,
        (&Method::POST, "job-started") => job(manager, &caller, form, JobMoment::Begins).await,
        (&Method::POST, "job-completed") => job(manager, &caller, form, JobMoment::Ends).await,
        (&Method::POST, "failed" | "left") => {
            let failed = what == "failed" || !matches!(form("reason"), "asked" | "finished");
            let detail = format!("{}: {}", form("reason"), form("detail"));
            nothing(manager.hear_of_end(&caller, failed, &detail).await)
        }
        _ => Err(StatusCode::NOT_FOUND),
    }
}

async fn heartbeat(manager: &Manager, caller: &Caller, state: &str) -> Answer {
    let pulse = match state {
        "starting" => Pulse::Starting,
        "idle" => Pulse::Idle,
        "busy" => Pulse::Busy,
        _ => return Err(StatusCode::BAD_REQUEST),
    };
    match manager.hear_of_pulse(caller, pulse).await.map_err(|denied| status(&denied))? {
        Reply::Stay => Ok((StatusCode::OK, "stay".to_owned())),
        Reply::Leave => Ok((StatusCode::OK, "leave".to_owned())),
    }
}

async fn job<'f>(
    manager: &Manager,
    caller: &Caller,
    form: impl Fn(&str) -> &'f str,
    moment: JobMoment,
) -> Answer {
    let signal = JobSignal {
        runner: caller.runner().clone(),
        repository: form("repository").parse().map_err(|_| StatusCode::BAD_REQUEST)?,
        run: RunId(form("run_id").parse().map_err(|_| StatusCode::BAD_REQUEST)?),
        attempt: form("run_attempt").parse().map_err(|_| StatusCode::BAD_REQUEST)?,
        key: form("job").to_owned(),
        moment,
    };
    nothing(manager.hear_of_own_job(caller, signal).await)
}

fn secret(given: Result<Secret, Denied>) -> Answer {
    given.map(|secret| (StatusCode::OK, secret.expose().to_owned())).map_err(|denied| status(&denied))
}

fn nothing(taken: Result<(), Denied>) -> Answer {
    taken.map(|()| (StatusCode::NO_CONTENT, String::new())).map_err(|denied| status(&denied))
}

/// A machine calls again after 5xx, and takes every 4xx for the last word.
fn status(denied: &Denied) -> StatusCode {
    match denied {
        Denied::Gone => StatusCode::GONE,
        Denied::Refused(_) => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}
