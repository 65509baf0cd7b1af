//! Each fault by its place and words.

use std::fmt::Write;

use super::{GOOD, spoilt, told, try_read};

/// Spoils the good file in one place each, and compares all that is told.
#[track_caller]
fn each(cases: &[(&str, &str, &str)]) {
    let mut wrong = String::new();
    for (from, to, expected) in cases {
        let told = told(&spoilt(from, to));
        if told != *expected {
            writeln!(wrong, "{from:?} -> {to:?}\n expected {expected}\n told     {told}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn the_good_file_is_good() {
    try_read(GOOD).unwrap();
}

#[test]
fn keys() {
    each(&[
        (
            "name: acme\n",
            "nam: acme\n",
            "1:1: nam: unknown key `nam`; did you mean `name`?\n1:1: name: is required, but missing",
        ),
        (
            "labels: [large]",
            "lables: [large]",
            "15:5: runner_groups[0].lables: unknown key `lables`; did you mean `labels`?",
        ),
        (
            "labels: [large]",
            "whatever: 1",
            "15:5: runner_groups[0].whatever: unknown key `whatever`; known: name, organization, repository, enterprise, github_group, os, arch, labels, min_idle, max, priority, tags, placements, start_timeout, idle_timeout, max_idle_age, max_job_time, retire_timeout, removal_grace",
        ),
        (
            "max: 5",
            "max: 5\n    max: 6",
            "17:5: runner_groups[0].max: key `max` stands twice, first in line 16",
        ),
        (
            "region: r1",
            "region: r1, region: r2",
            "11:35: backends.here.region: key `region` stands twice, first in line 11",
        ),
        (
            "    max: 5\n",
            "    max: 5\n    <<: {max: 6, nonsense: 1}\n",
            "17:18: runner_groups[0].nonsense: unknown key `nonsense`; known: name, organization, repository, enterprise, github_group, os, arch, labels, min_idle, max, priority, tags, placements, start_timeout, idle_timeout, max_idle_age, max_job_time, retire_timeout, removal_grace",
        ),
    ]);
}

#[test]
fn types() {
    each(&[
        ("name: acme", "name: [acme]", "1:7: name: expected a text, found a list"),
        ("name: acme", "name: 12", "1:7: name: expected a text (put it in quotes), found a number"),
        ("name: acme", "name:", "1:5: name: expected a text, found nothing"),
        (
            "max: 5",
            "max: five",
            "16:10: runner_groups[0].max: expected a whole number from 0 to 4294967295, found a text",
        ),
        (
            "max: 5",
            "max: 5.5",
            "16:10: runner_groups[0].max: expected a whole number from 0 to 4294967295, found 5.5",
        ),
        (
            "max: 5",
            "max: -1",
            "16:10: runner_groups[0].max: expected a whole number from 0 to 4294967295, found -1",
        ),
        ("labels: [large]", "labels: large", "15:13: runner_groups[0].labels: expected a list, found a text"),
        (
            "labels: [large]",
            "labels: [large, [x], 7]",
            "15:21: runner_groups[0].labels[1]: expected a text, found a list\n15:26: runner_groups[0].labels[2]: expected a text (put it in quotes), found a number",
        ),
        (
            "  listen: 127.0.0.1:8080\n",
            "  allow_unsigned_webhooks: 'yes'\n",
            "4:28: server.allow_unsigned_webhooks: expected true or false, found a text",
        ),
        (
            "  here: {kind: boxes, region: r1}\n",
            "  here: boxes\n",
            "11:9: backends.here: expected a map, found a text",
        ),
    ]);
}

#[test]
fn names() {
    each(&[
        (
            "name: acme\n",
            "name: Acme\n",
            "1:7: name: deployment name `Acme` may only have lower-case letters, digits and `-`, begin with a letter and not end with `-`",
        ),
        (
            "name: acme\n",
            "name: a-name-that-is-much-too-long\n",
            "1:7: name: deployment name `a-name-that-is-much-too-long` has 28 characters, at most 24 are allowed",
        ),
        (
            "name: linux\n",
            "name: linux_1\n",
            "13:11: runner_groups[0].name: group name `linux_1` may only have lower-case letters, digits and `-`, begin with a letter and not end with `-`",
        ),
        (
            "name: arm\n",
            "name: linux\n",
            "19:11: runner_groups[1].name: a group `linux` stands in line 13 already",
        ),
        (
            "name: linux\n",
            "name: a-group-name-of-33-characters-abc\n    os: linux\n",
            "13:11: runner_groups[0].name: group name `a-group-name-of-33-characters-abc` has 33 characters, at most 32 are allowed",
        ),
        (
            "  here: {kind: boxes, region: r1}\n",
            "  here: {kind: boxes}\n  Here: {kind: boxes}\n",
            "12:9: backends.Here: backend name `Here` may only have lower-case letters, digits and `-`, begin with a letter and not end with `-`",
        ),
    ]);
    let long = GOOD
        .replace("name: acme\n", "name: a-deployment-of-24-chars\n")
        .replace("name: linux\n", "name: a-group-of-25-characters1\n");
    assert_eq!(
        told(&long),
        "13:11: runner_groups[0].name: the deployment's name `a-deployment-of-24-chars` and this one have 49 characters together, at most 48 are allowed: runner names are made of them"
    );
    try_read(&long.replace("name: a-group-of-25-characters1\n", "name: a-group-of-24-characters\n")).unwrap();
}

#[test]
fn groups() {
    each(&[
        ("max: 5", "max: 5\n    min_idle: 6", "17:15: runner_groups[0].min_idle: min_idle 6 is above max 5"),
        (
            "max: 5",
            "min_idle: 21",
            "16:15: runner_groups[0].min_idle: min_idle 21 is above max 20 (its default)",
        ),
        (
            "max: 5",
            "max: 0",
            "16:10: runner_groups[0].max: max must be at least 1; to stop a group, drain it",
        ),
        (
            "organization: my-org",
            "organization: my-org\n    enterprise: acme",
            "13:5: runner_groups[0]: expected one of organization, repository and enterprise, found more than one",
        ),
        (
            "    organization: my-org\n",
            "",
            "13:5: runner_groups[0]: expected one of organization, repository and enterprise, found none",
        ),
        (
            "organization: my-org",
            "organization: my/org",
            "14:19: runner_groups[0].organization: expected the name of an organization at GitHub",
        ),
        (
            "repository: my-org/app",
            "repository: app",
            "20:17: runner_groups[1].repository: `app` is not a repository: write it as owner/name",
        ),
        (
            "labels: [large]",
            "labels: ['a,b', '', runner-manager-x]",
            "15:14: runner_groups[0].labels[0]: label `a,b` has a comma or a control character, which GitHub does not take\n15:21: runner_groups[0].labels[1]: a label cannot be empty\n15:25: runner_groups[0].labels[2]: labels that begin with runner-manager- are Runner Manager's own",
        ),
        (
            "arch: arm64",
            "arch: amd64",
            "21:11: runner_groups[1].arch: expected `x64`, `arm64` or `arm`, found `amd64`",
        ),
        (
            "arch: arm64",
            "os: osx",
            "21:9: runner_groups[1].os: expected `linux`, `windows` or `macos`, found `osx`",
        ),
        (
            "arch: arm64",
            "tags: {Runner-Manager-Owner: me, fine: ok, count: 7}",
            "21:34: runner_groups[1].tags.Runner-Manager-Owner: tags that begin with runner-manager- are Runner Manager's own\n21:55: runner_groups[1].tags.count: expected a text (put it in quotes), found a number",
        ),
        (
            "arch: arm64",
            "priority: 3000000000",
            "21:15: runner_groups[1].priority: expected a whole number from -2147483648 to 2147483647, found 3000000000",
        ),
        (
            "arch: arm64",
            "github_group: {name: Large}",
            "21:26: runner_groups[1].github_group.name: a repository has no runner group but Default",
        ),
        (
            "labels: [large]",
            "github_group: {name: Large, manage: true}",
            "15:41: runner_groups[0].github_group.manage: this version does not manage GitHub's runner groups: the group must exist at GitHub, with its rules, and the key be removed here",
        ),
        (
            "labels: [large]",
            "github_group: {manage: false, workflows: []}",
            "15:19: runner_groups[0].github_group.name: is required, but missing\n15:46: runner_groups[0].github_group.workflows: this version does not manage GitHub's runner groups: the group must exist at GitHub, with its rules, and the key be removed here",
        ),
    ]);
}

#[test]
fn placements() {
    each(&[
        (
            "{backend: here, image: b}",
            "{backend: her, image: b}",
            "23:19: runner_groups[1].placements[0].backend: unknown backend `her`; did you mean `here`?",
        ),
        (
            "{backend: here, image: b}",
            "{backend: elsewhere, image: b}",
            "23:19: runner_groups[1].placements[0].backend: unknown backend `elsewhere`; known: here",
        ),
        (
            "{backend: here, image: b}",
            "{image: b}",
            "23:9: runner_groups[1].placements[0].backend: is required, but missing",
        ),
        (
            "{backend: here, image: b}",
            "{backend: here, imag: b}",
            "23:9: runner_groups[1].placements[0].image: expected an image\n23:31: runner_groups[1].placements[0].imag: unknown key",
        ),
        (
            "{backend: here, image: b}",
            "{backend: here, image: b, zones: [z1, 2]}",
            "23:47: runner_groups[1].placements[0].zones[1]: expected a zone",
        ),
        (
            "{backend: here, image: b}",
            "{backend: here, image: b, zones: []}",
            "23:9: runner_groups[1].placements[0]: these settings name no placement: one of their lists is empty",
        ),
        (
            "zones: [z1, z2]",
            "zones: [z1, z1]",
            "18:9: runner_groups[0].placements[0]: placement `\"a\" in \"z1\"` stands twice in this group, first in line 18",
        ),
        (
            "      - {backend: here, image: b}\n",
            "      []\n",
            "23:7: runner_groups[1].placements: expected at least one placement, found none",
        ),
        ("region: r1", "regino: r1", "11:31: backends.here.regino: unknown key"),
        (
            "kind: boxes",
            "kind: aws",
            "11:16: backends.here.kind: this program was built without backend kind `aws`; known: boxes, docker",
        ),
        ("kind: boxes", "concurrency: 4", "11:9: backends.here.kind: is required, but missing"),
        (
            "region: r1",
            "concurrency: 0",
            "11:36: backends.here.concurrency: expected a whole number from 1 to 1024, found 0",
        ),
        ("region: r1", "rate: {calls: 10}", "11:29: backends.here.rate.per: is required, but missing"),
        (
            "region: r1",
            "rate: {calls: 0, per: 1s}",
            "11:37: backends.here.rate.calls: expected a whole number from 1 to 20000, found 0",
        ),
        (
            "region: r1",
            "rate: {calls: 9, per: 1ms}",
            "11:45: backends.here.rate.per: expected a duration from 1s to 1h, found `1ms`",
        ),
        (
            "region: r1",
            "rate: {calls: 10, per: 1s, of: x}",
            "11:50: backends.here.rate.of: unknown key `of`; known: calls, per",
        ),
    ]);
}

#[test]
fn secrets() {
    each(&[
        (
            "{env: RM_SECRET_KEY}",
            "{env: NOT_SET}",
            "2:19: secret_key.env: environment variable `NOT_SET` is not set",
        ),
        (
            "{env: RM_SECRET_KEY}",
            "{env: SHORT}",
            "2:13: secret_key: the secret has 6 characters, at least 16 are needed",
        ),
        (
            "{env: RM_SECRET_KEY}",
            "{env: SHORT, file: x}",
            "2:13: secret_key: expected a text, {env: NAME} or {file: PATH}",
        ),
        ("{env: RM_SECRET_KEY}", "{}", "2:13: secret_key: expected a text, {env: NAME} or {file: PATH}"),
        (
            "{env: RM_SECRET_KEY}",
            "{environment: SHORT}",
            "2:13: secret_key: expected a text, {env: NAME} or {file: PATH}",
        ),
        (
            "{env: RM_SECRET_KEY}",
            "1234567890123456789",
            "2:13: secret_key: expected a text (put it in quotes), found a number",
        ),
        (
            "{file: webhook.secret}",
            "{file: other.secret}",
            "5:26: server.webhook_secret.file: file `/etc/rm/other.secret` cannot be read: no such file",
        ),
        (
            "{file: webhook.secret}",
            "{file: empty}",
            "5:19: server.webhook_secret: the secret has 0 characters, at least 16 are needed",
        ),
        (
            "{env: GITHUB_TOKEN}",
            "''",
            "9:10: github.token: the secret has 0 characters, at least 1 are needed",
        ),
        (
            "{env: GITHUB_TOKEN}",
            "gh hidden",
            "9:10: github.token: expected a token without spaces, line breaks and characters outside ASCII",
        ),
    ]);
}

#[test]
fn a_secret_without_its_quotes_is_not_told() {
    let odd =
        ["!", "!!", "!!int ", "!!null ", "!!binary ", "&", "*", "@", "`", "%", "|", ">", "{", "[", "\"", "'"];
    for begin in odd.into_iter().chain(["- ", "? ", "{x: ", "[x, ", "<<: ", "&a *", "\t", "1 ", ": "]) {
        let text = spoilt("{env: RM_SECRET_KEY}", &format!("{begin}hunter2"));
        let told = told(&text);
        assert!(!told.contains("hunter2"), "{begin:?} gave {told}");
    }
}

#[test]
fn the_server() {
    each(&[
        (
            "127.0.0.1:8080",
            "localhost:8080",
            "4:11: server.listen: expected an IP address and a port such as 0.0.0.0:8080, found `localhost:8080`",
        ),
        (
            "  listen: 127.0.0.1:8080\n",
            "  public_url: http://example.com\n",
            "4:15: server.public_url: expected an https URL: plain http is for loopback hosts alone",
        ),
        (
            "  webhook_secret: {file: webhook.secret}\n",
            "",
            "4:3: server.webhook_secret: is required, but missing: without it anybody could send webhooks (on a loopback address allow_unsigned_webhooks: true takes its place)",
        ),
        (
            "  webhook_secret: {file: webhook.secret}\n",
            "  allow_unsigned_webhooks: false\n",
            "4:3: server.webhook_secret: is required, but missing: without it anybody could send webhooks (on a loopback address allow_unsigned_webhooks: true takes its place)",
        ),
        (
            "  listen: 127.0.0.1:8080\n",
            "  listen: 0.0.0.0:80\n  allow_unsigned_webhooks: true\n",
            "5:28: server.allow_unsigned_webhooks: has no meaning beside webhook_secret: remove one of them",
        ),
        (
            "role: admin",
            "role: root",
            "7:25: server.tokens[0].role: expected `admin` or `viewer`, found `root`",
        ),
        (
            "name: ops",
            "name: 'o p s'",
            "7:14: server.tokens[0].name: expected a name of 1 to 32 letters, digits, `-`, `_`, `.` and `@`",
        ),
        (
            "ops-token-0123456789}",
            "ops-token-0123456789}\n    - {name: ops, role: viewer, token: ops-token-0123456789}",
            "8:7: server.tokens[1]: a token `ops` stands in line 7 already\n8:7: server.tokens[1]: is the same secret as the token in line 7: whose is it?",
        ),
    ]);
    let open = GOOD
        .replace("127.0.0.1:8080", "0.0.0.0:8080")
        .replace("webhook_secret: {file: webhook.secret}", "allow_unsigned_webhooks: true");
    assert_eq!(
        told(&open),
        "5:28: server.allow_unsigned_webhooks: is possible only where server.listen is a loopback address such as 127.0.0.1:8080"
    );
}

#[test]
fn services() {
    each(&[
        (
            "github:\n",
            "store: {kind: embeded}\ngithub:\n",
            "8:15: store.kind: unknown kind of store `embeded`; did you mean `embedded`?",
        ),
        (
            "github:\n",
            "store: {kind: embedded, url: x}\ngithub:\n",
            "8:25: store.url: unknown key `url`; known: kind, path",
        ),
        ("github:\n", "store: {path: ''}\ngithub:\n", "8:8: store.kind: is required, but missing"),
        (
            "token: {env: GITHUB_TOKEN}",
            "api_url: http://example.com",
            "9:3: github: expected one of app and token, found neither\n9:12: github.api_url: expected an https URL: plain http is for loopback hosts alone",
        ),
        (
            "token: {env: GITHUB_TOKEN}",
            "app: {id: 0, private_key: {env: SHORT}}",
            "9:13: github.app.id: expected a whole number from 1 to 18446744073709551615, found 0\n9:29: github.app.private_key: expected a private key in PEM, which begins with -----BEGIN",
        ),
        (
            "  token: {env: GITHUB_TOKEN}\n",
            "  token: x\n  app: {id: 1, private_key: {file: app.pem}}\n",
            "9:3: github: expected one of app and token, found both",
        ),
        ("github:\n", "balance: fill\ngithub:\n", "8:10: balance: expected `pack` or `spread`, found `fill`"),
    ]);
}

#[cfg(feature = "redis")]
#[test]
fn a_redis_store() {
    let cases = [
        ("", "8:8: store.url: is required, but missing"),
        (
            ", url: 'http://hidden'",
            "8:27: store.url: expected a URL that begins with redis://, rediss:// (TLS), redis+sentinel:// or rediss+sentinel://",
        ),
        (
            ", url: {env: SHORT}",
            "8:27: store.url: expected a URL that begins with redis://, rediss:// (TLS), redis+sentinel:// or rediss+sentinel://",
        ),
        (", url: {env: NONE}", "8:33: store.url.env: environment variable `NONE` is not set"),
        (
            ", url: 'redis://ops@h'",
            "8:27: store.url: it names a user, but no password: write redis://USER:PASSWORD@HOST, or redis://:PASSWORD@HOST",
        ),
        (
            ", url: 'redis://h', user: ops",
            "8:8: store.password: is required, but missing: there is a user without one",
        ),
        (
            ", url: 'redis://a:hidden@h', user: b, password: c",
            "8:55: store.user: stands in the URL, too: remove one of them\n8:68: store.password: stands in the URL, too: remove one of them",
        ),
        (
            ", url: 'redis://h', ca: {file: ca.pem}",
            "8:44: store.ca: has no meaning without TLS: write rediss:// or rediss+sentinel:// in the URL",
        ),
        (
            ", url: 'rediss://h', ca: {file: empty}",
            "8:52: store.ca.file: file `/etc/rm/empty` has no certificate in PEM in it",
        ),
        (
            ", url: 'redis://h', prefix: rm",
            "8:48: store.prefix: expected a prefix with one part in braces, such as rm:{acme}, at most 128 visible characters",
        ),
        (
            ", url: 'redis://h', connect_timeout: 1ms",
            "8:57: store.connect_timeout: expected a duration from 100ms to 30s, found `1ms`",
        ),
        (
            ", url: 'redis://h', path: x",
            "8:40: store.path: unknown key `path`; known: kind, url, user, password, ca, prefix, connect_timeout, response_timeout",
        ),
    ];
    let cases = cases.map(|(rest, fault)| (format!("store: {{kind: redis{rest}}}\ngithub:\n"), fault));
    let cases: Vec<_> = cases.iter().map(|(to, fault)| ("github:\n", &**to, *fault)).collect();
    each(&cases);
    assert!(cases.iter().all(|(_, to, _)| !told(&spoilt("github:\n", to)).contains("hidden")));
}

#[test]
fn durations() {
    each(&[
        (
            "arch: arm64",
            "start_timeout: 9s",
            "21:20: runner_groups[1].start_timeout: expected a duration from 10s to 24h, found `9s`",
        ),
        (
            "arch: arm64",
            "start_timeout: 25h",
            "21:20: runner_groups[1].start_timeout: expected a duration from 10s to 24h, found `25h`",
        ),
        (
            "arch: arm64",
            "idle_timeout: 10",
            "21:19: runner_groups[1].idle_timeout: expected a duration such as 90s, 10m, 12h or 1h30m, found a number",
        ),
        (
            "arch: arm64",
            "idle_timeout: ten minutes",
            "21:19: runner_groups[1].idle_timeout: expected a duration such as 90s, 10m, 12h or 1h30m, found `ten minutes`",
        ),
        (
            "arch: arm64",
            "max_job_time: -5m",
            "21:19: runner_groups[1].max_job_time: expected a duration such as 90s, 10m, 12h or 1h30m, found `-5m`",
        ),
        (
            "github:\n",
            "sweep_interval: 1s\ngithub:\n",
            "8:17: sweep_interval: expected a duration from 30s to 1h, found `1s`",
        ),
        (
            "github:\n",
            "call_timeout: 45s\ngithub:\n",
            "8:15: call_timeout: a call_timeout of 45s outlives the lease: it must be less than half of it, 45s",
        ),
        (
            "github:\n",
            "lease: 1m\ngithub:\n",
            "8:8: lease: a call_timeout of 40s outlives the lease: it must be less than half of it, 30s",
        ),
    ]);
}

#[test]
fn what_is_no_yaml_is_one_fault() {
    let deep = "[".repeat(40) + &"]".repeat(40);
    let bomb = bomb();
    let cases = [
        ("", "1:1: expected a map, found nothing"),
        ("just a text", "1:1: expected a map, found a text"),
        ("name: [acme", "1:7: cannot be read as YAML: unclosed bracket '['"),
        (
            "name: acme\n\tserver: x",
            "1:7: cannot be read as YAML: while scanning a plain scalar, found a tab",
        ),
        ("name: *nowhere", "1:7: cannot be read as YAML: alias references unknown anchor"),
        ("name: !secret acme", "1:15: tags are not supported; a text that begins with ! is put in quotes"),
        ("name: acme\n---\nname: b", "2:1: expected one document, found another"),
        (&deep, "1:33: lists and maps are nested deeper than 32"),
        (
            &bomb,
            "6:25: cannot be read as YAML: alias replay limit exceeded: total_replayed_events=100001 > 100000",
        ),
    ];
    let mut wrong = String::new();
    for (text, expected) in cases {
        let told = told(text);
        if told != expected {
            writeln!(wrong, "{text:.40?}\n expected {expected}\n told     {told}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let huge = format!("{GOOD}#{}", "x".repeat(1 << 20));
    assert_eq!(told(&huge), format!("1:1: the file has {} bytes, at most 1048576 are read", huge.len()));
}

/// Nine levels of nine aliases each.
fn bomb() -> String {
    let mut text = "a0: &a0 [x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{aliases}]").unwrap();
    }
    text
}

#[test]
fn all_faults_at_once_in_the_order_of_the_file() {
    let text = "\
name: Acme
secret_key: {env: NOT_SET}
server: {listen: here, tokens: [{name: ops, role: boss}]}
store: {kind: redis}
github: {}
backends:
  here: {kind: boxes, regino: r1}
  there: {kind: aws}
runner_groups:
  - name: linux
    max: many
    start_timeout: 1s
    placements: [{backend: here, imag: a}, {backend: there, image: a}, {backend: nowhere}]
  - name: linux
    organization: my-org
    placement: []
balance: fill
";
    insta::assert_snapshot!(try_read(text).unwrap_err().of_file("runner-manager.yaml"));
}
