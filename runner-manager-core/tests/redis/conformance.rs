//! The conformance suites, in real time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use runner_manager_core::clock::{Clock, SystemClock, timeout};
use runner_manager_core::redis::RedisStorage;
use runner_manager_core::testing::conformance::storage::{KeepsItsWord, LoseWord, PassTime, StorageSubject};
use runner_manager_core::testing::conformance::{self, Case};

use crate::redis_server::RedisServer;
use crate::world::{open, works};

/// Long enough that a few calls take much less on a machine that has much to do.
const UNIT: Duration = Duration::from_millis(300);

/// The cases in which the server dies: they have one of their own.
const WITH_A_SERVER: [&str; 2] = ["the_untrusted_is_not_relied_on", "numbers_outlive_a_loss"];

#[derive(Debug)]
struct Real;

#[async_trait]
impl PassTime for Real {
    async fn pass(&self, by: Duration) {
        SystemClock.sleep(by).await;
    }
}

/// A server that dies when it is told to.
#[derive(Debug)]
struct Dies(Mutex<RedisServer>, Arc<RedisStorage>);

#[async_trait]
impl LoseWord for Dies {
    async fn begin_another_life(&self) {
        self.0.lock().unwrap().restart();
        works(&self.1).await;
    }

    async fn lose_everything(&self) {
        self.0.lock().unwrap().restart_empty();
        works(&self.1).await;
    }
}

async fn storage(server: &RedisServer) -> Arc<RedisStorage> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let deployment = format!("d{}", COUNT.fetch_add(1, Ordering::Relaxed));
    Arc::new(open(server, &deployment).await.with_retention(StorageSubject::retention(UNIT)))
}

async fn subject(server: &RedisServer, case: &str) -> StorageSubject {
    if !WITH_A_SERVER.contains(&case) {
        let storage = storage(server).await;
        return StorageSubject::new(storage.into(), Arc::new(Real), Arc::new(KeepsItsWord), UNIT).await;
    }
    let own = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let storage = storage(&own).await;
    let loss = Dies(Mutex::new(own), Arc::clone(&storage));
    StorageSubject::new(storage.into(), Arc::new(Real), Arc::new(loss), UNIT).await
}

/// Runs the cases beside each other, because they wait most of the time, each under a prefix of its own.
async fn run(cases: Vec<Case<StorageSubject>>) {
    let Some(server) = RedisServer::start(&[]) else { return };
    let all = join_all(cases.into_iter().map(async |case| {
        let name = case.name;
        conformance::run(vec![case], &[], || subject(&server, name)).await
    }));
    let reports = timeout(&SystemClock, Duration::from_mins(3), all).await.unwrap();
    assert!(reports.iter().all(|report| report.passed.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_behaves() {
    run(conformance::store::cases()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_behaves() {
    run(conformance::queue::cases()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budgets_behave() {
    run(conformance::budget::cases()).await;
}
