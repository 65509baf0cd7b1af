//! The backend on moto, as `scripts/peers/moto/up` starts it and `scripts/test` does before the tests.
//!
//! Where none runs they are skipped, and fail under `CI=true`.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use runner_manager_core::backend::{Activity, Backend, BackendErrorKind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{Instance, InstanceState, Phase};
use runner_manager_core::random::{Random, SystemRandom};
use runner_manager_core::testing::conformance::backend::{Hooks, NoSuchHook, Subject, cases};
use runner_manager_core::testing::conformance::run;
use serde_json::{Value, json};

use super::super::config::Settings;
use super::super::connection::Connection;
use super::{connect, owner, placement, spec};
use crate::testing::fault_proxy::{Harm, Proxy};

/// Where moto is, and what was put into it.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) url: String,
    pub(super) python: String,
    pub(super) image: String,
    pub(super) old_image: String,
    pub(super) subnets: [String; 2],
    pub(super) security_group: String,
}

impl Peer {
    /// `None` where it does not run.
    pub(super) fn find() -> Option<Self> {
        let of = |name: &str| std::env::var(format!("MOTO_{name}")).ok();
        let Some(url) = of("URL") else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "MOTO_URL is not set");
            println!("skipped: no moto runs (scripts/peers/moto/up)");
            return None;
        };
        Some(Self {
            url,
            python: of("PYTHON")?,
            image: of("IMAGE")?,
            old_image: of("OLD_IMAGE")?,
            subnets: [of("SUBNET_A")?, of("SUBNET_B")?],
            security_group: of("SECURITY_GROUP")?,
        })
    }

    /// Settings by which it is asked at an address: its own, or that of a proxy before it.
    pub(super) fn settings(url: &str) -> Value {
        json!({
            "region": "us-east-1",
            "access_key": {"id": "peer", "secret": "peer-secret"},
            "endpoints": {"ec2": url, "servicequotas": url, "ssm": url, "sts": url},
            "settle": "1s",
            "timeout": "20s",
        })
    }

    pub(super) async fn backend(&self) -> Arc<dyn Backend> {
        connect(&Self::settings(&self.url)).await
    }

    /// The SDK's clients, for calls that the backend does not make.
    pub(super) async fn connection(&self) -> Connection {
        Connection::new(&Settings::read(&Self::settings(&self.url)).unwrap()).await.unwrap()
    }

    pub(super) fn good(&self) -> Value {
        json!({"instance_types": "t3.small", "image": self.image, "subnets": self.subnets[0]})
    }

    /// What AWS' own client tells of what bears a deployment's mark.
    pub(super) fn look(&self, deployment: &str) -> Value {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/peers/moto/look.py");
        let output = Command::new(&self.python)
            .args(["-B", script, deployment])
            .env("MOTO_URL", &self.url)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The instances of a deployment that have not been terminated.
    pub(super) fn living(&self, deployment: &str) -> Vec<Value> {
        let instances = self.look(deployment)["instances"].as_array().unwrap().clone();
        instances.into_iter().filter(|instance| instance["state"] != "terminated").collect()
    }
}

/// A deployment that no other test has.
pub(super) fn deployment() -> String {
    format!("ec2-{:08x}", SystemRandom.next_u64() >> 32)
}

/// Whether a request is a call of an action.
pub(super) fn calls(seen: &crate::testing::fault_proxy::Seen, action: &str) -> bool {
    seen.says(&format!("Action={action}&"))
}

/// A proxy before moto breaks lists, where it is told to.
#[derive(Debug)]
struct Lab {
    connection: Connection,
    break_next: Arc<AtomicBool>,
    proxy: Proxy,
}

impl Lab {
    async fn new(peer: &Peer) -> Self {
        let break_next = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&break_next);
        let proxy = Proxy::before(&peer.url, move |seen| {
            let listing = calls(seen, "DescribeInstances") && seen.says("runner-manager-deployment");
            (listing && asked.swap(false, Ordering::SeqCst)).then_some(("broken list", Harm::Cut))
        })
        .await;
        Self { connection: peer.connection().await, break_next, proxy }
    }
}

#[async_trait]
impl Hooks for Lab {
    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn end_by_itself(&self, instance: &Instance) -> Result<(), NoSuchHook> {
        let stopped = self.connection.ec2.stop_instances().instance_ids(instance.id.as_str()).send().await;
        stopped.map(drop).map_err(|_| NoSuchHook)
    }

