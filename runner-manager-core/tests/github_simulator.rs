//! The simulator against what GitHub publishes: each answer of each route is valid by its `OpenAPI`
//! description, each payload by the webhook schemas, and every route is walked.
#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions as tests, not their helpers")]
#![allow(clippy::needless_pass_by_value, reason = "json!(..) reads better than &json!(..) at each call")]

mod github_openapi;

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Request};
use jiff::{SignedDuration, Timestamp};
use runner_manager_core::testing::simulator::{
    AppHook, AppSettings, Conclusion, DEFAULT_TOKEN, JobSpec, Scope, SessionId, Settings, Simulator,
};
use serde_json::{Value, json};

use self::github_openapi::{OpenApi, webhooks};

/// What the extract describes and the simulator leaves out: it answers 404.
const LEFT_OUT: [&str; 32] = [
    "DELETE /app/installations/{installation_id}",
    "PUT /app/installations/{installation_id}/suspended",
    "DELETE /app/installations/{installation_id}/suspended",
    "PUT /enterprises/{enterprise}/actions/runner-groups/{runner_group_id}/runners",
    "PUT /enterprises/{enterprise}/actions/runner-groups/{runner_group_id}/runners/{runner_id}",
    "DELETE /enterprises/{enterprise}/actions/runner-groups/{runner_group_id}/runners/{runner_id}",
    "GET /enterprises/{enterprise}/actions/runners/deprecations/{version}",
    "POST /enterprises/{enterprise}/actions/runners/{runner_id}/labels",
    "PUT /enterprises/{enterprise}/actions/runners/{runner_id}/labels",
    "DELETE /enterprises/{enterprise}/actions/runners/{runner_id}/labels",
    "DELETE /enterprises/{enterprise}/actions/runners/{runner_id}/labels/{name}",
    "DELETE /installation/token",
    "PUT /orgs/{org}/actions/runner-groups/{runner_group_id}/runners",
    "PUT /orgs/{org}/actions/runner-groups/{runner_group_id}/runners/{runner_id}",
    "DELETE /orgs/{org}/actions/runner-groups/{runner_group_id}/runners/{runner_id}",
    "GET /orgs/{org}/actions/runners/deprecations/{version}",
    "POST /orgs/{org}/actions/runners/{runner_id}/labels",
    "PUT /orgs/{org}/actions/runners/{runner_id}/labels",
    "DELETE /orgs/{org}/actions/runners/{runner_id}/labels",
    "DELETE /orgs/{org}/actions/runners/{runner_id}/labels/{name}",
    "GET /orgs/{org}/installations",
    "GET /repos/{owner}/{repo}/actions/runners/deprecations/{version}",
    "POST /repos/{owner}/{repo}/actions/runners/{runner_id}/labels",
    "PUT /repos/{owner}/{repo}/actions/runners/{runner_id}/labels",
    "DELETE /repos/{owner}/{repo}/actions/runners/{runner_id}/labels",
    "DELETE /repos/{owner}/{repo}/actions/runners/{runner_id}/labels/{name}",
    "DELETE /repos/{owner}/{repo}/actions/runs/{run_id}",
    "POST /repos/{owner}/{repo}/actions/runs/{run_id}/approve",
    "GET /repos/{owner}/{repo}/actions/runs/{run_id}/attempts/{attempt_number}",
    "GET /repos/{owner}/{repo}/actions/runs/{run_id}/concurrency_groups",
    "POST /repos/{owner}/{repo}/actions/runs/{run_id}/deployment_protection_rule",
    "POST /repos/{owner}/{repo}/hooks/{hook_id}/tests",
];

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

/// Sends requests, and checks each of them and each answer.
struct Client {
    github: Simulator,
    openapi: OpenApi,
    now: Timestamp,
    token: String,
    /// Statuses seen, by operation.
    seen: BTreeMap<String, BTreeSet<u16>>,
}

