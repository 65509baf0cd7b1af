//! The backend on the fake of GCE, as `scripts/peers/gce/up` starts it and `scripts/test` does before the tests.
//!
//! Where none runs they are skipped, and fail under `CI=true`.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use runner_manager_core::backend::{Activity, Backend, BackendErrorKind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{Instance, InstanceFailure, InstanceState, Phase};
use runner_manager_core::random::{Random, SystemRandom};
use runner_manager_core::testing::conformance::backend::{Hooks, NoSuchHook, Subject, cases};
use runner_manager_core::testing::conformance::run;
use serde_json::{Value, json};

use super::super::instance::Place;
use super::{connect, owner, placement, spec};
use crate::testing::fault_proxy::{Harm, Proxy, Seen};

pub(super) const IMAGE: &str = "projects/debian-cloud/global/images/family/debian-12";

/// The zones of a project of the fake: two of one region, and one of another.
pub(super) const ZONES: [&str; 3] = ["europe-west1-b", "europe-west1-c", "us-central1-a"];

/// A project of its own on the fake.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) url: String,
    python: String,
    pub(super) project: String,
}

impl Peer {
    /// `None` where the fake does not run.
    pub(super) async fn find(settings: Value) -> Option<Self> {
        let Ok(url) = std::env::var("GCE_URL") else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "GCE_URL is not set");
            println!("skipped: no fake of GCE runs (scripts/peers/gce/up)");
            return None;
        };
        let python = std::env::var("GCE_PYTHON").unwrap();
        let peer = Self { url, python, project: name() };
        let mut settings = settings;
        // Who comes without this token is refused.
        if settings.get("tokens").is_none() {
            settings["tokens"] = json!(["good"]);
        }
        peer.control(Method::PUT, "", &settings).await;
        Some(peer)
    }

    /// Settings by which it is asked at an address: its own, or that of a proxy before it.
    pub(super) fn settings(&self, url: &str) -> Value {
        json!({
            "project": self.project, "endpoint": url, "credentials": self.credentials("good").to_string(),
            "settle": "1s", "timeout": "20s",
        })
    }

    /// The credentials of a person, whose refresh token the fake gives back as the access token.
    pub(super) fn credentials(&self, token: &str) -> Value {
        json!({
            "type": "authorized_user", "client_id": "id", "client_secret": "hush", "refresh_token": token,
            "token_uri": format!("{}/fake/token", self.url),
        })
    }

    pub(super) async fn backend(&self) -> Arc<dyn Backend> {
        connect(&self.settings(&self.url)).await
    }

    pub(super) fn good() -> Value {
        json!({"zones": ZONES[0], "machine_types": "e2-standard-2", "image": IMAGE})
    }

    /// Asks the fake for something that is not Compute's.
    pub(super) async fn control(&self, method: Method, path: &str, body: &Value) -> Value {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/fake/projects/{}{path}", self.url, self.project);
        let answer = client.request(method, url).body(body.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// The fake's books, after whatever it was asked wrongly or answered wrongly.
    pub(super) async fn books(&self) -> Value {
        let books = self.control(Method::GET, "", &Value::Null).await;
        assert_eq!(books["wrong_answers"], json!([]), "the fake's answers are not GCE's");
        books
    }

    pub(super) async fn faults(&self, rules: Value) {
        self.control(Method::POST, "/faults", &rules).await;
    }

    /// What is done to an instance from the outside: `stop` or `preempt`.
    pub(super) async fn befall(&self, instance: &Instance, what: &str) {
        let zone = Place::read(&instance.id).unwrap().zone;
        let path = format!("/instances/{zone}/{}/{what}", instance.runner);
        self.control(Method::POST, &path, &Value::Null).await;
    }

    /// What Google's own client tells of what bears a deployment's mark.
    pub(super) fn look(&self, deployment: &str) -> Vec<Value> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/peers/gce/look.py");
        let output = Command::new(&self.python)
            .args(["-B", script, &self.project, deployment])
            .env("GCE_URL", &self.url)
            .env("GCE_TOKEN", "good")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A name that no other test has.
pub(super) fn name() -> String {
    format!("gce-{:08x}", SystemRandom.next_u64() >> 32)
}

/// What a request asks of Compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    Insert,
    Wait,
    Get,
    List,
    Delete,
    Other,
}

impl Call {
    pub(super) fn of(seen: &Seen) -> Self {
        let path = seen.path.split('?').next().unwrap();
        let instances = path.split_once("/instances").map(|(_, rest)| rest);
        match (seen.method.as_str(), instances) {
            ("POST", Some("")) => Self::Insert,
            ("GET", Some("")) if path.contains("/aggregated/") => Self::List,
            ("GET", Some(rest)) if rest.len() > 1 => Self::Get,
            ("DELETE", Some(_)) => Self::Delete,
            ("POST", None) if path.ends_with("/wait") => Self::Wait,
            _ => Self::Other,
        }
    }
}

/// Waits until something is so, as the fake's operations take their time.
pub(super) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    for _ in 0..200 {
        if is_so().await {
            return;
        }
        SystemClock.sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain: {what}");
}

/// A proxy before the fake breaks lists, where it is told to.
#[derive(Debug)]
struct Lab {
    peer: Peer,
    break_next: Arc<AtomicBool>,
    proxy: Proxy,
}

impl Lab {
    async fn new(peer: &Peer) -> Self {
        let break_next = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&break_next);
        let proxy = Proxy::before(&peer.url, move |seen| {
            let breaks = Call::of(seen) == Call::List && asked.swap(false, Ordering::SeqCst);
            breaks.then_some(("broken list", Harm::Cut))
        })
        .await;
        Self { peer: peer.clone(), break_next, proxy }
    }
}

