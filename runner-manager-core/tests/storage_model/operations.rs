//! What a sequence is made of, and how sequences are made up.
//!
//! An operation names what it works on by small numbers, so that much of it meets, and what was given before
//! by how long ago that was. So any part of a sequence is a sequence, and one that fails can be made shorter.

use std::time::Duration;

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use runner_manager_core::queue::Priority;

/// Which version a change expects.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect {
    /// That of the record, or none where there is no record.
    Right,
    /// None.
    Absent,
    /// One that the record had before.
    Stale,
    /// One that no record ever had.
    Foreign,
}

/// A claim, by how many came after it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Claim {
    /// Of those that are held.
    Held(usize),
    /// Of all there ever were.
    Any(usize),
}

/// One change of a write.
#[derive(Debug, Clone)]
pub(crate) enum Changes {
    PutGroup { group: usize, max: u32, drains: bool, expect: Expect },
    RemoveGroup { group: usize, expect: Expect },
    Reserve { runner: usize, kind: usize },
    Adopt { runner: usize, kind: usize, phase: usize },
    PutRunner { runner: usize, kind: usize, moves: bool, phase: usize, expect: Expect },
    EndRunner { runner: usize, expect: Expect },
    PutJob { job: usize, state: usize, expect: Expect },
    PutHook { hook: usize, read: u64, expect: Expect },
    RemoveHook { hook: usize, expect: Expect },
    PutDeployment { revision: u64, expect: Expect },
    Trust { is_right: bool },
}

/// A task to be queued, this much later than now or earlier.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    pub(crate) task: usize,
    pub(crate) seconds: Option<i64>,
    pub(crate) priority: Priority,
}

/// One operation. A claim, permit or write of before is named by how many came after it.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Apply {
        repeats: Option<usize>,
        claim: Option<Claim>,
        ends_claim: bool,
        on_trust: bool,
        changes: Vec<Changes>,
        tasks: Vec<Push>,
    },
    Push(Vec<Push>),
    Claim {
        lane: usize,
        most: usize,
        bound: usize,
        lease: Duration,
    },
    /// Claims, and lets the lease run out.
    ClaimAndLose {
        lane: usize,
        most: usize,
        bound: usize,
    },
    Extend {
        claim: Claim,
        lease: Duration,
    },
    Ack(Claim),
    Release(Claim),
    Retry {
        claim: Claim,
        seconds: i64,
    },
    Bury(Claim),
    /// One of the dead tasks or, where there are not so many, one that may not be dead.
    Revive(usize),
    /// Several calls like each other.
    Take {
        call: usize,
        calls: usize,
        lease: Duration,
    },
    GiveBack(usize),
    Pause {
        budget: usize,
        seconds: i64,
    },
    ListRunners {
        filter: usize,
        after: Option<usize>,
        limit: usize,
    },
    ListJobs {
        filter: usize,
        after: Option<usize>,
        limit: usize,
    },
    Pass(Duration),
    /// Begins the process anew that has the storage for itself.
    Reopen,
    /// Notes what there is, for a loss later.
    Remember,
    /// Loses what came after the last note, or all where there is none.
    Lose,
}

/// Which times a sequence may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// Any: the clock is simulated, and times often meet.
    Any,
    /// Past, or too far ahead to come: the time is real, and nobody knows how much of it passes.
    ClearCut,
}

const HOUR: Duration = Duration::from_hours(1);

/// Times from now on.
fn seconds(times: Times) -> impl Strategy<Value = i64> {
    match times {
        Times::Any => prop_oneof![Just(-5), Just(0), Just(1), Just(5), Just(20)].boxed(),
        Times::ClearCut => prop_oneof![4 => Just(-5), 1 => Just(3600), 1 => Just(7200)].boxed(),
    }
}

fn duration(times: Times) -> impl Strategy<Value = Duration> {
    match times {
        Times::Any => prop_oneof![1 => Just(1), 1 => Just(5), 3 => Just(20), 2 => Just(60)]
            .prop_map(Duration::from_secs)
            .boxed(),
        Times::ClearCut => Just(HOUR).boxed(),
    }
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        24 => Just(Expect::Right),
        1 => Just(Expect::Absent),
        1 => Just(Expect::Stale),
        1 => Just(Expect::Foreign),
    ]
}

