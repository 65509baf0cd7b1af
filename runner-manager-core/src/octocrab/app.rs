//! Acting as the App itself: its web tokens, and the few calls that they are good for.
//!
//! Web tokens are made here and not by octocrab, which signs by the system's clock: GitHub takes none that
//! seems to be from the future, or older than ten minutes, so a clock that is off would shut us out. How far
//! ours is off stands in each answer.
//!
//! GitHub counts the App's own calls apart from those of its installations. They are few, and made in the
//! middle of others, so that they are guarded here: a few at a time, and none while GitHub wants none.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::octocrab::EncodingKey;
use ::octocrab::jsonwebtoken::{Algorithm, Header, encode};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::OctocrabTransport;
use super::settings::SettingsError;
use crate::domain::{Secret, later};
use crate::rest::{TransportError, asks_to_wait, clocks_apart};

/// How many of the App's own calls may be under way at a time.
const AT_A_TIME: usize = 10;

/// How far in the past a web token begins, and how long it is good from now on. GitHub allows ten minutes:
/// <https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>.
const BEGINS_BEFORE: i64 = 60;
const GOOD_FOR: i64 = 9 * 60;

/// How far clocks may be apart without a word. Answers tell the time in whole seconds, and are on their way for
/// a while.
const TOLERATED: SignedDuration = SignedDuration::from_secs(5);

/// A GitHub App.
pub(super) struct App {
    pub(super) id: u64,
    key: EncodingKey,
    clocks: Clocks,
    slots: Semaphore,
    /// Until when GitHub wants none of its calls.
    held_until: Mutex<Option<Timestamp>>,
}

#[derive(Serialize)]
struct Claims {
    iss: u64,
    iat: i64,
    exp: i64,
}

impl App {
    pub(super) fn new(id: u64, private_key: &Secret) -> Result<Self, SettingsError> {
        let key = EncodingKey::from_rsa_pem(private_key.expose().as_bytes());
        let key = key.map_err(|_| SettingsError::PrivateKey)?;
        Ok(Self {
            id,
            key,
            clocks: Clocks::default(),
            slots: Semaphore::new(AT_A_TIME),
            held_until: Mutex::default(),
        })
    }

    /// The time at GitHub, as far as its answers told.
    pub(super) fn time_at_github(&self, now: Timestamp) -> Timestamp {
        now.checked_add(self.clocks.ahead()).unwrap_or(now)
    }

    fn web_token(&self, now: Timestamp) -> Result<Secret, TransportError> {
        let now = self.time_at_github(now).as_second();
        let claims = Claims { iss: self.id, iat: now - BEGINS_BEFORE, exp: now + GOOD_FOR };
        let token = encode(&Header::new(Algorithm::RS256), &claims, &self.key);
        token.map(Secret::new).map_err(|why| TransportError::NotSent(why.into()))
    }

    fn expect_not_held(&self, now: Timestamp) -> Result<(), TransportError> {
        let held_until = *self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        match held_until.filter(|until| *until > now) {
            Some(until) => {
                let pause = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                Err(TransportError::Held { app: self.id, pause })
            }
            None => Ok(()),
        }
    }

    /// Heeds what an answer says of the App's budget.
    fn heed(&self, answer: &Response<Bytes>, now: Timestamp) {
        if let Some(pause) = asks_to_wait(answer, now) {
            tracing::warn!(app = self.id, ?pause, "GitHub wants none of the App's own calls for a while");
            *self.held_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(later(now, pause));
        }
    }
}

impl OctocrabTransport {
    /// Sends a request as the App itself. One that is refused because our clock is off is sent once more by
    /// GitHub's: it had no effect.
    pub(super) async fn send_as_app(
        &self,
        app: &App,
        request: Request<Bytes>,
        deadline: Timestamp,
    ) -> Result<Response<Bytes>, TransportError> {
        let _slot = app.slots.acquire().await.expect("it is never closed");
        app.expect_not_held(self.clock.now())?;
        let mut tries = 2;
        loop {
            let begun = self.clock.now();
            let answer = self.send_with(&app.web_token(begun)?, request.clone(), deadline).await?;
            let now = self.clock.now();
            let has_moved = app.clocks.compare(&answer, begun, now);
            tries -= 1;
            if answer.status() != StatusCode::UNAUTHORIZED || !has_moved || tries == 0 {
                app.heed(&answer, now);
                return Ok(answer);
            }
        }
    }
}

/// How far GitHub's clock is ahead of ours, in seconds.
#[derive(Debug, Default)]
struct Clocks(AtomicI64);

impl Clocks {
    fn ahead(&self) -> SignedDuration {
        SignedDuration::from_secs(self.0.load(Ordering::Relaxed))
    }

    /// Compares the clocks by an answer to a request that was on its way between two points in time. Says
    /// whether they are further apart, or nearer, than was known.
    fn compare(&self, answer: &Response<Bytes>, begun: Timestamp, now: Timestamp) -> bool {
        let Some(apart) = clocks_apart(answer.headers(), begun, now) else { return false };
        let apart = if apart.abs() <= TOLERATED { SignedDuration::ZERO } else { apart };
        let has_moved = (apart - self.ahead()).abs() > TOLERATED;
        if has_moved {
            self.0.store(apart.as_secs(), Ordering::Relaxed);
            tell(apart);
        }
        has_moved
    }
}

fn tell(apart: SignedDuration) {
    let seconds = apart.as_secs().unsigned_abs();
    if apart.is_zero() {
        tracing::info!("this machine's clock agrees with GitHub's again");
    } else {
        let side = if apart.is_positive() { "behind" } else { "ahead of" };
        tracing::warn!(seconds, "this machine's clock is {side} GitHub's, which counts from now on: set it");
    }
}
