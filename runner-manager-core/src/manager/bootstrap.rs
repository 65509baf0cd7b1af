//! Taking in what machines say, and giving them what they start with: the manager's side of callback mode.
//!
//! Whoever calls shows the token of a runner's machine first ([`Manager::caller`]); nothing here is done for anybody else.
//! Each word is one event for the runner's record, and durable once its call returns. A heartbeat that tells nothing new is
//! one read. What the answers mean on the machine is told where the scripts are rendered.

use jiff::Timestamp;

use super::Manager;
use super::advance::{Fed, InHand, Under};
use crate::backend::{Bootstrap, InstanceSpec};
use crate::domain::{
    BackendName, JobSignal, Limits, RetireReason, RetireStep, Runner, RunnerGroup, RunnerName, RunnerState,
    Secret, TokenKey,
};
use crate::policy::lifecycle::{Event, MachineWord, Next, NoConfig, step};
use crate::store::{StoreError, Versioned};

/// How machines call the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// What their tokens are made with.
    pub key: TokenKey,
    /// Where they reach the manager. Where that is none, new machines have their JIT config in their user data, and those
    /// that call are heard all the same.
    pub address: Option<CallbackAddress>,
}

/// Where machines reach the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackAddress {
    /// The address, without `/bootstrap`.
    pub url: String,
    /// The certificates in PEM that sign the manager's; none where the machines' own do.
    pub ca: Option<String>,
}

/// A machine that showed the token of its runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(pub(super) RunnerName);

impl Caller {
    /// Its runner.
    pub const fn runner(&self) -> &RunnerName {
        &self.0
    }
}

/// What a machine says of its listener in a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// It does not listen yet.
    Starting,
    /// It listens, and no job runs.
    Idle,
    /// A job runs.
    Busy,
}

/// What a machine is told in answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// To go on.
    Stay,
    /// To look whether a job runs, and to leave where none does.
    Leave,
}

/// Why a machine's call was not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// Its runner is taken away or gone: it is to leave.
    #[error("its runner is taken away, or gone")]
    Gone,
    /// Not this time: a repeat may fare better.
    #[error("not now: {0}")]
    NotNow(String),
    /// Not ever.
    #[error("refused: {0}")]
    Refused(String),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<NoConfig> for Denied {
    fn from(why: NoConfig) -> Self {
        match why {
            NoConfig::Gone => Self::Gone,
            NoConfig::NotNow => Self::NotNow("a call for it is under way".to_owned()),
            NoConfig::AnotherStart => Self::Refused("another start of this machine asked for it".to_owned()),
            NoConfig::Used => Self::Refused("its listener was seen".to_owned()),
            NoConfig::TooOften => Self::Refused("it was given too many".to_owned()),
        }
    }
}

impl Manager {
    /// Who calls: none where the token is not that of the runner's machine. Says nothing of whether there is such a
    /// runner, and asks nobody.
    pub fn caller(&self, runner: &str, token: &str) -> Option<Caller> {
        let key = &self.parts().settings.callback.as_ref()?.key;
        let runner = RunnerName::new(runner).ok()?;
        key.fits(&runner, token).then_some(Caller(runner))
    }

    /// Where the machines of a backend call, where they are to.
    pub(super) fn calls_back(&self, backend: &BackendName) -> Option<&CallbackAddress> {
        let address = self.parts().settings.callback.as_ref()?.address.as_ref()?;
        let connected = self.parts().backends.get(backend)?;
        (!connected.direct && connected.backend.capabilities().callback).then_some(address)
    }

    /// What the machine of a runner starts with in callback mode.
    pub(super) fn callback_for(&self, runner: &RunnerName, address: &CallbackAddress) -> Option<Bootstrap> {
        let token = self.parts().settings.callback.as_ref()?.key.token(runner);
        Some(Bootstrap::Callback { url: address.url.clone(), ca: address.ca.clone(), token })
    }

    /// The script of a machine.
    ///
    /// # Errors
    /// [`Denied`]. `NotNow` where this replica cannot render it.
    pub async fn start_script(&self, caller: &Caller) -> Result<Secret, Denied> {
        let runner = self.record_of(caller).await?.value;
        not_retired(&runner)?;
        let cannot = |what: &str| Denied::NotNow(format!("this replica has no {what} of the runner"));
        let groups = self.listed_groups().await?;
        let spec = groups.iter().map(|group| &group.spec).find(|spec| spec.name == runner.group);
        let spec = spec.ok_or_else(|| cannot("group"))?;
        let backend = self.backend(&runner.backend).ok_or_else(|| cannot("backend"))?;
        let address = self.calls_back(&runner.backend).ok_or_else(|| cannot("address for the machine"))?;
        let bootstrap = self.callback_for(&runner.name, address).ok_or_else(|| cannot("key"))?;
        let spec = self.instance_spec(&runner, spec, bootstrap).ok_or_else(|| cannot("placement"))?;
        backend.start_script(&spec).map_err(|error| Denied::Refused(error.to_string()))
    }

