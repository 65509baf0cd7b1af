//! An App's installations and their tokens: looked up, made and renewed when they are needed.
//!
//! octocrab would do this, too, but behind the call that needs the token: a failure would not tell whether
//! that call was sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::OctocrabTransport;
use crate::domain::{Scope, Secret, later};
use crate::rest::models::Installation;
use crate::rest::{TransportError, installation_path};

/// How long before its end a token is renewed: no call takes as long.
const MARGIN: Duration = Duration::from_mins(2);

/// The installations of an App, by the account that they are on.
pub(super) struct Installations {
    fixed: Option<u64>,
    by_account: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Known>>>>,
}

/// What is known of one installation. Whoever needs the token waits for the one who gets it, so that a
/// hundred calls at once make one token: that is why the lock is held while GitHub is asked.
#[derive(Default)]
struct Known {
    installation: Option<u64>,
    token: Option<Token>,
}

#[derive(Deserialize)]
struct Token {
    token: Secret,
    expires_at: Timestamp,
}

impl Installations {
    pub(super) fn new(fixed: Option<u64>) -> Self {
        Self { fixed, by_account: Mutex::default() }
    }

    /// Names the account whose installation serves a scope.
    pub(super) fn account(&self, scope: &Scope) -> String {
        match (self.fixed, scope) {
            (Some(installation), _) => format!("installation:{installation}"),
            (None, Scope::Organization(name)) => format!("account:{name}"),
            (None, Scope::Repository(repository)) => {
                format!("account:{}", repository.owner().to_ascii_lowercase())
            }
            (None, Scope::Enterprise(slug)) => format!("enterprise:{slug}"),
        }
    }

    /// A token for a scope that is good for a while.
    pub(super) async fn token(
        &self,
        transport: &OctocrabTransport,
        scope: &Scope,
        deadline: Timestamp,
    ) -> Result<Secret, TransportError> {
        let known = self.known(scope);
        let mut known = known.lock().await;
        let now = transport.clock.now();
        if let Some(token) = known.token.as_ref().filter(|token| token.expires_at > later(now, MARGIN)) {
            return Ok(token.token.clone());
        }
        let installation = match self.fixed.or(known.installation) {
            Some(installation) => installation,
            None => ask::<Installation>(transport, get(&installation_path(scope)), deadline).await?.id,
        };
        known.installation = Some(installation);
        let made = ask::<Token>(transport, post_for_token(installation), deadline).await;
        if matches!(&made, Err(TransportError::Refused(answer)) if answer.status() == StatusCode::NOT_FOUND) {
            // It was uninstalled; where it was installed again, it has another number.
            known.installation = None;
        }
        let token = known.token.insert(made?);
        Ok(token.token.clone())
    }

    /// Forgets a token that GitHub does not take, unless another has taken its place.
    pub(super) async fn forget(&self, scope: &Scope, refused: &Secret) {
        let known = self.known(scope);
        let mut known = known.lock().await;
        known.token = known.token.take().filter(|kept| kept.token.expose() != refused.expose());
    }

    fn known(&self, scope: &Scope) -> Arc<tokio::sync::Mutex<Known>> {
        let mut all = self.by_account.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(self.account(scope)).or_default())
    }
}

fn get(path: &str) -> Request<Bytes> {
    Request::get(path).body(Bytes::new()).expect("the names in a scope fit into a path")
}

fn post_for_token(installation: u64) -> Request<Bytes> {
    let path = format!("/app/installations/{installation}/access_tokens");
    Request::post(path).body(Bytes::new()).expect("a number fits into a path")
}

/// Asks as the App for what a call needs before it can be sent.
async fn ask<T: DeserializeOwned>(
    transport: &OctocrabTransport,
    request: Request<Bytes>,
    deadline: Timestamp,
) -> Result<T, TransportError> {
    let answer: Response<Bytes> = match transport.send_with(None, request, deadline).await {
        Ok(answer) if answer.status().is_success() => answer,
        Ok(refusal) => return Err(TransportError::Refused(Box::new(refusal))),
        // However this one ended, the call that needs the answer was not sent.
        Err(why) => return Err(TransportError::NotSent(why.into())),
    };
    serde_json::from_slice(answer.body()).map_err(|why| TransportError::NotSent(why.into()))
}