impl Client {
    fn new() -> Self {
        let hook = AppHook { url: "http://app/webhook".to_owned(), secret: "app-secret".to_owned() };
        let app = AppSettings { hook: Some(hook), ..AppSettings::default() };
        let mut github = Simulator::new(Settings { app: Some(app), ..Settings::default() });
        github.add_organization("acme", Some("big"));
        github.add_repository("acme", "widgets", true);
        github.add_repository("acme", "gadgets", true);
        github.add_organization("other", Some("big"));
        let now = "2026-03-01T12:00:00.25Z".parse().unwrap();
        let token = DEFAULT_TOKEN.to_owned();
        Self { github, openapi: OpenApi::load(), now, token, seen: BTreeMap::new() }
    }

    /// As the App itself.
    fn as_app(&mut self) {
        let now = self.now.as_second();
        let encode = |claims: &Value| BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
        let claims = json!({"iss": "12345", "iat": now - 60, "exp": now + 540});
        self.token = format!("{}.{}.c2ln", encode(&json!({"alg": "RS256", "typ": "JWT"})), encode(&claims));
    }

    fn as_user(&mut self) {
        DEFAULT_TOKEN.clone_into(&mut self.token);
    }

    /// A valid request.
    fn call(&mut self, method: &str, path: &str, body: Value) -> Reply {
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let faults = self.openapi.check_request(method, path, &bytes);
        assert!(faults.is_empty(), "request {method} {path}: {faults:#?}");
        self.call_wrongly(method, path, bytes)
    }

    /// A request that may be invalid; its answer may not.
    fn call_wrongly(&mut self, method: &str, path: &str, body: Bytes) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .header("user-agent", "tests")
            .body(body)
            .unwrap();
        let response = self.github.handle(&request, self.now).response;
        let (status, body) = (response.status().as_u16(), response.body().clone());
        let faults = self.openapi.check_answer(method, path, status, &body);
        assert!(
            faults.is_empty(),
            "answer to {method} {path}: {faults:#?}\n{}",
            String::from_utf8_lossy(&body)
        );
        let bare = path.split('?').next().unwrap();
        if let Some(operation) = self.openapi.operation(method, bare) {
            self.seen.entry(operation).or_default().insert(status);
        }
        let headers = response.headers().clone();
        Reply { status, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    fn get(&mut self, path: &str) -> Value {
        let reply = self.call("GET", path, Value::Null);
        assert_eq!(reply.status, 200, "GET {path}");
        reply.body
    }

    fn expect(&mut self, status: u16, method: &str, path: &str, body: Value) -> Value {
        let reply = self.call(method, path, body);
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.body);
        reply.body
    }

    fn expect_wrong(&mut self, status: u16, method: &str, path: &str, body: &Value) {
        let reply = self.call_wrongly(method, path, Bytes::from(body.to_string()));
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.body);
    }

    fn runner(&mut self, scope: &str, name: &str, group: u64) -> (u64, SessionId) {
        let body = json!({"name": name, "runner_group_id": group, "labels": ["self-hosted", "linux", "gpu"]});
        let path = format!("{scope}/actions/runners/generate-jitconfig");
        let made = self.expect(201, "POST", &path, body);
        let jit_config = made["encoded_jit_config"].as_str().unwrap();
        let session = self.github.connect(jit_config, self.now).unwrap();
        (made["runner"]["id"].as_u64().unwrap(), session)
    }

    /// Sends all deliveries that are due to a receiver that answers this.
    fn deliver(&mut self, status: Option<u16>) -> Vec<Value> {
        let due = self.github.deliveries_due(self.now);
        for delivery in &due {
            self.github.delivered(delivery.id, status, self.now + SignedDuration::from_millis(20));
        }
        due.iter().map(|delivery| serde_json::from_slice(&delivery.body).unwrap()).collect()
    }
}

const SCOPES: [&str; 3] = ["/orgs/acme", "/repos/acme/widgets", "/enterprises/big"];

