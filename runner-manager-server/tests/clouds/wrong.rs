//! What is wrong with a backend or a placement: `check --online` names each, and `serve` blocks that group
//! with that reason while the others go on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use runner_manager_core::testing::simulator::DEFAULT_TOKEN;

use crate::cloud::{Cloud, Group, SECRET, Wrong};
use crate::support::{Listening, TOKEN, WEBHOOK_SECRET, client, output, write};
use crate::world::deployment;

/// How long until each breaker has opened.
const PATIENCE: Duration = Duration::from_mins(4);

/// A group a fault, whose runners are as many, and a group that is well.
fn configuration(wrong: &Wrong, github: &str, name: &str, min_idle: u32) -> String {
    let backends: Vec<String> =
        wrong.backends.iter().map(|(name, settings)| format!("  {name}: {settings}\n")).collect();
    let groups = wrong.groups.iter().map(|Group { name, backend, placement, .. }| {
        let whose =
            format!("name: {name}, organization: acme, labels: [{name}], max: 2, min_idle: {min_idle}");
        format!("  - {{{whose}, placements: [{{backend: {backend}, {placement}}}]}}\n")
    });
    format!(
        "
name: {name}
secret_key: a-secret-key-of-the-tests-0123456789
server:
  listen: 127.0.0.1:0
  webhook_secret: {WEBHOOK_SECRET}
  tokens: [{{name: tests, role: viewer, token: {TOKEN}}}]
store: {{kind: embedded, path: store.redb}}
github: {{api_url: '{github}', token: {DEFAULT_TOKEN}}}
backends:
  fake: {{kind: fake}}
{}runner_groups:
  - {{name: good, organization: acme, labels: [good], max: 2, min_idle: 1, placements: [{{backend: fake}}]}}
{}",
        backends.concat(),
        groups.collect::<String>()
    )
}

pub(crate) async fn check_online_names_each<C: Cloud>() {
    let deployment = deployment();
    let Some(cloud) = C::find(&deployment).await else { return };
    let wrong = cloud.wrong().await;
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    let config = write(&folder, &configuration(&wrong, &github.url, &deployment, 0));
    let checked = output(&["check", "--config", &config, "--online", "--json"]);
    assert_eq!(checked.status.code(), Some(1), "{}", String::from_utf8_lossy(&checked.stderr));
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let findings = report["online"].as_array().unwrap();
    for group in &wrong.groups {
        names(group, findings);
    }
    assert!(!report.to_string().contains(SECRET));
    let subject = format!("backend {}", wrong.backends[0].0);
    let good = findings.iter().find(|finding| finding["subject"] == *subject).unwrap();
    assert_eq!(good["missing"].as_array().unwrap().len(), 0, "{good:#}");
}

/// Whether what is wrong with a group is told of it.
fn names(Group { name, backend, told, .. }: &Group, findings: &[Value]) {
    let subject = format!(" of {name} on {backend}");
    let of_it = |finding: &&Value| finding["subject"].as_str().unwrap().contains(&subject);
    let finding = findings.iter().find(of_it).unwrap_or_else(|| panic!("nothing of {name}: {findings:#?}"));
    let missing = finding["missing"].as_array().unwrap();
    match told {
        Some(told) => {
            let told = missing.iter().any(|what| what.as_str().unwrap().contains(told));
            assert!(told, "{name}: {finding:#}");
        }
        None => assert_eq!(missing.len(), 0, "{name}: {finding:#}"),
    }
}

/// Each group wants one runner from the start. A breaker lets a try through now and then, so that they are
/// not all open at one time.
pub(crate) async fn serve_blocks_each_group_with_its_reason_and_the_others_go_on<C: Cloud>() {
    let deployment = deployment();
    let Some(cloud) = C::find(&deployment).await else { return };
    let wrong = cloud.wrong().await;
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    let config = write(&folder, &configuration(&wrong, &github.url, &deployment, 1));
    let arguments = ["serve", "--config", &config, "--log-format", "json"];
    let manager = Listening::start(&folder, "manager", &arguments);
    let (client, url) = (client(), format!("{}/api/v1/groups", manager.url));
    let deadline = Instant::now() + PATIENCE;
    let mut not_yet: BTreeSet<&str> = wrong.groups.iter().map(|group| group.name).collect();
    loop {
        let answer = client.get(&url).bearer_auth(TOKEN).send().await.unwrap();
        let told: Value = answer.json().await.unwrap();
        let told = told["items"].as_array().or(told.as_array()).unwrap();
        let of = |name: &str| told.iter().find(|group| group["name"] == name).unwrap();
        for group in wrong.groups.iter().filter(|group| is_blocked(of(group.name), group.why)) {
            not_yet.remove(group.name);
        }
        let good = of("good");
        if not_yet.is_empty() && good["alive"] == 1 && good["blocked"].is_null() {
            break;
        }
        assert!(Instant::now() < deadline, "not in time: {not_yet:?}; {told:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(!manager.log().contains(SECRET));
}

/// Three failures in a row open the breaker.
fn is_blocked(group: &Value, why: &str) -> bool {
    let trouble = &group["placements"][0]["trouble"];
    let open = !group["blocked"].is_null() && trouble["failures"].as_u64() >= Some(3);
    open && trouble["detail"].as_str().unwrap().contains(why)
}
