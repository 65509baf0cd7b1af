//! The backend on real services, as `scripts/peers/openstack/up` starts them and `scripts/test` does before the tests.
//!
//! Where none run they are skipped, and fail under `CI=true`.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use runner_manager_core::backend::{Activity, Backend, BackendErrorKind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{Instance, InstanceFailure, InstanceState, Phase, RunnerName};
use runner_manager_core::random::{Random, SystemRandom};
use runner_manager_core::testing::conformance::backend::{Hooks, NoSuchHook, Subject, cases};
use runner_manager_core::testing::conformance::run;
use serde_json::{Value, json};

use super::super::catalog::Service;
use super::super::cloud::Cloud;
use super::super::config::Settings;
use super::super::server::Reference;
use super::super::session::{Call, Session};
use super::super::transport::Transport;
use super::{connect, owner, placement, spec};
use crate::testing::fault_proxy::{Harm, Proxy};

/// Where the services are.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    clouds: String,
    pub(super) python: String,
}

impl Peer {
    /// `None` where they do not run.
    pub(super) fn find() -> Option<Self> {
        let of = |name| std::env::var(name).ok();
        let (Some(clouds), Some(python)) = (of("OPENSTACK_PEER_CLOUDS"), of("OPENSTACK_PEER_PYTHON")) else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "OPENSTACK_PEER_CLOUDS is not set");
            println!("skipped: no OpenStack runs (scripts/peers/openstack/up)");
            return None;
        };
        Some(Self { clouds, python })
    }

    /// Settings by which one of its clouds is asked without anything in between.
    pub(super) fn settings(&self, cloud: &str) -> Value {
        json!({"cloud": cloud, "clouds_file": self.clouds, "settle": "5s"})
    }

    pub(super) async fn backend(&self) -> Arc<dyn Backend> {
        connect(&self.settings("runners")).await
    }

    /// The peer's session of ours, for calls that the backend does not make.
    fn session(&self) -> Session {
        let settings = Settings::read(&self.settings("runners")).unwrap();
        let cloud = Cloud::find(&settings, &|_| None).unwrap();
        let transport = Transport::new(&cloud, Duration::from_secs(30), Arc::new(SystemClock)).unwrap();
        Session::new(transport, cloud)
    }

    /// Where a service is, without its path.
    pub(super) fn origin(&self, port: usize) -> String {
        let clouds = std::fs::read_to_string(&self.clouds).unwrap();
        let first = clouds.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap();
        let url = reqwest::Url::parse(first).unwrap();
        format!("http://127.0.0.1:{}", usize::from(url.port().unwrap()) + port)
    }

    /// A `clouds.yaml` in which services are somewhere else: their keys and addresses.
    pub(super) fn elsewhere(&self, cloud: &str, overrides: &[(&str, String)]) -> tempfile::TempDir {
        let clouds = std::fs::read_to_string(&self.clouds).unwrap();
        let head = format!("  {cloud}:\n");
        let lines: Vec<String> = overrides
            .iter()
            .map(|(service, url)| {
                format!(
                    "    {service}_endpoint_override: {url}
"
                )
            })
            .collect();
        let lines = lines.concat();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("clouds.yaml"),
            clouds.replacen(&head, &format!("{head}{lines}"), 1),
        )
        .unwrap();
        folder
    }

    /// What OpenStack's own client tells of a deployment's servers, and of ports that no server has.
    pub(super) fn look(&self, deployment: &str) -> Value {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/peers/openstack/look.py");
        let output = Command::new(&self.python).args(["-B", script, deployment]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(super) fn servers(&self, deployment: &str) -> Vec<Value> {
        self.look(deployment)["servers"].as_array().unwrap().clone()
    }
}

pub(super) fn good() -> Value {
    json!({"flavor": "m1.tiny", "image": "debian-12", "networks": ["runners-net"]})
}

/// A deployment that no other test has.
pub(super) fn deployment() -> String {
    format!("os-{:08x}", SystemRandom.next_u64() >> 32)
}

/// Waits for long: beside this test others have a hundred servers made, which Nova takes in their turn.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..2400 {
        if let Some(found) = look().await {
            return found;
        }
        SystemClock.sleep(Duration::from_millis(250)).await;
    }
    panic!("waited in vain: {what}");
}

