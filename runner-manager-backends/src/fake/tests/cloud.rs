//! The cloud under every fault that it knows, and what its books then say.

use std::sync::Arc;
use std::time::Duration;

use runner_manager_core::backend::{Backend, BackendErrorKind, BackendKind, ConnectContext};
use runner_manager_core::clock::{Clock, timeout};
use runner_manager_core::domain::{BackendName, InstanceState};
use runner_manager_core::retry::Retry;
use serde_json::json;

use super::super::{Behaviour, Ending, FakeKind, Fault, Operation, Rule};
use super::{Lab, owner, placement, spec};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn every_kind_of_error_is_told_as_it_was_injected_and_has_no_effect() {
    let lab = Lab::new(Behaviour::default());
    for kind in [
        BackendErrorKind::NotFound,
        BackendErrorKind::NoCapacity,
        BackendErrorKind::QuotaExceeded,
        BackendErrorKind::RateLimited,
        BackendErrorKind::Unauthenticated,
        BackendErrorKind::PermissionDenied,
        BackendErrorKind::InvalidConfig,
        BackendErrorKind::Unsupported,
        BackendErrorKind::Unavailable,
        BackendErrorKind::Unclear,
        BackendErrorKind::Unexpected,
    ] {
        let fault = Fault::Error { kind, retry_after: Some(seconds(7)) };
        lab.cloud.lock().unwrap().inject(Operation::Create, Some(fault));
        let error = lab.backend.create(&spec("acme-linux-1")).await.unwrap_err();
        assert_eq!((error.kind, error.retry), (kind, Retry::After(seconds(7))));
        assert_eq!(
            lab.cloud.lock().unwrap().books(lab.clock.now()).faults[&format!("create: error {kind}")],
            1
        );
    }
    assert_eq!(lab.backend.list(&owner("key")).await.unwrap(), []);
}

#[tokio::test]
async fn a_lost_reply_has_its_effect() {
    let lab = Lab::new(Behaviour::default());
    lab.cloud.lock().unwrap().inject(Operation::Create, Some(Fault::LostReply));
    let error = lab.backend.create(&spec("acme-linux-1")).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unclear);
    assert!(lab.backend.find(&spec("acme-linux-1").runner).await.unwrap().is_some());
}

#[tokio::test]
async fn a_call_without_an_answer_can_be_given_up() {
    let lab = Lab::new(Behaviour::default());
    lab.cloud.lock().unwrap().inject(Operation::Create, Some(Fault::NoAnswer(seconds(600))));
    let spec = spec("acme-linux-1");
    let call = timeout(lab.clock.as_ref(), seconds(60), lab.backend.create(&spec));
    let (outcome, ()) = tokio::join!(call, async {
        while lab.clock.next_wake().is_none() {
            tokio::task::yield_now().await;
        }
        lab.pass(60);
    });
    assert!(outcome.is_err(), "the call was answered");
    assert!(lab.backend.find(&spec.runner).await.unwrap().is_some());
}

#[tokio::test]
async fn a_late_create_appears_later() {
    let lab = Lab::new(Behaviour::default());
    lab.cloud.lock().unwrap().inject(Operation::Create, Some(Fault::Late(seconds(20))));
    assert_eq!(lab.backend.create(&spec("acme-linux-1")).await.unwrap_err().kind, BackendErrorKind::Unclear);
    assert_eq!(lab.backend.find(&spec("acme-linux-1").runner).await.unwrap(), None);
    assert_eq!(lab.cloud.lock().unwrap().next_due(), Some(lab.clock.now() + seconds(20)));
    lab.pass(20);
    assert!(lab.backend.find(&spec("acme-linux-1").runner).await.unwrap().is_some());
}

