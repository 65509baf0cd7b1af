//! Bugs on purpose, by which the tests are tested.
//!
//! Each is one switch at the place where the right thing is done, off unless a test turns it on; without the
//! feature `testing` there are none. A simulation that does not find such a bug would not find a real one.

/// A bug that can be turned on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// The storage takes whatever token a claim shows, whoever holds the task.
    NoFencing,
    /// The queue is told that a task is done before it is worked on.
    AckBeforeActing,
    /// One reading that says *not busy* is enough.
    RetireOnOneReading,
    /// Whether a group is below `max` is asked first, and the runner recorded after.
    CountThenCreate,
    /// A `create` without an answer ends the runner and frees its slot.
    FreeTheSlotOnTimeOut,
    /// A sweep lists first and reads the records once, and judges what is missing by that.
    ListBeforeReading,
    /// A write is held against the records' versions, but not against its claim.
    CompareVersionsOnly,
    /// A task that is pushed again waits for the later of both times.
    CollapseToTheLater,
    /// What machines say of their jobs is not taken in.
    IgnoreSignals,
    /// The instance is deleted as soon as GitHub has removed the registration.
    NoRemovalGrace,
    /// A `create` without an answer is asked of the next placement.
    FallOverWhenUnclear,
    /// That GitHub took a redelivery on is not kept.
    ForgetRedeliveries,
    /// A job that lost its machine is run again without a look at whether it was already.
    RerunAgain,
    /// GitHub's runner groups that are managed are written to at every look.
    MendWhatIsWell,
}

#[cfg(feature = "testing")]
thread_local! {
    static PRESENT: std::cell::Cell<Option<Flaw>> = const { std::cell::Cell::new(None) };
}

/// Turns a bug on for this thread, or off.
#[cfg(feature = "testing")]
pub fn turn_on(flaw: Option<Flaw>) {
    PRESENT.set(flaw);
}

/// Whether a bug is on.
#[cfg(feature = "testing")]
pub(crate) fn is_on(flaw: Flaw) -> bool {
    PRESENT.get() == Some(flaw)
}

/// Whether a bug is on: never.
#[cfg(not(feature = "testing"))]
pub(crate) const fn is_on(_: Flaw) -> bool {
    false
}
