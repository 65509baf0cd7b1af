//! The configuration: what a user writes, made into domain types with every fault told at once.
//!
//! One YAML file is parsed into a tree whose values know their places ([`node`]); hand-written readers, one
//! for each part of the file, walk it ([`cursor`]) and go on after each fault, so that a mistake in one group
//! hides none in the next. What a backend's own settings may be is its
//! [`BackendKind`](crate::backend::BackendKind)'s affair; their faults appear with their places all the same.
//!
//! This module reaches for nothing but variables and files that the file names ([`Environment`]). Whether
//! GitHub, the store and the backends would work with it is asked elsewhere.
//!
//! ```
//! use std::sync::Arc;
//! use runner_manager_core::backend::BackendRegistry;
//! use runner_manager_core::config::{self, ProcessEnvironment};
//!
//! let faults = config::read("name: Acme\nrunner_group: []\n", &BackendRegistry::new(), &ProcessEnvironment::new("."))
//!     .unwrap_err()
//!     .of_file("runner-manager.yaml");
//! let told = faults.to_string();
//! assert!(told.contains("runner-manager.yaml:1:7: name: deployment name `Acme` may only have lower-case"));
//! assert!(told.contains("runner-manager.yaml:2:1: runner_group: unknown key `runner_group`; did you mean"));
//! ```

mod connected;
mod cursor;
mod duration;
mod environment;
mod fault;
mod github;
mod github_groups;
mod groups;
mod node;
#[cfg(feature = "redis")]
mod redis;
mod schema;
mod server;
mod services;
mod url;
mod withheld;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::cursor::Cursor;
use self::fault::Sink;
use self::withheld::Withheld;
use crate::backend::BackendRegistry;
use crate::domain::{BackendName, Balance, ConnectionName, DeploymentName, Owner, RunnerGroup, Secret};

pub use self::environment::{Environment, ProcessEnvironment};
pub use self::fault::{Fault, Faults};
pub use self::github::{GitHubCredentials, GitHubSettings};
pub use self::schema::schema;
pub use self::server::{ApiToken, Role, Server, WebhookSecrets, Webhooks};
pub use self::services::{BackendSettings, StoreSettings};
pub use self::url::{BaseUrl, BaseUrlError, Proxy, ProxyError};

const KEYS: [&str; 14] = [
    "name",
    "secret_key",
    "server",
    "store",
    "github",
    "backends",
    "runner_groups",
    "balance",
    "sweep_interval",
    "sweep_dry_run",
    "recover_interval",
    "redeliver_interval",
    "lease",
    "call_timeout",
];
const BALANCES: [(&str, Balance); 2] = [("pack", Balance::Pack), ("spread", Balance::Spread)];
/// The least length of the secrets that a user makes up, in characters: 128 bits in the densest usual
/// writing are 22, and what is shorter than 16 is a word, not a secret.
const MIN_SECRET_LENGTH: usize = 16;

/// A configuration in which nothing is wrong.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The deployment's name.
    pub name: DeploymentName,
    /// The key that signs bootstrap tokens, and whose fingerprint is half of the owner mark.
    pub secret_key: Secret,
    /// Whose all is that this deployment makes, from `name` and `secret_key`.
    pub owner: Owner,
    /// Where the manager listens, and who may talk to it.
    pub server: Server,
    /// Where state lives. Default embedded, in `runner-manager.redb` beside the configuration.
    pub store: StoreSettings,
    /// The connections to GitHub by their names. At least one.
    pub github: BTreeMap<ConnectionName, GitHubSettings>,
    /// The backends by their names.
    pub backends: BTreeMap<BackendName, BackendSettings>,
    /// The groups in the order of the file.
    pub groups: Vec<RunnerGroup>,
    /// Which of several groups that serve a job equally well takes it. Default `pack`.
    pub balance: Balance,
    /// How often GitHub and the backends are listed and compared with the records. Default 5 min.
    pub sweep_interval: Duration,
    /// Whether sweeps only say what they would do. Default no.
    pub sweep_dry_run: bool,
    /// How often GitHub is asked which jobs wait and run, for those that no webhook told of. Default 5 min.
    pub recover_interval: Duration,
    /// How often GitHub's log of a hook that leads here is read, to have webhooks that failed delivered again; none
    /// for never. Default 2 min.
    pub redeliver_interval: Option<Duration>,
    /// How long a replica that gives no sign of life holds what it works on. Default 90 s.
    pub lease: Duration,
    /// How long one call to GitHub or to a backend may take. Default 40 s.
    pub call_timeout: Duration,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file itself cannot be read.
    #[error("cannot read the configuration `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error(transparent)]
    Faults(#[from] Faults),
}