#[async_trait]
impl Hooks for Lab {
    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn end_by_itself(&self, instance: &Instance) -> Result<(), NoSuchHook> {
        self.peer.befall(instance, "stop").await;
        Ok(())
    }

    async fn break_the_next_list(&self) -> Result<(), NoSuchHook> {
        self.break_next.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// No case is skipped.
#[tokio::test]
async fn conforms() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let name = name();
    let lab = Arc::new(Lab::new(&peer).await);
    let mut bad = Peer::good();
    bad["image"] = json!("no-such-image");
    let report = run(cases(), &[], || async {
        Subject {
            backend: connect(&peer.settings(&lab.proxy.url)).await,
            good: placement(&Peer::good()),
            bad: placement(&bad),
            owner: owner(&name, "one"),
            stranger: owner(&name, "another"),
            random: Arc::new(SystemRandom),
            hooks: lab.clone(),
        }
    })
    .await;
    println!("passed: {:?}, skipped: {:?}", report.passed, report.skipped);
    assert_eq!(report.passed.len(), cases().len());
    assert_eq!(peer.look(&name), Vec::<Value>::new(), "something is left");
    peer.books().await;
}

#[tokio::test]
async fn a_foreign_client_sees_what_was_made_and_nothing_after() {
    let Some(peer) =
        Peer::find(json!({"subnets": ["projects/host/regions/europe-west1/subnetworks/runners"]})).await
    else {
        return;
    };
    let deployment = name();
    let mut settings = peer.settings(&peer.url);
    settings["network_project"] = json!("host");
    let backend = connect(&settings).await;
    let wanted = json!({
        "zones": ZONES[0], "machine_types": "n1-standard-4", "image": IMAGE, "subnet": "runners", "external_ip": false,
        "disk": {"size_gib": 33, "type": "pd-ssd", "kms_key": "projects/p/locations/l/keyRings/r/cryptoKeys/k"},
        "network_tags": ["ci"], "service_account": {"email": "jobs@p.iam.gserviceaccount.com"}, "spot": true,
        "metadata": {"serial-port-enable": "true"}, "accelerators": [{"type": "nvidia-tesla-t4"}],
        "min_cpu_platform": "Intel Skylake", "shielded": {"secure_boot": true}, "max_run_duration": "12h",
        "start": {"job_started": "echo hello"},
    });
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &wanted);
    let made = backend.create(&spec).await.unwrap();
    let told = backend.get(&made.id).await.unwrap().unwrap();
    assert_eq!((told.state, told.created_at), (InstanceState::Running, made.created_at));
    backend.update(&made.id, &Activity { phase: Phase::Idle, job: None }).await.unwrap();
    until("the labels are changed", async || {
        peer.look(&deployment)[0]["labels"]["runner-manager-phase"] == "idle"
    })
    .await;

