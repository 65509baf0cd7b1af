//! All that is not the manager: GitHub's webhooks, and the agent on every machine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::bail;
use jiff::Timestamp;
use runner_manager_backends::fake::{FakeCloud, StartedInstance};
use runner_manager_core::backend::Bootstrap;
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{DeliveryId, InstanceId, Secret};
use runner_manager_core::manager::Manager;
use runner_manager_core::testing::simulated::SharedSimulator;
use runner_manager_core::testing::simulator::{Conclusion, JobSpec, Scope, SessionId};
use runner_manager_core::webhook::{Webhook, parse, verify};

const WEBHOOK_SECRET: &str = "known to GitHub and to us";
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Outside {
    clock: SystemClock,
    github: SharedSimulator,
    cloud: Arc<Mutex<FakeCloud>>,
    manager: Manager,
    agents: Vec<Agent>,
}

/// The actions runner on one instance.
struct Agent {
    instance: InstanceId,
    session: SessionId,
    /// When its job ends, once it has one.
    until: Option<Timestamp>,
}

impl Outside {
    pub(crate) fn new(github: SharedSimulator, cloud: Arc<Mutex<FakeCloud>>, manager: Manager) -> Self {
        Self { clock: SystemClock, github, cloud, manager, agents: Vec::new() }
    }

    /// Queues jobs and tells what becomes of them, until all have run and nothing is left.
    pub(crate) async fn run_jobs(&mut self, jobs: u64) -> anyhow::Result<()> {
        self.queue(jobs)?;
        let end = self.clock.now() + PATIENCE;
        let mut told = String::new();
        while self.clock.now() < end {
            self.deliver_webhooks().await?;
            self.play_agents()?;
            let (progress, done) = self.progress(jobs).await?;
            if progress != told {
                println!("{progress}");
                told = progress;
            }
            if done {
                println!("all {jobs} jobs ran, and every machine is gone");
                return Ok(());
            }
            self.clock.sleep(Duration::from_millis(20)).await;
        }
        bail!("not done within {PATIENCE:?}: {told}")
    }

    fn queue(&self, jobs: u64) -> anyhow::Result<()> {
        let (mut github, now) = (lock(&self.github), self.clock.now());
        let acme = Scope::Organization("acme".to_owned());
        github.add_hook(&acme, "http://this.process/webhook", WEBHOOK_SECRET, now);
        for _ in 0..jobs {
            github.queue_job(&JobSpec::new("acme/app", ["self-hosted", "large"]).seconds(1), now)?;
        }
        Ok(())
    }

    async fn progress(&self, jobs: u64) -> anyhow::Result<(String, bool)> {
        let counts = self.manager.groups().await?[0].counts;
        let completed = lock(&self.github).books().jobs.completed;
        let machines = lock(&self.cloud).books(self.clock.now()).total.alive;
        let starting = counts.requested + counts.creating + counts.booting;
        let progress = format!(
            "{} jobs wait; runners: {starting} start, {} run a job, {} go; {machines} machines; {completed} jobs done",
            counts.queued, counts.busy, counts.retiring,
        );
        Ok((progress, completed == jobs && machines == 0 && counts.alive() == 0))
    }

    /// What an HTTP server does with a webhook: verify, parse, observe; and only then answer 202.
    async fn deliver_webhooks(&self) -> anyhow::Result<()> {
        let due = lock(&self.github).deliveries_due(self.clock.now());
        for delivery in due {
            let signature = delivery.headers.get("x-hub-signature-256").and_then(|value| value.to_str().ok());
            verify(&[Secret::new(WEBHOOK_SECRET)], &delivery.body, signature)?;
            if let Webhook::WorkflowJob(seen) = parse(delivery.event, &delivery.body)? {
                self.manager.observe(&DeliveryId::new(&*delivery.guid), &seen).await?;
            }
            lock(&self.github).delivered(delivery.id, Some(202), self.clock.now());
        }
        Ok(())
    }

    fn play_agents(&mut self) -> anyhow::Result<()> {
        let now = self.clock.now();
        let started = lock(&self.cloud).take_started(now);
        for instance in started {
            let agent = self.boot(instance, now)?;
            self.agents.push(agent);
        }
        for mut agent in std::mem::take(&mut self.agents) {
            if self.goes_on(&mut agent, now)? {
                self.agents.push(agent);
            }
        }
        Ok(())
    }

    /// The machine is up: its agent goes to GitHub with the JIT config that the manager gave the machine.
    fn boot(&self, instance: StartedInstance, now: Timestamp) -> anyhow::Result<Agent> {
        let Bootstrap::Direct { jit_config } = &instance.bootstrap else { bail!("not a bootstrap we know") };
        let session = lock(&self.github).connect(jit_config.expose(), now)?;
        Ok(Agent { instance: instance.id, session, until: None })
    }

    /// Takes a job, runs it, and powers the machine off after that one.
    fn goes_on(&self, agent: &mut Agent, now: Timestamp) -> anyhow::Result<bool> {
        let mut github = lock(&self.github);
        match agent.until {
            None => {
                let job = github.poll(agent.session, now)?;
                agent.until = job.map(|job| now + Duration::from_secs(job.seconds));
                Ok(true)
            }
            Some(until) if now < until => Ok(true),
            Some(_) => {
                github.finish(agent.session, Conclusion::Success, now)?;
                lock(&self.cloud).instance_ended(&agent.instance, now);
                Ok(false)
            }
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