async fn running(backend: &dyn Backend, made: &Instance) -> Instance {
    let look =
        async || backend.get(&made.id).await.unwrap().filter(|told| told.state == InstanceState::Running);
    until("it runs", look).await
}

/// A proxy before Nova breaks lists, where it is told to.
#[derive(Debug)]
struct Lab {
    peer: Peer,
    break_next: Arc<AtomicBool>,
    proxy: Proxy,
}

impl Lab {
    async fn new(peer: Peer) -> Self {
        let break_next = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&break_next);
        let proxy = Proxy::before(&peer.origin(1), move |seen| {
            let listing = seen.path.split('?').next() == Some("/v2.1/servers/detail");
            (listing && asked.swap(false, Ordering::SeqCst)).then_some(("broken list", Harm::Cut))
        })
        .await;
        Self { peer, break_next, proxy }
    }
}

#[async_trait]
impl Hooks for Lab {
    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn end_by_itself(&self, instance: &Instance) -> Result<(), NoSuchHook> {
        stop(&self.peer, instance).await;
        Ok(())
    }

    async fn break_the_next_list(&self) -> Result<(), NoSuchHook> {
        self.break_next.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// Stops a server, as it is after its guest has powered off.
async fn stop(peer: &Peer, instance: &Instance) {
    let server = Reference::read(&instance.id).unwrap().server.unwrap();
    let session = peer.session();
    let call = Call::post(Service::Compute, &["servers", &server, "action"], json!({"os-stop": null}));
    session.call(&call).await.unwrap();
}

#[tokio::test]
async fn conforms() {
    let Some(peer) = Peer::find() else { return };
    let name = deployment();
    let lab = Arc::new(Lab::new(peer.clone()).await);
    let folder = peer.elsewhere("runners", &[("compute", format!("{}/v2.1", lab.proxy.url))]);
    let settings =
        json!({"cloud": "runners", "clouds_file": folder.path().join("clouds.yaml"), "settle": "1s"});
    let report = run(cases(), &[], || async {
        Subject {
            backend: connect(&settings).await,
            good: placement(&good()),
            bad: placement(&json!({"flavor": "no-such", "image": "debian-12", "networks": ["runners-net"]})),
            owner: owner(&name, "one"),
            stranger: owner(&name, "another"),
            random: Arc::new(SystemRandom),
            hooks: lab.clone(),
        }
    })
    .await;
    println!("passed: {:?}, skipped: {:?}", report.passed, report.skipped);
    assert_eq!(report.passed.len(), cases().len());
    assert_eq!(peer.servers(&name), Vec::<Value>::new(), "something is left");
}

#[tokio::test]
async fn a_foreign_client_sees_what_was_made_and_nothing_after() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let backend = connect(&peer.settings("runners-password")).await;
    let mut wanted = good();
    wanted["availability_zone"] = json!("nova");
    wanted["config_drive"] = json!(true);
    wanted["security_groups"] = json!(["runners"]);
    wanted["key_pair"] = json!("people");
    wanted["server_group"] = json!("spread");
    wanted["start"] = json!({"job_started": "echo hello"});
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &wanted);
    let made = backend.create(&spec).await.unwrap();
    assert_eq!(running(&*backend, &made).await.created_at, made.created_at);
    backend.update(&made.id, &Activity { phase: Phase::Idle, job: None }).await.unwrap();