#[tokio::test]
async fn instances_die_in_every_way() {
    let lab = Lab::new(Behaviour { boot_time: seconds(10), ..Behaviour::default() });
    let ways = [
        (Ending::Stopped, "stopped"),
        (Ending::Vanished, "none"),
        (Ending::NoCapacity, "NoCapacity"),
        (Ending::QuotaExceeded, "QuotaExceeded"),
        (Ending::Reclaimed, "Reclaimed"),
        (Ending::Failed, "Other"),
    ];
    for (at, (how, expected)) in ways.iter().enumerate() {
        let fault = Fault::Dies { after: seconds(5), how: *how };
        lab.cloud.lock().unwrap().inject(Operation::Create, Some(fault));
        let made = lab.backend.create(&spec(&format!("acme-linux-{at}"))).await.unwrap();
        assert_eq!(made.state, InstanceState::Pending);
        lab.pass(5);
        let told = lab.backend.get(&made.id).await.unwrap().map(|told| told.state);
        let told = match told {
            None => "none".to_owned(),
            Some(InstanceState::Failed(kind, _)) => format!("{kind:?}"),
            Some(state) => state.to_string(),
        };
        assert_eq!(told, *expected, "{how}");
    }
    lab.pass(60);
    let now = lab.clock.now();
    let mut cloud = lab.cloud.lock().unwrap();
    assert!(cloud.take_started(now).is_empty(), "an instance that died before it ran was started");
    assert_eq!(cloud.books(now).total.alive, 5, "those that stopped or failed are still there");
    assert!(cloud.books(now).lives.iter().all(|life| life.ended.is_some()));
}

