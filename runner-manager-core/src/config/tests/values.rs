//! What a file that is right is read as.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::super::{
    BackendSettings, GitHubCredentials, LoadError, ProcessEnvironment, Role, Server, StoreSettings, Webhooks,
    load, read,
};
use super::{Configuration, GOOD, good, registry, try_read};
use crate::budget::Rate;
use crate::domain::{
    Arch, BackendName, Balance, Bounds, ConnectionName, GitHubGroup, GroupAccess, GroupRules, Labels, Limits,
    Os, Owner, Scope, Secret,
};

#[test]
fn the_good_file() {
    let read = try_read(GOOD).unwrap();
    assert_eq!(read.name.as_str(), "acme");
    assert_eq!(read.owner, Owner::new(read.name.clone(), &read.secret_key));
    assert_eq!(read.secret_key.expose(), "the key of the deployment");
    assert_eq!(webhook_secrets(&read), ["the secret of webhooks"], "a file's last newline is cut");
    assert_eq!((read.server.tokens[0].name.as_str(), read.server.tokens[0].role), ("ops", Role::Admin));
    let github = &read.github[&ConnectionName::default()];
    assert!(
        matches!(&github.credentials[..], [GitHubCredentials::Token(token)] if token.expose() == "ghp_hidden")
    );
    assert_eq!((read.github.len(), github.concurrency), (1, 60));
    let backend = &read.backends[&BackendName::new("here").unwrap()];
    let settings = serde_json::json!({"region": "r1"});
    assert_eq!(
        *backend,
        BackendSettings { kind: "boxes".into(), concurrency: 32, rate: None, direct: false, settings }
    );
}

