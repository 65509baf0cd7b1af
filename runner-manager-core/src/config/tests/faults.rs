//! Each fault by its place and words.

use std::fmt::Write;

use super::{GOOD, spoilt, told, try_read};

/// Spoils the good file in one place each, and compares all that is told.
#[track_caller]
pub(super) fn each(cases: &[(&str, &str, &str)]) {
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
            "15:5: runner_groups[0].whatever: unknown key `whatever`; known: name, organization, repository, enterprise, github, github_group, os, arch, labels, min_idle, max, priority, tags, rerun_on_loss, placements, start_timeout, idle_timeout, max_idle_age, max_job_time, retire_timeout, removal_grace",
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
            "17:18: runner_groups[0].nonsense: unknown key `nonsense`; known: name, organization, repository, enterprise, github, github_group, os, arch, labels, min_idle, max, priority, tags, rerun_on_loss, placements, start_timeout, idle_timeout, max_idle_age, max_job_time, retire_timeout, removal_grace",
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
            "1:7: name: deployment name `…` has 28 characters, at most 24 are allowed",
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
            "13:11: runner_groups[0].name: group name `…` has 33 characters, at most 32 are allowed",
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
        "13:11: runner_groups[0].name: the deployment's name `…` and this one have 49 characters together, at most 48 are allowed: runner names are made of them"
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
    ]);
}

#[test]
fn github_groups() {
    each(&[
        (
            "labels: [large]",
            "github_group: {manage: false, workflows: [a]}",
            "15:19: runner_groups[0].github_group.name: is required, but missing\n15:46: runner_groups[0].github_group.workflows: it is kept with `manage: true` alone: without, GitHub's group is never changed\n15:47: runner_groups[0].github_group.workflows[0]: `a` is not a workflow: write it as owner/name/.github/workflows/FILE@BRANCH, or with a tag or a commit",
        ),
        (
            "labels: [large]",
            "github_group: {name: Default, manage: true}",
            "15:43: runner_groups[0].github_group.manage: GitHub's group Default is never changed: name another one",
        ),
        (
            "arch: arm64",
            "github_group: {name: Large, manage: yes}",
            "21:26: runner_groups[1].github_group.name: a repository has no runner group but Default\n21:41: runner_groups[1].github_group.manage: expected true or false, found a text",
        ),
        (
            "labels: [large]",
            "github_group: {name: Large, repositories: [app], allows_public_repositories: true}",
            "15:47: runner_groups[0].github_group.repositories: it is kept with `manage: true` alone: without, GitHub's group is never changed\n15:82: runner_groups[0].github_group.allows_public_repositories: it is kept with `manage: true` alone: without, GitHub's group is never changed",
        ),
        (
            "labels: [large]",
            "github_group: {name: Large, manage: true, repositories: some}",
            "15:61: runner_groups[0].github_group.repositories: expected `all` or a list, found `some`",
        ),
        (
            "labels: [large]",
            "github_group: {name: Large, manage: true, repositories: {a: b}}",
            "15:61: runner_groups[0].github_group.repositories: expected `all` or a list, found a map",
        ),
        (
            "labels: [large]",
            "github_group: {name: Large, manage: true, repositories: []}",
            "15:61: runner_groups[0].github_group.repositories: expected at least one repository, found none",
        ),
        (
            "labels: [large]",
            "github_group: {name: Large, manage: true, repositories: [other/app, 'a b']}",
            "15:62: runner_groups[0].github_group.repositories[0]: `other/app` is not of my-org, whose runner group it is\n15:73: runner_groups[0].github_group.repositories[1]: `my-org/a b` is not a repository: write it as owner/name",
        ),
        (
            "labels: [large]",
            "github_group: {name: Large, manage: true, organizations: [my-org]}",
            "15:62: runner_groups[0].github_group.organizations: only an enterprise's runner group is given to organizations: use `repositories`",
        ),
        (
            "labels: [large]",
            "github_group: {name: Large, manage: true, workflows: [app/deploy.yaml]}",
            "15:59: runner_groups[0].github_group.workflows[0]: `app/deploy.yaml` is not a workflow: write it as owner/name/.github/workflows/FILE@BRANCH, or with a tag or a commit",
        ),
        (
            "labels: [large]",
            "github_group: {name: Large, manage: true, workflow: [a]}",
            "15:47: runner_groups[0].github_group.workflow: unknown key `workflow`; did you mean `workflows`?",
        ),
        (
            "organization: my-org\n",
            "enterprise: inc\n    github_group: {name: Large, manage: true, repositories: [inc/app]}\n",
            "15:61: runner_groups[0].github_group.repositories: an enterprise's runner group is given to organizations: use `organizations`",
        ),
        (
            "repository: my-org/app\n    arch: arm64",
            "organization: my-org\n    github_group: {name: Large, manage: true}\n    placements: [{backend: here, image: c}]\n  - name: third\n    organization: My-Org\n    github_group: {name: large}",
            "25:19: runner_groups[2].github_group: GitHub's group `large` is to be otherwise by line 21: groups that share one say the same of it",
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