    let look = peer.look(&deployment);
    let [seen] = &look[..] else { panic!("not one instance: {look:?}") };
    assert_eq!(made.id.as_str(), format!("{}/{}", ZONES[0], seen["id"].as_str().unwrap()));
    assert_eq!(seen["name"], spec.runner.as_str());
    for (key, value) in spec.owner.tags(&spec.runner, &spec.group) {
        assert_eq!(seen["labels"][&key], json!(value));
    }
    assert_eq!(seen["labels"]["x___43ost-_43enter"], "ci_2flinux");
    let [disk] = &seen["disks"].as_array().unwrap()[..] else { panic!("not one disk: {seen}") };
    assert_eq!((&disk["autoDelete"], &disk["initializeParams"]["diskSizeGb"]), (&json!(true), &json!("33")));
    assert_eq!(disk["initializeParams"]["sourceImage"], IMAGE);
    assert_eq!(disk["initializeParams"]["labels"]["runner-manager-runner"], spec.runner.as_str());
    assert!(disk["diskEncryptionKey"]["kmsKeyName"].as_str().unwrap().ends_with("/k"));
    let card = &seen["networkInterfaces"][0];
    assert_eq!(card["subnetwork"], "projects/host/regions/europe-west1/subnetworks/runners");
    assert!(card["accessConfigs"].as_array().is_none_or(Vec::is_empty), "{card}");
    assert_eq!(seen["tags"]["items"], json!(["ci"]));
    assert_eq!(
        seen["serviceAccounts"][0]["scopes"],
        json!(["https://www.googleapis.com/auth/cloud-platform"])
    );
    let scheduling = &seen["scheduling"];
    assert_eq!(
        [
            &scheduling["provisioningModel"],
            &scheduling["instanceTerminationAction"],
            &scheduling["onHostMaintenance"]
        ],
        [&json!("SPOT"), &json!("DELETE"), &json!("TERMINATE")]
    );
    assert_eq!(
        (&scheduling["automaticRestart"], &scheduling["maxRunDuration"]["seconds"]),
        (&json!(false), &json!("43200"))
    );
    assert_eq!(seen["guestAccelerators"][0]["acceleratorCount"], 1);
    assert_eq!(
        (&seen["minCpuPlatform"], &seen["shieldedInstanceConfig"]["enableSecureBoot"]),
        (&json!("Intel Skylake"), &json!(true))
    );
    let items = seen["metadata"]["items"].as_array().unwrap();
    let value = |key: &str| items.iter().find(|item| item["key"] == key).unwrap()["value"].as_str().unwrap();
    let script = value("startup-script");
    assert!(
        script.starts_with("#!/bin/bash\n")
            && script.contains("a-jit-config")
            && script.contains("echo hello")
    );
    assert_eq!(value("serial-port-enable"), "true");

    backend.delete(&made.id).await.unwrap();
    until("it is gone", async || backend.get(&made.id).await.unwrap().is_none()).await;
    assert_eq!(peer.look(&deployment), Vec::<Value>::new());
    peer.books().await;
}

#[tokio::test]
async fn templates_are_built_upon() {
    let template = json!({
        "machineType": "e2-standard-4", "labels": {"from": "template"},
        "disks": [{"boot": true, "initializeParams": {"sourceImage": IMAGE}}],
        "networkInterfaces": [{"network": "global/networks/default"}],
    });
    let Some(peer) = Peer::find(json!({"templates": {"runners": template}})).await else { return };
    let deployment = name();
    let backend = peer.backend().await;
    for (number, settings) in [
        json!({"zones": ZONES[0], "instance_template": "runners"}),
        json!({"zones": ZONES[0], "instance_template": "runners", "machine_types": "e2-standard-2", "external_ip": false}),
    ]
    .iter()
    .enumerate()
    {
        let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-{number}"), settings);
        backend.create(&spec).await.unwrap();
    }
    let mut look = peer.look(&deployment);
    look.sort_by_key(|seen| seen["name"].to_string());
    let kind =
        |number: usize| look[number]["machineType"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!([kind(0), kind(1)], ["e2-standard-4", "e2-standard-2"]);
    // Labels are the marks: those of the template give way.
    assert_eq!(look[0]["labels"]["from"], Value::Null);
    let missing = json!({"zones": ZONES[0], "instance_template": "no-such"});
    let error = backend.create(&spec(owner(&deployment, "key"), "gce-linux-9", &missing)).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::NotFound, "{error}");
    peer.books().await;
}

