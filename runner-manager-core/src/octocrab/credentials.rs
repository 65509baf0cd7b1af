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
use super::app::App;
use crate::domain::{Scope, Secret, later};
use crate::rest::models::Installation;
use crate::rest::{TransportError, asks_to_wait, installation_path, owner};

/// How long before its end a token is renewed, at least: as long as a call may take, where that is longer.
const MARGIN: Duration = Duration::from_mins(2);

/// How long GitHub is not asked again for a token that it refused.
const REFUSAL_HOLDS: Duration = Duration::from_secs(30);

/// An App with its installations, by the account that they are on.
pub(super) struct Installations {
    pub(super) app: App,
    fixed: Option<u64>,
    by_account: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Known>>>>,
}

/// What is known of one installation. Whoever needs the token waits for the one who gets it, so that a
/// hundred calls at once make one token: that is why the lock is held while GitHub is asked.
#[derive(Default)]
struct Known {
    installation: Option<u64>,
    token: Option<Token>,
    refused: Option<Refused>,
}

/// GitHub gave no token, and why.
struct Refused {
    answer: Response<Bytes>,
    at: Timestamp,
}

#[derive(Deserialize)]
struct Token {
    token: Secret,
    expires_at: Timestamp,
}

impl Installations {
    pub(super) fn new(app: App, fixed: Option<u64>) -> Self {
        Self { app, fixed, by_account: Mutex::default() }
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
        let needed_until = later(self.app.time_at_github(now), MARGIN.max(transport.limits.call_timeout));
        if let Some(token) = known.token.as_ref().filter(|token| token.expires_at > needed_until) {
            return Ok(token.token.clone());
        }
        if let Some(refused) = known.refused.as_ref().filter(|refused| later(refused.at, REFUSAL_HOLDS) > now)
        {
            return Err(self.refusal(scope, refused.answer.clone()));
        }
        match self.make(transport, &mut known, scope, deadline).await {
            Ok(token) => {
                if known.refused.take().is_some() {
                    tracing::info!(app = self.app.id, %scope, "GitHub gives the App tokens again");
                }
                Ok(known.token.insert(token).token.clone())
            }
            Err(Failure::Answer(answer)) => {
                let error = self.refusal(scope, answer.clone());
                if is_lasting(&answer, now) {
                    if known.refused.is_none() {
                        tracing::warn!(app = self.app.id, %scope, %error, "GitHub gives the App no token");
                    }
                    known.refused = Some(Refused { answer, at: transport.clock.now() });
                }
                Err(error)
            }
            Err(Failure::None(error)) => Err(error),
        }
    }

    /// Makes a token of the installation. One that was uninstalled and installed again has another number.
    async fn make(
        &self,
        transport: &OctocrabTransport,
        known: &mut Known,
        scope: &Scope,
        deadline: Timestamp,
    ) -> Result<Token, Failure> {
        if let Some(installation) = self.fixed.or(known.installation) {
            match self.ask(transport, post_for_token(installation), deadline).await {
                Err(Failure::Answer(answer))
                    if self.fixed.is_none() && answer.status() == StatusCode::NOT_FOUND => {}
                made => return made,
            }
        }
        known.installation = None;
        let found: Installation = self.ask(transport, get(&installation_path(scope)), deadline).await?;
        known.installation = Some(found.id);
        self.ask(transport, post_for_token(found.id), deadline).await
    }

    /// Asks as the App for what a call needs before it can be sent.
    async fn ask<T: DeserializeOwned>(
        &self,
        transport: &OctocrabTransport,
        request: Request<Bytes>,
        deadline: Timestamp,
    ) -> Result<T, Failure> {
        match transport.send_as_app(&self.app, request, deadline).await {
            Ok(answer) if answer.status().is_success() => serde_json::from_slice(answer.body())
                .map_err(|why| Failure::None(TransportError::NotSent(why.into()))),
            Ok(refusal) => Err(Failure::Answer(refusal)),
            Err(held @ TransportError::Held { .. }) => Err(Failure::None(held)),
            // However this one ended, the call that needs the answer was not sent.
            Err(why) => Err(Failure::None(TransportError::NotSent(why.into()))),
        }
    }

    /// Forgets a token that GitHub does not take, unless another has taken its place.
    pub(super) async fn forget(&self, scope: &Scope, refused: &Secret) {
        let known = self.known(scope);
        let mut known = known.lock().await;
        known.token = known.token.take().filter(|kept| kept.token.expose() != refused.expose());
    }

    /// The error for a call that an answer to another one keeps from being sent.
    fn refusal(&self, scope: &Scope, answer: Response<Bytes>) -> TransportError {
        TransportError::Refused { app: self.app.id, account: owner(scope), answer: Box::new(answer) }
    }

    fn known(&self, scope: &Scope) -> Arc<tokio::sync::Mutex<Known>> {
        let mut all = self.by_account.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(owner(scope)).or_default())
    }
}

/// Why there is no answer of success.
enum Failure {
    /// GitHub refused.
    Answer(Response<Bytes>),
    /// There is no answer at all.
    None(TransportError),
}

/// Whether a refusal holds until somebody at GitHub does something about it.
fn is_lasting(answer: &Response<Bytes>, now: Timestamp) -> bool {
    let refused = matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::FORBIDDEN);
    refused && asks_to_wait(answer, now).is_none()
}

fn get(path: &str) -> Request<Bytes> {
    Request::get(path).body(Bytes::new()).expect("the names in a scope fit into a path")
}

fn post_for_token(installation: u64) -> Request<Bytes> {
    let path = format!("/app/installations/{installation}/access_tokens");
    Request::post(path).body(Bytes::new()).expect("a number fits into a path")
}