    async fn break_the_next_list(&self) -> Result<(), NoSuchHook> {
        self.break_next.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn conforms() {
    let Some(peer) = Peer::find() else { return };
    let name = deployment();
    let lab = Arc::new(Lab::new(&peer).await);
    let report = run(cases(), &[], || async {
        Subject {
            backend: connect(&Peer::settings(&lab.proxy.url)).await,
            good: placement(&peer.good()),
            bad: placement(
                &json!({"instance_types": "no.such", "image": peer.image, "subnets": peer.subnets[0]}),
            ),
            owner: owner(&name, "one"),
            stranger: owner(&name, "another"),
            random: Arc::new(SystemRandom),
            hooks: lab.clone(),
        }
    })
    .await;
    println!("passed: {:?}, skipped: {:?}", report.passed, report.skipped);
    assert_eq!(report.passed.len(), cases().len());
    assert_eq!(peer.living(&name), Vec::<Value>::new(), "something is left");
}

#[tokio::test]
async fn a_foreign_client_sees_what_was_made_and_nothing_after() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let backend = peer.backend().await;
    let wanted = json!({
        "instance_types": "m5.large", "image": "ssm:/ci/runner-image", "subnets": peer.subnets[1],
        "security_groups": [peer.security_group], "public_ip": true, "spot": true, "spot_max_price": "0.1",
        "instance_profile": "jobs", "key_pair": "people", "metadata_hop_limit": 2,
        "root_volume": {"size_gib": 33, "type": "gp3", "encrypted": true},
        "start": {"job_started": "echo hello"},
    });
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &wanted);
    let made = backend.create(&spec).await.unwrap();
    let told = backend.get(&made.id).await.unwrap().unwrap();
    assert_eq!((told.state, told.created_at), (InstanceState::Running, made.created_at));
    backend.update(&made.id, &Activity { phase: Phase::Idle, job: None }).await.unwrap();

    let look = peer.look(&deployment);
    let [seen] = &look["instances"].as_array().unwrap()[..] else { panic!("not one instance: {look}") };
    assert_eq!(seen["id"], made.id.as_str());
    assert_eq!((&seen["type"], &seen["image"]), (&json!("m5.large"), &json!(peer.image)));
    assert_eq!((&seen["subnet"], &seen["lifecycle"]), (&json!(peer.subnets[1]), &json!("spot")));
    assert_eq!((&seen["key"], &seen["client_token"]), (&json!("people"), &json!(spec.runner.as_str())));
    assert!(seen["public_ip"].is_string() && seen["groups"] == json!([peer.security_group]), "{seen}");
    assert_eq!(
        (&seen["metadata"]["HttpTokens"], &seen["metadata"]["HttpPutResponseHopLimit"]),
        (&json!("required"), &json!(2))
    );
    assert_eq!(seen["shutdown"], "terminate");
    assert!(seen["profile"].as_str().unwrap().ends_with("instance-profile/jobs"));
    let [volume] = &look["volumes"].as_array().unwrap()[..] else { panic!("not one volume: {look}") };
    assert_eq!(
        (&volume["size"], &volume["type"], &volume["encrypted"]),
        (&json!(33), &json!("gp3"), &json!(true))
    );
    for thing in [seen, volume] {
        for (key, value) in spec.owner.tags(&spec.runner, &spec.group) {
            assert_eq!(thing["tags"][&key], json!(value));
        }
        assert_eq!(thing["tags"]["cost-center"], "ci");
        assert_eq!(thing["tags"]["Name"], spec.runner.as_str());
    }
    assert_eq!(seen["tags"]["runner-manager-phase"], "idle");
    let script = seen["user_data"].as_str().unwrap();
    assert!(
        script.starts_with("#!/bin/bash\n")
            && script.contains("a-jit-config")
            && script.contains("echo hello")
    );

    backend.delete(&made.id).await.unwrap();
    assert_eq!(backend.get(&made.id).await.unwrap().unwrap().state, InstanceState::Gone);
    let look = peer.look(&deployment);
    assert_eq!((&look["instances"][0]["state"], &look["volumes"]), (&json!("terminated"), &json!([])));
}