#[test]
fn every_route_answers_as_github_describes_it() {
    let mut client = Client::new();
    for scope in SCOPES {
        walk_runners(&mut client, scope);
    }
    walk_groups(&mut client, "/orgs/acme", "repositories", 500_000_001);
    walk_groups(&mut client, "/enterprises/big", "organizations", 2_000_001);
    walk_policies(&mut client);
    walk_runs(&mut client);
    walk_hooks(&mut client, "/orgs/acme");
    walk_hooks(&mut client, "/repos/acme/widgets");
    walk_app(&mut client);
    client.get("/meta");
    client.get("/rate_limit");
    client.get("/api/v3/rate_limit");

    let described: BTreeSet<String> = client.openapi.operations().into_iter().collect();
    let walked: BTreeSet<String> = client
        .seen
        .iter()
        .filter(|(_, statuses)| statuses.iter().any(|status| *status < 300))
        .map(|(operation, _)| operation.clone())
        .collect();
    let missing: BTreeSet<&str> = described.difference(&walked).map(String::as_str).collect();
    let left_out: BTreeSet<&str> = LEFT_OUT.into_iter().collect();
    assert_eq!(missing, left_out);
    for operation in LEFT_OUT {
        let (method, template) = operation.split_once(' ').unwrap();
        let filled = template.split('/').map(|segment| if segment.starts_with('{') { "1" } else { segment });
        let path = filled.collect::<Vec<_>>().join("/");
        let reply = client.call_wrongly(method, &path, Bytes::new());
        assert!(matches!(reply.status, 401 | 404), "{operation}: {}", reply.status);
    }
}

fn walk_runners(client: &mut Client, scope: &str) {
    let runners = format!("{scope}/actions/runners");
    let jit = format!("{runners}/generate-jitconfig");
    let (id, session) = client.runner(scope, "r-1", 1);
    let good = json!({"name": "r-1", "runner_group_id": 1, "labels": ["linux"], "work_folder": "_w"});
    client.expect(409, "POST", &jit, good.clone());
    for (field, wrong) in [("labels", json!([])), ("labels", json!(vec!["l"; 101])), ("name", json!("a/b"))] {
        let mut body = good.clone();
        body[field] = wrong;
        client.expect_wrong(422, "POST", &jit, &body);
        body.as_object_mut().unwrap().remove(field);
        client.expect_wrong(422, "POST", &jit, &body);
    }
    client.expect_wrong(422, "POST", &jit, &json!({"name": "r-2", "labels": ["linux"]}));
    client.expect(404, "POST", &jit, json!({"name": "r-2", "runner_group_id": 99, "labels": ["linux"]}));

    let listed = client.get(&format!("{runners}?per_page=100&name=r-1"));
    assert_eq!(listed["total_count"], 1);
    let one = client.get(&format!("{runners}/{id}"));
    assert_eq!(one, listed["runners"][0]);
    assert_eq!((&one["status"], &one["busy"]), (&json!("online"), &json!(false)));
    assert_eq!(client.get(&format!("{runners}/{id}/labels"))["total_count"], 3);
    assert_eq!(client.get(&format!("{runners}/downloads")).as_array().unwrap().len(), 6);
    client.expect(201, "POST", &format!("{runners}/registration-token"), Value::Null);
    client.expect(201, "POST", &format!("{runners}/remove-token"), Value::Null);

    let job = client.github.queue_job(&JobSpec::new("acme/widgets", ["GPU"]), client.now).unwrap();
    assert_eq!(client.github.poll(session, client.now).unwrap().unwrap().id, job);
    assert_eq!(client.get(&format!("{runners}/{id}"))["busy"], true);
    client.expect(422, "DELETE", &format!("{runners}/{id}"), Value::Null);
    client.github.finish(session, Conclusion::Success, client.now).unwrap();
    client.expect(404, "GET", &format!("{runners}/{id}"), Value::Null);
    client.expect(404, "DELETE", &format!("{runners}/{id}"), Value::Null);

    let (id, session) = client.runner(scope, "r-2", 1);
    client.expect(204, "DELETE", &format!("{runners}/{id}"), Value::Null);
    assert!(client.github.poll(session, client.now).is_err());
}

