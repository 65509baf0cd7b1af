//! Each fault strikes, does what it says, and is counted.

use std::{collections::BTreeSet, time::Duration};

use http::StatusCode;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{Bench, ORGANIZATION};
use crate::testing::simulator::{
    Conclusion, DEFAULT_TOKEN, DurationRange, Effect, FaultKind, JitLimit, JobSpec, LyingBusy, Removal,
    RequestFault, Violation,
};

const RUNNERS: &str = "/orgs/acme/actions/runners";

fn count(bench: &Bench, kind: FaultKind) -> u64 {
    bench.github.books().fault(kind)
}

fn with(fault: RequestFault) -> Bench {
    let mut bench = Bench::new();
    bench.github.faults_mut().requests.push(fault);
    bench
}

fn get(bench: &mut Bench, path: &str) -> (StatusCode, http::HeaderMap) {
    let (status, _, headers) = bench.call("GET", path, &Value::Null);
    (status, headers)
}

#[test]
fn nothing_goes_wrong_by_default() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.queue("acme/widgets", &["linux"]);
        let (session, path) = bench.runner(ORGANIZATION, &["linux"]);
        bench.poll(session);
        bench.get(&path);
        bench.github.finish(session, Conclusion::Success, bench.now).unwrap();
    }
    assert_eq!(bench.due().len(), 300);
    assert!(bench.github.books().faults.is_empty());
}

#[test]
fn a_lost_webhook_is_in_no_log_and_a_failed_one_is() {
    let mut bench = Bench::new();
    let hooks = bench.get("/orgs/acme/hooks");
    let log = format!("/orgs/acme/hooks/{}/deliveries", hooks[0]["id"]);
    bench.github.faults_mut().webhooks.lost = 1.0;
    bench.queue("acme/widgets", &["linux"]);
    assert!(bench.due().is_empty());
    assert_eq!(bench.get(&log), json!([]));

    bench.github.faults_mut().webhooks.lost = 0.0;
    bench.github.faults_mut().webhooks.failed = 1.0;
    bench.queue("acme/widgets", &["linux"]);
    assert!(bench.due().is_empty());
    let failed = bench.get(&log)[0].clone();
    assert_eq!(failed["status_code"], 0);
    assert_eq!(bench.get(&format!("{log}?status=failure")), json!([]), "GitHub means 400 to 599 by this");
    bench.github.faults_mut().webhooks.failed = 0.0;
    bench.call("POST", &format!("{log}/{}/attempts", failed["id"]), &Value::Null);
    let again = bench.due().pop().unwrap();
    assert_eq!(failed["guid"], again.guid);
    assert_eq!((count(&bench, FaultKind::WebhookLost), count(&bench, FaultKind::WebhookFailed)), (1, 1));
}

