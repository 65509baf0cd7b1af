//! From the reserved slot to the backend's answer: `Requested` and `Creating`.

use jiff::Timestamp;

use super::machine;
use super::{Change, Event, InstanceReading, MachineWord, RegistrationReading, start_deadline};
use crate::domain::{
    CreateStep, InstanceState, Limits, RetireReason, RetireStep, Runner, RunnerState, later,
};
use crate::flaws::{Flaw, is_on};

/// Nothing has been made, so it can go at once.
pub(super) fn requested(event: &Event, now: Timestamp) -> Change {
    match event {
        Event::Started => Change::State(RunnerState::Creating { create: CreateStep::Registering }),
        Event::StartedToCallBack => Change::State(RunnerState::Creating {
            create: CreateStep::Asked { at: now, unclear_since: None },
        }),
        Event::RegistrationFailed { detail, .. } => {
            Change::End(RetireReason::RegistrationFailed { detail: detail.clone() })
        }
        // The store lost what came after this: the instance was made.
        Event::Machine(MachineWord::Said { .. }) => Change::State(RunnerState::Booting),
        Event::Unneeded => Change::End(RetireReason::Surplus),
        Event::OperatorRetire { force } => Change::End(RetireReason::Operator { force: *force }),
        Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::JobCompleted { .. }
        | Event::Machine(_)
        | Event::Registration { .. } => sign_of_life(event),
        // The store lost what came after this: the instance was made.
        Event::Instance { reading: InstanceReading::Present { .. }, .. } => {
            Change::State(RunnerState::Booting)
        }
        Event::Registered { .. }
        | Event::Created { .. }
        | Event::CreateFailed { .. }
        | Event::CreateUnclear { .. }
        | Event::Instance { .. }
        | Event::Needed
        | Event::Tick
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::EvidenceLost => Change::Nothing,
    }
}

/// GitHub, then the backend, is being asked.
pub(super) fn creating(
    runner: &Runner,
    create: CreateStep,
    event: &Event,
    limits: &Limits,
    now: Timestamp,
) -> Change {
    match event {
        Event::Registered { .. } => match create {
            CreateStep::Registering => Change::State(RunnerState::Creating {
                create: CreateStep::Asked { at: now, unclear_since: None },
            }),
            CreateStep::Asked { .. } => Change::Nothing,
        },
        Event::RegistrationFailed { detail, .. } => match create {
            CreateStep::Registering => {
                Change::End(RetireReason::RegistrationFailed { detail: detail.clone() })
            }
            // Its machine called, and cannot be registered.
            CreateStep::Asked { .. } => Change::retire(
                RetireReason::RegistrationFailed { detail: detail.clone() },
                RetireStep::Deregister,
            ),
        },
        Event::Created { .. } => Change::State(RunnerState::Booting),
        Event::CreateFailed { kind, detail, .. } => {
            Change::End(RetireReason::CreateFailed { kind: *kind, detail: detail.clone() })
        }
        Event::CreateUnclear { .. } if is_on(Flaw::FreeTheSlotOnTimeOut) => {
            Change::End(RetireReason::NeverCreated)
        }
        Event::CreateUnclear { .. } => match create {
            CreateStep::Asked { at, unclear_since: None } => Change::State(RunnerState::Creating {
                create: CreateStep::Asked { at, unclear_since: Some(now) },
            }),
            CreateStep::Asked { unclear_since: Some(_), .. } | CreateStep::Registering => Change::Nothing,
        },
        Event::Instance { reading, begun } => looked_up(&create, reading, *begun),
        Event::OperatorRetire { force } => match create {
            CreateStep::Registering => {
                Change::retire(RetireReason::Operator { force: *force }, RetireStep::Deregister)
            }
            // The backend is being asked: until its answer is known, nobody can say that there is no instance.
            CreateStep::Asked { .. } => Change::Nothing,
        },
        Event::Tick if now >= start_deadline(runner, limits) => {
            Change::retire(RetireReason::StartTimeout, RetireStep::Deregister)
        }
        Event::JobStarted { .. }
        | Event::JobSignalled { .. }
        | Event::JobCompleted { .. }
        | Event::Machine(_)
        | Event::Registration { .. } => sign_of_life(event),
        Event::Started
        | Event::StartedToCallBack
        | Event::Unneeded
        | Event::Needed
        | Event::Tick
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::EvidenceLost => Change::Nothing,
    }
}

/// A look-up after an unclear `create`: found is adopted; absent ends the runner once a reading was begun
/// after the backend's settle time.
fn looked_up(create: &CreateStep, reading: &InstanceReading, begun: Timestamp) -> Change {
    match reading {
        InstanceReading::Present { state: InstanceState::Gone, .. } => {
            Change::retire(RetireReason::InstanceGone, RetireStep::Deregister)
        }
        InstanceReading::Present { .. } => Change::State(RunnerState::Booting),
        InstanceReading::Absent { settle, .. } => match create {
            CreateStep::Asked { unclear_since: Some(unclear), .. } if begun >= later(*unclear, *settle) => {
                Change::retire(RetireReason::NeverCreated, RetireStep::Deregister)
            }
            CreateStep::Asked { .. } | CreateStep::Registering => Change::Nothing,
        },
    }
}

/// A runner that GitHub tells of is further than its record.
fn sign_of_life(event: &Event) -> Change {
    match event {
        Event::JobStarted { job } => Change::State(RunnerState::Busy { job: Some(job.clone()) }),
        Event::JobCompleted { job } => {
            Change::retire(RetireReason::JobCompleted { job: job.clone() }, RetireStep::Delete)
        }
        Event::JobSignalled { .. }
        | Event::Registration { reading: RegistrationReading::Present { busy: true, .. }, .. } => {
            Change::State(RunnerState::Busy { job: None })
        }
        Event::Registration { reading: RegistrationReading::Present { online: true, .. }, .. }
        | Event::Machine(MachineWord::Listens) => Change::State(RunnerState::Idle { leaving: None }),
        Event::Machine(MachineWord::Ends { failed, detail }) => machine::ends(*failed, detail),
        Event::Machine(
            MachineWord::Said { .. }
            | MachineWord::ConfigAsked { .. }
            | MachineWord::ConfigMade { .. }
            | MachineWord::ConfigLost { .. },
        )
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
        | Event::OperatorRetire { .. }
        | Event::Tick
        | Event::Deregistered
        | Event::DeregisterRefused
        | Event::DeleteAccepted
        | Event::Troubled { .. }
        | Event::EvidenceLost => Change::Nothing,
    }
}
