//! Records to be written, as long as those of a real deployment.

use std::collections::BTreeMap;

use jiff::Timestamp;
use runner_manager_core::domain::{
    Arch, BackendName, Bounds, Conclusion, ConnectionName, EndedRunner, GitHubGroup, GitHubRunnerId,
    GroupName, InstanceId, JobId, JobRef, JobState, Labels, Limits, Machine, OperationId, Os, Placement,
    RetireReason, RunId, Runner, RunnerGroup, RunnerName, RunnerState, Scope, WorkflowJob,
};
use runner_manager_core::queue::{NewTask, Task};
use runner_manager_core::store::{Change, Expected, GroupRecord, Store, Write};

/// A time with microseconds, as the store tells it.
pub(crate) fn noon() -> Timestamp {
    "2026-11-24T12:00:00.123456Z".parse().unwrap()
}

pub(crate) fn write(operation: &str, changes: Vec<Change>) -> Write {
    Write {
        operation: OperationId::new(operation),
        claim: None,
        ends_claim: false,
        on_trust: false,
        changes,
        tasks: Vec::new(),
    }
}

pub(crate) fn group_name(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn placement() -> Placement {
    Placement::new(BackendName::new("eu").unwrap(), "c7i.2xlarge in subnet-a", serde_json::json!({}))
}

pub(crate) fn put_group(name: &str, max: u32) -> Change {
    let spec = RunnerGroup {
        name: group_name(name),
        scope: Scope::organization("acme").unwrap(),
        github: ConnectionName::default(),
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::default(),
        bounds: Bounds::new(0, max).unwrap(),
        priority: 0,
        order: 0,
        tags: BTreeMap::new(),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: vec![placement()],
    };
    let record =
        GroupRecord { spec, draining: None, placements: BTreeMap::new(), registration: None, github: None };
    Change::PutGroup { record, expected: Expected::Absent }
}

/// A runner that is busy: as much as a record ever has.
pub(crate) fn runner(number: usize, group: &str) -> Runner {
    let job = JobRef { id: JobId(61_234_500_000), repository: "acme/app".parse().unwrap() };
    Runner {
        name: RunnerName::new(format!("acme-ci-{group}-{number:08}")).unwrap(),
        group: group_name(group),
        scope: Scope::organization("acme").unwrap(),
        backend: BackendName::new("eu").unwrap(),
        placement: placement().key,
        requested_at: noon(),
        since: noon(),
        registration: Some(GitHubRunnerId(123_456)),
        online_at: Some(noon()),
        instance: Some(InstanceId::new("eu-west-1a/i-0123456789abcdef0")),
        named_at: None,
        missing_since: None,
        presumed: None,
        trouble: None,
        machine: Machine::default(),
        state: RunnerState::Busy { job: Some(job) },
    }
}

pub(crate) fn ended(runner: &Runner) -> EndedRunner {
    EndedRunner {
        name: runner.name.clone(),
        group: runner.group.clone(),
        backend: runner.backend.clone(),
        requested_at: runner.requested_at,
        ended_at: noon(),
        why: RetireReason::Surplus,
        trouble: None,
        timeline: Vec::new(),
    }
}

pub(crate) fn job(id: u64, state: JobState) -> WorkflowJob {
    WorkflowJob {
        id: JobId(id),
        run: RunId(id),
        attempt: 1,
        repository: "acme/app".parse().unwrap(),
        enterprise: None,
        public: false,
        name: "build (ubuntu, 3.12)".to_owned(),
        workflow: Some("CI".to_owned()),
        labels: Labels::parse(["self-hosted", "linux", "x64", "large"]).unwrap(),
        created_at: noon(),
        recorded_at: noon(),
        state,
        lost: None,
    }
}

pub(crate) fn queued(group: &str) -> JobState {
    JobState::Queued { group: Some(group_name(group)) }
}

pub(crate) fn completed() -> JobState {
    let runner = Some("acme-ci-linux-large-00000001".to_owned());
    JobState::Completed { conclusion: Conclusion::Success, runner, at: noon() }
}

pub(crate) fn put_job(job: WorkflowJob) -> Change {
    Change::PutJob { job, expected: Expected::Absent }
}

pub(crate) fn reconcile(group: &str) -> NewTask {
    NewTask::now(Task::Reconcile { group: group_name(group) })
}

/// Says that a store's word may be relied on from here on.
pub(crate) async fn trust(store: &dyn Store) {
    let incarnation = store.deployment().await.unwrap().incarnation;
    store.apply(write("trust", vec![Change::Trust { incarnation }])).await.unwrap();
}
