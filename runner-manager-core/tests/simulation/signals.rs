//! The way of a machine's word of its job to some replica.

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use runner_manager_core::domain::{JobMoment, JobSignal, RunId, RunnerName};
use runner_manager_core::manager::Taken;
use runner_manager_core::testing::simulator::AgentJob;

use super::dice::Dice;
use super::replica::Replica;
use super::shared::Shared;
use super::trace::Who;

/// How long a machine waits until it says again what nobody took.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// How often it says it.
const TRIES: u32 = 4;

/// What becomes of what machines say, each in a hundred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SignalFaults {
    /// Machines do not speak at all where this is 100.
    pub(crate) lost: u32,
    pub(crate) late: u32,
    pub(crate) doubled: u32,
}

#[derive(Debug)]
struct Said {
    at: Timestamp,
    signal: JobSignal,
    tries: u32,
}

/// What came of one that was sent: it is tried again where nobody took it.
#[derive(Debug)]
struct Answer {
    said: Said,
    taken: Option<Taken>,
}

#[derive(Debug)]
pub(crate) struct Signals {
    dice: Dice,
    pub(crate) faults: SignalFaults,
    waiting: Vec<Said>,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Signals {
    pub(crate) fn new(dice: Dice, faults: SignalFaults) -> Self {
        Self { dice, faults, waiting: Vec::new(), answers: Arc::default() }
    }

    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.waiting.iter().map(|said| said.at).min()
    }

    /// A machine says something of its job.
    pub(crate) fn say(&mut self, shared: &Shared, runner: &str, job: &AgentJob, moment: JobMoment) {
        if self.dice.percent(self.faults.lost) {
            shared.state().strike("signal: lost");
            return;
        }
        let signal = JobSignal {
            runner: RunnerName::new(runner).unwrap(),
            repository: job.repository.parse().unwrap(),
            run: RunId(job.run.0),
            attempt: u32::try_from(job.attempt).unwrap(),
            key: job.name.clone(),
            moment,
        };
        let is_late = self.dice.percent(self.faults.late);
        let pause = if is_late { self.dice.millis(10_000, 120_000) } else { self.dice.millis(0, 3_000) };
        if is_late {
            shared.state().strike("signal: late");
        }
        let at = runner_manager_core::domain::later(shared.now(), pause);
        if self.dice.percent(self.faults.doubled) {
            shared.state().strike("signal: doubled");
            let again = at + AGAIN;
            self.waiting.push(Said { at: again, signal: signal.clone(), tries: 0 });
        }
        self.waiting.push(Said { at, signal, tries: 0 });
    }

    /// Sends what is due, and takes note of what was answered; says whether anything happened.
    pub(crate) fn deliver(&mut self, shared: &Shared, replicas: &mut [Replica]) -> bool {
        let now = shared.now();
        let answers = std::mem::take(&mut *self.answers.lock().unwrap());
        let mut any = !answers.is_empty();
        for Answer { said, taken } in answers {
            match taken {
                Some(Taken::Recorded) => {
                    shared.state().checker.heard_of_start(said.signal.runner.as_str());
                    shared.state().strike("signal: taken");
                }
                Some(Taken::NothingNew | Taken::Repeated) => {}
                None => self.again(said, now),
            }
        }
        let (due, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|said| said.at <= now);
        self.waiting = waiting;
        let due: Vec<Said> = due;
        any |= !due.is_empty();
        for said in due {
            self.send(shared, replicas, said);
        }
        any
    }

    fn send(&mut self, shared: &Shared, replicas: &mut [Replica], said: Said) {
        let first = self.dice.count(0, replicas.len() - 1);
        let mut order = (0..replicas.len()).map(|place| (first + place) % replicas.len());
        let Some((at, manager)) = order.find_map(|at| Some((at, replicas[at].manager()?))) else {
            self.again(said, shared.now());
            return;
        };
        shared.note(Who::World, "signal", "sent", || format!("{:?} to replica {at}", said.signal));
        let answers = self.answers.clone();
        replicas[at].spawn(async move {
            let taken = manager.hear_of_a_job(&said.signal).await.ok();
            answers.lock().unwrap().push(Answer { said, taken });
        });
    }

    fn again(&mut self, said: Said, now: Timestamp) {
        if said.tries + 1 < TRIES {
            self.waiting.push(Said { at: now + AGAIN, tries: said.tries + 1, ..said });
        }
    }
}
