//! The table of a runner's life, and what must hold whatever happens.

mod machine;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::{
    Event, InstanceReading, MachineWord, Next, RegistrationReading, Wake, relies_on_the_store, step, wake,
};
use crate::domain::{
    BackendName, Boot, CreateStep, GitHubRunnerId, GroupName, InstanceFailure, InstanceId, InstanceState,
    JobId, JobRef, Leaving, Limits, Machine, OperationId, PlacementKey, RetireReason, RetireStep, Runner,
    RunnerName, RunnerState, Scope, later,
};
use crate::policy::samples::at;

const SETTLE: Duration = Duration::from_secs(30);
const LAG: Duration = Duration::from_secs(5);

fn job(id: u64) -> JobRef {
    JobRef { id: JobId(id), repository: "acme/app".parse().unwrap() }
}

fn runner(state: RunnerState) -> Runner {
    Runner {
        name: RunnerName::new("acme-linux-1").unwrap(),
        group: GroupName::new("linux").unwrap(),
        scope: Scope::organization("acme").unwrap(),
        backend: BackendName::new("cloud").unwrap(),
        placement: PlacementKey::unknown(),
        requested_at: at(0),
        since: at(0),
        registration: None,
        online_at: Some(at(0)),
        instance: Some(InstanceId::new("i-1")),
        named_at: Some(at(0)),
        missing_since: Some(at(0)),
        presumed: None,
        trouble: None,
        machine: Machine::default(),
        state,
    }
}

fn limits() -> Limits {
    Limits { max_job_time: Some(Duration::from_hours(1)), ..Limits::default() }
}

fn leaving(reason: RetireReason, not_busy_at: Option<Timestamp>) -> RunnerState {
    RunnerState::Idle { leaving: Some(Leaving { reason, not_busy_at, asked_until: None }) }
}

fn asked_to_leave(until: i64) -> RunnerState {
    let asked_until = Some(at(until));
    RunnerState::Idle {
        leaving: Some(Leaving { reason: RetireReason::Surplus, not_busy_at: None, asked_until }),
    }
}

fn retiring(why: RetireReason, retire: RetireStep) -> RunnerState {
    RunnerState::Retiring { why, retire }
}

/// Every state, with the data that matters.
fn states() -> Vec<RunnerState> {
    let asked = |unclear_since| CreateStep::Asked { at: at(0), unclear_since };
    vec![
        RunnerState::Requested,
        RunnerState::Creating { create: CreateStep::Registering },
        RunnerState::Creating { create: asked(None) },
        RunnerState::Creating { create: asked(Some(at(0))) },
        RunnerState::Booting,
        RunnerState::Idle { leaving: None },
        asked_to_leave(300),
        leaving(RetireReason::Surplus, None),
        leaving(RetireReason::Surplus, Some(at(120))),
        RunnerState::Busy { job: None },
        RunnerState::Busy { job: Some(job(1)) },
        retiring(RetireReason::Surplus, RetireStep::Deregister),
        retiring(RetireReason::Surplus, RetireStep::Grace { until: at(60) }),
        retiring(RetireReason::InstanceStopped, RetireStep::Delete),
        retiring(RetireReason::InstanceStopped, RetireStep::Confirm),
        retiring(RetireReason::Orphan, RetireStep::Suspect { since: at(0) }),
    ]
}

