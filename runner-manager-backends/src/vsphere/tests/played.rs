//! A vCenter that is played: it answers what vcsim cannot be made to answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::join;
use runner_manager_core::backend::{Backend, BackendErrorKind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{InstanceFailure, InstanceId, InstanceState, Owner, RunnerName};
use serde_json::{Value, json};

use super::faults::fault;
use super::{connect, owner, placement, spec};
use crate::testing::fault_proxy::{Harm, Proxy, Seen};

const NAME: &str = "acme-linux-1";

/// The id of the machine that is played.
const ID: &str = "vm-7/5030-uuid";

/// What becomes of the `n`th call of a method; `None` for what it does by default.
type Play = dyn Fn(&str, usize, &Seen) -> Option<Harm> + Send + Sync;

type Does = fn() -> Harm;

struct Played {
    backend: Arc<dyn Backend>,
    asked: Arc<Mutex<Vec<String>>>,
    _proxy: Proxy,
}

impl Played {
    async fn new(play: impl Fn(&str, usize, &Seen) -> Option<Harm> + Send + Sync + 'static) -> Self {
        Self::with(&json!({}), Box::new(play)).await
    }

    async fn with(settings: &Value, play: Box<Play>) -> Self {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&asked);
        let proxy = Proxy::alone(move |seen| {
            let method = method(seen);
            let nth = {
                let mut noted = noted.lock().unwrap();
                noted.push(method.clone());
                noted.iter().filter(|asked| **asked == method).count()
            };
            Some(("answer", play(&method, nth, seen).unwrap_or_else(|| usual(&method, seen))))
        })
        .await;
        let mut all = json!({"datacenter": "DC0", "timeout": "2s", "clone_timeout": "8s"});
        all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        Self { backend: connect(&proxy.url, &all).await, asked, _proxy: proxy }
    }

    fn asked(&self, method: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == method).count()
    }

    /// The error of a create of a linked clone.
    async fn refusal(&self) -> (BackendErrorKind, String) {
        let error = self.backend.create(&spec(acme(), NAME, &settings())).await.unwrap_err();
        assert!(!format!("{error:?}").contains("a-jit-config"), "the JIT config is told");
        (error.kind, error.detail)
    }
}

fn acme() -> Owner {
    owner("acme", "key")
}

fn settings() -> Value {
    json!({"template": "t", "cluster": "c"})
}

/// The method that a request calls: the only element with the namespace of vCenter's API.
fn method(seen: &Seen) -> String {
    let body = std::str::from_utf8(&seen.body).unwrap();
    let before = &body[..body.find(" xmlns=\"urn:vim25\"").unwrap()];
    before[before.rfind('<').unwrap() + 1..].to_owned()
}

fn answer(method: &str, inner: &str) -> Harm {
    let body = format!(
        "<?xml version=\"1.0\"?><soapenv:Envelope xmlns:soapenv=\"e\" xmlns:xsi=\"i\" xmlns:xsd=\"d\"><soapenv:Body>\
         <{method}Response xmlns=\"urn:vim25\">{inner}</{method}Response></soapenv:Body></soapenv:Envelope>"
    );
    Harm::Answer { status: 200, body: Bytes::from(body) }
}

fn reference(name: &str, kind: &str, value: &str) -> String {
    format!("<{name} type=\"{kind}\">{value}</{name}>")
}

