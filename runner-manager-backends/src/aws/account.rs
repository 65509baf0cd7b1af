//! For whom EC2 counts calls: for an account, in each region by itself.
//!
//! It asks STS once whose the credentials are, which any credentials may. What is bounded for whom is the manager's
//! affair, and what it does as long as nobody tells.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::later;
use tokio::sync::OnceCell;

use super::connection::Connection;
use super::errors::Failure;

/// For how long STS is not asked again after it did not tell, as where there is no way to it: each try holds a create up.
const ASKED_AGAIN: Duration = Duration::from_mins(5);

/// Whose the credentials are, as far as it is known.
#[derive(Debug)]
pub(super) struct Account {
    clock: Arc<dyn Clock>,
    word: OnceCell<String>,
    /// When STS may be asked next.
    next_try: Mutex<Timestamp>,
}

/// STS did not tell.
#[derive(Debug)]
struct NotTold;

impl Account {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, word: OnceCell::new(), next_try: Mutex::new(Timestamp::MIN) }
    }

    /// The word for account and region; none where STS does not tell. Those who come while it is asked wait for the one
    /// answer.
    pub(super) async fn word(&self, connection: &Connection) -> Option<String> {
        self.word.get_or_try_init(|| self.ask(connection)).await.ok().cloned()
    }

    async fn ask(&self, connection: &Connection) -> Result<String, NotTold> {
        if self.clock.now() < *self.next_try.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(NotTold);
        }
        let answer = connection.sts.get_caller_identity().send().await.map_err(Failure::from);
        let told = answer.map(|identity| identity.account().map(str::to_owned));
        let region = &connection.region;
        match told {
            Ok(Some(account)) => return Ok(format!("aws:{account}:{region}")),
            Ok(None) => tracing::warn!(region, "STS does not tell whose the credentials are"),
            Err(failure) => tracing::warn!(region, %failure, "it is not known whose the credentials are"),
        }
        let next = later(self.clock.now(), ASKED_AGAIN);
        *self.next_try.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Err(NotTold)
    }
}
