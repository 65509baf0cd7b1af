//! What a runner's machine says: what the record learns from it, whatever the state.

use jiff::Timestamp;

use super::{Change, seen_online, trouble};
use crate::domain::{
    Boot, GitHubRunnerId, Machine, Mint, OperationId, RetireReason, RetireStep, Runner, RunnerState, later,
};
use crate::policy::lifecycle::MINT_WITHIN;

/// Something that a runner's machine said, or that was done at its word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineWord {
    /// How far it has come.
    Said {
        /// In words.
        what: String,
    },
    /// Its listener waits for jobs.
    Listens,
    /// It asked for its JIT config, and GitHub is about to be asked for one.
    ConfigAsked {
        /// Which start of it.
        boot: Boot,
        /// The call, which is nobody else's.
        by: OperationId,
    },
    /// GitHub gave a JIT config, which the machine is about to be given.
    ConfigMade {
        /// The call.
        by: OperationId,
        /// GitHub's number of the registration.
        id: GitHubRunnerId,
    },
    /// The call to GitHub is over, and brought none.
    ConfigLost {
        /// The call.
        by: OperationId,
    },
    /// It ends: neither a listener nor a job runs on it from here on. The last that it says.
    Ends {
        /// Whether something failed.
        failed: bool,
        /// Why, in words.
        detail: String,
    },
}

/// Why a machine gets no JIT config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoConfig {
    /// Its runner is taken away, or its time to start is over.
    Gone,
    /// A call for one may still be under way, or nobody knows yet where its runner stands.
    NotNow,
    /// Another start of the machine has had it.
    AnotherStart,
    /// Its listener was seen: it had one.
    Used,
    /// It asked too often.
    TooOften,
}

/// How many JIT configs one runner's machine is given.
pub const MOST_MINTS: u32 = 5;

/// Whether a start of a runner's machine may have a JIT config now.
///
/// # Errors
/// Why it gets none.
pub fn may_mint(runner: &Runner, boot: &Boot, deadline: Timestamp, now: Timestamp) -> Result<(), NoConfig> {
    match &runner.state {
        RunnerState::Creating { .. } | RunnerState::Booting => {}
        RunnerState::Idle { .. } | RunnerState::Busy { .. } => return Err(NoConfig::Used),
        // The record is behind the truth, or nobody knows yet whose instance it is: that is being found out.
        RunnerState::Requested | RunnerState::Retiring { retire: RetireStep::Suspect { .. }, .. } => {
            return Err(NoConfig::NotNow);
        }
        RunnerState::Retiring { .. } => return Err(NoConfig::Gone),
    }
    let machine = &runner.machine;
    match &machine.mint {
        _ if now >= deadline => Err(NoConfig::Gone),
        _ if runner.online_at.is_some() || machine.listening_at.is_some() => Err(NoConfig::Used),
        _ if machine.ended_at.is_some() => Err(NoConfig::Used),
        None => Ok(()),
        Some(mint) if mint.boot != *boot => Err(NoConfig::AnotherStart),
        Some(mint) if now < mint.until => Err(NoConfig::NotNow),
        Some(mint) if mint.made >= MOST_MINTS => Err(NoConfig::TooOften),
        Some(_) => Ok(()),
    }
}

/// What the record learns.
pub(super) fn learn(runner: &mut Runner, word: &MachineWord, now: Timestamp) {
    let starts = matches!(runner.state, RunnerState::Creating { .. } | RunnerState::Booting);
    let machine = &mut runner.machine;
    match word {
        MachineWord::Said { what } => machine.note(what, now),
        MachineWord::Listens => {
            if machine.listening_at.is_none() {
                machine.listening_at = Some(now);
                machine.note("its listener waits for jobs", now);
            }
            if machine.ended_at.is_none() {
                seen_online(runner, now);
            }
        }
        MachineWord::ConfigAsked { boot, by } => {
            if starts && machine.mint.as_ref().is_none_or(|mint| now >= mint.until) {
                let made = machine.mint.as_ref().map_or(0, |mint| mint.made);
                let until = later(now, MINT_WITHIN);
                machine.mint = Some(Mint { boot: boot.clone(), by: by.clone(), until, made });
                machine.note("asked for its JIT config", now);
            }
        }
        MachineWord::ConfigMade { by, id } => {
            if let Some(mint) = of_call(machine, by).filter(|_| starts) {
                mint.made += 1;
                mint.until = now;
                let number = mint.made;
                machine.note(&format!("GitHub registered it and gave JIT config {number}"), now);
                runner.registration = Some(*id);
            }
        }
        MachineWord::ConfigLost { by } => {
            if let Some(mint) = of_call(machine, by) {
                mint.until = now;
            }
        }
        MachineWord::Ends { failed, detail } => {
            machine.ended_at = machine.ended_at.or(Some(now));
            machine.note(&format!("{}: {detail}", if *failed { "failed" } else { "left" }), now);
            if *failed {
                trouble::note(runner, &format!("the machine said: {detail}"), now);
            }
        }
    }
}

/// The mint of a call, unless another call came after it.
fn of_call<'m>(machine: &'m mut Machine, by: &OperationId) -> Option<&'m mut Mint> {
    machine.mint.as_mut().filter(|mint| mint.by == *by)
}

/// A machine that ends without having been asked to, and runs no job.
pub(super) fn ends(failed: bool, detail: &str) -> Change {
    let why = RetireReason::MachineEnded { failed, detail: detail.to_owned() };
    Change::retire(why, RetireStep::Deregister)
}
