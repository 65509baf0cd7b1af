//! Records to be written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use runner_manager_core::domain::{
    Arch, BackendName, Bounds, ConnectionName, GitHubGroup, GroupName, JobId, JobState, Labels, Limits,
    Machine, OperationId, Os, Placement, RunId, Runner, RunnerGroup, RunnerName, RunnerState, Scope,
    WorkflowJob,
};
use runner_manager_core::queue::{NewTask, Task};
use runner_manager_core::store::{Change, Expected, GroupRecord, Write};

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
    Placement::new(BackendName::new("cloud").unwrap(), "one place", serde_json::json!({}))
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

pub(crate) fn runner(name: &str, group: &str) -> Runner {
    Runner {
        name: RunnerName::new(name).unwrap(),
        group: group_name(group),
        scope: Scope::organization("acme").unwrap(),
        backend: BackendName::new("cloud").unwrap(),
        placement: placement().key,
        requested_at: Timestamp::UNIX_EPOCH,
        since: Timestamp::UNIX_EPOCH,
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

pub(crate) fn put_job(id: u64) -> Change {
    let job = WorkflowJob {
        id: JobId(id),
        run: RunId(id),
        attempt: 1,
        repository: "acme/app".parse().unwrap(),
        enterprise: None,
        public: false,
        name: format!("job {id}"),
        workflow: None,
        labels: Labels::default(),
        created_at: Timestamp::UNIX_EPOCH,
        recorded_at: Timestamp::UNIX_EPOCH,
        state: JobState::Queued { group: None },
        lost: None,
    };
    Change::PutJob { job, expected: Expected::Absent }
}

pub(crate) fn reconcile(group: &str) -> NewTask {
    NewTask::now(Task::Reconcile { group: group_name(group) })
}
