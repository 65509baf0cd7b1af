//! What is wrong with a backend or a placement: `check --online` names each, and `serve` blocks that group with that
//! reason while the others go on. And where credentials are found that no setting names.

use serde_json::{Value, json};
use tempfile::TempDir;

use runner_manager_core::testing::simulator::DEFAULT_TOKEN;

use crate::support::{Listening, TOKEN, WEBHOOK_SECRET, client, output, program, write};
use crate::world::Peer;

const IMAGE: &str = "projects/debian-cloud/global/images/family/debian-12";

/// A group a fault: its name, its backend, its placement, what `check --online` tells, and what blocks the group. What
/// only a request for an instance meets is told by nothing of the former.
const WRONG: [(&str, &str, &str, Option<&str>, &str); 9] = [
    (
        "image",
        "eu",
        "machine_types: e2-standard-2, image: family/none, zones: europe-west1-b",
        Some("there is no image family/none"),
        "family/none",
    ),
    (
        "type",
        "eu",
        "machine_types: e2-none, image: IMAGE, zones: europe-west1-b",
        Some("there is no machine type e2-none in zone europe-west1-b"),
        "e2-none",
    ),
    (
        "zone",
        "eu",
        "machine_types: e2-standard-2, image: IMAGE, zones: mars-1a",
        Some("there is no zone mars-1a"),
        "mars-1a",
    ),
    (
        "subnet",
        "eu",
        "machine_types: e2-standard-2, image: IMAGE, zones: europe-west1-b, subnet: none",
        Some("there is no subnet none in region europe-west1"),
        "subnetworks/none",
    ),
    (
        "rights",
        "denied",
        "machine_types: e2-standard-2, image: IMAGE, zones: europe-west1-b",
        Some("the credentials may not do compute.instances.list"),
        "compute.instances.create",
    ),
    (
        "quota",
        "broke",
        "machine_types: e2-standard-2, image: IMAGE, zones: europe-west1-b",
        None,
        "QUOTA_EXCEEDED",
    ),
    (
        "project",
        "lost",
        "machine_types: e2-standard-2, image: IMAGE, zones: europe-west1-b",
        Some("there is no project no-such-project"),
        "no-such-project",
    ),
    (
        "credentials",
        "stranger",
        "machine_types: e2-standard-2, image: IMAGE, zones: europe-west1-b",
        Some("there are no credentials"),
        "there are no credentials",
    ),
    (
        "nobody",
        "nobody",
        "machine_types: e2-standard-2, image: IMAGE, zones: europe-west1-b",
        Some("the service cannot be reached"),
        "the service cannot be reached",
    ),
];

/// The secret of the client whose token is wanted.
const SECRET: &str = "hunter2-hunter2-hunter2";

async fn configuration(peer: &Peer, github: &str) -> String {
    let (denied, broke) = (format!("{}-denied", peer.project), format!("{}-broke", peer.project));
    let permissions = ["compute.instances.list", "compute.instances.create"];
    peer.make(&denied, &json!({"tokens": ["good"], "denied": permissions})).await;
    peer.make(&broke, &json!({"tokens": ["good"], "quota": {"INSTANCES": 0}})).await;
    let backends: Vec<String> = [
        ("eu", peer.backend(&peer.url, &peer.project, "good")),
        ("denied", peer.backend(&peer.url, &denied, "good")),
        ("broke", peer.backend(&peer.url, &broke, "good")),
        ("lost", peer.backend(&peer.url, "no-such-project", "good")),
        ("stranger", peer.backend(&peer.url, &peer.project, "revoked")),
        ("nobody", peer.backend("http://127.0.0.1:1", &peer.project, "good")),
    ]
    .iter()
    .map(|(name, settings)| format!("  {name}: {}\n", settings.replace("peer-secret", SECRET)))
    .collect();
    let groups: Vec<String> = WRONG
        .iter()
        .map(|(name, backend, placement, ..)| {
            let placement = placement.replace("IMAGE", IMAGE);
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
    let Some(peer) = Peer::find().await else { return };
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    let config = write(&folder, &configuration(&peer, &github.url).await);
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
        match told {
            Some(told) => {
                assert!(
                    missing.iter().any(|what| what.as_str().unwrap().contains(told)),
                    "{group}: {finding:#}"
                );
            }
            None => assert_eq!(missing.len(), 0, "{group}: {finding:#}"),
        }
        assert!(!finding.to_string().contains(SECRET));
    }
    let good = findings.iter().find(|finding| finding["subject"] == "backend eu").unwrap();
    assert_eq!(good["missing"].as_array().unwrap().len(), 0, "{good:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_blocks_each_group_with_its_reason_and_the_others_go_on() {
    let Some(peer) = Peer::find().await else { return };
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    // Each group wants one runner from the start.
    let configuration = configuration(&peer, &github.url)
        .await
        .replace("max: 2, placements", "max: 2, min_idle: 1, placements");
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
        let blocked = |(name, _, _, _, why): &(&str, &str, &str, Option<&str>, &str)| {
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
    assert!(!manager.log().contains(SECRET));
}

/// By a file that the environment names, and by a machine's metadata server: the token that arrives says which it was.
#[tokio::test(flavor = "multi_thread")]
async fn application_default_credentials_are_found() {
    let Some(peer) = Peer::find().await else { return };
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    let file = folder.path().join("adc.json");
    std::fs::write(&file, peer.credentials("of-the-file")).unwrap();
    let project = &peer.project;
    let config = write(
        &folder,
        &format!(
            "
name: adc
secret_key: a-secret-key-of-the-tests-0123456789
server: {{listen: '127.0.0.1:0', webhook_secret: {WEBHOOK_SECRET}}}
github: {{api_url: '{}', token: {DEFAULT_TOKEN}}}
backends:
  eu: {{kind: gcp, project: {project}, endpoint: '{}', timeout: 20s}}
runner_groups:
  - name: small
    organization: acme
    labels: [build]
    placements: [{{backend: eu, machine_types: e2-standard-2, image: {IMAGE}, zones: europe-west1-b}}]
",
            github.url, peer.url
        ),
    );
    let host = peer.url.trim_start_matches("http://");
    // Of a home where nobody has signed in.
    let checked = |variable: (&str, &str)| {
        let mut command = program(&["check", "--config", &config, "--online", "--json"]);
        command
            .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
            .env("HOME", folder.path())
            .env(variable.0, variable.1);
        let report: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        let findings = report["online"].as_array().unwrap().clone();
        let finding =
            findings.into_iter().find(|finding| finding["subject"].as_str().unwrap().contains("small on eu"));
        finding.unwrap()["missing"].clone()
    };
    for (token, variable) in [
        ("of-the-file", ("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap())),
        ("of-the-machine", ("GCE_METADATA_HOST", host)),
    ] {
        peer.make(project, &json!({"tokens": [token]})).await;
        assert_eq!(checked(variable), json!([]), "{token}");
        peer.make(project, &json!({"tokens": ["another"]})).await;
        assert_ne!(checked(variable), json!([]), "{token}");
    }
}
