//! What goes over the wire between [`FakeBackend`](super::FakeBackend) and the cloud.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::serde::unsigned_duration::friendly::compact::optional as maybe_friendly;
use runner_manager_core::backend::{BackendErrorKind, Bootstrap};
use runner_manager_core::domain::{
    DeploymentName, Fingerprint, GroupName, Instance, InstanceId, Owner, RunnerName, Secret,
};
use serde::{Deserialize, Serialize};

use super::cloud::{Order, Refusal, StartedInstance};

/// The body of `POST /instances`. It bears a secret, so it has no `Debug`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    pub(super) runner: RunnerName,
    pub(super) group: GroupName,
    pub(super) owner: Owner,
    pub(super) zone: String,
    #[serde(default)]
    pub(super) instance_type: String,
    #[serde(default)]
    pub(super) image: String,
    #[serde(default)]
    pub(super) tags: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) jit_config: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) callback: Option<CallbackWire>,
}

/// How an instance calls the manager. It bears a secret, so it has no `Debug`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallbackWire {
    url: String,
    #[serde(default)]
    ca: Option<String>,
    token: String,
}

impl From<CreateBody> for Order {
    fn from(body: CreateBody) -> Self {
        let own = [("instance-type", body.instance_type), ("image", body.image)];
        let mut tags = body.tags;
        tags.extend(own.map(|(key, value)| (key.to_owned(), value)));
        Self {
            owner: body.owner,
            runner: body.runner,
            group: body.group,
            zone: body.zone,
            tags,
            bootstrap: from_wire(body.jit_config, body.callback),
        }
    }
}

/// The answer to a list or a search by name.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Page {
    pub(super) instances: Vec<Instance>,
    /// Where the next page begins, for `page=`; none on the last one.
    pub(super) next: Option<String>,
}

/// The body of `PATCH /instances/{id}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TagsBody {
    pub(super) tags: BTreeMap<String, String>,
}

/// The answer to `GET /started`. It bears secrets, so it has no `Debug`.
#[derive(Serialize, Deserialize)]
pub(super) struct StartedBody {
    pub(super) started: Vec<StartedWire>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StartedWire {
    sequence: u64,
    id: InstanceId,
    runner: RunnerName,
    group: GroupName,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jit_config: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callback: Option<CallbackWire>,
}

/// A bootstrap as it goes over the wire; `None` for one that the fake cloud cannot hand over.
pub(super) fn to_wire(bootstrap: &Bootstrap) -> Option<(Option<String>, Option<CallbackWire>)> {
    match bootstrap {
        Bootstrap::Direct { jit_config } => Some((Some(jit_config.expose().to_owned()), None)),
        Bootstrap::Callback { url, ca, token } => {
            let token = token.expose().to_owned();
            Some((None, Some(CallbackWire { url: url.clone(), ca: ca.clone(), token })))
        }
        _ => None,
    }
}

fn from_wire(jit_config: Option<String>, callback: Option<CallbackWire>) -> Bootstrap {
    match callback {
        Some(CallbackWire { url, ca, token }) => Bootstrap::Callback { url, ca, token: Secret::new(token) },
        None => Bootstrap::Direct { jit_config: Secret::new(jit_config.unwrap_or_default()) },
    }
}

impl StartedWire {
    pub(super) fn new(started: &StartedInstance) -> Option<Self> {
        let (jit_config, callback) = to_wire(&started.bootstrap)?;
        Some(Self {
            sequence: started.sequence,
            id: started.id.clone(),
            runner: started.runner.clone(),
            group: started.group.clone(),
            at: started.at,
            jit_config,
            callback,
        })
    }
}

impl From<StartedWire> for StartedInstance {
    fn from(wire: StartedWire) -> Self {
        Self {
            sequence: wire.sequence,
            id: wire.id,
            runner: wire.runner,
            group: wire.group,
            at: wire.at,
            bootstrap: from_wire(wire.jit_config, wire.callback),
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ErrorBody {
    pub(super) error: ErrorWire,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ErrorWire {
    pub(super) kind: BackendErrorKind,
    pub(super) message: String,
    #[serde(default, with = "maybe_friendly", skip_serializing_if = "Option::is_none")]
    pub(super) retry_after: Option<Duration>,
}

impl From<Refusal> for ErrorBody {
    fn from(refusal: Refusal) -> Self {
        let Refusal { kind, retry_after, message } = refusal;
        Self { error: ErrorWire { kind, message, retry_after } }
    }
}

/// An owner as it stands in a query: `deployment/fingerprint`, which is how it prints.
pub(super) fn owner(text: &str) -> Option<Owner> {
    let (deployment, fingerprint) = text.split_once('/')?;
    let fingerprint: Fingerprint = serde_json::from_value(fingerprint.into()).ok()?;
    Some(Owner { deployment: DeploymentName::new(deployment).ok()?, fingerprint })
}