/// What a vCenter with one template, one cluster and one pod of datastores answers.
fn usual(method: &str, seen: &Seen) -> Harm {
    let returned = |kind: &str, value: &str| answer(method, &reference("returnval", kind, value));
    match method {
        "RetrieveServiceContent" => {
            let services: String = [
                ("rootFolder", "Folder"),
                ("propertyCollector", "PropertyCollector"),
                ("sessionManager", "SessionManager"),
                ("searchIndex", "SearchIndex"),
                ("storageResourceManager", "StorageResourceManager"),
            ]
            .map(|(name, kind)| reference(name, kind, name))
            .concat();
            answer(method, &format!("<returnval>{services}</returnval>"))
        }
        "Login" | "DestroyPropertyCollector" => answer(method, ""),
        "CurrentTime" => answer(method, "<returnval>2026-01-01T00:00:00Z</returnval>"),
        "FindByInventoryPath" => {
            let found = [
                ("DC0", "Datacenter", "datacenter-2"),
                ("DC0/vm", "Folder", "group-v3"),
                ("DC0/vm/t", "VirtualMachine", "vm-1"),
                ("DC0/host/c", "ClusterComputeResource", "domain-c8"),
                ("DC0/host/c/Resources", "ResourcePool", "resgroup-9"),
                ("DC0/datastore/pod", "StoragePod", "group-p1"),
            ];
            let path = |path| format!("<inventoryPath>{path}</inventoryPath>");
            let found = found.iter().find(|(at, ..)| seen.says(&path(at)));
            found.map_or_else(|| answer(method, ""), |(_, kind, value)| returned(kind, value))
        }
        "FindChild" => returned("VirtualMachine", "vm-7"),
        "RetrievePropertiesEx" if seen.says(">vm-1<") => {
            let template = object("VirtualMachine", "vm-1", &[("name", "<val>t</val>".to_owned())]);
            answer(method, &format!("<returnval>{template}</returnval>"))
        }
        "RetrievePropertiesEx" => page(method, None, &[machine(&acme(), "vm-7", NAME, &[])]),
        "CloneVM_Task" | "PowerOffVM_Task" | "Destroy_Task" => returned("Task", method),
        "CreatePropertyCollector" => returned("PropertyCollector", "own"),
        "CreateFilter" => returned("PropertyFilter", "filter"),
        "WaitForUpdatesEx" => {
            update(&format!("<state>success</state>{}", reference("result", "VirtualMachine", "vm-7")))
        }
        other => panic!("{other} is not played"),
    }
}

fn object(kind: &str, value: &str, properties: &[(&str, String)]) -> String {
    let properties = properties
        .iter()
        .map(|(name, value)| format!("<propSet><name>{name}</name>{value}</propSet>"))
        .collect::<Vec<_>>()
        .concat();
    format!("<objects>{}{properties}</objects>", reference("obj", kind, value))
}

