//! The decisions, pure and total: functions of what is known and of the time.
//!
//! Nothing in here waits, reads a clock, draws a random number, logs or fails. Every event has an answer in
//! every state, and no match has a wildcard arm, so that a new state or event does not compile until every
//! rule has an answer to it.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod placement;
