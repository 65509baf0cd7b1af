//! What moto cannot do, played by a proxy before it: shortages, throttling, lost and late answers, reads that lag, client
//! tokens, instances that come to an early end, missing permissions.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use runner_manager_core::backend::{Backend, BackendErrorKind, BackendErrorKind as Kind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{GroupName, InstanceFailure, InstanceId, InstanceState, RunnerName};
use runner_manager_core::retry::Retry;
use serde_json::{Value, json};

use super::peer::{Peer, calls, deployment};
use super::{connect, owner, placement, spec};
use crate::testing::fault_proxy::{Harm, Proxy, Seen};

/// A refusal as EC2 words it.
pub(super) fn refusal(status: u16, code: &str, message: &str) -> Harm {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Errors><Error><Code>{code}</Code>\
         <Message>{message}</Message></Error></Errors><RequestID>r</RequestID></Response>"
    );
    Harm::Answer { status, body: Bytes::from(body) }
}

/// One instance as EC2 tells of it, with marks.
fn one(id: &str, deployment: &str, state: &str, reason: Option<(&str, &str)>) -> Harm {
    let owner = owner(deployment, "key");
    let runner = RunnerName::new(format!("{deployment}-linux-1")).unwrap();
    let group = GroupName::new("linux").unwrap();
    let tags: Vec<String> = owner
        .tags(&runner, &group)
        .iter()
        .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
        .collect();
    let tags = tags.concat();
    let reason = reason.map_or_else(String::new, |(code, message)| {
        format!("<stateReason><code>{code}</code><message>{message}</message></stateReason>")
    });
    let body = format!(
        "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>\
         <reservationSet><item><reservationId>r-1</reservationId><instancesSet><item><instanceId>{id}</instanceId>\
         <instanceState><code>48</code><name>{state}</name></instanceState>\
         <launchTime>2026-11-26T12:00:00.000Z</launchTime>{reason}<tagSet>{tags}</tagSet></item></instancesSet></item>\
         </reservationSet></DescribeInstancesResponse>"
    );
    Harm::Answer { status: 200, body: Bytes::from(body) }
}

/// A backend on moto behind a proxy.
async fn behind(
    peer: &Peer,
    timeout: &str,
    decide: impl Fn(&Seen) -> Option<(&'static str, Harm)> + Send + Sync + 'static,
) -> (Arc<dyn Backend>, Proxy) {
    let proxy = Proxy::before(&peer.url, decide).await;
    let mut settings = Peer::settings(&proxy.url);
    settings["timeout"] = json!(timeout);
    (connect(&settings).await, proxy)
}

/// Each is told in one call: the SDK does not try again by itself.
#[tokio::test]
async fn refusals_are_told_apart_and_nothing_is_made() {
    let Some(peer) = Peer::find() else { return };
    let refusals = [
        (
            500,
            "InsufficientInstanceCapacity",
            "We currently do not have sufficient capacity",
            Kind::NoCapacity,
        ),
        (400, "InsufficientFreeAddressesInSubnet", "There are not enough free addresses", Kind::NoCapacity),
        (400, "SpotMaxPriceTooLow", "Your Spot request price of 0.1 is lower", Kind::NoCapacity),
        (400, "MaxSpotInstanceCountExceeded", "Max spot instance count exceeded", Kind::QuotaExceeded),
        (400, "VcpuLimitExceeded", "more vCPU capacity than your current limit of 0", Kind::QuotaExceeded),
        (400, "VolumeLimitExceeded", "Volume limit exceeded", Kind::QuotaExceeded),
        (503, "RequestLimitExceeded", "Request limit exceeded.", Kind::RateLimited),
        (
            403,
            "UnauthorizedOperation",
            "You are not authorized to perform this operation.",
            Kind::PermissionDenied,
        ),
        (
            401,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
            Kind::Unauthenticated,
        ),
        (400, "RequestExpired", "Request has expired.", Kind::Unauthenticated),
        (400, "Unsupported", "not supported in your requested Availability Zone", Kind::InvalidConfig),
        (400, "InvalidKeyPair.NotFound", "The key pair 'x' does not exist", Kind::NotFound),
        (500, "InternalError", "An internal error has occurred", Kind::Unclear),
        (503, "Unavailable", "The service is unavailable.", Kind::Unclear),
        (
            400,
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent",
            Kind::Unclear,
        ),
    ];
    let next = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&next);
    let (backend, proxy) = behind(&peer, "10s", move |seen| {
        let (status, code, message, _) = refusals[asked.load(Ordering::SeqCst)];
        calls(seen, "RunInstances").then(|| ("refused", refusal(status, code, message)))
    })
    .await;
    let deployment = deployment();
    for (number, (_, code, _, kind)) in refusals.iter().enumerate() {
        next.store(number, Ordering::SeqCst);
        let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-{number}"), &peer.good());
        let error = backend.create(&spec).await.unwrap_err();
        assert_eq!(error.kind, *kind, "{error}");
        assert!(error.to_string().contains(code), "{error}");
        let pause = matches!(error.retry, Retry::After(_));
        assert_eq!(pause, *kind == Kind::RateLimited, "{error}");
    }
    assert_eq!(proxy.counts()["refused"] as usize, refusals.len());
    assert_eq!(peer.living(&deployment), Vec::<Value>::new());
}

