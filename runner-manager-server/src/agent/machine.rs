//! A machine that calls the manager: what the start scripts do, with a simulated agent for the runner.
//!
//! It fetches its script, which it does not run, and its JIT config; has the agent live; tells the manager of its
//! listener, of its job and how it fares; and leaves when it is asked and no job runs.

#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::Secret;
use runner_manager_core::testing::simulator::{AgentJob, Conclusion, SessionId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::calls::{Answer, Calls};
use super::{Ending, Link, LinkError, Outside, live};

/// How long a machine tries to start.
const START_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// How often a word of a job is said, a second apart, until the manager has it.
const TRIES_OF_JOBS: u32 = 60;
/// How often the last word is said.
const LAST_TRIES: u32 = 4;

/// A machine from its start to its end.
#[derive(Debug)]
pub(crate) struct Machine<'m> {
    pub(crate) calls: Calls,
    pub(crate) clock: &'m dyn Clock,
    /// How long between two heartbeats.
    pub(crate) heartbeat: Duration,
}

/// What the runner's log and its job hooks tell.
#[derive(Debug)]
enum Moment {
    Listens,
    Begins(AgentJob),
    Ends(AgentJob),
}

/// What was seen of a listener until its end.
#[derive(Debug, Default)]
struct Seen {
    listened: bool,
    /// It has or had a job.
    job: bool,
    works: bool,
}

impl Machine<'_> {
    /// Lives its life. Its power is off then.
    ///
    /// # Errors
    /// When GitHub cannot be reached, or gives an answer that makes no sense.
    pub(crate) async fn live(&self, link: &dyn Link, outside: &Outside) -> Result<Ending, LinkError> {
        let config = tokio::select! {
            biased;
            () = outside.gone.cancelled() => return Ok(Ending::Died),
            config = self.start() => config,
        };
        let Some(config) = config else { return Ok(Ending::Stopped) };
        let (said, moments) = unbounded_channel();
        let leave = CancellationToken::new();
        let agent = async {
            // Dropped with the listener: what is seen of it has an end then.
            let overheard = Overheard { link, leave: leave.clone(), said, job: Mutex::default() };
            live(&overheard, self.clock, &config, outside).await
        };
        let watched = async {
            tokio::select! {
                biased;
                () = outside.gone.cancelled() => Seen::default(),
                seen = self.watch(moments, &leave) => seen,
            }
        };
        let (ending, seen) = tokio::join!(agent, watched);
        tokio::select! {
            biased;
            () = outside.gone.cancelled() => Ok(Ending::Died),
            () = self.say_last(&ending, &seen, leave.is_cancelled()) => ending,
        }
    }

    /// Fetches the script and then the JIT config; none where there is none for this machine.
    async fn start(&self) -> Option<Secret> {
        self.until_given("script").await?;
        self.calls.say("progress", &[("step", "began")]).await;
        let config = self.until_given("jit-config").await;
        if config.is_none() {
            self.surely(LAST_TRIES, "failed", &[("reason", "refused"), ("detail", "no JIT config")]).await;
        }
        config.map(Secret::new)
    }

    async fn until_given(&self, what: &str) -> Option<String> {
        let deadline = self.clock.now() + START_WITHIN;
        let mut pause = Duration::from_secs(1);
        while self.clock.now() < deadline {
            match self.calls.ask(what).await {
                Answer::Given(text) => return Some(text),
                Answer::Refused(status) => {
                    tracing::debug!(status, "the manager refuses a machine its start");
                    return None;
                }
                Answer::Again => self.clock.sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        None
    }

    /// Tells the manager what is seen of the listener, and says heartbeats, until its end.
    async fn watch(&self, mut moments: UnboundedReceiver<Moment>, leave: &CancellationToken) -> Seen {
        let mut seen = Seen::default();
        self.calls.say("progress", &[("step", "started")]).await;
        let mut next_beat = self.clock.now();
        loop {
            tokio::select! {
                biased;
                moment = moments.recv() => match moment {
                    Some(moment) => self.tell(&mut seen, moment).await,
                    None => return seen,
                },
                () = self.clock.sleep(until(next_beat, self.clock.now())) => {
                    next_beat = self.clock.now() + self.heartbeat;
                    self.beat(&mut seen, &mut moments, leave).await;
                }
            }
        }
    }

    async fn tell(&self, seen: &mut Seen, moment: Moment) {
        match moment {
            Moment::Listens => {
                seen.listened = true;
                self.calls.say("progress", &[("step", "listening")]).await;
            }
            Moment::Begins(job) => {
                (seen.job, seen.works) = (true, true);
                self.tell_of_job("job-started", &job).await;
            }
            Moment::Ends(job) => {
                seen.works = false;
                self.tell_of_job("job-completed", &job).await;
            }
        }
    }

    async fn tell_of_job(&self, what: &str, job: &AgentJob) {
        let (run, attempt) = (job.run.to_string(), job.attempt.to_string());
        let fields = [
            ("run_id", run.as_str()),
            ("run_attempt", &attempt),
            ("repository", &job.repository),
            ("job", &job.name),
            ("workflow", &job.workflow_name),
        ];
        self.surely(TRIES_OF_JOBS, what, &fields).await;
    }

    async fn beat(
        &self,
        seen: &mut Seen,
        moments: &mut UnboundedReceiver<Moment>,
        leave: &CancellationToken,
    ) {
        let state = match (seen.works, seen.listened) {
            (true, _) => "busy",
            (false, true) => "idle",
            (false, false) => "starting",
        };
        let answer = self.calls.say("heartbeat", &[("state", state)]).await;
        if !(answer.is_gone() || answer == Answer::Given("leave".to_owned())) {
            return;
        }
        // What began meanwhile.
        while let Ok(moment) = moments.try_recv() {
            self.tell(seen, moment).await;
        }
        if seen.works {
            self.calls.say("heartbeat", &[("state", "busy"), ("leave", "refused")]).await;
        } else {
            leave.cancel();
        }
    }

    async fn say_last(&self, ending: &Result<Ending, LinkError>, seen: &Seen, asked: bool) {
        let (what, reason) = match ending {
            Ok(Ending::Died) => return,
            _ if seen.job => ("left", "finished"),
            _ if asked => ("left", "asked"),
            _ if seen.listened => ("left", "listener-ended"),
            _ => ("failed", "listener"),
        };
        let detail = match ending {
            Ok(ending) => format!("{ending:?}"),
            Err(error) => error.to_string(),
        };
        self.surely(LAST_TRIES, what, &[("reason", reason), ("detail", &detail)]).await;
    }

    async fn surely(&self, tries: u32, what: &str, fields: &[(&str, &str)]) {
        for _ in 0..tries {
            if self.calls.say(what, fields).await != Answer::Again {
                return;
            }
            self.clock.sleep(Duration::from_secs(1)).await;
        }
    }
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    at.duration_since(now).try_into().unwrap_or(Duration::ZERO)
}

/// A way to GitHub that tells what the agent does, and by which it leaves where no job runs.
struct Overheard<'l> {
    link: &'l dyn Link,
    leave: CancellationToken,
    said: UnboundedSender<Moment>,
    /// The one that runs.
    job: Mutex<Option<AgentJob>>,
}

