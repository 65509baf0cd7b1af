//! Three hundred instances on the fake, with a proxy before it that does harm to one request in five: none is there twice,
//! and none is left.

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

use super::peer::{Call, Peer, ZONES, name};
use super::played::refusal;
use super::{connect, owner, spec};
use crate::testing::fault_proxy::{Harm, Proxy, Seen, UNHARMED};

const INSTANCES: usize = 300;

/// How many are worked on at once.
const AT_ONCE: usize = 30;

/// How many backends share the work, as replicas would.
const REPLICAS: usize = 3;

/// Tries of one thing before it counts as impossible.
const TRIES: usize = 200;

/// How long between two looks at one instance.
const PAUSE: Duration = Duration::from_millis(300);

/// What Compute does by itself: of requests for instances, some are accepted and come to nothing.
fn rules() -> Value {
    let rule =
        |method: &str, fault: &str, chance: f64| json!({"method": method, "fault": fault, "chance": chance});
    json!([
        rule("instances.insert", "exhausted", 0.1),
        rule("instances.insert", "operation_quota", 0.1),
        rule("instances.insert", "operation_fails", 0.1),
        rule("instances.insert", "slow", 0.2),
        rule("instances.delete", "operation_fails", 0.1),
    ])
}

/// What is done to a request, by two throws of the dice: to one in five; of requests for instances, which are few, to
/// two in five, and half of those meet a quota.
fn harm(whether: u64, which: u64, seen: &Seen) -> Option<(&'static str, Harm)> {
    let creates = Call::of(seen) == Call::Insert;
    if whether % 5 > u64::from(creates) {
        return None;
    }
    if creates && which.is_multiple_of(2) {
        return Some(("quota", refusal(403, "quotaExceeded", "Quota 'INSTANCES' exceeded.")));
    }
    Some(match which % 11 {
        0 => ("lost reply", Harm::LoseReply),
        1 => ("reply cut in two", Harm::Cut),
        2 => ("connection closed", Harm::Refuse),
        3 => ("late request", Harm::Delay(Duration::from_millis(4500))),
        4 => ("slow request", Harm::Delay(Duration::from_millis(200))),
        5 => ("rate limit", refusal(403, "rateLimitExceeded", "Rate Limit Exceeded")),
        6 => ("internal error", refusal(500, "internalError", "Internal error.")),
        7 => ("unavailable", refusal(503, "backendError", "Backend Error")),
        8 => ("502 of a proxy", Harm::Answer { status: 502, body: Bytes::from_static(b"<html>") }),
        9 => ("token refused", refusal(401, "authError", "Invalid Credentials")),
        _ => ("held reply", Harm::HoldReply(Duration::from_millis(4500))),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_twice_and_none_left() {
    let settings = json!({"faults": rules(), "slow_seconds": 4.5, "quota": {}});
    let Some(peer) = Peer::find(settings).await else { return };
    let (name, dice) = (name(), Mutex::new(SeededRandom::new(6)));
    let calls: Arc<Mutex<BTreeMap<Call, u32>>> = Arc::default();
    let counted = Arc::clone(&calls);
    let proxy = Proxy::before(&peer.url, move |seen| {
        *counted.lock().unwrap().entry(Call::of(seen)).or_default() += 1;
        let dice = dice.lock().unwrap();
        harm(dice.next_u64() >> 8, dice.next_u64() >> 8, seen)
    })
    .await;
    let mut settings = peer.settings(&proxy.url);
    settings["timeout"] = json!("4s");
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(connect(&settings).await);
    }
    let owner = owner(&name, "key");
    let began = SystemClock.now();

    let made: Vec<(Instance, usize)> = stream::iter(0..INSTANCES)
        .map(|number| make(&replicas[number % REPLICAS], &proxy, &owner, number))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    // With nothing in between: each instance that was told of is there, once, and no other.
    let mut told: Vec<&InstanceId> = made.iter().map(|(instance, _)| &instance.id).collect();
    told.sort();
    let there = peer.backend().await.list(&owner).await.unwrap();
    let mut living: Vec<&InstanceId> = there.iter().map(|instance| &instance.id).collect();
    living.sort();
    assert_eq!((told.len(), &told), (INSTANCES, &living), "not what was told of is there");
    assert_eq!(peer.look(&name).len(), INSTANCES, "the foreign client counts otherwise");

    stream::iter(made.iter().enumerate())
        .map(|(number, (instance, _))| remove(&replicas[number % REPLICAS], &instance.id))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<()>>()
        .await;
    assert_eq!(peer.look(&name), Vec::<Value>::new(), "instances are left");

    let (counts, fired) = (proxy.counts(), peer.books().await["fired"].clone());
    let runners: usize = made.iter().map(|(_, runners)| runners).sum();
    let total: u32 = counts.values().sum();
    println!("{INSTANCES} instances of {runners} runners, {total} calls: {counts:?}, {fired}");
    println!(
        "calls: {:?}, in {:.0} s",
        calls.lock().unwrap(),
        SystemClock.now().duration_since(began).as_secs_f64()
    );
    assert_eq!(calls.lock().unwrap()[&Call::Insert], u32::try_from(runners).unwrap(), "one request a runner");
    assert_eq!(counts.len(), 13, "a kind never happened");
    assert!(counts.values().all(|count| *count >= 20), "a kind happened too seldom: {counts:?}");
    let fired = fired.as_object().unwrap();
    assert_eq!(fired.len(), 5, "a kind of Compute's own never happened");
    assert!(fired.values().all(|count| count.as_u64() >= Some(20)), "a kind happened too seldom: {fired:?}");
    let share = f64::from(total - counts[UNHARMED]) / f64::from(total);
    assert!((0.18..0.28).contains(&share), "{share} of the calls were harmed");
}

/// One instance, as the manager has one made: a runner is tried once, after an unclear outcome it is only looked for, and
/// what failed is replaced by another runner. How many it took is told too.
async fn make(backend: &Arc<dyn Backend>, proxy: &Proxy, owner: &Owner, number: usize) -> (Instance, usize) {
    for runner in 0..TRIES {
        let name = format!("{}-linux-{number}x{runner}", owner.deployment);
        let mut good = Peer::good();
        good["zones"] = json!(ZONES[(number + runner) % ZONES.len()]);
        let spec = spec(owner.clone(), &name, &good);
        let made = match backend.create(&spec).await {
            Ok(instance) => Some(instance),
            Err(error) if error.kind == BackendErrorKind::Unclear => {
                looked_for(backend, proxy, &spec.runner).await
            }
            // It was not made: what is told so and is there after all fails the test at its end.
            Err(_) => None,
        };
        if let Some(instance) = made
            && runs(backend, &instance.id).await
        {
            return (instance, runner + 1);
        }
    }
    panic!("instance {number} could not be made");
}

/// Whether an instance comes to run. One that failed after it was accepted is removed, as the manager does.
async fn runs(backend: &Arc<dyn Backend>, id: &InstanceId) -> bool {
    for _ in 0..TRIES {
        match sure(async || backend.get(id).await).await.map(|told| told.state) {
            Some(InstanceState::Running) => return true,
            Some(InstanceState::Pending) => SystemClock.sleep(PAUSE).await,
            _ => {
                remove(backend, id).await;
                return false;
            }
        }
    }
    panic!("{id} does not run");
}

/// Absent counts after the longest that an accepted request takes until it is seen.
async fn looked_for(backend: &Arc<dyn Backend>, proxy: &Proxy, name: &RunnerName) -> Option<Instance> {
    proxy.settled(name.as_str()).await;
    for _ in 0..3 {
        if let Some(instance) = sure(async || backend.find(name).await).await {
            return Some(instance);
        }
        SystemClock.sleep(PAUSE).await;
    }
    None
}

/// As the manager removes one.
async fn remove(backend: &Arc<dyn Backend>, id: &InstanceId) {
    for _ in 0..TRIES {
        sure(async || backend.delete(id).await).await;
        for _ in 0..5 {
            if sure(async || backend.get(id).await).await.is_none() {
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
