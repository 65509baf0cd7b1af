//! What is to become of things of ours that no record explains, and how much a sweep may condemn at once.
//!
//! Promise 4: nothing of ours outlives its purpose. A recordless instance with a live registration is
//! adopted, since it may be running a job; one without is removed after two complete readings, and not
//! before it is older than `start_timeout`. A sweep that would condemn more than max(5, 20 %) of what it
//! looked at stops.
//!
//! *Recordless* is judged against records that were read after the listing ended. A record is written before
//! anything is made, so what then has none has lost it.

use std::time::Duration;

use jiff::Timestamp;

use super::lifecycle::RegistrationReading;
use crate::domain::{Instance, InstanceState, RetireReason, RetireStep, RunnerState, later};

/// What is to become of a recordless instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceVerdict {
    /// Nothing yet: it is gone already, too young, or GitHub did not say whether it is registered.
    Leave,
    /// A record is made for it, in this state. [`RetireStep::Suspect`] waits for the second reading.
    Adopt(RunnerState),
}

/// What is to become of a recordless instance, given what GitHub said about a registration of its name.
///
/// Where the store is not `trusted`, the record was most likely lost: then the instance is no suspect, but has
/// the usual time to come online, and holds a slot until it is gone.
pub fn recordless_instance(
    instance: &Instance,
    registration: RegistrationReading,
    start_timeout: Duration,
    begun: Timestamp,
    trusted: bool,
) -> InstanceVerdict {
    let suspect = || {
        InstanceVerdict::Adopt(RunnerState::Retiring {
            why: RetireReason::Orphan,
            retire: RetireStep::Suspect { since: begun },
        })
    };
    match (&instance.state, registration) {
        (InstanceState::Gone, _) | (_, RegistrationReading::Unknown) => InstanceVerdict::Leave,
        (_, RegistrationReading::Present { busy: true, .. }) => {
            InstanceVerdict::Adopt(RunnerState::Busy { job: None })
        }
        // It may have been given a job since GitHub was asked, so it counts as busy until shown otherwise
        // by a reading of its own.
        (_, RegistrationReading::Present { online: true, busy: false }) => {
            InstanceVerdict::Adopt(RunnerState::Idle { leaving: None })
        }
        (_, RegistrationReading::Present { online: false, busy: false }) => {
            InstanceVerdict::Adopt(RunnerState::Booting)
        }
        (
            InstanceState::Pending
            | InstanceState::Running
            | InstanceState::Stopped
            | InstanceState::Failed(..),
            RegistrationReading::Absent,
        ) => {
            if !trusted {
                InstanceVerdict::Adopt(RunnerState::Booting)
            } else if later(instance.created_at, start_timeout) <= begun {
                suspect()
            } else {
                InstanceVerdict::Leave
            }
        }
    }
}

/// What is to become of a registration of ours that has no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationVerdict {
    /// It lives: its instance will be found and adopted by the backend's sweep.
    Leave,
    /// It is looked at once more, some time later, and removed if it still has neither record nor instance.
    Suspect,
}

/// What is to become of a recordless registration.
pub const fn recordless_registration(reading: RegistrationReading) -> RegistrationVerdict {
    match reading {
        RegistrationReading::Present { online: false, busy: false } => RegistrationVerdict::Suspect,
        RegistrationReading::Present { .. } | RegistrationReading::Absent | RegistrationReading::Unknown => {
            RegistrationVerdict::Leave
        }
    }
}

/// How much one sweep may condemn of what it looked at: 20 %, and at least five.
pub fn most_condemned(looked_at: usize) -> usize {
    (looked_at / 5).max(5)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        InstanceVerdict, RegistrationVerdict, most_condemned, recordless_instance, recordless_registration,
    };
    use crate::domain::{
        GroupName, Instance, InstanceId, InstanceState, RetireReason, RetireStep, RunnerName, RunnerState,
    };
    use crate::policy::lifecycle::RegistrationReading::{Absent, Present, Unknown};
    use crate::policy::samples::at;

    fn instance(state: InstanceState) -> Instance {
        Instance {
            id: InstanceId::new("i-1"),
            runner: RunnerName::new("acme-linux-1").unwrap(),
            group: GroupName::new("linux").unwrap(),
            state,
            created_at: at(0),
        }
    }

    #[test]
    fn promise_4_word_for_word() {
        let judge = |registration, second| {
            let running = instance(InstanceState::Running);
            recordless_instance(&running, registration, Duration::from_mins(10), at(second), true)
        };
        let suspect = |second| {
            InstanceVerdict::Adopt(RunnerState::Retiring {
                why: RetireReason::Orphan,
                retire: RetireStep::Suspect { since: at(second) },
            })
        };
        // A live registration: it may be running a job.
        assert_eq!(
            judge(Present { online: true, busy: true }, 0),
            InstanceVerdict::Adopt(RunnerState::Busy { job: None })
        );
        assert_eq!(
            judge(Present { online: true, busy: false }, 0),
            InstanceVerdict::Adopt(RunnerState::Idle { leaving: None })
        );
        // None: not before it is older than start_timeout, and then a second reading is awaited.
        assert_eq!(judge(Absent, 599), InstanceVerdict::Leave);
        assert_eq!(judge(Absent, 600), suspect(600));
        // An unknown reading condemns nobody, however old.
        assert_eq!(judge(Unknown, 1_000_000), InstanceVerdict::Leave);
    }

    #[test]
    fn what_is_gone_is_left() {
        let gone = instance(InstanceState::Gone);
        for trusted in [true, false] {
            let verdict = recordless_instance(&gone, Absent, Duration::ZERO, at(1_000), trusted);
            assert_eq!(verdict, InstanceVerdict::Leave);
        }
    }

    #[test]
    fn while_the_store_is_doubted_nothing_is_suspect() {
        let judge = |registration, second| {
            let running = instance(InstanceState::Running);
            recordless_instance(&running, registration, Duration::from_mins(10), at(second), false)
        };
        for second in [0, 600, 1_000_000] {
            assert_eq!(judge(Absent, second), InstanceVerdict::Adopt(RunnerState::Booting));
            assert_eq!(judge(Unknown, second), InstanceVerdict::Leave);
            let busy = judge(Present { online: true, busy: true }, second);
            assert_eq!(busy, InstanceVerdict::Adopt(RunnerState::Busy { job: None }));
        }
    }

    #[test]
    fn only_a_registration_that_is_surely_unused_is_suspect() {
        for reading in [Present { online: true, busy: false }, Present { online: false, busy: true }, Unknown]
        {
            assert_eq!(recordless_registration(reading), RegistrationVerdict::Leave);
        }
        let offline = Present { online: false, busy: false };
        assert_eq!(recordless_registration(offline), RegistrationVerdict::Suspect);
    }

    #[test]
    fn a_sweep_condemns_a_fifth_at_most_but_five_always() {
        assert_eq!([0, 10, 25, 100, 1_000].map(most_condemned), [5, 5, 5, 20, 200]);
    }
}