#[tokio::test]
async fn a_lost_answer_is_unclear_and_its_instance_is_found() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let number = Arc::new(AtomicUsize::new(0));
    let which = Arc::clone(&number);
    let tokens: Arc<Mutex<Vec<bool>>> = Arc::default();
    let seen_tokens = Arc::clone(&tokens);
    let (backend, proxy) = behind(&peer, "1s", move |seen| {
        if !calls(seen, "RunInstances") {
            return None;
        }
        let number = which.load(Ordering::SeqCst);
        seen_tokens.lock().unwrap().push(seen.says(&format!("-linux-{number}")) && seen.says("ClientToken="));
        Some(match number {
            0 => ("lost reply", Harm::LoseReply),
            1 => ("cut reply", Harm::Cut),
            2 => ("late", Harm::Delay(Duration::from_millis(1500))),
            _ => ("never sent on", Harm::Refuse),
        })
    })
    .await;
    for case in 0..4 {
        number.store(case, Ordering::SeqCst);
        let spec = spec(owner(&deployment, "key"), &format!("{deployment}-linux-{case}"), &peer.good());
        let error = backend.create(&spec).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Unclear, "{case}: {error}");
        SystemClock.sleep(Duration::from_secs(2)).await;
        let found = backend.find(&spec.runner).await.unwrap();
        assert_eq!(found.is_some(), case < 3, "{case}: {found:?}");
        assert_eq!(peer.living(&deployment).len(), usize::from(case < 3), "{case}");
        if let Some(found) = found {
            backend.delete(&found.id).await.unwrap();
        }
    }
    assert_eq!(tokens.lock().unwrap().as_slice(), [true; 4], "{:?}", proxy.counts());
}

#[tokio::test]
async fn where_nobody_is_nothing_is_unclear() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let backend = connect(&Peer::settings(&url)).await;
    let settings = json!({"instance_types": "t3.small", "image": "ami-1"});
    let error = backend.create(&spec(owner("acme", "key"), "acme-linux-1", &settings)).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unavailable, "{error}");
    let error = backend.list(&owner("acme", "key")).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unavailable, "{error}");
    assert!(!error.to_string().contains("peer-secret"), "{error}");
}

/// A look that does not know of an instance yet is no error, and says so: the manager waits for the lag.
#[tokio::test]
async fn reads_may_lag() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let left = Arc::new(AtomicUsize::new(2));
    let (backend, _proxy) = behind(&peer, "10s", move |seen| {
        let lags = calls(seen, "DescribeInstances")
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        lags.then(|| {
            let body = "<DescribeInstancesResponse><requestId>r</requestId><reservationSet/></DescribeInstancesResponse>";
            ("lags", Harm::Answer { status: 200, body: Bytes::from_static(body.as_bytes()) })
        })
    })
    .await;
    let made = backend
        .create(&spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &peer.good()))
        .await
        .unwrap();
    assert!(backend.capabilities().lag > Duration::ZERO);
    assert_eq!(backend.get(&made.id).await.unwrap(), None);
    assert_eq!(backend.find(&made.runner).await.unwrap(), None);
    assert_eq!(backend.get(&made.id).await.unwrap().unwrap().id, made.id);
    backend.delete(&made.id).await.unwrap();
}

/// A terminate that does not know the instance is success; one that is not allowed is an error.
#[tokio::test]
async fn what_cannot_be_removed_is_told() {
    let Some(peer) = Peer::find() else { return };
    let codes = ["InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed", "OperationNotPermitted"];
    let next = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&next);
    let (backend, _proxy) = behind(&peer, "10s", move |seen| {
        let code = codes[asked.load(Ordering::SeqCst)];
        calls(seen, "TerminateInstances").then(|| ("refused", refusal(400, code, "It is protected")))
    })
    .await;
    for (number, succeeds) in [true, true, false].into_iter().enumerate() {
        next.store(number, Ordering::SeqCst);
        assert_eq!(backend.delete(&InstanceId::new("i-1")).await.is_ok(), succeeds, "{}", codes[number]);
    }
}

