//! The HTTP face over real sockets: webhooks out, polls that wait, answers that get lost or come late.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use runner_manager_core::clock::{Clock, SystemClock, timeout};
use runner_manager_core::testing::simulator::{
    DurationRange, Effect, JobSpec, RequestFault, Scope, Settings,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{AT_ONCE, SimulatedGitHub};
use crate::http_face::{Face, listen, local_client, serve};

const SOON: Duration = Duration::from_secs(10);

/// A simulated GitHub that is served, and what ends with the test.
struct Served {
    github: Arc<SimulatedGitHub>,
    url: String,
    stop: CancellationToken,
    parts: JoinSet<()>,
}

impl Served {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (listener, address) = listen(0).await.unwrap();
        let url = format!("http://{address}");
        let settings = Settings { base_url: url.clone(), ..Settings::default() };
        let github = SimulatedGitHub::new(settings, Arc::new(SystemClock));
        let (stop, mut parts) = (CancellationToken::new(), JoinSet::new());
        parts.spawn(serve(listener, Arc::clone(&github) as Arc<dyn Face>, stop.clone()));
        let (sender, stopped) = (Arc::clone(&github), stop.clone());
        parts.spawn(async move { sender.deliver(AT_ONCE, stopped).await });
        Self { github, url, stop, parts }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let answer = local_client().unwrap().post(format!("{}{path}", self.url)).json(&body).send().await;
        let answer = answer.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap()
    }

    fn jit_config(&self, labels: &[&str]) -> String {
        let request = Request::post("/orgs/acme/actions/runners/generate-jitconfig")
            .header("authorization", "Bearer ghp_simulator")
            .header("user-agent", "test")
            .body(Bytes::from(json!({"name": "r-1", "runner_group_id": 1, "labels": labels}).to_string()));
        let answer = self.github.with(|github, now| github.handle(&request.unwrap(), now));
        assert_eq!(answer.response.status(), 201);
        let body: Value = serde_json::from_slice(answer.response.body()).unwrap();
        body["encoded_jit_config"].as_str().unwrap().to_owned()
    }

    async fn wait_for(&self, what: &str, done: impl Fn(&SimulatedGitHub) -> bool) {
        let looked = async {
            while !done(&self.github) {
                SystemClock.sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(&SystemClock, SOON, looked).await.is_ok(), "not in time: {what}");
    }

    /// Stops, which no part may hold up.
    async fn end(mut self) {
        self.stop.cancel();
        let ended = async { while self.parts.join_next().await.is_some() {} };
        timeout(&SystemClock, SOON, ended).await.expect("the face stops in time");
    }
}

fn agents_that_wait(github: &SimulatedGitHub) -> usize {
    github.waiting.lock().unwrap().values().map(|kind| Arc::strong_count(kind) - 1).sum()
}

/// Takes webhooks in, and answers with one status.
struct Receiver {
    seen: mpsc::UnboundedSender<(HeaderMap, Bytes)>,
    status: StatusCode,
}

#[async_trait::async_trait]
impl Face for Receiver {
    async fn answer(&self, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let (head, body) = request.into_parts();
        self.seen.send((head.headers, body)).unwrap();
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = self.status;
        Some(response)
    }
}

async fn receive(served: &mut Served, status: StatusCode) -> mpsc::UnboundedReceiver<(HeaderMap, Bytes)> {
    let (listener, address) = listen(0).await.unwrap();
    let (seen, received) = mpsc::unbounded_channel();
    served.parts.spawn(serve(listener, Arc::new(Receiver { seen, status }), served.stop.clone()));
    let acme = Scope::Organization("acme".to_owned());
    served
        .github
        .with(|github, now| github.add_hook(&acme, &format!("http://{address}/hook"), "s3cret", now));
    received
}

async fn job_event(received: &mut mpsc::UnboundedReceiver<(HeaderMap, Bytes)>) -> (HeaderMap, Bytes) {
    loop {
        let (headers, body) = timeout(&SystemClock, SOON, received.recv()).await.unwrap().unwrap();
        if headers["x-github-event"] == "workflow_job" {
            return (headers, body);
        }
    }
}

#[tokio::test]
async fn a_queued_job_is_announced_signed_and_the_answer_is_noted() {
    let mut served = Served::start().await;
    let mut received = receive(&mut served, StatusCode::ACCEPTED).await;
    served.post("/_simulator/jobs", json!({"repository": "acme/app", "labels": ["linux"]})).await;
    let (headers, body) = job_event(&mut received).await;
    let signature = headers["x-hub-signature-256"].to_str().unwrap();
    let secret = runner_manager_core::domain::Secret::new("s3cret");
    runner_manager_core::webhook::verify(&[secret], &body, Some(signature)).unwrap();
    let payload: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(payload["action"], "queued");
    served
        .wait_for("the answer is noted", |github| {
            let webhooks = github.with(|github, _| github.books().webhooks);
            webhooks.accepted == webhooks.sent && webhooks.refused == 0
        })
        .await;
    let url = format!("{}/_simulator/deliveries", served.url);
    let sent: Value = local_client().unwrap().get(url).send().await.unwrap().json().await.unwrap();
    let of_job = sent.as_array().unwrap().iter().find(|sent| sent["action"] == "queued").unwrap();
    assert_eq!(of_job["job"], payload["workflow_job"]["id"]);
    assert_eq!(of_job["status"], 202);
    assert!(of_job["seconds"].as_f64().unwrap() > 0.0, "{of_job}");
    served.end().await;
}

#[tokio::test]
async fn a_refused_webhook_is_noted_as_refused() {
    let mut served = Served::start().await;
    let mut received = receive(&mut served, StatusCode::SERVICE_UNAVAILABLE).await;
    served.post("/_simulator/jobs", json!({"repository": "acme/app", "labels": ["linux"]})).await;
    job_event(&mut received).await;
    served
        .wait_for("the refusal is noted", |github| {
            let webhooks = github.with(|github, _| github.books().webhooks);
            webhooks.refused > 0 && webhooks.refused == webhooks.sent && webhooks.accepted == 0
        })
        .await;
    served.end().await;
}

#[tokio::test]
async fn a_poll_waits_for_a_job() {
    let served = Served::start().await;
    let jit_config = served.jit_config(&["linux"]);
    let connected = served.post("/_simulator/agents/connect", json!({"jit_config": jit_config})).await;
    let session = connected["session"].as_u64().unwrap();
    let (path, empty) = (format!("/_simulator/agents/{session}/poll?wait=30"), json!(null));
    let queue = async {
        served.wait_for("the agent waits", |github| agents_that_wait(github) == 1).await;
        served.post("/_simulator/jobs", json!({"repository": "acme/app", "labels": ["linux"]})).await
    };
    let both = async { tokio::join!(served.post(&path, empty), queue) };
    let (polled, queued) = timeout(&SystemClock, SOON, both).await.expect("the job wakes the poll");
    assert_eq!(polled["job"]["id"], queued["jobs"][0]);
    served.end().await;
}

#[tokio::test]
async fn a_poll_that_waited_in_vain_brings_no_job() {
    let served = Served::start().await;
    let jit_config = served.jit_config(&["linux"]);
    let connected = served.post("/_simulator/agents/connect", json!({"jit_config": jit_config})).await;
    let session = connected["session"].as_u64().unwrap();
    let began = SystemClock.now();
    let polled = served.post(&format!("/_simulator/agents/{session}/poll?wait=1"), json!(null)).await;
    assert_eq!(polled, json!({"job": null}));
    assert!(SystemClock.now().duration_since(began).as_secs_f64() >= 1.0);
    served.end().await;
}

#[tokio::test]
async fn a_lost_reply_is_a_connection_that_ends() {
    let served = Served::start().await;
    let fault = RequestFault::always(Effect::LoseReply).on("GET", "/orgs/*/actions/runners");
    served.github.with(|github, _| github.faults_mut().requests.push(fault));
    let request = local_client().unwrap().get(format!("{}/orgs/acme/actions/runners", served.url));
    let error = request.bearer_auth("ghp_simulator").header("user-agent", "test").send().await.unwrap_err();
    assert!(error.is_request() && !error.is_timeout() && !error.is_connect(), "{error:?}");
    let lost = served.github.with(|github, _| {
        github.books().fault(runner_manager_core::testing::simulator::FaultKind::LostReply)
    });
    assert!(lost > 0);
    served.end().await;
}

#[tokio::test]
async fn an_answer_is_held_back_as_long_as_the_fault_says() {
    let served = Served::start().await;
    let long = jiff::SignedDuration::from_millis(300);
    let fault = RequestFault::always(Effect::Delay(DurationRange { min: long, max: long }));
    served.github.with(|github, _| github.faults_mut().requests.push(fault));
    let began = SystemClock.now();
    let request = local_client().unwrap().get(format!("{}/rate_limit", served.url));
    let answer = request.bearer_auth("ghp_simulator").header("user-agent", "test").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(SystemClock.now().duration_since(began) >= long);
    served.end().await;
}

#[tokio::test]
async fn a_body_without_end_is_refused() {
    let served = Served::start().await;
    let request = local_client().unwrap().post(format!("{}/_simulator/jobs", served.url));
    let answer = request.body(vec![b' '; (16 << 20) + 1]).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    served.end().await;
}

#[tokio::test]
async fn an_open_poll_does_not_hold_up_the_end() {
    let served = Served::start().await;
    let jit_config = served.jit_config(&["linux"]);
    let connected = served.post("/_simulator/agents/connect", json!({"jit_config": jit_config})).await;
    let url = format!("{}/_simulator/agents/{}/poll?wait=60", served.url, connected["session"]);
    let mut polls = JoinSet::new();
    polls.spawn(async move { local_client().unwrap().post(url).send().await.is_ok() });
    served.wait_for("the agent waits", |github| agents_that_wait(github) == 1).await;
    served.end().await;
    assert!(!polls.join_next().await.unwrap().unwrap(), "the poll was cut");
}

#[tokio::test]
async fn a_job_of_another_label_does_not_reach_the_agent() {
    let served = Served::start().await;
    let jit_config = served.jit_config(&["linux"]);
    let session = served.github.with(|github, now| github.connect(&jit_config, now)).unwrap();
    let spec = JobSpec::new("acme/app", ["windows"]);
    served.github.with(|github, now| github.queue_job(&spec, now)).unwrap();
    let polled = served.github.poll(session, Duration::from_millis(50)).await;
    assert_eq!(polled, Ok(None));
    served.end().await;
}
