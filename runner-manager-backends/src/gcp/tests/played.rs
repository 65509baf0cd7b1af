//! What the fake cannot do, played by a proxy before it: refusals in all their words, late and lost answers, lists that are
//! not complete, endless pages and answers, and what stands in the way of tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use runner_manager_core::backend::{Activity, Backend, BackendErrorKind as Kind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{InstanceFailure, InstanceId, InstanceState, Phase, RunnerName};
use runner_manager_core::retry::Retry;
use serde_json::{Value, json};

use super::peer::{Call, IMAGE, Peer, ZONES, name, until};
use super::{connect, owner, placement, spec};
use crate::testing::fault_proxy::{Harm, Proxy, Seen};

/// A refusal as Compute words it.
pub(super) fn refusal(status: u16, reason: &str, message: &str) -> Harm {
    let error = json!({"message": message, "domain": "global", "reason": reason});
    json_answer(status, &json!({"error": {"code": status, "message": message, "errors": [error]}}))
}

fn json_answer(status: u16, body: &Value) -> Harm {
    Harm::Answer { status, body: Bytes::from(body.to_string()) }
}

/// A backend on the fake behind a proxy.
async fn behind(
    peer: &Peer,
    timeout: &str,
    decide: impl Fn(&Seen) -> Option<(&'static str, Harm)> + Send + Sync + 'static,
) -> (Arc<dyn Backend>, Proxy) {
    let proxy = Proxy::before(&peer.url, decide).await;
    let mut settings = peer.settings(&proxy.url);
    settings["timeout"] = json!(timeout);
    (connect(&settings).await, proxy)
}

/// Each is told in one call: nothing tries again by itself.
#[tokio::test]
async fn refusals_are_told_apart_and_nothing_is_made() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let refusals = [
        (503, "ZONE_RESOURCE_POOL_EXHAUSTED", "does not have enough resources available", Kind::NoCapacity),
        (400, "resourcePoolExhausted", "The zone does not have enough resources", Kind::NoCapacity),
        (
            403,
            "quotaExceeded",
            "Quota 'CPUS' exceeded.  Limit: 24.0 in region europe-west1.",
            Kind::QuotaExceeded,
        ),
        (403, "rateLimitExceeded", "Rate Limit Exceeded", Kind::RateLimited),
        (429, "rateLimitExceeded", "Quota exceeded for quota metric 'Queries'", Kind::RateLimited),
        (403, "forbidden", "Required 'compute.instances.create' permission", Kind::PermissionDenied),
        (
            403,
            "accessNotConfigured",
            "Compute Engine API has not been used in project",
            Kind::PermissionDenied,
        ),
        (401, "authError", "Invalid Credentials", Kind::Unauthenticated),
        (401, "required", "Login Required", Kind::Unauthenticated),
        (404, "notFound", "The resource 'projects/p' was not found", Kind::NotFound),
        (400, "invalid", "Invalid value for field 'resource.machineType'", Kind::InvalidConfig),
        (
            412,
            "conditionNotMet",
            "Constraint constraints/compute.vmExternalIpAccess violated",
            Kind::InvalidConfig,
        ),
        (400, "resourceNotReady", "The resource 'subnetworks/x' is not ready", Kind::Unavailable),
        (500, "internalError", "Internal error. Please try again or contact Google Support.", Kind::Unclear),
        (503, "backendError", "Backend Error", Kind::Unclear),
        (418, "aNewWord", "I am a teapot", Kind::Unexpected),
    ];
    let next = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&next);
    let (backend, proxy) = behind(&peer, "10s", move |seen| {
        let (status, code, message, _) = refusals[asked.load(Ordering::SeqCst)];
        (Call::of(seen) == Call::Insert).then(|| ("refused", refusal(status, code, message)))
    })
    .await;
    let deployment = name();
    for (number, (_, code, _, kind)) in refusals.iter().enumerate() {
        next.store(number, Ordering::SeqCst);
        let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-{number}"), &Peer::good());
        let error = backend.create(&spec).await.unwrap_err();
        assert_eq!(error.kind, *kind, "{error}");
        assert!(error.to_string().contains(code), "{error}");
        assert_eq!(matches!(error.retry, Retry::After(_)), *kind == Kind::RateLimited, "{error}");
    }
    assert_eq!(proxy.counts()["refused"] as usize, refusals.len());
    assert_eq!(peer.look(&deployment), Vec::<Value>::new());
}

