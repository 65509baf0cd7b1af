//! The way out: out of GitHub, then the instance, then the record.
//!
//! A runner whose job is over, or whose instance has ended, goes without the first step, because nothing can
//! run on it any more. Its slot is free as soon as its instance is absent; what GitHub may still have of it
//! ([`may_leave_registration`](super::may_leave_registration)) is removed after that.

use jiff::Timestamp;

use super::{Change, Event, InstanceReading, MachineWord, RegistrationReading, pause_after};
use crate::domain::{InstanceState, Limits, RetireReason, RetireStep, Runner, RunnerState, later};
use crate::flaws::{Flaw, is_on};

pub(super) fn retiring(
    runner: &Runner,
    why: &RetireReason,
    retire: RetireStep,
    event: &Event,
    limits: &Limits,
    now: Timestamp,
) -> Change {
    if is_too_early_to_count(runner, event) {
        return Change::Nothing;
    }
    match retire {
        RetireStep::Deregister => deregister(runner, why, event, limits, now),
        RetireStep::Grace { until } => grace(why, until, event, limits, now),
        RetireStep::Delete => delete(why, event),
        RetireStep::Confirm => confirm(why, event),
        RetireStep::Suspect { since } => suspect(why, since, event, now),
    }
}

/// Whether a look that lacks the instance was begun too early to free its slot: one that no answer has named
/// yet may still appear until the settle time is over, and one that was named may be missing for the time by
/// which the backend's reads lag.
pub fn is_too_early_to_count(runner: &Runner, event: &Event) -> bool {
    match event {
        Event::Instance { reading: InstanceReading::Absent { settle, lag }, begun } => {
            let counts_from = match runner.instance {
                None => later(runner.since, *settle),
                Some(_) => later(runner.named_at.unwrap_or(runner.since), *lag),
            };
            *begun < counts_from
        }
        Event::Instance { reading: InstanceReading::Present { .. }, .. }
        | Event::Started
        | Event::StartedToCallBack
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Registration { .. }
        | Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::JobCompleted { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::OperatorRetire { .. }
        | Event::Tick
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::Machine(_)
        | Event::EvidenceLost => false,
    }
}

/// When the next try of a step is due. The longer it has taken already, the longer the pause.
pub(super) fn next_try(runner: &Runner, retire: &RetireStep, now: Timestamp) -> Timestamp {
    match retire {
        RetireStep::Deregister | RetireStep::Delete => now,
        RetireStep::Grace { until } => (*until).max(now),
        RetireStep::Suspect { since } => later(*since, Limits::READING_GAP).max(now),
        RetireStep::Confirm => later(now, pause_after(runner.since, now)),
    }
}

/// Whether a runner is on its way out because it did not come online. It may have since: so it is looked at
/// once more before GitHub is asked to let it go.
pub const fn is_given_up_unseen(why: &RetireReason) -> bool {
    matches!(why, RetireReason::StartTimeout | RetireReason::NeverCreated)
}

/// GitHub is being asked to let it go. Any sign of a job keeps it.
fn deregister(runner: &Runner, why: &RetireReason, event: &Event, limits: &Limits, now: Timestamp) -> Change {
    match event {
        Event::Deregistered => after_deregister(runner, why, limits, now),
        Event::DeregisterRefused => Change::State(RunnerState::Busy { job: None }),
        // It was given up because it was not seen, and here it is: it goes as any other that is idle, if at all.
        Event::Registration {
            reading: RegistrationReading::Present { online: true, busy: false }, ..
        } if is_given_up_unseen(why) => Change::State(RunnerState::Idle { leaving: None }),
        Event::Machine(MachineWord::Listens) if is_given_up_unseen(why) => {
            Change::State(RunnerState::Idle { leaving: None })
        }
        Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::JobCompleted { .. }
        | Event::Registration { .. }
        | Event::OperatorRetire { .. } => sign_of_a_job(event),
        Event::Started
        | Event::StartedToCallBack
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Instance { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::Tick
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::Machine(_)
        | Event::EvidenceLost => Change::Nothing,
    }
}

/// One that never had an instance is done. Any other waits a while, also one that was never seen online: it
/// may have come online, and been given a job, since it was last looked at. Where its machine said that it ends, no listener
/// is left that a job could have come to.
fn after_deregister(runner: &Runner, why: &RetireReason, limits: &Limits, now: Timestamp) -> Change {
    if matches!(why, RetireReason::NeverCreated) {
        return Change::End(why.clone());
    }
    if runner.machine.ended_at.is_some() || is_on(Flaw::NoRemovalGrace) {
        return Change::retire(why.clone(), RetireStep::Delete);
    }
    Change::retire(why.clone(), RetireStep::Grace { until: later(now, limits.removal_grace) })
}

/// GitHub let it go; a job that was assigned at the last moment may still show itself.
fn grace(why: &RetireReason, until: Timestamp, event: &Event, limits: &Limits, now: Timestamp) -> Change {
    match event {
        Event::EvidenceLost => {
            Change::retire(why.clone(), RetireStep::Grace { until: later(now, limits.removal_grace) })
        }
        Event::Tick if now >= until => Change::retire(why.clone(), RetireStep::Delete),
        Event::Machine(MachineWord::Ends { .. }) => Change::retire(why.clone(), RetireStep::Delete),
        Event::Machine(
            MachineWord::Said { .. }
            | MachineWord::Listens
            | MachineWord::ConfigAsked { .. }
            | MachineWord::ConfigMade { .. }
            | MachineWord::ConfigLost { .. },
        ) => Change::Nothing,
        Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::JobCompleted { .. }
        | Event::Registration { .. }
        | Event::OperatorRetire { .. } => sign_of_a_job(event),
        Event::Instance { reading, .. } if is_absent(reading) => Change::End(why.clone()),
        Event::Tick
        | Event::Started
        | Event::StartedToCallBack
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Instance { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. } => Change::Nothing,
    }
}

fn sign_of_a_job(event: &Event) -> Change {
    match event {
        Event::JobStarted { job } => Change::State(RunnerState::Busy { job: Some(job.clone()) }),
        Event::JobCompleted { job } => {
            Change::retire(RetireReason::JobCompleted { job: job.clone() }, RetireStep::Delete)
        }
        Event::JobSignalled { .. }
        | Event::Registration { reading: RegistrationReading::Present { busy: true, .. }, .. } => {
            Change::State(RunnerState::Busy { job: None })
        }
        Event::OperatorRetire { force: true } => {
            Change::retire(RetireReason::Operator { force: true }, RetireStep::Delete)
        }
        Event::OperatorRetire { force: false }
        | Event::Registration { .. }
        | Event::Started
        | Event::StartedToCallBack
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Instance { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::Tick
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::Machine(_)
        | Event::EvidenceLost => Change::Nothing,
    }
}

/// The backend is being asked to delete the instance. From here on there is no way back.
fn delete(why: &RetireReason, event: &Event) -> Change {
    match event {
        Event::DeleteAccepted => Change::retire(why.clone(), RetireStep::Confirm),
        Event::Instance { reading, .. } => match reading {
            InstanceReading::Absent { .. } | InstanceReading::Present { state: InstanceState::Gone, .. } => {
                Change::End(why.clone())
            }
            InstanceReading::Present { .. } => Change::Nothing,
        },
        Event::JobCompleted { .. } => explained(why, event, RetireStep::Delete),
        Event::Started
        | Event::StartedToCallBack
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Registration { .. }
        | Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::OperatorRetire { .. }
        | Event::Tick
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::Troubled { .. }
        | Event::Machine(_)
        | Event::EvidenceLost => Change::Nothing,
    }
}

/// The deletion was accepted. Only the backend's word that the instance is absent frees the slot; one that
/// is still there after a pause is deleted again.
fn confirm(why: &RetireReason, event: &Event) -> Change {
    match event {
        Event::Instance { reading, .. } => match reading {
            InstanceReading::Absent { .. } | InstanceReading::Present { state: InstanceState::Gone, .. } => {
                Change::End(why.clone())
            }
            InstanceReading::Present { .. } => Change::Nothing,
        },
        Event::Tick => Change::retire(why.clone(), RetireStep::Delete),
        Event::JobCompleted { .. } => explained(why, event, RetireStep::Confirm),
        Event::Started
        | Event::StartedToCallBack
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Registration { .. }
        | Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::OperatorRetire { .. }
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::Machine(_)
        | Event::EvidenceLost => Change::Nothing,
    }
}

/// An instance that nobody knows. A registration makes it a runner again; none in a second reading condemns
/// it.
fn suspect(why: &RetireReason, since: Timestamp, event: &Event, now: Timestamp) -> Change {
    match event {
        Event::EvidenceLost => Change::retire(why.clone(), RetireStep::Suspect { since: now }),
        Event::Registration { reading, begun } => match reading {
            RegistrationReading::Present { online: true, busy: false } => {
                Change::State(RunnerState::Idle { leaving: None })
            }
            RegistrationReading::Present { online: false, busy: false } => {
                Change::State(RunnerState::Booting)
            }
            RegistrationReading::Present { busy: true, .. } => Change::State(RunnerState::Busy { job: None }),
            RegistrationReading::Absent if *begun >= later(since, Limits::READING_GAP) => {
                Change::retire(why.clone(), RetireStep::Delete)
            }
            RegistrationReading::Absent | RegistrationReading::Unknown => Change::Nothing,
        },
        Event::Machine(MachineWord::Listens) => Change::State(RunnerState::Idle { leaving: None }),
        Event::Machine(
            MachineWord::Said { .. }
            | MachineWord::ConfigAsked { .. }
            | MachineWord::ConfigMade { .. }
            | MachineWord::ConfigLost { .. }
            | MachineWord::Ends { .. },
        ) => Change::Nothing,
        Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::JobCompleted { .. }
        | Event::OperatorRetire { .. } => sign_of_a_job(event),
        Event::Instance { reading, .. } if is_absent(reading) => Change::End(why.clone()),
        Event::Instance { .. }
        | Event::Started
        | Event::StartedToCallBack
        | Event::Registered { .. }
        | Event::RegistrationFailed { .. }
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Unneeded
        | Event::Needed
        | Event::Tick
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. } => Change::Nothing,
    }
}

const fn is_absent(reading: &InstanceReading) -> bool {
    matches!(
        reading,
        InstanceReading::Absent { .. } | InstanceReading::Present { state: InstanceState::Gone, .. }
    )
}

/// A machine that stopped because its job was over stopped for that reason.
fn explained(why: &RetireReason, event: &Event, retire: RetireStep) -> Change {
    match (why, event) {
        (RetireReason::InstanceStopped | RetireReason::InstanceGone, Event::JobCompleted { job }) => {
            Change::retire(RetireReason::JobCompleted { job: job.clone() }, retire)
        }
        _ => Change::Nothing,
    }
}
