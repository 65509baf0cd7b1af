//! The transport on octocrab over a real socket: credentials, addresses, time-outs, and what it refuses.
#![expect(clippy::unwrap_used, reason = "what goes wrong in a test's own helpers fails the test")]

mod http_server;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{GitHubGroupId, Labels, RunnerName, Scope, Secret};
use runner_manager_core::github::{GitHub, GitHubError, GitHubErrorKind, JitRequest};
use runner_manager_core::octocrab::{Credentials, OctocrabSettings, OctocrabTransport, SettingsError};
use runner_manager_core::rest::{As, RestGitHub, Transport, TransportError};

use self::http_server::{Reply, Server, keys::private_key};

const TOKEN: &str = "ghp_verysecret";

type Log = Arc<Mutex<Vec<(String, http::HeaderMap)>>>;

/// A server that keeps what it was asked.
async fn server(reply: impl Fn(&Request<Bytes>) -> Reply + Send + Sync + 'static) -> (Server, Log) {
    let log = Log::default();
    let kept = Arc::clone(&log);
    let server = Server::start(move |request| {
        let line = format!("{} {}", request.method(), request.uri());
        kept.lock().unwrap().push((line, request.headers().clone()));
        reply(&request)
    })
    .await;
    (server, log)
}

fn asked(log: &Log) -> Vec<String> {
    log.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
}

fn with_token(url: &str) -> OctocrabSettings {
    OctocrabSettings::new(url, Credentials::Token(Secret::new(TOKEN)))
}

fn transport(settings: OctocrabSettings) -> OctocrabTransport {
    // Another test of this process may have installed it already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    OctocrabTransport::new(settings, Arc::new(SystemClock)).unwrap()
}

fn github(settings: OctocrabSettings) -> RestGitHub {
    RestGitHub::new(Arc::new(transport(settings)), Arc::new(SystemClock))
}

fn acme() -> Scope {
    Scope::organization("acme").unwrap()
}

fn json(status: u16, body: impl Into<String>) -> Reply {
    Reply::Answer(Response::builder().status(status).body(Bytes::from(body.into())).unwrap())
}

