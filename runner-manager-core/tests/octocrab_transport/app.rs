//! The transport as a GitHub App: installations, tokens, clocks, and what GitHub refuses the App.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::{SignedDuration, Timestamp};
use runner_manager_core::clock::{Clock, SimulatedClock, SystemClock};
use runner_manager_core::domain::{Scope, Secret};
use runner_manager_core::github::{GitHub, GitHubErrorKind, Intent};
use runner_manager_core::octocrab::{Credentials, OctocrabSettings, OctocrabTransport};
use runner_manager_core::rest::{As, RestGitHub, Transport};
use runner_manager_core::retry::Retry;

use crate::http_server::{Reply, Server, keys::private_key};
use crate::{LIST, Log, acme, asked, github, json, no_runners, register, server, transport, with_token};

const LOOK_UP: &str = "GET /orgs/acme/installation";
const MAKE: &str = "POST /app/installations/42/access_tokens";

/// An App's GitHub: what a test wants to change of it, and how many tokens it made.
#[derive(Debug)]
struct App {
    clock: Arc<dyn Clock>,
    /// How far its clock is ahead of that one.
    ahead: SignedDuration,
    token_lasts: SignedDuration,
    /// Tokens that it does not take any more.
    refused: Vec<String>,
    made: u32,
    /// What it answers who asks for a token.
    access: u16,
    suspended: bool,
    /// A header of its answers to the App.
    header: Option<(&'static str, &'static str)>,
}

impl App {
    fn now(&self) -> Timestamp {
        self.clock.now() + self.ahead
    }

