//! The load driver as a person runs it: with a few jobs, and figures that must add up.

#![expect(clippy::unwrap_used, reason = "what fails is the test")]

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn load(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_load")).args(arguments).output().unwrap()
}

fn report(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}; standard error: {errors}"))
}

/// Every job ran on a runner, no promise was broken, and the figures are what they can be.
fn assert_all_is_well(output: &Output, jobs: u64) {
    let report = report(output);
    let counted = |of: &str, what: &str| report[of][what].as_u64().unwrap();
    assert_eq!((counted("jobs", "queued"), counted("jobs", "completed")), (jobs, jobs), "{report:#}");
    assert_eq!(counted("jobs", "lost") + counted("runners", "leaked"), 0, "{report:#}");
    assert!(counted("runners", "created") >= jobs, "{report:#}");
    assert_eq!((&report["violations"], &report["webhook_errors"]), (&0.into(), &0.into()), "{report:#}");
    assert_eq!(report["faults"].as_array().unwrap().len(), 0, "{report:#}");
    for times in ["webhook_ms", "webhook_to_create_ms"] {
        let [half, nearly_all, all] = ["p50", "p99", "max"].map(|key| report[times][key].as_f64().unwrap());
        assert!(0.0 < half && half <= nearly_all && nearly_all <= all, "{times}: {report:#}");
    }
    for figure in ["webhooks_per_s", "creates_per_s", "seconds"] {
        assert!(report[figure].as_f64().unwrap() > 0.0, "{figure}: {report:#}");
    }
    // A registration and its end are two calls at the least, but GitHub ends that of a runner that had its job.
    assert!(report["github_calls_per_job"].as_f64().unwrap() >= 1.0, "{report:#}");
    assert_eq!(output.status.code(), Some(0));
}

fn has_redis() -> bool {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "CI has no redis-server");
    found
}

#[test]
fn a_few_jobs_run_over_a_file() {
    let output = load(&["--jobs", "30", "--groups", "2", "--max", "5", "--idle-seconds", "1", "--json"]);
    assert_all_is_well(&output, 30);
    let report = report(&output);
    let processes = |figure: &str| report[figure].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(processes("cpu_s"), ["outside", "replica-0"]);
    assert_eq!(processes("rss_mib"), ["outside", "replica-0"]);
    assert_eq!(report["redis_commands_per_job"], Value::Null);
    assert!(report["idle"]["seconds"].as_f64().unwrap() >= 1.0, "{report:#}");
    assert!(report["machine_calls"].as_object().unwrap().is_empty(), "{report:#}");
    assert!(report["runners"]["max_alive"].as_u64().unwrap() <= 10, "{report:#}");
}

#[test]
fn a_few_jobs_run_over_a_redis_with_idle_runners_at_the_start() {
    if !has_redis() {
        return;
    }
    let output = load(&[
        "--store",
        "redis",
        "--replicas",
        "2",
        "--jobs",
        "30",
        "--rate",
        "100",
        "--groups",
        "2",
        "--runners-at-start",
        "6",
        "--json",
    ]);
    assert_all_is_well(&output, 30);
    let report = report(&output);
    let names = report["cpu_s"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names, ["outside", "redis", "replica-0", "replica-1"]);
    assert!(report["redis_commands_per_job"].as_f64().unwrap() > 1.0, "{report:#}");
    // One job each is what a runner takes, and each was replaced.
    assert_eq!(report["runners"]["created"], 36, "{report:#}");
}

#[test]
fn machines_call_replicas_that_share_a_redis() {
    if !has_redis() {
        return;
    }
    let arguments = ["--store", "redis", "--replicas", "2", "--runners-at-start", "4", "--jobs", "10"];
    let calling = ["--job-seconds", "2", "--callback", "--heartbeat", "1", "--idle-seconds", "3", "--json"];
    let output = load(&[&arguments[..], &calling].concat());
    assert_all_is_well(&output, 10);
    let report = report(&output);
    let calls = |answer: &str| report["machine_calls"][answer].as_u64().unwrap_or(0);
    // Each machine asked once and was given its own; the last ones are idle. What a machine says when its job has ended may
    // come too late: it is deleted on GitHub's word.
    for (once, machines) in [("script 200", 14), ("jit-config 200", 14), ("job-started 204", 10)] {
        assert_eq!(calls(once), machines, "{once}: {report:#}");
    }
    assert!(calls("heartbeat 200") >= 4 * 3, "{report:#}");
    assert!(report["idle"]["machine_calls_per_s"].as_f64().unwrap() > 2.0, "{report:#}");
}

#[test]
fn webhooks_alone_are_measured_without_their_jobs() {
    let output = load(&["--webhooks-only", "--jobs", "50", "--connections", "4", "--json"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!((&report["jobs"]["queued"], &report["jobs"]["completed"]), (&50.into(), &0.into()));
    assert_eq!(report["runners"]["created"], 1, "{report:#}");
    assert!(report["webhooks_per_s"].as_f64().unwrap() > 0.0, "{report:#}");
}

#[test]
fn a_person_reads_the_figures() {
    let output = load(&["--jobs", "3"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("3 queued, 3 completed, 0 lost"), "{told}");
    assert!(!told.contains("FAILED"), "{told}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let output = load(&["--replicas", "2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--store redis"), "{output:?}");
}
