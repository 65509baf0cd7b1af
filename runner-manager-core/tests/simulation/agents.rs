//! The agents on the instances: what the actions runner does, and the machine under it.

use jiff::{SignedDuration, Timestamp};
use runner_manager_backends::fake::StartedInstance;
use runner_manager_core::backend::Bootstrap;
use runner_manager_core::domain::{InstanceId, JobMoment, Secret};
use runner_manager_core::testing::simulator::{AgentJob, Conclusion, JobCounts, SessionId};

use super::dice::Dice;
use super::shared::Shared;
use super::signals::Signals;
use super::trace::Who;

#[derive(Debug)]
struct Agent {
    runner: String,
    instance: InstanceId,
    session: SessionId,
    job: Option<(AgentJob, Timestamp)>,
}

/// All agents that live.
#[derive(Debug)]
pub(crate) struct Agents {
    living: Vec<Agent>,
    /// Instances that were told to call the manager.
    pub(crate) calling: Vec<StartedInstance>,
    dice: Dice,
    /// How many in a hundred never come up.
    pub(crate) broken: u32,
    seen: (JobCounts, u64, u64),
}

impl Agents {
    pub(crate) fn new(dice: Dice, broken: u32) -> Self {
        Self { living: Vec::new(), calling: Vec::new(), dice, broken, seen: Default::default() }
    }

    /// When an agent does something by itself.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.living.iter().filter_map(|agent| agent.job.as_ref()).map(|(_, until)| *until).min()
    }

    /// Plays all agents; tells whether any did anything.
    pub(crate) fn play(&mut self, shared: &Shared, signals: &mut Signals) -> bool {
        let now = shared.now();
        let started = shared.cloud().take_started(now);
        let mut any = !started.is_empty();
        for instance in started {
            self.boot(shared, &instance, now);
        }
        // One who waits gets nothing new as long as nothing changed at GitHub.
        let seen = {
            let github = shared.github();
            let books = github.books();
            (books.jobs, books.runners.registered, books.runners.alive)
        };
        let polls = any || seen != self.seen;
        self.living.retain_mut(|agent| {
            let (lives, acted) = play(shared, signals, agent, polls, now);
            any |= acted;
            lives
        });
        self.seen = seen;
        any
    }

    fn boot(&mut self, shared: &Shared, instance: &StartedInstance, now: Timestamp) {
        if self.dice.percent(self.broken) {
            shared.note(Who::World, "agent", "never comes up", || instance.runner.to_string());
            shared.state().strike("agent: never comes up");
            return;
        }
        match &instance.bootstrap {
            Bootstrap::Direct { jit_config } => {
                self.connect(shared, instance, jit_config, now);
            }
            Bootstrap::Callback { token, .. } => {
                shared.state().checker.secret(token.expose());
                self.calling.push(instance.clone());
            }
            _ => panic!("no other mode"),
        }
    }

    /// An agent starts with its JIT config; tells whether GitHub lets it in. Where it does not, its instance ends.
    pub(crate) fn connect(
        &mut self,
        shared: &Shared,
        instance: &StartedInstance,
        jit_config: &Secret,
        now: Timestamp,
    ) -> bool {
        let connected = shared.github().connect(jit_config.expose(), now);
        match connected {
            Ok(session) => {
                let runner = instance.runner.to_string();
                shared.note(Who::World, "agent", "online", || runner.clone());
                shared.state().checker.online(&runner, now);
                self.living.push(Agent { runner, instance: instance.id.clone(), session, job: None });
                // It has yet to ask for a job.
                self.seen = Default::default();
                true
            }
            Err(refusal) => {
                shared.note(Who::World, "agent", "refused", || format!("{}: {refusal}", instance.runner));
                shared.cloud().instance_ended(&instance.id, now);
                false
            }
        }
    }

    /// Whether the agent of an instance has a job.
    pub(crate) fn has_job(&self, instance: &StartedInstance) -> bool {
        self.living.iter().any(|agent| agent.instance == instance.id && agent.job.is_some())
    }

    /// The agent of an instance is interrupted where it has no job; tells whether it was.
    pub(crate) fn leaves(&mut self, shared: &Shared, instance: &StartedInstance, now: Timestamp) -> bool {
        if self.has_job(instance) {
            return false;
        }
        let ends = |agent: &mut Agent| {
            let own = agent.instance == instance.id;
            if own {
                let _ = shared.github().disconnect(agent.session, now);
            }
            !own
        };
        self.living.retain_mut(ends);
        true
    }
}

/// Whether the agent lives on, and whether it did anything.
fn play(
    shared: &Shared,
    signals: &mut Signals,
    agent: &mut Agent,
    polls: bool,
    now: Timestamp,
) -> (bool, bool) {
    if !shared.cloud().is_running(&agent.instance, now) {
        shared.note(Who::World, "agent", "died", || agent.runner.clone());
        let _ = shared.github().die(agent.session, now);
        return (false, true);
    }
    let mut github = shared.github();
    let ends = |agent: &Agent, why: &'static str| {
        shared.note(Who::World, "agent", why, || agent.runner.clone());
        shared.cloud().instance_ended(&agent.instance, now);
        (false, true)
    };
    match &agent.job {
        Some((job, until)) => {
            let cancelled = polls && github.job(job.id).is_some_and(|job| job.cancel_requested);
            if *until > now && !cancelled {
                return (true, false);
            }
            signals.say(shared, &agent.runner, job, JobMoment::Ends);
            let conclusion = if cancelled { Conclusion::Cancelled } else { Conclusion::Success };
            match github.finish(agent.session, conclusion, now) {
                Ok(()) => ends(agent, "finished"),
                Err(_) => ends(agent, "lost its session"),
            }
        }
        None if !polls => (true, false),
        None => match github.poll(agent.session, now) {
            Ok(Some(job)) => {
                shared
                    .note(Who::World, "agent", "begins", || format!("job {} on {}", job.id.0, agent.runner));
                let seconds = i64::try_from(job.seconds).expect("jobs take minutes");
                signals.say(shared, &agent.runner, &job, JobMoment::Begins);
                agent.job = Some((job, now + SignedDuration::from_secs(seconds)));
                (true, true)
            }
            Ok(None) => (true, false),
            Err(_) => ends(agent, "lost its session"),
        },
    }
}