/// Every event, with the data that matters; readings were begun at `now`.
fn events(now: Timestamp) -> Vec<(&'static str, Event)> {
    let instance = |reading| Event::Instance { reading, begun: now };
    let present = |state| instance(InstanceReading::Present { id: InstanceId::new("i-1"), state });
    let registration = |reading| Event::Registration { reading, begun: now };
    let registered = |online, busy| registration(RegistrationReading::Present { online, busy });
    let detail = || "no".to_owned();
    let call = || OperationId::new("a call");
    vec![
        ("started", Event::Started),
        ("started, to call back", Event::StartedToCallBack),
        ("registered", Event::Registered { id: GitHubRunnerId(7) }),
        ("registration failed", Event::RegistrationFailed { detail: detail(), of_group: true }),
        ("created", Event::Created { id: InstanceId::new("i-1") }),
        (
            "create failed",
            Event::CreateFailed { kind: InstanceFailure::NoCapacity, detail: detail(), retry_after: None },
        ),
        ("create unclear", Event::CreateUnclear { detail: detail() }),
        ("instance absent", instance(InstanceReading::Absent { settle: SETTLE, lag: LAG })),
        ("instance running", present(InstanceState::Running)),
        ("instance stopped", present(InstanceState::Stopped)),
        ("instance failed", present(InstanceState::Failed(InstanceFailure::Other, detail()))),
        ("instance gone", present(InstanceState::Gone)),
        ("GitHub unknown", registration(RegistrationReading::Unknown)),
        ("GitHub absent", registration(RegistrationReading::Absent)),
        ("GitHub offline", registered(false, false)),
        ("GitHub idle", registered(true, false)),
        ("GitHub busy", registered(true, true)),
        ("job 1 started", Event::JobStarted { job: job(1) }),
        ("job signalled", Event::JobSignalled { presumed: None, said: None }),
        ("job 1 completed", Event::JobCompleted { job: job(1) }),
        ("job 2 completed", Event::JobCompleted { job: job(2) }),
        ("unneeded", Event::Unneeded),
        ("needed", Event::Needed),
        ("operator", Event::OperatorRetire { force: false }),
        ("operator, forced", Event::OperatorRetire { force: true }),
        ("tick", Event::Tick),
        ("deregistered", Event::Deregistered),
        ("deregister refused", Event::DeregisterRefused),
        ("delete accepted", Event::DeleteAccepted),
        ("troubled", Event::Troubled { detail: detail() }),
        ("machine speaks", Event::Machine(MachineWord::Said { what: "began".to_owned() })),
        ("machine listens", Event::Machine(MachineWord::Listens)),
        ("machine asks", Event::Machine(MachineWord::ConfigAsked { boot: Boot::of("a"), by: call() })),
        ("machine is given", Event::Machine(MachineWord::ConfigMade { by: call(), id: GitHubRunnerId(7) })),
        ("machine gets none", Event::Machine(MachineWord::ConfigLost { by: call() })),
        ("machine ends", Event::Machine(MachineWord::Ends { failed: false, detail: detail() })),
        ("evidence lost", Event::EvidenceLost),
    ]
}

fn label(state: &RunnerState) -> String {
    match state {
        RunnerState::Requested => "Requested".to_owned(),
        RunnerState::Creating { create: CreateStep::Registering } => "Creating, registering".to_owned(),
        RunnerState::Creating { create: CreateStep::Asked { unclear_since: None, .. } } => {
            "Creating, asked".to_owned()
        }
        RunnerState::Creating { create: CreateStep::Asked { unclear_since: Some(_), .. } } => {
            "Creating, unclear".to_owned()
        }
        RunnerState::Booting => "Booting".to_owned(),
        RunnerState::Idle { leaving: None } => "Idle".to_owned(),
        RunnerState::Idle { leaving: Some(Leaving { not_busy_at: None, asked_until: Some(_), .. }) } => {
            "Idle, to go, asked".to_owned()
        }
        RunnerState::Idle { leaving: Some(Leaving { not_busy_at: None, .. }) } => "Idle, to go".to_owned(),
        RunnerState::Idle { leaving: Some(Leaving { not_busy_at: Some(_), .. }) } => {
            "Idle, to go, one reading".to_owned()
        }
        RunnerState::Busy { job: None } => "Busy, job unknown".to_owned(),
        RunnerState::Busy { job: Some(job) } => format!("Busy with job {}", job.id),
        RunnerState::Retiring { retire, .. } => match retire {
            RetireStep::Deregister => "Retiring, deregister".to_owned(),
            RetireStep::Grace { .. } => "Retiring, grace".to_owned(),
            RetireStep::Delete => "Retiring, delete".to_owned(),
            RetireStep::Confirm => "Retiring, confirm".to_owned(),
            RetireStep::Suspect { .. } => "Retiring, suspect".to_owned(),
        },
    }
}

