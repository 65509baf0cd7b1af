//! What tests of a runner manager need, ours and other people's.

pub mod simulator;
