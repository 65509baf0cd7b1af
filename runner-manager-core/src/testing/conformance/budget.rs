//! The suite of [`Budgets`](crate::budget::Budgets).

#![expect(clippy::unwrap_used, reason = "a case panics where the subject does not behave")]

use std::collections::BTreeSet;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::Case;
use super::storage::{StorageSubject, backend_name};
use crate::budget::{Bound, BudgetKey, Permission, Permit, Quota, Rate};
use crate::domain::later;

/// The cases, each named like the point of *Behaviour* that it tests.
pub fn cases() -> Vec<Case<StorageSubject>> {
    vec![
        Case::new("what_is_not_bounded_is_granted", what_is_not_bounded_is_granted),
        Case::new("calls_under_way_are_bounded", calls_under_way_are_bounded),
        Case::new("a_permit_runs_out", a_permit_runs_out),
        Case::new("a_rate_holds_in_any_period", a_rate_holds_in_any_period),
        Case::new("each_keeps_to_its_own_rate", each_keeps_to_its_own_rate),
        Case::new("a_wait_is_long_enough", a_wait_is_long_enough),
        Case::new("a_pause_holds_for_all", a_pause_holds_for_all),
        Case::new("budgets_are_apart", budgets_are_apart),
        Case::new(
            "a_call_counts_for_all_of_its_bounds_or_for_none",
            a_call_counts_for_all_of_its_bounds_or_for_none,
        ),
    ]
}

const UNBOUNDED: Quota = Quota { concurrent: None, rate: None };

const fn at_a_time(calls: u32) -> Quota {
    Quota { concurrent: Some(calls), rate: None }
}

fn in_any(on: &StorageSubject, units: u32, calls: u32) -> Quota {
    Quota { concurrent: None, rate: Some(Rate { calls, per: on.unit * units }) }
}

fn github() -> BudgetKey {
    BudgetKey::github("acme")
}

fn within(key: BudgetKey, quota: Quota) -> Bound {
    Bound { key, quota }
}

/// Asks for a call that may be under way for 50 units.
async fn take(on: &StorageSubject, quota: &Quota) -> Permission {
    take_within(on, &[within(github(), *quota)]).await
}

async fn take_within(on: &StorageSubject, bounds: &[Bound]) -> Permission {
    on.budgets.take(bounds, on.unit * 50).await.unwrap()
}

async fn granted(on: &StorageSubject, quota: &Quota) -> Permit {
    match take(on, quota).await {
        Permission::Granted(permit) => permit,
        Permission::Wait { until, .. } => panic!("has to wait until {until}, and it is {}", on.now().await),
    }
}

/// Asks for a call that must not be granted, and tells when it is worth another try.
async fn refused(on: &StorageSubject, quota: &Quota) -> Timestamp {
    let before = on.now().await;
    match take(on, quota).await {
        Permission::Granted(permit) => panic!("{permit:?} was granted"),
        Permission::Wait { until, .. } => {
            assert!(until > before, "told to wait until {until}, when it was {before}");
            until
        }
    }
}

/// How many of so many concurrent calls are granted.
async fn granted_of(on: &StorageSubject, calls: usize, quota: &Quota) -> Vec<Permit> {
    let answers = join_all((0..calls).map(|_| take(on, quota))).await;
    let granted = answers.into_iter().filter_map(|answer| match answer {
        Permission::Granted(permit) => Some(permit),
        Permission::Wait { .. } => None,
    });
    granted.collect()
}

/// Lets the time pass until a time that was told.
async fn pass_until(on: &StorageSubject, until: Timestamp) {
    let left = until.duration_since(on.now().await);
    on.time.pass(left.try_into().unwrap_or_default()).await;
}

async fn what_is_not_bounded_is_granted(on: StorageSubject) {
    let permits = granted_of(&on, 100, &UNBOUNDED).await;
    assert_eq!(permits.len(), 100);
    assert!(permits.iter().all(|permit| permit.keys.is_empty()), "nobody counts what is under way");
    on.budgets.give_back(&permits[0]).await.unwrap();
    granted(&on, &UNBOUNDED).await;
}