/// The life-cycle table as it stands in ARCHITECTURE.md. All deadlines are over, all readings are late
/// enough to count.
fn table() -> String {
    let now = at(86_400);
    let mut text = String::from("| state | what happens | what follows |\n| --- | --- | --- |\n");
    for state in states() {
        let mut rows: Vec<(String, Vec<&str>)> = Vec::new();
        for (name, event) in events(now) {
            let before = runner(state.clone());
            let next = match step(&before, &event, &limits(), now) {
                Next::Unchanged => continue,
                Next::Changed(after) if after.state == state => continue,
                Next::Changed(after) => label(&after.state),
                Next::Ended { .. } => "gone".to_owned(),
            };
            match rows.iter_mut().find(|(known, _)| *known == next) {
                Some((_, names)) => names.push(name),
                None => rows.push((next, vec![name])),
            }
        }
        for (next, names) in rows {
            writeln!(text, "| {} | {} | {next} |", label(&state), names.join("; ")).unwrap();
        }
    }
    text
}

#[test]
fn the_table_in_the_architecture_is_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- life-cycle: begin -->\n", "<!-- life-cycle: end -->");
    let shown =
        page.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).map(|(table, _)| table.trim());
    if shown != Some(table().trim()) {
        if std::env::var_os("UPDATE_ARCHITECTURE").is_some() {
            let (before, rest) = page.split_once(begin).unwrap();
            let (_, after) = rest.split_once(end).unwrap();
            std::fs::write(path, format!("{before}{begin}\n{}\n{end}{after}", table())).unwrap();
            return;
        }
        panic!("the life-cycle table is out of date; UPDATE_ARCHITECTURE=1 writes this one:\n\n{}", table());
    }
}

/// Promise 1: what a busy runner's retirement may come from.
fn may_end_a_busy_runner(event: &Event) -> bool {
    match event {
        Event::JobCompleted { .. } | Event::OperatorRetire { force: true } | Event::Tick => true,
        Event::Instance { reading, .. } => match reading {
            InstanceReading::Absent { .. } => true,
            InstanceReading::Present { state, .. } => {
                !matches!(state, InstanceState::Pending | InstanceState::Running)
            }
        },
        Event::Started
        | Event::StartedToCallBack
        | Event::Machine(_)
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Registration { .. }
        | Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::OperatorRetire { force: false }
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::EvidenceLost => false,
    }
}

fn is_busy(runner: &Runner) -> bool {
    matches!(runner.state, RunnerState::Busy { .. })
}

fn advance(runner: &mut Runner, event: &Event, now: Timestamp) -> Option<RetireReason> {
    match step(runner, event, &limits(), now) {
        Next::Unchanged => None,
        Next::Changed(after) => {
            *runner = *after;
            None
        }
        Next::Ended { why } => Some(why),
    }
}

fn fresh() -> Runner {
    let mut fresh = runner(RunnerState::Requested);
    (fresh.online_at, fresh.instance, fresh.named_at, fresh.missing_since) = (None, None, None, None);
    fresh
}

#[test]
fn the_usual_life() {
    let mut runner = fresh();
    let life = [
        (Event::Started, "Creating, registering"),
        (Event::Registered { id: GitHubRunnerId(7) }, "Creating, asked"),
        (Event::Created { id: InstanceId::new("i-1") }, "Booting"),
        (Event::JobStarted { job: job(1) }, "Busy with job 1"),
        (Event::JobCompleted { job: job(1) }, "Retiring, delete"),
        (Event::DeleteAccepted, "Retiring, confirm"),
    ];
    for (event, expected) in life {
        assert_eq!(advance(&mut runner, &event, at(1)), None);
        assert_eq!(label(&runner.state), expected);
    }
    assert_eq!(runner.registration, Some(GitHubRunnerId(7)));
    let absent =
        Event::Instance { reading: InstanceReading::Absent { settle: SETTLE, lag: LAG }, begun: at(6) };
    assert_eq!(advance(&mut runner, &absent, at(6)), Some(RetireReason::JobCompleted { job: job(1) }));
}

