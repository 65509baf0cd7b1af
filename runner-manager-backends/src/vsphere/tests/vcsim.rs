//! The vsphere backend on vcsim, as `scripts/peers/vcsim/up` starts it and `scripts/test` does before the tests.
//!
//! Where none runs they are skipped, and fail under `CI=true`.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use runner_manager_core::backend::{Activity, Backend, BackendErrorKind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{Instance, InstanceState, Owner, Phase, RunnerName};
use runner_manager_core::random::{Random, SystemRandom};
use runner_manager_core::testing::conformance::backend::{Hooks, NoSuchHook, Subject, cases};
use runner_manager_core::testing::conformance::run;
use serde_json::{Value, json};

use super::super::session::{Credentials, Session};
use super::super::transport::{Transport, Trust};
use super::super::{api, marks, properties};
use super::faults::fault;
use super::{connect, owner, placement, spec};
use crate::testing::calling::{Calling, calling};
use crate::testing::fault_proxy::{Harm, Proxy};

/// Where vcsim is.
#[derive(Debug, Clone)]
pub(super) struct Vcsim {
    /// With the path of its SDK.
    pub(super) url: String,
    ca_file: String,
    thumbprint: String,
    python: String,
}

impl Vcsim {
    /// `None` where none runs.
    pub(super) fn find() -> Option<Self> {
        let of = |name| std::env::var(name).ok();
        let found = (of("VCSIM_URL"), of("VCSIM_CA_FILE"), of("VCSIM_THUMBPRINT"), of("VCSIM_PYTHON"));
        let (Some(url), Some(ca_file), Some(thumbprint), Some(python)) = found else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "VCSIM_URL is not set");
            println!("skipped: no vcsim runs (scripts/peers/vcsim/up)");
            return None;
        };
        Some(Self { url, ca_file, thumbprint, python })
    }

    /// Its address without a path.
    pub(super) fn origin(&self) -> &str {
        self.url.trim_end_matches("/sdk")
    }

    /// A backend that asks it without anything in between.
    pub(super) async fn backend(&self) -> Arc<dyn Backend> {
        connect(&self.url, &json!({"ca_file": self.ca_file, "clone_timeout": "2s"})).await
    }

    /// Powers a machine off, as its runner does at its end.
    async fn power_off(&self, instance: &Instance) {
        let url = self.url.parse().unwrap();
        let clock = Arc::new(SystemClock);
        let transport = Transport::new(url, Trust::Anybody, Duration::from_secs(10), clock).unwrap();
        let password = runner_manager_core::domain::Secret::new("peer");
        let session = Session::new(transport, Credentials { username: "peer".to_owned(), password });
        let machine = marks::reference(&instance.id).unwrap();
        let task = api::power_off(&session, &machine).await.unwrap();
        properties::follow(&session, &task, Duration::from_secs(10)).await.unwrap().unwrap();
    }

    /// What VMware's own client tells of a deployment's machines.
    pub(super) fn look(&self, deployment: &str) -> Vec<Value> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/peers/vcsim/look.py");
        let output = Command::new(&self.python).args(["-B", script, deployment]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

pub(super) fn good() -> Value {
    json!({"template": "runner-template", "cluster": "DC0_C0", "datastore": "LocalDS_0"})
}

/// A deployment that no other test has.
pub(super) fn deployment() -> String {
    format!("vs-{:08x}", SystemRandom.next_u64() >> 32)
}

/// A proxy breaks lists, where it is told to: a reading of folders is one.
#[derive(Debug)]
struct Lab {
    vcsim: Vcsim,
    break_next: Arc<AtomicBool>,
    proxy: Proxy,
}

impl Lab {
    async fn new(vcsim: Vcsim) -> Self {
        let break_next = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&break_next);
        let proxy = Proxy::before(vcsim.origin(), move |seen| {
            let listing = seen.says("<RetrievePropertiesEx ") && seen.says("childEntity");
            (listing && asked.swap(false, Ordering::SeqCst)).then_some(("broken list", Harm::Cut))
        })
        .await;
        Self { vcsim, break_next, proxy }
    }
}

#[async_trait]
impl Hooks for Lab {
    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn end_by_itself(&self, instance: &Instance) -> Result<(), NoSuchHook> {
        self.vcsim.power_off(instance).await;
        Ok(())
    }