impl Overheard<'_> {
    /// Nobody may listen any more: then the machine is gone.
    fn say(&self, moment: Moment) {
        let _ = self.said.send(moment);
    }
}

#[async_trait]
impl Link for Overheard<'_> {
    async fn connect(&self, jit_config: &Secret) -> Result<SessionId, LinkError> {
        let session = self.link.connect(jit_config).await?;
        self.say(Moment::Listens);
        Ok(session)
    }

    async fn poll(&self, session: SessionId, wait: Duration) -> Result<Option<AgentJob>, LinkError> {
        let polled = tokio::select! {
            biased;
            polled = self.link.poll(session, wait) => polled?,
            // A job that GitHub gave it in that moment it gives again.
            () = self.leave.cancelled() => self.link.poll(session, Duration::ZERO).await?,
        };
        match polled {
            Some(job) => {
                *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job.clone());
                self.say(Moment::Begins(job.clone()));
                Ok(Some(job))
            }
            None if self.leave.is_cancelled() => {
                self.link.disconnect(session).await?;
                Err(LinkError::Ended)
            }
            None => Ok(None),
        }
    }

    async fn heartbeat(&self, session: SessionId) -> Result<bool, LinkError> {
        self.link.heartbeat(session).await
    }

    async fn finish(&self, session: SessionId, conclusion: Conclusion) -> Result<(), LinkError> {
        // The hook runs before GitHub hears of the end.
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(job) = job {
            self.say(Moment::Ends(job));
        }
        self.link.finish(session, conclusion).await
    }

    async fn disconnect(&self, session: SessionId) -> Result<(), LinkError> {
        self.link.disconnect(session).await
    }

    async fn die(&self, session: SessionId) -> Result<(), LinkError> {
        self.link.die(session).await
    }
}