#[test]
fn groups_in_the_order_of_the_file() {
    let groups = try_read(GOOD).unwrap().groups;
    let [linux, arm] = &groups[..] else { panic!("{groups:?}") };
    assert_eq!((linux.name.as_str(), linux.order), ("linux", 0));
    assert_eq!(linux.scope, Scope::organization("my-org").unwrap());
    assert_eq!(linux.labels, Labels::parse(["large"]).unwrap());
    assert_eq!(linux.bounds, Bounds::new(0, 5).unwrap());
    let places: Vec<_> = linux.placements.iter().map(|one| one.description.as_str()).collect();
    assert_eq!(places, [r#""a" in "z1""#, r#""a" in "z2""#]);
    assert_eq!(linux.placements[0].settings, serde_json::json!({"image": "a", "zone": "z1"}));
    assert_eq!((arm.name.as_str(), arm.order, arm.arch), ("arm", 1, Arch::Arm64));
    assert_eq!(arm.scope, Scope::Repository("my-org/app".parse().unwrap()));
}

/// The path of the embedded store.
fn embedded(read: &Configuration) -> &Path {
    let StoreSettings::Embedded { path } = &read.store else { panic!("{:?}", read.store) };
    path
}

#[cfg(feature = "redis")]
fn redis(settings: &str) -> crate::redis::RedisSettings {
    let read = good("github:\n", &format!("store: {{kind: redis, {settings}}}\ngithub:\n"));
    let StoreSettings::Redis(settings) = read.store else { panic!("{:?}", read.store) };
    settings
}

#[cfg(feature = "redis")]
#[test]
fn a_redis_store_has_defaults() {
    let read = redis("url: 'rediss://r.example.com'");
    assert_eq!(read.servers.to_string(), "r.example.com:6379");
    assert_eq!((&*read.prefix, read.database, read.tls), ("rm:{acme}", 0, true));
    assert!(read.user.is_none() && read.password.is_none() && read.ca.is_none());
    assert_eq!(
        (read.connect_timeout, read.response_timeout),
        (Duration::from_secs(3), Duration::from_secs(5))
    );
}

#[cfg(feature = "redis")]
#[test]
fn a_redis_store_takes_what_a_user_chooses() {
    let read = redis("url: {env: REDIS_URL}, prefix: 'ci:{a}', connect_timeout: 1s, response_timeout: 500ms");
    assert_eq!(read.servers.to_string(), "the master of `main` by the sentinels a:26379, b:1");
    assert_eq!((read.user.as_deref(), read.password.unwrap().expose()), (Some("ops"), "hidden"));
    assert_eq!((&*read.prefix, read.database), ("ci:{a}", 2));
    assert_eq!(read.connect_timeout, Duration::from_secs(1));
    assert_eq!(read.response_timeout, Duration::from_millis(500));

    let apart = redis("url: 'rediss://h', user: ops, password: {env: SHORT}, ca: {file: ca.pem}");
    assert_eq!((apart.user.as_deref(), apart.password.unwrap().expose()), (Some("ops"), "hidden"));
    assert!(apart.ca.unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let beside = redis("url: 'redis://ops@h', password: {env: SHORT}");
    assert_eq!((beside.user.as_deref(), beside.password.unwrap().expose()), (Some("ops"), "hidden"));
    assert!(!format!("{:?}", redis("url: {env: REDIS_URL}")).contains("hidden"));
}

#[test]
fn defaults() {
    let read = good("  listen: 127.0.0.1:8080\n", "");
    assert_eq!(read.server.listen, Server::DEFAULT_LISTEN);
    assert!(read.server.listen.ip().is_loopback());
    assert_eq!(read.server.public_url, None);
    assert_eq!(embedded(&read), Path::new("/etc/rm/runner-manager.redb"));
    assert_eq!(read.github[&ConnectionName::default()].api_url.as_str(), "https://api.github.com");
    assert_eq!(read.balance, Balance::Pack);
    assert_eq!((read.sweep_interval, read.sweep_dry_run), (Duration::from_mins(5), false));
    assert_eq!((read.lease, read.call_timeout), (Duration::from_secs(90), Duration::from_secs(40)));
    assert_eq!(read.recover_interval, Duration::from_mins(5));
    assert_eq!((read.redeliver_interval, read.server.webhook_url), (Some(Duration::from_mins(2)), None));
    let group = &read.groups[1];
    assert_eq!(group.bounds, Bounds::new(0, 20).unwrap());
    assert_eq!((group.os, group.priority, group.rerun_on_loss), (Os::Linux, 0, false));
    assert_eq!(group.github_group, GitHubGroup::default());
    assert_eq!(group.limits, Limits::default());
    assert!(group.labels.is_empty() && group.tags.is_empty());
}

#[test]
fn what_a_user_may_choose() {
    let app = "app: {id: 7, private_key: {file: app.pem}, installation: 9}\n  api_url: https://ghe.acme.com/api/v3/";
    let read = good("token: {env: GITHUB_TOKEN}", app);
    let github = &read.github[&ConnectionName::default()];
    assert!(matches!(
        &github.credentials[..],
        [GitHubCredentials::App { id: 7, installation: Some(9), private_key }] if private_key.expose().starts_with("-----BEGIN ")
    ));
    assert_eq!(github.api_url.as_str(), "https://ghe.acme.com/api/v3");

    let read = good(
        "github:\n",
        "store: {kind: embedded, path: /var/rm.redb}\nbalance: spread\nsweep_interval: 90s\nsweep_dry_run: true\nrecover_interval: 10m\nredeliver_interval: 0s\ngithub:\n",
    );
    assert_eq!(embedded(&read), Path::new("/var/rm.redb"));
    assert_eq!((read.balance, read.sweep_interval), (Balance::Spread, Duration::from_secs(90)));
    assert!(read.sweep_dry_run);
    assert_eq!((read.recover_interval, read.redeliver_interval), (Duration::from_mins(10), None));
    for (urls, expected) in [
        ("public_url: https://rm.acme.com/", "https://rm.acme.com/webhook"),
        ("webhook_url: https://hooks.acme.com/rm", "https://hooks.acme.com/rm"),
        (
            "public_url: https://rm.acme.com\n  webhook_url: https://hooks.acme.com/rm",
            "https://hooks.acme.com/rm",
        ),
    ] {
        let read = good("listen: 127.0.0.1:8080", urls);
        assert_eq!(read.server.webhook_url.unwrap().as_str(), expected);
    }

    let group = "\
arch: arm
    os: windows
    priority: -3
    rerun_on_loss: true
    tags: {cost-center: ci}
    github_group: {name: default, manage: false}
    start_timeout: 1h30m
    idle_timeout: 0s
    max_idle_age: 10m
    max_job_time: 6h
    retire_timeout: 1h
    removal_grace: 45s
";
    let read = good("arch: arm64\n", group);
    let group = &read.groups[1];
    assert_eq!((group.os, group.arch, group.priority), (Os::Windows, Arch::Arm, -3));
    assert!(group.rerun_on_loss);
    assert_eq!(group.tags["cost-center"], "ci");
    assert_eq!(
        group.limits,
        Limits {
            start_timeout: Duration::from_mins(90),
            idle_timeout: Duration::ZERO,
            max_idle_age: Duration::from_mins(10),
            max_job_time: Some(Duration::from_hours(6)),
            retire_timeout: Duration::from_hours(1),
            removal_grace: Duration::from_secs(45),
        }
    );

    let read = good("region: r1", "concurrency: 4");
    let backend = &read.backends[&BackendName::new("here").unwrap()];
    assert_eq!((backend.concurrency, &backend.settings), (4, &serde_json::json!({})));
    let read = good("region: r1", "rate: {calls: 10, per: 1m}");
    let backend = &read.backends[&BackendName::new("here").unwrap()];
    assert_eq!(backend.rate, Some(Rate { calls: 10, per: Duration::from_mins(1) }));
    assert_eq!(backend.settings, serde_json::json!({}));
    let read = good("github:\n", "github:\n  concurrency: 7\n");
    assert_eq!(read.github[&ConnectionName::default()].concurrency, 7);
}

/// A group that is managed at GitHub, with all that can be said of it.
pub(super) const MANAGED: &str = "\
github_group:
      name: Large
      manage: true
      repositories: [app, My-Org/lib]
      allows_public_repositories: true
      workflows: [my-org/app/.github/workflows/deploy.yaml@main]";

#[test]
fn github_groups_that_are_managed() {
    let rules = |text: &str| good("labels: [large]", text).groups[0].github_group.managed.clone().unwrap();
    let all = GroupRules { access: GroupAccess::All, allows_public_repositories: false, workflows: None };
    assert_eq!(rules("github_group: {name: Large, manage: true}"), all);
    assert_eq!(rules("github_group: {name: Large, manage: true, repositories: all}"), all);
    let selected = ["my-org/app", "my-org/lib"].map(|name| name.parse().unwrap());
    let workflows = ["my-org/app/.github/workflows/deploy.yaml@main".to_owned()];
    let expected = GroupRules {
        access: GroupAccess::Repositories(selected.into()),
        allows_public_repositories: true,
        workflows: Some(workflows.into()),
    };
    assert_eq!(rules(MANAGED), expected);
    let read = good(
        "organization: my-org\n    labels: [large]",
        "enterprise: inc\n    github_group: {name: Large, manage: true, organizations: [My-Org]}",
    );
    let rules = read.groups[0].github_group.managed.clone().unwrap();
    assert_eq!(rules.access, GroupAccess::Organizations(["my-org".to_owned()].into()));
}

#[test]
fn groups_that_share_a_group_at_github_say_the_same_of_it() {
    let second = |name: &str| {
        let spoilt = MANAGED.replace("name: Large", &format!("name: {name}"));
        let text = super::spoilt("labels: [large]", MANAGED);
        text.replace("repository: my-org/app\n", &format!("organization: my-org\n    {spoilt}\n"))
    };
    let read = try_read(&second("large")).unwrap();
    assert_eq!(read.groups[0].github_group.managed, read.groups[1].github_group.managed);
    assert!(
        try_read(&second("Small").replacen("public_repositories: true", "public_repositories: false", 1))
            .is_ok()
    );
}

fn webhook_secrets(read: &Configuration) -> Vec<&str> {
    let Webhooks::Signed(secrets) = &read.server.webhooks else { panic!("{:?}", read.server) };
    secrets.iter().map(Secret::expose).collect()
}

#[test]
fn a_webhook_secret_and_the_one_before_it() {
    let read = good("{file: webhook.secret}", "[{env: RM_TOKEN}, {file: webhook.secret}]");
    assert_eq!(webhook_secrets(&read), ["the token of operators", "the secret of webhooks"]);
    let read = good("{file: webhook.secret}", "[{file: webhook.secret}]");
    assert_eq!(webhook_secrets(&read), ["the secret of webhooks"]);
}

#[test]
fn unsigned_webhooks_on_a_loopback_address_alone() {
    let read = good("webhook_secret: {file: webhook.secret}", "allow_unsigned_webhooks: true");
    assert!(matches!(read.server.webhooks, Webhooks::Unsigned));
    let read = good(
        "listen: 127.0.0.1:8080\n  webhook_secret: {file: webhook.secret}",
        "listen: '[::1]:0'\n  allow_unsigned_webhooks: true",
    );
    assert_eq!(read.server.listen, "[::1]:0".parse::<SocketAddr>().unwrap());
}

#[test]
fn anchors_and_merges_are_taken() {
    let text = GOOD
        .replace("- {backend: here, image: a, zones: [z1, z2]}", "- &place {backend: here, image: a}")
        .replace("- {backend: here, image: b}", "- {<<: *place, image: b}\n      - *place");
    let groups = try_read(&text).unwrap().groups;
    assert_eq!(groups[1].placements[0].settings["image"], "b");
    assert_eq!(groups[1].placements[1], groups[0].placements[0]);
}

#[test]
fn no_group_is_possible_so_that_the_last_can_drain() {
    let text = &GOOD[..GOOD.find("runner_groups").unwrap()];
    assert!(try_read(&format!("{text}runner_groups: []\n")).unwrap().groups.is_empty());
}

#[test]
fn nothing_prints_a_secret() {
    let app = "app: {id: 7, private_key: {file: app.pem}}";
    for read in [try_read(GOOD).unwrap(), good("token: {env: GITHUB_TOKEN}", app)] {
        let printed = format!("{read:?}");
        for secret in ["hidden", "the key of", "the secret of", "ops-token", "r1"] {
            assert!(!printed.contains(secret), "{secret} in {printed}");
        }
    }
}

#[test]
fn a_file_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runner-manager.yaml");
    assert!(matches!(load(&path, &registry()), Err(LoadError::Unreadable { .. })));

    let text = GOOD
        .replace("{env: RM_SECRET_KEY}", "{file: webhook.secret}")
        .replace("{env: GITHUB_TOKEN}", "ghp_plain");
    std::fs::write(&path, text).unwrap();
    let told = load(&path, &registry()).unwrap_err().to_string();
    assert!(told.starts_with(&format!("{}:2:20: secret_key.file: file `", path.display())), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");

    std::fs::write(folder.path().join("webhook.secret"), "a secret from the disk\r\n").unwrap();
    let read = load(&path, &registry()).unwrap();
    assert_eq!(read.secret_key.expose(), "a secret from the disk");
    assert_eq!(embedded(&read), folder.path().join("runner-manager.redb"));
}

#[test]
fn the_environment_of_this_process() {
    let environment = ProcessEnvironment::new(Path::new("."));
    // Cargo sets this one for every test.
    let text = GOOD
        .replace("{env: RM_SECRET_KEY}", "{env: CARGO_MANIFEST_DIR}")
        .replace("{env: GITHUB_TOKEN}", "{env: RM_TEST_IS_NOT_SET}");
    let told = read(&text, &registry(), &environment).unwrap_err().to_string();
    assert!(
        told.contains("9:16: github.token.env: environment variable `RM_TEST_IS_NOT_SET` is not set"),
        "{told}"
    );
    assert!(!told.contains("secret_key"), "{told}");
}