#[test]
fn an_idle_runner_goes_only_after_two_readings_apart() {
    let reading = |second| Event::Registration {
        reading: RegistrationReading::Present { online: true, busy: false },
        begun: at(second),
    };
    let unknown = |second| Event::Registration { reading: RegistrationReading::Unknown, begun: at(second) };
    let mut runner = runner(RunnerState::Idle { leaving: None });
    let script = [
        (Event::Unneeded, 10, "Idle, to go"),
        (reading(119), 119, "Idle, to go"),
        (reading(120), 120, "Idle, to go, one reading"),
        (reading(179), 179, "Idle, to go, one reading"),
        (unknown(179), 179, "Idle, to go"),
        (reading(200), 200, "Idle, to go, one reading"),
        (reading(260), 260, "Retiring, deregister"),
        (Event::Deregistered, 261, "Retiring, grace"),
        (Event::Tick, 262, "Retiring, grace"),
        (Event::Tick, 291, "Retiring, delete"),
    ];
    for (event, second, expected) in script {
        assert_eq!(advance(&mut runner, &event, at(second)), None);
        assert_eq!(label(&runner.state), expected, "after {event:?} at {second}");
    }
}

#[test]
fn any_sign_of_a_job_keeps_a_runner_that_is_on_its_way_out() {
    for retire in [RetireStep::Deregister, RetireStep::Grace { until: at(60) }] {
        for sign in [
            Event::JobStarted { job: job(1) },
            Event::JobSignalled { presumed: None, said: None },
            Event::Registration {
                reading: RegistrationReading::Present { online: true, busy: true },
                begun: at(1),
            },
        ] {
            let mut runner = runner(retiring(RetireReason::Surplus, retire));
            assert_eq!(advance(&mut runner, &sign, at(1)), None);
            assert!(is_busy(&runner), "{retire:?} {sign:?}");
        }
    }
    let mut refused = runner(retiring(RetireReason::Surplus, RetireStep::Deregister));
    advance(&mut refused, &Event::DeregisterRefused, at(1));
    assert!(is_busy(&refused));
}

#[test]
fn an_unclear_create_ends_only_in_readings_begun_after_the_settle_time() {
    let asked = CreateStep::Asked { at: at(0), unclear_since: Some(at(10)) };
    let mut runner = runner(RunnerState::Creating { create: asked });
    let absent = |second| Event::Instance {
        reading: InstanceReading::Absent { settle: SETTLE, lag: LAG },
        begun: at(second),
    };
    assert_eq!(advance(&mut runner, &absent(39), at(100)), None);
    assert_eq!(label(&runner.state), "Creating, unclear");
    assert_eq!(advance(&mut runner, &absent(40), at(100)), None);
    assert_eq!(label(&runner.state), "Retiring, deregister");
    assert_eq!(advance(&mut runner, &Event::Deregistered, at(101)), Some(RetireReason::NeverCreated));
}

#[test]
fn a_deleted_instance_frees_its_slot_only_in_looks_begun_after_the_lag() {
    for retire in [RetireStep::Delete, RetireStep::Confirm] {
        let mut runner = runner(retiring(RetireReason::JobCompleted { job: job(1) }, retire));
        runner.named_at = Some(at(10));
        let absent = |second| Event::Instance {
            reading: InstanceReading::Absent { settle: SETTLE, lag: LAG },
            begun: at(second),
        };
        assert_eq!(advance(&mut runner, &absent(14), at(100)), None);
        assert!(advance(&mut runner, &absent(15), at(100)).is_some());
    }
}

#[test]
fn one_hole_in_a_listing_costs_nobody_a_machine() {
    let mut runner = runner(RunnerState::Busy { job: Some(job(1)) });
    runner.missing_since = None;
    let absent = |second| Event::Instance {
        reading: InstanceReading::Absent { settle: SETTLE, lag: LAG },
        begun: at(second),
    };
    let running = Event::Instance {
        reading: InstanceReading::Present { id: InstanceId::new("i-1"), state: InstanceState::Running },
        begun: at(150),
    };
    for (event, second) in [(absent(100), 100), (absent(129), 129), (running, 150), (absent(160), 160)] {
        advance(&mut runner, &event, at(second));
        assert!(is_busy(&runner), "after {event:?}");
    }
    assert_eq!(advance(&mut runner, &absent(190), at(190)), Some(RetireReason::InstanceGone));
}

