//! Machines that call back: how they get their JIT config from some replica, and what they say after that.

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use runner_manager_backends::fake::StartedInstance;
use runner_manager_core::backend::Bootstrap;
use runner_manager_core::domain::Secret;
use runner_manager_core::manager::{Denied, Manager, Pulse, Reply};

use super::agents::Agents;
use super::dice::Dice;
use super::replica::Replica;
use super::shared::Shared;
use super::trace::Who;

/// How long a machine waits for an answer.
const PATIENCE: SignedDuration = SignedDuration::from_secs(20);

/// How long it waits until it asks again.
const AGAIN: SignedDuration = SignedDuration::from_secs(4);

/// How long between two heartbeats.
const HEARTBEAT: SignedDuration = SignedDuration::from_secs(60);

/// How often its last word is said.
const LAST_TRIES: u32 = 4;

/// What becomes of what machines ask and say, each in a hundred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MachineFaults {
    /// Answers that are lost on their way, JIT configs among them.
    pub(crate) lost: u32,
    /// Machines that say nothing more once they have their JIT config.
    pub(crate) silent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asks,
    Tells,
    Listens,
    Ends { failed: bool, tries: u32 },
}

#[derive(Debug)]
struct Machine {
    instance: StartedInstance,
    stage: Stage,
    /// When it does the next thing, or gives up to wait for an answer.
    at: Timestamp,
    call: Option<u64>,
    is_silent: bool,
}

#[derive(Debug)]
enum Answer {
    Config(Result<Secret, Denied>),
    Pulse(Result<Reply, Denied>),
    Said(bool),
}

#[derive(Debug)]
pub(crate) struct Machines {
    dice: Dice,
    pub(crate) faults: MachineFaults,
    living: Vec<Machine>,
    calls: u64,
    answers: Arc<Mutex<Vec<(u64, Answer)>>>,
}

