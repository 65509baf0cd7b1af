//! The simulation: the proof of the product's promises.
//!
//! Replicas of the real manager run in one thread with a simulated clock, the GitHub simulator, a fake cloud
//! and one storage in memory ([`world`]). Every call that a replica makes goes through a wrapper that may fail,
//! delay, freeze or kill it ([`faults`]). What goes wrong and when follows from a seed ([`plan`]). A checker
//! holds all promises after every step, by the books of GitHub and of the cloud ([`checker`], [`ledger`],
//! [`survey`]).
//!
//! `SIM_SEEDS=2000` runs that many seeds; `SIM_SEED=7` runs one and prints what happened.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should end there")]
#![expect(clippy::print_stdout, reason = "what a seed did is told to whoever runs it")]

mod agents;
mod checker;
mod dice;
mod faults;
mod flaws;
mod foreign;
mod github_groups;
mod groups;
mod happenings;
mod ledger;
mod limits;
mod machines;
mod plan;
mod redeliveries;
mod regressions;
mod replica;
mod run;
mod scenarios;
mod seeds;
mod shared;
mod signals;
mod survey;
mod throttle;
mod trace;
mod webhooks;
mod world;
