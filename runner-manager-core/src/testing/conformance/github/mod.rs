//! The conformance suite of the trait [`GitHub`].
//!
//! A case asks through the trait and arranges what it needs through a [`World`]: what only happens at GitHub
//! itself, such as a runner that takes a job, or an answer that fails.

mod cases;
mod groups;
mod simulated;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

pub use self::cases::cases;
pub use self::simulated::SimulatedWorld;
use crate::domain::{JobId, Labels, Repository, Scope, Secret};
use crate::github::{GitHub, Hook, JitConfig};

/// What a case is given: nothing is registered, queued or delivered yet.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What is tested.
    pub github: Arc<dyn GitHub>,
    /// A scope in which runners can be registered.
    pub scope: Scope,
    /// A repository whose jobs they may take.
    pub repository: Repository,
    /// The other side.
    pub world: Arc<dyn World>,
}

/// What a case can arrange at GitHub.
#[async_trait]
pub trait World: Debug + Send + Sync + 'static {
    /// Starts the runner of a JIT config and lets it take a job of the repository that asks for these labels,
    /// and keep it.
    async fn run_job(&self, jit_config: &JitConfig, repository: &Repository, labels: &Labels);

    /// Queues a job.
    async fn queue_job(&self, repository: &Repository, labels: &Labels) -> JobId;

    /// Queues a job in a run of which another job runs already: the one of the last
    /// [`run_job`](Self::run_job).
    async fn queue_job_behind(&self, repository: &Repository, labels: &Labels) -> JobId;

    /// Queues a job and lets it end without a runner.
    async fn end_job(&self, repository: &Repository) -> JobId;

    /// Lets one delivery to a hook fail with status 503, and tells which hook.
    async fn fail_delivery(&self, repository: &Repository) -> Hook;

    /// Queues a job, delivers what hooks send of it, and tells whether anything was sent and all of it signed with
    /// this secret.
    async fn is_signed_with(&self, repository: &Repository, secret: &Secret) -> bool;

    /// Delivers whatever is to be delivered; the receiver answers 202.
    async fn deliver(&self);

    /// Lets GitHub answer all calls with a status, and where seconds are given with `Retry-After`.
    async fn refuse(&self, status: u16, retry_after: Option<u32>);

    /// Lets entries be missing from listings, which GitHub nonetheless counts.
    async fn hide_entries(&self);

    /// Spends all calls of the present period.
    async fn spend_budget(&self);
}