/// Compute repeats a value that it refuses.
#[tokio::test]
async fn a_refused_script_is_not_told_on() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let (backend, _proxy) = behind(&peer, "10s", |seen| {
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let script = body["metadata"]["items"][0]["value"].as_str()?.to_owned();
        let message =
            format!("Invalid value for field 'resource.metadata.items[0].value': '{script}'. Too long.");
        Some(("repeated", refusal(400, "invalid", &message)))
    })
    .await;
    let error = backend.create(&spec(owner("acme", "key"), "acme-linux-1", &Peer::good())).await.unwrap_err();
    assert_eq!(error.kind, Kind::InvalidConfig);
    assert!(error.detail.ends_with("items[0].value': '..."), "{error}");
}

#[tokio::test]
async fn a_pause_that_compute_asks_for_is_told_on() {
    let Some(peer) =
        Peer::find(json!({"faults": [{"method": "instances.aggregatedList", "fault": "too_many"}]})).await
    else {
        return;
    };
    let error = peer.backend().await.list(&owner("acme", "key")).await.unwrap_err();
    assert_eq!((error.kind, error.retry), (Kind::RateLimited, Retry::After(Duration::from_secs(1))));
}

/// The errors that stand in an operation that is done: nothing was made, which was looked at.
#[tokio::test]
async fn an_operation_that_failed_is_an_error() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let (deployment, backend) = (name(), peer.backend().await);
    for (number, (fault, kind, told)) in [
        ("exhausted", Kind::NoCapacity, "ZONE_RESOURCE_POOL_EXHAUSTED"),
        ("operation_quota", Kind::QuotaExceeded, "Quota 'CPUS' exceeded"),
        ("operation_fails", Kind::Unexpected, "INTERNAL_ERROR"),
    ]
    .into_iter()
    .enumerate()
    {
        peer.faults(json!([{"method": "instances.insert", "fault": fault, "times": 1}])).await;
        let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-{number}"), &Peer::good());
        let error = backend.create(&spec).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(peer.look(&deployment), Vec::<Value>::new());
    }
    assert_eq!(peer.books().await["made"], 0);
}

/// An operation that failed and yet left its instance there is not told of as if it had made none.
#[tokio::test]
async fn a_failure_that_left_something_is_unclear() {
    let Some(peer) = Peer::find(json!({"pending_seconds": 0})).await else { return };
    let (backend, _proxy) = behind(&peer, "10s", |seen| {
        let error = json!({"errors": [{"code": "INTERNAL_ERROR", "message": "Internal error."}]});
        let done =
            json!({"name": "operation-1", "status": "DONE", "error": error, "httpErrorStatusCode": 500});
        (Call::of(seen) == Call::Wait).then(|| ("failed", json_answer(200, &done)))
    })
    .await;
    let deployment = name();
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &Peer::good());
    let error = backend.create(&spec).await.unwrap_err();
    assert!(error.kind == Kind::Unclear && error.detail.contains("INTERNAL_ERROR"), "{error}");
    assert!(backend.find(&spec.runner).await.unwrap().is_some());
}