    let servers = peer.servers(&deployment);
    let [seen] = &servers[..] else { panic!("there is not one server: {servers:#?}") };
    assert_eq!((&seen["name"], &seen["status"]), (&json!(spec.runner.as_str()), &json!("ACTIVE")));
    assert_eq!((&seen["flavor"], &seen["networks"]), (&json!("m1.tiny"), &json!(["runners-net"])));
    assert_eq!((&seen["key_name"], &seen["security_groups"]), (&json!("people"), &json!(["runners"])));
    assert_eq!(seen["config_drive"], json!("True"));
    assert!(made.id.as_str().starts_with(seen["id"].as_str().unwrap()));
    for (key, value) in spec.owner.tags(&spec.runner, &spec.group) {
        assert_eq!(seen["metadata"][&key], json!(value));
    }
    assert_eq!(
        (&seen["metadata"]["cost-center"], &seen["metadata"]["runner-manager-phase"]),
        (&json!("ci"), &json!("idle"))
    );
    assert!(
        seen["tags"].as_array().unwrap().contains(&json!(format!("runner-manager-deployment={deployment}")))
    );
    let script = decoded(&seen["user_data"]);
    assert!(
        script.starts_with("#!/bin/bash\n")
            && script.contains("a-jit-config")
            && script.contains("echo hello")
    );

    backend.delete(&made.id).await.unwrap();
    until("it is gone", async || backend.get(&made.id).await.unwrap().is_none().then_some(())).await;
    assert_eq!(peer.servers(&deployment), Vec::<Value>::new());
}

fn decoded(value: &Value) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// It is accepted first; until it is removed it counts against the quota.
#[tokio::test]
async fn a_server_without_a_host_is_told_as_no_capacity_and_removed() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let backend = peer.backend().await;
    let mut impossible = good();
    impossible["flavor"] = json!("m1.impossible");
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &impossible);
    let made = backend.create(&spec).await.unwrap();
    let state = until("it fails", async || {
        let told = backend.get(&made.id).await.unwrap().expect("it does not end by itself");
        (told.state != InstanceState::Pending).then_some(told.state)
    });
    let InstanceState::Failed(InstanceFailure::NoCapacity, why) = state.await else {
        panic!("it did not fail so")
    };
    assert!(why.contains("No valid host was found"), "{why}");
    backend.delete(&made.id).await.unwrap();
    until("it is gone", async || backend.get(&made.id).await.unwrap().is_none().then_some(())).await;
    assert_eq!(peer.servers(&deployment), Vec::<Value>::new());
}

#[tokio::test]
async fn a_quota_is_told_as_one() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let backend = connect(&peer.settings("broke")).await;
    let mut wanted = good();
    wanted["networks"] = json!(["broke-net"]);
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &wanted);
    let error = backend.create(&spec).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::QuotaExceeded, "{error}");
    assert!(
        error.detail.contains("Quota exceeded for instances: Requested 1, but already used 0 of 0"),
        "{error}"
    );
    let missing = backend.validate(&spec.placement).await.unwrap();
    assert!(
        missing.iter().any(|told| told == "the quota allows 0 instances, and an instance takes 1"),
        "{missing:?}"
    );
}

#[tokio::test]
async fn who_may_only_read_is_told_so() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let backend = connect(&peer.settings("reader")).await;
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &good());
    let error = backend.create(&spec).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::PermissionDenied, "{error}");
    let missing = backend.validate(&spec.placement).await.unwrap();
    assert!(missing.len() == 1 && missing[0].contains("`reader` alone"), "{missing:?}");
}

