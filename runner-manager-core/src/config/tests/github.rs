//! Connections to GitHub: what may be written, and what can be wrong.

use std::time::Duration;

use super::faults::each;
use super::{good, spoilt, told, try_read};
use crate::budget::Rate;
use crate::config::{GitHubCredentials, GitHubSettings};
use crate::domain::ConnectionName;

/// One connection with all that it may have, and several.
pub(super) const FORMS: [&str; 2] = [
    "api_url: https://ghe.acme.com/api/v3
  apps:
    - {id: 7, private_key: {file: app.pem}}
    - {id: 8, private_key: {file: app.pem}, installation: 9}
  concurrency: 7
  jit_rate: {calls: 90, per: 30s}
  call_timeout: 20s
  proxy: {url: 'http://proxy:3128', user: ann, password: {env: SHORT}}
  ca: {file: ca.pem}",
    "connections:
    main: {token: {env: GITHUB_TOKEN}, proxy: {env: PROXY}}
    ghes: {api_url: https://ghe.acme.com/api/v3, app: {id: 7, private_key: {file: app.pem}}}",
];

fn only(to: &str) -> GitHubSettings {
    let mut read = good("token: {env: GITHUB_TOKEN}", to).github;
    assert_eq!(read.len(), 1);
    read.remove(&ConnectionName::default()).unwrap()
}

#[test]
fn one_connection() {
    let read = only("token: {env: GITHUB_TOKEN}");
    assert_eq!(read.jit_rate, Rate { calls: 180, per: Duration::from_mins(1) });
    assert_eq!((read.concurrency, read.call_timeout), (60, Duration::from_secs(40)));
    assert!(read.proxy.is_none() && read.ca.is_none());

    let read = only(FORMS[0]);
    let ids = |credentials: &GitHubCredentials| match credentials {
        GitHubCredentials::App { id, installation, .. } => (*id, *installation),
        GitHubCredentials::Token(_) => unreachable!("no token stands there"),
    };
    assert_eq!(read.credentials.iter().map(ids).collect::<Vec<_>>(), [(7, None), (8, Some(9))]);
    assert_eq!(read.jit_rate, Rate { calls: 90, per: Duration::from_secs(30) });
    assert_eq!((read.concurrency, read.call_timeout), (7, Duration::from_secs(20)));
    let proxy = read.proxy.as_ref().unwrap();
    let (user, password) = proxy.login.as_ref().unwrap();
    assert_eq!((&*proxy.url, &**user, password.expose()), ("http://proxy:3128", "ann", "hidden"));
    assert!(read.ca.as_ref().unwrap().contains("BEGIN CERTIFICATE"));
    assert_eq!(read.secrets().count(), 3);
    assert!(!format!("{read:?}").contains("hidden"));
}

#[test]
fn the_call_timeout_is_that_of_the_file_unless_a_connection_has_its_own() {
    assert_eq!(only("token: x\ncall_timeout: 25s").call_timeout, Duration::from_secs(25));
    assert_eq!(only("token: x\n  call_timeout: 5s\ncall_timeout: 25s").call_timeout, Duration::from_secs(5));
}

#[test]
fn several_connections() {
    let several = spoilt("token: {env: GITHUB_TOKEN}", FORMS[1]);
    let chosen = several
        .replace("organization: my-org", "organization: my-org\n    github: main")
        .replace("repository: my-org/app", "repository: other/app\n    github: ghes");
    let read = try_read(&chosen).unwrap();
    let [main, ghes] = ["main", "ghes"].map(|name| ConnectionName::new(name).unwrap());
    assert_eq!(read.github.keys().collect::<Vec<_>>(), [&ghes, &main]);
    assert_eq!(read.groups.iter().map(|group| &group.github).collect::<Vec<_>>(), [&main, &ghes]);
    let login = read.github[&main].proxy.as_ref().unwrap().login.as_ref().unwrap();
    assert_eq!((&*login.0, login.1.expose()), ("ann", "hidden!"));
    assert_eq!(read.github[&ghes].api_url.as_str(), "https://ghe.acme.com/api/v3");
}

#[test]
fn a_group_that_names_none_gets_the_only_one_or_the_default_one() {
    let group = |to: &str| good("token: {env: GITHUB_TOKEN}", to).groups[0].github.to_string();
    assert_eq!(group("token: x"), "default");
    assert_eq!(group("connections: {main: {token: x}}"), "main");
    assert_eq!(group("connections: {main: {token: x}, default: {token: y}}"), "default");
    let read = good("organization: my-org", "organization: my-org\n    github: default");
    assert_eq!(read.groups[0].github, ConnectionName::default());
}

#[test]
fn what_can_be_wrong_with_a_connection() {
    let cases = [
        (
            "token: x\n  api_url: https://github.com/acme",
            "10:12: github.api_url: expected the address of GitHub's API, which is https://api.github.com there; whose runners they are stands in the groups",
        ),
        (
            "token: x\n  api_url: https://github.acme.com",
            "10:12: github.api_url: expected the address of GitHub's API, which is https://github.acme.com/api/v3 there",
        ),
        (
            "token: x\n  api_url: https://acme.ghe.com",
            "10:12: github.api_url: expected the address of GitHub's API, which is https://api.acme.ghe.com there",
        ),
        ("apps: []", "9:9: github.apps: expected 1 to 16 Apps, found 0"),
        (
            "apps: [{id: 7, private_key: {file: app.pem}}, {id: 7, private_key: {file: app.pem}}]",
            "9:49: github.apps[1]: App 7 stands in this list already: GitHub counts its calls once",
        ),
        (
            "token: x\n  jit_rate: {calls: 0, per: 1m}",
            "10:21: github.jit_rate.calls: expected a whole number from 1 to 20000, found 0",
        ),
        (
            "token: x\n  call_timeout: 50s",
            "10:17: github.call_timeout: a call_timeout of 50s outlives the lease: it must be less than half of it, 45s",
        ),
        (
            "token: x\n  proxy: socks5://hidden:1",
            "10:10: github.proxy: expected the URL of an HTTP proxy such as http://proxy.example.com:3128 or http://USER:PASSWORD@HOST:PORT",
        ),
        (
            "token: x\n  proxy: {url: 'http://h:1', user: ann}",
            "10:10: github.proxy.password: is required, but missing: there is a user without one",
        ),
        (
            "token: x\n  proxy: {url: 'http://h:1', password: hidden}",
            "10:10: github.proxy.user: is required, but missing: there is a password without one",
        ),
        (
            "token: x\n  proxy: {url: 'http://a:hidden@h:1', user: a, password: b}",
            "10:10: github.proxy: user and password stand in the URL, too: remove one of them",
        ),
        (
            "token: x\n  ca: {file: empty}",
            "10:14: github.ca.file: file `/etc/rm/empty` has no certificate in PEM in it",
        ),
        ("connections: {}", "9:16: github.connections: expected at least one connection, found none"),
        (
            "connections: {a: {token: x}}\n  concurrency: 7",
            "10:16: github.concurrency: `concurrency` has no meaning beside connections: write it into each of them",
        ),
        (
            "connections: {A: {token: x}}",
            "9:20: github.connections.A: connection name `A` may only have lower-case letters, digits and `-`, begin with a letter and not end with `-`",
        ),
        (
            "connections: {a: {token: x, apsp: []}}",
            "9:31: github.connections.a.apsp: unknown key `apsp`; did you mean `app`?",
        ),
    ];
    let cases: Vec<_> = cases.iter().map(|(to, fault)| ("token: {env: GITHUB_TOKEN}", *to, *fault)).collect();
    each(&cases);
    assert!(cases.iter().all(|(from, to, _)| !told(&spoilt(from, to)).contains("hidden")));
}

#[test]
fn what_can_be_wrong_with_a_groups_connection() {
    let several =
        "connections:\n    main: {token: x}\n    ghes: {api_url: https://ghe.acme.com/api/v3, token: x}";
    let file = |first: &str, second: &str| {
        spoilt("token: {env: GITHUB_TOKEN}", several)
            .replace("organization: my-org", &format!("organization: my-org{first}"))
            .replace("repository: my-org/app", second)
    };
    let named = "\n    github: main";
    for (first, second, fault) in [
        (
            "",
            "repository: a/b\n    github: main",
            "15:5: runner_groups[0]: expected the key github with one of the connections: ghes, main",
        ),
        (
            "\n    github: mian",
            "repository: a/b\n    github: main",
            "17:13: runner_groups[0].github: unknown connection `mian`; did you mean `main`?",
        ),
        (
            named,
            "organization: My-Org\n    github: ghes",
            "24:13: runner_groups[1].github: organization:my-org is worked on by connection `main` since line 17: its groups name one connection",
        ),
        (
            named,
            "repository: My-Org/app\n    github: ghes",
            "24:13: runner_groups[1].github: there is a group for repository:My-Org/app at api.github.com in line 17 already: a webhook does not tell the same names at two servers apart",
        ),
    ] {
        assert_eq!(told(&file(first, second)), fault, "{first} {second}");
    }
    // Where the connection itself is wrong, that alone is told.
    let wrong = spoilt("token: {env: GITHUB_TOKEN}", "connections: {a: {token: ''}}");
    assert_eq!(
        told(&wrong),
        "9:28: github.connections.a.token: the secret has 0 characters, at least 1 are needed"
    );
}
