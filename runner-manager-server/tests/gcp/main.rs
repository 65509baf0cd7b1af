//! Whole systems on the fake of GCE: `serve`, the GitHub simulator, its webhooks, and a stand-in for what an instance does
//! when it starts, which runs the start script that its metadata hold.
//!
//! What came of it is read from the books of the simulated GitHub, and from the cloud by Google's own client. Where no fake of
//! GCE runs (`scripts/peers/gce/up`) the tests are skipped, and fail under `CI=true`.
#![expect(clippy::disallowed_methods, reason = "tests of processes wait in real time")]
#![expect(clippy::print_stderr, reason = "a test that fails shows the logs of its processes")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "../../../runner-manager-core/tests/support/certificates.rs"]
#[expect(dead_code, reason = "some of it is for servers on 127.0.0.1")]
mod certificates;
mod credentials;
#[path = "../crash/door.rs"]
#[expect(dead_code, reason = "some of it is for the tests of crashes")]
mod door;
#[path = "../../../runner-manager-backends/src/testing/fault_proxy.rs"]
#[expect(dead_code, reason = "some of it is for the tests of the backends")]
mod fault_proxy;
#[path = "../../../runner-manager-core/tests/http_server/mod.rs"]
mod http_server;
mod jobs;
#[path = "../server/support.rs"]
#[expect(dead_code, reason = "some of it is for the tests of one process")]
mod support;
mod world;
mod wrong;
