//! Sample data for the benches: plausible, and the same in every run.
//!
//! ```text
//! cargo bench -p runner-manager-benches             # all; some minutes
//! cargo bench -p runner-manager-benches -- --quick  # a first look
//! cargo bench -p runner-manager-benches -- matching # those with this in their names
//! ```
//!
//! - `policy` has what is decided for every webhook and every task: it costs processor time alone. The cases stand in
//!   [`pure`], and the program `instructions` counts what each takes.
//! - `storage` has what a storage does for them: the embedded one in memory and in a file, and a Redis, of which it starts
//!   one where there is a `redis-server`.
//!
//! What whole processes do under load is measured by the binary `load`.

pub mod pure;

use std::collections::BTreeMap;

use jiff::Timestamp;
use runner_manager_core::domain::{
    Arch, BackendName, Bounds, ConnectionName, GitHubGroup, GroupName, JobId, JobState, Labels, Limits,
    Machine, Os, Placement, PlacementKey, RunId, Runner, RunnerGroup, RunnerName, RunnerState, Scope,
    WorkflowJob,
};

/// One of GitHub's published examples, 13 KiB long.
pub const QUEUED: &[u8] = include_bytes!(
    "../../runner-manager-core/tests/data/github/webhook-examples/queued.with-deployment.payload.json"
);

/// The time at which everything here was made.
pub const NOW: Timestamp = Timestamp::UNIX_EPOCH;

const SAMPLE: &str = "the samples are valid";

/// The name of a group, by its number.
pub fn group_name(number: u32) -> GroupName {
    GroupName::new(format!("group-{number}")).expect(SAMPLE)
}

/// The backend that all groups use.
pub fn backend() -> BackendName {
    BackendName::new("cloud").expect(SAMPLE)
}

/// The labels of a group's jobs, as in `runs-on`.
pub fn labels(number: u32) -> Labels {
    Labels::parse(["self-hosted".to_owned(), format!("label-{number}")]).expect(SAMPLE)
}

/// A group of the organization `acme` with a label of its own, six shared ones, and three placements.
pub fn group(number: u32, max: u32) -> RunnerGroup {
    let shared = (0..6).map(|shared| format!("shared-{shared}"));
    let place = |zone: &str| Placement::new(backend(), zone, serde_json::json!({"zone": zone}));
    RunnerGroup {
        name: group_name(number),
        scope: Scope::organization("acme").expect(SAMPLE),
        github: ConnectionName::default(),
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::parse(shared.chain([format!("label-{number}")])).expect(SAMPLE),
        bounds: Bounds::new(0, max).expect(SAMPLE),
        priority: 0,
        order: number,
        tags: BTreeMap::new(),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: ["a", "b", "c"].map(place).into(),
    }
}

/// A runner of group 0 whose slot is about to be reserved.
pub fn runner(number: u64) -> Runner {
    Runner {
        name: RunnerName::new(format!("acme-group-0-{number:013}")).expect(SAMPLE),
        group: group_name(0),
        scope: Scope::organization("acme").expect(SAMPLE),
        backend: backend(),
        placement: PlacementKey::unknown(),
        requested_at: NOW,
        since: NOW,
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

/// A job that waits and counts for group 0.
pub fn job(number: u64) -> WorkflowJob {
    WorkflowJob {
        id: JobId(number),
        run: RunId(number),
        attempt: 1,
        repository: "acme/app".parse().expect(SAMPLE),
        enterprise: None,
        public: false,
        name: "build and test (stable, ubuntu)".to_owned(),
        workflow: Some("CI".to_owned()),
        labels: labels(0),
        created_at: NOW,
        recorded_at: NOW,
        state: JobState::Queued { group: Some(group_name(0)) },
        lost: None,
    }
}