fn walk_groups(client: &mut Client, scope: &str, chosen: &str, chosen_id: u64) {
    let groups = format!("{scope}/actions/runner-groups");
    let field = match chosen {
        "repositories" => "selected_repository_ids",
        _ => "selected_organization_ids",
    };
    let body = json!({"name": "gpu", "visibility": "selected", field: [chosen_id],
        "allows_public_repositories": true, "restricted_to_workflows": false, "selected_workflows": []});
    let made = client.expect(201, "POST", &groups, body);
    let group = format!("{groups}/{}", made["id"]);
    assert_eq!(client.get(&groups)["total_count"], 2);
    let (parameter, hidden) = match chosen {
        "repositories" => ("visible_to_repository", "gadgets"),
        _ => ("visible_to_organization", "other"),
    };
    let shown = if hidden == "other" { "acme" } else { "widgets" };
    assert_eq!(client.get(&format!("{groups}?{parameter}={shown}"))["total_count"], 2);
    assert_eq!(client.get(&format!("{groups}?{parameter}={hidden}"))["total_count"], 1);
    assert_eq!(client.get(&group)["name"], "gpu");
    assert_eq!(client.get(&format!("{groups}/1"))["name"], "Default");
    let changed = client.expect(200, "PATCH", &group, json!({"name": "big-gpu", "visibility": "all"}));
    assert_eq!((&changed["name"], &changed["visibility"]), (&json!("big-gpu"), &json!("all")));
    assert_eq!(client.get(&format!("{group}/{chosen}"))["total_count"], 1);
    client.expect(204, "PUT", &format!("{group}/{chosen}"), json!({ field: [] }));
    assert_eq!(client.get(&format!("{group}/{chosen}"))["total_count"], 0);
    client.expect(204, "PUT", &format!("{group}/{chosen}/{chosen_id}"), Value::Null);
    assert_eq!(client.get(&format!("{group}/{chosen}"))["total_count"], 1);
    client.expect(204, "DELETE", &format!("{group}/{chosen}/{chosen_id}"), Value::Null);
    let (id, _) = client.runner(scope, "grouped", made["id"].as_u64().unwrap());
    assert_eq!(client.get(&format!("{group}/runners"))["runners"][0]["id"], id);
    client.expect(204, "DELETE", &group, Value::Null);
    client.expect(404, "GET", &group, Value::Null);
    assert_eq!(client.get(&format!("{groups}/1/runners"))["runners"][0]["id"], id);
    client.expect(204, "DELETE", &format!("{scope}/actions/runners/{id}"), Value::Null);
}

fn walk_policies(client: &mut Client) {
    assert_eq!(client.get("/orgs/acme")["login"], "acme");
    assert_eq!(client.get("/orgs/acme/repos")[0]["id"], 500_000_001);
    assert_eq!(client.get("/repos/acme/widgets")["id"], 500_000_001);
    for (place, field, off) in [
        ("/orgs/acme/actions/permissions", "enabled_repositories", json!("none")),
        ("/repos/acme/widgets/actions/permissions", "enabled", json!(false)),
    ] {
        let before = client.get(place)[field].clone();
        client.expect(204, "PUT", place, json!({ field: off }));
        assert_eq!(client.get(place)[field], off);
        client.expect(204, "PUT", place, json!({ field: before }));
        assert_eq!(client.get(place)[field], before);
    }
}

