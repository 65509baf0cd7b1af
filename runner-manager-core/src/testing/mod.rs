//! What tests need, ours and other people's: conformance suites for every trait, the GitHub simulator, and a
//! search for secrets in outputs.
//!
//! Behind feature `testing`. It is outside the promises of semantic versioning: cases are added with every
//! release, because that is what they are for.

pub mod conformance;

pub mod secrets;
pub mod simulated;
pub mod simulator;
