//! Webhooks as GitHub documents them, and as nobody should send them.

use std::path::PathBuf;

use proptest::prelude::{any, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};
use serde_json::{Value, json};

use super::{PayloadError, SignatureError, Webhook, parse, sign, verify};
use crate::domain::{Conclusion, GitHubRunnerId, JobId, JobObservation, JobReport, Labels, RunId, Secret};

fn example(name: &str) -> Vec<u8> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/github/webhook-examples");
    std::fs::read(data.join(format!("{name}.payload.json"))).unwrap()
}

fn job(payload: &[u8]) -> JobObservation {
    match parse("workflow_job", payload).unwrap() {
        Webhook::WorkflowJob(job) => *job,
        other => panic!("{other:?}"),
    }
}

/// A payload of GitHub's with some of it changed.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut payload = serde_json::from_slice(&example(name)).unwrap();
    change(&mut payload);
    payload.to_string().into_bytes()
}

#[test]
fn every_example_of_github_is_understood() {
    let runner = |name: &str, id| JobReport::InProgress {
        runner: name.to_owned(),
        runner_id: Some(GitHubRunnerId(id)),
    };
    let completed = |conclusion, ended_at: &str| JobReport::Completed {
        conclusion,
        runner: Some("GitHub Actions 5".to_owned()),
        ended_at: Some(ended_at.parse().unwrap()),
    };
    let expected = [
        ("queued", JobReport::Queued),
        // Its job says `waiting`, but the action counts.
        ("queued.with-deployment", JobReport::Queued),
        ("waiting", JobReport::Waiting),
        ("in_progress", runner("GitHub Actions 5", 5)),
        ("in_progress.with-queued-steps", runner("GitHub Actions 6", 6)),
        ("completed.success.with-organization", completed(Conclusion::Success, "2021-08-05T10:38:16Z")),
        ("completed.failure.with-organization", completed(Conclusion::Failure, "2021-08-05T10:38:16Z")),
    ];
    for (name, report) in &expected {
        assert_eq!(job(&example(name)).report, *report, "{name}");
    }
    assert_eq!(parse("ping", &example("ping")).unwrap(), Webhook::Ping);
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/github/webhook-examples");
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), expected.len() + 1, "all examples are read");
}

#[test]
fn a_job_is_told_in_full() {
    let told =
        job(&changed("queued.with-deployment", |payload| payload["enterprise"] = json!({"slug": "inc"})));
    let expected = JobObservation {
        id: JobId(12_877_621_891),
        run: RunId(4_747_967_848),
        attempt: 1,
        repository: "lineville/elastic-machines-testing".parse().unwrap(),
        enterprise: Some("inc".to_owned()),
        public: true,
        name: "test".to_owned(),
        workflow: Some("Env Test".to_owned()),
        labels: Labels::parse(["k8s", "self-hosted"]).unwrap(),
        created_at: "2023-04-19T21:12:12Z".parse().unwrap(),
        report: JobReport::Queued,
    };
    assert_eq!(told, expected);
    assert_eq!(job(&example("queued")).enterprise, None);
}

#[test]
fn nobody_runs_a_job_whose_runner_has_no_name() {
    for (name, id) in [(json!(null), json!(null)), (json!(""), json!(0))] {
        let change = |payload: &mut Value| {
            payload["workflow_job"]["runner_name"] = name.clone();
            payload["workflow_job"]["runner_id"] = id.clone();
        };
        let completed = job(&changed("completed.success.with-organization", change)).report;
        assert!(matches!(completed, JobReport::Completed { runner: None, .. }), "{completed:?}");
        let begun = job(&changed("in_progress", change)).report;
        assert_eq!(begun, JobReport::InProgress { runner: String::new(), runner_id: None });
    }
}

#[test]
fn what_is_new_to_us_is_no_fault() {
    let with = |key: &'static str, value: Value| {
        changed("completed.success.with-organization", |payload| payload["workflow_job"][key] = value)
    };
    let conclusion = |payload: &[u8]| match job(payload).report {
        JobReport::Completed { conclusion, .. } => conclusion,
        other => panic!("{other:?}"),
    };
    assert_eq!(conclusion(&with("conclusion", json!("stale"))), Conclusion::Other);
    assert_eq!(conclusion(&with("conclusion", json!(null))), Conclusion::Other);
    assert_eq!(conclusion(&with("status", json!("new"))), Conclusion::Success);
}

