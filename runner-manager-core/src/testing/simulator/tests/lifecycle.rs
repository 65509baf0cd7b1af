//! Jobs, runners and agents, from beginning to end.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{Bench, ORGANIZATION};
use crate::testing::simulator::{
    AgentJob, Conclusion, ConnectRefusal, JobSpec, JobStatus, NotPossible, Removal, Scope, SessionEnded,
    Settings, Simulator, Timings,
};

#[test]
fn a_job_is_told_taken_and_ended_and_its_registration_vanishes() {
    let mut bench = Bench::new();
    let spec = JobSpec::new("acme/widgets", ["Self-Hosted", "LINUX"]).seconds(60);
    let job = bench.github.queue_job(&spec, bench.now).unwrap();
    assert_eq!(bench.actions_due(), ["queued"]);
    let (session, path) = bench.runner(ORGANIZATION, &["self-hosted", "linux", "x64"]);
    let taken: AgentJob = bench.github.poll(session, bench.now).unwrap().unwrap();
    assert_eq!((taken.id, taken.seconds, taken.repository.as_str()), (job, 60, "acme/widgets"));
    assert_eq!(bench.poll(session), Some(job), "it is told again of its own");
    assert_eq!(bench.actions_due(), ["in_progress"]);
    assert_eq!(bench.get(&path)["busy"], true);
    let acme = Scope::Organization("ACME".to_owned());
    let named = bench.github.runner_named(&acme, "R-1").unwrap();
    assert_eq!((named.job, bench.github.runner(named.id)), (Some(job), Some(named)));
    bench.pass(60);
    bench.github.finish(session, Conclusion::Success, bench.now).unwrap();
    assert_eq!(bench.actions_due(), ["completed"]);
    assert_eq!(bench.github.runner_named(&acme, "R-1"), None);

    let job = bench.github.job(job).unwrap();
    assert_eq!((job.status, job.conclusion), (JobStatus::Completed, Some(Conclusion::Success)));
    assert_eq!(
        job.completed_at.unwrap().duration_since(job.started_at.unwrap()),
        SignedDuration::from_secs(60)
    );
    assert_eq!(job.runner.as_ref().unwrap().name, "r-1");
    assert_eq!(bench.delete(&path), 404);
    let books = bench.github.books();
    assert_eq!((books.jobs.succeeded, books.jobs.lost, books.jobs.queued), (1, 0, 0));
    assert_eq!((books.runners.alive, books.runners.max_alive), (0, 1));
    assert_eq!(books.runners.removed[&Removal::Finished], 1);
    assert!(books.violations.is_empty());
    assert_eq!(bench.github.poll(session, bench.now), Err(SessionEnded));
}

#[test]
fn an_agent_gets_the_oldest_job_whose_labels_it_has_in_its_scope() {
    let mut bench = Bench::with(Settings { enterprise: Some("big".to_owned()), ..Settings::default() });
    let other = bench.queue("other/tools", &["linux"]);
    let gpu = bench.queue("acme/widgets", &["linux", "gpu"]);
    let gadgets = bench.queue("acme/gadgets", &["linux"]);
    let widgets = bench.queue("acme/widgets", &["linux"]);
    let (of_widgets, _) = bench.runner("/repos/Acme/Widgets", &["linux"]);
    let (of_acme, _) = bench.runner(ORGANIZATION, &["linux", "x64"]);
    let (of_enterprise, _) = bench.runner("/enterprises/big", &["linux", "gpu"]);
    assert_eq!(bench.poll(of_widgets), Some(widgets));
    assert_eq!(bench.poll(of_acme), Some(gadgets));
    assert_eq!(bench.poll(of_enterprise), Some(other));
    let (second, _) = bench.runner(ORGANIZATION, &["linux"]);
    assert_eq!(bench.poll(second), None);
    let (third, _) = bench.runner(ORGANIZATION, &["GPU", "Linux"]);
    assert_eq!(bench.poll(third), Some(gpu));
}

#[test]
fn a_group_keeps_public_unlisted_and_other_workflows_out() {
    let mut bench = Bench::new();
    bench.github.add_repository("acme", "open", false);
    let groups = format!("{ORGANIZATION}/actions/runner-groups");
    let open = bench.queue("acme/open", &["linux"]);
    let (session, _) = bench.runner(ORGANIZATION, &["linux"]);
    assert_eq!(bench.poll(session), None, "Default does not allow public repositories");
    bench.call(
        "PATCH",
        &format!("{groups}/1"),
        &json!({"name": "Default", "allows_public_repositories": true}),
    );
    assert_eq!(bench.poll(session), Some(open));

    let widgets = bench.queue("acme/widgets", &["linux"]);
    let restricted = json!({"name": "release", "visibility": "selected", "restricted_to_workflows": true,
        "selected_workflows": ["acme/widgets/.github/workflows/release.yml@refs/heads/main"]});
    let (_, group, _) = bench.call("POST", &groups, &restricted);
    let path = format!("{groups}/{}", group["id"]);
    let (jit_config, _) = bench.register(ORGANIZATION, &["linux"], group["id"].as_u64().unwrap());
    let session = bench.github.connect(&jit_config, bench.now).unwrap();
    assert_eq!(bench.poll(session), None, "not listed");
    bench.call(
        "PUT",
        &format!("{path}/repositories"),
        &json!({"selected_repository_ids": [500_000_002_u64]}),
    );
    assert_eq!(bench.poll(session), None, "another workflow");
    bench.call("PATCH", &path, &json!({"name": "release", "restricted_to_workflows": false}));
    assert_eq!(bench.poll(session), Some(widgets));
    let job = bench.github.job(widgets).unwrap();
    assert_eq!(job.runner.as_ref().unwrap().group_name, "release");
}

