//! The storages that are held against the reference.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager_core::clock::{Clock, SimulatedClock, SystemClock};
use runner_manager_core::domain::OperationId;
use runner_manager_core::embedded::{EmbeddedStorage, Snapshot};
use runner_manager_core::manager::Storage;
use runner_manager_core::random::SystemRandom;
use runner_manager_core::redis::{RedisSettings, RedisStorage};
use runner_manager_core::store::{Change, Store, Write};
use tempfile::TempDir;

use crate::operations::Times;
use crate::redis_server::RedisServer;

/// A fresh storage whose word is trusted.
#[async_trait]
pub(crate) trait Subject: Debug + Send {
    /// The storage as it is now.
    fn storage(&self) -> Storage;

    /// Which times it can be asked for. With [`Times::Any`] it tells the time of a simulated clock.
    fn times(&self) -> Times;

    /// Ends when so much time has passed for the storage.
    async fn pass(&mut self, by: Duration);

    /// Whether a loss, or a process that begins anew, also takes what was asked of those outside.
    fn forgets_calls(&self) -> bool;

    /// Begins the process anew that has the storage for itself, where one process has.
    async fn reopen(&mut self) -> bool {
        false
    }

    /// Notes what there is, where that can be brought back.
    async fn remember(&mut self) -> bool {
        false
    }

    /// Loses what came after the last note or, where there is none, all; and forgets the note. Where that can
    /// happen.
    async fn lose(&mut self) -> bool {
        false
    }
}

fn clock() -> Arc<SimulatedClock> {
    Arc::new(SimulatedClock::new(Timestamp::from_second(1_700_000_000).unwrap()))
}

/// Embedded in memory.
#[derive(Debug)]
pub(crate) struct InMemory {
    clock: Arc<SimulatedClock>,
    storage: Arc<EmbeddedStorage>,
    noted: Option<Snapshot>,
}

impl InMemory {
    pub(crate) fn new() -> Self {
        let clock = clock();
        Self { storage: Arc::new(EmbeddedStorage::in_memory(clock.clone())), clock, noted: None }
    }
}

#[async_trait]
impl Subject for InMemory {
    fn storage(&self) -> Storage {
        self.storage.clone().into()
    }

    fn times(&self) -> Times {
        Times::Any
    }

    async fn pass(&mut self, by: Duration) {
        self.clock.advance(by);
    }

    fn forgets_calls(&self) -> bool {
        false
    }

    async fn remember(&mut self) -> bool {
        self.noted = self.storage.snapshot();
        true
    }

    async fn lose(&mut self) -> bool {
        self.storage.lose(self.noted.take());
        true
    }
}

/// Embedded in a file.
#[derive(Debug)]
pub(crate) struct InAFile {
    clock: Arc<SimulatedClock>,
    storage: Option<Arc<EmbeddedStorage>>,
    directory: TempDir,
}

impl InAFile {
    pub(crate) fn new() -> Self {
        let mut file = Self { clock: clock(), storage: None, directory: tempfile::tempdir().unwrap() };
        file.open();
        file
    }

    fn open(&mut self) {
        self.storage = None;
        let path = self.directory.path().join("storage");
        self.storage = Some(Arc::new(EmbeddedStorage::open(path, self.clock.clone()).unwrap()));
    }
}

#[async_trait]
impl Subject for InAFile {
    fn storage(&self) -> Storage {
        self.storage.clone().unwrap().into()
    }

    fn times(&self) -> Times {
        Times::Any
    }

    async fn pass(&mut self, by: Duration) {
        self.clock.advance(by);
    }

    fn forgets_calls(&self) -> bool {
        true
    }

    async fn reopen(&mut self) -> bool {
        self.open();
        true
    }
}

/// On a Redis server, under a prefix of its own.
#[derive(Debug)]
pub(crate) struct OnRedis {
    server: Arc<Mutex<RedisServer>>,
    storage: Arc<RedisStorage>,
}

impl OnRedis {
    pub(crate) async fn new(server: Arc<Mutex<RedisServer>>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let prefix = format!("rm:{{{}}}", COUNT.fetch_add(1, Ordering::Relaxed));
        let settings = RedisSettings::new(&server.lock().unwrap().url(), &prefix).unwrap();
        let opened = RedisStorage::open(settings, Arc::new(SystemClock), Arc::new(SystemRandom)).await;
        let storage = Arc::new(opened.unwrap());
        let incarnation = storage.deployment().await.unwrap().incarnation;
        let trust = Write {
            operation: OperationId::new("trust"),
            claim: None,
            ends_claim: false,
            on_trust: false,
            changes: vec![Change::Trust { incarnation }],
            tasks: Vec::new(),
        };
        storage.apply(trust).await.unwrap();
        Self { server, storage }
    }
}

#[async_trait]
impl Subject for OnRedis {
    fn storage(&self) -> Storage {
        self.storage.clone().into()
    }

    fn times(&self) -> Times {
        Times::ClearCut
    }

    async fn pass(&mut self, by: Duration) {
        SystemClock.sleep(by).await;
    }

    fn forgets_calls(&self) -> bool {
        true
    }

    async fn lose(&mut self) -> bool {
        const PAUSE: Duration = Duration::from_millis(10);
        self.server.lock().unwrap().restart_empty();
        for _ in 0..1000 {
            if self.storage.ready().await.is_ok() {
                return true;
            }
            SystemClock.sleep(PAUSE).await;
        }
        panic!("the storage does not work again: {:?}", self.storage.ready().await);
    }
}
