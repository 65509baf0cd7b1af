//! Three hundred machines on vcsim, with a proxy in between that does harm to one request in five: none is there
//! twice, and none is left.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use runner_manager_core::backend::{Backend, BackendError, BackendErrorKind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{Instance, InstanceId, Owner, RunnerName};
use runner_manager_core::random::{Random, SeededRandom};
use serde_json::{Value, json};

use super::vcsim::{Vcsim, deployment, good};
use super::{connect, owner, spec};
use crate::testing::fault_proxy::{Harm, Proxy, UNHARMED};

const MACHINES: usize = 300;

/// How many are worked on at once.
const AT_ONCE: usize = 32;

/// Tries of one thing before it counts as impossible.
const TRIES: usize = 200;

/// How long vcsim may work on a clone that it was asked for.
const SETTLE: Duration = Duration::from_secs(1);

/// A fault as vCenter writes it.
pub(super) fn fault(kind: &str, detail: &str) -> Harm {
    let body = format!(
        "<soapenv:Envelope xmlns:soapenv=\"e\" xmlns:xsi=\"i\"><soapenv:Body><soapenv:Fault>\
         <faultcode>ServerFaultCode</faultcode><faultstring>injected</faultstring>\
         <detail><{kind}Fault xsi:type=\"{kind}\">{detail}</{kind}Fault></detail>\
         </soapenv:Fault></soapenv:Body></soapenv:Envelope>"
    );
    Harm::Answer { status: 500, body: Bytes::from(body) }
}

/// What is done to a request, by two throws of the dice.
fn harm(one_in_five: u64, which: u64) -> Option<(&'static str, Harm)> {
    if !one_in_five.is_multiple_of(5) {
        return None;
    }
    let harm = match which % 10 {
        0 => ("lost reply", Harm::LoseReply),
        1 => ("reply cut in two", Harm::Cut),
        2 => ("refused connection", Harm::Refuse),
        3 => ("late request", Harm::Delay(Duration::from_millis(2300))),
        4 => ("slow request", Harm::Delay(Duration::from_millis(200))),
        5 => ("503 while starting", Harm::Answer { status: 503, body: Bytes::from_static(b"starting") }),
        6 => ("502 of a proxy", Harm::Answer { status: 502, body: Bytes::from_static(b"<html>") }),
        7 => ("session forgotten", fault("NotAuthenticated", "")),
        8 => ("no capacity", fault("InsufficientResourcesFault", "")),
        _ => ("system error", fault("SystemError", "<reason>x</reason>")),
    };
    Some(harm)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_twice_and_none_left() {
    let Some(vcsim) = Vcsim::find() else { return };
    let (name, dice) = (deployment(), Mutex::new(SeededRandom::new(8)));
    let proxy = Proxy::before(vcsim.origin(), move |_| {
        let dice = dice.lock().unwrap();
        harm(dice.next_u64() >> 8, dice.next_u64() >> 8)
    })
    .await;
    let harmed =
        connect(&format!("{}/sdk", proxy.url), &json!({"timeout": "2s", "clone_timeout": "30s"})).await;
    let owner = owner(&name, "key");
    let began = SystemClock.now();

    let made: Vec<(Instance, usize)> = stream::iter(0..MACHINES)
        .map(|number| make(&harmed, &proxy, &owner, number))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    // With nothing in between: each machine that was told of is there, once, and no other.
    let mut told: Vec<&InstanceId> = made.iter().map(|(instance, _)| &instance.id).collect();
    told.sort();
    let there = vcsim.backend().await.list(&owner).await.unwrap();
    let mut there: Vec<&InstanceId> = there.iter().map(|instance| &instance.id).collect();
    there.sort();
    assert_eq!((told.len(), &told), (MACHINES, &there), "not what was told of is there");
    assert_eq!(vcsim.look(&name).len(), MACHINES, "the foreign client counts otherwise");

    stream::iter(&made)
        .map(|(instance, _)| remove(&harmed, &instance.id))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<()>>()
        .await;
    assert_eq!(vcsim.look(&name), Vec::<Value>::new(), "machines are left");

    let counts = proxy.counts();
    let runners: usize = made.iter().map(|(_, runners)| runners).sum();
    let calls: u32 = counts.values().sum();
    println!("{MACHINES} machines of {runners} runners, {calls} calls: {counts:?}");
    println!("in {:.0} s", SystemClock.now().duration_since(began).as_secs_f64());
    assert_eq!(counts.len(), 11, "a kind never happened");
    assert!(counts.values().all(|count| *count >= 20), "a kind happened too seldom: {counts:?}");
    let share = f64::from(calls - counts[UNHARMED]) / f64::from(calls);
    assert!((0.17..0.23).contains(&share), "{share} of the calls were harmed");
}

/// One machine, as the manager has one made: a runner is tried once, after an unclear outcome it is only looked
/// for, and what failed is replaced by another runner. How many it took is told too.
async fn make(backend: &Arc<dyn Backend>, proxy: &Proxy, owner: &Owner, number: usize) -> (Instance, usize) {
    for runner in 0..TRIES {
        let name = format!("{}-linux-{number}x{runner}", owner.deployment);
        let spec = spec(owner.clone(), &name, &good());
        match backend.create(&spec).await {
            Ok(instance) => return (instance, runner + 1),
            Err(error) if error.kind == BackendErrorKind::Unclear => {
                if let Some(instance) = looked_for(backend, proxy, &spec.runner).await {
                    return (instance, runner + 1);
                }
            }
            // It was not made: what is told so and is there after all fails the test at its end.
            Err(_) => {}
        }
    }
    panic!("machine {number} could not be made");
}

async fn looked_for(backend: &Arc<dyn Backend>, proxy: &Proxy, name: &RunnerName) -> Option<Instance> {
    proxy.settled(name.as_str()).await;
    SystemClock.sleep(SETTLE).await;
    sure(async || backend.find(name).await).await
}

async fn remove(backend: &Arc<dyn Backend>, id: &InstanceId) {
    sure(async || backend.delete(id).await).await;
    assert_eq!(sure(async || backend.get(id).await).await, None, "{id} was deleted and is there");
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
