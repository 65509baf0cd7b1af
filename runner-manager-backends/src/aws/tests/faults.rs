//! Five hundred instances on moto, with a proxy before it that does harm to one request in five: none is there twice, and
//! none is left. It is a moto of their own, which other tests need not wait for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use runner_manager_core::backend::{Backend, BackendError, BackendErrorKind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{Instance, InstanceId, InstanceState, Owner, RunnerName};
use runner_manager_core::random::{Random, SeededRandom};
use serde_json::{Value, json};

use super::peer::{Peer, calls, deployment};
use super::played::refusal;
use super::policy::Guarded;
use super::{connect, owner, spec};
use crate::testing::fault_proxy::{Harm, Proxy, Seen, UNHARMED};

const INSTANCES: usize = 500;

/// How many are worked on at once.
const AT_ONCE: usize = 25;

/// How many backends share the work, as replicas would: each puts only its own looks into one call.
const REPLICAS: usize = 5;

/// Tries of one thing before it counts as impossible.
const TRIES: usize = 200;

/// How long between two looks at one instance.
const PAUSE: Duration = Duration::from_millis(500);

/// What is done to a request, by two throws of the dice: to one in five, and of creates to four in ten, of which
/// half meet a shortage. Some looks do not know of new instances.
fn harm(whether: u64, which: u64, seen: &Seen) -> Option<(&'static str, Harm)> {
    let (creates, looks) = (calls(seen, "RunInstances"), calls(seen, "DescribeInstances"));
    if whether % 10 >= if creates { 4 } else { 2 } {
        return None;
    }
    if creates && which.is_multiple_of(2) {
        return Some(match which % 3 {
            0 => (
                "no capacity",
                refusal(
                    500,
                    "InsufficientInstanceCapacity",
                    "We currently do not have sufficient t3.small capacity",
                ),
            ),
            1 => {
                ("no address", refusal(400, "InsufficientFreeAddressesInSubnet", "Not enough free addresses"))
            }
            _ => (
                "quota",
                refusal(400, "VcpuLimitExceeded", "You have requested more vCPU capacity than your limit"),
            ),
        });
    }
    if looks && which.is_multiple_of(4) {
        return Some(("not known yet", nothing()));
    }
    Some(match which % 9 {
        0 => ("lost reply", Harm::LoseReply),
        1 => ("reply cut in two", Harm::Cut),
        2 => ("connection closed", Harm::Refuse),
        3 => ("late request", Harm::Delay(Duration::from_secs(13))),
        4 => ("slow request", Harm::Delay(Duration::from_millis(200))),
        5 => ("throttled", refusal(503, "RequestLimitExceeded", "Request limit exceeded.")),
        6 => ("internal error", refusal(500, "InternalError", "An internal error has occurred")),
        7 => (
            "unavailable",
            refusal(503, "Unavailable", "The service is unavailable. Please try again shortly."),
        ),
        _ => ("502 of a proxy", Harm::Answer { status: 502, body: Bytes::from_static(b"<html>") }),
    })
}

