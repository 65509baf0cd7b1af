//! The connections to a Redis: scripts on a shared one, waiting on connections of their own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use ::redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind, Value, cmd};

use super::settings::RedisSettings;
use crate::store::StoreError;

/// A script with the hash that a server knows it by.
#[derive(Debug)]
pub(super) struct Script {
    /// What it is called, for messages.
    pub(super) name: &'static str,
    /// What it says.
    pub(super) text: String,
    /// The hash of that.
    pub(super) sha: String,
}

impl Script {
    /// The script that the parts make one after the other.
    pub(super) fn new(name: &'static str, parts: &[&str]) -> Self {
        let text = parts.concat();
        let sha = ::redis::Script::new(&text).get_hash().to_owned();
        Self { name, text, sha }
    }
}

/// The connections to one Redis.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

struct Shared {
    client: Client,
    connection: ConnectionManager,
    waiting: Mutex<Vec<MultiplexedConnection>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

fn unavailable(source: RedisError) -> StoreError {
    StoreError::Unavailable("Redis cannot be used".to_owned(), Some(Box::new(source)))
}

impl Link {
    /// Connects to a Redis.
    pub(super) async fn connect(settings: &RedisSettings) -> Result<Self, StoreError> {
        let client = Client::open(settings.url.expose()).map_err(unavailable)?;
        let config = ConnectionManagerConfig::new().set_response_timeout(Some(Duration::from_secs(5)));
        let connection = client.get_connection_manager_with_config(config).await.map_err(unavailable)?;
        Ok(Self(Arc::new(Shared { client, connection, waiting: Mutex::default() })))
    }

    /// Runs a script that may write. A lost answer is `Unclear`.
    pub(super) async fn run(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
    ) -> Result<Value, StoreError> {
        self.call(script, keys, args).await.map_err(|source| {
            if source.is_timeout() || source.is_connection_dropped() {
                StoreError::Unclear(script.name.to_owned(), Some(Box::new(source)))
            } else {
                unavailable(source)
            }
        })
    }

    /// Runs a script that only reads.
    pub(super) async fn read(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
    ) -> Result<Value, StoreError> {
        self.call(script, keys, args).await.map_err(unavailable)
    }

    async fn call(&self, script: &Script, keys: &[&str], args: &[&[u8]]) -> Result<Value, RedisError> {
        let mut connection = self.0.connection.clone();
        let mut call = cmd("EVALSHA");
        call.arg(&script.sha).arg(keys.len()).arg(keys).arg(args);
        match call.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut call = cmd("EVAL");
                call.arg(&script.text).arg(keys.len()).arg(keys).arg(args);
                call.query_async(&mut connection).await
            }
            answer => answer,
        }
    }

    /// Waits until something is pushed to a list, and takes it; false when the time is over.
    pub(super) async fn wait(&self, key: &str, limit: Duration) -> Result<bool, StoreError> {
        let idle = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let config = AsyncConnectionConfig::new().set_response_timeout(None);
                let connecting = self.0.client.get_multiplexed_async_connection_with_config(&config);
                connecting.await.map_err(unavailable)?
            }
        };
        let seconds = format!("{:.3}", limit.as_secs_f64().max(0.001));
        let answer: Value =
            cmd("BLPOP").arg(key).arg(seconds).query_async(&mut connection).await.map_err(unavailable)?;
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(answer != Value::Nil)
    }
}