#[tokio::test]
async fn wrong_credentials_are_told_and_not_shown() {
    let Some(peer) = Peer::find() else { return };
    let auth_url = format!("{}/v3", peer.origin(0));
    for (who, told) in [
        (
            json!({"username": "runner", "password": "hunter2", "project_name": "runners"}),
            "requires authentication",
        ),
        (
            json!({"application_credential_id": "none", "application_credential_secret": "hunter2"}),
            "Could not find Application Credential",
        ),
        (
            json!({"username": "runner", "password": "peer", "project_name": "no-such"}),
            "requires authentication",
        ),
    ] {
        let mut auth = who;
        auth["auth_url"] = json!(auth_url);
        let backend = connect(&json!({"auth": auth})).await;
        let error = backend.list(&owner(&deployment(), "key")).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Unauthenticated, "{error}");
        assert!(error.detail.contains(told), "{error}");
        assert!(!format!("{error:?} {backend:?}").contains("hunter2"));
    }
    let nobody = json!({"auth": {"auth_url": "http://127.0.0.1:1", "username": "u", "password": "p", "project_name": "p"}});
    let error = connect(&nobody).await.list(&owner(&deployment(), "key")).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn wrong_names_are_told_each_and_make_nothing() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let backend = peer.backend().await;
    assert_eq!(backend.validate(&placement(&good())).await.unwrap(), Vec::<String>::new());
    let uuid = "00000000-0000-0000-0000-00000000abcd";
    for (key, value, kind) in [
        ("flavor", json!("no-such"), BackendErrorKind::NotFound),
        ("image", json!("no-such"), BackendErrorKind::NotFound),
        ("image", json!(uuid), BackendErrorKind::NotFound),
        ("networks", json!(["no-such"]), BackendErrorKind::NotFound),
        ("networks", json!([uuid]), BackendErrorKind::NotFound),
        ("security_groups", json!(["no-such"]), BackendErrorKind::NotFound),
        ("key_pair", json!("no-such"), BackendErrorKind::NotFound),
        ("server_group", json!("no-such"), BackendErrorKind::NotFound),
        ("availability_zone", json!("no-such"), BackendErrorKind::InvalidConfig),
    ] {
        let mut wrong = good();
        wrong[key] = value.clone();
        let missing = backend.validate(&placement(&wrong)).await.unwrap();
        let name = value.as_str().or(value[0].as_str()).unwrap();
        assert!(missing.len() == 1 && missing[0].contains(name), "{key}: {missing:?}");
        let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &wrong);
        let error = backend.create(&spec).await.unwrap_err();
        assert_eq!(error.kind, kind, "{key}: {error}");
    }
    let mut all =
        json!({"flavor": "no-1", "image": "no-2", "networks": ["no-3"], "volume": {"size_gib": 10}});
    let missing = backend.validate(&placement(&all)).await.unwrap();
    assert!(missing.len() == 4 && missing[3].contains("no volume service"), "{missing:?}");
    all["floating_network"] = json!("no-4");
    assert_eq!(backend.validate(&placement(&all)).await.unwrap().len(), 5);
    let nowhere =
        connect(&json!({"cloud": "runners", "clouds_file": peer.clouds, "region": "RegionTwo"})).await;
    let error = nowhere.list(&owner(&deployment, "key")).await.unwrap_err();
    assert!(error.detail.contains("no endpoint of the compute service in region RegionTwo"), "{error}");
    assert_eq!(peer.servers(&deployment), Vec::<Value>::new());
}

/// Neither a server of another owner, nor one that somebody named like one of ours, nor one whose marks were taken off.
#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let (backend, session) = (peer.backend().await, peer.session());
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &good());
    let made = backend.create(&spec).await.unwrap();
    running(&*backend, &made).await;
    let server = Reference::read(&made.id).unwrap().server.unwrap();
    assert_eq!(backend.list(&owner(&deployment, "another")).await.unwrap(), []);
    // A longer name is another's, whatever Nova's regular expressions say.
    let longer = RunnerName::new(format!("{deployment}-linux-10")).unwrap();
    assert_eq!(backend.find(&longer).await.unwrap(), None);
    let key = "runner-manager-owner";
    session.call(&Call::delete(Service::Compute, &["servers", &server, "metadata", key])).await.unwrap();
    assert_eq!(
        (backend.get(&made.id).await.unwrap(), backend.find(&spec.runner).await.unwrap()),
        (None, None)
    );
    backend.delete(&made.id).await.unwrap();
    let [left] = &peer.servers(&deployment)[..] else { panic!("it was removed") };
    assert_eq!(left["id"], json!(server));
    session.call(&Call::delete(Service::Compute, &["servers", &server])).await.unwrap();
}
