//! The driver: asks the [`policy`](crate::policy) and does what it says.
//!
//! Everything goes one way: a webhook becomes a record and a task, in one write. A worker claims the task,
//! loads the records, lets the policy decide, saves the intent together with the tasks that follow from it,
//! acts, feeds the outcome back as an event, and acknowledges last. A process that dies anywhere in between
//! leaves a claim that runs out, and whoever claims the task next carries on from the records. Nothing that
//! matters lives in the process alone.
//!
//! - [`intake`](self) takes in what is said of jobs, whoever says it.
//! - `bootstrap` gives machines what they start with and takes in what they say; `mint` has their runners registered.
//! - `signals` takes in what machines say of their jobs.
//! - `reconcile` is the one path that makes runners; `provision` brings each one up.
//! - `retire` is the one path that takes them away.
//! - `sweep` finds what events missed, and `recover` the jobs that no webhook told of.
//! - `redeliver` has GitHub deliver again what did not get through.
//! - `loss` follows the jobs whose machine was lost, and has them run again.
//! - `github_groups` looks after the runner groups at GitHub.
//! - `worker` claims tasks, holds their leases, and stops in order.
//! - `configuration` offers the groups of this process to the deployment; `keeper` says that it runs.
//! - `doubt` knows what has to be listed before a store that lost something is relied on again.
//! - `calls` makes all calls to the outside, within what all replicas may ask; `bounds` says for whom each is counted,
//!   and `connections` has the accounts at GitHub that they are made with.
//! - `advance` feeds an event to a runner: the one place that writes existing runners.
//!
//! What it leaves alone: HTTP, configuration files, and how storages, GitHub and clouds are reached.

mod advance;
mod bootstrap;
mod bounds;
mod calls;
mod catalogue;
mod configuration;
mod connections;
mod doubt;
mod explain;
mod fresh;
mod github_groups;
mod intake;
mod keeper;
mod leave;
mod looked;
mod loss;
mod mint;
mod operate;
mod provision;
mod reconcile;
mod recover;
mod redeliver;
mod retire;
mod signals;
mod statistics;
mod sweep;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::Timestamp;

pub use bootstrap::{Callback, CallbackAddress, Caller, Denied, Pulse, Reply};
pub use configuration::{ConfigureError, Configured};
pub use connections::{Account, Connections};
pub use explain::{FailedRunner, JobExplanation, JobStatus, MOST_FAILED};
pub use intake::Taken;
pub use operate::{DeploymentStatus, GroupStatus, ReplicaStatus, Retirement};
pub use statistics::{Statistics, StatisticsSnapshot};
pub use sweep::GoOnError;

use crate::backend::Backend;
use crate::budget::{Budgets, Quota};
use crate::clock::Clock;
use crate::domain::{BackendName, Balance, OperationId, Owner, ReplicaId};
use crate::queue::TaskQueue;
use crate::random::Random;
use crate::store::{Store, StoreError};
use catalogue::Catalogue;

/// A backend that was connected, with how hard it may be worked.
#[derive(Debug, Clone)]
pub struct ConnectedBackend {
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// How many of its runners are worked on at a time, over all replicas, and so how many calls to it may
    /// be under way.
    pub concurrency: usize,
    /// What else bounds the calls to it, over all replicas. Default: nothing.
    pub quota: Quota,
    /// Whether its instances are given their JIT config although they could call the manager. Default no.
    pub direct: bool,
}

impl ConnectedBackend {
    /// A backend that so many of whose runners are worked on at a time, and nothing else bounds.
    pub fn new(backend: Arc<dyn Backend>, concurrency: usize) -> Self {
        Self { backend, concurrency, quota: Quota::default(), direct: false }
    }
}