/// With five instances a page, of three zones.
#[tokio::test]
async fn every_page_of_a_list_counts() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let (deployment, count) = (name(), Arc::new(AtomicUsize::new(0)));
    let (pages, cut) = (Arc::clone(&count), Arc::new(AtomicBool::new(false)));
    let armed = Arc::clone(&cut);
    let proxy = Proxy::before(&peer.url, move |seen| {
        if Call::of(seen) != Call::List {
            return None;
        }
        let page = pages.fetch_add(1, Ordering::SeqCst);
        (page == 2 && armed.load(Ordering::SeqCst)).then_some(("third page", Harm::Cut))
    })
    .await;
    let mut settings = peer.settings(&proxy.url);
    settings["page_size"] = json!(5);
    let backend = connect(&settings).await;
    let owner = owner(&deployment, "key");
    let mut made = Vec::new();
    for number in 0..12 {
        let mut good = Peer::good();
        good["zones"] = json!(ZONES[number % 3]);
        let spec = spec(owner.clone(), &format!("{deployment}-linux-{number}"), &good);
        made.push(backend.create(&spec).await.unwrap().id);
    }
    made.sort();
    let mut listed: Vec<_> = backend.list(&owner).await.unwrap().into_iter().map(|one| one.id).collect();
    listed.sort();
    assert_eq!((listed, count.swap(0, Ordering::SeqCst)), (made, 3));
    cut.store(true, Ordering::SeqCst);
    assert_eq!(backend.list(&owner).await.unwrap_err().kind, BackendErrorKind::Unavailable);
    assert_eq!(proxy.counts()["third page"], 1);
}

#[tokio::test]
async fn a_spot_instance_that_was_taken_back_says_so_until_it_was_removed() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let deployment = name();
    let backend = peer.backend().await;
    let mut spot = Peer::good();
    spot["spot"] = json!(true);
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &spot);
    let made = backend.create(&spec).await.unwrap();
    peer.befall(&made, "preempt").await;
    until("it is told of", async || {
        let told = backend.get(&made.id).await.unwrap();
        told.is_some_and(|told| matches!(told.state, InstanceState::Failed(InstanceFailure::Reclaimed, _)))
    })
    .await;
    until("it is gone", async || peer.look(&deployment).is_empty()).await;
    let told = backend.get(&made.id).await.unwrap().unwrap();
    assert_eq!((told.runner, told.created_at), (made.runner.clone(), made.created_at));
    assert_eq!(backend.list(&spec.owner).await.unwrap(), []);
    backend.delete(&made.id).await.unwrap();
    assert_eq!(backend.get(&made.id).await.unwrap(), None);
}

/// A second instance of one name has another number: a delete of the first leaves it alone.
#[tokio::test]
async fn a_delete_means_one_instance_not_its_name() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let deployment = name();
    let (backend, name) = (peer.backend().await, format!("{deployment}-linux-1"));
    let first = backend.create(&spec(owner(&deployment, "key"), &name, &Peer::good())).await.unwrap();
    backend.delete(&first.id).await.unwrap();
    until("it is gone", async || backend.get(&first.id).await.unwrap().is_none()).await;
    // Of another owner, so that it is another request.
    let second = backend.create(&spec(owner(&deployment, "other"), &name, &Peer::good())).await.unwrap();
    assert_ne!(first.id, second.id);
    backend.delete(&first.id).await.unwrap();
    assert_eq!(backend.get(&first.id).await.unwrap(), None);
    assert_eq!(backend.get(&second.id).await.unwrap().unwrap().state, InstanceState::Running);
}
