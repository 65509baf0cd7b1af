//! Credentials, conditional requests, paging, signatures, and the control face.

use std::collections::BTreeSet;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{Bench, ORGANIZATION};
use crate::testing::simulator::{
    AppSettings, Books, Conclusion, DEFAULT_TOKEN, Faults, Job, JobSpec, Runner, Settings,
    control::{Connect, Connected, Finish, Polled, QueueJobs, QueuedJobs, Refused},
};

/// Headers, path, status.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, u16);

const RUNNERS: &str = "/orgs/acme/actions/runners";

#[test]
fn what_github_refuses_at_the_gate_is_refused() {
    let mut bench = Bench::new();
    let good = format!("Bearer {DEFAULT_TOKEN}");
    let agent = ("user-agent", "tests");
    let cases: [Case<'_>; 7] = [
        (&[agent, ("authorization", &good)], RUNNERS, 200),
        (&[("authorization", &good)], RUNNERS, 403),
        (&[agent], RUNNERS, 401),
        (&[agent, ("authorization", "Bearer wrong")], RUNNERS, 401),
        (&[agent, ("authorization", "Basic eDp5")], RUNNERS, 401),
        (&[agent, ("authorization", &good)], "/orgs/acme/actions/walkers", 404),
        (&[agent, ("authorization", &good)], "/app", 401),
    ];
    for (headers, path, status) in cases {
        let answer = bench.send("GET", path, headers, &Value::Null);
        assert_eq!(answer.response.status(), status, "{headers:?} {path}");
        assert_eq!(answer.response.headers()["x-ratelimit-resource"], "core");
        let body: Value = serde_json::from_slice(answer.response.body()).unwrap();
        assert_eq!(body.get("message").is_some(), status != 200);
    }
    assert_eq!(bench.github.books().requests["GET /orgs/{org}/actions/runners"], 5);
    assert_eq!(bench.github.books().statuses[&401], 4);
}

#[test]
fn a_web_token_must_be_the_apps_and_in_time() {
    let mut bench = Bench::with(Settings { app: Some(AppSettings::default()), ..Settings::default() });
    let now = bench.now.as_second();
    let token = |claims: Value| {
        let encode = |text: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("Bearer {}.{}.c2ln", encode("{}"), encode(&claims.to_string()))
    };
    let cases = [
        (token(json!({"iss": 12345, "iat": now, "exp": now + 600})), 200),
        (token(json!({"iss": "Iv1.simulator", "iat": now - 60, "exp": now + 540})), 200),
        (token(json!({"iss": "12345", "iat": now - 700, "exp": now})), 401),
        (token(json!({"iss": "12345", "iat": now, "exp": now + 3600})), 401),
        (token(json!({"iss": "12345", "iat": now + 120, "exp": now + 600})), 401),
        (token(json!({"iss": "1", "iat": now, "exp": now + 600})), 401),
        ("Bearer a.b".to_owned(), 401),
    ];
    for (authorization, status) in cases {
        let headers = [("user-agent", "tests"), ("authorization", authorization.as_str())];
        let answer = bench.send("GET", "/app", &headers, &Value::Null);
        assert_eq!(answer.response.status(), status, "{authorization}");
    }
}

#[test]
fn what_the_caller_has_already_costs_nothing() {
    let tokens = vec!["one".to_owned(), "two".to_owned()];
    let mut bench = Bench::with(Settings { tokens, ..Settings::default() });
    let get = |bench: &mut Bench, token: &str, tag: &str| {
        let authorization = format!("Bearer {token}");
        let headers =
            [("user-agent", "tests"), ("authorization", authorization.as_str()), ("if-none-match", tag)];
        let response = bench.send("GET", RUNNERS, &headers, &Value::Null).response;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        (response.status().as_u16(), header("etag"), header("x-ratelimit-used"), response.body().len())
    };
    let (status, tag, used, _) = get(&mut bench, "one", "\"none\"");
    assert_eq!((status, used.as_str()), (200, "1"));
    let (status, same, used, length) = get(&mut bench, "one", &tag);
    assert_eq!((status, used.as_str(), length, &same), (304, "1", 0, &tag));
    assert_eq!(get(&mut bench, "two", &tag).0, 200, "a tag is bound to its token");
    let body = json!({"name": "r", "runner_group_id": 1, "labels": ["linux"]});
    let headers = [("user-agent", "tests"), ("authorization", "Bearer one")];
    bench.send("POST", &format!("{RUNNERS}/generate-jitconfig"), &headers, &body);
    assert_eq!(get(&mut bench, "one", &tag).0, 200, "something changed");
}

