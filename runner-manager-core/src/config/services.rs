//! `store` and `backends`: the services that the manager works with, beside GitHub.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::cursor::{Cursor, Fields, hint};
use super::duration::RATE_PERIOD;
use super::environment::Environment;
use crate::backend::{BackendKind, BackendRegistry};
use crate::budget::Rate;
use crate::domain::{BackendName, DeploymentName};
#[cfg(feature = "redis")]
use crate::redis::RedisSettings;

pub(super) const EMBEDDED_KEYS: [&str; 2] = ["kind", "path"];
/// The keys of a Redis store.
#[cfg(any(feature = "redis", test))]
pub(super) const REDIS_KEYS: [&str; 8] =
    ["kind", "url", "user", "password", "ca", "prefix", "connect_timeout", "response_timeout"];
/// The kinds of stores, whether or not this program was built with them.
pub(super) const STORES: [&str; 2] = ["embedded", "redis"];
/// The keys of a backend that are ours, not its kind's.
pub(super) const BACKEND_KEYS: [&str; 4] = ["kind", "concurrency", "rate", "bootstrap"];
/// How the machines of a backend get their JIT config: whether they have it in their user data.
pub(super) const BOOTSTRAPS: [(&str, bool); 2] = [("callback", false), ("direct", true)];
pub(super) const RATE_KEYS: [&str; 2] = ["calls", "per"];
/// Where the embedded store keeps its file by default, beside the configuration.
pub(super) const DEFAULT_STORE_PATH: &str = "runner-manager.redb";
/// The most calls under way at one backend, and at GitHub.
pub(super) const MAX_CONCURRENCY: u16 = 1024;

/// Where state lives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StoreSettings {
    /// In a file of this machine, for one process alone.
    Embedded {
        /// The file. A relative path of the configuration leads from its own folder.
        path: PathBuf,
    },
    /// In a Redis, for any number of processes.
    #[cfg(feature = "redis")]
    Redis(RedisSettings),
}

/// A backend that the user wants to use.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendSettings {
    /// The word of its kind, which the registry knows.
    pub kind: String,
    /// How many of its runners are worked on at once, over all replicas, and so how many calls may be under
    /// way. Default [`BackendSettings::DEFAULT_CONCURRENCY`].
    pub concurrency: u16,
    /// How many calls may be begun in a period, over all replicas. Default none: as many as come.
    pub rate: Option<Rate>,
    /// Whether its machines are given their JIT config although they could call the manager, for machines that cannot
    /// reach it. Default no.
    pub direct: bool,
    /// The settings in the kind's own form, checked by it. May have secrets in it.
    pub settings: serde_json::Value,
}

impl BackendSettings {
    /// How many calls may be under way at once, unless the user says otherwise.
    pub const DEFAULT_CONCURRENCY: u16 = 32;
}

impl fmt::Debug for BackendSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendSettings")
            .field("kind", &self.kind)
            .field("concurrency", &self.concurrency)
            .field("rate", &self.rate)
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

/// The backends that stand in the file, whether or not they are right, so that a group that names one is not
/// blamed for it. The kind is known where the registry knows it.
pub(super) type Declared<'r> = BTreeMap<String, Option<&'r Arc<dyn BackendKind>>>;

pub(super) fn default_store(environment: &dyn Environment) -> StoreSettings {
    StoreSettings::Embedded { path: environment.resolve(DEFAULT_STORE_PATH) }
}

/// Reads the store. `name` is none where the deployment's name could not be read.
#[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "a Redis store alone bears the name"))]
pub(super) fn store(
    at: &Cursor<'_>,
    environment: &dyn Environment,
    name: Option<&DeploymentName>,
) -> Option<StoreSettings> {
    let kind = at.fields()?.required("kind")?.clone();
    match kind.text()? {
        "embedded" => {
            let fields = at.known_fields(&EMBEDDED_KEYS)?;
            let path = fields.or("path", DEFAULT_STORE_PATH, |at| at.parsed(not_empty))?;
            Some(StoreSettings::Embedded { path: environment.resolve(path) })
        }
        #[cfg(feature = "redis")]
        "redis" => super::redis::read(at, environment, name),
        other if STORES.contains(&other) => {
            kind.fault(format!(
                "this program was built without its store `{other}`: build it with that feature"
            ));
            None
        }
        other => {
            kind.fault(format!("unknown kind of store `{other}`{}", hint(other, STORES.into_iter())));
            None
        }
    }
}

/// Reads the backends. What was declared is answered even where some of it is wrong, and none only where
/// there is no map of backends at all.
pub(super) fn backends<'r>(
    at: &Cursor<'_>,
    registry: &'r BackendRegistry,
) -> Option<(Declared<'r>, Option<BTreeMap<BackendName, BackendSettings>>)> {
    let fields = at.fields()?;
    let mut declared = Declared::new();
    let mut backends = Some(BTreeMap::new());
    for (name, at) in fields.iter() {
        let checked = at.checked(BackendName::new(name));
        let (kind, settings) = backend(at, registry);
        declared.insert(name.to_owned(), kind);
        backends = backends.zip(checked.zip(settings)).map(|(mut backends, (name, settings))| {
            backends.insert(name, settings);
            backends
        });
    }
    Some((declared, backends))
}

fn backend<'r>(
    at: &Cursor<'_>,
    registry: &'r BackendRegistry,
) -> (Option<&'r Arc<dyn BackendKind>>, Option<BackendSettings>) {
    let Some(fields) = at.fields() else { return (None, None) };
    let bounds = 1..=MAX_CONCURRENCY;
    let concurrency = fields.or("concurrency", BackendSettings::DEFAULT_CONCURRENCY, |at| at.whole(bounds));
    let rate = fields.or("rate", None, |at| rate(at).map(Some));
    let direct = fields.or("bootstrap", false, |at| at.word(&BOOTSTRAPS));
    let Some(kind) = kind(&fields, registry) else { return (None, None) };
    let settings = at.settings(&BACKEND_KEYS);
    let checked = kind.check(&settings).map_err(|faults| at.tell(faults)).ok();
    let ours = concurrency.zip(rate).zip(direct);
    let read = checked.zip(ours).map(|((), ((concurrency, rate), direct))| BackendSettings {
        kind: kind.kind().to_owned(),
        concurrency,
        rate,
        direct,
        settings,
    });
    (Some(kind), read)
}

/// Reads so many calls in a period.
pub(super) fn rate(at: &Cursor<'_>) -> Option<Rate> {
    let fields = at.known_fields(&RATE_KEYS)?;
    let calls = fields.required("calls").and_then(|at| at.whole(1..=Rate::MOST_CALLS));
    let per = fields.required("per").and_then(|at| RATE_PERIOD.parse(at));
    Some(Rate { calls: calls?, per: per? })
}

fn kind<'r>(fields: &Fields<'_>, registry: &'r BackendRegistry) -> Option<&'r Arc<dyn BackendKind>> {
    let at = fields.required("kind")?;
    let word = at.text()?;
    let found = registry.get(word);
    if found.is_none() {
        let known = registry.iter().map(|kind| kind.kind()).collect::<Vec<_>>();
        at.fault(format!(
            "this program was built without backend kind `{word}`; known: {}",
            known.join(", ")
        ));
    }
    found
}

fn not_empty(text: &str) -> Result<&str, &'static str> {
    if text.is_empty() { Err("expected a path, found an empty text") } else { Ok(text) }
}
