//! The [`Transport`] to the real GitHub, on the octocrab crate.
//!
//! It owns the address, the connection, the time-outs and the credentials. It knows nothing of what is asked:
//! octocrab's own models, pages, retries and redirects are not used, since each of them would hide an outcome
//! that the manager must know (a JIT config that is sent twice is a registration that nobody owns).
//!
//! No type of octocrab is in the interface, so that another version of it changes nothing outside.

mod app;
mod client;
mod credentials;
mod settings;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::octocrab::Octocrab;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::LOCATION;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;

use self::app::App;
use self::credentials::Installations;
use self::settings::check_token;
pub use self::settings::{Credentials, OctocrabSettings, ProxySettings, SettingsError};
use crate::clock::{Clock, TimedOut, timeout};
use crate::domain::{Fingerprint, Scope, Secret};
use crate::rest::{As, Transport, TransportError, owner};

/// The most redirects that one GET follows: a repository that was renamed, and its owner, too.
const MOST_REDIRECTS: usize = 3;

/// The transport to GitHub.
pub struct OctocrabTransport {
    crab: Octocrab,
    api_url: String,
    access: Access,
    /// The words for whose calls GitHub counts, up to the App's account.
    counted: String,
    limits: Limits,
    clock: Arc<dyn Clock>,
}

enum Access {
    Token(Secret),
    App(Installations),
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    call_timeout: Duration,
    answer_limit: usize,
}

impl fmt::Debug for OctocrabTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OctocrabTransport")
            .field("api_url", &self.api_url)
            .field("app", &self.app())
            .finish_non_exhaustive()
    }
}

impl OctocrabTransport {
    /// A transport by these settings. Nothing is sent yet. It must be called inside a tokio runtime, in which
    /// octocrab keeps a task that ends with the transport.
    ///
    /// # Errors
    /// [`SettingsError`] when an address is none, or the credentials or certificates cannot be used.
    pub fn new(settings: OctocrabSettings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        let api_url = settings.checked_url()?;
        let crab = client::build(&api_url, &settings)?;
        let limits = Limits { call_timeout: settings.call_timeout, answer_limit: settings.answer_limit };
        let (access, word) = match settings.credentials {
            Credentials::Token(token) => {
                check_token(&token)?;
                let word = format!("token:{}", Fingerprint::of(&token).as_str());
                (Access::Token(token), word)
            }
            Credentials::App { id, private_key, installation } => {
                let app = App::new(id, &private_key)?;
                (Access::App(Installations::new(app, installation)), format!("app:{id}"))
            }
        };
        let counted = format!("{}/{word}", host(&api_url));
        Ok(Self { crab, api_url, access, counted, limits, clock })
    }

    /// Sends a request with a token.
    async fn send_with(
        &self,
        token: &Secret,
        request: Request<Bytes>,
        deadline: Timestamp,
    ) -> Result<Response<Bytes>, TransportError> {
        let client = self.crab.user_access_token(token.expose()).map_err(not_sent)?;
        let exchange = self.exchange(&client, request);
        let left = deadline.duration_since(self.clock.now()).try_into().unwrap_or(Duration::ZERO);
        timeout(&*self.clock, left, exchange)
            .await
            .map_err(|_| TransportError::Unclear(TimedOut(self.limits.call_timeout).into()))?
    }

    /// Sends a request with the token of an installation.
    async fn send_as_installation(
        &self,
        installations: &Installations,
        scope: &Scope,
        request: Request<Bytes>,
        deadline: Timestamp,
    ) -> Result<Response<Bytes>, TransportError> {
        let mut tries = 2;
        loop {
            let token = installations.token(self, scope, deadline).await?;
            let answer = self.send_with(&token, request.clone(), deadline).await?;
            tries -= 1;
            // The token was ended before its time. A request that was refused for its credentials had no effect,
            // so that it may be sent once more with new ones.
            if answer.status() != StatusCode::UNAUTHORIZED || tries == 0 {
                return Ok(answer);
            }
            installations.forget(scope, &token).await;
        }
    }

    /// One exchange, and those that redirects of a GET add to it.
    async fn exchange(
        &self,
        client: &Octocrab,
        mut request: Request<Bytes>,
    ) -> Result<Response<Bytes>, TransportError> {
        for _ in 0..MOST_REDIRECTS {
            let answer = self.exchange_once(client, request.clone()).await?;
            match self.target(&request, &answer) {
                Some(target) => *request.uri_mut() = target,
                None => return Ok(answer),
            }
        }
        self.exchange_once(client, request).await
    }

    async fn exchange_once(
        &self,
        client: &Octocrab,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, TransportError> {
        let (head, body) = client.execute(request).await.map_err(unanswered)?.into_parts();
        let limit = self.limits.answer_limit;
        let body = Limited::new(body, limit).collect().await.map_err(|why| {
            if why.is::<LengthLimitError>() {
                TransportError::TooLarge { limit }
            } else {
                TransportError::Unclear(why)
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    /// Where a GET is redirected to, if that is a place of the same API: nobody else gets our credentials.
    fn target(&self, request: &Request<Bytes>, answer: &Response<Bytes>) -> Option<http::Uri> {
        let moved = matches!(
            answer.status(),
            StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
        );
        let location = answer.headers().get(LOCATION).filter(|_| moved && request.method() == Method::GET)?;
        let path = location.to_str().ok()?.strip_prefix(&self.api_url)?;
        path.starts_with('/').then(|| path.parse().ok()).flatten()
    }
}

#[async_trait]
impl Transport for OctocrabTransport {
    async fn send(&self, who: As<'_>, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let deadline = crate::domain::later(self.clock.now(), self.limits.call_timeout);
        match (&self.access, who) {
            (Access::Token(token), As::Scope(_)) => self.send_with(token, request, deadline).await,
            (Access::Token(_), As::App) => Err(TransportError::NoApp),
            (Access::App(of), As::App) => self.send_as_app(&of.app, request, deadline).await,
            (Access::App(of), As::Scope(scope)) => {
                self.send_as_installation(of, scope, request, deadline).await
            }
        }
    }

    fn app(&self) -> Option<u64> {
        match &self.access {
            Access::Token(_) => None,
            Access::App(installations) => Some(installations.app.id),
        }
    }

    fn account(&self, who: As<'_>) -> String {
        match (&self.access, who) {
            (Access::App(_), As::Scope(scope)) => format!("{}/{}", self.counted, owner(scope)),
            (Access::Token(_), _) | (Access::App(_), As::App) => self.counted.clone(),
        }
    }
}

/// The host of an address, which was checked, with its port where it has one.
fn host(api_url: &str) -> &str {
    let behind = api_url.split_once("://").map_or(api_url, |(_, rest)| rest);
    behind.split('/').next().unwrap_or(behind)
}

fn not_sent(why: ::octocrab::Error) -> TransportError {
    TransportError::NotSent(inner(why))
}

/// A request for which there was no connection was not sent; all else may have been.
fn unanswered(why: ::octocrab::Error) -> TransportError {
    let why = inner(why);
    let client = why.downcast_ref::<hyper_util::client::legacy::Error>();
    if client.is_some_and(hyper_util::client::legacy::Error::is_connect) {
        TransportError::NotSent(why)
    } else {
        TransportError::Unclear(why)
    }
}

/// What is behind octocrab's error, which itself adds a backtrace to its text.
fn inner(why: ::octocrab::Error) -> Box<dyn Error + Send + Sync> {
    match why {
        ::octocrab::Error::Service { source, .. } => source,
        other => other.into(),
    }
}