#[tokio::test]
async fn a_stale_list_shows_what_was() {
    let lab = Lab::new(Behaviour { page_size: 1, ..Behaviour::default() });
    for name in ["acme-linux-1", "acme-linux-2"] {
        lab.backend.create(&spec(name)).await.unwrap();
    }
    lab.pass(10);
    for instance in lab.backend.list(&owner("key")).await.unwrap() {
        lab.backend.delete(&instance.id).await.unwrap();
    }
    lab.backend.create(&spec("acme-linux-3")).await.unwrap();
    lab.cloud.lock().unwrap().inject(Operation::List, Some(Fault::Stale(seconds(5))));
    let stale = lab.backend.list(&owner("key")).await.unwrap();
    let names: Vec<&str> = stale.iter().map(|instance| instance.runner.as_str()).collect();
    assert_eq!(names, ["acme-linux-1", "acme-linux-2"], "all pages are as old as the first");
    assert_eq!(lab.backend.list(&owner("key")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn room_and_quota_are_limits() {
    let zones = [("zone-a".to_owned(), Some(1)), ("zone-b".to_owned(), None)].into();
    let lab = Lab::new(Behaviour { zones, quota: Some(2), ..Behaviour::default() });
    let first = lab.backend.create(&spec("acme-linux-1")).await.unwrap();
    let full = lab.backend.create(&spec("acme-linux-2")).await.unwrap_err();
    assert_eq!(full.kind, BackendErrorKind::NoCapacity);
    let mut elsewhere = spec("acme-linux-3");
    elsewhere.placement = placement("zone-b");
    lab.backend.create(&elsewhere).await.unwrap();
    elsewhere.runner = spec("acme-linux-4").runner;
    let quota = lab.backend.create(&elsewhere).await.unwrap_err();
    assert_eq!(quota.kind, BackendErrorKind::QuotaExceeded);
    lab.backend.delete(&first.id).await.unwrap();
    lab.backend.create(&elsewhere).await.unwrap();
}

#[tokio::test]
async fn the_books_know_doubles_repeats_and_the_most_alive() {
    let lab = Lab::new(Behaviour { unique_names: false, ..Behaviour::default() });
    let runner = spec("acme-linux-1").runner;
    let one = lab.backend.create(&spec("acme-linux-1")).await.unwrap();
    let two = lab.backend.create(&spec("acme-linux-1")).await.unwrap();
    assert_ne!(one.id, two.id);
    lab.pass(10);
    lab.backend.delete(&one.id).await.unwrap();
    let found = lab.backend.find(&runner).await.unwrap().unwrap();
    assert_eq!(found.id, two.id, "find prefers the one that is there");

    let now = lab.clock.now();
    let books = lab.cloud.lock().unwrap().books(now).clone();
    assert_eq!((books.doubles[&runner], books.repeats[&runner]), (1, 1));
    assert_eq!((books.total.alive, books.total.max_alive), (1, 2));
    assert_eq!(books.alive(&spec("acme-linux-1").group), 1);
    assert_eq!(books.lives.iter().filter(|life| life.alive_at(now)).count(), 1);
    assert_eq!(books.calls(Operation::Create), 2);
    let text = serde_json::to_string(&books).unwrap();
    assert_eq!(serde_json::from_str::<super::super::Books>(&text).unwrap(), books);
}

#[tokio::test]
async fn an_agent_hears_of_its_start_once_and_of_its_death() {
    let lab = Lab::new(Behaviour { boot_time: seconds(10), ..Behaviour::default() });
    let made = lab.backend.create(&spec("acme-linux-1")).await.unwrap();
    let started = |lab: &Lab| lab.cloud.lock().unwrap().take_started(lab.clock.now());
    assert!(started(&lab).is_empty());
    lab.pass(10);
    let heard = started(&lab);
    assert_eq!((heard.len(), &heard[0].id), (1, &made.id));
    assert!(!format!("{heard:?}").contains("a-jit-config"));
    assert!(started(&lab).is_empty());
    let stopped = |lab: &Lab| lab.cloud.lock().unwrap().take_stopped(lab.clock.now());
    assert!(lab.cloud.lock().unwrap().is_running(&made.id, lab.clock.now()));
    assert!(stopped(&lab).is_empty());
    lab.backend.delete(&made.id).await.unwrap();
    assert!(!lab.cloud.lock().unwrap().is_running(&made.id, lab.clock.now()));
    assert_eq!(stopped(&lab), [made.id]);
    assert!(stopped(&lab).is_empty());
    let powered_off = lab.backend.create(&spec("acme-linux-2")).await.unwrap();
    lab.pass(10);
    lab.backend.instance_ended(&powered_off.id).await.unwrap();
    assert_eq!(stopped(&lab), [powered_off.id]);
    let never_ran = lab.backend.create(&spec("acme-linux-3")).await.unwrap();
    lab.backend.delete(&never_ran.id).await.unwrap();
    assert!(stopped(&lab).is_empty());
}

#[tokio::test]
async fn chances_are_the_same_for_the_same_seed() {
    let run = |seed| async move {
        let rule = Rule { operation: Operation::Create, chance: 0.3, fault: Fault::LostReply };
        let lab = Lab::new(Behaviour { seed, faults: vec![rule], ..Behaviour::default() });
        let mut outcomes = Vec::new();
        for at in 0..100 {
            outcomes.push(lab.backend.create(&spec(&format!("acme-linux-{at}"))).await.is_ok());
        }
        outcomes
    };
    let (one, same, other) = (run(1).await, run(1).await, run(2).await);
    assert_eq!(one, same);
    assert_ne!(one, other);
    let lost = one.iter().filter(|ok| !**ok).count();
    assert!((15..45).contains(&lost), "{lost} of 100 at a chance of 0.3");
}

#[tokio::test]
async fn the_kind_gives_the_cloud_that_it_connects_to() {
    let lab = Lab::new(Behaviour::default());
    let kind = FakeKind::new();
    let name = BackendName::new("local").unwrap();
    let context = ConnectContext { name: name.clone(), clock: lab.clock.clone() };
    let settings = json!({"behaviour": {"unique_names": false, "settle": "5s"}});
    let backend = kind.connect(&settings, context).await.unwrap();
    assert_eq!((backend.capabilities().unique_names, backend.capabilities().settle), (false, seconds(5)));
    backend.create(&spec("acme-linux-1")).await.unwrap();
    let cloud = Arc::clone(&kind.cloud(&name));
    assert_eq!(cloud.lock().unwrap().books(lab.clock.now()).total.alive, 1);
}
