//! `/bootstrap/v1`: what machines ask and say, over real connections, in the words of the scripts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use runner_manager_core::domain::{RunnerName, Secret, TokenKey};
use serde_json::{Value, json};

use crate::support::{PATIENCE, System, TOKEN, client, output, raw};

const ADMIN: &str = "an-admin-token-of-the-tests";
const SECRET_KEY: &str = "a-secret-key-of-the-tests-0123456789";
const FORM: &str = "application/x-www-form-urlencoded";

/// A system whose machines are told to call; nothing runs on them but what a test says for them.
fn configured(configuration: &str) -> String {
    let admin = format!("{{name: ops, role: admin, token: {ADMIN}}}, {{name: tests,");
    configuration
        .replacen("{name: tests,", &admin, 1)
        .replacen("server:\n", "server:\n  bootstrap_url: http://127.0.0.1:9/machines/\n", 1)
        .replacen("fake: {kind: fake}", "fake: {kind: fake, behaviour: {callback: true}}", 1)
        .replacen("max: 3", "min_idle: 1, max: 1", 1)
}

/// A machine of the one runner. Whatever it is answered is as the API describes it.
struct Machine {
    system: System,
    document: Value,
    runner: String,
    token: String,
}

impl Machine {
    async fn boot() -> Self {
        let system = System::start_with(|configuration| configured(&configuration));
        let booting = |answer: &Value| answer["items"][0]["state"] == "booting";
        let runners = system.wait_for("/api/v1/runners", booting).await;
        let runner = runners["items"][0]["name"].as_str().unwrap().to_owned();
        let key = TokenKey::new(Secret::new(SECRET_KEY));
        let token = key.token(&RunnerName::new(&*runner).unwrap()).expose().to_owned();
        let document = system.get("/api/v1/openapi.json").await;
        Self { system, document, runner, token }
    }

    fn url(&self, what: &str) -> String {
        format!("{}/bootstrap/v1/runners/{}/{what}", self.system.manager.url, self.runner)
    }

    async fn say(&self, what: &str, fields: &[(&str, &str)]) -> (u16, String) {
        self.say_as("a-start-of-the-script", what, fields).await
    }

    async fn say_as(&self, boot: &str, what: &str, fields: &[(&str, &str)]) -> (u16, String) {
        let fields = &[&[("boot", boot)], fields].concat();
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = client().post(self.url(what)).bearer_auth(&self.token).header("content-type", FORM);
        let answer = request.body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        let (headers, text) = (answer.headers().clone(), answer.text().await.unwrap());
        let described = self.described(what, "post");
        let response = &described["responses"][status.to_string()];
        assert!(response.is_object(), "{what} answers {status}, which is not described");
        for header in response["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
            assert!(headers.contains_key(header), "{what} answers {status} without {header}");
        }
        match response["content"].as_object() {
            None => assert_eq!(text, "", "{what} answers {status}"),
            Some(content) => {
                let kind = headers["content-type"].to_str().unwrap().split(';').next().unwrap();
                let words = &content[kind]["schema"]["enum"];
                assert!(words.as_array().is_none_or(|words| words.contains(&json!(text))), "{what}: {text}");
            }
        }
        if (200..300).contains(&status) {
            assert_is_a_form(described, what, fields);
        }
        (status, text)
    }

    /// What the API says of a call.
    fn described(&self, what: &str, method: &str) -> &Value {
        let path = format!("/bootstrap/v1/runners/{{runner}}/{what}");
        let described = &self.document["paths"][&path][method];
        assert_eq!(described["security"], json!([{"machine": []}]), "{method} {path}");
        described
    }

    async fn registrations(&self) -> Vec<Value> {
        let url = format!("{}/_simulator/runners", self.system.github_url());
        let answer = client().get(url).send().await.unwrap();
        serde_json::from_value(answer.json().await.unwrap()).unwrap()
    }

    async fn shown(&self) -> Value {
        let listed = self.system.get("/api/v1/runners").await;
        let all = listed["items"].as_array().unwrap();
        all.iter().find(|runner| runner["name"] == *self.runner).cloned().unwrap_or_default()
    }

    async fn retire(&self, force: bool) -> u16 {
        let url = format!("{}/api/v1/runners/{}/retire", self.system.manager.url, self.runner);
        let request = client().post(url).bearer_auth(ADMIN).json(&json!({"force": force}));
        request.send().await.unwrap().status().as_u16()
    }

