//! What is wrong with a backend or a placement: `check --online` names each, and `serve` blocks that group with that
//! reason while the others go on.

use serde_json::Value;
use tempfile::TempDir;

use runner_manager_core::testing::simulator::DEFAULT_TOKEN;

use crate::support::{Listening, TOKEN, WEBHOOK_SECRET, client, output, write};
use crate::world::Peer;

/// A group a fault: its name, its backend, its placement, what `check --online` tells, and what blocks the group.
const WRONG: [(&str, &str, &str, &str, &str); 8] = [
    (
        "image",
        "os",
        "flavor: m1.tiny, image: no-such",
        "there is no image no-such",
        "there is no image no-such",
    ),
    (
        "flavor",
        "os",
        "flavor: no-such, image: debian-12",
        "there is no flavor no-such",
        "there is no flavor no-such",
    ),
    (
        "network",
        "os",
        "flavor: m1.tiny, image: debian-12, networks: [no-such]",
        "there is no network no-such",
        "there is no network no-such",
    ),
    (
        "zone",
        "os",
        "flavor: m1.tiny, image: debian-12, availability_zone: no-such",
        "there is no availability zone no-such; there are: ",
        "The requested availability zone is not available",
    ),
    (
        "rights",
        "reader",
        "flavor: m1.tiny, image: debian-12",
        "the user has the role `reader` alone",
        "Policy doesn't allow os_compute_api:servers:create",
    ),
    (
        "quota",
        "broke",
        "flavor: m1.tiny, image: debian-12, networks: [broke-net]",
        "the quota allows 0 instances",
        "Quota exceeded for instances",
    ),
    (
        "password",
        "stranger",
        "flavor: m1.tiny, image: debian-12",
        "Keystone refuses who signs in",
        "Keystone refuses who signs in",
    ),
    (
        "nobody",
        "nobody",
        "flavor: m1.tiny, image: debian-12",
        "the service cannot be reached",
        "the service cannot be reached",
    ),
];

fn configuration(peer: &Peer, github: &str) -> String {
    let clouds = &peer.clouds;
    let text = std::fs::read_to_string(clouds).unwrap();
    let keystone = text.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap();
    let of_cloud = |name: &str, cloud: &str| {
        format!("  {name}: {{kind: openstack, cloud: {cloud}, clouds_file: {clouds}, settle: 1s}}\n")
    };
    let by_password = |name: &str, url: &str| {
        let auth = format!(
            "{{auth_url: '{url}', username: runner, password: hunter2-hunter2-hunter2, project_name: runners}}"
        );
        format!("  {name}: {{kind: openstack, auth: {auth}}}\n")
    };
    let mut backends: Vec<String> = [("os", "runners"), ("reader", "reader"), ("broke", "broke")]
        .map(|(name, cloud)| of_cloud(name, cloud))
        .into();
    backends.push(by_password("stranger", keystone));
    backends.push(by_password("nobody", "http://127.0.0.1:1/v3"));
    let groups: Vec<String> = WRONG
        .iter()
        .map(|(name, backend, placement, ..)| {
            format!("  - {{name: {name}, organization: acme, labels: [{name}], max: 2, placements: [{{backend: {backend}, {placement}}}]}}\n")
        })
        .collect();
    format!(
        "
name: wrong
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
        groups.concat()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn check_online_names_each() {
    let Some(peer) = Peer::find() else { return };
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    let config = write(&folder, &configuration(&peer, &github.url));
    let checked = output(&["check", "--config", &config, "--online", "--json"]);
    assert_eq!(checked.status.code(), Some(1), "{}", String::from_utf8_lossy(&checked.stderr));
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let findings = report["online"].as_array().unwrap();
    for (group, backend, _, told, _) in WRONG {
        let subject = |finding: &&Value| {
            let subject = finding["subject"].as_str().unwrap();
            subject.contains(&format!(" of {group} on {backend}"))
        };
        let finding =
            findings.iter().find(subject).unwrap_or_else(|| panic!("nothing of {group}: {findings:#?}"));
        let missing = finding["missing"].as_array().unwrap();
        assert!(missing.iter().any(|what| what.as_str().unwrap().contains(told)), "{group}: {finding:#}");
        assert!(!finding.to_string().contains("hunter2-hunter2-hunter2"));
    }
    let good = findings.iter().find(|finding| finding["subject"] == "backend os").unwrap();
    assert_eq!(good["missing"].as_array().unwrap().len(), 0, "{good:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_blocks_each_group_with_its_reason_and_the_others_go_on() {
    let Some(peer) = Peer::find() else { return };
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    // Each group wants one runner from the start.
    let configuration =
        configuration(&peer, &github.url).replace("max: 2, placements", "max: 2, min_idle: 1, placements");
    let config = write(&folder, &configuration);
    let manager =
        Listening::start(&folder, "manager", &["serve", "--config", &config, "--log-format", "json"]);
    let (client, url) = (client(), format!("{}/api/v1/groups", manager.url));
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(4);
    loop {
        let answer = client.get(&url).bearer_auth(TOKEN).send().await.unwrap();
        let groups: Value = answer.json().await.unwrap();
        let group = |name: &str| {
            let all = groups["items"].as_array().or(groups.as_array()).unwrap();
            all.iter().find(|group| group["name"] == name).unwrap().clone()
        };
        let blocked = |(name, _, _, _, why): &(&str, &str, &str, &str, &str)| {
            let group = group(name);
            let trouble = &group["placements"][0]["trouble"];
            // Three failures in a row open the breaker.
            let open = !group["blocked"].is_null() && trouble["failures"].as_u64() >= Some(3);
            open && trouble["detail"].as_str().unwrap().contains(why)
        };
        let good = group("good");
        if WRONG.iter().all(blocked) && good["alive"] == 1 && good["blocked"].is_null() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "not in time: {groups:#}");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    assert!(!manager.log().contains("hunter2-hunter2-hunter2"));
}
