//! The conformance suites.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager_core::clock::{Clock, SimulatedClock, SystemClock};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::testing::conformance;
use runner_manager_core::testing::conformance::clock::ClockSubject;
use runner_manager_core::testing::conformance::storage::{PassTime, StorageSubject};

const UNIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Simulated(Arc<SimulatedClock>);

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

fn subject(make: impl FnOnce(Arc<dyn Clock>) -> EmbeddedStorage) -> StorageSubject {
    let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
    let storage = Arc::new(make(clock.clone()).with_retention(StorageSubject::retention(UNIT)));
    StorageSubject::new(storage.clone(), storage, Arc::new(Simulated(clock)), UNIT)
}

async fn in_memory() -> StorageSubject {
    subject(EmbeddedStorage::in_memory)
}

#[tokio::test]
async fn the_store_in_memory_behaves() {
    conformance::run(conformance::store::cases(), &[], in_memory).await;
}

#[tokio::test]
async fn the_queue_in_memory_behaves() {
    conformance::run(conformance::queue::cases(), &[], in_memory).await;
}

#[tokio::test]
async fn the_simulated_clock_behaves() {
    let subject = async || {
        let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
        ClockSubject { clock: clock.clone(), time: Arc::new(Simulated(clock)), unit: UNIT }
    };
    conformance::run(conformance::clock::cases(), &[], subject).await;
}

#[tokio::test]
async fn the_system_clock_behaves() {
    let unit = Duration::from_millis(20);
    let subject = async || ClockSubject { clock: Arc::new(SystemClock), time: Arc::new(Real), unit };
    conformance::run(conformance::clock::cases(), &[], subject).await;
}
