//! The records that sequences write, each by a small number.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::budget::{Bound, BudgetKey, Quota, Rate};
use runner_manager_core::domain::{
    Arch, BackendName, Bounds, Conclusion, ConnectionName, CreateStep, DeliveryId, Deployment, Digest, Doubt,
    EndedRunner, FailedDelivery, FoundHook, GitHubGroup, GroupName, HookPlace, HookRecord, Incarnation,
    JobId, JobState, Labels, Limits, Machine, Os, Phase, Placement, Redelivery, Replica, ReplicaId,
    RetireReason, RetireStep, RunId, Runner, RunnerGroup, RunnerName, RunnerState, Scope, Source,
    WorkflowJob, later,
};
use runner_manager_core::queue::{Lane, Task};
use runner_manager_core::store::{Draining, GroupRecord, JobFilter, RunnerFilter};

pub(crate) const GROUPS: usize = 3;
pub(crate) const RUNNERS: usize = 6;
pub(crate) const JOBS: usize = 6;
pub(crate) const HOOKS: usize = 4;

pub(crate) fn group_name(group: usize) -> GroupName {
    // One name is the beginning of another.
    GroupName::new(["a", "a-b", "b"][group]).unwrap()
}

pub(crate) fn runner_name(runner: usize) -> RunnerName {
    RunnerName::new(["r", "r-0", "r0", "r1", "s", "t"][runner]).unwrap()
}

pub(crate) fn job_id(job: usize) -> JobId {
    JobId([1, 2, 9, 10, 11, 100][job])
}

fn backend(backend: usize) -> BackendName {
    BackendName::new(["cloud", "cloud-2"][backend]).unwrap()
}

fn scope(scope: usize) -> Scope {
    match scope {
        0 => Scope::organization("acme").unwrap(),
        1 => Scope::organization("ACME").unwrap(),
        _ => Scope::Repository("acme/app".parse().unwrap()),
    }
}

fn placement() -> Placement {
    Placement::new(backend(0), "one place", serde_json::json!({ "zone": "a" }))
}

pub(crate) fn group(group: usize, max: u32, drains: bool) -> GroupRecord {
    let spec = RunnerGroup {
        name: group_name(group),
        scope: scope(0),
        github: ConnectionName::default(),
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::parse(["large"]).unwrap(),
        bounds: Bounds::new(0, max).unwrap(),
        priority: 0,
        order: 0,
        tags: BTreeMap::from([("cost \"center\"".to_owned(), "é\n".to_owned())]),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: vec![placement()],
    };
    let draining = drains.then_some(Draining::Operator);
    GroupRecord { spec, draining, placements: BTreeMap::new(), registration: None, github: None }
}

fn state(phase: usize, now: Timestamp) -> RunnerState {
    match Phase::ALL[phase] {
        Phase::Requested => RunnerState::Requested,
        Phase::Creating => {
            RunnerState::Creating { create: CreateStep::Asked { at: now, unclear_since: None } }
        }
        Phase::Booting => RunnerState::Booting,
        Phase::Idle => RunnerState::Idle { leaving: None },
        Phase::Busy => RunnerState::Busy { job: None },
        Phase::Retiring => RunnerState::Retiring { why: RetireReason::Surplus, retire: RetireStep::Delete },
    }
}

/// A runner of one of six kinds: they differ in group, backend, scope, and whether their phase is old.
pub(crate) fn runner(runner: usize, kind: usize, phase: usize, now: Timestamp) -> Runner {
    let long_ago = later(Timestamp::UNIX_EPOCH, Duration::from_hours(1));
    Runner {
        name: runner_name(runner),
        group: group_name([0, 0, 0, 1, 1, 2][kind]),
        scope: scope(kind % 3),
        backend: backend(kind % 2),
        placement: placement().key,
        requested_at: now,
        since: if kind < 4 { now } else { long_ago },
        registration: None,
        online_at: None,
        instance: None,
        named_at: None,
        missing_since: None,
        presumed: None,
        trouble: None,
        machine: Machine::default(),
        state: state(phase, now),
    }
}

pub(crate) fn ended(runner: &Runner, now: Timestamp) -> EndedRunner {
    EndedRunner {
        name: runner.name.clone(),
        group: runner.group.clone(),
        backend: runner.backend.clone(),
        requested_at: runner.requested_at,
        ended_at: now,
        why: RetireReason::Surplus,
        trouble: None,
        timeline: Vec::new(),
    }
}

/// A job in one of nine states. Its times are those of its number: some are the same.
pub(crate) fn job(job: usize, state: usize, now: Timestamp) -> WorkflowJob {
    let at = |hours: usize| later(Timestamp::UNIX_EPOCH, Duration::from_hours(hours as u64));
    let id = job_id(job);
    let state = match state {
        0 => JobState::Waiting,
        1 | 2 => JobState::Queued { group: None },
        3..=5 => JobState::Queued { group: Some(group_name(state - 3)) },
        6 => JobState::InProgress { runner: "r".to_owned(), since: now },
        7 => JobState::Presumed { runner: runner_name(0), since: now },
        _ => JobState::Completed { conclusion: Conclusion::Success, runner: None, at: now },
    };
    WorkflowJob {
        id,
        run: RunId(id.0),
        attempt: 1,
        repository: "acme/app".parse().unwrap(),
        enterprise: None,
        public: false,
        name: format!("job {id}"),
        workflow: None,
        labels: Labels::default(),
        created_at: at(10 - job / 2),
        recorded_at: at(20 + job / 3),
        state,
        lost: None,
    }
}

