//! `webhooks`: hooks at GitHub, set, shown and removed by the program.

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Listening, WEBHOOK_SECRET, configuration, output, write};

/// The configuration of a deployment that GitHub reaches at an address.
fn reached(github: &Listening, public_url: &str) -> String {
    let server = format!("server:\n  public_url: {public_url}");
    configuration(&github.url).replace("server:", &server)
}

/// What a `webhooks` command exits with, and its report.
fn webhooks(folder: &TempDir, configuration: &str, words: &[&str]) -> (Option<i32>, Value) {
    let file = write(folder, configuration);
    let told = output(&[&["webhooks"], words, &["--config", &file, "--json"]].concat());
    let report = serde_json::from_slice(&told.stdout);
    (told.status.code(), report.unwrap_or_else(|_| panic!("{told:?}")))
}

fn outcomes(report: &Value) -> Vec<&str> {
    report["hooks"].as_array().unwrap().iter().map(|hook| hook["outcome"].as_str().unwrap()).collect()
}

#[test]
fn hooks_are_installed_once_shown_and_removed() {
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    let configuration = reached(&github, "http://127.0.0.1:9");
    let (code, report) = webhooks(&folder, &configuration, &["show"]);
    assert_eq!((code, outcomes(&report)), (Some(1), vec!["absent", "absent"]), "{report}");
    let (code, report) = webhooks(&folder, &configuration, &["install"]);
    assert_eq!((code, outcomes(&report)), (Some(0), vec!["created", "created"]), "{report}");
    assert_eq!(report["url"], "http://127.0.0.1:9/webhook");
    assert_eq!(report["hooks"][0]["events"], serde_json::json!(["workflow_job"]));
    let first = report["hooks"][0]["hook"].as_u64().unwrap();
    let (code, report) = webhooks(&folder, &configuration, &["install"]);
    assert_eq!((code, outcomes(&report)), (Some(0), vec!["updated", "updated"]), "{report}");
    assert_eq!(report["hooks"][0]["hook"].as_u64(), Some(first), "there is no second one");
    let (_, report) = webhooks(&folder, &configuration, &["show", "--scope", "organization:lineville"]);
    assert_eq!(outcomes(&report), vec!["found"], "{report}");
    assert!(!report.to_string().contains(WEBHOOK_SECRET));
    // Another deployment's hook is not touched.
    let other = reached(&github, "http://127.0.0.1:10");
    let (code, report) = webhooks(&folder, &other, &["remove"]);
    assert_eq!((code, outcomes(&report)), (Some(0), vec!["absent", "absent"]), "{report}");
    let (code, report) = webhooks(&folder, &configuration, &["remove"]);
    assert_eq!((code, outcomes(&report)), (Some(0), vec!["removed", "removed"]), "{report}");
    let (code, report) = webhooks(&folder, &configuration, &["show"]);
    assert_eq!((code, outcomes(&report)), (Some(1), vec!["absent", "absent"]), "{report}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = TempDir::new().unwrap();
    let refused = |text: &str, words: &[&str]| {
        let file = write(&folder, text);
        let told = output(&[&["webhooks"], words, &["--config", &file]].concat());
        assert_eq!(told.status.code(), Some(2), "{told:?}");
        String::from_utf8(told.stderr).unwrap()
    };
    let text = configuration("http://127.0.0.1:9");
    assert!(refused(&text, &["install"]).contains("set server.public_url, or give --url"));
    let words = ["show", "--app", "--url", "http://127.0.0.1:9/webhook"];
    assert!(refused(&text, &words).contains("--app needs an App in the configuration"));
}