/// A machine that runs, but for the properties that are given.
fn machine(owner: &Owner, value: &str, name: &str, others: &[(&'static str, &str)]) -> String {
    let spec = spec(owner.clone(), name, &settings());
    let mut marks = owner.tags(&spec.runner, &spec.group);
    marks.insert("runner-manager-created".to_owned(), "2026-01-01T00:00:00Z".to_owned());
    let mut properties = BTreeMap::from([
        ("name", name.to_owned()),
        ("config.instanceUuid", "5030-uuid".to_owned()),
        ("config.template", "false".to_owned()),
        ("runtime.powerState", "poweredOn".to_owned()),
        ("runtime.connectionState", "connected".to_owned()),
    ]);
    for (key, value) in others {
        match key.strip_prefix("mark ") {
            Some(mark) => drop(marks.insert(mark.to_owned(), (*value).to_owned())),
            None => drop(properties.insert(key, (*value).to_owned())),
        }
    }
    let options = marks
        .iter()
        .map(|(key, value)| {
            format!(
                "<OptionValue><key>{key}</key><value xsi:type=\"xsd:string\">{value}</value></OptionValue>"
            )
        })
        .collect::<Vec<_>>()
        .concat();
    let mut told: Vec<(&str, String)> =
        properties.into_iter().map(|(key, value)| (key, format!("<val>{value}</val>"))).collect();
    told.push(("config.extraConfig", format!("<val xsi:type=\"ArrayOfOptionValue\">{options}</val>")));
    object("VirtualMachine", value, &told)
}

fn page(method: &str, token: Option<&str>, objects: &[String]) -> Harm {
    let token = token.map(|token| format!("<token>{token}</token>")).unwrap_or_default();
    answer(method, &format!("<returnval>{token}{}</returnval>", objects.concat()))
}

/// An update of a task's info.
fn update(info: &str) -> Harm {
    let change = format!(
        "<changeSet><name>info</name><op>assign</op><val xsi:type=\"TaskInfo\">{info}</val></changeSet>"
    );
    let object = format!("<objectSet><kind>modify</kind>{change}</objectSet>");
    answer(
        "WaitForUpdatesEx",
        &format!("<returnval><version>2</version><filterSet>{object}</filterSet></returnval>"),
    )
}

fn failed(kind: &str, detail: &str) -> Harm {
    update(&format!(
        "<state>error</state><error><fault xsi:type=\"{kind}\">{detail}</fault><localizedMessage>Sorry.</localizedMessage></error>"
    ))
}

fn absent() -> Harm {
    fault("ManagedObjectNotFound", "<obj type=\"VirtualMachine\">vm-7</obj>")
}

#[tokio::test]
async fn a_clone_is_followed_to_its_end_without_being_asked_for_again_and_again() {
    let played = Played::new(|method, nth, seen| match (method, nth) {
        ("WaitForUpdatesEx", 1) => {
            assert!(seen.says("<version></version>"));
            Some(update("<state>queued</state>"))
        }
        ("WaitForUpdatesEx", 2) => {
            assert!(seen.says("<version>2</version>") && seen.says("<maxWaitSeconds>1</maxWaitSeconds>"));
            Some(answer(method, ""))
        }
        ("WaitForUpdatesEx", 3) => Some(update("<state>running</state>")),
        _ => None,
    })
    .await;
    let made = played.backend.create(&spec(acme(), NAME, &settings())).await.unwrap();
    assert_eq!((made.id.as_str(), &made.state), (ID, &InstanceState::Running));
    assert_eq!((played.asked("WaitForUpdatesEx"), played.asked("DestroyPropertyCollector")), (4, 1));
}

#[tokio::test]
async fn a_clone_that_does_not_end_is_unclear() {
    let settings = json!({"clone_timeout": "1s"});
    let forever =
        |method: &str, _, _: &Seen| (method == "WaitForUpdatesEx").then(|| update("<state>running</state>"));
    let (kind, told) = Played::with(&settings, Box::new(forever)).await.refusal().await;
    assert_eq!(kind, BackendErrorKind::Unclear, "{told}");
}

#[tokio::test]
async fn a_refused_clone_made_nothing_and_a_lost_answer_may_have() {
    let cases: [(Does, _, _); 7] = [
        (
            || {
                fault(
                    "NoPermission",
                    "<object type=\"Folder\">group-v3</object><privilegeId>VirtualMachine.Inventory.CreateFromExisting</privilegeId>",
                )
            },
            BackendErrorKind::PermissionDenied,
            "VirtualMachine.Inventory.CreateFromExisting on group-v3",
        ),
        (|| fault("InsufficientResourcesFault", ""), BackendErrorKind::NoCapacity, "injected"),
        (
            || fault("InvalidArgument", "<invalidProperty>spec.location.pool</invalidProperty>"),
            BackendErrorKind::InvalidConfig,
            "spec.location.pool",
        ),
        (|| Harm::Answer { status: 503, body: Bytes::new() }, BackendErrorKind::Unavailable, "503"),
        (|| Harm::Answer { status: 502, body: Bytes::new() }, BackendErrorKind::Unclear, "502"),
        (|| Harm::Refuse, BackendErrorKind::Unclear, "ended before"),
        (|| answer("Login", ""), BackendErrorKind::Unclear, "another question"),
    ];
    for (harm, kind, told) in cases {
        let played = Played::new(move |method, _, _| (method == "CloneVM_Task").then(harm)).await;
        let refusal = played.refusal().await;
        assert_eq!(refusal.0, kind, "{}", refusal.1);
        assert!(refusal.1.contains(told), "{}", refusal.1);
        assert_eq!(played.asked("CloneVM_Task"), 1, "a clone was asked for twice");
    }
}

/// The clone of a machine that cannot be powered on fails, and its machine stays.
#[tokio::test]
async fn what_a_failed_clone_left_is_removed() {
    let play = |method: &str, nth, _: &Seen| match (method, nth) {
        ("WaitForUpdatesEx", 1) => Some(failed("NotEnoughLicenses", "")),
        ("RetrievePropertiesEx", 2..) => Some(page(
            method,
            None,
            &[machine(&acme(), "vm-7", NAME, &[("runtime.powerState", "poweredOff")])],
        )),
        _ => None,
    };
    let played = Played::new(play).await;
    let (kind, told) = played.refusal().await;
    assert_eq!(kind, BackendErrorKind::NoCapacity, "{told}");
    assert!(told.contains("NotEnoughLicenses: Sorry."), "{told}");
    assert_eq!((played.asked("PowerOffVM_Task"), played.asked("Destroy_Task")), (0, 1));

    let stuck = Played::new(move |method, nth, seen| match method {
        "Destroy_Task" => Some(fault("NoPermission", "")),
        _ => play(method, nth, seen),
    })
    .await;
    let (kind, told) = stuck.refusal().await;
    assert_eq!(kind, BackendErrorKind::Unclear, "a machine is left: {told}");

    // What bears the name is another's, who made it in the meantime.
    let foreign = Played::new(|method, nth, _| match (method, nth) {
        ("WaitForUpdatesEx", 1) => Some(failed("NoDiskSpace", "")),
        ("RetrievePropertiesEx", 2..) => {
            Some(page(method, None, &[machine(&owner("acme", "theirs"), "vm-7", NAME, &[])]))
        }
        _ => None,
    })
    .await;
    assert_eq!(foreign.refusal().await.0, BackendErrorKind::NoCapacity);
    assert_eq!(foreign.asked("Destroy_Task"), 0, "another's machine was removed");
}

#[tokio::test]
async fn another_removal_is_waited_for() {
    let played = Played::new(|method, nth, _| match (method, nth) {
        ("PowerOffVM_Task", 1) => Some(fault("InvalidPowerState", "")),
        ("RetrievePropertiesEx", 2) => Some(page(
            method,
            None,
            &[machine(&acme(), "vm-7", NAME, &[("runtime.powerState", "poweredOff")])],
        )),
        ("Destroy_Task", 1) => Some(fault("TaskInProgress", "<task type=\"Task\">another</task>")),
        ("RetrievePropertiesEx", 3..) => Some(absent()),
        _ => None,
    })
    .await;
    played.backend.delete(&InstanceId::new(ID)).await.unwrap();
    assert_eq!((played.asked("Destroy_Task"), played.asked("WaitForUpdatesEx")), (1, 1));
}

/// The session was renewed while somebody waited in it.
#[tokio::test]
async fn a_lost_collector_is_no_lost_machine() {
    let lost = |method: &str, _, _: &Seen| {
        let gone = || fault("ManagedObjectNotFound", "<obj type=\"PropertyCollector\">own</obj>");
        (method == "WaitForUpdatesEx").then(gone)
    };
    let played = Played::new(lost).await;
    let error = played.backend.delete(&InstanceId::new(ID)).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unclear, "{error}");
    let (kind, told) = played.refusal().await;
    assert_eq!(kind, BackendErrorKind::Unclear, "{told}");
}

/// Of a machine without marks, and of one that got the reference of ours after vCenter's books were restored.
#[tokio::test]
async fn nothing_foreign_is_removed() {
    let unmarked = object("VirtualMachine", "vm-7", &[("name", format!("<val>{NAME}</val>"))]);
    let reused = machine(&acme(), "vm-7", NAME, &[("config.instanceUuid", "another")]);
    let template = machine(&acme(), "vm-7", NAME, &[("config.template", "true")]);
    for foreign in [unmarked, reused, template] {
        let played = Played::new(move |method, _, _| {
            (method == "RetrievePropertiesEx").then(|| page(method, None, std::slice::from_ref(&foreign)))
        })
        .await;
        played.backend.delete(&InstanceId::new(ID)).await.unwrap();
        assert_eq!(played.backend.get(&InstanceId::new(ID)).await.unwrap(), None);
        assert_eq!(played.asked("Destroy_Task") + played.asked("PowerOffVM_Task"), 0);
    }
}

#[tokio::test]
async fn states_are_told_apart() {
    let young = SystemClock.now().to_string();
    let cases: Vec<(Vec<(&'static str, &str)>, InstanceState)> = vec![
        (vec![], InstanceState::Running),
        (vec![("runtime.powerState", "poweredOff")], InstanceState::Stopped),
        (
            vec![("runtime.powerState", "poweredOff"), ("mark runner-manager-created", &young)],
            InstanceState::Pending,
        ),
        (vec![("runtime.powerState", "suspended")], InstanceState::Running),
        (vec![("runtime.connectionState", "disconnected")], InstanceState::Running),
        (vec![("mark runner-manager-ready", "tools")], InstanceState::Pending),
        (
            vec![("mark runner-manager-ready", "tools"), ("guest.toolsRunningStatus", "guestToolsRunning")],
            InstanceState::Running,
        ),
        (vec![("mark runner-manager-ready", "address"), ("guest.ipAddress", "")], InstanceState::Pending),
        (
            vec![("mark runner-manager-ready", "address"), ("guest.ipAddress", "10.0.0.1")],
            InstanceState::Running,
        ),
    ];
    for (properties, state) in cases {
        let told = machine(&acme(), "vm-7", NAME, &properties);
        let played = Played::new(move |method, _, _| {
            (method == "RetrievePropertiesEx").then(|| page(method, None, std::slice::from_ref(&told)))
        })
        .await;
        let instance = played.backend.get(&InstanceId::new(ID)).await.unwrap().unwrap();
        assert_eq!(instance.state, state, "{properties:?}");
    }
    let lost = machine(&acme(), "vm-7", NAME, &[("runtime.connectionState", "orphaned")]);
    let played = Played::new(move |method, _, _| {
        (method == "RetrievePropertiesEx").then(|| page(method, None, std::slice::from_ref(&lost)))
    })
    .await;
    let instance = played.backend.find(&RunnerName::new(NAME).unwrap()).await.unwrap().unwrap();
    assert!(matches!(instance.state, InstanceState::Failed(InstanceFailure::Other, _)));
}

#[tokio::test]
async fn a_list_has_all_pages_or_is_an_error() {
    let other = "acme-linux-2";
    let pages = |method: &str, nth: usize, seen: &Seen| match method {
        "RetrievePropertiesEx" => Some(page(method, Some("more"), &[machine(&acme(), "vm-7", NAME, &[])])),
        "ContinueRetrievePropertiesEx" if nth == 1 => {
            assert!(seen.says("<token>more</token>"));
            Some(page(method, None, &[machine(&acme(), "vm-8", other, &[])]))
        }
        _ => None,
    };
    let listed = Played::new(pages).await.backend.list(&acme()).await.unwrap();
    assert_eq!(listed.iter().map(|listed| listed.runner.as_str()).collect::<Vec<_>>(), [NAME, other]);

    let hidden = "<objects><obj type=\"VirtualMachine\">vm-9</obj><missingSet><path>config.extraConfig</path>\
                  <fault><fault xsi:type=\"NoPermission\"/></fault></missingSet></objects>";
    let broken: [(Does, &str); 5] = [
        (|| Harm::Refuse, "ended before"),
        (|| fault("InvalidArgument", ""), "InvalidArgument"),
        (|| page("ContinueRetrievePropertiesEx", Some("more"), &[]), "circle"),
        (|| page("ContinueRetrievePropertiesEx", None, &["<objects/>".to_owned()]), "without a name"),
        (|| answer("ContinueRetrievePropertiesEx", "<!DOCTYPE a>"), "document type"),
    ];
    for (harm, told) in broken {
        let played = Played::new(move |method, nth, seen| match method {
            "ContinueRetrievePropertiesEx" => Some(harm()),
            _ => pages(method, nth, seen),
        })
        .await;
        let error = played.backend.list(&acme()).await.unwrap_err();
        assert!(error.detail.contains(told), "{error}");
    }
    let played = Played::new(move |method, nth, seen| match method {
        "ContinueRetrievePropertiesEx" => Some(page(method, None, &[hidden.to_owned()])),
        _ => pages(method, nth, seen),
    })
    .await;
    let error = played.backend.list(&acme()).await.unwrap_err();
    assert_eq!(
        error.kind,
        BackendErrorKind::PermissionDenied,
        "what is hidden was taken for absent: {error}"
    );
}

#[tokio::test]
async fn pages_without_end_come_to_an_end() {
    let played = Played::new(|method, nth, _| match method {
        "RetrievePropertiesEx" | "ContinueRetrievePropertiesEx" => {
            Some(page(method, Some(&format!("{method}-{nth}")), &[]))
        }
        _ => None,
    })
    .await;
    let error = played.backend.list(&acme()).await.unwrap_err();
    assert!(error.detail.contains("more than 1000 pages"), "{error}");
}

#[tokio::test]
async fn a_flood_is_not_swallowed() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let played = Played::new(move |method, _, _| {
        let flood = || Harm::Flood { beginning: "<a>", bytes: 100 << 20, taken: Arc::clone(&counted) };
        (method == "RetrievePropertiesEx").then(flood)
    })
    .await;
    let error = played.backend.list(&acme()).await.unwrap_err();
    assert!(error.detail.contains("longer than 16 MiB"), "{error}");
    let taken = taken.load(Ordering::SeqCst);
    assert!((16 << 20..24 << 20).contains(&taken), "{taken} bytes of 100 MiB were read");
}

#[tokio::test]
async fn bombs_are_told_and_not_set_off() {
    let bomb = "<!DOCTYPE l [<!ENTITY a \"boom\"><!ENTITY b \"&a;&a;&a;&a;\">]><l>&b;</l>";
    for (document, told) in [
        (bomb.to_owned(), "document type"),
        ("<l>&a;</l>".to_owned(), "an entity of its own"),
        ("<l>".repeat(100_000), "more than 64 deep"),
        (format!("<l>{}</l>", "<a/>".repeat(200_001)), "more than 200000 elements"),
        ("<l>boom".to_owned(), "breaks off"),
        ("{\"boom\": 1}".to_owned(), "breaks off"),
        ("<html>boom</html>".to_owned(), "no SOAP envelope"),
    ] {
        let body = Bytes::from(document);
        let played = Played::new(move |method, _, _| {
            (method == "CurrentTime").then(|| Harm::Answer { status: 200, body: body.clone() })
        })
        .await;
        let (kind, said) = played.refusal().await;
        assert_eq!(kind, BackendErrorKind::Unavailable, "{said}");
        assert!(said.contains(told) && !said.contains("boom"), "{said}");
    }
}

#[tokio::test]
async fn a_session_that_vcenter_forgot_is_renewed_once_for_all() {
    let played = Played::new(|method, nth, _| match (method, nth) {
        ("RetrievePropertiesEx", 1 | 2) => Some(fault("NotAuthenticated", "")),
        _ => None,
    })
    .await;
    let id = InstanceId::new(ID);
    let (one, other) = join(played.backend.get(&id), played.backend.get(&id)).await;
    assert!(one.unwrap().is_some() && other.unwrap().is_some());
    assert_eq!((played.asked("RetrievePropertiesEx"), played.asked("Login")), (4, 2));

    let locked =
        Played::new(|method, _, _| (method == "RetrievePropertiesEx").then(|| fault("NotAuthenticated", "")))
            .await;
    let error = locked.backend.get(&id).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unauthenticated);
    assert_eq!(locked.asked("RetrievePropertiesEx"), 2, "it is asked over and over");
}

