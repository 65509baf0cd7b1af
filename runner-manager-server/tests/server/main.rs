//! The program from outside: real processes on free ports of this machine.
#![expect(clippy::disallowed_methods, reason = "tests of processes wait in real time")]
#![expect(clippy::print_stderr, reason = "a test that fails shows the logs of its processes")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bootstrap;
mod commands;
mod connections;
mod deployment;
mod machine;
mod operate;
mod support;
mod webhook;
mod webhooks;
