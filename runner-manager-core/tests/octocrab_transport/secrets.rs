//! What the transport gives away to whoever embeds it, with every log of every crate on: no secret.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use runner_manager_core::domain::{GitHubGroupId, Labels, RunnerName, Secret};
use runner_manager_core::github::{GitHub, GitHubError, JitRequest};
use runner_manager_core::octocrab::{Credentials, OctocrabSettings, ProxySettings};
use runner_manager_core::testing::secrets::Secrets;
use tracing_subscriber::fmt::MakeWriter;

use super::http_server::keys::private_key;
use super::http_server::proxy::Proxy;
use super::{Reply, acme, github, json, no_runners, register, server, told};

const PASSWORD: &str = "p%40ss/8fK2-wQz71+xV";
const JIT_CONFIG: &str = "eyIucnVubmVyIjoiZXlKaFoyVnVkRWxrSWpvaU1TSjkifQ==";
const INSTALLATION_TOKEN: &str = "ghs_5nT8wQ0yB3mL7kR1dX6v";

/// All that the process logs, at every level, of `tracing` and of `log`.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let everything = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::TRACE);
    everything.with_writer(log.clone()).init();
    log
});

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A GitHub that gives an App its token and a JIT config, and cuts every other POST.
fn answer(path: &str) -> Reply {
    match path {
        "/orgs/acme/installation" => json(200, r#"{"id": 7, "account": {"login": "acme"}}"#),
        "/app/installations/7/access_tokens" => {
            let ends = "2099-01-01T00:00:00Z";
            json(201, format!(r#"{{"token": "{INSTALLATION_TOKEN}", "expires_at": "{ends}"}}"#))
        }
        "/orgs/acme/actions/runners/generate-jitconfig" => {
            let runner = r#"{"id": 1, "name": "rm-1", "os": "unknown", "status": "offline", "busy": false, "labels": []}"#;
            json(201, format!(r#"{{"runner": {runner}, "encoded_jit_config": "{JIT_CONFIG}"}}"#))
        }
        "/orgs/acme/actions/runners" => no_runners(),
        _ => Reply::Cut(bytes::Bytes::new()),
    }
}

#[tokio::test]
async fn no_secret_is_in_a_log_a_print_or_an_error() {
    let log = &*LOG;
    let (server, requests) = server(|request| answer(request.uri().path())).await;
    let login = format!("Basic {}", base64_of(&format!("ann:{PASSWORD}")));
    let proxy = Proxy::start(Some(&login)).await;
    let key = private_key();
    let mut secrets = Secrets::default()
        .and("the proxy's password", PASSWORD)
        .and("the App's key", key.lines().filter(|line| !line.starts_with("---")).collect::<String>())
        .and("the JIT config", JIT_CONFIG)
        .and("the installation's token", INSTALLATION_TOKEN);

    let credentials = Credentials::App { id: 12345, private_key: Secret::new(key), installation: None };
    let by = |password: &str| ProxySettings {
        url: proxy.url.clone(),
        login: Some(("ann".to_owned(), Secret::new(password))),
    };
    let settings = |url: &str, password| OctocrabSettings {
        proxy: Some(by(password)),
        ..OctocrabSettings::new(url, credentials.clone())
    };
    let good = settings(&server.url, PASSWORD);
    let mut printed = format!("{good:?} {good:#?}");
    let good = github(good);
    let request = JitRequest {
        scope: acme(),
        name: RunnerName::new("rm-1").unwrap(),
        group: GitHubGroupId::DEFAULT,
        labels: Labels::parse(["linux"]).unwrap(),
    };
    assert_eq!(good.create_jit_config(&request).await.unwrap().encoded.expose(), JIT_CONFIG);
    good.runners(&acme()).await.unwrap();
    let elsewhere = runner_manager_core::domain::Scope::organization("cut").unwrap();
    let mut errors: Vec<GitHubError> = vec![good.runners(&elsewhere).await.unwrap_err()];
    // One that the proxy refuses, and one behind which nobody listens.
    errors.push(register(&github(settings(&server.url, "another-password-9Xq2"))).await);
    errors.push(register(&github(settings("http://127.0.0.1:1", PASSWORD))).await);
    for error in &errors {
        printed = format!("{printed} {good:?} {} {error:?} {error:#?}", told(error));
    }

    let requests = requests.lock().unwrap();
    for (at, (line, headers)) in requests.iter().enumerate() {
        secrets.add(&format!("what {line} ({at}) bore"), headers["authorization"].as_bytes());
    }
    assert!(
        secrets.names().iter().any(|name| name.starts_with("what GET")),
        "the App's web token: {secrets:?}"
    );
    let logged = log.text();
    assert!(logged.contains("TRACE") && logged.contains("hyper_util"), "the crates below us log:\n{logged}");
    assert_eq!(secrets.find(format!("{logged}\n{printed}").as_bytes()), []);
    // What is searched is what is logged.
    tracing::trace!(planted = JIT_CONFIG, "a record as any other");
    assert_eq!(secrets.find(log.text().as_bytes())[0].secret, "the JIT config");
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(text)
}
