//! The plain path on gcplocal, an emulator of Google Cloud by somebody else, which `scripts/peers/gce/up` starts beside the fake
//! of GCE: it keeps what it is sent, and says nothing of its own.
//!
//! What it lacks or has otherwise than Compute is put right on the way: it knows instances by their names alone, its operations
//! name neither a number nor a target, and it has no lists of all zones.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use http::Method;
use runner_manager_core::domain::InstanceState;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::peer::{Peer, ZONES, name};
use super::{connect, owner, spec};

/// A zone of a project there.
#[derive(Debug, Clone)]
struct Gcplocal {
    url: String,
    client: reqwest::Client,
    project: String,
}

impl Gcplocal {
    /// `None` where it does not run.
    fn find() -> Option<Self> {
        let Ok(url) = std::env::var("GCPLOCAL_URL") else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "GCPLOCAL_URL is not set");
            println!("skipped: no gcplocal runs (scripts/peers/gce/up)");
            return None;
        };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Some(Self { url, client, project: name() })
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, Value) {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        (answer.status(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }

    fn instances_path(&self) -> String {
        format!("/compute/v1/projects/{}/zones/{}/instances", self.project, ZONES[0])
    }

    /// The instances in the zone, as it tells of them.
    async fn instances(&self) -> Vec<Value> {
        let (status, list) = self.ask(Method::GET, &self.instances_path(), Vec::new()).await;
        assert!(status.is_success(), "{list}");
        list["items"].as_array().unwrap().clone()
    }

    /// The name of the instance that has this number or name.
    async fn name_of(&self, instance: &str) -> String {
        let all = self.instances().await;
        let found = all.iter().find(|told| told["id"] == instance).and_then(|told| told["name"].as_str());
        found.unwrap_or(instance).to_owned()
    }

    /// Answers a request of ours as Compute would.
    async fn put_right(&self, request: Request) -> (StatusCode, Value) {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
        let path = parts.uri.path().to_owned();
        if path.ends_with("/aggregated/instances") {
            let zone = format!("zones/{}", ZONES[0]);
            let instances: Vec<Value> = self.instances().await.iter().map(instance).collect();
            return (StatusCode::OK, json!({"items": {zone: {"instances": instances}}}));
        }
        let path = match path.strip_prefix(&format!("{}/", self.instances_path())) {
            Some(asked) => format!("{}/{}", self.instances_path(), self.name_of(asked).await),
            None => path,
        };
        let asks_for = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, answer) = self.ask(parts.method, &path, body).await;
        match answer["kind"].as_str() {
            Some("compute#operation") => {
                let target = self.instances().await.into_iter().find(|told| told["name"] == asks_for["name"]);
                (status, operation(answer, target))
            }
            Some("compute#instance") => (status, instance(&answer)),
            _ => (status, answer),
        }
    }
}

/// An instance without what it makes up, and Compute's clients cannot read.
fn instance(told: &Value) -> Value {
    let mut told = told.clone();
    told.as_object_mut().unwrap().remove("fingerprint");
    told
}

fn operation(mut told: Value, target: Option<Value>) -> Value {
    told["id"] = json!("1");
    if let Some(target) = target {
        told["targetId"] = target["id"].clone();
    }
    told
}

async fn answer(State(gcplocal): State<Arc<Gcplocal>>, request: Request) -> (StatusCode, String) {
    let (status, answer) = gcplocal.put_right(request).await;
    (status, answer.to_string())
}

#[tokio::test]
async fn the_plain_path_works_on_an_emulator_of_somebody_elses() {
    let (Some(gcplocal), Some(peer)) = (Gcplocal::find(), Peer::find(json!({})).await) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = peer.settings(&format!("http://{}", listener.local_addr().unwrap()));
    settings["project"] = json!(gcplocal.project);
    let router = Router::new().fallback(answer).with_state(Arc::new(gcplocal.clone()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let backend = connect(&settings).await;
    let owner = owner("acme", "key");
    let specs = [1, 2].map(|number| spec(owner.clone(), &format!("acme-linux-{number}"), &Peer::good()));

    let first = backend.create(&specs[0]).await.unwrap();
    let second = backend.create(&specs[1]).await.unwrap();
    assert_eq!((first.state.clone(), second.state.clone()), (InstanceState::Running, InstanceState::Running));
    assert_ne!(first.id, second.id);
    let told = gcplocal.instances().await;
    let seen = told.iter().find(|told| told["name"] == "acme-linux-1").unwrap();
    assert_eq!(first.id.as_str(), format!("{}/{}", ZONES[0], seen["id"].as_str().unwrap()));
    assert!(seen["machineType"].as_str().unwrap().ends_with("machineTypes/e2-standard-2"), "{seen}");
    assert_eq!(seen["labels"]["runner-manager-group"], "linux");
    assert_eq!(seen["disks"][0]["boot"], true);
    assert!(seen["metadata"].to_string().contains("a-jit-config"), "{seen}");

    assert_eq!(backend.get(&first.id).await.unwrap().as_ref(), Some(&first));
    let mut listed = backend.list(&owner).await.unwrap();
    listed.sort_by(|one, two| one.runner.cmp(&two.runner));
    assert_eq!(listed, [first.clone(), second.clone()]);

    backend.delete(&first.id).await.unwrap();
    assert_eq!(backend.get(&first.id).await.unwrap(), None);
    assert_eq!(backend.list(&owner).await.unwrap(), std::slice::from_ref(&second));
    backend.delete(&second.id).await.unwrap();
    assert_eq!(gcplocal.instances().await, Vec::<Value>::new(), "something is left");
}
