//! How an agent reaches the GitHub simulator: in the same process, or over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::Secret;
use runner_manager_core::retry::Backoff;
use runner_manager_core::testing::simulator::control::{
    Connect, Connected, Finish, Heartbeat, Polled, Refused,
};
use runner_manager_core::testing::simulator::{
    AgentJob, Conclusion, ConnectRefusal, SessionEnded, SessionId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::github_face::SimulatedGitHub;
use crate::http_face::local_client;

/// How long an answer may take, beyond what a poll waits.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a call is tried when nobody answers.
const TRIES: u32 = 6;
const PAUSES: Backoff = Backoff { base: Duration::from_millis(200), ceiling: Duration::from_secs(5) };

/// Why a call of an agent came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// GitHub did not let it in.
    #[error("the agent was refused")]
    Refused(#[source] ConnectRefusal),
    /// Its session is over.
    #[error("the agent's session has ended")]
    Ended,
    /// The JIT config is none of the simulator.
    #[error("the JIT config does not say where the GitHub simulator is")]
    NoAddress,
    /// Nobody answered.
    #[error("the GitHub simulator did not answer")]
    Unreachable(#[source] reqwest::Error),
    /// The answer is none of the simulator's.
    #[error("the GitHub simulator gave an answer that makes no sense, with status {0}")]
    Nonsense(u16),
}

/// What an agent can say to GitHub.
#[async_trait]
pub(crate) trait Link: Send + Sync {
    /// Connects.
    async fn connect(&self, jit_config: &Secret) -> Result<SessionId, LinkError>;
    /// Waits for a job for so long.
    async fn poll(&self, session: SessionId, wait: Duration) -> Result<Option<AgentJob>, LinkError>;
    /// Shows that the job still runs, and hears whether it is to be cancelled.
    async fn heartbeat(&self, session: SessionId) -> Result<bool, LinkError>;
    /// Ends the job.
    async fn finish(&self, session: SessionId, conclusion: Conclusion) -> Result<(), LinkError>;
    /// Signs off.
    async fn disconnect(&self, session: SessionId) -> Result<(), LinkError>;
    /// Falls silent: GitHub hears nothing, and the simulator that the machine is lost.
    async fn die(&self, session: SessionId) -> Result<(), LinkError>;
}

impl From<SessionEnded> for LinkError {
    fn from(_: SessionEnded) -> Self {
        Self::Ended
    }
}

#[async_trait]
impl Link for SimulatedGitHub {
    async fn connect(&self, jit_config: &Secret) -> Result<SessionId, LinkError> {
        self.with(|github, now| github.connect(jit_config.expose(), now)).map_err(LinkError::Refused)
    }

    async fn poll(&self, session: SessionId, wait: Duration) -> Result<Option<AgentJob>, LinkError> {
        Ok(Self::poll(self, session, wait).await?)
    }

    async fn heartbeat(&self, session: SessionId) -> Result<bool, LinkError> {
        Ok(self.with(|github, now| github.heartbeat(session, now))?)
    }

    async fn finish(&self, session: SessionId, conclusion: Conclusion) -> Result<(), LinkError> {
        Ok(self.with(|github, now| github.finish(session, conclusion, now))?)
    }

    async fn disconnect(&self, session: SessionId) -> Result<(), LinkError> {
        Ok(self.with(|github, now| github.disconnect(session, now))?)
    }

    async fn die(&self, session: SessionId) -> Result<(), LinkError> {
        Ok(self.with(|github, now| github.die(session, now))?)
    }
}

/// The way over HTTP, to the simulator's control face. An agent that waits holds a connection.
#[derive(Debug, Clone)]
pub(crate) struct HttpLink {
    base_url: String,
    client: reqwest::Client,
}

impl HttpLink {
    /// The way to the simulator at a URL.
    ///
    /// # Errors
    /// `Unreachable` when no HTTP client can be made.
    pub(crate) fn new(base_url: &str) -> Result<Self, LinkError> {
        let client = local_client().map_err(LinkError::Unreachable)?;
        Ok(Self { base_url: base_url.trim_end_matches('/').to_owned(), client })
    }

    /// The way to the simulator that made a JIT config, as that says.
    ///
    /// # Errors
    /// `NoAddress` when it does not say, or is no JIT config at all.
    pub(crate) fn of(jit_config: &Secret) -> Result<Self, LinkError> {
        let base_url = server_url(jit_config.expose()).ok_or(LinkError::NoAddress)?;
        Self::new(&base_url)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        wait: Duration,
    ) -> Result<T, LinkError> {
        let mut tries = 1;
        loop {
            match self.call_once(path, body, wait).await {
                Err(LinkError::Unreachable(_)) if tries < TRIES => {
                    SystemClock.sleep(PAUSES.pause(tries, 0)).await;
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    async fn call_once<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        wait: Duration,
    ) -> Result<T, LinkError> {
        let url = format!("{}/_simulator/agents/{path}", self.base_url);
        let request = self.client.post(url).json(body).timeout(wait + PATIENCE);
        let unreachable = |error: reqwest::Error| LinkError::Unreachable(error.without_url());
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.map_err(unreachable)?;
        match status {
            200 => serde_json::from_slice(&body).map_err(|_| LinkError::Nonsense(status)),
            410 => Err(LinkError::Ended),
            _ => Err(refusal(&body).map_or(LinkError::Nonsense(status), LinkError::Refused)),
        }
    }

    async fn say(&self, session: SessionId, verb: &str) -> Result<(), LinkError> {
        let done: Value = self.call(&format!("{session}/{verb}"), &(), Duration::ZERO).await?;
        drop(done);
        Ok(())
    }
}

#[async_trait]
impl Link for HttpLink {
    async fn connect(&self, jit_config: &Secret) -> Result<SessionId, LinkError> {
        let body = Connect { jit_config: jit_config.expose().to_owned(), os: None };
        let connected: Connected = self.call("connect", &body, Duration::ZERO).await?;
        Ok(connected.session)
    }

    async fn poll(&self, session: SessionId, wait: Duration) -> Result<Option<AgentJob>, LinkError> {
        let path = format!("{session}/poll?wait={}", wait.as_secs());
        let polled: Polled = self.call(&path, &(), wait).await?;
        Ok(polled.job)
    }

    async fn heartbeat(&self, session: SessionId) -> Result<bool, LinkError> {
        let beat: Heartbeat = self.call(&format!("{session}/heartbeat"), &(), Duration::ZERO).await?;
        Ok(beat.cancel)
    }

    async fn finish(&self, session: SessionId, conclusion: Conclusion) -> Result<(), LinkError> {
        let body = Finish { conclusion };
        let done: Value = self.call(&format!("{session}/finish"), &body, Duration::ZERO).await?;
        drop(done);
        Ok(())
    }

    async fn disconnect(&self, session: SessionId) -> Result<(), LinkError> {
        self.say(session, "disconnect").await
    }

    async fn die(&self, session: SessionId) -> Result<(), LinkError> {
        self.say(session, "die").await
    }
}

/// Why an agent was not let in, by the simulator's words.
fn refusal(body: &[u8]) -> Option<ConnectRefusal> {
    let refused: Refused = serde_json::from_slice(body).ok()?;
    serde_json::from_value(Value::String(refused.error)).ok()
}

/// Where the GitHub is that made a JIT config.
fn server_url(jit_config: &str) -> Option<String> {
    let decode = |text: &str| -> Option<Value> {
        serde_json::from_slice(&BASE64_STANDARD.decode(text.trim()).ok()?).ok()
    };
    let runner = decode(decode(jit_config)?.get(".runner")?.as_str()?)?;
    Some(runner.get("serverUrl")?.as_str()?.to_owned())
}