    /// All that a backend must know; none where the group has the runner's placement no more.
    pub(super) fn instance_spec(
        &self,
        runner: &Runner,
        group: &RunnerGroup,
        bootstrap: Bootstrap,
    ) -> Option<InstanceSpec> {
        Some(InstanceSpec {
            runner: runner.name.clone(),
            group: runner.group.clone(),
            owner: self.parts().owner.clone(),
            placement: group.placement(&runner.placement)?.clone(),
            tags: group.tags.clone(),
            bootstrap,
        })
    }

    /// Takes in how far a machine has come.
    ///
    /// # Errors
    /// [`Denied`]. It was taken in where its runner is taken away, too.
    pub async fn hear_of_progress(&self, caller: &Caller, what: &str) -> Result<(), Denied> {
        let event = Event::Machine(MachineWord::Said { what: what.to_owned() });
        not_retired(&self.hear(caller, &event).await?)
    }

    /// Takes in that a machine's listener waits for jobs.
    ///
    /// # Errors
    /// [`Denied`]. It was taken in where its runner is taken away, too.
    pub async fn hear_of_listener(&self, caller: &Caller) -> Result<(), Denied> {
        not_retired(&self.hear(caller, &Event::Machine(MachineWord::Listens)).await?)
    }

    /// Takes in a heartbeat, and tells the machine whether to stay. Nothing is written where it tells nothing new.
    ///
    /// # Errors
    /// [`Denied`]. `Gone` asks a machine to leave as [`Reply::Leave`] does.
    pub async fn hear_of_pulse(&self, caller: &Caller, pulse: Pulse) -> Result<Reply, Denied> {
        let runner = match pulse {
            Pulse::Starting => self.record_of(caller).await?.value,
            Pulse::Idle => self.hear(caller, &Event::Machine(MachineWord::Listens)).await?,
            Pulse::Busy => self.hear(caller, &Event::JobSignalled { presumed: None, said: None }).await?,
        };
        not_retired(&runner)?;
        let RunnerState::Idle { leaving: Some(leaving) } = &runner.state else { return Ok(Reply::Stay) };
        if leaving.reason == RetireReason::Surplus && !self.has_surplus(&runner).await? {
            self.hear(caller, &Event::Needed).await?;
            return Ok(Reply::Stay);
        }
        Ok(Reply::Leave)
    }

    /// Takes in what a machine's job hook said of its own runner's job: see [`hear_of_a_job`](Self::hear_of_a_job).
    ///
    /// # Errors
    /// [`Denied`]. Where its runner is taken away or gone there is nothing to take in, and that is no error.
    pub async fn hear_of_own_job(&self, caller: &Caller, signal: JobSignal) -> Result<(), Denied> {
        self.hear_of_a_job(&JobSignal { runner: caller.0.clone(), ..signal }).await?;
        Ok(())
    }

    /// Takes in the last word of a machine: neither a listener nor a job runs on it any more.
    ///
    /// A runner without a job is taken away by it, one with a job is not: what became of that, GitHub tells, or the
    /// end of the instance.
    ///
    /// # Errors
    /// [`Denied`]. Where its runner is gone there is nothing to take in, and that is no error.
    pub async fn hear_of_end(&self, caller: &Caller, failed: bool, detail: &str) -> Result<(), Denied> {
        let event = Event::Machine(MachineWord::Ends { failed, detail: detail.to_owned() });
        match self.hear(caller, &event).await {
            Ok(_) | Err(Denied::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Feeds what a machine said to its runner, and gives the record after it.
    async fn hear(&self, caller: &Caller, event: &Event) -> Result<Runner, Denied> {
        let runner = self.record_of(caller).await?;
        let (limits, now) = (self.limits_of(&runner.value).await?, self.now().await?);
        if says_nothing_new(&runner.value, event, &limits, now) {
            return Ok(runner.value);
        }
        let in_hand = InHand { runner, group: None };
        match self.feed_in_hand(Under::NoClaim, in_hand, event).await? {
            (Fed::Alive(runner), _) => Ok(runner.value),
            (Fed::Gone, _) => Err(Denied::Gone),
        }
    }

    /// The record of a machine's runner. Where it is missing and the store may have lost it, nobody knows yet.
    pub(super) async fn record_of(&self, caller: &Caller) -> Result<Versioned<Runner>, Denied> {
        match self.store().runner(&caller.0).await? {
            Some(runner) => Ok(runner),
            None => match self.rely_on_the_store().await {
                Ok(()) => Err(Denied::Gone),
                Err(error) => Err(error.into()),
            },
        }
    }
}

fn says_nothing_new(runner: &Runner, event: &Event, limits: &Limits, now: Timestamp) -> bool {
    matches!(step(runner, event, limits, now), Next::Unchanged)
}

/// One whose instance has no other record may yet be taken for a runner again.
fn not_retired(runner: &Runner) -> Result<(), Denied> {
    match &runner.state {
        RunnerState::Retiring { retire: RetireStep::Suspect { .. }, .. }
        | RunnerState::Requested
        | RunnerState::Creating { .. }
        | RunnerState::Booting
        | RunnerState::Idle { .. }
        | RunnerState::Busy { .. } => Ok(()),
        RunnerState::Retiring { .. } => Err(Denied::Gone),
    }
}
