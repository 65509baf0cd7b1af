//! `serve` as GitHub meets it: the real program, its real store, the simulated GitHub, real connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{self, PATIENCE, System, client, output, raw};

fn example(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../runner-manager-core/tests/data/github/webhook-examples");
    std::fs::read(folder.join(format!("{name}.payload.json"))).unwrap()
}

fn job_of(payload: &[u8]) -> u64 {
    serde_json::from_slice::<Value>(payload).unwrap()["workflow_job"]["id"].as_u64().unwrap()
}

fn items(listing: &Value) -> &Vec<Value> {
    listing["items"].as_array().unwrap()
}

#[tokio::test]
async fn a_queued_job_gets_a_runner_and_repeats_get_none() {
    let system = System::start();
    let payload = example("queued");
    for attempt in 0..5 {
        let (status, answer) = system.post("workflow_job", "delivery-1", payload.clone()).await;
        let outcome = if attempt == 0 { "recorded" } else { "repeated" };
        assert_eq!((status, &answer["outcome"]), (202, &json!(outcome)), "{answer}");
    }
    // The same news under another name changes nothing either.
    let (status, answer) = system.post("workflow_job", "delivery-2", payload.clone()).await;
    assert_eq!((status, &answer["outcome"]), (202, &json!("nothing_new")));
    let made = |listing: &Value| items(listing).iter().any(|runner| !runner["instance"].is_null());
    let runners = system.wait_for("/api/v1/runners", made).await;
    assert_eq!(items(&runners).len(), 1, "{runners:#}");
    assert_eq!(items(&runners)[0]["group"], "plain");
    let job = system.get(&format!("/api/v1/jobs/{}", job_of(&payload))).await;
    assert_eq!(job["state"], "queued");
    assert!(job["waits"].as_str().unwrap().contains("group plain"), "{job:#}");
}

#[tokio::test]
async fn what_keeps_a_job_waiting_is_told_with_what_failed_behind_it() {
    let full = "{kind: fake, behaviour: {zones: {zone-a: 0}}}";
    let system = System::start_with(|configuration| configuration.replace("{kind: fake}", full));
    let mut payload: Value = serde_json::from_slice(&example("queued")).unwrap();
    payload["repository"]["private"] = true.into();
    let payload = payload.to_string().into_bytes();
    assert_eq!(system.post("workflow_job", "delivery-1", payload.clone()).await.0, 202);
    let path = format!("/api/v1/jobs/{}", job_of(&payload));
    let waits = |job: &Value, what| job["waits"].as_str().is_some_and(|waits| waits.contains(what));
    let has_failed = |job: &Value| !job["failed_runners"].as_array().unwrap().is_empty();
    let job = system.wait_for(&path, |job| waits(job, "group plain is blocked") && has_failed(job)).await;
    let full = "NoCapacity: zone zone-a is full";
    assert!(job["last_error"]["detail"].as_str().unwrap().contains(full), "{job:#}");
    let failed = &job["failed_runners"][0];
    assert!(failed["what"].as_str().unwrap().contains(full) && !failed["ended_at"].is_null(), "{job:#}");
    let command =
        ["why", &job_of(&payload).to_string(), "--url", &system.manager.url, "--token", support::TOKEN];
    let said = String::from_utf8(output(&command).stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("waits since 20") && lines[0].contains("group plain"), "{said}");
    // Between two tries it is the reason itself.
    assert!(
        lines[1].starts_with("last error at 20") && format!("{}{}", lines[0], lines[1]).contains(full),
        "{said}"
    );
    assert!(lines[2].starts_with("runner tests-plain-") && lines[2].contains(": ended at 20"), "{said}");
    let page = client().get(&system.manager.url).bearer_auth(support::TOKEN).send().await.unwrap();
    assert!(page.text().await.unwrap().contains("last error at 20"));
    let ended = system.get("/api/v1/ended-runners").await;
    assert!(items(&ended)[0]["why"].as_str().unwrap().contains(full), "{ended:#}");
}

