//! How a machine reaches the manager: the calls of the start scripts, each on a connection of its own, as curl makes them.
//!
//! Their contract stands with the scripts, in the module `bootstrap` of `runner-manager-backends`. What is said when is the
//! [machine](super::machine)'s affair.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use runner_manager_core::domain::{RunnerName, Secret};
use runner_manager_core::random::{Random, SystemRandom};
use tokio::sync::Semaphore;

use crate::http_face::local_builder;

/// How long one call may take, and its connection: as the scripts have it.
const CALL_WITHIN: Duration = Duration::from_secs(20);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How many calls are on their way at once, of all machines that are played: each has a file open.
const AT_ONCE: usize = 512;

/// What the manager answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// What was asked for, or that it was taken in.
    Given(String),
    /// No, whatever is said again.
    Refused(u16),
    /// Nothing, or nothing for now.
    Again,
}

impl Answer {
    /// Whether the manager holds the machine's runner for taken away.
    pub(super) const fn is_gone(&self) -> bool {
        matches!(self, Self::Refused(410))
    }
}

/// By which any number of machines call managers on the loopback interface, and which counts what they are answered.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    client: reqwest::Client,
    slots: Arc<Semaphore>,
    answers: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Line {
    /// One that nobody has called by.
    ///
    /// # Errors
    /// When no client can be made.
    pub(crate) fn new() -> reqwest::Result<Self> {
        let client = local_builder().pool_max_idle_per_host(0);
        let client = client.connect_timeout(CONNECT_WITHIN).timeout(CALL_WITHIN).build()?;
        Ok(Self { client, slots: Arc::new(Semaphore::new(AT_ONCE)), answers: Arc::default() })
    }

    /// How often which call had which answer: `heartbeat 200`, and `heartbeat none` for those without one.
    pub(crate) fn answers(&self) -> BTreeMap<String, u64> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, what: &str, status: Option<u16>) {
        let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry(format!("{what} {status}")).or_default() += 1;
    }
}

/// The calls of one start of one machine.
#[derive(Debug)]
pub(crate) struct Calls {
    /// What stands before the last part of each path.
    base: String,
    token: Secret,
    /// The random word of this start.
    boot: Secret,
    line: Line,
}

impl Calls {
    /// Those of a machine that was just started.
    pub(crate) fn new(line: Line, url: &str, runner: &RunnerName, token: Secret) -> Self {
        let base = format!("{}/bootstrap/v1/runners/{runner}", url.trim_end_matches('/'));
        let boot = Secret::new(format!("{:016x}{:016x}", SystemRandom.next_u64(), SystemRandom.next_u64()));
        Self { base, token, boot, line }
    }

    /// Asks for something: the script, or the JIT config.
    pub(super) async fn ask(&self, what: &str) -> Answer {
        if what == "script" {
            self.send(what, self.line.client.get(format!("{}/{what}", self.base))).await
        } else {
            self.say(what, &[]).await
        }
    }

    /// Says something.
    pub(super) async fn say(&self, what: &str, fields: &[(&str, &str)]) -> Answer {
        let boot = [("boot", self.boot.expose())];
        let fields = boot.iter().chain(fields);
        let form: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.line.client.post(format!("{}/{what}", self.base)).body(form);
        self.send(what, request.header(CONTENT_TYPE, "application/x-www-form-urlencoded")).await
    }

    async fn send(&self, what: &str, request: RequestBuilder) -> Answer {
        let _slot = self.line.slots.acquire().await.expect("the slots are never closed");
        let answered = async {
            let answer = request.bearer_auth(self.token.expose()).send().await?;
            Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.text().await?))
        };
        let answered = answered.await;
        self.line.count(what, answered.as_ref().ok().map(|(status, _)| *status));
        match answered {
            Ok((200..=399, text)) => Answer::Given(text),
            Ok((408 | 425 | 429, _)) => Answer::Again,
            Ok((status @ 400..=499, _)) => Answer::Refused(status),
            Ok(_) => Answer::Again,
            Err(error) => {
                tracing::debug!(error = %error.without_url(), "the manager does not answer");
                Answer::Again
            }
        }
    }
}
