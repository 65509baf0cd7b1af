//! The simulated agent: what the actions runner on an instance does, against the GitHub simulator.
//!
//! It connects with its JIT config, waits for one job, spends that job's seconds, reports, and ends. It runs
//! nothing: a job is a time to wait. The same agent serves three uses, which differ in their [`Link`] alone: the
//! command `simulated-agent` (the entry point of the demo's container image), the machines that `fake-cloud`
//! plays, and those of the demo. Where a machine calls the manager, a [`Machine`] has the agent live.

mod calls;
mod command;
mod link;
mod machine;
#[cfg(test)]
mod tests;

use std::time::Duration;

use runner_manager_core::clock::Clock;
use runner_manager_core::domain::Secret;
use runner_manager_core::testing::simulator::{AgentJob, Conclusion, ConnectRefusal, SessionId};
use tokio_util::sync::CancellationToken;

pub(crate) use self::calls::{Calls, Line};
pub(crate) use self::command::{SimulatedAgentArgs, run};
pub(crate) use self::link::{HttpLink, Link, LinkError};
pub(crate) use self::machine::Machine;

/// How long one poll waits for a job.
const POLL: Duration = Duration::from_secs(30);
/// How often GitHub hears that a job still runs, and the agent whether it is to be cancelled.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It ran its job to the end.
    Finished(Conclusion),
    /// GitHub let it go, with or without a job: its registration was removed.
    LetGo,
    /// It was not let in.
    Refused(ConnectRefusal),
    /// It was stopped in order, and said so.
    Stopped,
    /// Its machine was taken away.
    Died,
}

/// What can end an agent from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outside {
    /// Somebody asks it to stop: it signs off, and a job that it runs is cancelled.
    pub(crate) stop: CancellationToken,
    /// Its machine is gone: whatever it still would have said, nobody hears.
    pub(crate) gone: CancellationToken,
}

/// Lives an agent's life.
///
/// # Errors
/// When GitHub cannot be reached, or gives an answer that makes no sense.
pub(crate) async fn live(
    link: &dyn Link,
    clock: &dyn Clock,
    jit_config: &Secret,
    outside: &Outside,
) -> Result<Ending, LinkError> {
    let session = tokio::select! {
        biased;
        () = outside.gone.cancelled() => return Ok(Ending::Died),
        () = outside.stop.cancelled() => return Ok(Ending::Stopped),
        connected = link.connect(jit_config) => match connected {
            Ok(session) => session,
            Err(LinkError::Refused(why)) => return Ok(Ending::Refused(why)),
            Err(error) => return Err(error),
        },
    };
    let ended = tokio::select! {
        biased;
        () = outside.gone.cancelled() => link.die(session).await.map(|()| Ending::Died),
        () = outside.stop.cancelled() => link.disconnect(session).await.map(|()| Ending::Stopped),
        conclusion = serve(link, clock, session) => conclusion.map(Ending::Finished),
    };
    match ended {
        Err(LinkError::Ended) => Ok(Ending::LetGo),
        other => other,
    }
}

/// Waits for a job, and runs it.
async fn serve(link: &dyn Link, clock: &dyn Clock, session: SessionId) -> Result<Conclusion, LinkError> {
    let job = loop {
        if let Some(job) = link.poll(session, POLL).await? {
            break job;
        }
    };
    tracing::debug!(job = %job.id, seconds = job.seconds, "the agent begins a job");
    let conclusion = work(link, clock, session, &job).await?;
    link.finish(session, conclusion).await?;
    Ok(conclusion)
}

async fn work(
    link: &dyn Link,
    clock: &dyn Clock,
    session: SessionId,
    job: &AgentJob,
) -> Result<Conclusion, LinkError> {
    let mut left = Duration::from_secs(job.seconds);
    while !left.is_zero() {
        let pause = left.min(HEARTBEAT);
        clock.sleep(pause).await;
        left -= pause;
        if !left.is_zero() && link.heartbeat(session).await? {
            return Ok(Conclusion::Cancelled);
        }
    }
    Ok(Conclusion::Success)
}
