//! What operators see and do: commands and the API against a real manager, and whether the API is as it describes
//! itself.

use std::collections::BTreeSet;
use std::process::Output;

use runner_manager_core::domain::{DeploymentName, Owner, Secret};
use runner_manager_core::testing::simulator::DEFAULT_TOKEN;
use serde_json::{Value, json};

use crate::support::{PATIENCE, System, TOKEN, client, output, raw};

/// The token of an admin; the usual one of the tests is a viewer's.
const ADMIN: &str = "an-admin-token-of-the-tests";
/// The group whose runners the tests are about; it keeps one.
const GROUP: &str = "plain";

fn with_admin(configuration: &str) -> String {
    let both = format!("{{name: ops, role: admin, token: {ADMIN}}}, {{name: tests,");
    configuration.replacen("{name: tests,", &both, 1).replacen("max: 3", "min_idle: 1, max: 3", 1)
}

fn start() -> System {
    System::start_with(|configuration| with_admin(&configuration))
}

fn run_as(token: &str, system: &System, command: &[&str]) -> Output {
    output(&[command, &["--url", &system.manager.url, "--token", token]].concat())
}

/// What a command prints, which succeeds.
fn done(system: &System, command: &[&str]) -> String {
    let done = run_as(ADMIN, system, command);
    assert!(done.status.success(), "{command:?}: {}", text(&done.stderr));
    text(&done.stdout)
}

