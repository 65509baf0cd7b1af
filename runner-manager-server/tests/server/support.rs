//! Real processes for tests: `runner-manager` as a user starts it, on free ports of this machine.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use runner_manager_core::domain::Secret;
use runner_manager_core::testing::simulator::DEFAULT_TOKEN;
use runner_manager_core::webhook::sign;
use tempfile::TempDir;

pub(crate) const WEBHOOK_SECRET: &str = "a-webhook-secret-of-tests";
pub(crate) const TOKEN: &str = "a-token-of-the-tests";
/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A command of the program, with nothing of this process' environment that it listens to.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner-manager"));
    command.args(arguments).env_remove("RUST_LOG");
    for variable in ["CONFIG", "URL", "TOKEN"] {
        command.env_remove(format!("RUNNER_MANAGER_{variable}"));
    }
    command.env("NO_PROXY", "127.0.0.1").stdin(Stdio::null());
    command
}

pub(crate) fn output(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

/// A process that printed `listening on http://...`, and is killed when the test ends.
#[derive(Debug)]
pub(crate) struct Listening {
    child: Child,
    pub(crate) url: String,
    log: PathBuf,
    _stdout: BufReader<std::process::ChildStdout>,
}

impl Listening {
    pub(crate) fn start(folder: &TempDir, name: &str, arguments: &[&str]) -> Self {
        let log = folder.path().join(format!("{name}.log"));
        let mut command = program(arguments);
        command.stdout(Stdio::piped()).stderr(std::fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            panic!("{arguments:?} printed {line:?}; its log:\n{}", std::fs::read_to_string(&log).unwrap());
        };
        Self { child, url: url.to_owned(), log, _stdout: stdout }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that the process ever had, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        ended(&mut self.child)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.log.display(), self.log());
        }
    }
}

pub(crate) fn ended(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "the process did not end within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A manager over an embedded store, with the GitHub simulator and a fake backend.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) manager: Listening,
    github: Listening,
    pub(crate) folder: TempDir,
}

impl System {
    pub(crate) fn start() -> Self {
        Self::start_with(|configuration| configuration)
    }

    /// One whose configuration is another one.
    pub(crate) fn start_with(change: impl FnOnce(String) -> String) -> Self {
        let folder = TempDir::new().unwrap();
        let github = Listening::start(&folder, "github", &["github-simulator"]);
        let config = write(&folder, &change(configuration(&github.url)));
        let manager =
            Listening::start(&folder, "manager", &["serve", "--config", &config, "--log-format", "json"]);
        Self { manager, github, folder }
    }

    /// Where the GitHub of this system is.
    pub(crate) fn github_url(&self) -> String {
        self.github.url.clone()
    }

    /// Asks for a path with the token, and gives the answer's JSON.
    pub(crate) async fn get(&self, path: &str) -> serde_json::Value {
        let answer =
            client().get(format!("{}{path}", self.manager.url)).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    /// Posts a signed webhook, and gives the status and the answer's JSON.
    pub(crate) async fn post(&self, event: &str, delivery: &str, body: Vec<u8>) -> (u16, serde_json::Value) {
        self.post_signed(WEBHOOK_SECRET, event, delivery, body).await
    }

    /// The same with a secret that may be another one.
    pub(crate) async fn post_signed(
        &self,
        secret: &str,
        event: &str,
        delivery: &str,
        body: Vec<u8>,
    ) -> (u16, serde_json::Value) {
        let signature = sign(&Secret::new(secret), &body);
        let request = client()
            .post(format!("{}/webhook", self.manager.url))
            .header("content-type", "application/json")
            .header("x-github-event", event)
            .header("x-github-delivery", delivery)
            .header("x-hub-signature-256", signature)
            .body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Asks until the answer is as it should be.
    pub(crate) async fn wait_for(
        &self,
        path: &str,
        good: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if good(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} stayed at {answer:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub(crate) fn client() -> reqwest::Client {
    // Several tests of this process may be the first one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

pub(crate) fn write(folder: &TempDir, configuration: &str) -> String {
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, configuration).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Two groups for the repositories that GitHub's examples are of: one serves the plain jobs, one those of k8s.
pub(crate) fn configuration(github: &str) -> String {
    format!(
        "
name: tests
secret_key: a-secret-key-of-the-tests-0123456789
server:
  listen: 127.0.0.1:0
  webhook_secret: {WEBHOOK_SECRET}
  tokens: [{{name: tests, role: viewer, token: {TOKEN}}}]
store: {{kind: embedded, path: store.redb}}
github: {{api_url: '{github}', token: {DEFAULT_TOKEN}}}
backends:
  fake: {{kind: fake}}
runner_groups:
  - {{name: plain, organization: Codertocat, labels: [ubuntu-latest], max: 3,
     placements: [{{backend: fake}}]}}
  - {{name: cluster, organization: lineville, labels: [k8s], max: 3,
     placements: [{{backend: fake}}]}}
"
    )
}

/// Sends bytes to an address and gives all that comes back until the other side closes.
pub(crate) fn raw(address: SocketAddr, request: &[u8]) -> String {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