#[tokio::test]
async fn a_lost_answer_is_unclear_and_its_instance_is_found() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let (deployment, number) = (name(), Arc::new(AtomicUsize::new(0)));
    let which = Arc::clone(&number);
    let (backend, proxy) = behind(&peer, "1s", move |seen| {
        if Call::of(seen) != Call::Insert {
            return None;
        }
        let number = which.load(Ordering::SeqCst);
        assert!(
            seen.says(&format!("-linux-{number}\"")) && seen.path.contains("requestId="),
            "{}",
            seen.path
        );
        Some(match number {
            0 => ("lost reply", Harm::LoseReply),
            1 => ("cut reply", Harm::Cut),
            2 => ("late", Harm::Delay(Duration::from_millis(1500))),
            3 => ("never sent on", Harm::Refuse),
            _ => ("a page", Harm::Answer { status: 200, body: Bytes::from_static(b"<html>") }),
        })
    })
    .await;
    for case in 0..5 {
        number.store(case, Ordering::SeqCst);
        let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-{case}"), &Peer::good());
        let error = backend.create(&spec).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unclear, "{case}: {error}");
        proxy.settled(spec.runner.as_str()).await;
        SystemClock.sleep(Duration::from_millis(500)).await;
        let found = backend.find(&spec.runner).await.unwrap();
        assert_eq!(found.is_some(), case < 3, "{case}: {found:?}");
        assert_eq!(peer.look(&deployment).len(), usize::from(case < 3), "{case}");
        if let Some(found) = found {
            backend.delete(&found.id).await.unwrap();
            until("it is gone", async || peer.look(&deployment).is_empty()).await;
        }
    }
}

/// A request that is sent twice on its way makes one instance, also where the first has long been answered.
#[tokio::test]
async fn one_request_id_makes_one_instance() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let deployment = name();
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &Peer::good());
    // Two processes, which know nothing of one another.
    let (one, other) = (peer.backend().await, peer.backend().await);
    let first = one.create(&spec).await.unwrap();
    assert_eq!(other.create(&spec).await.unwrap(), first);
    assert_eq!(peer.books().await["made"], 1);
}

/// An instance whose operation takes longer than a call may is told of as it was accepted, and why it came to nothing, too.
#[tokio::test]
async fn a_slow_operation_is_followed_by_looks() {
    let rules = json!([{"method": "instances.insert", "fault": "slow", "times": 1}]);
    let Some(peer) = Peer::find(json!({"faults": rules, "slow_seconds": 2.0, "pending_seconds": 4.0})).await
    else {
        return;
    };
    let deployment = name();
    let (backend, _proxy) = behind(&peer, "1s", |_| None).await;
    let spec =
        |number: u32| spec(owner(&deployment, "key"), &format!("{deployment}-linux-{number}"), &Peer::good());
    let made = backend.create(&spec(1)).await.unwrap();
    assert_eq!(made.state, InstanceState::Pending);
    // Nothing can be looked at yet but its operation.
    assert_eq!(backend.get(&made.id).await.unwrap().unwrap().state, InstanceState::Pending);
    until("it runs", async || {
        backend.get(&made.id).await.unwrap().is_some_and(|told| told.state == InstanceState::Running)
    })
    .await;
    assert_eq!(backend.get(&made.id).await.unwrap().unwrap().created_at, made.created_at);

    peer.faults(json!([{"method": "instances.insert", "fault": "exhausted", "times": 1}])).await;
    let made = backend.create(&spec(2)).await.unwrap();
    until("its failure is told", async || {
        let told = backend.get(&made.id).await.unwrap();
        told.is_some_and(|told| matches!(told.state, InstanceState::Failed(InstanceFailure::NoCapacity, _)))
    })
    .await;
    backend.delete(&made.id).await.unwrap();
    assert_eq!(backend.get(&made.id).await.unwrap(), None);
}