fn walk_runs(client: &mut Client) {
    let actions = "/repos/acme/widgets/actions";
    let spec = JobSpec::new("acme/widgets", ["linux"]);
    let first = client.github.queue_job(&spec, client.now).unwrap();
    let run = client.github.job(first).unwrap().run;
    let second = client.github.queue_job(&spec.clone().in_run(run), client.now).unwrap();
    let listed = client.get(&format!("{actions}/runs?status=queued&per_page=100"));
    assert_eq!((&listed["total_count"], &listed["workflow_runs"][0]["id"]), (&json!(1), &json!(run)));
    let job = client.get(&format!("{actions}/jobs/{first}"));
    assert_eq!((&job["status"], &job["runner_id"]), (&json!("queued"), &Value::Null));
    client.expect(403, "POST", &format!("{actions}/jobs/{first}/rerun"), Value::Null);

    let (_, session) = client.runner("/orgs/acme", "r-runs", 1);
    client.github.poll(session, client.now).unwrap().unwrap();
    // One of two jobs has begun: the run is no longer found under queued, although a job is.
    assert_eq!(client.get(&format!("{actions}/runs?status=queued"))["total_count"], 0);
    assert_eq!(client.get(&format!("{actions}/runs/{run}"))["status"], "in_progress");
    client.github.finish(session, Conclusion::Failure, client.now).unwrap();
    client.expect(202, "POST", &format!("{actions}/runs/{run}/cancel"), Value::Null);
    client.expect(409, "POST", &format!("{actions}/runs/{run}/cancel"), Value::Null);
    assert_eq!(client.get(&format!("{actions}/runs/{run}"))["conclusion"], "failure");
    let cancelled = client.get(&format!("{actions}/jobs/{second}"));
    assert_eq!((&cancelled["conclusion"], &cancelled["runner_id"]), (&json!("cancelled"), &json!(0)));

    client.expect(201, "POST", &format!("{actions}/jobs/{first}/rerun"), json!({}));
    let latest = client.get(&format!("{actions}/runs/{run}/jobs?filter=latest"));
    assert_eq!(latest["total_count"], 2);
    assert_eq!(client.get(&format!("{actions}/runs/{run}/jobs?filter=all"))["total_count"], 3);
    assert_eq!(client.get(&format!("{actions}/runs/{run}/attempts/2/jobs"))["total_count"], 1);
    client.expect(202, "POST", &format!("{actions}/runs/{run}/force-cancel"), Value::Null);
    client.expect(409, "POST", &format!("{actions}/runs/{run}/force-cancel"), Value::Null);
    client.expect(201, "POST", &format!("{actions}/runs/{run}/rerun-failed-jobs"), json!({}));
    assert_eq!(client.get(&format!("{actions}/runs/{run}"))["run_attempt"], 3);
    client.expect(202, "POST", &format!("{actions}/runs/{run}/cancel"), Value::Null);
    client.expect(201, "POST", &format!("{actions}/runs/{run}/rerun"), json!({}));
    client.expect(202, "POST", &format!("{actions}/runs/{run}/cancel"), Value::Null);
    assert!(client.get(&format!("{actions}/runs"))["total_count"].as_u64().unwrap() >= 4);
}

fn walk_hooks(client: &mut Client, scope: &str) {
    let hooks = format!("{scope}/hooks");
    let config =
        json!({"url": "http://manager/webhook", "content_type": "json", "secret": "s", "insecure_ssl": "0"});
    let body = json!({"name": "web", "active": true, "events": ["workflow_job"], "config": config});
    let made = client.expect(201, "POST", &hooks, body.clone());
    assert_eq!(made["config"]["secret"], "********");
    client.expect(422, "POST", &hooks, body);
    let hook = format!("{hooks}/{}", made["id"]);
    assert_eq!(client.get(&hooks).as_array().unwrap().len(), 1);
    client.get(&hook);
    let changed = client.expect(200, "PATCH", &hook, json!({"active": true, "events": ["*"]}));
    assert_eq!(changed["events"], json!(["*"]));
    client.expect(200, "PATCH", &format!("{hook}/config"), json!({"secret": "t", "insecure_ssl": "0"}));
    client.get(&format!("{hook}/config"));
    client.expect(204, "POST", &format!("{hook}/pings"), Value::Null);
    client.deliver(Some(500));
    client.github.queue_jobs(&JobSpec::new("acme/widgets", ["none"]), 3, client.now).unwrap();
    client.deliver(None);
    client.get(&hook);

    // Two pings and three jobs, over three pages.
    let mut path = format!("{hook}/deliveries?per_page=2");
    let mut found = Vec::new();
    loop {
        let reply = client.call("GET", &path, Value::Null);
        found.extend(reply.body.as_array().unwrap().clone());
        let Some(link) = reply.headers.get("link") else { break };
        let link = link.to_str().unwrap().strip_prefix("<https://api.github.com").unwrap();
        link.split_once('>').unwrap().0.clone_into(&mut path);
    }
    assert_eq!(found.len(), 5);
    assert!(found.windows(2).all(|pair| pair[0]["id"].as_u64() > pair[1]["id"].as_u64()));
    let newest = format!("{hook}/deliveries/{}", found[0]["id"]);
    let full = client.get(&newest);
    assert_eq!(full["request"]["payload"]["action"], "queued");
    client.expect(202, "POST", &format!("{newest}/attempts"), Value::Null);
    assert_eq!(client.deliver(Some(202)).len(), 1);
    let again = client.get(&format!("{hook}/deliveries?status=success"));
    assert_eq!(again[0]["guid"], found[0]["guid"]);
    assert_eq!((&again[0]["redelivery"], &again[0]["status_code"]), (&json!(true), &json!(202)));
    client.expect_wrong(400, "GET", &format!("{hook}/deliveries?cursor=x"), &Value::Null);
    client.expect(204, "DELETE", &hook, Value::Null);
    client.expect(404, "GET", &hook, Value::Null);
}