fn no_runners() -> Reply {
    json(200, r#"{"total_count": 0, "runners": []}"#)
}

async fn register(github: &RestGitHub) -> GitHubError {
    let request = JitRequest {
        scope: acme(),
        name: RunnerName::new("rm-1").unwrap(),
        group: GitHubGroupId::DEFAULT,
        labels: Labels::parse(["linux"]).unwrap(),
    };
    github.create_jit_config(&request).await.unwrap_err()
}

#[tokio::test]
async fn a_request_bears_what_github_asks_for() {
    let (server, log) = server(|_| no_runners()).await;
    assert!(github(with_token(&server.url)).runners(&acme()).await.unwrap().is_empty());
    let (line, headers) = log.lock().unwrap()[0].clone();
    assert_eq!(line, "GET /orgs/acme/actions/runners?per_page=100");
    for (name, value) in [
        ("authorization", "Bearer ghp_verysecret"),
        ("accept", "application/vnd.github+json"),
        ("x-github-api-version", "2022-11-28"),
        ("user-agent", concat!("runner-manager/", env!("CARGO_PKG_VERSION"))),
    ] {
        let found: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(found, [value], "{name}");
    }
}

#[tokio::test]
async fn the_root_of_an_enterprise_server_is_kept() {
    let (server, log) = server(|_| no_runners()).await;
    for root in ["/api/v3", "/api/v3/"] {
        github(with_token(&format!("{}{root}", server.url))).runners(&acme()).await.unwrap();
    }
    let line = "GET /api/v3/orgs/acme/actions/runners?per_page=100";
    assert_eq!(asked(&log), [line, line]);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let make = |settings| OctocrabTransport::new(settings, Arc::new(SystemClock)).unwrap_err();
    for url in ["", "api.github.com", "ftp://h", "https://h/?a=b", "https://user@h", "https://"] {
        let error = make(with_token(url));
        assert!(matches!(error, SettingsError::Url(_)), "{url:?}: {error}");
    }
    for token in ["", "two words", "ghp_1\n"] {
        let settings = OctocrabSettings::new("https://h", Credentials::Token(Secret::new(token)));
        assert!(matches!(make(settings), SettingsError::Token), "{token:?}");
    }
    let private_key = Secret::new("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----");
    let error =
        make(OctocrabSettings::new("https://h", Credentials::App { id: 1, private_key, installation: None }));
    assert!(matches!(error, SettingsError::PrivateKey));
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn silence_ends_in_a_time_out_and_a_write_is_unclear() {
    let (server, log) = server(|_| Reply::Silence).await;
    let settings = OctocrabSettings { call_timeout: Duration::from_millis(100), ..with_token(&server.url) };
    let github = github(settings);
    assert_eq!(register(&github).await.kind, GitHubErrorKind::Unclear);
    assert_eq!(github.runners(&acme()).await.unwrap_err().kind, GitHubErrorKind::Unavailable);
    assert_eq!(asked(&log).len(), 2, "nothing is sent twice");
}

#[tokio::test]
async fn a_silent_connection_ends_before_the_call_does() {
    let (server, _) = server(|_| Reply::Silence).await;
    let settings = OctocrabSettings { read_timeout: Duration::from_millis(100), ..with_token(&server.url) };
    assert_eq!(register(&github(settings)).await.kind, GitHubErrorKind::Unclear);
}

#[tokio::test]
async fn a_cut_connection_is_unclear() {
    for begun in ["", "HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{\"runner\""] {
        let (server, log) = server(move |_| Reply::Cut(Bytes::from(begun))).await;
        let github = github(with_token(&server.url));
        assert_eq!(register(&github).await.kind, GitHubErrorKind::Unclear);
        assert_eq!(github.runners(&acme()).await.unwrap_err().kind, GitHubErrorKind::Unavailable);
        assert_eq!(asked(&log).len(), 2, "nothing is sent twice");
    }
}

#[tokio::test]
async fn a_refused_connection_was_not_sent() {
    let (server, _) = server(|_| no_runners()).await;
    let url = server.url.clone();
    drop(server);
    let transport = transport(with_token(&url));
    // The server's end may take a moment to be closed.
    let refused = async {
        loop {
            let request = Request::post("/orgs/acme/x").body(Bytes::new()).unwrap();
            match transport.send(As::Scope(&acme()), request).await {
                Err(TransportError::NotSent(_)) => break,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    runner_manager_core::clock::timeout(&SystemClock, Duration::from_secs(10), refused).await.unwrap();
    assert_eq!(register(&github(with_token(&url))).await.kind, GitHubErrorKind::Unavailable);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused() {
    let large = format!(r#"{{"total_count": 0, "runners": [], "x": "{}"}}"#, "x".repeat(2_000));
    let (server, _) = server(move |_| json(200, large.clone())).await;
    let github = github(OctocrabSettings { answer_limit: 1_000, ..with_token(&server.url) });
    let error = github.runners(&acme()).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unexpected, "{error}");
    assert_eq!(register(&github).await.kind, GitHubErrorKind::Unclear);
}

#[tokio::test]
async fn only_a_get_follows_a_redirect_and_only_within_the_api() {
    let moved = |location: &str| {
        let builder = Response::builder().status(301).header("location", location.to_owned());
        Reply::Answer(builder.body(Bytes::new()).unwrap())
    };
    let (stranger, strangers_log) = server(|_| no_runners()).await;
    let outside = format!("{}/orgs/new/actions/runners", stranger.url);
    let (server, log) = server(move |request| {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        match request.uri().path() {
            "/orgs/acme/actions/runners" => moved(&format!("http://{host}/organizations/7/runners")),
            "/organizations/7/runners" => no_runners(),
            "/orgs/away/actions/runners" => moved(&outside),
            _ => moved(&format!("http://{host}{}", request.uri())),
        }
    })
    .await;
    let github = github(with_token(&server.url));
    assert!(github.runners(&acme()).await.unwrap().is_empty());
    assert_eq!(asked(&log).len(), 2);
    let away = Scope::organization("away").unwrap();
    assert_eq!(github.runners(&away).await.unwrap_err().kind, GitHubErrorKind::Invalid);
    assert!(asked(&strangers_log).is_empty(), "nobody else gets our token");
    assert_eq!(register(&github).await.kind, GitHubErrorKind::Invalid);
    assert_eq!(asked(&log).len(), 4);
    let circle = Scope::organization("circle").unwrap();
    assert_eq!(github.runners(&circle).await.unwrap_err().kind, GitHubErrorKind::Invalid);
    assert_eq!(asked(&log).len(), 8);
}

/// An App's GitHub: what a test wants to change of it, and how many tokens it made.
#[derive(Debug)]
struct App {
    token_lasts: SignedDuration,
    refused: Vec<String>,
    made: u32,
    access: u16,
}

async fn app_server(token_lasts: SignedDuration) -> (Server, Log, Arc<Mutex<App>>) {
    let app = Arc::new(Mutex::new(App { token_lasts, refused: Vec::new(), made: 0, access: 201 }));
    let shared = Arc::clone(&app);
    let (server, log) = server(move |request| {
        let mut app = shared.lock().unwrap();
        let bearer = request.headers()["authorization"].to_str().unwrap();
        match request.uri().path() {
            "/orgs/absent/installation" => json(404, r#"{"message": "Not Found"}"#),
            path if path.ends_with("/installation") => {
                assert_eq!(bearer.split('.').count(), 3, "a web token is needed");
                json(200, r#"{"id": 42}"#)
            }
            "/app/installations/42/access_tokens" | "/app/installations/77/access_tokens"
                if app.access != 201 =>
            {
                json(app.access, "{}")
            }
            "/app/installations/42/access_tokens" | "/app/installations/77/access_tokens" => {
                assert_eq!(bearer.split('.').count(), 3, "a web token is needed");
                app.made += 1;
                let end = SystemClock.now() + app.token_lasts;
                json(201, format!(r#"{{"token": "ghs_{}", "expires_at": "{end}"}}"#, app.made))
            }
            _ if app.refused.iter().any(|token| bearer == format!("Bearer {token}")) => {
                json(401, r#"{"message": "Bad credentials"}"#)
            }
            _ if bearer.starts_with("Bearer ghs_") => no_runners(),
            _ => json(401, "{}"),
        }
    })
    .await;
    (server, log, app)
}

fn with_app(url: &str, installation: Option<u64>) -> OctocrabSettings {
    let private_key = Secret::new(private_key());
    OctocrabSettings::new(url, Credentials::App { id: 12345, private_key, installation })
}

const LIST: &str = "GET /orgs/acme/actions/runners?per_page=100";
const LOOK_UP: &str = "GET /orgs/acme/installation";
const MAKE: &str = "POST /app/installations/42/access_tokens";

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
        assert_eq!(error.kind, GitHubErrorKind::PermissionDenied);
        assert!(error.detail.contains("not installed"), "{error}");
    }
    let missing = github.check(&absent).await.unwrap();
    assert!(missing[0].contains("not installed"), "{missing:?}");
    assert_eq!(asked(&log), ["GET /orgs/absent/installation"; 3]);
}

#[tokio::test]
async fn a_call_whose_token_was_not_made_was_not_sent() {
    let (server, log, app) = app_server(SignedDuration::from_hours(1)).await;
    let github = github(with_app(&server.url, None));
    for (status, kind) in [
        (500, GitHubErrorKind::Unavailable),
        (429, GitHubErrorKind::RateLimited),
        (401, GitHubErrorKind::Unauthenticated),
    ] {
        app.lock().unwrap().access = status;
        assert_eq!(register(&github).await.kind, kind);
    }
    assert!(!asked(&log).iter().any(|line| line.ends_with("generate-jitconfig")));
    // An installation that is gone is looked up again.
    app.lock().unwrap().access = 404;
    log.lock().unwrap().clear();
    register(&github).await;
    register(&github).await;
    assert_eq!(asked(&log), [MAKE, LOOK_UP, MAKE]);
}

#[tokio::test]
async fn secrets_are_in_no_print_and_no_error() {
    let (server, _) = server(|_| Reply::Cut(Bytes::new())).await;
    let settings = with_token(&server.url);
    let printed = format!("{settings:?}");
    let github = github(settings);
    let error = register(&github).await;
    let mut text = format!("{printed} {github:?} {error} {error:?}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text} {cause} {cause:?}");
        source = cause.source();
    }
    assert!(!text.contains("verysecret"), "{text}");
    assert!(text.contains("no answer came"), "{text}");
}

#[tokio::test]
async fn the_clock_that_is_given_counts() {
    // Time stands still here, so that only the answer of the other side ends a call.
    let clock = Arc::new(runner_manager_core::clock::SimulatedClock::new(Timestamp::UNIX_EPOCH));
    let (server, _) = server(|_| no_runners()).await;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let transport =
        OctocrabTransport::new(with_token(&server.url), Arc::<_>::clone(&clock) as Arc<dyn Clock>);
    let request = Request::get("/orgs/acme/actions/runners").body(Bytes::new()).unwrap();
    let answer = transport.unwrap().send(As::Scope(&acme()), request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(clock.next_wake(), None, "nothing is left behind");
}