/// Looks at an operation that fail are made again; where they are forbidden the instance is looked at itself.
#[tokio::test]
async fn an_operation_that_cannot_be_asked_about_is_no_failure() {
    let Some(peer) = Peer::find(json!({"denied": []})).await else { return };
    let (deployment, forbids) = (name(), Arc::new(AtomicBool::new(false)));
    let (left, forbidden) = (Arc::new(AtomicUsize::new(2)), Arc::clone(&forbids));
    let (backend, proxy) = behind(&peer, "10s", move |seen| {
        if Call::of(seen) != Call::Wait {
            return None;
        }
        if forbidden.load(Ordering::SeqCst) {
            return Some((
                "denied",
                refusal(403, "forbidden", "Required 'compute.zoneOperations.get' permission"),
            ));
        }
        let fails = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        fails.then_some(("cut", Harm::Cut))
    })
    .await;
    let spec =
        |number: u32| spec(owner(&deployment, "key"), &format!("{deployment}-linux-{number}"), &Peer::good());
    assert_eq!(backend.create(&spec(1)).await.unwrap().state, InstanceState::Running);
    assert_eq!(proxy.counts()["cut"], 2);
    forbids.store(true, Ordering::SeqCst);
    assert_eq!(backend.create(&spec(2)).await.unwrap().state, InstanceState::Pending);
    assert_eq!(proxy.counts()["denied"], 1);
}

#[tokio::test]
async fn where_nobody_is_nothing_is_unclear() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let backend = connect(&peer.settings(&url)).await;
    let error = backend.create(&spec(owner("acme", "key"), "acme-linux-1", &Peer::good())).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    let error = backend.list(&owner("acme", "key")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_name_that_somebody_else_has_is_an_error() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let (deployment, backend) = (name(), peer.backend().await);
    let name = format!("{deployment}-linux-1");
    backend.create(&spec(owner(&deployment, "theirs"), &name, &Peer::good())).await.unwrap();
    let error = backend.create(&spec(owner(&deployment, "ours"), &name, &Peer::good())).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unexpected, "{error}");
    assert!(error.detail.contains("not ours"), "{error}");
}

/// A delete that meets one under way is success; one that is not allowed, or whose instance is busy otherwise, is an error.
#[tokio::test]
async fn what_cannot_be_removed_is_told() {
    let Some(peer) = Peer::find(json!({"running_seconds": 1.0})).await else { return };
    let (deployment, backend) = (name(), peer.backend().await);
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &Peer::good());
    let made = backend.create(&spec).await.unwrap();
    peer.faults(json!([{"method": "instances.delete", "fault": "operation_fails", "times": 1}])).await;
    // Accepted, and comes to nothing: it is there, and is asked for once more.
    backend.delete(&made.id).await.unwrap();
    SystemClock.sleep(Duration::from_millis(1500)).await;
    assert_eq!(backend.get(&made.id).await.unwrap().unwrap().state, InstanceState::Running);
    backend.delete(&made.id).await.unwrap();
    SystemClock.sleep(Duration::from_millis(300)).await;
    backend.delete(&made.id).await.unwrap();
    until("it is gone", async || backend.get(&made.id).await.unwrap().is_none()).await;

    let reasons = [(403, "forbidden"), (400, "resourceNotReady"), (503, "backendError"), (404, "notFound")];
    let next = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&next);
    let (backend, _proxy) = behind(&peer, "10s", move |seen| {
        let (status, reason) = reasons[asked.load(Ordering::SeqCst)];
        match Call::of(seen) {
            Call::Delete => Some(("refused", refusal(status, reason, "no"))),
            Call::Get => Some(("starting", json_answer(200, &json!({"id": "7", "status": "STAGING"})))),
            _ => None,
        }
    })
    .await;
    let id = InstanceId::new(format!("{}/7", ZONES[0]));
    for (number, kind) in
        [Some(Kind::PermissionDenied), Some(Kind::Unavailable), Some(Kind::Unavailable), None]
            .into_iter()
            .enumerate()
    {
        next.store(number, Ordering::SeqCst);
        assert_eq!(backend.delete(&id).await.err().map(|error| error.kind), kind, "{:?}", reasons[number]);
    }
}