impl Machines {
    pub(crate) fn new(dice: Dice, faults: MachineFaults) -> Self {
        Self { dice, faults, living: Vec::new(), calls: 0, answers: Arc::default() }
    }

    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.living.iter().map(|machine| machine.at).min()
    }

    /// Plays all machines; tells whether any did anything.
    pub(crate) fn play(&mut self, shared: &Shared, replicas: &mut [Replica], agents: &mut Agents) -> bool {
        let now = shared.now();
        let started = std::mem::take(&mut agents.calling);
        let mut any = !started.is_empty();
        for instance in started {
            let is_silent = self.dice.percent(self.faults.silent);
            self.living.push(Machine { instance, stage: Stage::Asks, at: now, call: None, is_silent });
        }
        let answers = std::mem::take(&mut *self.answers.lock().unwrap());
        any |= !answers.is_empty();
        for (call, answer) in answers {
            self.take(shared, agents, call, answer, now);
        }
        let mut living = std::mem::take(&mut self.living);
        living.retain_mut(|machine| {
            let lives = self.goes_on(shared, replicas, agents, machine, now, &mut any);
            any |= !lives;
            lives
        });
        self.living = living;
        any
    }

    fn take(&mut self, shared: &Shared, agents: &mut Agents, call: u64, answer: Answer, now: Timestamp) {
        let Some(machine) = self.living.iter_mut().find(|machine| machine.call == Some(call)) else { return };
        let runner = machine.instance.runner.to_string();
        if self.dice.percent(self.faults.lost) {
            // It waits until it has no more patience.
            shared.state().strike("machine: answer lost");
            return;
        }
        (machine.call, machine.at) = (None, now + AGAIN);
        match answer {
            Answer::Config(Ok(config)) => {
                shared.state().strike("machine: registered");
                machine.stage = if agents.connect(shared, &machine.instance, &config, now) {
                    Stage::Tells
                } else {
                    Stage::Ends { failed: true, tries: 0 }
                };
                machine.at = now;
            }
            Answer::Config(Err(Denied::Gone | Denied::Refused(_))) => {
                shared.note(Who::World, "machine", "refused", || runner);
                (machine.stage, machine.at) = (Stage::Ends { failed: true, tries: 0 }, now);
            }
            Answer::Config(Err(_)) | Answer::Pulse(Err(Denied::Store(_) | Denied::NotNow(_))) => {}
            Answer::Pulse(Ok(Reply::Leave) | Err(_)) => {
                let leaves = agents.leaves(shared, &machine.instance, now);
                shared.note(Who::World, "machine", if leaves { "leaves" } else { "stays" }, || runner);
                if leaves {
                    shared.state().strike("machine: left when asked");
                    (machine.stage, machine.at) = (Stage::Ends { failed: false, tries: 0 }, now);
                }
            }
            Answer::Pulse(Ok(Reply::Stay)) => machine.at = now + HEARTBEAT,
            Answer::Said(taken) => match machine.stage {
                Stage::Tells => (machine.stage, machine.at) = (Stage::Listens, now),
                Stage::Ends { failed, .. } if taken => {
                    (machine.stage, machine.at) = (Stage::Ends { failed, tries: LAST_TRIES }, now);
                }
                Stage::Asks | Stage::Listens | Stage::Ends { .. } => {}
            },
        }
    }

    /// Whether it is still there.
    fn goes_on(
        &mut self,
        shared: &Shared,
        replicas: &mut [Replica],
        agents: &Agents,
        machine: &mut Machine,
        now: Timestamp,
        any: &mut bool,
    ) -> bool {
        if !shared.cloud().is_running(&machine.instance.id, now) {
            return false;
        }
        if machine.at > now {
            return true;
        }
        *any = true;
        machine.call = None;
        if machine.is_silent && machine.stage != Stage::Asks {
            shared.state().strike("machine: silent");
            return false;
        }
        if let Stage::Ends { tries: LAST_TRIES, .. } = machine.stage {
            shared.cloud().instance_ended(&machine.instance.id, now);
            return false;
        }
        if let Stage::Ends { tries, .. } = &mut machine.stage {
            *tries += 1;
        }
        let first = self.dice.count(0, replicas.len() - 1);
        let mut order = (0..replicas.len()).map(|place| (first + place) % replicas.len());
        machine.at = now + AGAIN;
        let Some((at, manager)) = order.find_map(|at| Some((at, replicas[at].manager()?))) else {
            return true;
        };
        machine.at = now + PATIENCE;
        self.calls += 1;
        machine.call = Some(self.calls);
        let (instance, stage) = (machine.instance.clone(), machine.stage);
        let has_job = agents.has_job(&machine.instance);
        let (call, answers) = (self.calls, self.answers.clone());
        shared
            .note(Who::World, "machine", "calls", || format!("{}: {stage:?}, replica {at}", instance.runner));
        replicas[at].spawn(async move {
            let answer = say(&manager, &instance, stage, has_job).await;
            answers.lock().unwrap().push((call, answer));
        });
        true
    }
}

async fn say(manager: &Manager, instance: &StartedInstance, stage: Stage, has_job: bool) -> Answer {
    let Bootstrap::Callback { token, .. } = &instance.bootstrap else { panic!("it is told to call") };
    let caller = manager.caller(instance.runner.as_str(), token.expose()).expect("its own token");
    match stage {
        Stage::Asks => Answer::Config(manager.jit_config(&caller, instance.id.as_str()).await),
        Stage::Tells => Answer::Said(manager.hear_of_progress(&caller, "started the runner").await.is_ok()),
        Stage::Listens => {
            let pulse = if has_job { Pulse::Busy } else { Pulse::Idle };
            Answer::Pulse(manager.hear_of_pulse(&caller, pulse).await)
        }
        Stage::Ends { failed, .. } => {
            Answer::Said(manager.hear_of_end(&caller, failed, "asked: it ends").await.is_ok())
        }
    }
}
