//! GCE, as the fake of it does its work. And where credentials are found that no setting names.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use runner_manager_core::testing::simulator::DEFAULT_TOKEN;

use crate::cloud::{Cloud, Machine, SECRET, SETTLE, Wrong, groups, printed, script};
use crate::fault_proxy::Seen;
use crate::support::{Listening, WEBHOOK_SECRET, client, program, write};
use crate::world::deployment;

suite!(Gcp);

const IMAGE: &str = "projects/debian-cloud/global/images/family/debian-12";

/// A project of its own on the fake.
struct Gcp {
    url: String,
    project: String,
    python: String,
}

impl Gcp {
    /// Makes a project of a name.
    async fn make(&self, project: &str, settings: &Value) {
        let url = format!("{}/fake/projects/{project}", self.url);
        let answer = client().put(url).body(settings.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{project}: {}", answer.status());
    }

    /// Credentials whose token is this word.
    fn credentials(&self, token: &str) -> String {
        json!({
            "type": "authorized_user", "client_id": "id", "client_secret": SECRET, "refresh_token": token,
            "token_uri": format!("{}/fake/token", self.url),
        })
        .to_string()
    }

    /// The settings of a backend that asks at an address.
    fn asks(&self, url: &str, project: &str, token: &str) -> String {
        let credentials = self.credentials(token);
        format!(
            "{{kind: gcp, project: {project}, credentials: '{credentials}', endpoint: '{url}', timeout: 1m, \
             settle: {SETTLE}}}"
        )
    }
}

impl Cloud for Gcp {
    async fn find(deployment: &str) -> Option<Self> {
        let [url, python] = printed("gce", "GCE", ["URL", "PYTHON"])?;
        let peer = Self { url, project: deployment.to_owned(), python };
        peer.make(&peer.project, &json!({"tokens": ["good"]})).await;
        Some(peer)
    }

    fn script(&self, name: &str) -> Command {
        let mut command = script(&self.python, "gce", name);
        command.arg(&self.project).env("GCE_URL", &self.url).env("GCE_TOKEN", "good");
        command
    }

    fn service(&self) -> String {
        self.url.clone()
    }

    fn creates(seen: &Seen) -> bool {
        seen.method == http::Method::POST && seen.path.contains("/instances?requestId=")
    }

    fn removes(seen: &Seen) -> bool {
        seen.method == http::Method::DELETE && seen.path.contains("/instances/")
    }

    fn backend(&self, url: &str, _folder: &Path) -> String {
        self.asks(url, &self.project, "good")
    }

    fn placement(&self) -> String {
        format!("machine_types: [e2-standard-2], image: {IMAGE}, zones: [europe-west1-b]")
    }

    fn machines(told: &Value) -> Vec<Machine> {
        let instances = told.as_array().unwrap().iter();
        instances.map(|instance| Machine::read(instance, "id", "labels")).collect()
    }

    async fn wrong(&self) -> Wrong {
        let (denied, broke) = (format!("{}-denied", self.project), format!("{}-broke", self.project));
        let permissions = ["compute.instances.list", "compute.instances.create"];
        self.make(&denied, &json!({"tokens": ["good"], "denied": permissions})).await;
        self.make(&broke, &json!({"tokens": ["good"], "quota": {"INSTANCES": 0}})).await;
        let backends = vec![
            ("eu", self.asks(&self.url, &self.project, "good")),
            ("denied", self.asks(&self.url, &denied, "good")),
            ("broke", self.asks(&self.url, &broke, "good")),
            ("lost", self.asks(&self.url, "no-such-project", "good")),
            ("stranger", self.asks(&self.url, &self.project, "revoked")),
            ("nobody", self.asks("http://127.0.0.1:1", &self.project, "good")),
        ];
        let groups = groups(&WRONG, |placement| placement.replace("IMAGE", IMAGE));
        Wrong { backends, groups, _proxies: Vec::new() }
    }
}

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

/// By a file that the environment names, and by a machine's metadata server: the token that arrives says
/// which it was.
#[tokio::test(flavor = "multi_thread")]
async fn application_default_credentials_are_found() {
    let Some(peer) = Gcp::find(&deployment()).await else { return };
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