fn change() -> impl Strategy<Value = Changes> {
    let runner = || 0..6_usize;
    let kind = || 0..6_usize;
    prop_oneof![
        2 => (0..3_usize, 1..3_u32, prop::bool::weighted(0.2), expect())
            .prop_map(|(group, max, drains, expect)| Changes::PutGroup { group, max, drains, expect }),
        1 => (0..3_usize, expect()).prop_map(|(group, expect)| Changes::RemoveGroup { group, expect }),
        8 => (runner(), kind()).prop_map(|(runner, kind)| Changes::Reserve { runner, kind }),
        1 => (runner(), kind(), 0..6_usize)
            .prop_map(|(runner, kind, phase)| Changes::Adopt { runner, kind, phase }),
        4 => (runner(), kind(), prop::bool::weighted(0.1), 0..6_usize, expect()).prop_map(
            |(runner, kind, moves, phase, expect)| Changes::PutRunner { runner, kind, moves, phase, expect }
        ),
        2 => (runner(), expect()).prop_map(|(runner, expect)| Changes::EndRunner { runner, expect }),
        5 => (0..6_usize, 0..9_usize, expect())
            .prop_map(|(job, state, expect)| Changes::PutJob { job, state, expect }),
        2 => (0..4_usize, any::<u64>(), expect())
            .prop_map(|(hook, read, expect)| Changes::PutHook { hook, read, expect }),
        1 => (0..4_usize, expect()).prop_map(|(hook, expect)| Changes::RemoveHook { hook, expect }),
        1 => (any::<u64>(), expect())
            .prop_map(|(revision, expect)| Changes::PutDeployment { revision, expect }),
        2 => prop::bool::weighted(0.8).prop_map(|is_right| Changes::Trust { is_right }),
    ]
}

fn push(times: Times) -> impl Strategy<Value = Push> {
    let priority = prop_oneof![
        1 => Just(Priority::Low),
        3 => Just(Priority::Normal),
        1 => Just(Priority::High),
    ];
    (0..8_usize, prop::option::weighted(0.4, seconds(times)), priority)
        .prop_map(|(task, seconds, priority)| Push { task, seconds, priority })
}

fn apply(times: Times) -> impl Strategy<Value = Operation> {
    (
        prop::option::weighted(0.15, 0..5_usize),
        prop::option::weighted(0.3, claim()),
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::collection::vec(change(), 0..4),
        prop::collection::vec(push(times), 0..3),
    )
        .prop_map(|(repeats, claim, ends_claim, on_trust, changes, tasks)| Operation::Apply {
            repeats,
            claim,
            ends_claim,
            on_trust,
            changes,
            tasks,
        })
}

/// Mostly one that is held.
fn claim() -> impl Strategy<Value = Claim> {
    prop_oneof![6 => (0..3_usize).prop_map(Claim::Held), 1 => (0..5_usize).prop_map(Claim::Any)]
}

fn queue(times: Times) -> impl Strategy<Value = Operation> {
    let lane = || prop_oneof![4 => Just(0_usize), 2 => Just(1), 1 => Just(2)];
    let most = || 1..4_usize;
    let bound = || prop_oneof![3 => Just(usize::MAX), 1 => 0..2_usize, 4 => 2..5_usize];
    prop_oneof![
        6 => prop::collection::vec(push(times), 1..4).prop_map(Operation::Push),
        10 => (lane(), most(), bound(), duration(times))
            .prop_map(|(lane, most, bound, lease)| Operation::Claim { lane, most, bound, lease }),
        1 => (lane(), most(), bound())
            .prop_map(|(lane, most, bound)| Operation::ClaimAndLose { lane, most, bound }),
        2 => (claim(), duration(times)).prop_map(|(claim, lease)| Operation::Extend { claim, lease }),
        3 => claim().prop_map(Operation::Ack),
        2 => claim().prop_map(Operation::Release),
        5 => (claim(), seconds(times)).prop_map(|(claim, seconds)| Operation::Retry { claim, seconds }),
        9 => claim().prop_map(Operation::Bury),
        12 => prop_oneof![4 => 0..2_usize, 1 => 0..8_usize].prop_map(Operation::Revive),
    ]
}

fn budget(times: Times) -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0..7_usize, 1..4_usize, duration(times))
            .prop_map(|(call, calls, lease)| Operation::Take { call, calls, lease }),
        2 => (0..4_usize).prop_map(Operation::GiveBack),
        3 => (0..4_usize, seconds(times)).prop_map(|(budget, seconds)| Operation::Pause { budget, seconds }),
    ]
}

fn list() -> impl Strategy<Value = Operation> {
    let after = |most| prop::option::of(0..most);
    prop_oneof![
        2 => (0..28_usize, after(6_usize), 0..4_usize)
            .prop_map(|(filter, after, limit)| Operation::ListRunners { filter, after, limit }),
        1 => (0..5_usize, after(6_usize), 0..4_usize)
            .prop_map(|(filter, after, limit)| Operation::ListJobs { filter, after, limit }),
    ]
}

/// Lets time pass: on a real clock as little as makes no difference.
fn pass(times: Times) -> impl Strategy<Value = Operation> {
    match times {
        Times::Any => prop_oneof![3 => Just(1_u64), 2 => Just(5), 1 => Just(20), 1 => 0..60_u64]
            .prop_map(|seconds| Operation::Pass(Duration::from_secs(seconds)))
            .boxed(),
        Times::ClearCut => Just(Operation::Pass(Duration::from_millis(1))).boxed(),
    }
}

fn trouble() -> impl Strategy<Value = Operation> {
    prop_oneof![Just(Operation::Reopen), Just(Operation::Remember), Just(Operation::Lose)]
}

/// A sequence of at most so many operations.
pub(crate) fn sequence(times: Times, length: usize) -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        20 => apply(times),
        30 => queue(times),
        8 => budget(times),
        4 => list(),
        5 => pass(times),
        2 => trouble(),
    ];
    prop::collection::vec(operation, 1..=length)
}