#[test]
fn pages_cover_a_listing_and_shift_with_it() {
    let mut bench = Bench::new();
    let mut ids = BTreeSet::new();
    for _ in 0..45 {
        bench.register(ORGANIZATION, &["linux"], 1);
    }
    let (_, first, headers) = bench.call("GET", &format!("{RUNNERS}?per_page=20"), &Value::Null);
    let link = headers["link"].to_str().unwrap();
    assert_eq!(
        link,
        "<https://api.github.com/orgs/acme/actions/runners?page=2&per_page=20>; rel=\"next\", \
         <https://api.github.com/orgs/acme/actions/runners?page=3&per_page=20>; rel=\"last\""
    );
    let entries = |page: &Value| page["runners"].as_array().unwrap().clone();
    ids.extend(entries(&first).iter().map(|one| one["id"].as_u64().unwrap()));
    for page in [2, 3, 4] {
        let page = bench.get(&format!("{RUNNERS}?per_page=20&page={page}"));
        assert_eq!(page["total_count"], 45);
        ids.extend(entries(&page).iter().map(|one| one["id"].as_u64().unwrap()));
    }
    assert_eq!(ids.len(), 45);
    assert_eq!(entries(&bench.get(RUNNERS)).len(), 30, "the default");
    assert_eq!(entries(&bench.get(&format!("{RUNNERS}?per_page=1000"))).len(), 45);

    // One of the first page goes: who reads on misses the one that has moved up.
    assert_eq!(bench.delete(&format!("{RUNNERS}/1")), 204);
    let second = bench.get(&format!("{RUNNERS}?per_page=20&page=2"));
    assert_eq!(entries(&second)[0]["id"], 22);
}

#[test]
fn a_jit_config_is_files_in_base64_as_githubs_is() {
    let mut bench = Bench::new();
    bench.github.set_base_url("http://127.0.0.1:8080/");
    let (jit_config, _) = bench.register("/repos/acme/widgets", &["linux"], 1);
    let decode =
        |text: &str| -> Value { serde_json::from_slice(&BASE64_STANDARD.decode(text).unwrap()).unwrap() };
    let files = decode(&jit_config);
    let names: Vec<&String> = files.as_object().unwrap().keys().collect();
    assert_eq!(names, [".credentials", ".credentials_rsaparams", ".runner"]);
    let runner = decode(files[".runner"].as_str().unwrap());
    assert_eq!((&runner["agentName"], &runner["agentId"]), (&json!("r-1"), &json!("1")));
    assert_eq!(runner["serverUrl"], "http://127.0.0.1:8080");
}

#[test]
fn deliveries_are_signed_and_named() {
    let mut bench = Bench::new();
    bench.queue("acme/widgets", &["linux"]);
    let delivery = bench.due().pop().unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(b"s3cret").unwrap();
    mac.update(&delivery.body);
    let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    let header = |name: &str| delivery.headers[name].to_str().unwrap();
    assert_eq!(header("x-hub-signature-256"), signature);
    assert_eq!(header("x-github-event"), "workflow_job");
    assert_eq!(header("x-github-delivery"), delivery.guid);
    assert_eq!(header("x-github-hook-id"), delivery.hook.to_string());
    assert_eq!(header("x-github-hook-installation-target-type"), "organization");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(delivery.url, "http://manager/webhook");
    assert!(delivery.id.0 > 1 << 53);
    bench.github.delivered(delivery.id, Some(202), bench.now);
    bench.github.delivered(delivery.id, Some(500), bench.now);
    let webhooks = bench.github.books().webhooks;
    assert_eq!((webhooks.sent, webhooks.accepted, webhooks.refused), (1, 1, 0));
}

#[test]
fn a_hook_made_with_little_sends_forms_about_pushes() {
    let mut bench = Bench::new();
    let body = json!({"config": {"url": "http://other/"}, "events": ["workflow_job"]});
    let (status, made, _) = bench.call("POST", "/repos/acme/widgets/hooks", &body);
    assert_eq!((status.as_u16(), &made["config"]["content_type"]), (201, &json!("form")));
    let ping = bench.due().pop().unwrap();
    assert_eq!((ping.event, ping.action), ("ping", None));
    assert!(ping.body.starts_with(b"payload=%7B"));
    assert!(ping.headers.get("x-hub-signature-256").is_none());
    bench.call("PATCH", &format!("/repos/acme/widgets/hooks/{}", made["id"]), &json!({"active": false}));
    bench.queue("acme/widgets", &["linux"]);
    assert_eq!(bench.due().len(), 1, "the organization's hook alone");
}

