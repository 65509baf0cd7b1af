//! A hundred servers on the peer, with proxies before Nova, Neutron and Glance that do harm to one request in five: none
//! is there twice, and none is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Method;
use runner_manager_core::backend::{Backend, BackendError, BackendErrorKind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{Instance, InstanceId, InstanceState, Owner, RunnerName};
use runner_manager_core::random::{Random, SeededRandom};
use serde_json::{Value, json};

use super::peer::{Peer, deployment, good};
use super::{connect, owner, spec};
use crate::testing::fault_proxy::{Harm, Proxy, Seen, UNHARMED};

const SERVERS: usize = 100;

/// How many are worked on at once.
const AT_ONCE: usize = 12;

/// Tries of one thing before it counts as impossible.
const TRIES: usize = 200;

fn refusal(status: u16, kind: &str, message: &str) -> Harm {
    Harm::Answer {
        status,
        body: Bytes::from(json!({kind: {"code": status, "message": message}}).to_string()),
    }
}

/// What is done to a request, by two throws of the dice: to one in five; of creates, which are few, to two in five, and
/// half of those meet a quota.
fn harm(one_in_five: u64, which: u64, seen: &Seen) -> Option<(&'static str, Harm)> {
    let creates = seen.method == Method::POST;
    if one_in_five % 5 > u64::from(creates) {
        return None;
    }
    if creates && which.is_multiple_of(2) {
        let words = "Quota exceeded for instances: Requested 1, but already used 20 of 20 instances";
        return Some(("quota", refusal(403, "forbidden", words)));
    }
    let harm = match which % 12 {
        0 => ("lost reply", Harm::LoseReply),
        1 => ("reply cut in two", Harm::Cut),
        2 => ("refused connection", Harm::Refuse),
        3 => ("late request", Harm::Delay(Duration::from_millis(4500))),
        10 => ("held reply", Harm::HoldReply(Duration::from_millis(4500))),
        4 => ("slow request", Harm::Delay(Duration::from_millis(200))),
        5 => (
            "503 of a load balancer",
            Harm::Answer {
                status: 503,
                body: Bytes::from_static(b"No server is available to handle this request."),
            },
        ),
        6 => ("502 of a proxy", Harm::Answer { status: 502, body: Bytes::from_static(b"<html>") }),
        7 => ("token refused", refusal(401, "error", "The request you have made requires authentication.")),
        8 => (
            "rate limit",
            Harm::AnswerWith {
                status: 429,
                headers: vec![("retry-after", "1".to_owned())],
                body: Bytes::from_static(b"{\"overLimit\": {\"message\": \"slow down\"}}"),
            },
        ),
        9 => ("not known yet", refusal(404, "itemNotFound", "Instance could not be found.")),
        _ => ("internal error", refusal(500, "computeFault", "Unexpected API Error.")),
    };
    Some(harm)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_twice_and_none_left() {
    let Some(peer) = Peer::find() else { return };
    let (name, dice) = (deployment(), Arc::new(Mutex::new(SeededRandom::new(6))));
    let before = async |port: usize| {
        let dice = Arc::clone(&dice);
        let decide = move |seen: &Seen| {
            let dice = dice.lock().unwrap();
            harm(dice.next_u64() >> 8, dice.next_u64() >> 8, seen)
        };
        Proxy::before(&peer.origin(port), decide).await
    };
    let proxies = [before(1).await, before(4).await, before(2).await];
    let [nova, neutron, glance] = &proxies;
    let elsewhere = [
        ("compute", format!("{}/v2.1", nova.url)),
        ("network", neutron.url.clone()),
        ("image", glance.url.clone()),
    ];
    let folder = peer.elsewhere("runners", &elsewhere);
    let file = folder.path().join("clouds.yaml");
    let harmed = connect(&json!({"cloud": "runners", "clouds_file": file, "timeout": "4s"})).await;
    let owner = owner(&name, "key");
    let began = SystemClock.now();

    let made: Vec<(Instance, usize)> = stream::iter(0..SERVERS)
        .map(|number| make(&harmed, nova, &owner, number))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    // With nothing in between: each server that was told of is there, once, and no other.
    let mut told: Vec<&InstanceId> = made.iter().map(|(instance, _)| &instance.id).collect();
    told.sort();
    let there = peer.backend().await.list(&owner).await.unwrap();
    let mut there: Vec<&InstanceId> = there.iter().map(|instance| &instance.id).collect();
    there.sort();
    assert_eq!((told.len(), &told), (SERVERS, &there), "not what was told of is there");
    assert_eq!(peer.servers(&name).len(), SERVERS, "the foreign client counts otherwise");
    until_all_run(&peer, &owner).await;

    stream::iter(&made)
        .map(|(instance, _)| remove(&harmed, &instance.id))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<()>>()
        .await;
    let left = peer.look(&name);
    assert_eq!(left["servers"], json!([]), "servers are left");
    assert_eq!(ports_of(&left, &made), Vec::<&Value>::new(), "ports are left");

    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for (kind, count) in proxies.iter().flat_map(Proxy::counts) {
        *counts.entry(kind).or_default() += count;
    }
    let runners: usize = made.iter().map(|(_, runners)| runners).sum();
    let calls: u32 = counts.values().sum();
    println!("{SERVERS} servers of {runners} runners, {calls} calls: {counts:?}");
    println!("in {:.0} s", SystemClock.now().duration_since(began).as_secs_f64());
    assert_eq!(counts.len(), 14, "a kind never happened");
    assert!(counts.values().all(|count| *count >= 20), "a kind happened too seldom: {counts:?}");
    let share = f64::from(calls - counts[UNHARMED]) / f64::from(calls);
    assert!((0.17..0.23).contains(&share), "{share} of the calls were harmed");
}

/// Ports of the servers that were made, which have none any more.
fn ports_of<'a>(left: &'a Value, made: &[(Instance, usize)]) -> Vec<&'a Value> {
    let of_ours = |port: &&Value| {
        let device = port["device_id"].as_str().unwrap_or_default();
        !device.is_empty() && made.iter().any(|(instance, _)| instance.id.as_str().starts_with(device))
    };
    left["ports"].as_array().unwrap().iter().filter(of_ours).collect()
}

