//! Three replicas on one real Redis, while somebody kills, freezes and restarts replicas and Redis, and jobs go
//! through all the time.
//!
//! What came of it is read from the books of the simulated GitHub and of the fake cloud, which nobody touches:
//! every job ran once, nothing is left, and no group ever had more machines than its `max`.
//!
//! `CHAOS_SEED=n` chooses what is done when, `CHAOS_JOBS=n` how many jobs there are (default 2,000), and
//! `CHAOS_RUNS=n` how many runs follow one another, each with the next seed.
#![expect(clippy::disallowed_methods, reason = "tests of processes wait in real time")]
#![expect(clippy::print_stderr, reason = "a test tells its figures, and one that fails shows the logs")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod balancer;
mod dice;
mod driver;
#[path = "../../../runner-manager-core/tests/support/redis_server.rs"]
mod redis_server;
mod site;
#[path = "../server/support.rs"]
#[expect(dead_code, reason = "some of it is for the tests of one process")]
mod support;
mod verdict;

use dice::Dice;
use driver::Driver;
use site::Site;

/// The seed of the first run, unless another one is asked for.
const SEED: u64 = 1;
/// How many jobs a run has, unless somebody says otherwise.
const JOBS: u64 = 2_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_job_runs_once_whatever_is_killed_frozen_or_restarted() {
    let (first, jobs) = (setting("CHAOS_SEED", SEED), setting("CHAOS_JOBS", JOBS));
    for seed in first..first + setting("CHAOS_RUNS", 1) {
        let Some(site) = Site::start(3, false).await else { return };
        let mut driver = Driver::new(site, Dice::new(seed));
        driver.run(jobs).await;
        let (site, disturbances) = driver.end();
        let verdict = site.finish(jobs, &disturbances).await;
        eprintln!("chaos, seed {seed}: {verdict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_never_make_an_eleventh_machine() {
    let Some(site) = Site::start(2, true).await else { return };
    site.queue("small", 500, 0).await;
    let verdict = site.finish(500, &driver::Disturbances::default()).await;
    assert_eq!(verdict.most_alive("small"), 10, "{verdict}");
    eprintln!("two replicas, max 10: {verdict}");
}