/// Brings a runner to its end by the one event that each state waits for, and the time that it names.
fn drive_to_the_end(mut runner: Runner, mut now: Timestamp) -> Result<(), String> {
    for _ in 0..1_000 {
        let due = wake(&runner, &limits(), now);
        match due {
            Some(Wake::Provision(at) | Wake::Retire(at)) => now = at.max(now),
            Some(Wake::Held) => now = later(now, Duration::from_secs(5)),
            None => return Err(format!("{} waits for nothing", label(&runner.state))),
        }
        let absent =
            Event::Instance { reading: InstanceReading::Absent { settle: SETTLE, lag: LAG }, begun: now };
        let quiet = Event::Registration { reading: RegistrationReading::Absent, begun: now };
        let answers = match &runner.state {
            RunnerState::Requested => vec![Event::Started],
            RunnerState::Creating { .. } => {
                vec![Event::CreateUnclear { detail: "lost".to_owned() }, absent, Event::Tick]
            }
            RunnerState::Booting | RunnerState::Busy { .. } => vec![Event::Tick],
            RunnerState::Idle { .. } => vec![Event::Tick, quiet],
            RunnerState::Retiring { retire, .. } => match retire {
                RetireStep::Deregister => vec![Event::Deregistered],
                RetireStep::Grace { .. } => vec![Event::Tick],
                RetireStep::Delete => vec![Event::DeleteAccepted],
                RetireStep::Confirm => vec![absent],
                RetireStep::Suspect { .. } => vec![quiet],
            },
        };
        for event in answers {
            if advance(&mut runner, &event, now).is_some() {
                return Ok(());
            }
        }
    }
    Err(format!("{} does not end", label(&runner.state)))
}

#[test]
fn every_state_reaches_its_end_by_its_deadlines_alone() {
    for state in states() {
        drive_to_the_end(runner(state), at(200)).unwrap();
    }
}

#[test]
fn every_state_is_reached() {
    let mut seen = BTreeSet::new();
    let mut frontier =
        vec![fresh(), runner(retiring(RetireReason::Orphan, RetireStep::Suspect { since: at(0) }))];
    while let Some(runner) = frontier.pop() {
        if !seen.insert((label(&runner.state), runner.machine.ended_at.is_some())) {
            continue;
        }
        for second in [0, 130, 86_400] {
            for (_, event) in events(at(second)) {
                let mut next = runner.clone();
                if advance(&mut next, &event, at(second)).is_none() {
                    frontier.push(next);
                }
            }
        }
    }
    let missing: Vec<_> =
        states().iter().map(label).filter(|state| !seen.iter().any(|(label, _)| label == state)).collect();
    assert!(missing.is_empty(), "never reached: {missing:?}");
}