    /// An answer that bears a date.
    fn answer(&self, status: u16, body: &str) -> Reply {
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&self.now()).unwrap();
        let mut answer = Response::builder().status(status).header("date", date);
        if let Some((name, value)) = self.header {
            answer = answer.header(name, value);
        }
        Reply::Answer(answer.body(Bytes::from(body.to_owned())).unwrap())
    }

    /// What is wrong with a web token, as GitHub has it.
    fn complaint(&self, token: &str) -> Option<&'static str> {
        let [_, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else {
            return Some("no web token");
        };
        assert!(!signature.is_empty());
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["iss"], 12345);
        let (issued, ends) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        let now = self.now().as_second();
        if issued > now {
            Some(
                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
            )
        } else if ends <= now || ends > now + 600 {
            Some("'Expiration time' claim ('exp') is too far in the future")
        } else {
            None
        }
    }

    /// Answers the App itself.
    fn answer_app(&mut self, path: &str, bearer: &str) -> Reply {
        if let Some(complaint) = self.complaint(bearer) {
            return self.answer(401, &format!(r#"{{"message": "{complaint}"}}"#));
        }
        match path {
            "/orgs/absent/installation" => self.answer(404, r#"{"message": "Not Found"}"#),
            path if path.ends_with("/installation") => self.answer(200, r#"{"id": 42}"#),
            _ if self.suspended => self.answer(403, SUSPENDED),
            _ if self.access != 201 => self.answer(self.access, "{}"),
            _ => {
                self.made += 1;
                let end = self.now() + self.token_lasts;
                self.answer(201, &format!(r#"{{"token": "ghs_{}", "expires_at": "{end}"}}"#, self.made))
            }
        }
    }
}

const SUSPENDED: &str = r#"{"message": "This installation has been suspended"}"#;

async fn app_server(token_lasts: SignedDuration) -> (Server, Log, Arc<Mutex<App>>) {
    app_server_at(Arc::new(SystemClock), token_lasts).await
}

async fn app_server_at(clock: Arc<dyn Clock>, token_lasts: SignedDuration) -> (Server, Log, Arc<Mutex<App>>) {
    let app = Arc::new(Mutex::new(App {
        clock,
        ahead: SignedDuration::ZERO,
        token_lasts,
        refused: Vec::new(),
        made: 0,
        access: 201,
        suspended: false,
        header: None,
    }));
    let shared = Arc::clone(&app);
    let (server, log) = server(move |request| {
        let mut app = shared.lock().unwrap();
        let bearer = request.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let path = request.uri().path();
        if path.starts_with("/app/") || path.ends_with("/installation") {
            return app.answer_app(path, bearer);
        }
        if app.refused.iter().any(|token| bearer == token) || !bearer.starts_with("ghs_") {
            return json(401, r#"{"message": "Bad credentials"}"#);
        }
        if app.suspended { json(403, SUSPENDED) } else { no_runners() }
    })
    .await;
    (server, log, app)
}

fn with_app(url: &str, installation: Option<u64>) -> OctocrabSettings {
    let private_key = Secret::new(private_key());
    OctocrabSettings::new(url, Credentials::App { id: 12345, private_key, installation })
}

fn at(clock: &Arc<SimulatedClock>, settings: OctocrabSettings) -> RestGitHub {
    let clock: Arc<dyn Clock> = Arc::<SimulatedClock>::clone(clock);
    RestGitHub::new(Arc::new(OctocrabTransport::new(settings, clock.clone()).unwrap()), clock)
}

fn simulated_clock() -> Arc<SimulatedClock> {
    Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()))
}

#[tokio::test]
async fn an_app_looks_up_its_installation_and_keeps_its_token() {
    let (server, log, _) = app_server(SignedDuration::from_hours(1)).await;
    let github = github(with_app(&server.url, None));
    github.runners(&acme()).await.unwrap();
    github.runners(&acme()).await.unwrap();
    // A repository of the same account needs nothing more.
    github.runners(&Scope::Repository("Acme/app".parse().unwrap())).await.unwrap();
    let repository = "GET /repos/Acme/app/actions/runners?per_page=100";
    assert_eq!(asked(&log), [LOOK_UP, MAKE, LIST, LIST, repository]);
    assert_eq!(log.lock().unwrap()[2].1["authorization"], "Bearer ghs_1");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let (server, log, _) = app_server(SignedDuration::from_secs(100)).await;
    let github = github(with_app(&server.url, None));
    github.runners(&acme()).await.unwrap();
    github.runners(&acme()).await.unwrap();
    assert_eq!(asked(&log), [LOOK_UP, MAKE, LIST, MAKE, LIST]);
    assert_eq!(log.lock().unwrap()[4].1["authorization"], "Bearer ghs_2");
}

#[tokio::test]
async fn a_token_that_was_ended_early_is_replaced() {
    let (server, log, app) = app_server(SignedDuration::from_hours(1)).await;
    let github = github(with_app(&server.url, None));
    github.runners(&acme()).await.unwrap();
    app.lock().unwrap().refused.push("ghs_1".to_owned());
    github.runners(&acme()).await.unwrap();
    assert_eq!(asked(&log), [LOOK_UP, MAKE, LIST, LIST, MAKE, LIST]);
    // Where the new one is refused, too, that is the answer.
    app.lock().unwrap().refused.extend(["ghs_2".to_owned(), "ghs_3".to_owned()]);
    let error = github.runners(&acme()).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unauthenticated, "{error}");
}

#[tokio::test]
async fn many_calls_at_once_make_one_token() {
    let (server, log, app) = app_server(SignedDuration::from_hours(1)).await;
    let github = github(with_app(&server.url, None));
    let scope = acme();
    let calls = (0..20).map(|_| github.runners(&scope));
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(app.lock().unwrap().made, 1);
    assert_eq!(asked(&log).len(), 22);
}

#[tokio::test]
async fn a_fixed_installation_is_not_looked_up() {
    let (server, log, _) = app_server(SignedDuration::from_hours(1)).await;
    github(with_app(&server.url, Some(77))).runners(&acme()).await.unwrap();
    assert_eq!(asked(&log), ["POST /app/installations/77/access_tokens", LIST]);
}

#[tokio::test]
async fn an_app_that_is_not_installed_is_told_and_nothing_is_absent() {
    let (server, log, _) = app_server(SignedDuration::from_hours(1)).await;
    let github = github(with_app(&server.url, None));
    let absent = Scope::organization("absent").unwrap();
    let id = runner_manager_core::domain::GitHubRunnerId(1);
    for error in
        [github.runner(&absent, id).await.unwrap_err(), github.remove_runner(&absent, id).await.unwrap_err()]
    {
        assert_eq!((error.kind, error.retry), (GitHubErrorKind::NoInstallation, Retry::Backoff));
        assert!(error.detail.starts_with("App 12345 is not installed on absent"), "{error}");
    }
    // Who checks asks anew; the others do not.
    let missing = github.check(&absent, Intent::Supply).await.unwrap();
    assert!(missing[0].starts_with("App 12345 is not installed on absent"), "{missing:?}");
    assert_eq!(asked(&log), ["GET /orgs/absent/installation"; 2]);
}

#[tokio::test]
async fn a_call_whose_token_was_not_made_was_not_sent() {
    let (server, log, app) = app_server(SignedDuration::from_hours(1)).await;
    for (status, kind) in [
        (500, GitHubErrorKind::Unavailable),
        (429, GitHubErrorKind::RateLimited),
        (401, GitHubErrorKind::Unauthenticated),
    ] {
        app.lock().unwrap().access = status;
        // Another one each time, since a refusal is heeded.
        let github = self::github(with_app(&server.url, None));
        assert_eq!(register(&github).await.kind, kind);
    }
    assert!(!asked(&log).iter().any(|line| line.ends_with("generate-jitconfig")));
    // An installation that is gone is looked up again: it may have been installed anew.
    let github = self::github(with_app(&server.url, None));
    app.lock().unwrap().access = 500;
    register(&github).await;
    app.lock().unwrap().access = 404;
    log.lock().unwrap().clear();
    assert_eq!(register(&github).await.kind, GitHubErrorKind::NoInstallation);
    assert_eq!(asked(&log), [MAKE, LOOK_UP, MAKE]);
}

#[tokio::test]
async fn a_clock_that_is_off_is_mended_by_githubs() {
    for ahead in [SignedDuration::from_hours(2), SignedDuration::from_mins(-12)] {
        let (server, log, app) = app_server(SignedDuration::from_secs(100)).await;
        app.lock().unwrap().ahead = ahead;
        let github = github(with_app(&server.url, None));
        github.runners(&acme()).await.unwrap();
        assert_eq!(asked(&log), [LOOK_UP, LOOK_UP, MAKE, LIST], "{ahead}");
        // When a token ends is meant by GitHub's clock, too.
        log.lock().unwrap().clear();
        github.runners(&acme()).await.unwrap();
        assert_eq!(asked(&log), [MAKE, LIST], "{ahead}");
        // Once the clock was set, it counts again.
        app.lock().unwrap().ahead = SignedDuration::ZERO;
        log.lock().unwrap().clear();
        github.runners(&acme()).await.unwrap();
        github.runners(&acme()).await.unwrap();
        assert_eq!(asked(&log), [MAKE, MAKE, LIST, MAKE, LIST], "{ahead}");
    }
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_by_a_check() {
    let (server, _, app) = app_server(SignedDuration::from_hours(1)).await;
    for (ahead, told) in
        [(0, None), (600, Some("behind GitHub's: set it")), (-600, Some("ahead of GitHub's: set it"))]
    {
        app.lock().unwrap().ahead = SignedDuration::from_secs(ahead);
        let missing = github(with_app(&server.url, None)).check(&acme(), Intent::Supply).await.unwrap();
        let clock: Vec<_> =
            missing.iter().filter(|sentence| sentence.contains("this machine's clock")).collect();
        assert_eq!(clock.len(), usize::from(told.is_some()), "{missing:?}");
        assert!(told.is_none_or(|told| clock[0].ends_with(told)), "{missing:?}");
    }
}

#[tokio::test]
async fn a_web_token_that_is_refused_for_another_reason_is_not_sent_again() {
    let (server, log) =
        server(|_| json(401, r#"{"message": "A JSON web token could not be decoded"}"#)).await;
    let error = github(with_app(&server.url, None)).runners(&acme()).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unauthenticated);
    assert!(error.detail.contains("GitHub does not know App 12345 by its id and private key"), "{error}");
    assert_eq!(asked(&log), [LOOK_UP]);
}

#[tokio::test]
async fn a_suspended_installation_is_named_until_it_is_not_any_more() {
    let clock = simulated_clock();
    let (server, log, app) =
        app_server_at(Arc::<SimulatedClock>::clone(&clock), SignedDuration::from_hours(1)).await;
    let github = at(&clock, with_app(&server.url, None));
    app.lock().unwrap().suspended = true;
    for _ in 0..10 {
        let error = register(&github).await;
        assert_eq!((error.kind, error.retry), (GitHubErrorKind::NoInstallation, Retry::Backoff));
        assert!(error.detail.contains("App 12345 on acme is suspended"), "{error}");
    }
    assert_eq!(asked(&log), [LOOK_UP, MAKE], "GitHub is not asked each time");
    app.lock().unwrap().suspended = false;
    clock.advance(Duration::from_secs(31));
    github.runners(&acme()).await.unwrap();
    // It is also named where it happens while a token is good.
    app.lock().unwrap().suspended = true;
    log.lock().unwrap().clear();
    let error = github.runners(&acme()).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::NoInstallation, "{error}");
    assert_eq!(asked(&log), [LIST]);
    app.lock().unwrap().suspended = false;
    github.runners(&acme()).await.unwrap();
}

#[tokio::test]
async fn an_enterprise_is_told_what_an_app_cannot_do() {
    let (server, _, app) = app_server(SignedDuration::from_hours(1)).await;
    app.lock().unwrap().access = 404;
    let inc = Scope::enterprise("inc").unwrap();
    let error = github(with_app(&server.url, None)).runners(&inc).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::NoInstallation);
    assert!(error.detail.contains("not installed on enterprise inc"), "{error}");
    assert!(error.detail.contains("`manage_runners:enterprise`"), "{error}");
}

#[tokio::test]
async fn the_apps_own_calls_heed_what_github_says_of_them() {
    let clock = simulated_clock();
    let (server, log, app) =
        app_server_at(Arc::<SimulatedClock>::clone(&clock), SignedDuration::from_hours(1)).await;
    let github = at(&clock, with_app(&server.url, None));
    let others = ["a", "b", "c"].map(|name| Scope::organization(name).unwrap());
    app.lock().unwrap().access = 429;
    app.lock().unwrap().header = Some(("retry-after", "60"));
    let error = github.runners(&acme()).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::RateLimited, "{error}");
    app.lock().unwrap().access = 201;
    app.lock().unwrap().header = None;
    let before = asked(&log).len();
    clock.advance(Duration::from_secs(20));
    for other in &others {
        let error = github.runners(other).await.unwrap_err();
        assert_eq!(error.kind, GitHubErrorKind::RateLimited, "{error}");
        assert_eq!(error.retry, Retry::After(Duration::from_secs(40)), "{error}");
    }
    assert_eq!(asked(&log).len(), before, "no other account's token is asked for either");
    clock.advance(Duration::from_secs(41));
    github.runners(&others[0]).await.unwrap();
}

#[tokio::test]
async fn the_last_of_the_apps_own_calls_is_not_overspent() {
    let clock = simulated_clock();
    let (server, log, app) =
        app_server_at(Arc::<SimulatedClock>::clone(&clock), SignedDuration::from_hours(1)).await;
    let github = at(&clock, with_app(&server.url, Some(42)));
    // The reset is unknown here, so that a minute is waited for.
    app.lock().unwrap().header = Some(("x-ratelimit-remaining", "0"));
    github.runners(&acme()).await.unwrap();
    let other = Scope::organization("other").unwrap();
    assert_eq!(github.runners(&other).await.unwrap_err().kind, GitHubErrorKind::RateLimited);
    // What has its token goes on.
    github.runners(&acme()).await.unwrap();
    assert_eq!(asked(&log), [MAKE, LIST, LIST]);
    clock.advance(Duration::from_secs(61));
    github.runners(&other).await.unwrap();
}

#[tokio::test]
async fn whom_calls_are_counted_for_is_the_same_in_every_process() {
    let (acme, app) = (acme(), Scope::Repository("Acme/app".parse().unwrap()));
    let word = |settings, who: As<'_>| transport(settings).account(who);
    let with_app = |installation| with_app("https://ghe.example/api/v3", installation);
    for installation in [None, Some(7)] {
        for scope in [&acme, &app] {
            assert_eq!(word(with_app(installation), As::Scope(scope)), "ghe.example/app:12345/acme");
        }
        assert_eq!(word(with_app(installation), As::App), "ghe.example/app:12345");
    }
    let token = |token: &str| {
        let settings = OctocrabSettings::new("https://h", Credentials::Token(Secret::new(token)));
        word(settings, As::Scope(&acme))
    };
    assert_eq!(token("ghp_one"), token("ghp_one"));
    assert_ne!(token("ghp_one"), token("ghp_two"));
    assert!(token("ghp_one").starts_with("h/token:") && !token("ghp_one").contains("ghp"));
    let elsewhere = word(with_token("https://other"), As::Scope(&acme));
    assert_ne!(elsewhere, word(with_token("https://h"), As::Scope(&acme)));
}