#[tokio::test]
async fn a_job_that_waits_for_a_rule_gets_no_runner_until_it_is_queued() {
    let system = System::start();
    let (waiting, queued) = (example("waiting"), example("queued.with-deployment"));
    assert_eq!(system.post("workflow_job", "d-1", waiting.clone()).await.0, 202);
    let job = system.get(&format!("/api/v1/jobs/{}", job_of(&waiting))).await;
    assert_eq!(job["state"], "waiting");
    assert!(job["waits"].as_str().unwrap().contains("protection rule"), "{job:#}");
    let groups = system.get("/api/v1/groups").await;
    assert!(items(&groups).iter().all(|group| group["alive"] == 0 && group["counts"]["queued"] == 0));
    assert_eq!(system.post("workflow_job", "d-2", queued).await.0, 202);
    let runners = system.wait_for("/api/v1/runners", |listing| !items(listing).is_empty()).await;
    assert_eq!(items(&runners)[0]["group"], "cluster");
}

#[tokio::test]
async fn what_other_runners_do_is_recorded_and_nothing_else() {
    let system = System::start();
    for (at, name) in ["in_progress", "in_progress.with-queued-steps"].iter().enumerate() {
        let payload = example(name);
        assert_eq!(system.post("workflow_job", &format!("p-{at}"), payload.clone()).await.0, 202);
        let job = system.get(&format!("/api/v1/jobs/{}", job_of(&payload))).await;
        assert_eq!(job["state"], "in_progress", "{name}");
        assert!(job["runner"].as_str().unwrap().starts_with("GitHub Actions"), "{name}");
    }
    let payload = example("completed.failure.with-organization");
    assert_eq!(system.post("workflow_job", "c-1", payload.clone()).await.0, 202);
    let job = system.get(&format!("/api/v1/jobs/{}", job_of(&payload))).await;
    assert_eq!((&job["state"], &job["conclusion"]), (&json!("completed"), &json!("failure")));
    // Late news of a completed job does not bring it back.
    let (status, _) = system.post("workflow_job", "q-1", example("queued")).await;
    assert_eq!(status, 202);
    let job = system.get(&format!("/api/v1/jobs/{}", job_of(&payload))).await;
    assert_eq!(job["state"], "completed");
    assert!(items(&system.get("/api/v1/runners").await).is_empty());
    let (status, answer) =
        system.post("workflow_job", "c-2", example("completed.success.with-organization")).await;
    assert_eq!(status, 202, "{answer}");
}

#[tokio::test]
async fn what_is_not_for_us_is_accepted() {
    let system = System::start();
    let (status, answer) = system.post("ping", "1", example("ping")).await;
    assert_eq!((status, &answer["outcome"]), (202, &json!("pong")));
    let (status, answer) = system.post("push", "2", b"{}".to_vec()).await;
    assert_eq!((status, &answer["outcome"]), (202, &json!("ignored")));
}

#[tokio::test]
async fn what_cannot_be_believed_or_read_is_refused() {
    let system = System::start();
    let (status, answer) = system.post("workflow_job", "1", b"{not json".to_vec()).await;
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("payload"), "{answer}");
    let (status, _) = system.post("workflow_job", "1", br#"{"action": "queued"}"#.to_vec()).await;
    assert_eq!(status, 400);
    let (status, answer) = system.post("", "1", example("queued")).await;
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("X-GitHub-Event"), "{answer}");
    let (status, answer) = system.post("workflow_job", "", example("queued")).await;
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("X-GitHub-Delivery"), "{answer}");
    let url = format!("{}/webhook", system.manager.url);
    let signatures = [None, Some("sha256=00"), Some("junk"), Some(&*format!("sha256={}", "0".repeat(64)))];
    for signature in signatures {
        let mut request = client().post(&url).body(example("queued"));
        if let Some(signature) = signature {
            request = request.header("x-hub-signature-256", signature);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401, "{signature:?}");
        assert!(answer.json::<Value>().await.unwrap()["error"].is_string());
    }
    assert_eq!(client().get(&url).send().await.unwrap().status(), 405);
    assert!(items(&system.get("/api/v1/jobs").await).is_empty());
}

