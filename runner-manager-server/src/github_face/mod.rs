//! The GitHub simulator as a process of its own: its HTTP face, and the command `github-simulator`.
//!
//! What GitHub does is the [`Simulator`]'s affair, which is pure. This gives it a clock, a socket and a sender
//! of webhooks. Two things are added to its control face: `POST /_simulator/agents/{session}/poll?wait=SECONDS`
//! is answered once there is a job, or after that time (60 s at most), so that thousands of agents can
//! wait without asking again and again; and `GET /_simulator/deliveries` tells of each webhook how long it took.

mod deliveries;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, Request, Response, header};
use jiff::Timestamp;
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::testing::simulator::control::SentWebhook;
use runner_manager_core::testing::simulator::{
    AgentJob, Removal, SessionEnded, SessionId, Settings, Simulator,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::http_face::{Face, listen, serve};
use crate::output;

/// The longest that a poll waits for a job.
const LONGEST_POLL: Duration = Duration::from_mins(1);
/// How many webhooks are on their way at once unless somebody says otherwise.
pub(crate) const AT_ONCE: usize = 64;
/// What the simulator answers to a poll when there is no job.
const NO_JOB: &[u8] = br#"{"job":null}"#;

/// `github-simulator`: a simulated GitHub on 127.0.0.1, for tests over several processes.
///
/// It prints `listening on http://127.0.0.1:PORT` once it does. Jobs are queued, and everything is looked at
/// and steered, by requests under `/_simulator/`. Its personal access token is `ghp_simulator` unless the
/// settings say otherwise.
#[derive(Debug, Clone, Args)]
pub(crate) struct GitHubSimulatorArgs {
    /// The port on 127.0.0.1; 0 is any that is free.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Where webhooks of all accounts go, as those of a GitHub App. Hooks of single organizations and
    /// repositories are added by REST, or by `POST /_simulator/hooks`.
    #[arg(long, requires = "webhook_secret")]
    pub(crate) webhook_url: Option<String>,
    /// What webhooks are signed with.
    #[arg(long, requires = "webhook_url", env = "WEBHOOK_SECRET", hide_env_values = true)]
    pub(crate) webhook_secret: Option<String>,
    /// Where all chance begins.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where its API is reached, as it writes in answers and JIT configs. Default: where it listens.
    #[arg(long)]
    pub(crate) base_url: Option<String>,
    /// All other settings as JSON, as in `{"tokens": ["t"], "timings": {"webhook": "PT0.2S"}, "faults":
    /// {"webhooks": {"lost": 0.1}}}`.
    #[arg(long, value_name = "JSON", value_parser = read_settings)]
    pub(crate) settings: Option<Box<Settings>>,
}

pub(crate) fn read_settings(text: &str) -> Result<Box<Settings>, serde_json::Error> {
    serde_json::from_str(text).map(Box::new)
}

/// Runs the command until `stop`.
///
/// # Errors
/// When the port cannot be had, or nothing can be printed.
pub(crate) async fn run(args: GitHubSimulatorArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let mut settings = args.settings.map_or_else(Settings::default, |settings| *settings);
    settings.seed = args.seed.unwrap_or(settings.seed);
    let webhook = args.webhook_url.zip(args.webhook_secret);
    if webhook.is_some() {
        settings.app.get_or_insert_default();
    }
    let (listener, address) = listen(args.port).await?;
    let url = format!("http://{address}");
    let github = SimulatedGitHub::new(settings, Arc::new(SystemClock));
    github.with(|simulator, now| {
        simulator.set_base_url(args.base_url.as_deref().unwrap_or(&url));
        if let Some((url, secret)) = &webhook {
            simulator.set_app_hook(url, secret, now);
        }
    });
    output::line(&format!("listening on {url}")).context("the address could not be printed")?;
    tokio::join!(
        serve(listener, Arc::clone(&github) as Arc<dyn Face>, stop.clone()),
        github.deliver(AT_ONCE, stop)
    );
    Ok(ExitCode::SUCCESS)
}

/// A simulated GitHub in real time, which many can talk to at once: over HTTP (as a [`Face`]), or in this
/// process.
#[derive(Debug)]
pub(crate) struct SimulatedGitHub {
    simulator: Mutex<Simulator>,
    clock: Arc<dyn Clock>,
    /// Something is due sooner than it was.
    sooner: Notify,
    /// Agents that wait for a job, by what they [may take](Simulator::may_take). One of each kind is woken for each job
    /// that is queued: were it all of them, ten thousand idle runners would ask for every job.
    waiting: Mutex<BTreeMap<String, Arc<Notify>>>,
    sent: Mutex<Vec<SentWebhook>>,
}

/// What agents that wait for a job wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waited {
    queued: u64,
    /// Registrations that were taken from under their agents.
    taken: u64,
}