    async fn break_the_next_list(&self) -> Result<(), NoSuchHook> {
        self.break_next.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn conforms_in_direct_mode() {
    conforms(|backend| backend).await;
}

#[tokio::test]
async fn conforms_in_callback_mode() {
    conforms(|backend| Arc::new(Calling(backend))).await;
}

/// No case is skipped.
async fn conforms(in_its_mode: fn(Arc<dyn Backend>) -> Arc<dyn Backend>) {
    let Some(vcsim) = Vcsim::find() else { return };
    let name = deployment();
    let report = run(cases(), &[], || async {
        let lab = Lab::new(vcsim.clone()).await;
        let url = format!("{}/sdk", lab.proxy.url);
        Subject {
            backend: in_its_mode(connect(&url, &json!({"clone_timeout": "1s"})).await),
            good: placement(&good()),
            bad: placement(&json!({"template": "no-such-template", "cluster": "DC0_C0"})),
            owner: owner(&name, "one"),
            stranger: owner(&name, "another"),
            random: Arc::new(SystemRandom),
            hooks: Arc::new(lab),
        }
    })
    .await;
    println!("passed: {:?}, skipped: {:?}", report.passed, report.skipped);
    assert_eq!(report.passed.len(), cases().len());
    assert_eq!(vcsim.look(&name), Vec::<Value>::new(), "something is left");
}

/// Also of a linked clone.
#[tokio::test]
async fn a_foreign_client_sees_what_was_made_and_nothing_after() {
    let Some(vcsim) = Vcsim::find() else { return };
    let deployment = deployment();
    let settings = json!({"ca_file": vcsim.ca_file, "custom_attributes": true, "datacenter": "DC0"});
    let backend = connect(&vcsim.url, &settings).await;
    let mut wanted = good();
    wanted["snapshot"] = json!("base");
    wanted["cpus"] = json!(3);
    wanted["memory_mib"] = json!(1024);
    wanted["start"] = json!({"job_started": "echo hello <&>"});
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &wanted);
    let made = backend.create(&spec).await.unwrap();
    assert_eq!(made.state, InstanceState::Running);
    backend.update(&made.id, &Activity { phase: Phase::Idle, job: None }).await.unwrap();

    let [seen] = &vcsim.look(&deployment)[..] else { panic!("there is not one machine") };
    let name = spec.runner.as_str();
    assert_eq!((&seen["name"], &seen["power"]), (&json!(name), &json!("poweredOn")));
    assert_eq!((&seen["cpus"], &seen["memory"]), (&json!(3), &json!(1024)));
    assert_eq!(made.id.as_str().split('/').next(), seen["reference"].as_str());
    let options = &seen["options"];
    for (key, value) in spec.owner.tags(&spec.runner, &spec.group) {
        assert_eq!(options[&key], json!(value));
        assert_eq!(seen["attributes"][&key], json!(value));
        assert!(seen["annotation"].as_str().unwrap().contains(&format!("{key}: {value}\n")), "{seen}");
    }
    assert_eq!(options["runner-manager-tag-cost-center"], "ci");
    assert_eq!(
        (&seen["attributes"]["cost-center"], &seen["attributes"]["runner-manager-phase"]),
        (&json!("ci"), &json!("idle"))
    );
    let script = decoded(&options["guestinfo.userdata"]);
    assert!(script.starts_with("#!/bin/bash\n") && script.contains("'a-jit-config'"), "{script}");
    assert!(script.contains("'echo hello <&>'"), "{script}");
    let metadata: Value = serde_json::from_str(&decoded(&options["guestinfo.metadata"])).unwrap();
    assert_eq!(metadata, json!({"instance-id": name, "local-hostname": name}));
    assert!(!seen["annotation"].as_str().unwrap().contains("a-jit-config"), "the notes tell the JIT config");

    backend.delete(&made.id).await.unwrap();
    assert_eq!(vcsim.look(&deployment), Vec::<Value>::new());

    let made = backend.create(&calling(&spec)).await.unwrap();
    let [seen] = &vcsim.look(&deployment)[..] else { panic!("there is not one machine") };
    let script = decoded(&seen["options"]["guestinfo.userdata"]);
    assert!(script.contains("'a-token'") && !seen.to_string().contains("a-jit-config"), "{script}");
    backend.delete(&made.id).await.unwrap();
}

fn decoded(value: &Value) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The clone is one more machine with our marks; it is another's all the same.
#[tokio::test]
async fn a_clone_that_somebody_made_is_left_alone() {
    let Some(vcsim) = Vcsim::find() else { return };
    let deployment = deployment();
    let backend = vcsim.backend().await;
    let owner = owner(&deployment, "key");
    let spec = spec(owner.clone(), &format!("{deployment}-linux-1"), &good());
    let made = backend.create(&spec).await.unwrap();
    let copy = copied(&vcsim, &spec.runner);
    assert_eq!(vcsim.look(&deployment).len(), 2);
    let listed = backend.list(&owner).await.unwrap();
    assert_eq!(listed.iter().map(|instance| &instance.id).collect::<Vec<_>>(), [&made.id]);
    assert_eq!(backend.find(&RunnerName::new(&copy).unwrap()).await.unwrap(), None);
    backend.delete(&made.id).await.unwrap();
    let left = vcsim.look(&deployment);
    assert_eq!(
        left.iter().map(|machine| machine["name"].as_str().unwrap()).collect::<Vec<_>>(),
        [copy.as_str()]
    );
}

/// Copies a machine with its settings, under another name, by VMware's own client.
fn copied(vcsim: &Vcsim, runner: &RunnerName) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/peers/vcsim/clone.py");
    let copy = format!("{runner}-copy");
    let output = Command::new(&vcsim.python).args(["-B", script, runner.as_str(), &copy]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    copy
}

#[tokio::test]
async fn who_answers_is_known_by_a_ca_or_a_thumbprint() {
    let Some(vcsim) = Vcsim::find() else { return };
    let nobody = owner(&deployment(), "key");
    for right in [
        json!({"ca_file": vcsim.ca_file}),
        json!({"thumbprint": vcsim.thumbprint}),
        json!({"thumbprint": vcsim.thumbprint.replace(':', "").to_lowercase()}),
        json!({"insecure": true}),
    ] {
        assert_eq!(connect(&vcsim.url, &right).await.list(&nobody).await.unwrap(), [], "{right}");
    }
    let other = format!("FF{}", &vcsim.thumbprint[2..]);
    for (wrong, told) in [
        (json!({}), "ca_file or thumbprint"),
        (json!({"thumbprint": other}), &*format!("has the thumbprint {}", vcsim.thumbprint)),
    ] {
        let error = connect(&vcsim.url, &wrong).await.list(&nobody).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::InvalidConfig, "{wrong}: {error}");
        assert!(error.detail.contains(told), "{wrong}: {error}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let Some(vcsim) = Vcsim::find() else { return };
    let settings = json!({"ca_file": vcsim.ca_file, "password": "hunter2"});
    let backend = connect(&vcsim.url, &settings).await;
    let error = backend.list(&owner(&deployment(), "key")).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unauthenticated);
    assert!(error.detail.contains("username or password is wrong"), "{error}");
    assert!(!format!("{error:?} {backend:?}").contains("hunter2"));
}

#[tokio::test]
async fn wrong_names_are_told_each_and_make_nothing() {
    let Some(vcsim) = Vcsim::find() else { return };
    let deployment = deployment();
    let backend = vcsim.backend().await;
    assert_eq!(backend.validate(&placement(&good())).await.unwrap(), Vec::<String>::new());
    for key in ["template", "cluster", "resource_pool", "datastore", "network", "snapshot"] {
        let mut wrong = good();
        wrong[key] = json!("no-such");
        let missing = backend.validate(&placement(&wrong)).await.unwrap();
        assert!(missing.len() == 1 && missing[0].contains("no-such"), "{key}: {missing:?}");
        let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &wrong);
        let error = backend.create(&spec).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::NotFound, "{key}: {error}");
        assert!(error.detail.contains(&missing[0]), "{key}: {error}");
    }
    let all = json!({"template": "no-1", "cluster": "no-2", "datastore": "no-3"});
    assert_eq!(backend.validate(&placement(&all)).await.unwrap().len(), 3);
    let elsewhere = json!({"ca_file": vcsim.ca_file, "datacenter": "no-such"});
    let missing = connect(&vcsim.url, &elsewhere).await.validate(&placement(&good())).await.unwrap();
    assert!(missing.iter().all(|told| told.contains("no datacenter no-such")), "{missing:?}");
    assert_eq!(vcsim.look(&deployment), Vec::<Value>::new());
}

