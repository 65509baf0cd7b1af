//! `github-simulator`, `fake-cloud` and `simulated-agent` as processes that find each other.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "what fails is the test; it waits in real time"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// A process that listens, and is killed with the test.
struct Listening {
    process: Child,
    url: String,
}

impl Listening {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_runner-manager"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect("it says where it listens").to_owned();
        Self { process, url }
    }

    /// Asks it to stop as a service manager would; tells its exit code.
    fn stop(mut self) -> Option<i32> {
        let asked = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status().unwrap();
        assert!(asked.success());
        until("the process ends", || self.process.try_wait().unwrap()).code()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < limit, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One request, in a runtime of its own: these tests are about processes.
fn ask(method: &str, url: &str, body: &Value) -> Value {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let request = client.request(method.parse().unwrap(), url).bearer_auth("ghp_simulator");
        let answer = request.header("user-agent", "test").json(body).send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{url}: {status}");
        let text = answer.text().await.unwrap();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    })
}

fn jit_config(github: &str, name: &str) -> Value {
    let body = json!({"name": name, "runner_group_id": 1, "labels": ["linux"]});
    ask("POST", &format!("{github}/orgs/acme/actions/runners/generate-jitconfig"), &body)["encoded_jit_config"]
        .clone()
}

fn completed(github: &str) -> u64 {
    ask("GET", &format!("{github}/_simulator/books"), &Value::Null)["jobs"]["succeeded"].as_u64().unwrap()
}

#[test]
fn instances_of_the_fake_cloud_run_the_jobs_of_the_simulated_github() {
    let github = Listening::start(&["github-simulator", "--seed", "7"]);
    let cloud =
        Listening::start(&["fake-cloud", "--github", &github.url, "--behaviour", r#"{"boot_time": "50ms"}"#]);
    let jobs = json!({"repository": "acme/app", "labels": ["linux"], "count": 3});
    ask("POST", &format!("{}/_simulator/jobs", github.url), &jobs);
    for at in 0..3 {
        let name = format!("acme-small-{at}");
        let order = json!({
            "runner": name, "group": "small", "owner": {"deployment": "acme", "fingerprint": "0123456789abcdef"},
            "zone": "zone-a", "jit_config": jit_config(&github.url, &name),
        });
        ask("POST", &format!("{}/instances", cloud.url), &order);
    }
    let ended = |books: &Value| {
        books["lives"].as_array().unwrap().iter().filter(|life| !life["ended"].is_null()).count()
    };
    until("all instances end", || {
        (ended(&ask("GET", &format!("{}/books", cloud.url), &Value::Null)) == 3).then_some(())
    });
    assert_eq!(completed(&github.url), 3);
    assert_eq!(cloud.stop(), Some(0));
    assert_eq!(github.stop(), Some(0));
}

#[test]
fn an_agent_is_a_process_that_ends_after_its_job() {
    let github = Listening::start(&["github-simulator"]);
    ask(
        "POST",
        &format!("{}/_simulator/jobs", github.url),
        &json!({"repository": "acme/app", "labels": ["linux"]}),
    );
    let jit_config = jit_config(&github.url, "acme-small-1");
    let agent = |jit_config: &str| {
        Command::new(env!("CARGO_BIN_EXE_runner-manager"))
            .arg("simulated-agent")
            .env("ACTIONS_RUNNER_INPUT_JITCONFIG", jit_config)
            .output()
            .unwrap()
    };
    let jit_config = jit_config.as_str().unwrap();
    assert_eq!(agent(jit_config).status.code(), Some(0));
    assert_eq!(completed(&github.url), 1);
    let again = agent(jit_config);
    assert_eq!(again.status.code(), Some(1), "a JIT config is good once");
    assert!(!String::from_utf8_lossy(&again.stderr).contains(jit_config), "it is a secret");
}

#[test]
fn an_agent_that_waits_ends_when_asked() {
    let github = Listening::start(&["github-simulator"]);
    let mut agent = Command::new(env!("CARGO_BIN_EXE_runner-manager"))
        .arg("simulated-agent")
        .env("ACTIONS_RUNNER_INPUT_JITCONFIG", jit_config(&github.url, "acme-small-1").as_str().unwrap())
        .spawn()
        .unwrap();
    let runners =
        || ask("GET", &format!("{}/orgs/acme/actions/runners", github.url), &Value::Null)["runners"].clone();
    until("the agent is online", || (runners()[0]["status"] == "online").then_some(()));
    assert!(Command::new("kill").args(["-TERM", &agent.id().to_string()]).status().unwrap().success());
    assert_eq!(until("the agent ends", || agent.try_wait().unwrap()).code(), Some(0));
    assert_eq!(runners()[0]["status"], "offline", "it signed off");
}

#[test]
fn webhooks_of_all_accounts_go_where_the_command_line_says() {
    let receiver = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/webhook", receiver.local_addr().unwrap());
    let github = Listening::start(&["github-simulator", "--webhook-url", &url, "--webhook-secret", "s3cret"]);
    ask(
        "POST",
        &format!("{}/_simulator/jobs", github.url),
        &json!({"repository": "acme/app", "labels": ["linux"]}),
    );
    let (stream, _) = receiver.accept().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut head = BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
    assert_eq!(head.next().unwrap(), "POST /webhook HTTP/1.1");
    assert!(head.any(|line| line.to_ascii_lowercase().starts_with("x-hub-signature-256: sha256=")));
}