/// An answer that knows of no instance.
fn nothing() -> Harm {
    let body = "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>\
                <reservationSet/></DescribeInstancesResponse>";
    Harm::Answer { status: 200, body: Bytes::from_static(body.as_bytes()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_twice_and_none_left() {
    let Some(peer) = Peer::find() else { return };
    let own = Guarded::start(&peer, &[]);
    let peer = own.instead_of(peer);
    let (name, dice) = (deployment(), Mutex::new(SeededRandom::new(6)));
    let actions: Arc<Mutex<BTreeMap<&str, u32>>> = Arc::default();
    let counted = Arc::clone(&actions);
    let proxy = Proxy::before(&peer.url, move |seen| {
        for action in ["RunInstances", "DescribeInstances", "TerminateInstances"] {
            if calls(seen, action) {
                *counted.lock().unwrap().entry(action).or_default() += 1;
            }
        }
        let dice = dice.lock().unwrap();
        harm(dice.next_u64() >> 8, dice.next_u64() >> 8, seen)
    })
    .await;
    let mut settings = Peer::settings(&proxy.url);
    settings["timeout"] = json!("12s");
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(connect(&settings).await);
    }
    let owner = owner(&name, "key");
    let began = SystemClock.now();

    let made: Vec<(Instance, usize)> = stream::iter(0..INSTANCES)
        .map(|number| make(&replicas[number % REPLICAS], &proxy, &peer, &owner, number))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    // With nothing in between: each instance that was told of is there, once, and no other.
    let direct = peer.backend().await;
    let mut told: Vec<&InstanceId> = made.iter().map(|(instance, _)| &instance.id).collect();
    told.sort();
    let there = direct.list(&owner).await.unwrap();
    let mut living: Vec<&InstanceId> = there
        .iter()
        .filter(|instance| instance.state != InstanceState::Gone)
        .map(|instance| &instance.id)
        .collect();
    living.sort();
    assert_eq!((told.len(), &told), (INSTANCES, &living), "not what was told of is there");
    assert_eq!(peer.living(&name).len(), INSTANCES, "the foreign client counts otherwise");

    stream::iter(made.iter().enumerate())
        .map(|(number, (instance, _))| remove(&replicas[number % REPLICAS], &instance.id))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<()>>()
        .await;
    let left = peer.look(&name);
    let ended = |one: &Value| one["state"] == "terminated";
    assert!(left["instances"].as_array().unwrap().iter().all(ended), "instances are left");
    assert_eq!(left["volumes"], json!([]), "volumes are left");

    let counts = proxy.counts();
    let runners: usize = made.iter().map(|(_, runners)| runners).sum();
    let total: u32 = counts.values().sum();
    println!("{INSTANCES} instances of {runners} runners, {total} calls: {counts:?}");
    println!("calls: {:?}, {:.2} an instance", actions.lock().unwrap(), f64::from(total) / 500.0);
    println!("in {:.0} s", SystemClock.now().duration_since(began).as_secs_f64());
    assert_eq!(actions.lock().unwrap()["RunInstances"], u32::try_from(runners).unwrap(), "one call a runner");
    assert_eq!(counts.len(), 14, "a kind never happened");
    assert!(counts.values().all(|count| *count >= 20), "a kind happened too seldom: {counts:?}");
    let share = f64::from(total - counts[UNHARMED]) / f64::from(total);
    assert!((0.2..0.3).contains(&share), "{share} of the calls were harmed");
}

/// One instance, as the manager has one made: a runner is tried once, after an unclear outcome it is only looked for, and
/// what failed is replaced by another runner. How many it took is told too.
async fn make(
    backend: &Arc<dyn Backend>,
    proxy: &Proxy,
    peer: &Peer,
    owner: &Owner,
    number: usize,
) -> (Instance, usize) {
    for runner in 0..TRIES {
        let name = format!("{}-linux-{number}x{runner}", owner.deployment);
        let spec = spec(owner.clone(), &name, &peer.good());
        match backend.create(&spec).await {
            Ok(instance) => {
                until_it_runs(backend, &instance.id).await;
                return (instance, runner + 1);
            }
            Err(error) if error.kind == BackendErrorKind::Unclear => {
                if let Some(instance) = looked_for(backend, proxy, &spec.runner).await {
                    return (instance, runner + 1);
                }
            }
            // It was not made: what is told so and is there after all fails the test at its end.
            Err(_) => {}
        }
    }
    panic!("instance {number} could not be made");
}

async fn until_it_runs(backend: &Arc<dyn Backend>, id: &InstanceId) {
    for _ in 0..TRIES {
        let told = sure(async || backend.get(id).await).await;
        if told.is_some_and(|told| told.state == InstanceState::Running) {
            return;
        }
        SystemClock.sleep(PAUSE).await;
    }
    panic!("{id} does not run");
}

/// Absent counts when it was seen several times: a look that begins too early may not know.
async fn looked_for(backend: &Arc<dyn Backend>, proxy: &Proxy, name: &RunnerName) -> Option<Instance> {
    proxy.settled(name.as_str()).await;
    for _ in 0..5 {
        if let Some(instance) = sure(async || backend.find(name).await).await {
            return Some(instance);
        }
    }
    None
}

/// As the manager removes one.
async fn remove(backend: &Arc<dyn Backend>, id: &InstanceId) {
    for _ in 0..TRIES {
        sure(async || backend.delete(id).await).await;
        for _ in 0..5 {
            let told = sure(async || backend.get(id).await).await;
            if told.is_some_and(|told| told.state == InstanceState::Gone) {
                return;
            }
            SystemClock.sleep(PAUSE).await;
        }
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
