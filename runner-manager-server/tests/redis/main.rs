//! `serve` and `check` on a real Redis: what a person is told of one that cannot be used, what is served while
//! it is in trouble, and that all goes on by itself afterwards.
//!
//! Where there is no `redis-server`, nothing is tested and that is said; with `CI=true` it is a failure.
#![expect(clippy::disallowed_methods, reason = "tests of processes wait in real time")]
#![expect(clippy::print_stderr, reason = "a test that fails shows the logs of its processes")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "../../../runner-manager-core/tests/support/certificates.rs"]
mod certificates;
mod checks;
mod opening;
#[path = "../../../runner-manager-core/tests/support/redis_server.rs"]
mod redis_server;
mod sentinels;
#[path = "../server/support.rs"]
#[expect(dead_code, reason = "some of it is for the tests without Redis")]
mod support;
mod tls;
mod trouble;
mod world;