#[tokio::test]
async fn while_the_secret_is_replaced_both_are_taken() {
    let both = format!("[a-new-webhook-secret-of-tests, {}]", support::WEBHOOK_SECRET);
    let system = System::start_with(|configuration| configuration.replace(support::WEBHOOK_SECRET, &both));
    for (secret, expected) in
        [("a-new-webhook-secret-of-tests", 202), (support::WEBHOOK_SECRET, 202), ("a-third-secret", 401)]
    {
        let (status, answer) = system.post_signed(secret, "ping", "1", example("ping")).await;
        assert_eq!(status, expected, "{secret}: {answer}");
    }
}

#[tokio::test]
async fn large_bodies_are_refused_and_cost_no_memory() {
    const SIZE: usize = 30 * 1024 * 1024;
    let system = System::start();
    system.post("ping", "1", example("ping")).await;
    let before = system.manager.peak_memory();
    let url = format!("{}/webhook", system.manager.url);
    let send = |chunked: bool| {
        let body = vec![b'x'; SIZE];
        let body = if chunked {
            let parts: Vec<_> =
                body.chunks(64 * 1024).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect();
            reqwest::Body::wrap_stream(futures_util::stream::iter(parts))
        } else {
            body.into()
        };
        client().post(&url).header("content-type", "application/json").body(body).send()
    };
    for chunked in [false, true] {
        let answers = futures_util::future::join_all((0..8).map(|_| send(chunked))).await;
        for answer in answers {
            assert_eq!(answer.unwrap().status(), 413, "chunked: {chunked}");
        }
    }
    let grown = system.manager.peak_memory() - before;
    assert!(grown < 16 * 1024, "the peak grew by {grown} KiB");
}