#[test]
fn nothing_comes_into_being_unless_it_may() {
    let mut bench = Bench::new();
    bench.get("/orgs/new/actions/runners");
    bench.github.settings.create_on_demand = false;
    for path in
        ["/orgs/newer/actions/runners", "/repos/new/er/actions/runners", "/enterprises/e/actions/runners"]
    {
        assert_eq!(bench.call("GET", path, &Value::Null).0, 404, "{path}");
    }
    assert!(bench.github.queue_job(&JobSpec::new("new/er", ["linux"]), bench.now).is_err());
    bench.github.add_repository("new", "er", true);
    bench.queue("new/er", &["linux"]);
}

#[test]
fn the_control_face_does_it_all_over_http() {
    let mut bench = Bench::new();
    let job = JobSpec::new("acme/widgets", ["linux"]).seconds(5);
    let queued: QueuedJobs = control(&mut bench, "POST", "jobs", &json!(QueueJobs { job, count: 2 }));
    assert_eq!(queued.jobs.len(), 2);
    let (jit_config, _) = bench.register(ORGANIZATION, &["linux"], 1);
    let connect = json!(Connect { jit_config, os: Some("windows".to_owned()) });
    let Connected { session, runner } = control(&mut bench, "POST", "agents/connect", &connect);
    assert_eq!(bench.get(&format!("{RUNNERS}/{runner}"))["os"], "windows");
    let Polled { job } = control(&mut bench, "POST", &format!("agents/{session}/poll"), &Value::Null);
    assert_eq!(job.map(|job| (job.id, job.seconds)), Some((queued.jobs[0], 5)));
    let finish = json!(Finish { conclusion: Conclusion::Success });
    let _: Value = control(&mut bench, "POST", &format!("agents/{session}/finish"), &finish);
    let books: Books = control(&mut bench, "GET", "books", &Value::Null);
    assert_eq!(&books, bench.github.books());
    assert_eq!((books.jobs.succeeded, books.jobs.queued), (1, 1));
    assert_eq!(books.requests.len(), 2, "the control face is not counted");
    let faults: Faults = control(&mut bench, "POST", "faults", &json!({"webhooks": {"lost": 0.5}}));
    assert_eq!((faults.webhooks.lost, bench.github.faults()), (0.5, &faults));
    let jobs: Vec<Job> = control(&mut bench, "GET", "jobs", &Value::Null);
    assert_eq!(jobs.len(), 2);
    bench.register(ORGANIZATION, &["linux"], 1);
    let runners: Vec<Runner> = control(&mut bench, "GET", "runners", &Value::Null);
    assert_eq!(runners.iter().collect::<Vec<_>>(), bench.github.runners().collect::<Vec<_>>());
    assert_eq!((runners.len(), runners[0].name.as_str()), (1, "r-2"));

    let refused = [
        ("POST", format!("agents/{session}/poll"), Value::Null, 410, "ended"),
        ("POST", "agents/connect".to_owned(), connect, 404, "deleted"),
        ("POST", "jobs".to_owned(), json!({"repository": "acme/widgets"}), 400, "bad_request"),
        (
            "POST",
            "jobs".to_owned(),
            json!({"repository": "a/b", "labels": [], "second": 1}),
            400,
            "bad_request",
        ),
        ("POST", format!("jobs/{}/release", queued.jobs[1]), Value::Null, 409, "wrong_state"),
        ("GET", "nothing".to_owned(), Value::Null, 404, "not_found"),
    ];
    for (method, path, body, status, word) in refused {
        let response = bench.send(method, &format!("/_simulator/{path}"), &[], &body).response;
        let refused: Refused = serde_json::from_slice(response.body()).unwrap();
        assert_eq!((response.status().as_u16(), refused.error.as_str()), (status, word), "{path}");
    }
}

fn control<T: serde::de::DeserializeOwned>(bench: &mut Bench, method: &str, path: &str, body: &Value) -> T {
    let response = bench.send(method, &format!("/_simulator/{path}"), &[], body).response;
    assert_eq!(response.status(), 200, "{path}: {:?}", response.body());
    serde_json::from_slice(response.body()).unwrap()
}