#[test]
fn a_jit_config_is_good_for_one_agent() {
    let mut bench = Bench::new();
    let (jit_config, path) = bench.register(ORGANIZATION, &["linux"], 1);
    assert_eq!(bench.get(&path)["status"], "offline");
    let session = bench.github.connect(&jit_config, bench.now).unwrap();
    assert_eq!(bench.get(&path)["status"], "online");
    assert_eq!(bench.github.connect(&jit_config, bench.now), Err(ConnectRefusal::AlreadyUsed));
    bench.github.disconnect(session, bench.now).unwrap();
    assert_eq!(bench.get(&path)["status"], "offline");
    assert_eq!(bench.github.connect(&jit_config, bench.now), Err(ConnectRefusal::AlreadyUsed));
    assert_eq!(bench.delete(&path), 204);
    assert_eq!(bench.github.connect(&jit_config, bench.now), Err(ConnectRefusal::Deleted));
    assert_eq!(bench.github.connect("e30=", bench.now), Err(ConnectRefusal::Malformed));
    let (foreign, _) =
        Bench::with(Settings { seed: 1, ..Settings::default() }).register(ORGANIZATION, &["linux"], 1);
    assert_eq!(bench.github.connect(&foreign, bench.now), Err(ConnectRefusal::Unknown));
    assert_eq!(bench.github.books().refusals[&ConnectRefusal::AlreadyUsed], 2);
}

#[test]
fn a_deleted_registration_ends_its_agent() {
    let mut bench = Bench::new();
    let (session, path) = bench.runner(ORGANIZATION, &["linux"]);
    assert_eq!(bench.delete(&path), 204);
    assert_eq!(bench.github.poll(session, bench.now), Err(SessionEnded));
    assert_eq!(bench.github.books().runners.removed[&Removal::Deleted], 1);
}

#[test]
fn a_lost_machine_stays_busy_until_github_gives_its_job_up() {
    let mut bench = Bench::new();
    let job = bench.queue("acme/widgets", &["linux"]);
    let (session, path) = bench.runner(ORGANIZATION, &["linux"]);
    bench.poll(session);
    bench.github.die(session, bench.now).unwrap();
    bench.pass(12 * 60 - 1);
    let seen = bench.get(&path);
    assert_eq!((&seen["status"], &seen["busy"]), (&json!("offline"), &json!(true)));
    assert_eq!(bench.delete(&path), 422);
    bench.pass(1);
    assert_eq!(bench.delete(&path), 404);
    let found = bench.github.job(job).unwrap();
    assert_eq!((found.conclusion, found.lost), (Some(Conclusion::Failure), true));
    assert_eq!(bench.github.books().jobs.lost, 1);
    assert_eq!(bench.github.books().runners.removed[&Removal::Lost], 1);
    assert_eq!(bench.actions_due(), ["queued", "in_progress", "completed"]);
}

#[test]
fn a_silent_agent_counts_as_lost() {
    let heartbeat = Some(SignedDuration::from_secs(30));
    let timings = Timings { heartbeat, ..Timings::default() };
    let mut bench = Bench::with(Settings { timings, ..Settings::default() });
    let (session, path) = bench.runner(ORGANIZATION, &["linux"]);
    bench.pass(20);
    assert_eq!(bench.github.heartbeat(session, bench.now), Ok(false));
    bench.pass(20);
    assert_eq!(bench.get(&path)["status"], "online");
    bench.pass(10);
    assert_eq!(bench.get(&path)["status"], "offline");
    assert_eq!(bench.github.heartbeat(session, bench.now), Err(SessionEnded));
}

#[test]
fn what_waits_too_long_ends_by_itself() {
    let mut bench = Bench::new();
    let job = bench.queue("acme/widgets", &["linux"]);
    let (_, path) = bench.register(ORGANIZATION, &["other"], 1);
    bench.pass(24 * 3600 - 1);
    bench.get(&path);
    bench.pass(1);
    assert_eq!(bench.delete(&path), 404);
    assert_eq!(bench.github.books().runners.removed[&Removal::Expired], 1);
    assert_eq!(bench.github.job(job).unwrap().conclusion, Some(Conclusion::Cancelled));
}

