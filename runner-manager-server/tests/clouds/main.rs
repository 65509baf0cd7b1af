//! Whole systems on the clouds: `serve`, the GitHub simulator, its webhooks, and a stand-in for what a
//! machine does when it starts, which runs what the cloud says that the machine was given.
//!
//! The cases are the same for all clouds: what is different is in one module a cloud. What came of a case is
//! read from the books of the simulated GitHub, and from the cloud by a client that is not ours. Where the
//! peer of a cloud does not run (`scripts/peers/NAME/up`) its tests are skipped, and fail under `CI=true`.
#![cfg(any(feature = "aws", feature = "gcp", feature = "openstack", feature = "vsphere"))]
#![expect(clippy::disallowed_methods, reason = "tests of processes wait in real time")]
#![expect(clippy::print_stderr, reason = "a test that fails shows the logs of its processes")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

/// Makes tests of the cases that every cloud has.
macro_rules! suite {
    ($cloud:ty) => {
        suite! { $cloud:
            jobs::jobs_run_on_machines_and_nothing_is_left,
            jobs::machines_that_call_run_their_jobs,
            jobs::killed_between_the_create_and_its_record_makes_one_machine,
            jobs::killed_before_the_request_arrives_makes_one_machine,
            jobs::a_lost_reply_and_a_kill_make_one_machine,
            jobs::a_request_that_was_lost_is_replaced,
            jobs::killed_while_jobs_run_ends_none,
            jobs::killed_while_a_machine_is_removed_leaves_nothing,
            wrong::check_online_names_each,
            wrong::serve_blocks_each_group_with_its_reason_and_the_others_go_on,
        }
    };
    ($cloud:ty: $($file:ident::$case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                crate::$file::$case::<$cloud>().await;
            }
        )*
    };
}

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "gcp")]
#[path = "../../../runner-manager-core/tests/support/certificates.rs"]
#[expect(dead_code, reason = "some of it is for servers on 127.0.0.1")]
mod certificates;
mod cloud;
#[path = "../crash/door.rs"]
#[expect(dead_code, reason = "some of it is for the tests of crashes")]
mod door;
#[path = "../../../runner-manager-backends/src/testing/fault_proxy.rs"]
#[cfg_attr(
    not(any(feature = "aws", feature = "vsphere")),
    expect(dead_code, reason = "some of it is for those whose requests are told apart by their bodies")
)]
mod fault_proxy;
#[cfg(feature = "gcp")]
mod gcp;
#[cfg(feature = "gcp")]
mod gcp_credentials;
#[cfg(feature = "gcp")]
#[path = "../../../runner-manager-core/tests/http_server/mod.rs"]
mod http_server;
mod jobs;
#[cfg(feature = "openstack")]
mod openstack;
#[path = "../server/support.rs"]
#[expect(dead_code, reason = "some of it is for the tests of one process")]
mod support;
#[cfg(feature = "vsphere")]
mod vsphere;
mod world;
mod wrong;