#[tokio::test]
async fn a_cluster_of_datastores_is_asked_for_its_recommendation() {
    let recommend = |method: &str, _, seen: &Seen| match method {
        "RecommendDatastores" => {
            assert!(
                seen.says("<storagePod type=\"StoragePod\">group-p1</storagePod>")
                    && seen.says("<cloneSpec>")
            );
            let best = |value| {
                format!(
                    "<recommendations><key>1</key><action>{}</action></recommendations>",
                    reference("destination", "Datastore", value)
                )
            };
            Some(answer(
                method,
                &format!("<returnval>{}{}</returnval>", best("datastore-5"), best("datastore-6")),
            ))
        }
        "CloneVM_Task" => {
            assert!(seen.says("<datastore type=\"Datastore\">datastore-5</datastore>"));
            None
        }
        _ => None,
    };
    let mut settings = settings();
    settings["datastore"] = json!("pod");
    let spec = spec(acme(), NAME, &settings);
    Played::new(recommend).await.backend.create(&spec).await.unwrap();

    let full =
        Played::new(|method, _, _| (method == "RecommendDatastores").then(|| answer(method, "<returnval/>")))
            .await;
    let error = full.backend.create(&spec).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::NoCapacity, "{error}");
    assert_eq!(full.asked("CloneVM_Task"), 0);
}

#[tokio::test]
async fn a_vcenter_that_is_not_there_is_unavailable() {
    let backend = connect("http://127.0.0.1:9", &json!({})).await;
    let error = backend.create(&spec(acme(), NAME, &settings())).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unavailable, "{error}");
    let error = backend.validate(&placement(&settings())).await.unwrap_err();
    assert!(error.detail.contains("cannot be reached"), "{error}");
}