async fn calls_under_way_are_bounded(on: StorageSubject) {
    let quota = at_a_time(5);
    let permits = granted_of(&on, 20, &quota).await;
    let numbers: BTreeSet<u64> = permits.iter().map(|permit| permit.number).collect();
    assert_eq!((permits.len(), numbers.len()), (5, 5), "each call has a permit of its own");
    assert!(permits.iter().all(|permit| permit.keys == [github()]));
    refused(&on, &quota).await;
    for permit in &permits[..2] {
        on.budgets.give_back(permit).await.unwrap();
        let another = granted(&on, &quota).await;
        refused(&on, &quota).await;
        on.budgets.give_back(permit).await.unwrap();
        refused(&on, &quota).await;
        assert!(!permits.contains(&another), "no permit is given twice");
    }
    let both = Quota { concurrent: Some(6), ..in_any(&on, 20, 1) };
    let permit = granted(&on, &both).await;
    refused(&on, &both).await;
    on.budgets.give_back(&permit).await.unwrap();
    refused(&on, &both).await;
    assert_eq!(
        granted_of(&on, 9, &at_a_time(6)).await.len(),
        1,
        "the rate refused it, so nothing is under way"
    );
}

async fn a_permit_runs_out(on: StorageSubject) {
    let quota = at_a_time(1);
    let short = on.budgets.take(&[within(github(), quota)], on.unit * 5).await.unwrap();
    let Permission::Granted(lost) = short else {
        panic!("nothing is under way");
    };
    on.pass(2).await;
    refused(&on, &quota).await;
    on.pass(4).await;
    granted(&on, &quota).await;
    on.budgets.give_back(&lost).await.unwrap();
    refused(&on, &quota).await;
}

async fn a_rate_holds_in_any_period(on: StorageSubject) {
    let quota = in_any(&on, 10, 3);
    granted(&on, &quota).await;
    on.pass(6).await;
    assert_eq!(granted_of(&on, 9, &quota).await.len(), 2);
    on.pass(2).await;
    refused(&on, &quota).await;
    // The first call is out of the period that ends now, the other two are in it.
    on.pass(3).await;
    assert_eq!(granted_of(&on, 9, &quota).await.len(), 1);
    on.pass(6).await;
    let permits = granted_of(&on, 9, &quota).await;
    assert_eq!(permits.len(), 2, "the second and the third are out of it, too");
    for permit in permits {
        on.budgets.give_back(&permit).await.unwrap();
    }
    refused(&on, &quota).await;
    holds_from_call_to_call(&on).await;
}

/// Calls made as soon as they are granted are as many as the rate allows, and never more.
async fn holds_from_call_to_call(on: &StorageSubject) {
    const CALLS: usize = 4;
    let key = BudgetKey::github("other");
    let (quota, per) = (in_any(on, 4, 4), on.unit * 4);
    let mut calls: Vec<(Timestamp, Timestamp)> = Vec::new();
    while calls.len() < 3 * CALLS + 1 {
        let before = on.now().await;
        match on.budgets.take(&[within(key.clone(), quota)], on.unit).await.unwrap() {
            Permission::Granted(_) => calls.push((before, on.now().await)),
            Permission::Wait { until, .. } => pass_until(on, until).await,
        }
        // So that the calls are not all of one moment.
        on.time.pass(on.unit / 4).await;
    }
    // Each was granted some time between the two that were looked up.
    for (first, next) in calls.iter().zip(&calls[CALLS..]) {
        assert!(next.1 >= later(first.0, per), "{CALLS} calls and one more within {per:?}: {calls:?}");
    }
    let (begun, ended) = (calls[0].0, calls[3 * CALLS].1);
    assert!(ended < later(begun, per * 5), "as many are granted as may be: {calls:?}");
}

async fn each_keeps_to_its_own_rate(on: StorageSubject) {
    let (brief, long) = (in_any(&on, 2, 1), in_any(&on, 30, 4));
    granted(&on, &long).await;
    for _ in 0..3 {
        on.pass(3).await;
        granted(&on, &brief).await;
        refused(&on, &brief).await;
    }
    on.pass(3).await;
    // Four within the long period, of which the brief one knows no more.
    let until = refused(&on, &long).await;
    granted(&on, &brief).await;
    pass_until(&on, until).await;
    // The first is out of it, and one was begun since.
    let until = refused(&on, &long).await;
    pass_until(&on, until).await;
    granted(&on, &long).await;
    refused(&on, &brief).await;
    on.pass(3).await;
    granted(&on, &brief).await;
}

