//! Random sequences of operations on each storage, held against one reference that is plain enough to be right.
//!
//! A sequence that shows a difference is made as short as it can be, and printed. `PROPTEST_CASES` sets the
//! number of sequences, `PROPTEST_RNG_SEED` which.

#![expect(clippy::unwrap_used, reason = "tests panic where a storage does not work")]

mod budget;
mod compare;
mod drive;
mod model;
mod names;
mod operations;
mod queue;
mod records;
#[path = "../support/redis_server.rs"]
mod redis_server;
mod subject;

use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use runner_manager_core::clock::SimulatedClock;
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::manager::Storage;

use drive::{Met, TO_BE_MET};
use operations::{Operation, Times};
use redis_server::RedisServer;
use subject::{InAFile, InMemory, OnRedis, Subject};

/// How long sequences are at most.
const LENGTH: usize = 100;

/// So many sequences come across everything.
const ENOUGH: u32 = 30;

/// Does random sequences on fresh subjects. They have to come across all that sequences do, and across this.
fn behaves<S: Subject>(cases: u32, times: Times, too: &[&str], fresh: impl AsyncFn() -> S) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 3000, ..Config::default() };
    let (met, every) = (Met::default(), Cell::new(8));
    let outcome = TestRunner::new(config).run(&operations::sequence(times, LENGTH), |operations| {
        let run = async || drive::run(&mut fresh().await, &met, every.get(), &operations).await;
        let outcome = runtime.block_on(run());
        // One that fails is made shorter, and then it counts after which operation both differ.
        outcome.map_err(|difference| {
            every.set(1);
            TestCaseError::fail(difference)
        })
    });
    match outcome {
        Ok(()) => {
            let lacks = [met.lacks(&TO_BE_MET), met.lacks(too)].concat();
            assert!(lacks.is_empty() || cases < ENOUGH, "no sequence came across {lacks:?}: {met:?}");
        }
        Err(TestError::Fail(reason, operations)) => {
            // What was made simpler may differ earlier than it did.
            let begins = (1..=operations.len()).map(|length| &operations[..length]);
            let differs = |operations: &&[Operation]| {
                let run = async || drive::run(&mut fresh().await, &met, 1, operations).await;
                runtime.block_on(run()).is_err()
            };
            let shortest = begins.clone().find(differs).unwrap_or(&operations);
            panic!("{}{reason}", told(shortest));
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

fn told(operations: &[Operation]) -> String {
    let mut told = "the storage and the reference differ:\n".to_owned();
    for (at, operation) in operations.iter().enumerate() {
        writeln!(told, "{:3}. {operation:?}", at + 1).unwrap();
    }
    told
}

/// A storage that holds nothing open.
fn nothing() -> Storage {
    let clock = Arc::new(SimulatedClock::new(jiff::Timestamp::UNIX_EPOCH));
    Arc::new(EmbeddedStorage::in_memory(clock)).into()
}

#[test]
fn in_memory_behaves_like_the_reference() {
    behaves(200, Times::Any, &["lost something", "lost all", "untrusted"], async || InMemory::new());
}

#[test]
fn in_a_file_behaves_like_the_reference() {
    behaves(60, Times::Any, &["opened again"], async || InAFile::new());
}

#[test]
fn on_redis_behaves_like_the_reference() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let server = Arc::new(Mutex::new(server));
    let fresh = async || OnRedis::new(Arc::clone(&server)).await;
    behaves(80, Times::ClearCut, &["lost all", "untrusted"], fresh);
}