#[tokio::test]
async fn an_early_end_tells_its_reason_until_it_was_removed() {
    let Some(peer) = Peer::find() else { return };
    let name = deployment();
    let deployment = name.clone();
    let reason = ("Client.InternalError", "Client.InternalError: Client error on launch");
    let (backend, _proxy) = behind(&peer, "10s", move |seen| {
        if calls(seen, "TerminateInstances") {
            let body = "<TerminateInstancesResponse><requestId>r</requestId><instancesSet/></TerminateInstancesResponse>";
            return Some(("removed", Harm::Answer { status: 200, body: Bytes::from_static(body.as_bytes()) }));
        }
        let looks = calls(seen, "DescribeInstances");
        looks.then(|| ("looked", one("i-0123", &deployment, "terminated", Some(reason))))
    })
    .await;
    let id = InstanceId::new("i-0123");
    let told = backend.get(&id).await.unwrap().unwrap();
    let InstanceState::Failed(InstanceFailure::Other, why) = told.state else { panic!("{}", told.state) };
    assert!(why.contains("Client error on launch") && why.contains("KMS"), "{why}");
    let found = backend.find(&told.runner).await.unwrap().unwrap();
    assert!(matches!(found.state, InstanceState::Failed(..)));
    // A list is for what has to be removed.
    assert_eq!(backend.list(&owner(&name, "key")).await.unwrap()[0].state, InstanceState::Gone);
    backend.delete(&id).await.unwrap();
    assert_eq!(backend.get(&id).await.unwrap().unwrap().state, InstanceState::Gone);
    assert_eq!(backend.find(&told.runner).await.unwrap().unwrap().state, InstanceState::Gone);
}

#[tokio::test]
async fn a_spot_interruption_is_told() {
    let Some(peer) = Peer::find() else { return };
    let name = deployment();
    let deployment = name.clone();
    let (backend, _proxy) = behind(&peer, "10s", move |seen| {
        let reason =
            ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Instance terminated");
        calls(seen, "DescribeInstances")
            .then(|| ("looked", one("i-0123", &deployment, "shutting-down", Some(reason))))
    })
    .await;
    let listed = backend.list(&owner(&name, "key")).await.unwrap();
    assert!(
        matches!(listed[0].state, InstanceState::Failed(InstanceFailure::Reclaimed, _)),
        "{}",
        listed[0].state
    );
}

#[tokio::test]
async fn many_looks_are_a_few_calls() {
    let Some(peer) = Peer::find() else { return };
    let deployment = deployment();
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let (backend, _proxy) = behind(&peer, "20s", move |seen| {
        if calls(seen, "DescribeInstances") {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        None
    })
    .await;
    let made = backend
        .create(&spec(owner(&deployment, "key"), &format!("{deployment}-linux-1"), &peer.good()))
        .await
        .unwrap();
    let ids: Vec<InstanceId> =
        (0..499).map(|number| InstanceId::new(format!("i-{number:017x}"))).chain([made.id.clone()]).collect();
    let told = join_all(ids.iter().map(|id| backend.get(id))).await;
    let there: Vec<usize> = told
        .iter()
        .enumerate()
        .filter(|(_, told)| told.as_ref().unwrap().is_some())
        .map(|(index, _)| index)
        .collect();
    // A filter takes two hundred values.
    assert_eq!((there, looks.load(Ordering::SeqCst)), (vec![499], 3));
    // Who gives up waiting does not take the others' answer away.
    let (dropped, kept) = (backend.get(&ids[0]), backend.get(&made.id));
    let mut dropped = Box::pin(dropped);
    let kept = async {
        SystemClock.sleep(Duration::from_millis(20)).await;
        kept.await
    };
    tokio::select! {
        biased;
        _ = &mut dropped => panic!("it waits for others"),
        () = SystemClock.sleep(Duration::from_millis(10)) => drop(dropped),
    }
    assert!(kept.await.unwrap().is_some());
    backend.delete(&made.id).await.unwrap();
}

#[tokio::test]
async fn roles_are_assumed_and_a_refusal_says_so() {
    let Some(peer) = Peer::find() else { return };
    let deny = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (denies, assumed) = (Arc::clone(&deny), Arc::new(AtomicUsize::new(0)));
    let as_role = Arc::clone(&assumed);
    let proxy = Proxy::before(&peer.url, move |seen| {
        if calls(seen, "AssumeRole") && denies.load(Ordering::SeqCst) {
            let body = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User is not \
                        authorized to perform: sts:AssumeRole</Message></Error><RequestId>r</RequestId></ErrorResponse>";
            return Some(("denied", Harm::Answer { status: 403, body: Bytes::from_static(body.as_bytes()) }));
        }
        let authorization = seen.headers.get("authorization").and_then(|value| value.to_str().ok());
        if calls(seen, "DescribeInstances") && !authorization.unwrap_or_default().contains("Credential=peer/") {
            as_role.fetch_add(1, Ordering::SeqCst);
        }
        None
    })
    .await;
    let mut settings = Peer::settings(&proxy.url);
    settings["assume_role"] = json!({"role_arn": "arn:aws:iam::123456789012:role/runners", "external_id": "x", "session_name": "test"});
    let backend = connect(&settings).await;
    let owner = owner("acme", "key");
    backend.list(&owner).await.unwrap();
    backend.list(&owner).await.unwrap();
    assert_eq!(assumed.load(Ordering::SeqCst), 2, "{:?}", proxy.counts());
    deny.store(true, Ordering::SeqCst);
    let backend = connect(&settings).await;
    let settings = peer.good();
    let error = backend.create(&spec(owner, "acme-linux-1", &settings)).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unauthenticated, "{error}");
    assert!(error.to_string().contains("sts:AssumeRole"), "{error}");
}

