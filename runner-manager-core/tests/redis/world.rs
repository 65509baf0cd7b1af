//! Storages on a server.

use std::sync::Arc;
use std::time::Duration;

use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::random::SystemRandom;
use runner_manager_core::redis::{RedisOpenError, RedisSettings, RedisStorage};
use runner_manager_core::store::Store;

use crate::redis_server::RedisServer;

/// Opens a deployment's storage on a server.
pub(crate) async fn try_open(server: &RedisServer, deployment: &str) -> Result<RedisStorage, RedisOpenError> {
    let settings = RedisSettings::new(&server.url(), &format!("rm:{{{deployment}}}")).unwrap();
    RedisStorage::open(settings, Arc::new(SystemClock), Arc::new(SystemRandom)).await
}

pub(crate) async fn open(server: &RedisServer, deployment: &str) -> RedisStorage {
    try_open(server, deployment).await.unwrap()
}

/// Waits until a storage works.
pub(crate) async fn works(storage: &RedisStorage) {
    for _ in 0..500 {
        if storage.ready().await.is_ok() {
            return;
        }
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
    panic!("the storage does not work again: {:?}", storage.ready().await);
}
