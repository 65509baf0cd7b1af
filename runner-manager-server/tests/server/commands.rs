//! Commands that need no running manager: `check`, `config`, and how `serve` refuses to start.

use std::io::Read;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{self, configuration, output, program, write};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn check(folder: &TempDir, configuration: &str, options: &[&str]) -> Output {
    let file = write(folder, configuration);
    output(&[&["check", "--config", &file], options].concat())
}

#[test]
fn every_fault_is_told_with_its_place_and_nothing_starts() {
    let folder = TempDir::new().unwrap();
    let wrong = configuration("http://127.0.0.1:9")
        .replace(
            "max: 3,\n     placements: [{backend: fake}]}\n  - {name: cluster",
            "max: 0,\n     placements: [{backend: nowhere}]}\n  - {name: cluster",
        )
        .replace("name: tests\n", "name: Tests!\n");
    let checked = check(&folder, &wrong, &[]);
    assert_eq!(checked.status.code(), Some(2));
    let told = text(&checked.stdout);
    for place in ["config.yaml:2:7: name:", "runner_groups[0].max", "nowhere"] {
        assert!(told.contains(place), "{place} is missing in\n{told}");
    }
    let file = folder.path().join("config.yaml");
    let served = output(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(served.status.code(), Some(2));
    assert!(text(&served.stderr).contains("config.yaml:2:7: name:"));
    assert!(served.stdout.is_empty());
    assert!(!folder.path().join("store.redb").exists(), "nothing was started");

    let checked = check(&folder, &wrong, &["--json"]);
    assert_eq!(checked.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((&report["ok"], &report["faults"][0]["line"]), (&Value::Bool(false), &Value::from(2)));
}

#[test]
fn a_file_that_is_missing_is_a_wrong_configuration() {
    for command in ["serve", "check"] {
        let refused = output(&[command, "--config", "/nowhere/at-all.yaml"]);
        assert_eq!(refused.status.code(), Some(2), "{command}");
        assert!(text(&refused.stderr).contains("/nowhere/at-all.yaml"), "{command}");
    }
    assert_eq!(output(&["serve"]).status.code(), Some(2));
    assert_eq!(output(&["nonsense"]).status.code(), Some(2));
    assert_eq!(output(&["config", "schema", "--log-level", "=="]).status.code(), Some(2));
}

#[test]
fn the_example_passes_the_check_and_fits_the_schema() {
    let folder = TempDir::new().unwrap();
    let example = text(&output(&["config", "example"]).stdout);
    let file = write(&folder, &example);
    let checked = program(&["check", "--config", &file])
        .env("RM_SECRET_KEY", "0123456789abcdef0123456789abcdef")
        .env("WEBHOOK_SECRET", "0123456789abcdef")
        .env("RM_TOKEN", "fedcba9876543210")
        .env("GITHUB_TOKEN", "ghp_0123456789abcdef")
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", text(&checked.stdout));
    assert!(text(&checked.stdout).contains("no faults"));
    let schema: Value = serde_json::from_slice(&output(&["config", "schema"]).stdout).unwrap();
    assert!(jsonschema::validator_for(&schema).is_ok());
    assert!(schema["properties"]["runner_groups"].is_object());
}

#[test]
fn online_asks_everybody_and_names_what_is_missing() {
    let folder = TempDir::new().unwrap();
    let github = support::Listening::start(&folder, "github", &["github-simulator"]);
    let configuration = configuration(&github.url)
        .replace("labels: [k8s],", "labels: [k8s], github_group: {name: not-there},");
    let checked = check(&folder, &configuration, &["--online", "--json"]);
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let findings = report["online"].as_array().unwrap();
    let missing: Vec<&Value> =
        findings.iter().filter(|finding| finding["missing"] != Value::Array(vec![])).collect();
    assert_eq!(missing.len(), 1, "{report:#}");
    assert_eq!(missing[0]["subject"], "GitHub's runner group of cluster");
    assert!(missing[0]["missing"][0].as_str().unwrap().contains("`not-there`"), "{report:#}");
    assert!(findings.iter().any(|finding| finding["subject"] == "store"), "{report:#}");
    assert!(findings.iter().any(|finding| finding["subject"] == "backend fake"), "{report:#}");
    assert_eq!(checked.status.code(), Some(1));
}

#[tokio::test]
async fn online_tells_what_is_wrong_with_runner_groups_at_github() {
    let folder = TempDir::new().unwrap();
    let github = support::Listening::start(&folder, "github", &["github-simulator"]);
    let configuration = configuration(&github.url).replace(
        "labels: [k8s],",
        "labels: [k8s], github_group: {name: Large, manage: true, repositories: [app]},",
    );
    let told = |configuration: &str| {
        let checked = check(&folder, configuration, &["--online", "--json"]);
        let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
        let findings = report["online"].as_array().unwrap();
        findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let send = async |method: reqwest::Method, path: &str, body: Value| {
        let request = support::client().request(method, format!("{}{path}", github.url));
        let request = request.header("authorization", "Bearer ghp_simulator").header("user-agent", "tests");
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    };
    let first = told(&configuration);
    assert!(
        first.contains("`Large` does not exist in organization:lineville: it is made as soon as"),
        "{first}"
    );
    assert!(first.contains("public repositories may not use `Default`"), "{first}");

    let groups = "/orgs/lineville/actions/runner-groups";
    let large = json!({"name": "Large", "visibility": "all", "allows_public_repositories": true});
    send(reqwest::Method::POST, groups, large).await;
    send(
        reqwest::Method::PUT,
        "/orgs/lineville/actions/permissions",
        json!({"enabled_repositories": "none"}),
    )
    .await;
    let second = told(&configuration);
    assert!(second.contains("`Large` is not as configured, and is changed"), "{second}");
    assert!(
        second.contains("it is for all; public repositories may use it; it was given to others"),
        "{second}"
    );
    assert!(second.contains("organization:lineville: GitHub Actions is switched off there"), "{second}");

    let refusal = |status: u16| {
        json!({"requests": [{"method": "GET", "path": "/orgs/*/actions/runner-groups",
            "effect": {"answer": {"status": status}}}]})
    };
    for (status, part) in [(404, "the plan may have no runner groups"), (401, "Unauthenticated")] {
        send(reqwest::Method::POST, "/_simulator/faults", refusal(status)).await;
        let refused = told(&configuration);
        assert!(refused.contains(part), "{status}: {refused}");
    }
}

/// Somebody who takes every request, and never answers: where, and how often he was asked.
fn silent() -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut begin = [0];
            if stream.read(&mut begin).is_ok_and(|read| read > 0) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            open.push(stream);
        }
    });
    (url, asked)
}