/// Each word of what is missing, by its own answer; with everything there, nothing.
#[tokio::test]
async fn a_check_names_what_is_missing() {
    let Some(peer) = Peer::find() else { return };
    let direct = peer.backend().await;
    let mut all = peer.good();
    all["security_groups"] = json!([peer.security_group]);
    all["key_pair"] = json!("people");
    all["instance_profile"] = json!("jobs");
    all["root_volume"] = json!({"size_gib": 30});
    assert_eq!(direct.validate(&placement(&all)).await.unwrap(), Vec::<String>::new());
    assert_eq!(
        direct.validate(&placement(&json!({"launch_template": {"name": "runners"}}))).await.unwrap(),
        Vec::<String>::new()
    );
    let missing = async |key: &str, value: Value| {
        let mut settings = all.clone();
        settings[key] = value;
        direct.validate(&placement(&settings)).await.unwrap().join("; ")
    };
    for (key, value, told) in [
        ("image", json!("ami-00000000000000000"), "there is no image ami-0000"),
        ("image", json!("ssm:/no/such"), "there is no parameter /no/such"),
        ("image", json!({"name": "no-such-*"}), "by the name no-such-* of self"),
        ("instance_types", json!("no.such"), "no.such"),
        ("instance_types", json!("t4g.small"), "has arm64 processors, and the image is for x86_64"),
        ("subnets", json!("subnet-00000000000000000"), "subnet-00000000000000000"),
        ("security_groups", json!(["sg-00000000000000000"]), "sg-00000000000000000"),
        ("key_pair", json!("nobody"), "nobody"),
        ("instance_profile", json!("no-such"), "no-such"),
        ("arch", json!("arm64"), "is for x86_64, and the group is for arm64"),
    ] {
        let said = missing(key, value).await;
        assert!(said.contains(told), "{key}: {said}");
    }
    assert!(
        direct
            .validate(&placement(&json!({"launch_template": {"name": "no-such"}})))
            .await
            .is_ok_and(|missing| !missing.is_empty())
    );
}

#[tokio::test]
async fn a_check_names_each_permission() {
    let Some(peer) = Peer::find() else { return };
    let actions = [
        "DescribeInstances",
        "DescribeImages",
        "DescribeInstanceTypes",
        "DescribeSubnets",
        "DescribeSecurityGroups",
        "DescribeKeyPairs",
        "DescribePlacementGroups",
        "DescribeLaunchTemplateVersions",
        "RunInstances",
    ];
    let (backend, proxy) = behind(&peer, "10s", move |seen| {
        let action = actions.iter().find(|action| calls(seen, action))?;
        Some((
            *action,
            refusal(403, "UnauthorizedOperation", "You are not authorized to perform this operation."),
        ))
    })
    .await;
    let mut all = peer.good();
    all["security_groups"] = json!([peer.security_group]);
    all["key_pair"] = json!("people");
    all["placement_group"] = json!("near");
    all["launch_template"] = json!({"name": "runners"});
    let said = backend.validate(&placement(&all)).await.unwrap();
    for action in actions {
        let named = said.iter().filter(|said| said.contains(&format!("may not do ec2:{action}:")));
        assert_eq!(named.count(), 1, "{action}: {said:?}");
        assert!(proxy.counts()[action] >= 1);
    }
    let (backend, _proxy) = behind(&peer, "10s", |_| {
        Some((
            "wrong key",
            refusal(401, "AuthFailure", "AWS was not able to validate the provided access credentials"),
        ))
    })
    .await;
    let error = backend.validate(&placement(&peer.good())).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unauthenticated, "{error}");
}