/// Reads a configuration file, with the variables of this process and the files beside it.
///
/// # Errors
/// [`LoadError::Unreadable`] when the file cannot be read, otherwise all its faults.
pub fn load(path: &Path, registry: &BackendRegistry) -> Result<Configuration, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    // One byte more than is read at most, so that a file that is too large is known as such.
    file.take(node::MAX_BYTES as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    let environment = ProcessEnvironment::new(path.parent().unwrap_or(Path::new("")));
    read(&text, registry, &environment)
        .map_err(|faults| LoadError::Faults(faults.of_file(path.display().to_string())))
}

/// Reads a configuration. What its backends may be is asked of the kinds in `registry`.
///
/// # Errors
/// All faults at once, each with its place.
pub fn read(
    text: &str,
    registry: &BackendRegistry,
    environment: &dyn Environment,
) -> Result<Configuration, Faults> {
    let sink = Sink::default();
    let root = node::parse(text, &sink);
    let withheld = root.as_ref().map(Withheld::of).unwrap_or_default();
    let read = root.and_then(|root| document(&Cursor::root(&root, &sink), registry, environment));
    sink.finish(read).map_err(|faults| withheld.from(faults))
}

/// A commented example, which [`read`] accepts where the variables and files that it names exist.
pub const fn example() -> &'static str {
    include_str!("example.yaml")
}

fn document(
    at: &Cursor<'_>,
    registry: &BackendRegistry,
    environment: &dyn Environment,
) -> Option<Configuration> {
    let fields = at.known_fields(&KEYS)?;
    let name = fields.required("name").and_then(|at| at.parsed(DeploymentName::new));
    let secret_key =
        fields.required("secret_key").and_then(|at| environment::secret(at, environment, MIN_SECRET_LENGTH));
    let server = fields.required("server").and_then(|at| server::read(at, environment));
    let store = fields.or("store", services::default_store(environment), |at| {
        services::store(at, environment, name.as_ref())
    });
    let timing = duration::lease_and_call_timeout(&fields);
    let calls = timing.map(|(lease, call_timeout)| github::Calls { lease, call_timeout });
    let (connections, github) =
        fields.required("github").and_then(|at| github::read(at, environment, calls)).unzip();
    let (declared, backends) =
        fields.required("backends").and_then(|at| services::backends(at, registry)).unzip();
    let known = groups::Known {
        deployment: name.as_ref(),
        connections: connections.as_ref(),
        backends: declared.as_ref(),
    };
    let groups = fields.required("runner_groups").and_then(|at| groups::read(at, known));
    let balance = fields.or("balance", Balance::default(), |at| at.word(&BALANCES));
    let sweep_interval = duration::SWEEP_INTERVAL.read(&fields);
    let sweep_dry_run = fields.or("sweep_dry_run", false, Cursor::flag);
    let recover_interval = duration::RECOVER_INTERVAL.read(&fields);
    let redeliver_interval = duration::redeliver_interval(&fields);
    let (name, secret_key, (lease, call_timeout)) = (name?, secret_key?, timing?);
    Some(Configuration {
        owner: Owner::new(name.clone(), &secret_key),
        name,
        secret_key,
        server: server?,
        store: store?,
        github: github??,
        backends: backends??,
        groups: groups?,
        balance: balance?,
        sweep_interval: sweep_interval?,
        sweep_dry_run: sweep_dry_run?,
        recover_interval: recover_interval?,
        redeliver_interval: Some(redeliver_interval?).filter(|interval| !interval.is_zero()),
        lease,
        call_timeout,
    })
}
