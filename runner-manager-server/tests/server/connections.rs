//! Two connections to GitHub: two servers, each with its own credentials and its own machines.

use std::time::Instant;

use runner_manager_core::testing::simulator::{Books, DEFAULT_TOKEN};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Listening, PATIENCE, TOKEN, WEBHOOK_SECRET, client, output, write};

const OTHER_TOKEN: &str = "ghp_of_the_other_server";

/// A GitHub with the machines that its runners live on.
#[derive(Debug)]
struct Site {
    github: Listening,
    cloud: Listening,
}

impl Site {
    fn start(folder: &TempDir, name: &str, settings: &Value) -> Self {
        let settings = settings.to_string();
        let github = Listening::start(
            folder,
            &format!("github-{name}"),
            &["github-simulator", "--settings", &settings],
        );
        let cloud =
            Listening::start(folder, &format!("cloud-{name}"), &["fake-cloud", "--github", &github.url]);
        Self { github, cloud }
    }

    async fn post(&self, path: &str, body: &Value) {
        let answer = client().post(format!("{}/_simulator/{path}", self.github.url)).json(body).send().await;
        let answer = answer.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    async fn books(&self) -> Books {
        let answer = client().get(format!("{}/_simulator/books", self.github.url)).send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn until_succeeded(&self, jobs: u64) -> Books {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let books = self.books().await;
            if books.jobs.succeeded == jobs {
                return books;
            }
            assert!(Instant::now() < deadline, "{:?}", books.jobs);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

fn configuration(main: &Site, other: &Site) -> String {
    format!(
        "
name: tests
secret_key: a-secret-key-of-the-tests-0123456789
server:
  listen: 127.0.0.1:0
  webhook_secret: {WEBHOOK_SECRET}
  tokens: [{{name: tests, role: viewer, token: {TOKEN}}}]
store: {{kind: embedded, path: store.redb}}
github:
  connections:
    main: {{api_url: '{}', token: {DEFAULT_TOKEN}}}
    ghes: {{api_url: '{}/api/v3', token: {OTHER_TOKEN}, jit_rate: {{calls: 100, per: 1m}}}}
backends:
  here: {{kind: fake, url: '{}'}}
  there: {{kind: fake, url: '{}'}}
runner_groups:
  - {{name: linux, organization: acme, github: main, labels: [build], max: 3, placements: [{{backend: here}}]}}
  - {{name: tools, organization: tools, github: ghes, labels: [build], max: 3, placements: [{{backend: there}}]}}
",
        main.github.url, other.github.url, main.cloud.url, other.cloud.url
    )
}

#[tokio::test]
async fn two_servers_are_worked_on_by_one_manager() {
    let folder = TempDir::new().unwrap();
    let main = Site::start(&folder, "main", &json!({}));
    // Each server numbers its jobs by itself, and far from each other as at GitHub.
    let settings = json!({"tokens": [OTHER_TOKEN], "numbers_from": 1_000_000_000, "seed": 9});
    let other = Site::start(&folder, "other", &settings);
    let text = configuration(&main, &other);
    let config = write(&folder, &text);
    let checked = output(&["check", "--config", &config, "--online"]);
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success(), "{told}");
    for finding in [
        "ok       GitHub (connection main), organization:acme",
        "ok       GitHub (connection ghes), organization:tools",
    ] {
        assert!(told.contains(finding), "{told}");
    }

    let manager =
        Listening::start(&folder, "manager", &["serve", "--config", &config, "--log-format", "json"]);
    for (site, owner, jobs) in [(&main, "acme", 3), (&other, "tools", 2)] {
        let url = format!("{}/webhook", manager.url);
        let hook = json!({"scope": {"organization": owner}, "url": url, "secret": WEBHOOK_SECRET});
        site.post("hooks", &hook).await;
        let repository = format!("{owner}/app");
        let labels = ["self-hosted", "build"];
        let queued = json!({"repository": repository, "labels": labels, "count": jobs, "seconds": 1});
        site.post("jobs", &queued).await;
    }
    for (site, jobs) in [(&main, 3), (&other, 2)] {
        let books = site.until_succeeded(jobs).await;
        assert_eq!((books.jobs.total, books.jobs.lost), (jobs, 0));
        assert_eq!(books.violations, []);
        assert_eq!(books.statuses.get(&401), None, "each server gets its own token alone");
    }
    let ask = async |path: &str| {
        let answer = client().get(format!("{}{path}", manager.url)).bearer_auth(TOKEN).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let groups: Value = serde_json::from_str(&ask("/api/v1/groups").await).unwrap();
    assert_eq!(
        (&groups["items"][0]["github"], &groups["items"][1]["github"]),
        (&json!("main"), &json!("ghes"))
    );
    let metrics = ask("/metrics").await;
    for (name, site) in [("main", &main), ("ghes", &other)] {
        let host = site.github.address();
        let is_it = |line: &str| {
            line.starts_with("runner_manager_github_budget_remaining")
                && line.contains(&format!("connection=\"{name}\""))
                && line.contains(&format!("account=\"{host}/token:"))
        };
        assert!(metrics.lines().any(is_it), "{name} {host}:\n{metrics}");
    }
    assert!(!metrics.contains(DEFAULT_TOKEN) && !manager.log().contains(OTHER_TOKEN));
    a_reload_takes_no_connection_in(&folder, &manager, &text).await;
}

/// A group may come to name another connection; a new connection needs a restart, and is told.
async fn a_reload_takes_no_connection_in(folder: &TempDir, manager: &Listening, text: &str) {
    let renamed = text.replace("    ghes: ", "    fresh: ").replace("github: ghes", "github: fresh");
    write(folder, &renamed);
    manager.signal("HUP");
    let deadline = Instant::now() + PATIENCE;
    while !manager.log().contains("groups use connections to GitHub that this process was not started with") {
        assert!(Instant::now() < deadline, "{}", manager.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