fn walk_app(client: &mut Client) {
    client.as_app();
    assert_eq!(client.get("/app")["id"], 12345);
    assert_eq!(client.get("/app/installations").as_array().unwrap().len(), 3);
    let config = json!({"url": "http://app/other", "content_type": "json", "secret": "new"});
    client.expect(200, "PATCH", "/app/hook/config", config);
    client.get("/app/hook/config");
    let deliveries = client.get("/app/hook/deliveries");
    let delivery = format!("/app/hook/deliveries/{}", deliveries[0]["id"]);
    assert!(client.get(&delivery)["request"]["payload"]["installation"]["id"].is_u64());
    client.expect(202, "POST", &format!("{delivery}/attempts"), Value::Null);
    client.get("/enterprises/big/installation");
    client.get("/repos/acme/widgets/installation");
    let installation = client.get("/orgs/acme/installation")["id"].as_u64().unwrap();
    client.get(&format!("/app/installations/{installation}"));
    let tokens = format!("/app/installations/{installation}/access_tokens");
    let narrow = json!({"repositories": ["widgets"], "permissions": {"actions": "read"}});
    let narrow = client.expect(201, "POST", &tokens, narrow);
    assert_eq!(narrow["repository_selection"], "selected");
    client.expect(422, "POST", &tokens, json!({"permissions": {"checks": "write"}}));
    client.expect(422, "POST", &tokens, json!({"repositories": ["gizmos"]}));
    let token = client.expect(201, "POST", &tokens, Value::Null);
    client.expect(404, "POST", "/app/installations/7/access_tokens", Value::Null);

    narrow["token"].as_str().unwrap().clone_into(&mut client.token);
    let run = client.get("/repos/acme/widgets/actions/runs")["workflow_runs"][0]["id"].clone();
    let cancel = format!("/repos/acme/widgets/actions/runs/{run}/cancel");
    let refused = client.call("POST", &cancel, Value::Null);
    assert_eq!(refused.status, 403);
    assert_eq!(refused.headers["x-accepted-github-permissions"], "actions=write");
    client.expect(403, "GET", "/repos/acme/widgets/actions/runners", Value::Null);
    client.expect(403, "GET", "/orgs/acme/hooks", Value::Null);

    token["token"].as_str().unwrap().clone_into(&mut client.token);
    assert_eq!(client.get("/installation/repositories")["total_count"], 2);
    client.get("/orgs/acme/actions/runners");
    client.expect(404, "GET", "/orgs/other/actions/runners", Value::Null);
    client.expect(401, "GET", "/app", Value::Null);
    client.expect(404, "GET", "/enterprises/big/actions/runners", Value::Null);
    client.now += SignedDuration::from_hours(1);
    client.expect(401, "GET", "/orgs/acme/actions/runners", Value::Null);
    client.as_user();
    client.expect(403, "GET", "/installation/repositories", Value::Null);
    client.expect(401, "GET", "/app", Value::Null);
}

