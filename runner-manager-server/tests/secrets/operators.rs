//! What people and strangers do with a manager, right and wrong.

use super::Outputs;
use super::support::{client, program};
use super::world::{ADMIN, REDIS_PASSWORD, VIEWER, World, beside, without_troubles};

/// Requests with good and with wrong tokens and signatures.
pub(crate) async fn look_and_act(world: &World) -> Outputs {
    let mut outputs = Outputs::new();
    // A token of another kind, one in the wrong place, and one that may only look.
    for (path, token) in [
        ("/api/v1/status", "ghp_not-the-token-of-anybody"),
        (&*format!("/api/v1/status?token={ADMIN}"), "another"),
        (&format!("/{ADMIN}"), ADMIN),
        (&format!("/api/v1/jobs/{VIEWER}"), VIEWER),
        (&format!("/api/v1/jobs?state={VIEWER}"), VIEWER),
    ] {
        let url = format!("{}{path}", world.url());
        let answer =
            client().get(url).bearer_auth(token).basic_auth("ops", Some(ADMIN)).send().await.unwrap();
        outputs.push((
            format!("{}?", path.split(['?']).next().unwrap().replace(ADMIN, "").replace(VIEWER, "")),
            answer.bytes().await.unwrap().to_vec(),
        ));
    }
    for (path, token) in [
        ("groups/app/drain", VIEWER),
        ("groups/app/drain", ADMIN),
        ("groups/app/resume", ADMIN),
        ("runners/nobody/retire", ADMIN),
        ("sweeps/go-on", ADMIN),
    ] {
        let url = format!("{}/api/v1/{path}", world.url());
        let answer = client().post(url).bearer_auth(token).send().await.unwrap();
        outputs.push((path.to_owned(), answer.bytes().await.unwrap().to_vec()));
    }
    for (delivery, secret, body) in [
        ("wrong-signature", "no-secret-of-ours-at-all", b"{}".to_vec()),
        ("as-a-token", ADMIN, format!("{{\"token\": \"{ADMIN}\"}}").into_bytes()),
    ] {
        let (status, answer) = world.deliver(secret, delivery, body).await;
        assert_eq!(status, 401, "{answer}");
        outputs.push((delivery.to_owned(), answer.into_bytes()));
    }
    outputs
}

/// Commands on the configuration, right and wrong, and on the manager.
pub(crate) fn run_commands(world: &World, job: &str) -> Outputs {
    let mut outputs = Outputs::new();
    let mut run = |words: &[&str], file: Option<&str>, token: Option<&str>| {
        let mut command = program(&[words, &["--log-level", "trace"]].concat());
        if let Some(file) = file {
            command.env("RUNNER_MANAGER_CONFIG", file);
        }
        if let Some(token) = token {
            command.env("RUNNER_MANAGER_TOKEN", token).env("RUNNER_MANAGER_URL", world.url());
        }
        let told = command.output().unwrap();
        assert!(!(told.stdout.is_empty() && told.stderr.is_empty()), "{words:?} says nothing");
        outputs.push((words.join(" "), [told.stdout, told.stderr].concat()));
    };
    // With the connections that fail left out, what works is seen to the end.
    let near = beside(world.folder.path(), "near.yaml", &without_troubles(&world.text()));
    for words in [
        &["check"][..],
        &["check", "--json"],
        &["check", "--online"],
        &["check", "--online", "--json"],
        &["webhooks", "install"],
        &["webhooks", "install", "--app"],
        &["webhooks", "show", "--json"],
        &["webhooks", "remove"],
        // The store is in use, or served twice: either is told.
        &["webhooks", "show"],
    ] {
        run(words, Some(&near), None);
    }
    for token in [ADMIN, VIEWER, "ghp_not-the-token-of-anybody"] {
        for words in [
            &["status"][..],
            &["jobs"],
            &["why", job],
            &["runners", "--json"],
            &["drain", "token"],
            &["resume", "token"],
        ] {
            run(words, None, Some(token));
        }
    }
    for (at, text) in spoilt(&world.text()).into_iter().enumerate() {
        let file = beside(world.folder.path(), &format!("spoilt-{at}.yaml"), &text);
        run(&["check"], Some(&file), None);
        run(&["serve"], Some(&file), None);
    }
    outputs
}

/// Configurations that do not work, each with its secrets in the wrong place.
fn spoilt(text: &str) -> Vec<String> {
    let wrong = [
        ("tokens: [", format!("tokens: {ADMIN}\n  listens: [")),
        ("role: admin, token: ", "role: admin, token:".to_owned()),
        ("store: ", format!("store: {{kind: redis, url: 'redis://rm:{REDIS_PASSWORD}@:x:y/z'}}\nstores: ")),
        ("store: ", format!("store: {{kind: redis, url: 'redis://rm:{REDIS_PASSWORD}@127.0.0.1:9'}}\n# ")),
        ("private_key: {file: app.pem}", format!("private_key: {ADMIN}")),
        ("private_key: {file: app.pem}", "private_key: {file: none.pem}".to_owned()),
        ("proxy: 'http", "proxy: 'socks5".to_owned()),
        ("'}\n", "}\n".to_owned()),
        ("secret_key: ", "secret_key: '".to_owned()),
        ("secret_key: ", "secret_key: {env: }\nsecret: ".to_owned()),
        ("secret_key: ", format!("secret_key: {{env: {ADMIN}}}\nsecret: ")),
        ("name: rm", format!("name: {ADMIN}")),
        ("role: admin", format!("role: {ADMIN}")),
        ("organization: acme", format!("organization: [{ADMIN}]\n   github: {ADMIN}")),
        ("kind: fake, url: 'http://", format!("kind: fake, url: 'ftp://ann:{REDIS_PASSWORD}@")),
        ("kind: fake, ", format!("kind: fake, {ADMIN}: 1, ")),
        ("settle: 1s", format!("settle: {ADMIN}")),
        ("bootstrap_url: 'http://", format!("bootstrap_url: 'https://ann:{REDIS_PASSWORD}@")),
        ("bootstrap: direct", format!("bootstrap: {ADMIN}")),
    ];
    // Of another store, or of a backend that was left out, there is nothing to spoil.
    let spoilt = wrong.iter().map(|(from, to)| {
        assert!(text.contains(from), "`{from}` stands nowhere");
        text.replacen(from, to, 1)
    });
    spoilt.filter(|spoilt| spoilt != text).collect()
}