async fn a_wait_is_long_enough(on: StorageSubject) {
    let quota = in_any(&on, 6, 2);
    granted(&on, &quota).await;
    on.pass(2).await;
    granted(&on, &quota).await;
    for _ in 0..3 {
        let until = refused(&on, &quota).await;
        assert!(until <= on.in_units(6).await, "no period is longer");
        pass_until(&on, until).await;
        granted(&on, &quota).await;
    }
    for units in [1, 9] {
        on.budgets.pause(&github(), on.in_units(units).await).await.unwrap();
        let until = refused(&on, &quota).await;
        pass_until(&on, until).await;
        granted(&on, &quota).await;
    }
}

async fn a_pause_holds_for_all(on: StorageSubject) {
    let until = on.in_units(6).await;
    on.budgets.pause(&github(), until).await.unwrap();
    on.budgets.pause(&github(), on.in_units(1).await).await.unwrap();
    for _ in 0..2 {
        for quota in [UNBOUNDED, at_a_time(5), in_any(&on, 1, 5)] {
            assert!(refused(&on, &quota).await >= until);
        }
        assert!(granted_of(&on, 9, &UNBOUNDED).await.is_empty());
        on.pass(2).await;
    }
    on.pass(3).await;
    granted(&on, &UNBOUNDED).await;
    on.budgets.pause(&github(), Timestamp::UNIX_EPOCH).await.unwrap();
    granted(&on, &UNBOUNDED).await;
    let until = on.in_units(3).await;
    on.budgets.pause(&github(), on.in_units(1).await).await.unwrap();
    on.budgets.pause(&github(), until).await.unwrap();
    assert!(refused(&on, &UNBOUNDED).await >= until, "the longer one holds");
}

async fn budgets_are_apart(on: StorageSubject) {
    let quota = Quota { concurrent: Some(1), ..in_any(&on, 50, 1) };
    granted(&on, &quota).await;
    refused(&on, &quota).await;
    let others =
        [BudgetKey::backend(&backend_name("acme")), BudgetKey::github("acme-2"), BudgetKey::github("")];
    for key in &others {
        let answer = take_within(&on, &[within(key.clone(), quota)]).await;
        assert!(matches!(answer, Permission::Granted(_)), "{key} is another budget");
    }
    on.budgets.pause(&others[0], on.in_units(50).await).await.unwrap();
    let answer = take_within(&on, &[within(BudgetKey::github("acme-3"), UNBOUNDED)]).await;
    assert!(matches!(answer, Permission::Granted(_)), "nobody paused that one");
}

async fn a_call_counts_for_all_of_its_bounds_or_for_none(on: StorageSubject) {
    let part = github().part("registrations");
    let call = [within(github(), at_a_time(2)), within(part.clone(), in_any(&on, 50, 1))];
    let Permission::Granted(permit) = take_within(&on, &call).await else { panic!("both allow it") };
    assert_eq!(permit.keys, [github()], "only that one counts what is under way");
    // The second call has to wait for the rate, and is not under way then.
    for _ in 0..3 {
        let Permission::Wait { until, bound } = take_within(&on, &call).await else { panic!("one a period") };
        assert!(until > on.now().await);
        assert_eq!(bound, 1);
    }
    granted(&on, &at_a_time(2)).await;
    refused(&on, &at_a_time(2)).await;
    // Where both keep it, it is told of the one that does for longer.
    on.budgets.give_back(&permit).await.unwrap();
    let far = on.in_units(200).await;
    on.budgets.pause(&github(), far).await.unwrap();
    let Permission::Wait { until, bound } = take_within(&on, &call).await else { panic!("it is paused") };
    assert!(until >= far && bound == 0, "{bound} until {until}");
    // A pause of one of several that nothing else bounds.
    let unbounded = [within(part, UNBOUNDED), within(github(), UNBOUNDED)];
    let Permission::Wait { until, bound } = take_within(&on, &unbounded).await else {
        panic!("it is paused")
    };
    assert!(until >= far && bound == 1, "{bound} until {until}");
}