    async fn until_gone(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shown().await.is_null() {
            assert!(Instant::now() < deadline, "it stays: {:#}", self.shown().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What was taken is what is described: no field more, and all that are required.
fn assert_is_a_form(described: &Value, what: &str, fields: &[(&str, &str)]) {
    let form = &described["requestBody"]["content"][FORM]["schema"];
    for (field, value) in fields {
        let property = &form["properties"][field];
        assert!(property.is_object(), "{what} has no field {field}");
        let words = property["enum"].as_array();
        assert!(words.is_none_or(|words| words.contains(&json!(value))), "{what}: {field}={value}");
    }
    for required in form["required"].as_array().unwrap() {
        assert!(fields.iter().any(|(field, _)| required == field), "{what} is done without {required}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_word_that_is_described_is_taken() {
    // In this order none is said too late.
    const CALLS: [&str; 8] =
        ["script", "jit-config", "progress", "heartbeat", "job-started", "job-completed", "left", "failed"];
    let machine = Machine::boot().await;
    let described = machine.document["paths"].as_object().unwrap().keys();
    let described = described.filter_map(|path| path.strip_prefix("/bootstrap/v1/runners/{runner}/"));
    assert_eq!(described.collect::<BTreeSet<_>>(), BTreeSet::from(CALLS));
    assert!(machine.described("script", "get")["responses"]["200"].is_object());
    for what in &CALLS[1..] {
        let form = &machine.described(what, "post")["requestBody"]["content"][FORM]["schema"];
        let fields = form["properties"].as_object().unwrap();
        let words = fields.iter().find_map(|(field, property)| Some((field, property["enum"].as_array()?)));
        let job =
            [("run_id", "77"), ("run_attempt", "1"), ("repository", "Codertocat/app"), ("job", "build")];
        let job = if what.starts_with("job-") { &job[..] } else { &[] };
        let said: Vec<Vec<(&str, &str)>> = match words {
            Some((field, words)) => {
                words.iter().map(|word| vec![(field.as_str(), word.as_str().unwrap())]).collect()
            }
            None => vec![job.to_vec()],
        };
        for fields in said {
            let (status, answer) = machine.say(what, &fields).await;
            assert!((200..300).contains(&status), "{what} {fields:?}: {status} {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_given_its_script_and_its_config_and_leaves_when_asked() {
    let machine = Machine::boot().await;
    let script = client().get(machine.url("script")).bearer_auth(&machine.token).send().await.unwrap();
    assert_eq!(script.status(), 200);
    assert_eq!(script.headers()["cache-control"], "no-store");
    let script = script.text().await.unwrap();
    assert!(script.starts_with("#!/bin/bash\n") && script.contains(&machine.token), "{script}");
    assert!(script.contains("url='http://127.0.0.1:9/machines' "), "{script}");

    assert_eq!(machine.say("progress", &[("step", "began")]).await.0, 204);
    assert_eq!(machine.registrations().await.len(), 0, "nothing before it asks");
    let (status, config) = machine.say("jit-config", &[]).await;
    assert_eq!((status, machine.registrations().await.len()), (200, 1));
    let (status, another) = machine.say("jit-config", &[]).await;
    assert_eq!((status, machine.registrations().await.len()), (200, 1), "the first one was lost");
    assert_ne!(config, another);
    assert_eq!(machine.say_as("another-start", "jit-config", &[]).await.0, 409);

    assert_eq!(machine.say("progress", &[("step", "listening")]).await.0, 204);
    assert_eq!(machine.shown().await["state"], "idle");
    assert_eq!(machine.say("jit-config", &[]).await.0, 409, "its listener was seen");
    assert_eq!(machine.say("heartbeat", &[("state", "idle")]).await, (200, "stay".to_owned()));
    assert_eq!(machine.retire(false).await, 200);
    assert_eq!(machine.say("heartbeat", &[("state", "idle")]).await, (200, "leave".to_owned()));
    assert_eq!(
        machine.say("left", &[("reason", "asked"), ("detail", "the runner ended with 0")]).await.0,
        204
    );
    machine.until_gone().await;
    assert!(machine.registrations().await.iter().all(|runner| runner["name"] != *machine.runner));
    assert_eq!(machine.say("heartbeat", &[("state", "idle")]).await.0, 410);
    assert_eq!(machine.say("jit-config", &[]).await.0, 410);
    assert_eq!(machine.say("left", &[("reason", "asked")]).await.0, 204);
    let ended = machine.system.get("/api/v1/ended-runners").await;
    let told: Vec<&str> = ended["items"][0]["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|told| told["what"].as_str().unwrap())
        .collect();
    assert_eq!(
        told,
        [
            "its script began",
            "asked for its JIT config",
            "GitHub registered it and gave JIT config 1",
            "GitHub registered it and gave JIT config 2",
            "its listener waits for jobs",
            "left: asked: the runner ended with 0",
        ]
    );
    let log = machine.system.manager.log();
    for secret in [&machine.token, &config, &another] {
        assert!(!log.contains(secret.as_str()), "the log tells a secret");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_word_keeps_the_machine_and_a_failure_is_told_by_why() {
    let machine = Machine::boot().await;
    machine.say("jit-config", &[]).await;
    machine.say("progress", &[("step", "listening")]).await;
    let job = [("run_id", "77"), ("run_attempt", "1"), ("repository", "Codertocat/app"), ("job", "build")];
    assert_eq!(machine.say("job-started", &[&job[..], &[("workflow", "CI")]].concat()).await.0, 204);
    assert_eq!(machine.shown().await["state"], "busy");
    assert_eq!(machine.retire(false).await, 409);
    assert_eq!(
        machine.say("heartbeat", &[("state", "busy"), ("leave", "refused")]).await,
        (200, "stay".to_owned())
    );
    assert_eq!(machine.say("job-completed", &job).await.0, 204);
    for wrong in [&job[1..], &[("run_id", "x"), job[1], job[2]], &[job[0], job[1], ("repository", "no")]] {
        assert_eq!(machine.say("job-started", wrong).await.0, 400, "{wrong:?}");
    }
    let told = machine.shown().await["timeline"].to_string();
    assert!(told.contains("job build of run 77, attempt 1, of Codertocat/app begins"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_fails_is_replaced_and_its_words_are_shown() {
    let machine = Machine::boot().await;
    machine.say("progress", &[("step", "downloading")]).await;
    let detail = format!("no archive\u{1b}[31m\n{}", "x".repeat(5_000));
    assert_eq!(machine.say("failed", &[("reason", "download"), ("detail", &detail)]).await.0, 204);
    machine.until_gone().await;
    let ended = machine.system.get("/api/v1/ended-runners").await;
    let (why, timeline) = (&ended["items"][0]["why"], &ended["items"][0]["timeline"]);
    assert!(why.as_str().unwrap().starts_with("its machine failed: download: no archive"), "{why}");
    let last = timeline.as_array().unwrap().last().unwrap()["what"].as_str().unwrap();
    assert!(last.len() <= 300 && !last.contains(char::is_control), "{last}");
    let queued =
        json!({"repository": "Codertocat/app", "labels": ["ubuntu-latest"], "count": 1, "seconds": 1});
    let url = format!("{}/_simulator/jobs", machine.system.github_url());
    client().post(url).json(&queued).send().await.unwrap();
}

/// The token is looked at before anything else, and a wrong one says nothing of what there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_learns_nothing_and_costs_nothing() {
    let machine = Machine::boot().await;
    let mut refusals = Vec::new();
    for (runner, token) in [
        (machine.runner.as_str(), "0".repeat(64)),
        ("tests-plain-unknown", "0".repeat(64)),
        ("tests-plain-unknown", machine.token.clone()),
        ("%2e%2e%2f", machine.token.clone()),
        (machine.runner.as_str(), TOKEN.to_owned()),
    ] {
        // A body is promised, and never sent: nobody waits for it.
        let request = format!(
            "POST /bootstrap/v1/runners/{runner}/jit-config HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             content-type: {FORM}\r\ncontent-length: 1000000000\r\n\r\n"
        );
        let answer = raw(machine.system.manager.address(), request.as_bytes());
        let without_date: Vec<&str> = answer.lines().filter(|line| !line.starts_with("date")).collect();
        refusals.push(without_date.join("\n"));
    }
    assert!(refusals[0].starts_with("HTTP/1.1 401 "), "{}", refusals[0]);
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:#?}");
    let without = client().get(machine.url("script")).send().await.unwrap();
    assert_eq!(without.status(), 401);
    assert_eq!(machine.registrations().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_calls_are_bounded() {
    let machine = Machine::boot().await;
    assert_eq!(machine.say("failed", &[("detail", &"x".repeat(70_000))]).await.0, 413);
    let json =
        client().post(machine.url("progress")).bearer_auth(&machine.token).json(&json!({"step": "began"}));
    assert_eq!(json.send().await.unwrap().status(), 415);
    assert_eq!(machine.say("progress", &[("step", "hacking")]).await.0, 400);
    assert_eq!(machine.say("heartbeat", &[]).await.0, 400);
    let mut slowed = 0;
    for _ in 0..100 {
        let (status, _) = machine.say("heartbeat", &[("state", "starting")]).await;
        assert!(status == 200 || status == 429, "{status}");
        slowed += u32::from(status == 429);
    }
    assert!(slowed > 10, "{slowed} of 100 were slowed down");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_machines_are_not_told_to_call() {
    let system = System::start_with(|configuration| {
        configured(&configuration).replacen("  bootstrap_url: http://127.0.0.1:9/machines/\n", "", 1)
    });
    let made = |answer: &Value| answer["items"][0]["state"] == "booting";
    let runners = system.wait_for("/api/v1/runners", made).await;
    assert!(runners["items"][0]["registration"].is_number(), "{runners:#}");
    let help = output(&["check", "--config", system.folder.path().join("config.yaml").to_str().unwrap()]);
    assert!(help.status.success());
}