#[test]
fn webhooks_are_doubled_delayed_and_overtaken() {
    let mut bench = Bench::new();
    bench.github.faults_mut().webhooks.doubled = 1.0;
    bench.queue("acme/widgets", &["linux"]);
    let twins = bench.due();
    assert_eq!((twins.len(), &twins[0].guid), (2, &twins[1].guid));
    assert_eq!(twins[0].body, twins[1].body);
    assert_ne!(twins[0].id, twins[1].id);

    let mut bench = Bench::new();
    let webhooks = &mut bench.github.faults_mut().webhooks;
    webhooks.delayed = 1.0;
    webhooks.delay = DurationRange { min: SignedDuration::from_secs(5), max: SignedDuration::from_secs(9) };
    bench.queue("acme/widgets", &["linux"]);
    bench.pass(4);
    assert!(bench.due().is_empty());
    let due = bench.github.next_due().unwrap();
    bench.pass(5);
    assert!(due <= bench.now);
    assert_eq!(bench.due().len(), 1);

    let mut bench = Bench::new();
    bench.github.faults_mut().webhooks.reordered = 1.0;
    bench.queue("acme/widgets", &["first"]);
    bench.github.faults_mut().webhooks.reordered = 0.0;
    bench.queue("acme/widgets", &["second"]);
    let bodies: Vec<Value> =
        bench.due().iter().map(|one| serde_json::from_slice(&one.body).unwrap()).collect();
    let labels: Vec<&Value> = bodies.iter().map(|body| &body["workflow_job"]["labels"][0]).collect();
    assert_eq!(labels, ["second", "first"]);
    bench.github.faults_mut().webhooks.reordered = 1.0;
    bench.queue("acme/widgets", &["last"]);
    assert!(bench.due().is_empty());
    bench.pass(10);
    assert_eq!(bench.due().len(), 1, "nothing came that overtook it");
    assert_eq!(count(&bench, FaultKind::WebhookReordered), 2);

    let mut bench = Bench::new();
    let faults = &mut bench.github.faults_mut().webhooks;
    (faults.reordered, faults.delayed, faults.delay.min) = (1.0, 0.0, SignedDuration::from_secs(60));
    bench.queue("acme/widgets", &["held"]);
    let faults = &mut bench.github.faults_mut().webhooks;
    (faults.reordered, faults.delayed) = (0.0, 1.0);
    bench.queue("acme/widgets", &["delayed"]);
    bench.pass(10);
    assert_eq!(bench.due().len(), 1, "it waits no longer for one that is delayed");
}

#[test]
fn answers_are_injected_on_their_route_in_their_time() {
    let mut bench = Bench::new();
    let outage = Effect::Answer { status: 502, retry_after: None };
    let until = bench.now + SignedDuration::from_secs(60);
    let fault = RequestFault::always(outage).on("GET", "/orgs/*/actions/runners").until(until);
    bench.github.faults_mut().requests.push(fault);
    assert_eq!(get(&mut bench, RUNNERS).0, 502);
    assert_eq!(get(&mut bench, &format!("{RUNNERS}/downloads")).0, 502);
    assert_eq!(get(&mut bench, &format!("/api/v3{RUNNERS}")).0, 502);
    assert_eq!(get(&mut bench, "/orgs/acme/hooks").0, 200);
    bench.register(ORGANIZATION, &["linux"], 1);
    bench.pass(60);
    assert_eq!(get(&mut bench, RUNNERS).0, 200);
    assert_eq!(count(&bench, FaultKind::AnswerError), 3);

    for (status, kind) in [(403, FaultKind::Answer403), (429, FaultKind::Answer429)] {
        let mut bench = with(RequestFault::always(Effect::Answer { status, retry_after: Some(7) }));
        let (given, headers) = get(&mut bench, RUNNERS);
        assert_eq!((given.as_u16(), &headers["retry-after"]), (status, &"7".parse().unwrap()));
        bench.github.faults_mut().requests[0].effect = Effect::Answer { status, retry_after: None };
        assert!(get(&mut bench, RUNNERS).1.get("retry-after").is_none());
        assert_eq!(count(&bench, kind), 2);
    }
}

#[test]
fn a_probability_strikes_now_and_then() {
    let effect = Effect::Answer { status: 500, retry_after: None };
    let mut bench = with(RequestFault::always(effect).with_probability(0.25));
    let failed = (0..400).filter(|_| get(&mut bench, RUNNERS).0 == 500).count();
    assert!((50..150).contains(&failed), "{failed} of 400");
    assert_eq!(count(&bench, FaultKind::AnswerError), failed as u64);
}