/// The clone itself is not made: vcsim would take the template's disk for the clone's.
#[tokio::test]
async fn the_network_and_the_disk_reach_vcenter() {
    let Some(vcsim) = Vcsim::find() else { return };
    let deployment = deployment();
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&asked);
    let proxy = Proxy::before(vcsim.origin(), move |seen| {
        if !seen.says("<CloneVM_Task ") {
            return None;
        }
        told.lock().unwrap().push(String::from_utf8(seen.body.to_vec()).unwrap());
        Some(("clone", fault("NoDiskSpace", "")))
    })
    .await;
    let backend = connect(&format!("{}/sdk", proxy.url), &json!({"clone_timeout": "1s"})).await;
    for (network, backing) in [
        ("VM Network", "<backing xsi:type=\"VirtualEthernetCardNetworkBackingInfo\"><deviceName>VM Network<"),
        (
            "DC0_DVPG0",
            "<backing xsi:type=\"VirtualEthernetCardDistributedVirtualPortBackingInfo\"><port><switchUuid>",
        ),
    ] {
        let mut settings = good();
        settings["network"] = json!(network);
        settings["disk_gib"] = json!(50);
        let name = format!("{deployment}-linux-{}", network.len());
        backend.create(&spec(owner(&deployment, "key"), &name, &settings)).await.unwrap_err();
        let sent = asked.lock().unwrap().pop().unwrap();
        assert!(sent.contains(backing) && !sent.contains("macAddress"), "{sent}");
        assert!(sent.contains("<capacityInKB>52428800<") && !sent.contains("capacityInBytes"), "{sent}");
    }
}

/// Of another owner, and of a machine that is nobody's.
#[tokio::test]
async fn a_name_that_another_has_is_an_error() {
    let Some(vcsim) = Vcsim::find() else { return };
    let deployment = deployment();
    let backend = vcsim.backend().await;
    let name = format!("{deployment}-linux-1");
    let theirs: Owner = owner(&deployment, "another");
    let made = backend.create(&spec(theirs, &name, &good())).await.unwrap();
    let error = backend.create(&spec(owner(&deployment, "key"), &name, &good())).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::InvalidConfig, "{error}");
    assert!(backend.get(&made.id).await.unwrap().is_some(), "the other's machine was removed");
    backend.delete(&made.id).await.unwrap();
}
