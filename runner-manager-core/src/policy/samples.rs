//! Values for the tests of the policy.

use jiff::Timestamp;

use crate::domain::{
    Arch, BackendName, Bounds, GitHubGroup, GroupName, Labels, Limits, Os, Placement, RunnerGroup, Scope,
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
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::parse(labels).unwrap(),
        bounds: Bounds::new(min_idle, max).unwrap(),
        priority: 0,
        order: 0,
        tags: [].into(),
        limits: Limits::default(),
        placements: vec![Placement::new(backend, "zone a", serde_json::json!({"zone": "a"}))],
    }
}

pub(crate) fn record(spec: RunnerGroup) -> GroupRecord {
    GroupRecord { spec, draining: None, placements: [].into(), registration: None }
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