/// What a command says that fails.
fn refused(token: &str, system: &System, command: &[&str]) -> String {
    let refused = run_as(token, system, command);
    assert_eq!(refused.status.code(), Some(1), "{command:?}: {}", text(&refused.stdout));
    assert!(refused.stdout.is_empty());
    text(&refused.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn post(system: &System, token: &str, path: &str, body: &Value) -> (u16, Value) {
    let request = client().post(format!("{}{path}", system.manager.url)).bearer_auth(token).json(body);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// The group's draining, as the API tells it.
async fn draining(system: &System) -> Value {
    let groups = system.get("/api/v1/groups").await;
    let group = groups["items"].as_array().unwrap().iter().find(|group| group["name"] == GROUP).unwrap();
    group["draining"].clone()
}

/// Waits for the runner that the group keeps, with an instance, and tells its name.
async fn a_runner(system: &System) -> String {
    let there = |told: &Value| told["items"][0]["state"] == "booting";
    let runners = system.wait_for("/api/v1/runners", there).await;
    runners["items"][0]["name"].as_str().unwrap().to_owned()
}

/// GitHub says that a runner runs a job.
async fn job_begins(system: &System, runner: &str) {
    let example = "/../runner-manager-core/tests/data/github/webhook-examples/in_progress.payload.json";
    let payload = std::fs::read_to_string(format!("{}{example}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut payload: Value = serde_json::from_str(&payload).unwrap();
    payload["workflow_job"]["runner_name"] = runner.into();
    let (status, answer) = system.post("workflow_job", "begins", payload.to_string().into_bytes()).await;
    assert_eq!(status, 202, "{answer}");
    system.wait_for("/api/v1/runners", |told| state_of(told, runner) == "busy").await;
}

fn state_of<'t>(told: &'t Value, runner: &str) -> &'t Value {
    &told["items"].as_array().unwrap().iter().find(|one| one["name"] == *runner).unwrap()["state"]
}

#[tokio::test]
async fn a_group_is_drained_and_resumed() {
    let system = start();
    assert!(done(&system, &["drain", GROUP]).starts_with("plain drains: "));
    assert_eq!(draining(&system).await, "operator");
    assert!(done(&system, &["groups"]).contains("draining"));
    assert!(done(&system, &["resume", GROUP]).starts_with("plain makes runners: "));
    assert_eq!(draining(&system).await, Value::Null);
    let group: Value = serde_json::from_str(&done(&system, &["drain", GROUP, "--json"])).unwrap();
    assert_eq!((&group["name"], &group["draining"]), (&json!(GROUP), &json!("operator")));

    assert_eq!(
        refused(ADMIN, &system, &["drain", "plian"]).trim(),
        "no group `plian`; there are: cluster, plain"
    );
    assert!(refused(TOKEN, &system, &["resume", GROUP]).contains("the token `tests` may only look"));
    assert!(refused("nobodys-token-at-all", &system, &["resume", GROUP]).contains("the token is not known"));
    assert_eq!(draining(&system).await, "operator");
    let log = system.manager.log();
    let line = log.lines().find(|line| line.contains("an operator drains a group")).unwrap();
    assert!(line.contains("\"by\":\"ops\"") && line.contains("\"group\":\"plain\""), "{line}");
    assert!(!log.contains(ADMIN), "a token was logged");
}

#[tokio::test]
async fn a_busy_runner_goes_only_by_force() {
    let system = start();
    let runner = a_runner(&system).await;
    job_begins(&system, &runner).await;
    let said = refused(ADMIN, &system, &["retire", &runner]);
    assert!(
        said.contains(&format!("{runner} runs job ")) && said.contains("force, which kills the job"),
        "{said}"
    );
    assert!(refused(TOKEN, &system, &["retire", &runner, "--force"]).contains("may only look"));
    assert_eq!(state_of(&system.get("/api/v1/runners").await, &runner), "busy");
    assert!(done(&system, &["retire", &runner, "--force"]).contains("it is being taken away"));
    let is_gone =
        |told: &Value| told["items"].as_array().unwrap().iter().any(|ended| ended["name"] == *runner);
    system.wait_for("/api/v1/ended-runners", is_gone).await;
    let said = refused(ADMIN, &system, &["retire", &runner, "--force"]);
    assert!(said.contains("ended at") && said.contains("an operator forced it"), "{said}");
    for nobody in ["tests-plain-nobody", "No name/at all?"] {
        let said = refused(ADMIN, &system, &["retire", nobody]);
        assert!(said.contains(&format!("no runner `{nobody}` is on record")), "{said}");
    }
}

#[tokio::test]
async fn a_runner_without_a_job_is_asked_to_go_in_order() {
    let system = start();
    let runner = a_runner(&system).await;
    let (status, answer) =
        post(&system, ADMIN, &format!("/api/v1/runners/{runner}/retire"), &json!({})).await;
    assert_eq!((status, &answer["outcome"]), (200, &json!("leaving")), "{answer}");
    let told = system.get("/api/v1/runners").await;
    assert_eq!(state_of(&told, &runner), "idle", "GitHub is asked twice first");
}

#[tokio::test]
async fn what_a_page_of_another_site_can_send_does_nothing() {
    let system = start();
    let url = format!("{}/api/v1/groups/{GROUP}/drain", system.manager.url);
    let send = async |kind: Option<&str>, body: &'static str| {
        let mut request = client().post(&url).basic_auth("", Some(ADMIN)).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        request.send().await.unwrap().status().as_u16()
    };
    for kind in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/form-data")]
    {
        assert_eq!(send(kind, "{}").await, 415, "{kind:?}");
    }
    assert_eq!(client().get(&url).bearer_auth(ADMIN).send().await.unwrap().status(), 405);
    assert_eq!(send(Some("application/json"), "").await, 400);
    assert_eq!(send(Some("application/json"), "{\"for\": 1}").await, 422);
    assert_eq!(draining(&system).await, Value::Null);
    assert_eq!(send(Some("application/json"), "{}").await, 200);
    assert_eq!(draining(&system).await, "operator");
}

#[tokio::test]
async fn status_and_top_tell_how_everything_is() {
    let system = start();
    a_runner(&system).await;
    let status = done(&system, &["status"]);
    for part in ["1 replica, configuration 1", "tasks: ", "GROUP", "plain", "organization:Codertocat", "1/3"]
    {
        assert!(status.to_lowercase().contains(&part.to_lowercase()), "{part} is missing in\n{status}");
    }
    let told: Value = serde_json::from_str(&done(&system, &["status", "--json"])).unwrap();
    assert_eq!((&told["remarks"], &told["deployment"]["store_trusted"]), (&json!([]), &json!(true)));
    let top = done(&system, &["top", "--count", "2", "--interval", "1"]);
    assert_eq!(top.matches("GROUP").count(), 2, "{top}");
    assert!(!top.contains('\u{1b}'), "it is no terminal: {top:?}");
    let lines = done(&system, &["top", "--count", "2", "--interval", "1", "--json"]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line["groups"][1]["name"] == GROUP), "{lines:?}");
    let nobody = output(&["status", "--url", "http://127.0.0.1:9"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("http://127.0.0.1:9/ does not answer"));
}

/// Registers runners that nobody has a record of, at a GitHub whose manager has yet to start.
fn put_ghosts(configuration: &str, count: usize) {
    let address = configuration.split("http://").nth(1).unwrap().split('\'').next().unwrap();
    let key = Secret::new("a-secret-key-of-the-tests-0123456789");
    let owner = Owner::new(DeploymentName::new("tests").unwrap(), &key);
    for n in 0..count {
        let body =
            json!({"name": format!("tests-plain-ghost{n}"), "runner_group_id": 1, "labels": [owner.label()]});
        let body = body.to_string();
        let request = format!(
            "POST /orgs/codertocat/actions/runners/generate-jitconfig HTTP/1.1\r\nhost: {address}\r\n\
             authorization: Bearer {DEFAULT_TOKEN}\r\nuser-agent: tests\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = raw(address.parse().unwrap(), request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
}

#[tokio::test]
async fn a_sweep_that_stopped_is_shown_and_goes_on_with_what_was_shown() {
    let scope = "organization:codertocat";
    let system = System::start_with(|configuration| {
        put_ghosts(&configuration, 9);
        with_admin(&configuration)
    });
    let stopped = |told: &Value| told["withheld"].as_array().is_some_and(|stops| stops.len() == 1);
    let told = system.wait_for("/api/v1/sweeps", stopped).await;
    let stop = &told["withheld"][0];
    assert_eq!(
        (&stop["source"], &stop["because"], &stop["count"]),
        (&json!(scope), &json!("too_much"), &json!(9))
    );
    let mark = stop["mark"].as_str().unwrap();

    let ready = system.get("/readyz").await;
    let remark = ready["remarks"][0].as_str().unwrap();
    assert!(remark.starts_with(&format!("the sweep of {scope} stopped: it would condemn 9 of ")), "{remark}");
    assert!(!remark.contains("ghost"), "anybody may read this");
    assert!(done(&system, &["status"]).contains(&format!("! {remark}")));
    let page =
        client().get(&system.manager.url).bearer_auth(TOKEN).send().await.unwrap().text().await.unwrap();
    assert!(page.contains(&format!("the sweep of {scope} stopped")));
    let metrics = format!("{}/metrics", system.manager.url);
    let metrics = client().get(metrics).bearer_auth(TOKEN).send().await.unwrap().text().await.unwrap();
    let gauge = format!("runner_manager_sweep_withheld{{of=\"{scope}\",because=\"too_much\"}} 9");
    assert!(metrics.contains(&gauge), "{gauge} is missing in\n{metrics}");

    let shown = done(&system, &["sweep", "show"]);
    assert!(shown.contains("forget the registration tests-plain-ghost3"), "{shown}");
    let said = refused(ADMIN, &system, &["sweep", "go-on", scope]);
    assert!(said.contains("tests-plain-ghost8") && said.contains(&format!("--mark {mark}")), "{said}");
    let said = refused(ADMIN, &system, &["sweep", "go-on", scope, "--mark", "00000000"]);
    assert!(said.contains("found something else meanwhile") && said.contains(mark), "{said}");
    let said = refused(ADMIN, &system, &["sweep", "go-on", "fake", "--mark", mark]);
    assert!(
        said.contains(&format!("no sweep of the instances of backend fake has stopped; stopped: {scope}")),
        "{said}"
    );
    assert!(refused(TOKEN, &system, &["sweep", "go-on", scope, "--mark", mark]).contains("may only look"));

    let said = done(&system, &["sweep", "go-on", scope, "--mark", mark]);
    assert_eq!(said.trim(), format!("the sweep of {scope} goes on with 9, at the word of ops"));
    let told = system.wait_for("/api/v1/sweeps", |told| told["withheld"] == json!([])).await;
    assert_eq!((&told["go_ons"][0]["by"], &told["go_ons"][0]["count"]), (&json!("ops"), &json!(9)));
    assert!(done(&system, &["sweep", "show"]).contains("ops had the sweep of"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_dry_run_begins_and_ends_with_a_hang_up() {
    let system = start();
    let github = system.github_url();
    let configuration = with_admin(&crate::support::configuration(&github));
    assert_eq!(system.get("/api/v1/sweeps").await["dry_run"], false);
    for (dry, file) in [(true, format!("{configuration}sweep_dry_run: true\n")), (false, configuration)] {
        crate::support::write(&system.folder, &file);
        system.manager.signal("HUP");
        system.wait_for("/api/v1/sweeps", |told| told["dry_run"] == dry).await;
        let remarks = system.get("/readyz").await["remarks"].clone();
        assert_eq!(remarks.to_string().contains("sweep_dry_run"), dry, "{remarks}");
    }
    assert!(!system.manager.log().contains("needs a restart"), "{}", system.manager.log());
}

/// What a document says about an answer.
fn schema_of(document: &Value, path: &str, method: &str, status: u16) -> Value {
    let responses = &document["paths"][path][method]["responses"];
    let mut schema = responses[status.to_string()]["content"]["application/json"]["schema"].clone();
    assert!(!schema.is_null(), "{method} {path} says nothing of {status}");
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("components".to_owned(), document["components"].clone());
    }
    schema
}

fn assert_fits(document: &Value, path: &str, method: &str, status: u16, answer: &Value) {
    let validator = jsonschema::validator_for(&schema_of(document, path, method, status)).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(answer).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{method} {path} answered {status}: {wrong:?}\n{answer:#}");
}

#[tokio::test]
async fn answers_are_as_the_api_describes_itself() {
    let system = start();
    let runner = a_runner(&system).await;
    job_begins(&system, &runner).await;
    let document = system.get("/api/v1/openapi.json").await;
    let jobs = system.get("/api/v1/jobs").await;
    let job = jobs["items"][0]["id"].to_string();

    let mut asked = BTreeSet::new();
    let get = async |path: &'static str, address: &str, status: u16| {
        let url = format!("{}{address}", system.manager.url);
        let answer = client().get(url).bearer_auth(TOKEN).timeout(PATIENCE).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{address}");
        assert_fits(&document, path, "get", status, &answer.json().await.unwrap());
        path
    };
    for path in [
        "status",
        "groups",
        "runners",
        "ended-runners",
        "jobs",
        "queue",
        "deployment",
        "sweeps",
        "openapi.json",
    ] {
        let path: &'static str = format!("/api/v1/{path}").leak();
        asked.insert(get(path, path, 200).await);
    }
    asked.insert(get("/api/v1/jobs/{id}", &format!("/api/v1/jobs/{job}"), 200).await);
    get("/api/v1/jobs/{id}", "/api/v1/jobs/1", 404).await;
    get("/api/v1/runners", "/api/v1/runners?limit=0", 400).await;

    let act = async |path: &'static str, address: String, body: Value, status: u16| {
        let (given, answer) = post(&system, ADMIN, &address, &body).await;
        assert_eq!(given, status, "{address}: {answer}");
        assert_fits(&document, path, "post", status, &answer);
        path
    };
    let retire = "/api/v1/runners/{name}/retire";
    act(retire, format!("/api/v1/runners/{runner}/retire"), json!({}), 409).await;
    asked.insert(act(retire, format!("/api/v1/runners/{runner}/retire"), json!({"force": true}), 200).await);
    act(retire, "/api/v1/runners/nobody/retire".to_owned(), json!({}), 404).await;
    for (path, what) in [("/api/v1/groups/{name}/drain", "drain"), ("/api/v1/groups/{name}/resume", "resume")]
    {
        asked.insert(act(path, format!("/api/v1/groups/{GROUP}/{what}"), json!({}), 200).await);
        act(path, format!("/api/v1/groups/nobody/{what}"), json!({}), 404).await;
    }
    let go_on = "/api/v1/sweeps/go-on";
    act(go_on, go_on.to_owned(), json!({"source": "fake", "mark": "00000000"}), 404).await;
    asked.insert(go_on);

    // What streams has no end to be looked at.
    asked.insert("/api/v1/events");
    // What machines call is asked by tests of its own.
    let described = document["paths"].as_object().unwrap().keys().map(String::as_str);
    let described = described.filter(|path| path.starts_with("/api/v1/")).collect();
    assert_eq!(asked, described, "every route was asked");
    assert_eq!(document["openapi"], "3.1.0");
}