proptest! {
    #[test]
    fn a_busy_runner_is_never_retired_without_a_reason(script in proptest::collection::vec((any::<u16>(), 0..300_i64), 1..60)) {
        let mut runner = fresh();
        let mut now = at(0);
        for (pick, pause) in script {
            now = later(now, Duration::from_secs(pause.unsigned_abs()));
            let all = events(now);
            let (_, event) = &all[usize::from(pick) % all.len()];
            let before = runner.clone();
            let ended = advance(&mut runner, event, now);
            if is_busy(&before) {
                let stays = ended.is_none() && is_busy(&runner);
                prop_assert!(stays || may_end_a_busy_runner(event), "{event:?}");
            }
            if ended.is_some() {
                break;
            }
        }
    }

    #[test]
    fn a_repeated_event_changes_nothing_more(
        pick in any::<u16>(), state in any::<u16>(), second in 0..100_000_i64,
    ) {
        let all = events(at(second));
        let (name, event) = &all[usize::from(pick) % all.len()];
        let all_states = states();
        let mut once = runner(all_states[usize::from(state) % all_states.len()].clone());
        if advance(&mut once, event, at(second)).is_none() {
            let mut twice = once.clone();
            let ended = advance(&mut twice, event, at(second));
            // What GitHub and backends are known to tell twice.
            let repeatable = matches!(
                *name,
                "registered" | "created" | "create unclear" | "instance running" | "GitHub unknown" | "GitHub busy"
                    | "job 1 started" | "job signalled" | "job 1 completed" | "job 2 completed" | "unneeded" | "needed"
            );
            if repeatable {
                prop_assert!(ended.is_none());
                prop_assert_eq!(once.state, twice.state, "{} repeated", name);
            }
        }
    }

    #[test]
    fn job_events_reach_the_same_end_in_any_order(order in 0..6_usize, doubled: bool) {
        let mut events = vec![
            Event::Created { id: InstanceId::new("i-1") },
            Event::JobStarted { job: job(1) },
            Event::JobCompleted { job: job(1) },
        ];
        events.rotate_left(order % 3);
        if order >= 3 { events.swap(0, 1); }
        if doubled { events.extend(events.clone()); }
        let mut runner = runner(RunnerState::Creating { create: CreateStep::Asked { at: at(0), unclear_since: None } });
        for event in &events {
            prop_assert!(advance(&mut runner, event, at(1)).is_none());
        }
        prop_assert_eq!(label(&runner.state), "Retiring, delete");
    }

    #[test]
    fn whatever_happened_the_end_is_reached(script in proptest::collection::vec((any::<u16>(), 0..300_i64), 0..40)) {
        let mut runner = fresh();
        let mut now = at(0);
        for (pick, pause) in script {
            now = later(now, Duration::from_secs(pause.unsigned_abs()));
            let all = events(now);
            if advance(&mut runner, &all[usize::from(pick) % all.len()].1, now).is_some() {
                return Ok(());
            }
        }
        prop_assert_eq!(drive_to_the_end(runner, now), Ok(()));
    }
}

/// What rests on the store's word, of all that can follow from all: the whole list, so that what is added to
/// the table has to be thought of here.
#[test]
fn what_relies_on_the_store_is_making_and_taking_away() {
    let now = at(86_400);
    let mut relying = Vec::new();
    for state in states() {
        for (name, event) in events(now) {
            let next = step(&runner(state.clone()), &event, &limits(), now);
            if relies_on_the_store(&state, &next) {
                relying.push(format!("{}: {name}", label(&state)));
            }
        }
    }
    assert_eq!(
        relying,
        [
            "Requested: started",
            "Requested: started, to call back",
            "Requested: unneeded",
            "Requested: operator",
            "Creating, registering: registered",
            "Booting: tick",
            "Idle, to go, asked: machine ends",
            "Idle, to go: machine ends",
            "Idle, to go, one reading: GitHub absent",
            "Idle, to go, one reading: GitHub offline",
            "Idle, to go, one reading: GitHub idle",
            "Idle, to go, one reading: machine ends",
            "Retiring, deregister: deregistered",
            "Retiring, grace: tick",
            "Retiring, grace: machine ends",
            "Retiring, suspect: GitHub absent",
        ]
    );
}

#[test]
fn what_was_gathered_before_a_loss_counts_no_more() {
    let now = at(86_400);
    for (before, after) in [
        (leaving(RetireReason::Surplus, Some(at(120))), leaving(RetireReason::Surplus, None)),
        (
            retiring(RetireReason::Surplus, RetireStep::Grace { until: at(60) }),
            retiring(RetireReason::Surplus, RetireStep::Grace { until: later(now, limits().removal_grace) }),
        ),
        (
            retiring(RetireReason::Orphan, RetireStep::Suspect { since: at(0) }),
            retiring(RetireReason::Orphan, RetireStep::Suspect { since: now }),
        ),
        (RunnerState::Busy { job: None }, RunnerState::Busy { job: None }),
    ] {
        let mut runner = runner(before);
        assert_eq!(advance(&mut runner, &Event::EvidenceLost, now), None);
        assert_eq!((runner.state, runner.missing_since), (after, None));
    }
}