#[test]
fn answers_are_held_back_and_replies_lost_after_the_effect() {
    let range = DurationRange { min: SignedDuration::from_secs(1), max: SignedDuration::from_secs(2) };
    let mut bench = with(RequestFault::always(Effect::Delay(range)));
    bench.github.faults_mut().requests.push(RequestFault::always(Effect::LoseReply).on("POST", "/"));
    let authorization = format!("Bearer {DEFAULT_TOKEN}");
    let headers = [("authorization", authorization.as_str()), ("user-agent", "tests")];
    let body = json!({"name": "r", "runner_group_id": 1, "labels": ["linux"]});
    let answer = bench.send("POST", &format!("{RUNNERS}/generate-jitconfig"), &headers, &body);
    assert!(answer.reply_lost);
    assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&answer.latency));
    bench.github.faults_mut().requests.clear();
    let answer = bench.send("POST", &format!("{RUNNERS}/generate-jitconfig"), &headers, &body);
    assert_eq!((answer.response.status().as_u16(), answer.reply_lost), (409, false));
    assert_eq!((count(&bench, FaultKind::Delay), count(&bench, FaultKind::LostReply)), (1, 1));
}

#[test]
fn listings_have_holes_that_total_count_hides() {
    let mut bench = with(RequestFault::always(Effect::SkipEntries).with_probability(0.5));
    for _ in 0..40 {
        bench.register(ORGANIZATION, &["linux"], 1);
    }
    let listed = bench.get(&format!("{RUNNERS}?per_page=100"));
    let shown = listed["runners"].as_array().unwrap().len() as u64;
    assert!((5..35).contains(&shown), "{shown} of 40");
    assert_eq!(listed["total_count"], 40);
    assert_eq!(count(&bench, FaultKind::SkippedEntry), 40 - shown);
}

#[test]
fn jit_configs_are_limited_in_any_minute() {
    let mut bench = Bench::new();
    bench.github.faults_mut().jit_limit = Some(JitLimit { per_minute: 2, announced: true });
    let jit = format!("{RUNNERS}/generate-jitconfig");
    let ask = |bench: &mut Bench, name: &str| {
        let body = json!({"name": name, "runner_group_id": 1, "labels": ["linux"]});
        let (status, _, headers) = bench.call("POST", &jit, &body);
        (status.as_u16(), headers.get("retry-after").map(|value| value.to_str().unwrap().to_owned()))
    };
    assert_eq!(ask(&mut bench, "a").0, 201);
    bench.pass(30);
    assert_eq!(ask(&mut bench, "b").0, 201);
    assert_eq!(ask(&mut bench, "c"), (403, Some("31".to_owned())));
    bench.pass(30);
    assert_eq!(ask(&mut bench, "c").0, 201);
    bench.github.faults_mut().jit_limit = Some(JitLimit { per_minute: 2, announced: false });
    assert_eq!(ask(&mut bench, "d"), (403, None));
    assert_eq!(count(&bench, FaultKind::JitLimit), 2);
}

#[test]
fn an_hours_budget_runs_out_and_comes_back() {
    let mut bench = Bench::new();
    bench.github.faults_mut().hourly_budget = Some(2);
    let remaining = |headers: &http::HeaderMap| headers["x-ratelimit-remaining"].to_str().unwrap().to_owned();
    assert_eq!(remaining(&get(&mut bench, RUNNERS).1), "1");
    assert_eq!(remaining(&get(&mut bench, RUNNERS).1), "0");
    let (status, headers) = get(&mut bench, RUNNERS);
    assert_eq!((status.as_u16(), remaining(&headers)), (403, "0".to_owned()));
    assert_eq!(headers["x-ratelimit-reset"], (bench.now.as_second() + 3600).to_string().as_str());
    // The other resource has a budget of its own, and asking for the budgets costs nothing.
    let (jit, _) = bench.register(ORGANIZATION, &["linux"], 1);
    assert!(!jit.is_empty());
    let budgets = bench.get("/rate_limit");
    assert_eq!(budgets["resources"]["core"]["remaining"], 0);
    assert_eq!(budgets["resources"]["actions_runner_registration"]["used"], 1);
    bench.pass(3600);
    assert_eq!(get(&mut bench, RUNNERS).0, 200);
    assert_eq!(count(&bench, FaultKind::HourlyBudget), 1);
}

