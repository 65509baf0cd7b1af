//! The [simulator](super::simulator) in this process, as what the manager's GitHub adapter talks to and as
//! what a conformance case can arrange.
//!
//! No socket and no thread: a request is a function call, what takes time is waited for by the clock, and a
//! lost reply is an error. So a simulated manager runs through the very adapter that it has in production.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::simulator::{DEFAULT_TOKEN, Simulator};
use crate::clock::{Clock, TimedOut};
use crate::domain::Scope;
use crate::rest::{As, Transport, TransportError, installation_path, owner};

/// How long an answer may be held back until the transport gives it up, as the real one does.
const PATIENCE: Duration = Duration::from_mins(1);

/// A simulator that several hold at once.
pub type SharedSimulator = Arc<Mutex<Simulator>>;

/// Sends requests to a simulator in this process.
pub struct SimulatorTransport {
    simulator: SharedSimulator,
    clock: Arc<dyn Clock>,
    app: Option<u64>,
    /// The App's tokens by account, and until when each is good.
    tokens: Mutex<BTreeMap<String, (String, Timestamp)>>,
}

impl fmt::Debug for SimulatorTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatorTransport").field("app", &self.app).finish_non_exhaustive()
    }
}

/// The connection broke after the request was sent.
#[derive(Debug, thiserror::Error)]
#[error("the simulator lost the reply")]
struct ReplyLost;

impl SimulatorTransport {
    /// A transport that works with [`DEFAULT_TOKEN`].
    pub fn new(simulator: SharedSimulator, clock: Arc<dyn Clock>) -> Self {
        Self { simulator, clock, app: None, tokens: Mutex::default() }
    }

    /// A transport that works as the App of this id, which the simulator's settings must have.
    pub fn app(simulator: SharedSimulator, clock: Arc<dyn Clock>, id: u64) -> Self {
        Self { app: Some(id), ..Self::new(simulator, clock) }
    }

    async fn exchange(
        &self,
        token: &str,
        mut request: Request<Bytes>,
    ) -> Result<Response<Bytes>, TransportError> {
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("tokens are plain text");
        request.headers_mut().insert(AUTHORIZATION, bearer);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("runner-manager"));
        let answer = lock(&self.simulator).handle(&request, self.clock.now());
        if !answer.latency.is_zero() {
            // Not a sleep of no time: a simulated clock ends none before it is moved.
            self.clock.sleep(answer.latency.min(PATIENCE)).await;
        }
        if answer.latency > PATIENCE {
            return Err(TransportError::Unclear(TimedOut(PATIENCE).into()));
        }
        if answer.reply_lost {
            return Err(TransportError::Unclear(ReplyLost.into()));
        }
        Ok(answer.response)
    }

    /// The token of the App's installation for a scope, made anew when it is about to end.
    async fn installation_token(&self, app: u64, scope: &Scope) -> Result<String, TransportError> {
        let (account, now) = (owner(scope), self.clock.now());
        let kept = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&account).cloned();
        if let Some((token, _)) = kept.filter(|(_, until)| *until > now) {
            return Ok(token);
        }
        let found = self.ask_as_app(app, &account, Request::get(installation_path(scope))).await?;
        let path = format!("/app/installations/{}/access_tokens", found["id"]);
        let made = self.ask_as_app(app, &account, Request::post(path)).await?;
        let token = made["token"].as_str().unwrap_or_default().to_owned();
        let until = made["expires_at"].as_str().and_then(|at| at.parse().ok()).unwrap_or(now);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(account, (token.clone(), until));
        Ok(token)
    }

    async fn ask_as_app(
        &self,
        app: u64,
        account: &str,
        request: http::request::Builder,
    ) -> Result<Value, TransportError> {
        let request = request.body(Bytes::new()).expect("scopes and numbers fit into a path");
        let sent = self.exchange(&self.web_token(app), request).await;
        let answer = sent.map_err(|why| TransportError::NotSent(why.into()))?;
        if !answer.status().is_success() {
            let (account, answer) = (account.to_owned(), Box::new(answer));
            return Err(TransportError::Refused { app, account, answer });
        }
        serde_json::from_slice(answer.body()).map_err(|why| TransportError::NotSent(why.into()))
    }

    /// The App's web token. The simulator does not verify its signature.
    fn web_token(&self, app: u64) -> String {
        let now = self.clock.now().as_second();
        let claims = json!({"iss": app, "iat": now - 60, "exp": now + 540}).to_string();
        format!("simulated.{}.unsigned", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }
}

#[async_trait]
impl Transport for SimulatorTransport {
    async fn send(&self, who: As<'_>, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        match (self.app, who) {
            (None, As::App) => Err(TransportError::NoApp),
            (None, As::Scope(_)) => self.exchange(DEFAULT_TOKEN, request).await,
            (Some(app), As::App) => self.exchange(&self.web_token(app), request).await,
            (Some(app), As::Scope(scope)) => {
                let token = self.installation_token(app, scope).await?;
                self.exchange(&token, request).await
            }
        }
    }

    fn app(&self) -> Option<u64> {
        self.app
    }

    fn account(&self, who: As<'_>) -> String {
        match (self.app, who) {
            (None, _) => "token".to_owned(),
            (Some(app), As::App) => format!("app:{app}"),
            (Some(app), As::Scope(scope)) => format!("app:{app}/{}", owner(scope)),
        }
    }
}

pub(crate) fn lock(simulator: &SharedSimulator) -> MutexGuard<'_, Simulator> {
    simulator.lock().unwrap_or_else(PoisonError::into_inner)
}
