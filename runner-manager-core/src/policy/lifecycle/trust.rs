//! Which steps rest on the store's word alone.
//!
//! A store that may have lost what it acknowledged is not relied on where something would be made or taken
//! away: its record may be older than the truth. What the outside said (a job completed, an instance ended, an
//! operator forced it) is true whatever was lost, and so is what is taken in.

use super::Next;
use crate::domain::{CreateStep, RetireReason, RetireStep, RunnerState};

/// Whether going from a state to what follows makes something, or takes it away, on the store's word.
pub fn relies_on_the_store(before: &RunnerState, next: &Next) -> bool {
    let after = match next {
        Next::Unchanged => return false,
        Next::Changed(after) => Some(&after.state),
        Next::Ended { why } if the_outside_said_so(why) => return false,
        Next::Ended { .. } => None,
    };
    match before {
        // That nothing has been made is the store's word: both for making it and for freeing the slot.
        RunnerState::Requested => after.is_none_or(|after| matches!(after, RunnerState::Creating { .. })),
        RunnerState::Creating { create: CreateStep::Registering } => {
            after.is_some_and(|after| matches!(after, RunnerState::Creating { .. }) && after != before)
        }
        // From here on it rests on what the backend says of the instance.
        RunnerState::Creating { create: CreateStep::Asked { .. } } | RunnerState::Busy { .. } => false,
        RunnerState::Booting | RunnerState::Idle { .. } => {
            after.is_some_and(|after| removes(after, |step| matches!(step, RetireStep::Deregister)))
        }
        RunnerState::Retiring { retire, .. } => match retire {
            RetireStep::Deregister => {
                after.is_none_or(|after| removes(after, |step| matches!(step, RetireStep::Grace { .. })))
            }
            RetireStep::Grace { .. } | RetireStep::Suspect { .. } => {
                after.is_some_and(|after| removes(after, |step| matches!(step, RetireStep::Delete)))
            }
            // There was no way back when this was written down.
            RetireStep::Delete | RetireStep::Confirm => false,
        },
    }
}

/// Whether a runner is at such a step of its retirement, for a reason that the store alone knows.
fn removes(state: &RunnerState, at: impl Fn(&RetireStep) -> bool) -> bool {
    match state {
        RunnerState::Retiring { why, retire } => at(retire) && !the_outside_said_so(why),
        RunnerState::Requested
        | RunnerState::Creating { .. }
        | RunnerState::Booting
        | RunnerState::Idle { .. }
        | RunnerState::Busy { .. } => false,
    }
}

const fn the_outside_said_so(why: &RetireReason) -> bool {
    match why {
        RetireReason::JobCompleted { .. }
        | RetireReason::RegistrationFailed { .. }
        | RetireReason::CreateFailed { .. }
        | RetireReason::InstanceGone
        | RetireReason::InstanceStopped
        | RetireReason::InstanceFailed { .. }
        | RetireReason::MachineEnded { .. }
        | RetireReason::Operator { force: true } => true,
        RetireReason::Surplus
        | RetireReason::TooOld
        | RetireReason::StartTimeout
        | RetireReason::JobTimeout { .. }
        | RetireReason::RegistrationGone
        | RetireReason::NeverCreated
        | RetireReason::Offline
        | RetireReason::Orphan
        | RetireReason::Operator { force: false } => false,
    }
}
