//! The decisions, pure and total: functions of what is known and of the time.
//!
//! - [`matching`]: which group serves a job.
//! - [`scaling`]: how many runners a group makes or gives up.
//! - [`placement`]: where the next one is made; back-off and breakers.
//! - [`lifecycle`]: what follows for a runner from an event.
//! - [`jobs`]: what follows for a job's record from an observation.
//! - [`loss`]: which jobs lost their machine, and when one is run again.
//! - [`recovery`]: what follows for a job that GitHub lists, or lists no more.
//! - [`redelivery`]: which failed webhook deliveries GitHub is asked to deliver again.
//! - [`orphans`]: what is to become of things that no record explains.
//! - [`sweeps`]: what a sweep does of what it found, and how it goes on once it has stopped.
//! - [`waiting`]: why a job still waits.
//! - [`doubt`]: what must be listed before a store that lost something is relied on again.
//! - [`github_groups`]: what is done about GitHub's runner groups, and which jobs one keeps out.
//! - [`configuration`]: which replica's configuration holds where they differ.
//!
//! Nothing in here waits, reads a clock, draws a random number, logs or fails. Every event has an answer in
//! every state, and no match has a wildcard arm, so that a new state or event does not compile until every
//! rule has an answer to it.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod configuration;
pub mod doubt;
pub mod github_groups;
pub mod jobs;
pub mod lifecycle;
pub mod loss;
pub mod matching;
pub mod orphans;
pub mod placement;
pub mod recovery;
pub mod redelivery;
#[cfg(test)]
pub(crate) mod samples;
pub mod scaling;
pub mod sweeps;
pub mod waiting;