#[test]
fn a_lying_busy_lets_a_running_job_be_killed() {
    let mut bench = Bench::new();
    let lie = LyingBusy { probability: 1.0, lasts: SignedDuration::from_secs(60), spares: false };
    bench.github.faults_mut().lying_busy = vec![lie];
    let jobs = bench.github.queue_jobs(&JobSpec::new("acme/widgets", ["linux"]), 2, bench.now).unwrap();
    let (killed, killed_path) = bench.runner(ORGANIZATION, &["linux"]);
    let (spared, spared_path) = bench.runner(ORGANIZATION, &["linux"]);
    assert_eq!((bench.poll(killed), bench.poll(spared)), (Some(jobs[0]), Some(jobs[1])));
    bench.pass(59);
    assert_eq!(bench.get(&killed_path)["busy"], false);
    assert_eq!(bench.delete(&killed_path), 204);
    bench.pass(1);
    assert_eq!(bench.get(&spared_path)["busy"], true);
    assert_eq!(bench.delete(&spared_path), 422);

    let books = bench.github.books();
    let [Violation::RunningJobKilled { job, .. }] = books.violations.as_slice() else {
        panic!("{:?}", books.violations)
    };
    assert_eq!(*job, jobs[0]);
    assert_eq!(books.jobs.lost, 1);
    let kinds = [FaultKind::LyingBusy, FaultKind::LyingBusyRead, FaultKind::LyingBusyDelete];
    assert_eq!(kinds.map(|kind| books.fault(kind)), [2, 1, 1]);
    assert!(bench.github.heartbeat(killed, bench.now).is_err());
}

#[test]
fn a_lying_busy_that_spares_the_job_takes_its_runner_out_of_the_lists() {
    let mut bench = Bench::new();
    let lie = LyingBusy { probability: 1.0, lasts: SignedDuration::from_secs(60), spares: true };
    bench.github.faults_mut().lying_busy = vec![lie];
    let jobs = bench.github.queue_jobs(&JobSpec::new("acme/widgets", ["linux"]), 2, bench.now).unwrap();
    let (ends, ends_path) = bench.runner(ORGANIZATION, &["linux"]);
    let (dies, dies_path) = bench.runner(ORGANIZATION, &["linux"]);
    assert_eq!((bench.poll(ends), bench.poll(dies)), (Some(jobs[0]), Some(jobs[1])));
    for path in [&ends_path, &dies_path] {
        assert_eq!(bench.delete(path), 204);
        assert_eq!(get(&mut bench, path).0, 404);
        assert_eq!(bench.delete(path), 404);
    }
    assert_eq!((bench.github.runners().count(), bench.github.books().runners.alive), (0, 0));
    bench.pass(120);
    assert_eq!(bench.poll(ends), Some(jobs[0]), "it has its job still");
    bench.github.finish(ends, Conclusion::Success, bench.now).unwrap();
    bench.github.die(dies, bench.now).unwrap();
    bench.pass(3_600);
    bench.get("/rate_limit");
    let books = bench.github.books();
    assert_eq!((books.jobs.succeeded, books.jobs.lost, books.violations.len()), (1, 1, 0));
    assert_eq!((books.runners.alive, books.fault(FaultKind::LyingBusyDelete)), (0, 2));
    assert_eq!(books.runners.removed, [(Removal::Deleted, 2)].into());
}

#[test]
fn a_fault_more_renames_nothing() {
    let names = |lost: f64| {
        let mut bench = Bench::new();
        bench.github.faults_mut().webhooks.lost = lost;
        let one = |bench: &mut Bench| {
            bench.queue("acme/widgets", &["linux"]);
            bench.register(ORGANIZATION, &["linux"], 1).0
        };
        (0..10).map(|_| one(&mut bench)).collect::<BTreeSet<String>>()
    };
    assert_eq!(names(0.0), names(0.5));
}
