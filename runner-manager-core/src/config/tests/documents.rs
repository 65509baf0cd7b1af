//! The schema, the example and the reference page agree with the readers.

use std::fmt::Write;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::super::{KEYS, github, github_groups, groups, node, schema, server, services};
use super::{Boxes, GOOD, registry, told, try_read};
use crate::backend::BackendRegistry;
use crate::config::example;
use crate::config::fault::Sink;

fn as_json(text: &str) -> Value {
    node::parse(text, &Sink::default()).unwrap().to_json()
}

fn validator() -> Validator {
    jsonschema::validator_for(&schema(&registry())).unwrap()
}

#[test]
fn the_schema_takes_what_the_readers_take() {
    let validator = validator();
    let redis =
        "store: {kind: redis, url: 'rediss://h/1', ca: {file: ca.pem}, connect_timeout: 1s}\ngithub:\n";
    let redis = super::spoilt("github:\n", redis);
    let rotation = super::spoilt("{file: webhook.secret}", "[{env: RM_TOKEN}, {file: webhook.secret}]");
    let managed = super::spoilt("labels: [large]", super::values::MANAGED);
    let [one, several] = super::github::FORMS.map(|form| super::spoilt("token: {env: GITHUB_TOKEN}", form));
    let several = several.replace("organization: my-org", "organization: my-org\n    github: main");
    let several = several.replace("repository: my-org/app", "repository: my-org/app\n    github: main");
    for text in [GOOD, example(), &redis, &rotation, &managed, &one, &several] {
        try_read(text).unwrap();
        let errors: Vec<_> = validator.iter_errors(&as_json(text)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn the_schema_refuses_what_the_readers_refuse() {
    let validator = validator();
    for (from, to) in [
        ("name: acme\n", "name: Acme\n"),
        ("secret_key:", "secret_kye:"),
        ("role: admin", "role: root"),
        ("github:\n", "store: {kind: redis}\ngithub:\n"),
        ("github:\n", "store: {kind: embedded, url: 'redis://h'}\ngithub:\n"),
        ("github:\n", "store: {kind: redis, url: 'redis://h', path: a}\ngithub:\n"),
        ("token: {env: GITHUB_TOKEN}", "token: {env: A}\n  app: {id: 1, private_key: x}"),
        ("token: {env: GITHUB_TOKEN}", "token: {enf: GITHUB_TOKEN}"),
        ("token: {env: GITHUB_TOKEN}", "apps: []"),
        ("token: {env: GITHUB_TOKEN}", "connections: {}"),
        ("token: {env: GITHUB_TOKEN}", "connections: {a: {proxy: 'http://h:1'}}"),
        ("token: {env: GITHUB_TOKEN}", "connections: {a: {token: x}}\n  concurrency: 7"),
        ("token: {env: GITHUB_TOKEN}", "token: x\n  jit_rate: {calls: 0, per: 1m}"),
        ("token: {env: GITHUB_TOKEN}", "token: x\n  proxy: {user: a}"),
        ("token: {env: GITHUB_TOKEN}", "token: x\n  ca: ca.pem"),
        ("organization: my-org", "organization: my-org\n    github: Main"),
        ("{file: webhook.secret}", "[]"),
        ("{file: webhook.secret}", "[{env: RM_TOKEN}, {env: RM_SECRET_KEY}, {file: webhook.secret}]"),
        ("region: r1", "regino: r1"),
        ("region: r1", "concurrency: 0"),
        ("region: r1", "rate: {calls: 10}"),
        ("github:\n", "github:\n  concurrency: 0\n"),
        ("kind: boxes", "kind: aws"),
        ("image: b}", "imag: b}"),
        ("image: b}", "image: b, other: 1}"),
        ("organization: my-org", "organization: my-org\n    enterprise: acme"),
        ("max: 5", "max: 0"),
        ("arch: arm64", "start_timeout: 10"),
        ("arch: arm64", "github_group: {name: Default, manage: true}"),
        ("labels: [large]", "github_group: {name: Large, allows_public_repositories: true}"),
        ("labels: [large]", "github_group: {name: Large, manage: true, repositories: some}"),
        ("labels: [large]", "github_group: {name: Large, manage: true, repositories: []}"),
        ("labels: [large]", "github_group: {name: Large, manage: true, workflows: all}"),
    ] {
        let text = super::spoilt(from, to);
        assert!(try_read(&text).is_err(), "{from:?} -> {to:?} was read");
        assert!(!validator.is_valid(&as_json(&text)), "{from:?} -> {to:?} is valid by the schema");
    }
}

#[test]
fn definitions_of_kinds_stay_apart() {
    let schema = schema(&registry());
    assert!(schema["$defs"]["boxes-backend-Region"].is_object());
    assert!(schema["$defs"]["docker-backend-Region"].is_object());
    assert!(!schema.to_string().contains("\"#/$defs/Region\""));
}

#[test]
fn a_program_without_backends_has_a_schema_too() {
    let validator = jsonschema::validator_for(&schema(&BackendRegistry::new())).unwrap();
    assert!(!validator.is_valid(&as_json(GOOD)));
    let none = GOOD.split("backends:").next().unwrap().to_owned() + "backends: {}\nrunner_groups: []\n";
    assert!(validator.is_valid(&as_json(&none)));
}

/// The parts of the file in the order of the page: heading, where it is in the schema, the keys that its
/// reader knows.
fn parts() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    vec![
        ("", "", KEYS.to_vec()),
        ("server", "/properties/server", server::KEYS.to_vec()),
        ("server.tokens[]", "/properties/server/properties/tokens/items", server::TOKEN_KEYS.to_vec()),
        ("server.bootstrap_ca", "/properties/server/properties/bootstrap_ca", vec!["file"]),
        ("store", "/properties/store", [&services::EMBEDDED_KEYS[..], &services::REDIS_KEYS[1..]].concat()),
        ("store.ca", "/properties/store/properties/ca", vec!["file"]),
        ("github", "/properties/github", [&github::CONNECTION_KEYS[..], &[github::CONNECTIONS]].concat()),
        ("github.app", "/properties/github/properties/app", github::APP_KEYS.to_vec()),
        ("github.jit_rate", "/properties/github/properties/jit_rate", services::RATE_KEYS.to_vec()),
        ("github.proxy", "/properties/github/properties/proxy/anyOf/1", github::PROXY_KEYS.to_vec()),
        ("github.ca", "/properties/github/properties/ca", vec!["file"]),
        (
            "backends.NAME",
            "/properties/backends/additionalProperties/anyOf/0",
            services::BACKEND_KEYS.to_vec(),
        ),
        (
            "backends.NAME.rate",
            "/properties/backends/additionalProperties/anyOf/0/properties/rate",
            services::RATE_KEYS.to_vec(),
        ),
        ("runner_groups[]", "/properties/runner_groups/items", groups::all_keys()),
        (
            "runner_groups[].github_group",
            "/properties/runner_groups/items/properties/github_group",
            github_groups::KEYS.to_vec(),
        ),
        (
            "runner_groups[].placements[]",
            "/properties/runner_groups/items/properties/placements/items/anyOf/0",
            vec!["backend"],
        ),
    ]
}

/// A kind without settings of its own, so that the schema has our keys alone.
fn bare_schema() -> Value {
    let mut schema = schema(&BackendRegistry::new().register(std::sync::Arc::new(Boxes("any"))));
    for (pointer, own) in [
        ("/properties/backends/additionalProperties/anyOf/0/properties", vec!["region"]),
        (
            "/properties/runner_groups/items/properties/placements/items/anyOf/0/properties",
            vec!["image", "zones"],
        ),
    ] {
        let properties = schema.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        for key in own {
            assert!(properties.remove(key).is_some(), "{key}");
        }
    }
    schema
}

#[test]
fn the_schema_has_the_keys_of_the_readers() {
    let schema = bare_schema();
    for (part, pointer, mut keys) in parts() {
        let mut described: Vec<_> =
            schema.pointer(pointer).unwrap()["properties"].as_object().unwrap().keys().collect();
        keys.sort_unstable();
        described.sort_unstable();
        assert_eq!(described, keys, "{part}");
    }
}

#[test]
fn the_page_has_every_key_as_the_schema_has_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    let reference = reference();
    assert!(page.contains(&reference), "docs/configuration.md must have this part:\n\n{reference}");
}

/// The part of the page that follows from the schema.
fn reference() -> String {
    let schema = bare_schema();
    let mut page = String::new();
    for (part, pointer, keys) in parts() {
        let object = schema.pointer(pointer).unwrap();
        let heading = if part.is_empty() { "The whole file".into() } else { format!("`{part}`") };
        writeln!(page, "### {heading}\n").unwrap();
        if let Some(description) = object["description"].as_str() {
            writeln!(page, "{description}\n").unwrap();
        }
        page += "| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
        for key in keys {
            let property = &object["properties"][key];
            let required = object["required"].as_array().is_some_and(|all| all.contains(&json!(key)));
            let meaning = property["description"].as_str().unwrap();
            writeln!(
                page,
                "| `{key}` | {} | {} | {meaning} |",
                type_of(property),
                default_of(property, required)
            )
            .unwrap();
        }
        page += "\n";
    }
    page
}

fn default_of(property: &Value, required: bool) -> String {
    match (&property["default"], required) {
        (_, true) => "required".into(),
        (Value::Null, _) => "none".into(),
        (Value::String(text), _) => format!("`{text}`"),
        (other, _) => format!("`{other}`"),
    }
}

fn type_of(property: &Value) -> String {
    if let Some(reference) = property["$ref"].as_str() {
        return reference.trim_start_matches("#/$defs/").into();
    }
    if let Some(words) = property["enum"].as_array() {
        return words
            .iter()
            .map(|word| format!("`{}`", word.as_str().unwrap()))
            .collect::<Vec<_>>()
            .join(", ");
    }
    if let Some(choices) = property["anyOf"].as_array() {
        return choices.iter().map(type_of).collect::<Vec<_>>().join(" or ");
    }
    match property["type"].as_str() {
        Some("integer") => match (property["minimum"].as_i64(), property["maximum"].as_i64()) {
            (Some(least), Some(most)) => format!("whole number from {least} to {most}"),
            (Some(least), None) => format!("whole number from {least}"),
            _ => "whole number".into(),
        },
        Some("boolean") => "`true` or `false`".into(),
        Some("array") => "list".into(),
        Some("object") => "map".into(),
        _ => "text".into(),
    }
}

#[test]
fn reserved_words_are_those_of_the_owner() {
    use crate::domain::{DeploymentName, Owner, Secret};
    let owner = Owner::new(DeploymentName::new("acme").unwrap(), &Secret::new("key"));
    for word in
        [Owner::DEPLOYMENT_TAG, Owner::FINGERPRINT_TAG, Owner::RUNNER_TAG, Owner::GROUP_TAG, &owner.label()]
    {
        assert!(word.starts_with(groups::RESERVED_PREFIX), "{word}");
    }
}

#[test]
fn every_reader_refuses_unknown_keys() {
    for (from, path) in [
        ("- {name: ops, ", "server.tokens[0]"),
        ("github:\n  ", "github"),
        ("  listen:", "server"),
        ("{kind: boxes, ", "backends.here"),
        ("- name: linux\n    ", "runner_groups[0]"),
        ("- {backend: here, image: b", "runner_groups[1].placements[0]"),
    ] {
        let inside = from.contains('{');
        let to = match (inside, from) {
            (true, "- {backend: here, image: b") => format!("{from}, zzz: 1"),
            (true, _) => format!("{from}zzz: 1, "),
            (false, "  listen:") => "  zzz: 1\n  listen:".into(),
            (false, "github:\n  ") => "github:\n  zzz: 1\n  ".into(),
            (false, _) => "- name: linux\n    zzz: 1\n    ".into(),
        };
        let told = told(&super::spoilt(from, &to));
        assert!(told.contains(&format!(": {path}.zzz: unknown key")), "{told}");
    }
}
