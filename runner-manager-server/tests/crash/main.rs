//! Whole systems as processes (`serve`, `github-simulator`, `fake-cloud`), and `kill -9` of the manager at every
//! point of a runner's life.
//!
//! What came of it is read from the books of the simulated GitHub and of the fake cloud, which outlive the manager:
//! every job ran once, no runner was made twice, `max` was kept at each moment, and nothing is left.
#![expect(clippy::disallowed_methods, reason = "tests of processes wait in real time")]
#![expect(clippy::print_stderr, reason = "a test tells its figures, and one that fails shows the logs")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod away;
mod door;
mod many;
mod moments;
mod stops;
#[path = "../server/support.rs"]
#[expect(dead_code, reason = "some of it is for the tests of one process")]
mod support;
mod world;