/// One of three places: one is written in two ways.
pub(crate) fn hook_place(hook: usize) -> HookPlace {
    match hook {
        0 => HookPlace::Scope(scope(0)),
        1 => HookPlace::Scope(Scope::Repository("acme/app".parse().unwrap())),
        2 => HookPlace::Scope(Scope::Repository("Acme/App".parse().unwrap())),
        _ => HookPlace::App { connection: ConnectionName::default(), account: 1 },
    }
}

pub(crate) fn hook(hook: usize, read: u64, now: Timestamp) -> HookRecord {
    let redelivery = [
        Redelivery::Due,
        Redelivery::Asking { since: now, again: true },
        Redelivery::Asked { at: now },
        Redelivery::Over,
    ][hook];
    HookRecord {
        given_up_at: read.is_multiple_of(2).then_some(now),
        found: Some(FoundHook::Numbered(read)),
        sought_at: Some(now),
        read_at: Some(now),
        read_to: Some(later(Timestamp::UNIX_EPOCH, Duration::from_secs(read % 1_000_000))),
        failed: [(
            DeliveryId::new(format!("delivery {read}")),
            FailedDelivery { attempt: read, failed_at: now, redelivery },
        )]
        .into(),
        trouble: read.is_multiple_of(2).then(|| "trouble\twith \"it\"\n".to_owned()),
        ..HookRecord::new(hook_place(hook))
    }
}

pub(crate) fn deployment(revision: u64, now: Timestamp) -> Deployment {
    let backends = [backend(0), backend(1)].into();
    let replica = Replica { configuration: Digest::new("digest"), backends, seen_at: now };
    let doubt = Doubt {
        incarnation: Incarnation::new("a life"),
        since: now,
        taken_in: [Source::Runners(scope(2)), Source::Instances(backend(0))].into(),
    };
    Deployment {
        configuration: Some(Digest::new("digest")),
        revision,
        superseded: Vec::new(),
        replicas: BTreeMap::from([(ReplicaId::new("replica"), replica)]),
        doubt: revision.is_multiple_of(2).then_some(doubt),
        withheld: Vec::new(),
        go_ons: Vec::new(),
    }
}

/// One of eight tasks, in three lanes.
pub(crate) fn task(task: usize) -> Task {
    match task {
        0..=2 => Task::Reconcile { group: group_name(task) },
        3 => Task::SyncConfiguration,
        4 => Task::Provision { runner: runner_name(0), backend: backend(0) },
        5 => Task::Retire { runner: runner_name(0), backend: backend(0) },
        6 => Task::Provision { runner: runner_name(1), backend: backend(0) },
        _ => Task::SweepScope { scope: scope(0) },
    }
}

pub(crate) fn lane(lane: usize) -> Lane {
    task([0, 4, 7][lane]).lane()
}

/// One of four budgets, each with what bounds it. The period comes to an end, unless the time is real.
pub(crate) fn budget(budget: usize, per: Duration) -> Bound {
    let (two, three) = (Some(2), Some(Rate { calls: 3, per }));
    let (key, quota) = match budget {
        0 => (BudgetKey::github("acme"), Quota { concurrent: None, rate: three }),
        1 => (BudgetKey::backend(&backend(0)), Quota { concurrent: two, rate: None }),
        2 => (BudgetKey::backend(&backend(1)), Quota { concurrent: two, rate: three }),
        _ => (BudgetKey::github("other"), Quota::default()),
    };
    Bound { key, quota }
}

/// The budgets of one call: one of the four, or several of them.
pub(crate) fn bounds(call: usize, per: Duration) -> Vec<Bound> {
    let numbers: &[usize] = match call {
        0..=3 => &[call],
        4 => &[1, 0],
        5 => &[3, 2],
        _ => &[0, 1, 2],
    };
    numbers.iter().map(|number| budget(*number, per)).collect()
}

/// All filters of runners.
pub(crate) fn runner_filters() -> Vec<RunnerFilter> {
    let groups = || (0..GROUPS).map(group_name);
    let mut filters = vec![RunnerFilter::All];
    filters.extend(groups().map(RunnerFilter::Group));
    for phase in Phase::ALL {
        filters.extend(groups().map(|group| RunnerFilter::Phase(group, phase)));
    }
    filters.extend((0..2).map(|name| RunnerFilter::Backend(backend(name))));
    filters.extend((0..3).map(|name| RunnerFilter::Scope(scope(name))));
    filters
}

/// All filters of jobs.
pub(crate) fn job_filters() -> Vec<JobFilter> {
    let groups = (0..GROUPS).map(|group| JobFilter::Queued(group_name(group)));
    [JobFilter::All, JobFilter::Unserved].into_iter().chain(groups).collect()
}
