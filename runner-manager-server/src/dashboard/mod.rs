//! The page at `/`: what goes on now, for people.
//!
//! The server renders all of it, so that it says the same without JavaScript; the little script asks for the
//! page again when an event says that something changed. Nothing comes from another host, nothing in the page
//! can be run but that script, and whatever others choose (names of jobs, words of clouds) is escaped.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::{HeaderValue, StatusCode};
use jiff::{SignedDuration, Timestamp};
use runner_manager_core::domain::{Conclusion, Phase};
use runner_manager_core::store::{Draining, JobFilter, Page, RunnerFilter};

use crate::http::{AppState, Refusal};
use crate::view::{Deployment, EndedRunner, Group, Job, Runner};

/// How many rows of each list the page shows.
pub(crate) const ROWS: usize = 100;
const ENDED_ROWS: usize = 20;

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// What the page shows.
#[derive(Debug, Template)]
#[template(path = "dashboard.html")]
struct Dashboard {
    now: Timestamp,
    remarks: Vec<String>,
    groups: Vec<Group>,
    runners: Vec<Runner>,
    more_runners: bool,
    jobs: Vec<Job>,
    more_jobs: bool,
    ended: Vec<EndedRunner>,
}

impl Dashboard {
    /// How long ago something was, in the two largest units.
    fn ago(&self, at: &Timestamp) -> String {
        span(self.now.duration_since(*at))
    }

    fn draining(group: &Group) -> Option<&'static str> {
        group.draining.map(|draining| match draining {
            Draining::Operator => "draining: an operator asked for it",
            Draining::Removed => "draining: it is configured no more",
        })
    }

    /// How a job ended, in words; empty where it has not.
    fn conclusion(job: &Job) -> &'static str {
        match job.conclusion {
            None => "",
            Some(Conclusion::Success) => "success",
            Some(Conclusion::Failure) => "failure",
            Some(Conclusion::Cancelled) => "cancelled",
            Some(Conclusion::Skipped) => "skipped",
            Some(Conclusion::TimedOut) => "timed out",
            Some(Conclusion::Neutral) => "neutral",
            Some(Conclusion::ActionRequired) => "action required",
            Some(Conclusion::Other) => "ended otherwise",
        }
    }

    /// The states of runners that a group has, in words.
    fn states(group: &Group) -> String {
        let counts = &group.counts;
        let states = Phase::ALL.map(|phase| (phase, counts.of(phase)));
        let words =
            states.iter().filter(|(_, count)| *count > 0).map(|(phase, count)| format!("{count} {phase}"));
        words.collect::<Vec<_>>().join(", ")
    }
}

/// `GET /`.
pub(crate) async fn page(State(state): State<AppState>) -> Result<Response, Refusal> {
    let manager = state.manager();
    let runners = manager.runners(&RunnerFilter::All, &Page::first(ROWS + 1)).await?;
    let jobs = manager.jobs(&JobFilter::All, &Page::first(ROWS + 1)).await?;
    let page = Dashboard {
        remarks: Deployment::from(manager.deployment().await?).remarks(),
        groups: manager.groups().await?.iter().map(Group::from).collect(),
        more_runners: runners.len() > ROWS,
        runners: Runner::all(manager, runners.iter().take(ROWS).map(|runner| &runner.value)).await?,
        more_jobs: jobs.len() > ROWS,
        jobs: jobs.iter().take(ROWS).map(Job::from).collect(),
        ended: manager.ended_runners(ENDED_ROWS).await?.iter().map(EndedRunner::from).collect(),
        now: state.clock().now(),
    };
    let html =
        page.render().map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    Ok((headers, html).into_response())
}

/// `GET /assets/{name}`: the page's style and script, which hold nothing that is anybody's.
pub(crate) async fn asset(Path(name): Path<String>) -> Response {
    let (kind, text) = match name.as_str() {
        "dashboard.css" => ("text/css; charset=utf-8", include_str!("../../assets/dashboard.css")),
        "dashboard.js" => ("text/javascript; charset=utf-8", include_str!("../../assets/dashboard.js")),
        "icon.svg" => ("image/svg+xml", include_str!("../../assets/icon.svg")),
        _ => return Refusal::new(StatusCode::NOT_FOUND, "there is no such asset").into_response(),
    };
    let cache = HeaderValue::from_static("public, max-age=300");
    ([(CONTENT_TYPE, HeaderValue::from_static(kind)), (CACHE_CONTROL, cache)], text).into_response()
}

fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use askama::Template;
    use jiff::{SignedDuration, Timestamp};

    use super::{Dashboard, span};
    use crate::view::{Job, LastError, Loss};

    #[test]
    fn spans_are_short() {
        let of = |seconds| span(SignedDuration::from_secs(seconds));
        assert_eq!([of(-3), of(59), of(61), of(7260), of(90_000)], ["0s", "59s", "1m 1s", "2h 1m", "1d 1h"]);
    }

    #[test]
    fn what_others_choose_is_escaped() {
        let evil = "\"><script>alert(1)</script>' onload=x";
        let loss = Loss {
            at: Timestamp::UNIX_EPOCH,
            runner: "rm-linux-1".to_owned(),
            why: evil.to_owned(),
            rerun: "unwanted".to_owned(),
            rerun_error: None,
        };
        let job = Job {
            id: 1,
            run: 1,
            attempt: 1,
            repository: "acme/app".to_owned(),
            name: evil.to_owned(),
            workflow: Some(evil.to_owned()),
            labels: vec![evil.to_owned()],
            state: "queued".to_owned(),
            waits: Some(evil.to_owned()),
            last_error: Some(LastError {
                what: evil.to_owned(),
                detail: evil.to_owned(),
                at: Timestamp::UNIX_EPOCH,
            }),
            failed_runners: Vec::new(),
            group: None,
            runner: Some(evil.to_owned()),
            conclusion: None,
            lost: None,
            created_at: Timestamp::UNIX_EPOCH,
            recorded_at: Timestamp::UNIX_EPOCH,
            since: Timestamp::UNIX_EPOCH,
        };
        let page = Dashboard {
            now: Timestamp::UNIX_EPOCH,
            remarks: vec!["the store was <b>".to_owned()],
            groups: Vec::new(),
            runners: Vec::new(),
            more_runners: false,
            jobs: vec![Job { lost: Some(loss), ..job.clone() }, job],
            more_jobs: false,
            ended: Vec::new(),
        };
        let html = page.render().unwrap();
        assert!(html.contains("&#60;script&#62;alert(1)"), "{html}");
        assert!(!html.contains("<script>alert"), "{html}");
        assert!(!html.contains("' onload"), "{html}");
        assert!(html.contains("<p class=\"warn\">the store was &#60;b&#62;</p>"), "{html}");
    }
}
