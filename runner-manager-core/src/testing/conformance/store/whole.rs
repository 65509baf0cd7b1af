//! That a record comes back as it was written, with something in each of its parts.

use jiff::Timestamp;

use super::super::storage::{StorageSubject, ended, group, group_name, job, presumed, runner, runner_name};
use crate::domain::{
    Boot, Failure, FoundGroup, GitHubGroupId, GitHubRunnerId, GroupFinding, GroupVisibility, InstanceFailure,
    InstanceId, JobId, JobRef, Leaving, Loss, Machine, Mended, Mint, OperationId, RegisteredGroup, Rerun,
    RetireReason, Runner, RunnerState, WorkflowJob,
};
use crate::policy::placement::Health;
use crate::store::{Change, Expected, GroupRecord};

fn failure(at: Timestamp) -> Failure {
    Failure::new("create: Unavailable: \"no\" ☃\n", at)
}

fn full_group(at: Timestamp) -> GroupRecord {
    let mut record = group("a", 2);
    let health = Health {
        failures: 3,
        kind: InstanceFailure::QuotaExceeded,
        last: failure(at),
        retry_at: at,
        probe: Some((runner_name("r"), at)),
    };
    record.placements = [(record.spec.placements[0].key.clone(), health.clone())].into();
    record.registration = Some(health);
    let found = RegisteredGroup {
        id: GitHubGroupId(7),
        name: "Large".to_owned(),
        default: false,
        inherited: false,
        visibility: GroupVisibility::All,
        allows_public_repositories: true,
        workflows: Some(["acme/app/.github/workflows/ci.yml@main".to_owned()].into()),
        workflows_fixed: true,
    };
    record.github = Some(Box::new(GroupFinding {
        found: Some(FoundGroup { group: found, members: None }),
        trouble: Some(failure(at)),
        mended: Some(Mended { at, what: "it is missing".to_owned() }),
    }));
    record
}

fn full_runner(at: Timestamp) -> Runner {
    let job = JobRef { id: JobId(7), repository: "acme/app".parse().expect("the suite's names are names") };
    Runner {
        registration: Some(GitHubRunnerId(u64::MAX)),
        online_at: Some(at),
        instance: Some(InstanceId::new("i-1")),
        named_at: Some(at),
        missing_since: Some(at),
        presumed: Some(job),
        trouble: Some(failure(at)),
        machine: full_machine(at),
        state: RunnerState::Idle {
            leaving: Some(Leaving {
                reason: RetireReason::Surplus,
                not_busy_at: Some(at),
                asked_until: Some(at),
            }),
        },
        ..runner("r", "a")
    }
}

fn full_machine(at: Timestamp) -> Machine {
    let mint = Mint { boot: Boot::of("a word"), by: OperationId::new("a call"), until: at, made: 2 };
    let mut machine =
        Machine { mint: Some(mint), listening_at: Some(at), ended_at: Some(at), ..Machine::default() };
    machine.note("it said: \"no\" ☃", at);
    machine
}

fn lost_job(at: Timestamp, id: u64, rerun: Rerun) -> WorkflowJob {
    let why = "its instance is gone".to_owned();
    WorkflowJob {
        enterprise: Some("acme-corp".to_owned()),
        public: true,
        workflow: Some("CI".to_owned()),
        lost: Some(Box::new(Loss { at, runner: runner_name("r"), why, rerun })),
        ..job(id, presumed(at), 1)
    }
}

pub(super) async fn records_come_back_whole(on: StorageSubject) {
    let now = on.now().await;
    let of_group = full_group(now);
    on.apply(Change::PutGroup { record: of_group.clone(), expected: Expected::Absent }).await;
    assert_eq!(on.store.group(&group_name("a")).await.unwrap().unwrap().record.value, of_group);

    let expected = on.apply(Change::ReserveRunner { runner: runner("r", "a") }).await;
    let full = full_runner(now);
    let expected = on.apply(Change::PutRunner { runner: full.clone(), expected }).await;
    assert_eq!(on.store.runner(&runner_name("r")).await.unwrap().unwrap().value, full);

    let kind = InstanceFailure::Other;
    let why = RetireReason::InstanceFailed { kind, detail: failure(now).detail };
    let (trouble, timeline) = (full.trouble.clone(), full.machine.timeline.clone());
    let over = crate::domain::EndedRunner { why, trouble, timeline, ..ended(&full, now) };
    on.try_apply(Change::EndRunner { ended: over.clone(), expected }).await.unwrap();
    assert_eq!(on.store.ended_runners(1).await.unwrap(), [over]);

    let reruns = [
        Rerun::Unwanted,
        Rerun::Wanted { taken: true, refusals: 2, last: Some(failure(now)) },
        Rerun::Done { at: now },
        Rerun::Refused { why: failure(now) },
    ];
    for (id, rerun) in (7..).zip(reruns) {
        let lost = lost_job(now, id, rerun);
        on.apply(Change::PutJob { job: lost.clone(), expected: Expected::Absent }).await;
        assert_eq!(on.store.job(JobId(id)).await.unwrap().unwrap().value, lost);
    }
}