#[test]
fn a_waiting_job_is_taken_only_once_released() {
    let mut bench = Bench::new();
    let spec = JobSpec::new("acme/widgets", ["linux"]).waiting();
    let job = bench.github.queue_job(&spec, bench.now).unwrap();
    let (session, _) = bench.runner(ORGANIZATION, &["linux"]);
    assert_eq!(bench.poll(session), None);
    bench.github.release_job(job, bench.now).unwrap();
    assert_eq!(bench.github.release_job(job, bench.now), Err(NotPossible::WrongState));
    assert_eq!(bench.poll(session), Some(job));
    assert_eq!(bench.actions_due(), ["waiting", "queued", "in_progress"]);
}

#[test]
fn cancelling_asks_the_agent_and_then_does_without_it() {
    let mut bench = Bench::new();
    let running = bench.queue("acme/widgets", &["linux"]);
    let run = bench.github.job(running).unwrap().run;
    let queued =
        bench.github.queue_job(&JobSpec::new("acme/widgets", ["gpu"]).in_run(run), bench.now).unwrap();
    let (session, path) = bench.runner(ORGANIZATION, &["linux"]);
    bench.poll(session);
    bench.github.cancel_run(run, bench.now).unwrap();
    assert_eq!(bench.github.job(queued).unwrap().conclusion, Some(Conclusion::Cancelled));
    assert_eq!(bench.github.heartbeat(session, bench.now), Ok(true));
    assert_eq!(bench.get(&path)["busy"], true);
    bench.pass(5 * 60);
    assert_eq!(bench.github.heartbeat(session, bench.now), Err(SessionEnded));
    let job = bench.github.job(running).unwrap();
    assert_eq!((job.conclusion, job.lost), (Some(Conclusion::Cancelled), true));
    assert_eq!(bench.github.cancel_run(run, bench.now), Err(NotPossible::WrongState));
}

#[test]
fn a_rerun_is_another_job_of_the_same_run() {
    let mut bench = Bench::new();
    let job = bench.queue("acme/widgets", &["linux"]);
    assert_eq!(bench.github.rerun_job(job, bench.now), Err(NotPossible::WrongState));
    let (session, _) = bench.runner(ORGANIZATION, &["linux"]);
    bench.poll(session);
    bench.github.finish(session, Conclusion::Failure, bench.now).unwrap();
    let again = bench.github.rerun_job(job, bench.now).unwrap();
    let found = bench.github.job(again).unwrap();
    assert_eq!((found.attempt, found.status), (2, JobStatus::Queued));
    assert_eq!(found.run, bench.github.job(job).unwrap().run);
    let (session, _) = bench.runner(ORGANIZATION, &["linux"]);
    assert_eq!(bench.poll(session), Some(again));
    assert!(bench.github.books().runs_by_job.values().all(|runs| *runs == 1));
}

#[test]
fn time_passes_in_the_order_of_what_is_due() {
    let mut bench = Bench::new();
    bench.queue("acme/widgets", &["linux"]);
    assert_eq!(bench.github.next_due(), Some(bench.now));
    bench.due();
    assert_eq!(bench.github.next_due(), Some(bench.now + SignedDuration::from_hours(24)));
    let (session, _) = bench.runner(ORGANIZATION, &["linux"]);
    bench.poll(session);
    bench.due();
    bench.github.die(session, bench.now).unwrap();
    let given_up = bench.now + SignedDuration::from_mins(12);
    assert_eq!(bench.github.next_due(), Some(given_up));
    bench.pass(3600);
    bench.due();
    let job = bench.github.jobs().next().unwrap();
    assert_eq!(job.completed_at, Some(given_up), "it happened when it was due, not when it was looked at");
}

#[test]
fn the_same_seed_and_calls_give_the_same_bytes() {
    let run = |seed: u64| {
        let mut bench = Bench::with(Settings { seed, ..Settings::default() });
        bench.github.faults_mut().webhooks.delayed = 0.5;
        let mut bytes = Vec::new();
        for _ in 0..20 {
            bench.queue("acme/widgets", &["linux"]);
            let (jit_config, path) = bench.register(ORGANIZATION, &["linux"], 1);
            bytes.push(jit_config);
            let (_, body, headers) = bench.call("GET", &path, &Value::Null);
            bytes.push(format!("{body} {headers:?}"));
            bench.pass(7);
            bytes.extend(bench.due().iter().map(|delivery| format!("{delivery:?}")));
        }
        bytes
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn ten_thousand_jobs_are_looked_up_by_kind_not_one_by_one() {
    let mut bench = Bench::new();
    let count = 10_000;
    for repository in ["acme/widgets", "acme/gadgets"] {
        bench.github.queue_jobs(&JobSpec::new(repository, ["linux"]), count / 2, bench.now).unwrap();
    }
    assert_eq!(bench.github.jobs.queue.len(), 2, "what a poll walks is one entry a kind of job");
    for _ in 0..count {
        let (session, _) = bench.runner(ORGANIZATION, &["linux"]);
        bench.poll(session).unwrap();
        bench.github.finish(session, Conclusion::Success, bench.now).unwrap();
    }
    assert!(bench.github.jobs.queue.is_empty());
    let books = bench.github.books();
    assert_eq!((books.jobs.succeeded, books.runners.max_alive), (10_000, 1));
    assert_eq!(books.webhooks.events, 30_000);
}

#[test]
fn a_simulator_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Simulator>();
}