impl Waited {
    fn of(simulator: &Simulator) -> Self {
        let books = simulator.books();
        let removed = books.runners.removed.iter().filter(|(why, _)| **why != Removal::Finished);
        Self { queued: books.jobs.queued, taken: removed.map(|(_, count)| count).sum() }
    }
}

impl SimulatedGitHub {
    /// A GitHub without any content, by the time of `clock`.
    pub(crate) fn new(settings: Settings, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            simulator: Mutex::new(Simulator::new(settings)),
            clock,
            sooner: Notify::new(),
            waiting: Mutex::default(),
            sent: Mutex::default(),
        })
    }

    /// Does something with the simulator, at the present time, and wakes whoever that concerns.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Simulator, Timestamp) -> T) -> T {
        let (outcome, before, after, is_sooner) = {
            let mut simulator = self.simulator.lock().unwrap_or_else(PoisonError::into_inner);
            let (before, due) = (Waited::of(&simulator), simulator.next_due());
            let outcome = act(&mut simulator, self.clock.now());
            let is_sooner = match (simulator.next_due(), due) {
                (Some(now), Some(before)) => now < before,
                (now, _) => now.is_some(),
            };
            (outcome, before, Waited::of(&simulator), is_sooner)
        };
        self.wake(before, after);
        if is_sooner {
            self.sooner.notify_one();
        }
        outcome
    }

    /// Wakes as many agents of each kind as there are new jobs, and all when a registration was taken.
    fn wake(&self, before: Waited, after: Waited) {
        let queued = after.queued.saturating_sub(before.queued);
        if queued == 0 && after.taken == before.taken {
            return;
        }
        for kind in self.waiting.lock().unwrap_or_else(PoisonError::into_inner).values() {
            if after.taken > before.taken {
                kind.notify_waiters();
            }
            (0..queued).for_each(|_| kind.notify_one());
        }
    }

    /// Where agents wait that may take what this one may.
    fn waiting_as(&self, session: SessionId) -> Arc<Notify> {
        let kind = self.with(|simulator, _| simulator.may_take(session)).unwrap_or_default();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(waiting.entry(kind).or_default())
    }

    /// Lets an agent wait for a job for so long.
    ///
    /// # Errors
    /// When its session has ended.
    pub(crate) async fn poll(
        &self,
        session: SessionId,
        wait: Duration,
    ) -> Result<Option<AgentJob>, SessionEnded> {
        let poll = |simulator: &mut Simulator, now| simulator.poll(session, now);
        self.until(session, wait, poll, |polled| *polled != Ok(None)).await
    }

    /// The webhooks that were sent, in the order of their answers.
    pub(crate) fn sent(&self) -> Vec<SentWebhook> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does something again whenever there may be a job for an agent, until it is `done` or the time is over.
    async fn until<T>(
        &self,
        session: SessionId,
        wait: Duration,
        mut act: impl FnMut(&mut Simulator, Timestamp) -> T,
        done: impl Fn(&T) -> bool,
    ) -> T {
        let waiting = self.waiting_as(session);
        let mut over = self.clock.sleep(wait);
        loop {
            let mut woken = std::pin::pin!(waiting.notified());
            // From before the try, so that nothing between it and the waiting is missed.
            woken.as_mut().enable();
            let outcome = self.with(&mut act);
            if done(&outcome) {
                return outcome;
            }
            tokio::select! {
                () = woken => {}
                () = &mut over => return outcome,
            }
        }
    }
}

#[async_trait]
impl Face for SimulatedGitHub {
    async fn answer(&self, request: Request<Bytes>) -> Option<Response<Bytes>> {
        if (request.method(), request.uri().path()) == (&Method::GET, "/_simulator/deliveries") {
            return Some(as_json(&self.sent()));
        }
        let handle = |simulator: &mut Simulator, now| simulator.handle(&request, now);
        let answer = match waiting_poll(&request) {
            Some((session, wait)) => {
                self.until(session, wait, handle, |answer| answer.response.body() != NO_JOB).await
            }
            None => self.with(handle),
        };
        if !answer.latency.is_zero() {
            self.clock.sleep(answer.latency).await;
        }
        (!answer.reply_lost).then_some(answer.response)
    }
}

fn as_json(sent: &[SentWebhook]) -> Response<Bytes> {
    let body = serde_json::to_vec(sent).expect("texts, numbers and times are JSON");
    let mut response = Response::new(Bytes::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Which agent's poll a request is, and how long it may wait for a job; nothing where it is no poll that waits.
fn waiting_poll(request: &Request<Bytes>) -> Option<(SessionId, Duration)> {
    let path = request.uri().path().strip_prefix("/_simulator/agents/")?;
    let session = SessionId(path.strip_suffix("/poll")?.parse().ok()?);
    let seconds = request.uri().query()?.strip_prefix("wait=")?.parse().ok()?;
    let wait = Duration::from_secs(seconds).min(LONGEST_POLL);
    (request.method() == Method::POST && !wait.is_zero()).then_some((session, wait))
}