/// A zone that could not be looked at makes a list an error, also one that came with 200.
#[tokio::test]
async fn a_list_that_is_not_complete_is_an_error() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let bodies = [
        json!({"items": {"zones/a": {"warning": {"code": "UNREACHABLE", "message": "cannot be reached"}}}}),
        json!({"items": {}, "unreachables": ["zones/b"]}),
        json!({"items": {"zones/a": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}, "nextPageToken": "again"}),
    ];
    let next = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&next);
    let (backend, proxy) = behind(&peer, "10s", move |seen| {
        let body = &bodies[asked.load(Ordering::SeqCst)];
        (Call::of(seen) == Call::List).then(|| ("listed", json_answer(200, body)))
    })
    .await;
    for (number, told) in ["zones/a: UNREACHABLE", "zones/b", "more than 1000 pages"].into_iter().enumerate()
    {
        next.store(number, Ordering::SeqCst);
        let error = backend.list(&owner("acme", "key")).await.unwrap_err();
        assert!(error.kind == Kind::Unavailable && error.detail.contains(told), "{error}");
        let error = backend.find(&RunnerName::new("acme-linux-1").unwrap()).await.unwrap_err();
        assert!(error.kind == Kind::Unavailable && error.detail.contains(told), "{error}");
    }
    assert_eq!(proxy.counts()["listed"], 2 + 2 + 2000);
}

#[tokio::test]
async fn an_endless_answer_is_left_alone() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let (backend, _proxy) = behind(&peer, "20s", move |seen| {
        let taken = Arc::clone(&counted);
        let flood = || Harm::Flood { beginning: "{\"items\": \"", bytes: 1 << 30, taken };
        matches!(Call::of(seen), Call::List | Call::Insert).then(|| ("flood", flood()))
    })
    .await;
    let error = backend.list(&owner("acme", "key")).await.unwrap_err();
    assert!(error.kind == Kind::Unavailable && error.detail.contains("longer than 64 MiB"), "{error}");
    let error = backend.create(&spec(owner("acme", "key"), "acme-linux-1", &Peer::good())).await.unwrap_err();
    assert!(error.kind == Kind::Unclear && error.detail.contains("longer than 64 MiB"), "{error}");
    assert!(taken.load(Ordering::SeqCst) < 160 << 20, "{taken:?} bytes were read");
}

/// A refused token is not asked for with the same credentials for ever: once they are good again, all is well.
#[tokio::test]
async fn wrong_credentials_are_told_and_better_ones_are_taken_up() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials.json");
    let owner = owner("acme", "key");
    let mut settings = peer.settings(&peer.url);
    settings["credentials"] = json!({"file": file});
    std::fs::write(&file, peer.credentials("revoked").to_string()).unwrap();
    let backend = connect(&settings).await;
    for _ in 0..2 {
        let error = backend.list(&owner).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unauthenticated, "{error}");
        assert!(!error.to_string().contains("hush"), "{error}");
    }
    // A token that Compute refuses.
    std::fs::write(&file, peer.credentials("unknown").to_string()).unwrap();
    let error = backend.list(&owner).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unauthenticated, "{error}");
    assert!(error.detail.contains("authError"), "{error}");
    std::fs::write(&file, peer.credentials("good").to_string()).unwrap();
    assert_eq!(backend.list(&owner).await.unwrap(), []);
}

#[tokio::test]
async fn service_accounts_are_impersonated() {
    let Some(peer) = Peer::find(json!({"tokens": ["as-good"]})).await else { return };
    let mut settings = peer.settings(&peer.url);
    settings["credentials"] = json!(
        json!({
            "type": "impersonated_service_account", "source_credentials": peer.credentials("good"),
            "service_account_impersonation_url": format!("{}/fake/serviceAccounts/runners@p.iam:generateAccessToken", peer.url),
        })
        .to_string()
    );
    assert_eq!(connect(&settings).await.list(&owner("acme", "key")).await.unwrap(), []);
    let error = peer.backend().await.list(&owner("acme", "key")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unauthenticated, "{error}");
}

