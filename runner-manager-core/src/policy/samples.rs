//! Values for the tests of the policy.

use jiff::Timestamp;

use crate::domain::{
    Arch, BackendName, Bounds, ConnectionName, GitHubGroup, GitHubGroupId, GroupName, GroupVisibility, JobId,
    JobObservation, JobReport, Labels, Limits, Machine, Os, Placement, PlacementKey, RegisteredGroup, RunId,
    Runner, RunnerGroup, RunnerName, RunnerState, Scope,
};
use crate::store::{GroupCounts, GroupRecord, GroupView, Version, Versioned};

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

pub(crate) fn group(name: &str, labels: &[&str], min_idle: u32, max: u32) -> RunnerGroup {
    let backend = BackendName::new("cloud").unwrap();
    RunnerGroup {
        name: GroupName::new(name).unwrap(),
        scope: Scope::organization("acme").unwrap(),
        github: ConnectionName::default(),
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::parse(labels).unwrap(),
        bounds: Bounds::new(min_idle, max).unwrap(),
        priority: 0,
        order: 0,
        tags: [].into(),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: vec![Placement::new(backend, "zone a", serde_json::json!({"zone": "a"}))],
    }
}

/// A group at GitHub that is for all private repositories.
pub(crate) fn registered_group(name: &str) -> RegisteredGroup {
    RegisteredGroup {
        id: GitHubGroupId(7),
        name: name.to_owned(),
        default: false,
        inherited: false,
        visibility: GroupVisibility::All,
        allows_public_repositories: false,
        workflows: None,
        workflows_fixed: false,
    }
}

pub(crate) fn record(spec: RunnerGroup) -> GroupRecord {
    GroupRecord { spec, draining: None, placements: [].into(), registration: None, github: None }
}

pub(crate) fn view(spec: RunnerGroup, counts: GroupCounts) -> GroupView {
    GroupView { record: Versioned { value: record(spec), version: Version(1) }, counts }
}

pub(crate) fn group_with_placements(count: usize) -> GroupRecord {
    let mut spec = group("linux", &[], 0, 10);
    spec.placements = (0..count)
        .map(|zone| {
            let backend = BackendName::new("cloud").unwrap();
            Placement::new(backend, format!("zone {zone}"), serde_json::json!({"zone": zone}))
        })
        .collect();
    record(spec)
}

pub(crate) fn runner(group: &GroupRecord, placement: PlacementKey) -> Runner {
    Runner {
        name: RunnerName::new("acme-linux-1").unwrap(),
        group: group.spec.name.clone(),
        scope: group.spec.scope.clone(),
        backend: BackendName::new("cloud").unwrap(),
        placement,
        requested_at: at(0),
        since: at(0),
        registration: None,
        online_at: None,
        instance: None,
        named_at: None,
        missing_since: None,
        presumed: None,
        trouble: None,
        machine: Machine::default(),
        state: RunnerState::Requested,
    }
}

/// What is said of job 1, made at the beginning.
pub(crate) fn seen(report: JobReport) -> JobObservation {
    JobObservation {
        id: JobId(1),
        run: RunId(2),
        attempt: 1,
        repository: "acme/app".parse().unwrap(),
        enterprise: None,
        public: false,
        name: "build".to_owned(),
        workflow: None,
        labels: Labels::parse(["linux"]).unwrap(),
        created_at: at(0),
        report,
    }
}
