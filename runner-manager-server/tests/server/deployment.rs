//! What replicas share, and a configuration that is read anew: told by the API, the metrics and the log.

use std::time::Instant;

use serde_json::Value;

use crate::support::{PATIENCE, System, TOKEN, client, configuration, write};

async fn metric(system: &System, name: &str) -> f64 {
    let url = format!("{}/metrics", system.manager.url);
    let text = client().get(url).bearer_auth(TOKEN).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| {
        panic!("{name} is missing in\n{text}");
    });
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn until_logged(system: &System, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !system.manager.log().contains(text) {
        assert!(Instant::now() < deadline, "{text:?} was never logged");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_replica_alone_is_trusted_and_without_drift() {
    let system = System::start();
    let told = system
        .wait_for("/api/v1/deployment", |told| told["replicas"].as_array().is_some_and(|all| all.len() == 1))
        .await;
    assert_eq!(told["store_trusted"], Value::Bool(true));
    assert_eq!((&told["config_drift"], &told["doubt"]), (&Value::Bool(false), &Value::Null));
    assert_eq!((&told["revision"], &told["replicas"][0]["lives"]), (&Value::from(1), &Value::Bool(true)));
    assert_eq!(told["replicas"][0]["id"], told["replica"]);
    assert_eq!(told["replicas"][0]["backends"][0], "fake");
    assert_eq!(told["configuration"].as_str().unwrap().len(), 64);
    for (name, expected) in [
        ("runner_manager_store_trusted", 1.0),
        ("runner_manager_config_drift", 0.0),
        ("runner_manager_config_revision", 1.0),
        ("runner_manager_replicas", 1.0),
    ] {
        assert!((metric(&system, name).await - expected).abs() < f64::EPSILON, "{name}");
    }
    assert!(system.get("/readyz").await.get("remarks").is_none(), "nothing is remarkable");
}

#[cfg(unix)]
#[tokio::test]
async fn a_hang_up_has_the_groups_read_anew_and_a_faulty_file_changes_nothing() {
    let system = System::start();
    let groups = |told: &Value| told["items"].as_array().unwrap().len();
    assert_eq!(groups(&system.get("/api/v1/groups").await), 2);
    let github = system.github_url();

    write(&system.folder, "name: tests\nrunner_group: []\n");
    system.manager.signal("HUP");
    until_logged(&system, "the configuration has faults").await;
    assert!(system.manager.log().contains("unknown key `runner_group`"));
    assert_eq!(groups(&system.get("/api/v1/groups").await), 2);

    let more =
        configuration(&github).replace("max: 3", "max: 5").replace(TOKEN, "another-token-of-the-tests");
    write(&system.folder, &more);
    system.manager.signal("HUP");
    system.wait_for("/api/v1/groups", |told| told["items"][0]["max"] == 5).await;
    let log = system.manager.log();
    let needs_restart = log.lines().filter(|line| line.contains("it needs a restart to take effect"));
    let sections: Vec<&str> = needs_restart.collect();
    assert_eq!(sections.len(), 1, "{sections:?}");
    assert!(sections[0].contains("\"server\""), "{sections:?}");
    assert!(!log.contains("another-token"), "a secret was logged");
    assert_eq!(system.get("/api/v1/deployment").await["revision"], Value::from(2));

    let elsewhere = configuration(&github)
        .replace("  fake: {kind: fake}\n", "  fake: {kind: fake}\n  other: {kind: fake}\n")
        .replace(
            "placements: [{backend: fake}]}\n  - {name: cluster",
            "placements: [{backend: other}]}\n  - {name: cluster",
        );
    write(&system.folder, &elsewhere);
    system.manager.signal("HUP");
    until_logged(&system, "groups use backends that this process was not started with").await;
    assert_eq!(system.get("/api/v1/deployment").await["revision"], Value::from(2));
}
