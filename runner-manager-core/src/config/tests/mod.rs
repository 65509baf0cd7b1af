//! What the tests of the configuration share: a kind of backend, an environment, a file in which nothing is
//! wrong.

mod documents;
mod faults;
mod github;
mod robustness;
mod services;
mod values;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use schemars::Schema;
use serde_json::{Value, json};

use super::{Configuration, Environment, Faults, read};
use crate::backend::{
    Backend, BackendError, BackendErrorKind, BackendKind, BackendRegistry, ConnectContext, PlacementSettings,
    SettingsFault,
};

/// Nothing is wrong in this file. The tests spoil it, one place each.
const GOOD: &str = "\
name: acme
secret_key: {env: RM_SECRET_KEY}
server:
  listen: 127.0.0.1:8080
  webhook_secret: {file: webhook.secret}
  tokens:
    - {name: ops, role: admin, token: ops-token-0123456789}
github:
  token: {env: GITHUB_TOKEN}
backends:
  here: {kind: boxes, region: r1}
runner_groups:
  - name: linux
    organization: my-org
    labels: [large]
    max: 5
    placements:
      - {backend: here, image: a, zones: [z1, z2]}
  - name: arm
    repository: my-org/app
    arch: arm64
    placements:
      - {backend: here, image: b}
";

/// A kind of backend with a setting `region`, whose placements have an `image` and perhaps `zones`.
#[derive(Debug)]
struct Boxes(&'static str);

#[async_trait]
impl BackendKind for Boxes {
    fn kind(&self) -> &'static str {
        self.0
    }

    fn backend_schema(&self) -> Schema {
        schema_of(json!({
            "type": "object",
            "properties": {"region": {"$ref": "#/$defs/Region"}},
            "additionalProperties": false,
            "$defs": {"Region": {"type": "string"}},
        }))
    }

    fn placement_schema(&self) -> Schema {
        schema_of(json!({
            "type": "object",
            "properties": {
                "image": {"type": "string"},
                "zones": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["image"],
            "additionalProperties": false,
        }))
    }

    fn check(&self, settings: &Value) -> Result<(), Vec<SettingsFault>> {
        faults_or((), unknown_keys(settings, &["region"]))
    }

    fn placements(&self, placement: &Value) -> Result<Vec<PlacementSettings>, Vec<SettingsFault>> {
        let mut faults = unknown_keys(placement, &["image", "zones"]);
        if !placement["image"].is_string() {
            faults.push(fault(&["image"], "expected an image"));
        }
        let one = vec![json!("z1")];
        let zones = placement["zones"].as_array().unwrap_or(&one);
        for (at, _) in zones.iter().enumerate().filter(|(_, zone)| !zone.is_string()) {
            faults.push(fault(&["zones", &at.to_string()], "expected a zone"));
        }
        let expand = |zone: &Value| PlacementSettings {
            description: format!("{} in {}", placement["image"], zone),
            settings: json!({"image": placement["image"], "zone": zone}),
        };
        faults_or(zones.iter().map(expand).collect(), faults)
    }

    async fn connect(&self, _: &Value, _: ConnectContext) -> Result<Arc<dyn Backend>, BackendError> {
        Err(BackendError::new(BackendErrorKind::Unsupported, "connect", "boxes are for tests"))
    }
}

fn schema_of(schema: Value) -> Schema {
    schema.try_into().unwrap()
}

fn unknown_keys(settings: &Value, known: &[&str]) -> Vec<SettingsFault> {
    let keys = settings.as_object().unwrap().keys();
    keys.filter(|key| !known.contains(&key.as_str())).map(|key| fault(&[key], "unknown key")).collect()
}

fn fault(path: &[&str], message: &str) -> SettingsFault {
    SettingsFault { path: path.iter().map(ToString::to_string).collect(), message: message.to_owned() }
}

fn faults_or<T>(good: T, faults: Vec<SettingsFault>) -> Result<T, Vec<SettingsFault>> {
    if faults.is_empty() { Ok(good) } else { Err(faults) }
}

fn registry() -> BackendRegistry {
    BackendRegistry::new().register(Arc::new(Boxes("boxes"))).register(Arc::new(Boxes("docker")))
}

/// An environment that holds what it is told.
#[derive(Debug)]
struct Held {
    variables: BTreeMap<&'static str, &'static str>,
    files: BTreeMap<PathBuf, &'static str>,
}

impl Held {
    fn new() -> Self {
        Self {
            variables: BTreeMap::from([
                ("RM_SECRET_KEY", "the key of the deployment"),
                ("WEBHOOK_SECRET", "the secret of webhooks"),
                ("RM_TOKEN", "the token of operators"),
                ("GITHUB_TOKEN", "ghp_hidden"),
                ("SHORT", "hidden"),
                ("PROXY", "http://ann:hidden%21@proxy:3128"),
                ("REDIS_URL", "redis+sentinel://ops:hidden@a,b:1/main/2"),
            ]),
            files: BTreeMap::from([
                ("/etc/rm/webhook.secret".into(), "the secret of webhooks\n"),
                ("/etc/rm/app.pem".into(), "-----BEGIN RSA PRIVATE KEY-----\nhidden\n"),
                ("/etc/rm/ca.pem".into(), "-----BEGIN CERTIFICATE-----\nshown\n"),
                ("/etc/rm/empty".into(), "\n"),
            ]),
        }
    }
}

impl Environment for Held {
    fn variable(&self, name: &str) -> io::Result<Option<String>> {
        Ok(self.variables.get(name).map(ToString::to_string))
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        let found = self.files.get(path).map(ToString::to_string);
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file"))
    }

    fn folder(&self) -> &Path {
        Path::new("/etc/rm")
    }
}

fn try_read(text: &str) -> Result<Configuration, Faults> {
    read(text, &registry(), &Held::new())
}

/// The good file with one place spoilt.
fn spoilt(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} must stand once in the good file");
    GOOD.replace(from, to)
}

fn good(from: &str, to: &str) -> Configuration {
    try_read(&spoilt(from, to)).unwrap_or_else(|faults| panic!("{from:?} -> {to:?}: {faults}"))
}

/// The faults of a file, one a line.
fn told(text: &str) -> String {
    try_read(text).expect_err("nothing was found wrong").to_string()
}