#[test]
fn what_is_nothing_for_us_is_ignored_with_a_reason() {
    let label = changed("queued", |payload| payload["workflow_job"]["labels"] = json!(["linux", "a,b"]));
    let action = changed("queued", |payload| {
        payload["action"] = json!("new");
        payload["workflow_job"] = json!("new, too");
    });
    let table = [
        ("push", b"not even JSON".to_vec(), "push", "only workflow jobs"),
        ("workflow_job", label, "workflow_job.queued", "`a,b`"),
        ("workflow_job", action, "workflow_job.new", "not known"),
    ];
    for (name, payload, expected, reason) in table {
        let Webhook::Ignored { event, because } = parse(name, &payload).unwrap() else {
            panic!("{expected}")
        };
        assert_eq!(event, expected);
        assert!(because.contains(reason), "{because}");
    }
}

#[test]
fn what_cannot_be_read_is_a_fault() {
    let lacks = |key: &'static str| {
        changed("queued", |payload| {
            payload["workflow_job"].as_object_mut().unwrap().remove(key);
        })
    };
    for key in ["id", "run_id", "labels", "created_at", "name"] {
        assert!(matches!(parse("workflow_job", &lacks(key)), Err(PayloadError::Json(_))), "{key}");
    }
    let deep = "[".repeat(1_000_000);
    for payload in ["", "{}", "[]", "null", &deep] {
        assert!(matches!(parse("workflow_job", payload.as_bytes()), Err(PayloadError::Json(_))));
    }
    let repository = changed("queued", |payload| payload["repository"]["full_name"] = json!("../../etc"));
    assert!(matches!(parse("workflow_job", &repository), Err(PayloadError::Repository(_))));
}

#[test]
fn only_what_was_signed_with_one_of_our_secrets_is_believed() {
    let (old, new) = (Secret::new("old"), Secret::new("new"));
    let body = b"payload";
    let signature = sign(&old, body);
    let check = |secrets: &[Secret], body: &[u8], signature| verify(secrets, body, signature);
    assert_eq!(check(&[new.clone(), old.clone()], body, Some(&signature)), Ok(()));
    assert_eq!(check(std::slice::from_ref(&new), body, Some(&signature)), Err(SignatureError::Wrong));
    assert_eq!(check(&[], body, Some(&signature)), Err(SignatureError::Wrong));
    assert_eq!(check(std::slice::from_ref(&old), b"Payload", Some(&signature)), Err(SignatureError::Wrong));
    assert_eq!(check(std::slice::from_ref(&old), body, None), Err(SignatureError::Missing));
    let upper = format!("sha256={}", signature["sha256=".len()..].to_uppercase());
    assert_eq!(check(std::slice::from_ref(&old), body, Some(&upper)), Ok(()));
    let digits = &signature["sha256=".len()..];
    for bad in ["", "sha256=", digits, &signature[..70], &format!("{signature}00"), &format!("sha1={digits}")]
    {
        assert_eq!(
            check(std::slice::from_ref(&old), body, Some(bad)),
            Err(SignatureError::Malformed),
            "{bad}"
        );
    }
}

/// The second test case of RFC 4231, whose key and data are text.
#[test]
fn the_code_is_that_of_the_standard() {
    let signature = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(sign(&Secret::new("Jefe"), b"what do ya want for nothing?"), signature);
}

/// JSON of a few levels out of the words that payloads are made of.
fn anything() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("action"),
        Just("queued"),
        Just("workflow_job"),
        Just("labels"),
        Just("id"),
        Just("full_name"),
        Just("completed"),
        Just("repository"),
        Just("runner_id"),
        Just("created_at"),
        Just("2026-01-01T00:00:00Z"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        let pairs = proptest::collection::vec((word.clone(), inner.clone()), 0..8);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Value::from),
            pairs.prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(event in ".{0,16}", body: Vec<u8>, signature: String) {
        let _ = parse(&event, &body);
        let _ = parse("workflow_job", &body);
        let _ = verify(&[Secret::new("s")], &body, Some(&signature));
    }

    #[test]
    fn no_json_makes_it_panic(payload in anything()) {
        let _ = parse("workflow_job", payload.to_string().as_bytes());
    }

    #[test]
    fn no_change_of_one_part_of_a_payload_makes_it_panic(
        key in prop_oneof![Just("labels"), Just("runner_name"), Just("runner_id"), Just("run_attempt"), Just("id")],
        value in anything(),
    ) {
        let _ = parse("workflow_job", &changed("in_progress", |payload| payload["workflow_job"][key] = value));
    }

    #[test]
    fn no_changed_byte_passes(at in 0_usize..100, flip in 1_u8..) {
        let secret = Secret::new("s3cret");
        let mut body = example("queued")[..100].to_vec();
        let signature = sign(&secret, &body);
        assert_eq!(verify(std::slice::from_ref(&secret), &body, Some(&signature)), Ok(()));
        body[at] ^= flip;
        assert_eq!(verify(&[secret], &body, Some(&signature)), Err(SignatureError::Wrong));
    }
}