#[tokio::test]
async fn images_are_found_by_name_and_templates_are_built_upon() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let backend = peer.backend().await;
    let newest =
        json!({"instance_types": "t3.small", "image": {"name": "runner-*"}, "subnets": peer.subnets[0]});
    let template = json!({"launch_template": {"name": "runners"}, "metadata_hop_limit": 3});
    let over = json!({
        "launch_template": {"name": "runners", "version": "1"}, "instance_types": "c5.large", "image": peer.old_image,
        "subnets": peer.subnets[0],
    });
    let mut made = Vec::new();
    for (number, settings) in [newest, template, over].iter().enumerate() {
        let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-{number}"), settings);
        made.push(backend.create(&spec).await.unwrap());
    }
    let living = peer.living(&deployment);
    let seen = |number: usize| living.iter().find(|one| one["id"] == made[number].id.as_str()).unwrap();
    assert_eq!(seen(0)["image"], json!(peer.image));
    assert_eq!((&seen(1)["type"], &seen(1)["image"]), (&json!("t3.small"), &json!(peer.image)));
    assert_eq!(seen(1)["metadata"]["HttpTokens"], "required");
    assert_eq!((&seen(2)["type"], &seen(2)["image"]), (&json!("c5.large"), &json!(peer.old_image)));
    assert_eq!(seen(2)["key"], "people");
    for instance in &made {
        backend.delete(&instance.id).await.unwrap();
    }
}

#[tokio::test]
async fn what_does_not_exist_is_refused_by_name() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let backend = peer.backend().await;
    let good = peer.good();
    for (number, (key, value, told, kind)) in [
        ("image", json!("ami-00000000000000000"), "ami-00000000000000000", BackendErrorKind::NotFound),
        ("image", json!("ssm:/no/such"), "/no/such", BackendErrorKind::NotFound),
        ("image", json!("ssm:/ci/no-image"), "does not hold", BackendErrorKind::InvalidConfig),
        ("image", json!({"name": "no-such-*"}), "no-such-*", BackendErrorKind::NotFound),
        ("instance_types", json!("no.such"), "no.such", BackendErrorKind::NotFound),
        ("subnets", json!("subnet-00000000000000000"), "subnet-0000", BackendErrorKind::NotFound),
        ("security_groups", json!(["sg-00000000000000000"]), "sg-0000", BackendErrorKind::NotFound),
        ("instance_profile", json!("no-such"), "no-such", BackendErrorKind::NotFound),
    ]
    .into_iter()
    .enumerate()
    {
        let mut settings = good.clone();
        settings[key] = value;
        let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-{number}"), &settings);
        let error = backend.create(&spec).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(backend.find(&spec.runner).await.unwrap(), None);
    }
    assert_eq!(peer.living(&deployment), Vec::<Value>::new());
}

/// With five instances a page.
#[tokio::test]
async fn every_page_of_a_list_counts() {
    let Some(peer) = Peer::find() else { return };
    let (name, count) = (deployment(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let (pages, cut) = (Arc::clone(&count), Arc::new(AtomicBool::new(false)));
    let armed = Arc::clone(&cut);
    let proxy = Proxy::before(&peer.url, move |seen| {
        if !calls(seen, "DescribeInstances") {
            return None;
        }
        let page = pages.fetch_add(1, Ordering::SeqCst);
        (page == 2 && armed.load(Ordering::SeqCst)).then_some(("third page", Harm::Cut))
    })
    .await;
    let mut settings = Peer::settings(&proxy.url);
    settings["page_size"] = json!(5);
    let backend = connect(&settings).await;
    let owner = owner(&name, "key");
    let mut made = Vec::new();
    for number in 0..12 {
        let spec = spec(owner.clone(), &format!("{name}-linux-{number}"), &peer.good());
        made.push(backend.create(&spec).await.unwrap().id);
    }
    made.sort();
    let mut listed: Vec<_> = backend.list(&owner).await.unwrap().into_iter().map(|one| one.id).collect();
    listed.sort();
    assert_eq!((listed, count.swap(0, Ordering::SeqCst)), (made.clone(), 3));
    cut.store(true, Ordering::SeqCst);
    assert_eq!(backend.list(&owner).await.unwrap_err().kind, BackendErrorKind::Unavailable);
    assert_eq!(proxy.counts()["third page"], 1);
    for id in &made {
        backend.delete(id).await.unwrap();
    }
}