#[test]
fn a_large_body_is_refused_before_it_is_sent() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let system = System::start();
    let head = "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 31457280\r\n\r\n";
    let answer = raw(system.manager.address(), head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let ready = runtime.block_on(system.get("/readyz"));
    assert_eq!(ready["ok"], true, "{ready}");
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let system = System::start();
    let head =
        "POST /webhook HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: sha256=00\r\nContent-Length: 10\r\n\r\n{";
    let began = Instant::now();
    let answer = raw(system.manager.address(), head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(began.elapsed() >= Duration::from_secs(9), "it was given up after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_token_opens_what_is_not_github_s() {
    let system = System::start();
    let url = |path: &str| format!("{}{path}", system.manager.url);
    for path in ["/", "/metrics", "/api/v1/groups", "/api/v1/jobs", "/api/v1/events"] {
        let answer = client().get(url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
        assert!(answer.headers().contains_key("www-authenticate"), "{path}");
    }
    for path in ["/healthz", "/readyz", "/assets/dashboard.css"] {
        assert_eq!(client().get(url(path)).send().await.unwrap().status(), 200, "{path}");
    }
    let page = client().get(url("/")).basic_auth("me", Some(support::TOKEN)).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    assert!(page.text().await.unwrap().contains("<h3>plain</h3>"));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let system = System::start();
    let mut payload: Value = serde_json::from_slice(&example("queued")).unwrap();
    for id in 1..=5 {
        payload["workflow_job"]["id"] = json!(id);
        payload["workflow_job"]["labels"] = json!(["nobody-has-this"]);
        let (status, _) =
            system.post("workflow_job", &format!("d-{id}"), serde_json::to_vec(&payload).unwrap()).await;
        assert_eq!(status, 202);
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = system.get(&format!("/api/v1/jobs?limit=2{after}")).await;
        assert!(items(&page).len() <= 2);
        for job in items(&page) {
            assert_eq!(job["waits"], "no group offers label nobody-has-this");
            seen.push(job["id"].as_u64().unwrap());
        }
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    for wrong in
        ["limit=0", "limit=501", "limit=x", "group=Not+A+Name", "nonsense=1", "group=plain&unserved=true"]
    {
        let url = format!("{}/api/v1/jobs?{wrong}", system.manager.url);
        let answer = client().get(url).bearer_auth(support::TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{wrong}");
    }
    let url = format!("--url={}", system.manager.url);
    let token = format!("--token={}", support::TOKEN);
    let why = output(&["why", "3", &url, &token]);
    assert!(why.status.success());
    let said = String::from_utf8(why.stdout).unwrap();
    assert!(
        said.contains("waits since 20") && said.ends_with(": no group offers label nobody-has-this\n"),
        "{said}"
    );
    assert_eq!(output(&["why", "99", &url, &token]).status.code(), Some(1));
    let listed = output(&["jobs", "--json", &url, &token]);
    assert_eq!(items(&serde_json::from_slice(&listed.stdout).unwrap()).len(), 5);
    for list in ["groups", "runners", "jobs"] {
        assert!(output(&[list, &url, &token]).status.success(), "{list}");
    }
}

#[tokio::test]
async fn metrics_are_told_and_bear_no_names_of_jobs() {
    let system = System::start();
    system.post("workflow_job", "1", example("queued")).await;
    let url = format!("{}/metrics", system.manager.url);
    let scrape = async || client().get(&url).bearer_auth(support::TOKEN).send().await.unwrap();
    // The first sweep asks GitHub, whose answer tells the budget.
    let budget = "runner_manager_github_budget_remaining{";
    let deadline = Instant::now() + PATIENCE;
    while !scrape().await.text().await.unwrap().contains(budget) {
        assert!(Instant::now() < deadline, "{budget} never came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = scrape().await;
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let text = answer.text().await.unwrap();
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("runner_manager_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    for expected in [
        "runner_manager_webhooks_total{status=\"202\"} 1",
        "runner_manager_observations_total{outcome=\"recorded\"} 1",
        "runner_manager_runners_max{group=\"plain\"} 3.0",
        "runner_manager_webhook_seconds_count 1",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    assert!(!text.contains("289782451") && !text.contains("Hello-World"), "{text}");
}

#[tokio::test]
async fn events_tell_that_something_changed() {
    let system = System::start();
    let url = format!("{}/api/v1/events", system.manager.url);
    let mut stream = client().get(url).bearer_auth(support::TOKEN).send().await.unwrap();
    let first = tokio::time::timeout(PATIENCE, stream.chunk()).await.unwrap().unwrap().unwrap();
    assert!(first.starts_with(b"event: snapshot\ndata: {"), "{first:?}");
    system.post("workflow_job", "1", example("queued")).await;
    let seen = async {
        let mut text = String::new();
        while !text.contains("\"latest_job\":289782451") {
            text.push_str(&String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap()));
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("an event tells of the job");
}

#[tokio::test]
async fn a_stop_is_orderly_and_what_was_taken_in_is_kept() {
    let mut system = System::start();
    system.post("workflow_job", "1", example("queued")).await;
    system.wait_for("/api/v1/runners", |listing| !items(listing).is_empty()).await;
    // An open stream and an idle connection do not hold up the end.
    let url = format!("{}/api/v1/events", system.manager.url);
    let _stream = client().get(url).bearer_auth(support::TOKEN).send().await.unwrap();
    let mut idle = TcpStream::connect(system.manager.address()).unwrap();
    let began = Instant::now();
    assert_eq!(system.manager.terminate().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(25), "the stop took {:?}", began.elapsed());
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").ok();
    assert_eq!(idle.read(&mut [0; 16]).unwrap_or(0), 0, "it is closed");
    let config = system.folder.path().join("config.yaml");
    let config = config.to_str().unwrap();
    system.manager = support::Listening::start(&system.folder, "again", &["serve", "--config", config]);
    let job = system.get("/api/v1/jobs/289782451").await;
    assert_eq!(job["state"], "queued");
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut system = System::start();
    // A request whose body never comes holds up an orderly end for a while.
    let mut stuck = TcpStream::connect(system.manager.address()).unwrap();
    let head = "POST /webhook HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: sha256=00\r\n\
                Content-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    stuck.write_all(head.as_bytes()).unwrap();
    stuck.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 12];
    stuck.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    system.manager.signal("TERM");
    let deadline = Instant::now() + PATIENCE;
    while !system.manager.log().contains("a second signal ends at once") {
        assert!(Instant::now() < deadline, "the signal was not noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    let began = Instant::now();
    assert_eq!(system.manager.terminate().code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(5), "the end took {:?}", began.elapsed());
}

#[test]
fn two_processes_do_not_share_an_embedded_store() {
    let system = System::start();
    let config = system.folder.path().join("config.yaml");
    let second = output(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("store.redb"), "{said}");
    assert!(second.stdout.is_empty());
}
