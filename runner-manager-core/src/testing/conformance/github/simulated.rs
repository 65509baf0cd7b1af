//! The [`World`] of the simulator.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use super::World;
use crate::clock::Clock;
use crate::domain::{JobId, Labels, Repository, Scope, Secret};
use crate::github::{Hook, JitConfig};
use crate::testing::simulated::{SharedSimulator, lock};
use crate::testing::simulator::{self, Effect, JobSpec, RequestFault};
use crate::webhook::verify;

/// What a case can arrange at a simulator, however it is reached.
pub struct SimulatedWorld {
    simulator: SharedSimulator,
    clock: Arc<dyn Clock>,
    /// The job that was run last.
    running: Mutex<Option<simulator::JobId>>,
}

impl fmt::Debug for SimulatedWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedWorld").finish_non_exhaustive()
    }
}

impl SimulatedWorld {
    /// The world of a simulator, whose time this clock tells.
    pub fn new(simulator: SharedSimulator, clock: Arc<dyn Clock>) -> Self {
        Self { simulator, clock, running: Mutex::default() }
    }

    fn running(&self) -> MutexGuard<'_, Option<simulator::JobId>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn add_fault(&self, fault: RequestFault) {
        lock(&self.simulator).faults_mut().requests.push(fault);
    }

    fn queue(&self, repository: &Repository, labels: &Labels) -> simulator::JobId {
        let labels = labels.iter().map(|label| label.as_str().to_owned());
        let spec = JobSpec::new(&repository.to_string(), labels).seconds(3_600);
        lock(&self.simulator).queue_job(&spec, self.now()).expect("the repository is made on demand")
    }

    fn run_of(&self, job: simulator::JobId) -> simulator::RunId {
        lock(&self.simulator).job(job).expect("it was queued").run
    }

    fn answer_deliveries(&self, status: u16) {
        let mut simulator = lock(&self.simulator);
        for delivery in simulator.deliveries_due(self.now()) {
            simulator.delivered(delivery.id, Some(status), self.now());
        }
    }
}

#[async_trait]
impl World for SimulatedWorld {
    async fn run_job(&self, jit_config: &JitConfig, repository: &Repository, labels: &Labels) {
        let job = self.queue(repository, labels);
        let mut simulator = lock(&self.simulator);
        let session =
            simulator.connect(jit_config.encoded.expose(), self.now()).expect("the JIT config is new");
        let taken = simulator.poll(session, self.now()).expect("the session has just begun");
        assert_eq!(taken.map(|job| job.id), Some(job), "the runner may not take the job");
        *self.running() = Some(job);
    }

    async fn queue_job(&self, repository: &Repository, labels: &Labels) -> JobId {
        JobId(self.queue(repository, labels).0)
    }

    async fn queue_job_behind(&self, repository: &Repository, labels: &Labels) -> JobId {
        let running = self.running().expect("a job was run");
        let labels = labels.iter().map(|label| label.as_str().to_owned());
        let spec = JobSpec::new(&repository.to_string(), labels).in_run(self.run_of(running));
        JobId(lock(&self.simulator).queue_job(&spec, self.now()).expect("the run is there").0)
    }

    async fn end_job(&self, repository: &Repository) -> JobId {
        let job = self.queue(repository, &Labels::default());
        let run = self.run_of(job);
        lock(&self.simulator).cancel_run(run, self.now()).expect("it waits");
        JobId(job.0)
    }

    async fn fail_delivery(&self, repository: &Repository) -> Hook {
        let scope = simulator::Scope::Repository(repository.to_string());
        let hook = lock(&self.simulator).add_hook(&scope, "http://127.0.0.1/webhook", "s3cret", self.now());
        self.queue(repository, &Labels::default());
        self.answer_deliveries(503);
        Hook::Of(Scope::Repository(repository.clone()), hook.expect("a repository has hooks").0)
    }

    async fn is_signed_with(&self, repository: &Repository, secret: &Secret) -> bool {
        self.answer_deliveries(202);
        self.queue(repository, &Labels::default());
        let sent = lock(&self.simulator).deliveries_due(self.now());
        let is_signed = |delivery: &simulator::Delivery| {
            let signature = delivery.headers.get("x-hub-signature-256").and_then(|value| value.to_str().ok());
            verify([secret], &delivery.body, signature).is_ok()
        };
        for delivery in &sent {
            lock(&self.simulator).delivered(delivery.id, Some(202), self.now());
        }
        !sent.is_empty() && sent.iter().all(is_signed)
    }

    async fn deliver(&self) {
        self.answer_deliveries(202);
    }

    async fn refuse(&self, status: u16, retry_after: Option<u32>) {
        lock(&self.simulator).faults_mut().requests.clear();
        self.add_fault(RequestFault::always(Effect::Answer { status, retry_after }));
    }

    async fn hide_entries(&self) {
        self.add_fault(RequestFault::always(Effect::SkipEntries).with_probability(0.2));
    }

    async fn spend_budget(&self) {
        lock(&self.simulator).faults_mut().hourly_budget = Some(0);
    }
}