#[test]
fn every_payload_is_valid_by_the_webhook_schemas() {
    let schemas = webhooks::WebhookSchemas::load();
    let mut client = Client::new();
    client.github.add_user("somebody");
    client.github.add_repository("somebody", "private", true);
    let scope = Scope::Repository("somebody/private".to_owned());
    client.github.add_hook(&scope, "http://manager/webhook", "s", client.now).unwrap();
    let mut payloads = Vec::new();
    for repository in ["acme/widgets", "somebody/private"] {
        let spec = JobSpec::new(repository, ["linux"]);
        let waiting = client.github.queue_job(&spec.clone().waiting(), client.now).unwrap();
        client.github.release_job(waiting, client.now).unwrap();
        let skipped = client.github.queue_job(&spec, client.now).unwrap();
        client.github.skip_job(skipped, client.now).unwrap();
        let (_, session) = client.runner(&format!("/repos/{repository}"), "r", 1);
        client.github.poll(session, client.now).unwrap().unwrap();
        client.now += SignedDuration::from_secs(90);
        client.github.finish(session, Conclusion::Success, client.now).unwrap();
        payloads.extend(client.deliver(Some(202)));
    }
    let mut seen = BTreeSet::new();
    for payload in &payloads {
        let faults = schemas.check(payload);
        assert!(faults.is_empty(), "{faults:#?}\n{payload:#}");
        seen.insert(payload["action"].as_str().unwrap().to_owned());
    }
    assert_eq!(payloads.len(), 6 * 3, "the App's hook for both, the repository's for the user's");
    assert_eq!(seen, ["completed", "in_progress", "queued", "waiting"].map(str::to_owned).into());
    assert!(payloads[0].get("organization").is_some() && payloads[0].get("installation").is_some());
    assert!(payloads.iter().any(|payload| payload.get("organization").is_none()));
}

#[test]
fn a_ping_has_the_fields_of_a_real_one() {
    let mut client = Client::new();
    let config = json!({"url": "http://manager/webhook", "content_type": "json"});
    client.expect(201, "POST", "/repos/acme/widgets/hooks", json!({"config": config}));
    let ping = client.deliver(Some(202)).pop().unwrap();
    let real = webhooks::example("ping.payload.json");
    assert_eq!(keys(&ping), keys(&real));
    assert_eq!(keys(&ping["hook"]), keys(&real["hook"]));
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_checks_accept_real_payloads_and_refuse_others() {
    let schemas = webhooks::WebhookSchemas::load();
    for name in ["queued.payload.json", "waiting.payload.json", "in_progress.payload.json"] {
        let mut payload = webhooks::example(name);
        assert_eq!(schemas.check(&payload), Vec::<String>::new(), "{name}");
        payload["workflow_job"]["unheard_of"] = json!(1);
        assert_eq!(schemas.check(&payload).len(), 1, "{name}");
    }

    let mut openapi = OpenApi::load();
    let jit = "/orgs/acme/actions/runners/generate-jitconfig";
    let good = json!({"name": "r", "runner_group_id": 1, "labels": ["l"]});
    assert!(openapi.check_request("POST", jit, good.to_string().as_bytes()).is_empty());
    for (field, wrong) in [("labels", json!([])), ("runner_group_id", json!("1")), ("unheard_of", json!(1))] {
        let mut bad = good.clone();
        bad[field] = wrong;
        assert!(!openapi.check_request("POST", jit, bad.to_string().as_bytes()).is_empty(), "{field}");
    }
    let wrong_requests = [
        ("POST", jit),
        ("PUT", jit),
        ("GET", "/orgs/acme/actions/runners?unheard_of=1"),
        ("GET", "/orgs/acme/actions/runners?per_page=all"),
        ("GET", "/orgs/acme/actions/walkers"),
        ("GET", "/orgs/acme/actions/runners/one"),
    ];
    for (method, path) in wrong_requests {
        assert!(!openapi.check_request(method, path, b"").is_empty(), "{method} {path}");
    }
    let list = "/orgs/acme/actions/runners";
    assert!(openapi.check_answer("GET", list, 200, br#"{"total_count": 0, "runners": []}"#).is_empty());
    for body in [r#"{"total_count": 0}"#, r#"{"total_count": 0, "runners": [], "more": 1}"#, "{"] {
        assert_eq!(openapi.check_answer("GET", list, 200, body.as_bytes()).len(), 1, "{body}");
    }
    assert_eq!(openapi.check_answer("GET", list, 418, b"{}").len(), 1);
}
