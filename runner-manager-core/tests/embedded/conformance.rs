//! The conformance suites.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager_core::clock::{Clock, SimulatedClock, SystemClock, timeout};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::testing::conformance::clock::ClockSubject;
use runner_manager_core::testing::conformance::storage::{KeepsItsWord, LoseWord, PassTime, StorageSubject};
use runner_manager_core::testing::conformance::{self, Case, Skip};
use tempfile::TempDir;

const UNIT: Duration = Duration::from_secs(1);

/// The clock, and the directory of the storage's file for as long as the subject lives.
#[derive(Debug)]
struct Simulated(Arc<SimulatedClock>, #[expect(dead_code, reason = "kept until the end")] Option<TempDir>);

#[async_trait]
impl PassTime for Simulated {
    async fn pass(&self, by: Duration) {
        self.0.advance(by);
        tokio::task::yield_now().await;
    }
}

#[derive(Debug)]
struct Real;

#[async_trait]
impl PassTime for Real {
    async fn pass(&self, by: Duration) {
        SystemClock.sleep(by).await;
    }
}

/// A storage in memory forgets when it is told to.
#[derive(Debug)]
struct Forgets(Arc<EmbeddedStorage>);

#[async_trait]
impl LoseWord for Forgets {
    async fn begin_another_life(&self) {
        self.0.lose(self.0.snapshot());
    }

    async fn lose_everything(&self) {
        self.0.lose(None);
    }
}

/// What a storage in a file cannot show.
const A_FILE_KEEPS_ITS_WORD: [Skip; 2] = [
    Skip {
        case: "the_untrusted_is_not_relied_on",
        because: "it has one life; that it loses nothing is covered by `nothing_that_was_acknowledged_is_lost`",
    },
    Skip {
        case: "numbers_outlive_a_loss",
        because: "it loses nothing, which is covered by `nothing_that_was_acknowledged_is_lost`",
    },
];

/// Runs a suite. A subject that never answers fails it, too.
async fn run<S, F: Future<Output = S>>(cases: Vec<Case<S>>, skips: &[Skip], subject: impl Fn() -> F) {
    let limit = Duration::from_mins(2);
    timeout(&SystemClock, limit, conformance::run(cases, skips, subject)).await.unwrap();
}

fn clock() -> Arc<SimulatedClock> {
    Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH))
}

async fn in_memory() -> StorageSubject {
    let clock = clock();
    let storage = EmbeddedStorage::in_memory(clock.clone());
    let storage = Arc::new(storage.with_retention(StorageSubject::retention(UNIT)));
    let (time, loss) = (Simulated(clock, None), Forgets(storage.clone()));
    StorageSubject::new(storage.into(), Arc::new(time), Arc::new(loss), UNIT).await
}

async fn in_a_file() -> StorageSubject {
    let (clock, directory) = (clock(), tempfile::tempdir().unwrap());
    let storage = EmbeddedStorage::open(directory.path().join("storage"), clock.clone()).unwrap();
    let storage = Arc::new(storage.with_retention(StorageSubject::retention(UNIT)));
    let time = Simulated(clock, Some(directory));
    StorageSubject::new(storage.into(), Arc::new(time), Arc::new(KeepsItsWord), UNIT).await
}

#[tokio::test]
async fn the_store_in_a_file_behaves() {
    run(conformance::store::cases(), &A_FILE_KEEPS_ITS_WORD, in_a_file).await;
}

#[tokio::test]
async fn the_queue_in_a_file_behaves() {
    run(conformance::queue::cases(), &[], in_a_file).await;
}

#[tokio::test]
async fn the_budgets_of_a_file_behave() {
    run(conformance::budget::cases(), &[], in_a_file).await;
}

#[tokio::test]
async fn the_budgets_in_memory_behave() {
    run(conformance::budget::cases(), &[], in_memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_behave_on_several_threads() {
    run(conformance::budget::cases(), &[], in_memory).await;
    run(conformance::store::cases(), &[], in_memory).await;
    run(conformance::queue::cases(), &[], in_memory).await;
    run(conformance::queue::cases(), &[], in_a_file).await;
}

#[tokio::test]
async fn the_store_in_memory_behaves() {
    run(conformance::store::cases(), &[], in_memory).await;
}

#[tokio::test]
async fn the_queue_in_memory_behaves() {
    run(conformance::queue::cases(), &[], in_memory).await;
}

#[tokio::test]
async fn the_simulated_clock_behaves() {
    let subject = async || {
        let clock = clock();
        ClockSubject { clock: clock.clone(), time: Arc::new(Simulated(clock, None)), unit: UNIT }
    };
    run(conformance::clock::cases(), &[], subject).await;
}

#[tokio::test]
async fn the_system_clock_behaves() {
    let unit = Duration::from_millis(20);
    let subject = async || ClockSubject { clock: Arc::new(SystemClock), time: Arc::new(Real), unit };
    run(conformance::clock::cases(), &[], subject).await;
}