async fn until_all_run(peer: &Peer, owner: &Owner) {
    let backend = peer.backend().await;
    for _ in 0..TRIES {
        let listed = backend.list(owner).await.unwrap();
        if listed.iter().all(|instance| instance.state == InstanceState::Running) {
            return;
        }
        SystemClock.sleep(Duration::from_secs(1)).await;
    }
    panic!("not all servers run");
}

/// One server, as the manager has one made: a runner is tried once, after an unclear outcome it is only looked for, and
/// what failed is replaced by another runner. How many it took is told too.
async fn make(backend: &Arc<dyn Backend>, nova: &Proxy, owner: &Owner, number: usize) -> (Instance, usize) {
    for runner in 0..TRIES {
        let name = format!("{}-linux-{number}x{runner}", owner.deployment);
        let spec = spec(owner.clone(), &name, &good());
        match backend.create(&spec).await {
            Ok(instance) => return (instance, runner + 1),
            Err(error) if error.kind == BackendErrorKind::Unclear => {
                if let Some(instance) = looked_for(backend, nova, &spec.runner).await {
                    return (instance, runner + 1);
                }
            }
            // It was not made: what is told so and is there after all fails the test at its end.
            Err(_) => {}
        }
    }
    panic!("server {number} could not be made");
}

/// Looks when what was asked for has come to its end at Nova, however long that takes: the manager gives it `settle`. An
/// absence counts when it was seen three times, because reads may lag.
async fn looked_for(backend: &Arc<dyn Backend>, nova: &Proxy, name: &RunnerName) -> Option<Instance> {
    nova.settled(name.as_str()).await;
    for _ in 0..3 {
        if let Some(instance) = sure(async || backend.find(name).await).await {
            return Some(instance);
        }
        SystemClock.sleep(Duration::from_millis(500)).await;
    }
    None
}

/// As the manager removes one: an absence counts when it was seen twice, because reads may lag.
async fn remove(backend: &Arc<dyn Backend>, id: &InstanceId) {
    for _ in 0..TRIES {
        sure(async || backend.delete(id).await).await;
        let mut absences = 0;
        while sure(async || backend.get(id).await).await.is_none() {
            absences += 1;
            if absences == 3 {
                return;
            }
        }
        SystemClock.sleep(Duration::from_millis(500)).await;
    }
    panic!("{id} was deleted and is there");
}

/// Asks until there is an answer.
async fn sure<T>(ask: impl AsyncFn() -> Result<T, BackendError>) -> T {
    for _ in 0..TRIES {
        if let Ok(answer) = ask().await {
            return answer;
        }
    }
    panic!("no answer in {TRIES} tries");
}
