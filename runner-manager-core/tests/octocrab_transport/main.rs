//! The transport on octocrab over a real socket: credentials, addresses, time-outs, and what it refuses.
#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]
#![expect(clippy::unwrap_used, reason = "what goes wrong in a test's own helpers fails the test")]

mod app;
#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../http_server/mod.rs"]
mod http_server;
mod secrets;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use jiff::Timestamp;
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{GitHubGroupId, Labels, RunnerName, Scope, Secret};
use runner_manager_core::github::{GitHub, GitHubError, GitHubErrorKind, JitRequest};
use runner_manager_core::octocrab::{
    Credentials, OctocrabSettings, OctocrabTransport, ProxySettings, SettingsError,
};
use runner_manager_core::rest::{As, RestGitHub, Transport, TransportError};

use self::certificates::make_certificates;
use self::http_server::{Reply, Server, proxy::Proxy};

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

const LIST: &str = "GET /orgs/acme/actions/runners?per_page=100";

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
    for url in ["", "proxy:3128", "socks5://h:1", "http://a:hunter2@h:1", "http://h:1/x", "http://h:1?x"] {
        let proxy = Some(ProxySettings { url: url.to_owned(), login: None });
        let error = make(OctocrabSettings { proxy, ..with_token("https://h") });
        assert!(matches!(error, SettingsError::Proxy), "{url:?}: {error}");
        assert!(!error.to_string().contains("hunter2"));
    }
    for ca in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"] {
        let error = make(OctocrabSettings { ca: Some(ca.to_owned()), ..with_token("https://h") });
        assert!(matches!(error, SettingsError::Certificates(_)), "{ca:?}: {error}");
    }
}

fn by(proxy: &Proxy, password: Option<&str>) -> ProxySettings {
    let login = password.map(|password| ("ann".to_owned(), Secret::new(password)));
    ProxySettings { url: proxy.url.clone(), login }
}

/// The whole of an error, with all that is behind it.
fn told(error: &GitHubError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn a_proxy_leads_to_github() {
    let (server, log) = server(|_| no_runners()).await;
    let proxy = Proxy::start(None).await;
    let settings = OctocrabSettings { proxy: Some(by(&proxy, None)), ..with_token(&server.url) };
    github(settings).runners(&acme()).await.unwrap();
    let place = server.url.strip_prefix("http://").unwrap();
    assert_eq!(proxy.asked(), [format!("CONNECT {place} HTTP/1.1")]);
    assert_eq!(asked(&log), [LIST]);
    assert_eq!(log.lock().unwrap()[0].1["authorization"], "Bearer ghp_verysecret");
}

#[tokio::test]
async fn a_proxy_is_told_who_we_are() {
    let (server, log) = server(|_| no_runners()).await;
    // ann:s3:cr@t
    let proxy = Proxy::start(Some("Basic YW5uOnMzOmNyQHQ=")).await;
    let settings =
        |password| OctocrabSettings { proxy: Some(by(&proxy, password)), ..with_token(&server.url) };
    github(settings(Some("s3:cr@t"))).runners(&acme()).await.unwrap();
    assert_eq!(asked(&log), [LIST]);
    for password in [None, Some("wrong")] {
        let error = github(settings(password)).runners(&acme()).await.unwrap_err();
        assert_eq!(error.kind, GitHubErrorKind::Unavailable, "{error}");
        assert!(told(&error).contains("proxy authorization required"), "{}", told(&error));
        // What did not get through the proxy was not sent.
        assert_eq!(register(&github(settings(password))).await.kind, GitHubErrorKind::Unavailable);
    }
    assert_eq!(asked(&log), [LIST], "nothing went past the proxy");
    let printed = format!("{:?}", settings(Some("s3:cr@t")));
    assert!(!printed.contains("s3:cr@t"), "{printed}");
}

#[tokio::test]
async fn a_server_whose_certificate_a_ca_of_ours_signed() {
    let folder = tempfile::tempdir().unwrap();
    if !make_certificates(folder.path()) {
        return;
    }
    let (log, proxy) = (Log::default(), Proxy::start(None).await);
    let kept = Arc::clone(&log);
    let server = Server::start_tls(folder.path(), move |request| {
        let line = format!("{} {}", request.method(), request.uri());
        kept.lock().unwrap().push((line, request.headers().clone()));
        no_runners()
    })
    .await;
    let ca = Some(std::fs::read_to_string(folder.path().join("ca.pem")).unwrap());
    let trusting = OctocrabSettings { ca: ca.clone(), ..with_token(&server.url) };
    github(trusting.clone()).runners(&acme()).await.unwrap();
    // The same by a proxy, which sees nothing of what is said.
    let through = OctocrabSettings { proxy: Some(by(&proxy, None)), ..trusting };
    github(through).runners(&acme()).await.unwrap();
    assert_eq!((asked(&log).len(), proxy.asked().len()), (2, 1));
    // The system knows nothing of this CA; and nobody but this CA is trusted where it is named.
    let error = github(with_token(&server.url)).runners(&acme()).await.unwrap_err();
    assert!(told(&error).contains("UnknownIssuer"), "{}", told(&error));
    let other = tempfile::tempdir().unwrap();
    assert!(make_certificates(other.path()));
    let ca = Some(std::fs::read_to_string(other.path().join("ca.pem")).unwrap());
    let error =
        github(OctocrabSettings { ca, ..with_token(&server.url) }).runners(&acme()).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unavailable, "{error}");
    assert_eq!(asked(&log).len(), 2, "nobody who is not trusted gets our token");
}

#[tokio::test]
async fn a_proxy_that_speaks_tls_leads_to_github() {
    let folder = tempfile::tempdir().unwrap();
    if !make_certificates(folder.path()) {
        return;
    }
    let ca = Some(std::fs::read_to_string(folder.path().join("ca.pem")).unwrap());
    // ann:s3:cr@t
    let proxy = Proxy::start_tls(folder.path(), Some("Basic YW5uOnMzOmNyQHQ=")).await;
    assert!(proxy.url.starts_with("https://"));
    let (plain, plain_log) = server(|_| no_runners()).await;
    let secured = Server::start_tls(folder.path(), |_| no_runners()).await;
    for url in [&plain.url, &secured.url] {
        let settings = |ca: &Option<String>| OctocrabSettings {
            proxy: Some(by(&proxy, Some("s3:cr@t"))),
            ca: ca.clone(),
            ..with_token(url)
        };
        github(settings(&ca)).runners(&acme()).await.unwrap();
        // The system knows nothing of this CA: the proxy is told nothing, no password and no token.
        let asked = proxy.asked().len();
        let error = github(settings(&None)).runners(&acme()).await.unwrap_err();
        assert!(told(&error).contains("UnknownIssuer"), "{}", told(&error));
        assert_eq!(proxy.asked().len(), asked);
    }
    assert_eq!((asked(&plain_log), proxy.asked().len()), (vec![LIST.to_owned()], 2));
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

#[tokio::test]
async fn the_clock_that_is_given_counts() {
    // Time stands still here, so that only the answer of the other side ends a call.
    let clock = Arc::new(runner_manager_core::clock::SimulatedClock::new(Timestamp::UNIX_EPOCH));
    let (server, _) = server(|_| no_runners()).await;
    let transport =
        OctocrabTransport::new(with_token(&server.url), Arc::<_>::clone(&clock) as Arc<dyn Clock>);
    let request = Request::get("/orgs/acme/actions/runners").body(Bytes::new()).unwrap();
    let answer = transport.unwrap().send(As::Scope(&acme()), request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(clock.next_wake(), None, "nothing is left behind");
}
