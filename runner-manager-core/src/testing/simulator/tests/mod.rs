//! What the simulator does over time; the shapes of its answers are tested in `tests/github_simulator.rs`.

mod faults;
mod lifecycle;
mod random_walk;
mod rest;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Answer, DEFAULT_TOKEN, Delivery, JobId, JobSpec, Scope, SessionId, Settings, Simulator};

const ORGANIZATION: &str = "/orgs/acme";

/// A simulator with its time, and one hook of `acme`.
struct Bench {
    github: Simulator,
    now: Timestamp,
    names: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let mut github = Simulator::new(settings);
        let acme = Scope::Organization("acme".to_owned());
        github.add_hook(&acme, "http://manager/webhook", "s3cret", now).unwrap();
        Self { github, now, names: 0 }
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        self.github.handle(&request.body(body).unwrap(), self.now)
    }

    fn call(&mut self, method: &str, path: &str, body: &Value) -> (StatusCode, Value, HeaderMap) {
        let authorization = format!("token {DEFAULT_TOKEN}");
        let headers = [("authorization", authorization.as_str()), ("user-agent", "tests")];
        let (parts, body) = self.send(method, path, &headers, body).response.into_parts();
        (parts.status, serde_json::from_slice(&body).unwrap_or(Value::Null), parts.headers)
    }

    fn get(&mut self, path: &str) -> Value {
        let (status, body, _) = self.call("GET", path, &Value::Null);
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    fn delete(&mut self, path: &str) -> StatusCode {
        self.call("DELETE", path, &Value::Null).0
    }

    /// A JIT config for a new runner, and the runner's path.
    fn register(&mut self, scope: &str, labels: &[&str], group: u64) -> (String, String) {
        self.names += 1;
        let body = json!({"name": format!("r-{}", self.names), "runner_group_id": group, "labels": labels});
        let path = format!("{scope}/actions/runners");
        let (status, made, _) = self.call("POST", &format!("{path}/generate-jitconfig"), &body);
        assert_eq!(status, 201, "{made}");
        let jit_config = made["encoded_jit_config"].as_str().unwrap().to_owned();
        (jit_config, format!("{path}/{}", made["runner"]["id"]))
    }

    /// A connected runner, and its path.
    fn runner(&mut self, scope: &str, labels: &[&str]) -> (SessionId, String) {
        let (jit_config, path) = self.register(scope, labels, 1);
        (self.github.connect(&jit_config, self.now).unwrap(), path)
    }

    fn queue(&mut self, repository: &str, labels: &[&str]) -> JobId {
        let spec = JobSpec::new(repository, labels.iter().copied());
        self.github.queue_job(&spec, self.now).unwrap()
    }

    fn poll(&mut self, session: SessionId) -> Option<JobId> {
        self.github.poll(session, self.now).unwrap().map(|job| job.id)
    }

    fn due(&mut self) -> Vec<Delivery> {
        self.github.deliveries_due(self.now)
    }

    fn actions_due(&mut self) -> Vec<&'static str> {
        self.due().iter().filter_map(|delivery| delivery.action).collect()
    }
}
