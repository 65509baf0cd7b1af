//! Bugs on purpose: each must be found, or a real one of its kind would not be.

use runner_manager_core::flaws::{Flaw, turn_on};

use super::plan::Plan;
use super::run::run;
use super::seeds::run_all;
use super::shared::Promise;

/// Within how many seeds each must be found.
const SEEDS: u64 = 500;

/// Runs seeds with a bug until one breaks a promise; tells which seed, and what was broken.
#[track_caller]
fn is_found(flaw: Flaw, expected: &[Promise]) {
    let tally = run_all(0..SEEDS, |seed| {
        turn_on(Some(flaw));
        let outcome = run(Plan::of(seed), false);
        turn_on(None);
        outcome
    });
    let Some((seed, violation)) = tally.failed else { panic!("{flaw:?} is not found within {SEEDS} seeds") };
    println!("{flaw:?} is found by seed {seed}: {violation}");
    assert!(
        expected.contains(&violation.promise),
        "{flaw:?} breaks another promise than expected: {violation}"
    );
}

#[test]
fn no_fencing_is_found() {
    is_found(Flaw::NoFencing, &[Promise::NothingLost]);
}

#[test]
fn to_compare_versions_only_is_found() {
    is_found(Flaw::CompareVersionsOnly, &[Promise::NothingLost]);
}

#[test]
fn to_acknowledge_before_acting_is_found() {
    is_found(Flaw::AckBeforeActing, &[Promise::NothingLost]);
}

#[test]
fn to_retire_on_one_reading_is_found() {
    is_found(Flaw::RetireOnOneReading, &[Promise::RunningJobs]);
}

#[test]
fn to_count_and_then_create_is_found() {
    is_found(Flaw::CountThenCreate, &[Promise::Max]);
}

#[test]
fn to_free_the_slot_on_a_time_out_is_found() {
    is_found(Flaw::FreeTheSlotOnTimeOut, &[Promise::Max]);
}

#[test]
fn to_list_before_reading_is_found() {
    is_found(Flaw::ListBeforeReading, &[Promise::Max]);
}

#[test]
fn to_collapse_to_the_later_time_is_found() {
    is_found(Flaw::CollapseToTheLater, &[Promise::EveryJob]);
}

#[test]
fn to_fall_over_when_unclear_is_found() {
    // The second call is made under the leave of the first.
    is_found(Flaw::FallOverWhenUnclear, &[Promise::OneInstance, Promise::Limits]);
}

#[test]
fn to_mend_what_is_well_is_found() {
    is_found(Flaw::MendWhatIsWell, &[Promise::Limits]);
}

#[test]
fn to_forget_redeliveries_is_found() {
    is_found(Flaw::ForgetRedeliveries, &[Promise::Limits]);
}