#[tokio::test]
async fn labels_that_somebody_else_changed_are_not_lost() {
    let Some(peer) = Peer::find(json!({})).await else { return };
    let deployment = name();
    let changed =
        json!({"error": {"code": 412, "errors": [{"reason": "conditionNotMet"}], "message": "changed"}});
    let (backend, _proxy) = behind(&peer, "10s", move |seen| {
        seen.path.ends_with("/setLabels").then(|| ("changed", json_answer(412, &changed)))
    })
    .await;
    let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &Peer::good());
    let made = backend.create(&spec).await.unwrap();
    let activity = Activity { phase: Phase::Idle, job: None };
    assert!(backend.update(&made.id, &activity).await.is_err());
    assert_eq!(backend.get(&made.id).await.unwrap().unwrap().id, made.id);
    // What is not there needs no labels.
    backend.update(&InstanceId::new(format!("{}/7", ZONES[0])), &activity).await.unwrap();
}

/// Each word of what is missing, by its own answer; with everything there, nothing.
#[tokio::test]
async fn a_check_names_what_is_missing() {
    let body = json!({"machineType": "e2-standard-2"});
    let Some(peer) = Peer::find(json!({"templates": {"runners": body}})).await else { return };
    let backend = peer.backend().await;
    let mut all = Peer::good();
    all.as_object_mut().unwrap().extend(
        json!({
            "network": "default", "subnet": "default", "accelerators": [{"type": "nvidia-tesla-t4"}],
            "instance_template": "runners",
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    assert_eq!(backend.validate(&placement(&all)).await.unwrap(), Vec::<String>::new());
    for (key, value, told) in [
        ("zones", json!("mars-1a"), "there is no zone mars-1a"),
        ("machine_types", json!("e2-none"), "there is no machine type e2-none in zone europe-west1-b"),
        ("machine_types", json!("t2a-standard-2"), "t2a-standard-2 in zone europe-west1-b is for ARM64"),
        ("image", json!(format!("{IMAGE}-none")), "there is no image"),
        ("image", json!("family/none"), "there is no image family/none"),
        ("image", json!(format!("{IMAGE}-arm64")), "is for ARM64, and the group is for X86_64"),
        ("network", json!("none"), "there is no network none"),
        ("subnet", json!("none"), "there is no subnet none in region europe-west1"),
        ("accelerators", json!([{"type": "none"}]), "there is no accelerator none"),
        ("instance_template", json!("none"), "there is no instance template none"),
    ] {
        let mut settings = all.clone();
        settings[key] = value;
        let said = backend.validate(&placement(&settings)).await.unwrap().join("; ");
        assert!(said.contains(told), "{key}: {said}");
    }
}

#[tokio::test]
async fn a_check_names_each_permission() {
    let permissions = [
        "compute.instances.list",
        "compute.instances.get",
        "compute.zones.get",
        "compute.zoneOperations.list",
        "compute.machineTypes.get",
        "compute.networks.get",
        "compute.subnetworks.get",
        "compute.acceleratorTypes.get",
        "compute.instanceTemplates.get",
        "compute.images.get",
    ];
    let Some(peer) = Peer::find(json!({"denied": permissions})).await else { return };
    let mut all = Peer::good();
    all.as_object_mut().unwrap().extend(
        json!({
            "image": "own", "network": "default", "subnet": "default", "accelerators": [{"type": "nvidia-tesla-t4"}],
            "instance_template": "runners",
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    let said = peer.backend().await.validate(&placement(&all)).await.unwrap();
    for permission in permissions {
        let named = said.iter().filter(|said| said.contains(&format!("may not do {permission}:")));
        assert_eq!(named.count(), 1, "{permission}: {said:?}");
    }
    let mut settings = peer.settings(&peer.url);
    settings["credentials"] = json!(peer.credentials("unknown").to_string());
    let error = connect(&settings).await.validate(&placement(&all)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unauthenticated, "{error}");
}
