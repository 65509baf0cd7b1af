//! The demo as a person runs it: the real binary, the whole system.

#![expect(clippy::unwrap_used, reason = "what fails is the test")]

use std::process::{Command, Output};

use serde_json::Value;

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_runner-manager")).arg("demo").args(arguments).output().unwrap()
}

fn summary(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}; standard error: {errors}"))
}

/// Every job ran on a runner of its own, nothing is left, and no group was above its max at any time.
fn assert_all_is_well(output: &Output, jobs: u64) {
    let summary = summary(output);
    assert_eq!(summary["jobs"]["queued"], jobs, "{summary}");
    assert_eq!(summary["jobs"]["completed"], jobs, "{summary}");
    assert_eq!(summary["jobs"]["lost"], 0, "{summary}");
    let runners = &summary["runners"];
    assert!(runners["created"].as_u64().unwrap() >= jobs, "{summary}");
    assert_eq!(runners["created"], runners["deleted"], "{summary}");
    assert_eq!(runners["leaked"], 0, "{summary}");
    let groups = runners["groups"].as_object().unwrap();
    let (mut most, mut allowed) = (0, 0);
    for (name, group) in groups {
        let (alive, max) = (group["max_alive"].as_u64().unwrap(), group["max"].as_u64().unwrap());
        assert!((1..=max).contains(&alive), "{name}: {summary}");
        assert!(group["created"].as_u64().unwrap() > max, "the bound of {name} was not reached: {summary}");
        most = most.max(alive);
        allowed += max;
    }
    assert_eq!(groups.len(), 3);
    assert!((most..=allowed).contains(&runners["max_alive"].as_u64().unwrap()), "{summary}");
    let times = &summary["webhook_to_create_ms"];
    let [half, nearly_all, all] = ["p50", "p99", "max"].map(|key| times[key].as_f64().unwrap());
    assert!(0.0 < half && half <= nearly_all && nearly_all <= all, "{summary}");
    assert!(summary["seconds"].as_f64().unwrap() >= all / 1000.0, "{summary}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn fifty_jobs_run_and_nothing_is_left() {
    let output = demo(&["--jobs", "50", "--exit-when-done", "--json"]);
    assert_all_is_well(&output, 50);
}

#[test]
fn a_person_sees_what_happens() {
    let output = demo(&["--jobs", "3", "--job-seconds", "0", "--exit-when-done"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("live page: http://127.0.0.1:"), "{told}");
    assert!(told.contains("3 of 3 done"), "{told}");
    assert!(told.contains("3 jobs queued, 3 completed, 0 lost"), "{told}");
    assert!(!told.contains("FAILED"), "{told}");
}

#[test]
fn a_port_that_is_taken_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = demo(&["--jobs", "1", "--exit-when-done", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(&format!("cannot listen on port {port}")), "{told}");
}

#[test]
fn containers_run_jobs_and_nothing_is_left() {
    let docker = |arguments: &[&str]| {
        let output = Command::new("docker").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if docker(&["version", "--format", "{{.Server.Version}}"]).is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI must have a Docker engine");
        eprintln!("skipped: no Docker engine answers");
        return;
    }
    let output = demo(&["--jobs", "12", "--backend", "docker", "--exit-when-done", "--json"]);
    assert_all_is_well(&output, 12);
    let left = docker(&["ps", "--all", "--quiet", "--filter", "label=runner-manager-deployment=demo"]);
    assert_eq!(left.as_deref(), Some(""), "containers are left");
    assert_eq!(
        docker(&["images", "--quiet", "runner-manager-demo"]).as_deref(),
        Some(""),
        "an image is left"
    );
}

#[test]
fn without_a_docker_engine_it_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_runner-manager"))
        .args(["demo", "--backend", "docker", "--exit-when-done"])
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("there is no Docker engine that answers"), "{told}");
}
