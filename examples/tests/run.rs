//! Every example runs to its end and says what it promises.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should end there")]

use std::process::Command;

fn run(program: &str) -> String {
    let output = Command::new(program).output().unwrap();
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {}\n{told}\n{wrong}", output.status);
    told.into_owned()
}

fn has(told: &str, expected: &[&str]) {
    for line in expected {
        assert!(told.contains(line), "`{line}` is missing:\n{told}");
    }
}

#[test]
fn embedding() {
    let told = run(env!("CARGO_BIN_EXE_embedding"));
    has(&told, &["all 5 jobs ran, and every machine is gone"]);
    assert_eq!(told.matches(" of acme/app completed").count(), 5, "{told}");
}

#[test]
fn callback() {
    let told = run(env!("CARGO_BIN_EXE_callback"));
    has(&told, &["a stranger is answered 401", "it says that it is idle, and hears: stay"]);
    has(&told, &["it says that a job runs, and hears: stay"]);
    has(&told, &["on record: asked for its JIT config", " of acme/app begins", "on record: left: finished"]);
}

#[test]
fn custom_backend() {
    let told = run(env!("CARGO_BIN_EXE_custom_backend"));
    assert_eq!(told.matches(" passed").count(), 16, "{told}");
    has(&told, &["BackendKind: every_fault_is_told passed", "Backend: create_again_is_found passed"]);
    has(&told, &["Backend: list_is_complete skipped: "]);
}

#[test]
fn webhook_replay() {
    let told = run(env!("CARGO_BIN_EXE_webhook_replay"));
    has(
        &told,
        &[
            "a ping",
            "Recorded: job 289782451 of Codertocat/Hello-World is queued and counts for group codertocat",
            "It waits: group codertocat is about to request a runner",
            "It waits: no group offers label k8s",
            "completed: ",
        ],
    );
}
