//! A machine that calls back: what the start script does, against the manager itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runner_manager_backends::fake::{FakeCloud, StartedInstance};
use runner_manager_core::backend::Bootstrap;
use runner_manager_core::clock::{Clock, SimulatedClock};
use runner_manager_core::domain::{JobMoment, JobSignal, RunId, Secret};
use runner_manager_core::manager::{Caller, Denied, Manager, Pulse, Reply};
use runner_manager_core::testing::simulated::SharedSimulator;
use runner_manager_core::testing::simulator::{AgentJob, Conclusion, SessionId};

/// How long a machine waits until it does the next thing.
const PAUSE: Duration = Duration::from_secs(2);

/// How long between two heartbeats.
const HEARTBEAT: SignedDuration = SignedDuration::from_secs(60);

/// What machines do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Habits {
    /// How many answers to a call for the JIT config are lost on their way.
    pub(crate) lost: u32,
    /// They say nothing but what they must to get their JIT config.
    pub(crate) silent: bool,
    /// Their runner cannot be downloaded.
    pub(crate) broken: bool,
}

/// Whom a machine knows.
#[derive(Debug, Clone)]
pub(crate) struct Outside {
    pub(crate) github: SharedSimulator,
    pub(crate) cloud: Arc<Mutex<FakeCloud>>,
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) manager: Arc<Mutex<Manager>>,
}

/// A machine from its start to its end.
pub(crate) async fn live(outside: Outside, instance: StartedInstance, habits: Habits) {
    let Bootstrap::Callback { token, .. } = &instance.bootstrap else { panic!("it is told to call back") };
    let caller = outside.manager().caller(instance.runner.as_str(), token.expose()).expect("its own token");
    let machine = Machine { outside, instance, caller, habits };
    if !machine.habits.broken {
        let _ = machine.manager().hear_of_progress(&machine.caller, "the script began").await;
    }
    machine.run().await;
    let now = machine.outside.clock.now();
    machine.outside.cloud.lock().unwrap().instance_ended(&machine.instance.id, now);
}

#[derive(Debug)]
struct Machine {
    outside: Outside,
    instance: StartedInstance,
    caller: Caller,
    habits: Habits,
}

impl Outside {
    fn manager(&self) -> Manager {
        self.manager.lock().unwrap().clone()
    }
}

impl Machine {
    fn manager(&self) -> Manager {
        self.outside.manager()
    }

    fn now(&self) -> Timestamp {
        self.outside.clock.now()
    }

    fn is_there(&self) -> bool {
        self.outside.cloud.lock().unwrap().is_running(&self.instance.id, self.now())
    }

    async fn pause(&self) {
        self.outside.clock.sleep(PAUSE).await;
    }

    async fn ends(&self, failed: bool, detail: &str) {
        for _ in 0..4 {
            if self.habits.silent || self.manager().hear_of_end(&self.caller, failed, detail).await.is_ok() {
                return;
            }
            self.pause().await;
        }
    }

    async fn run(&self) {
        if self.habits.broken {
            return self.ends(true, "download: the runner cannot be had").await;
        }
        let Some(config) = self.config().await else { return };
        let connected = self.outside.github.lock().unwrap().connect(config.expose(), self.now());
        let Ok(session) = connected else { return self.ends(true, "listener: not let in").await };
        if !self.habits.silent {
            let _ = self.manager().hear_of_listener(&self.caller).await;
        }
        self.listen(session).await;
    }

    async fn config(&self) -> Option<Secret> {
        let boot = format!("boot of {}", self.instance.id);
        let mut lost = self.habits.lost;
        while self.is_there() {
            match self.manager().jit_config(&self.caller, &boot).await {
                Ok(config) if lost == 0 => return Some(config),
                Ok(_) => lost -= 1,
                Err(Denied::NotNow(_) | Denied::Store(_)) => {}
                Err(denied) => {
                    self.ends(true, &format!("refused: {denied}")).await;
                    return None;
                }
            }
            self.pause().await;
        }
        None
    }

    async fn listen(&self, session: SessionId) {
        let mut next_beat = self.now();
        while self.is_there() {
            let polled = self.outside.github.lock().unwrap().poll(session, self.now());
            match polled {
                Ok(Some(job)) => return self.work(session, &job).await,
                Ok(None) => {}
                Err(_) => return self.ends(true, "listener-ended: the runner ended with 0").await,
            }
            if self.now() >= next_beat && !self.habits.silent {
                next_beat = self.now() + HEARTBEAT;
                match self.manager().hear_of_pulse(&self.caller, Pulse::Idle).await {
                    Ok(Reply::Leave) | Err(Denied::Gone) => return self.leave(session).await,
                    Ok(Reply::Stay) | Err(_) => {}
                }
            }
            self.pause().await;
        }
        let _ = self.outside.github.lock().unwrap().die(session, self.now());
    }

    async fn leave(&self, session: SessionId) {
        let _ = self.outside.github.lock().unwrap().disconnect(session, self.now());
        self.ends(false, "asked: the runner ended with 0").await;
    }

    async fn work(&self, session: SessionId, job: &AgentJob) {
        self.tell(job, JobMoment::Begins).await;
        let until = self.now() + SignedDuration::from_secs(i64::try_from(job.seconds).unwrap());
        while self.now() < until {
            if !self.is_there() {
                let _ = self.outside.github.lock().unwrap().die(session, self.now());
                return;
            }
            self.pause().await;
        }
        self.tell(job, JobMoment::Ends).await;
        let _ = self.outside.github.lock().unwrap().finish(session, Conclusion::Success, self.now());
        self.ends(false, "finished: the runner ended with 0").await;
    }

    async fn tell(&self, job: &AgentJob, moment: JobMoment) {
        let signal = JobSignal {
            runner: self.instance.runner.clone(),
            repository: job.repository.parse().unwrap(),
            run: RunId(job.run.0),
            attempt: u32::try_from(job.attempt).unwrap(),
            key: job.name.clone(),
            moment,
        };
        if !self.habits.silent {
            let _ = self.manager().hear_of_own_job(&self.caller, signal).await;
        }
    }
}