#[test]
fn whoever_does_not_answer_is_asked_no_more() {
    let folder = TempDir::new().unwrap();
    let ((github, of_github), (cloud, of_cloud)) = (silent(), silent());
    let configuration = configuration(&github)
        .replace("server:\n", &format!("call_timeout: 1s\nserver:\n  public_url: {github}\n"))
        .replace("{kind: fake}", &format!("{{kind: fake, url: '{cloud}'}}"));
    let checked = check(&folder, &configuration, &["--online", "--json"]);
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let findings = report["online"].as_array().unwrap();
    let told = |part: &str| findings.iter().filter(|finding| finding.to_string().contains(part)).count();
    // One of the three questions about the cloud is asked, and one of the six about GitHub; of the others that is told.
    assert_eq!(told("not asked, since an earlier question was not answered within 1s"), 7, "{report:#}");
    assert_eq!((of_github.load(Ordering::SeqCst), of_cloud.load(Ordering::SeqCst)), (1, 1), "{report:#}");
    assert_eq!(checked.status.code(), Some(1));

    let file = write(&folder, &configuration);
    let shown = output(&["webhooks", "show", "--config", &file]);
    assert_eq!((of_github.load(Ordering::SeqCst), shown.status.code()), (2, Some(1)));
    assert!(text(&shown.stdout).contains("not asked"), "{}", text(&shown.stdout));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = write(&folder, &configuration("http://127.0.0.1:9").replace("127.0.0.1:0", &address));
    let refused = output(&["serve", "--config", &file]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains(&address), "{}", text(&refused.stderr));
}