/// How the manager works. The defaults suit a deployment of any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which of several groups that serve a job equally well takes it. Default: the first.
    pub balance: Balance,
    /// How often each backend and each scope is listed. Default 5 min.
    pub sweep_interval: Duration,
    /// How often each scope's open jobs are listed, for those that no webhook told of. Default 5 min.
    pub recover_interval: Duration,
    /// How often the logs of the hooks that lead here are read, for webhooks that failed. Default 2 min; none for
    /// never. A log without news costs nothing of GitHub's budget.
    pub redeliver_interval: Option<Duration>,
    /// Where webhooks lead to, by which our hooks are known. Default none: then no log is read.
    pub webhook_url: Option<String>,
    /// How long a worker holds a task before it must say again that it lives. Default 90 s.
    pub lease: Duration,
    /// How long a call to GitHub or to a backend may take. Less than half of `lease`, so that no call
    /// outlives the hold under which it was made. Default 40 s.
    pub call_timeout: Duration,
    /// How long a stop waits for what is under way before it is put back. Default 20 s.
    pub stop_within: Duration,
    /// How often a replica says that it runs, and looks whether the store is trusted and its configuration
    /// the deployment's. Default 5 s.
    pub heartbeat: Duration,
    /// How many decisions are worked on at a time. Default 8.
    pub control_concurrency: usize,
    /// Whether sweeps only say what they would do: see [`Manager::set_dry_sweeps`]. Default no.
    pub sweep_dry_run: bool,
    /// How machines call the manager. Default none: they do not.
    pub callback: Option<Callback>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            balance: Balance::default(),
            sweep_interval: Duration::from_mins(5),
            recover_interval: Duration::from_mins(5),
            redeliver_interval: Some(Duration::from_mins(2)),
            webhook_url: None,
            lease: Duration::from_secs(90),
            call_timeout: Duration::from_secs(40),
            stop_within: Duration::from_secs(20),
            heartbeat: Duration::from_secs(5),
            control_concurrency: 8,
            sweep_dry_run: false,
            callback: None,
        }
    }
}

/// One storage by its three sides. A write and the tasks that follow from it are one atomic step, so all
/// three must be the same storage.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Where state lives.
    pub store: Arc<dyn Store>,
    /// Where tasks wait.
    pub queue: Arc<dyn TaskQueue>,
    /// What all replicas together may ask of GitHub and of the backends.
    pub budgets: Arc<dyn Budgets>,
}

impl<S: Store + TaskQueue + Budgets> From<Arc<S>> for Storage {
    fn from(storage: Arc<S>) -> Self {
        Self { store: storage.clone(), queue: storage.clone(), budgets: storage }
    }
}

/// All that the manager works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Who we are: the mark on all that is made.
    pub owner: Owner,
    /// Where state lives, tasks wait, and what may be asked outside is counted.
    pub storage: Storage,
    /// The connections to GitHub.
    pub github: Connections,
    /// The backends, by the names that the configuration gives them.
    pub backends: BTreeMap<BackendName, ConnectedBackend>,
    /// What waits are measured by. Where replicas must agree, the store's time is used.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub random: Arc<dyn Random>,
    /// How it works.
    pub settings: Settings,
}

/// The manager. A handle: clones are the same manager.
///
/// [`observe`](Self::observe) takes in what webhooks say, [`hear_of_a_job`](Self::hear_of_a_job) what machines say, and
/// both work whether or not [`run`](Self::run) does, so that a process may take in these alone.
#[derive(Debug, Clone)]
pub struct Manager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    /// Which of the replicas this is: another one with every start.
    replica: ReplicaId,
    /// The configuration of this process.
    own: configuration::Own,
    catalogue: Catalogue,
    github_groups: provision::GitHubGroups,
    fresh: fresh::Fresh,
    waits: leave::Waits,
    passed_over: connections::PassedOver,
    looked: looked::Looked,
    dry_run: AtomicBool,
    statistics: Statistics,
}

impl Manager {
    /// A manager of these parts. It does nothing until [`configure`](Self::configure) and
    /// [`run`](Self::run).
    pub fn new(parts: Parts) -> Self {
        let replica = ReplicaId::new(format!("{:016x}", parts.random.next_u64()));
        let inner = Inner {
            dry_run: AtomicBool::new(parts.settings.sweep_dry_run),
            parts,
            replica,
            own: configuration::Own::default(),
            catalogue: Catalogue::default(),
            github_groups: provision::GitHubGroups::default(),
            fresh: fresh::Fresh::default(),
            waits: leave::Waits::default(),
            passed_over: connections::PassedOver::default(),
            looked: looked::Looked::default(),
            statistics: Statistics::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What it has done since it was made.
    pub fn statistics(&self) -> &Statistics {
        &self.inner.statistics
    }

    fn parts(&self) -> &Parts {
        &self.inner.parts
    }

    fn store(&self) -> &dyn Store {
        &*self.inner.parts.storage.store
    }

    fn queue(&self) -> &dyn TaskQueue {
        &*self.inner.parts.storage.queue
    }

    fn backend(&self, name: &BackendName) -> Option<&Arc<dyn Backend>> {
        self.inner.parts.backends.get(name).map(|connected| &connected.backend)
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.store().now().await
    }

    fn entropy(&self) -> u64 {
        self.inner.parts.random.next_u64()
    }

    /// A name for a write that nobody else repeats.
    fn operation(&self) -> OperationId {
        OperationId::new(format!("{:016x}{:016x}", self.entropy(), self.entropy()))
    }
}
