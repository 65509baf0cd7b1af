//! The fake cloud as a process of its own: its HTTP face, the machines that it plays, and the command
//! `fake-cloud`.
//!
//! What the cloud does is [`FakeCloud`]'s affair, which is pure. This gives it a clock and a socket, and, where
//! it is told of a GitHub simulator, an [agent] on each instance. Those that are told to call the manager do.

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
use http::{Method, Request, Response};
use jiff::Timestamp;
use runner_manager_backends::fake::{Behaviour, FakeCloud, StartedInstance};
use runner_manager_core::backend::Bootstrap;
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::InstanceId;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Calls, Ending, HttpLink, Line, Link, LinkError, Machine, Outside};
use crate::http_face::{Face, listen, serve};
use crate::output;

/// How many seconds there are between two heartbeats, as the scripts have it.
const USUAL_HEARTBEAT: u64 = 60;

/// `fake-cloud`: a small cloud that is only imagined, on 127.0.0.1, for tests over several processes.
///
/// It prints `listening on http://127.0.0.1:PORT` once it does. Its books are at `/books`, what those of its
/// machines were answered that call a manager at `/calls`, and what goes wrong is told to it at `/script`.
#[derive(Debug, Clone, Args)]
pub(crate) struct FakeCloudArgs {
    /// The port on 127.0.0.1; 0 is any that is free.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// A GitHub simulator: a simulated agent runs against it on each instance, and the instance ends with its
    /// agent. An agent that waits for a job holds a connection. Default: the instances only are there.
    #[arg(long, value_name = "URL")]
    pub(crate) github: Option<String>,
    /// Where all chance begins.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How it behaves, as JSON, as in `{"boot_time": "2s", "zones": {"zone-a": 10}}`.
    #[arg(long, value_name = "JSON", value_parser = read_behaviour)]
    pub(crate) behaviour: Option<Box<Behaviour>>,
    #[command(flatten)]
    pub(crate) calling: CallingArgs,
}

/// How machines call that are told to.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct CallingArgs {
    /// How long between two heartbeats of a machine that calls the manager.
    #[arg(
        long,
        default_value_t = USUAL_HEARTBEAT,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    heartbeat: u64,
}

impl Default for CallingArgs {
    fn default() -> Self {
        Self { heartbeat: USUAL_HEARTBEAT }
    }
}

/// What machines call by.
#[derive(Debug, Clone)]
struct Calling {
    line: Line,
    heartbeat: Duration,
}

pub(crate) fn read_behaviour(text: &str) -> Result<Box<Behaviour>, String> {
    let behaviour: Behaviour = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let faults = behaviour.faults();
    let told: Vec<String> =
        faults.iter().map(|fault| format!("{}: {}", fault.path.join("."), fault.message)).collect();
    if told.is_empty() { Ok(Box::new(behaviour)) } else { Err(told.join("; ")) }
}

/// Runs the command until `stop`.
///
/// # Errors
/// When the port cannot be had, or nothing can be printed.
pub(crate) async fn run(args: FakeCloudArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let mut behaviour = args.behaviour.map_or_else(Behaviour::default, |behaviour| *behaviour);
    behaviour.seed = args.seed.unwrap_or(behaviour.seed);
    let (listener, address) = listen(args.port).await?;
    let cloud = ServedCloud::new(behaviour, args.calling, Arc::new(SystemClock))?;
    let link = args.github.as_deref().map(HttpLink::new).transpose()?;
    output::line(&format!("listening on http://{address}")).context("the address could not be printed")?;
    let machines = async {
        if let Some(link) = link {
            cloud.play_machines(Arc::new(link), stop.clone()).await;
        }
    };
    tokio::join!(serve(listener, Arc::clone(&cloud) as Arc<dyn Face>, stop.clone()), machines);
    Ok(ExitCode::SUCCESS)
}

/// A fake cloud in real time, which many can talk to at once.
#[derive(Debug)]
pub(crate) struct ServedCloud {
    cloud: Mutex<FakeCloud>,
    clock: Arc<dyn Clock>,
    calling: Calling,
    /// An instance may have begun or ended.
    changed: Notify,
}

impl ServedCloud {
    /// An empty cloud, by the time of `clock`.
    ///
    /// # Errors
    /// When machines can have no way to call the manager.
    pub(crate) fn new(
        behaviour: Behaviour,
        calling: CallingArgs,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Arc<Self>> {
        let line = Line::new().context("machines have no way to call the manager")?;
        let calling = Calling { line, heartbeat: Duration::from_secs(calling.heartbeat) };
        let cloud = Mutex::new(FakeCloud::new(behaviour));
        Ok(Arc::new(Self { cloud, clock, calling, changed: Notify::new() }))
    }

    /// Does something with the cloud, at the present time.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut FakeCloud, Timestamp) -> T) -> T {
        let mut cloud = self.cloud.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut cloud, self.clock.now())
    }

    /// Runs an agent on each instance that starts, until `stop`. An instance ends with its agent, and an agent
    /// dies with its instance.
    pub(crate) async fn play_machines(&self, link: Arc<dyn Link>, stop: CancellationToken) {
        let mut machines = BTreeMap::<InstanceId, CancellationToken>::new();
        let mut agents = JoinSet::new();
        loop {
            let (started, stopped, next) =
                self.with(|cloud, now| (cloud.take_started(now), cloud.take_stopped(now), cloud.next_due()));
            for started in started {
                let outside = Outside::default();
                let id = started.id.clone();
                machines.insert(id.clone(), outside.gone.clone());
                let (link, clock, calling) =
                    (Arc::clone(&link), Arc::clone(&self.clock), self.calling.clone());
                agents.spawn(async move {
                    let ending = play(started, &*link, &calling, &*clock, &outside).await;
                    tracing::debug!(instance = %id, ?ending, "an agent ended");
                    id
                });
            }
            for gone in stopped.iter().filter_map(|id| machines.remove(id)) {
                gone.cancel();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = self.sleep_until(next) => {}
                Some(Ok(id)) = agents.join_next() => {
                    machines.remove(&id);
                    self.with(|cloud, now| cloud.instance_ended(&id, now));
                }
            }
        }
    }

    async fn sleep_until(&self, at: Option<Timestamp>) {
        match at {
            Some(at) => {
                let left = at.duration_since(self.clock.now());
                self.clock.sleep(left.try_into().unwrap_or(Duration::ZERO)).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// One machine, from its start to its end.
async fn play(
    machine: StartedInstance,
    link: &dyn Link,
    calling: &Calling,
    clock: &dyn Clock,
    outside: &Outside,
) -> Result<Ending, LinkError> {
    match machine.bootstrap {
        Bootstrap::Direct { jit_config } => agent::live(link, clock, &jit_config, outside).await,
        Bootstrap::Callback { url, token, .. } => {
            let calls = Calls::new(calling.line.clone(), &url, &machine.runner, token);
            Machine { calls, clock, heartbeat: calling.heartbeat }.live(link, outside).await
        }
        // It knows no other start, and does nothing.
        _ => {
            outside.gone.cancelled().await;
            Ok(Ending::Died)
        }
    }
}

#[async_trait]
impl Face for ServedCloud {
    async fn answer(&self, request: Request<Bytes>) -> Option<Response<Bytes>> {
        if request.method() == Method::GET && request.uri().path() == "/calls" {
            let told = serde_json::to_vec(&self.calling.line.answers()).expect("a map of texts is JSON");
            return Some(Response::new(told.into()));
        }
        let answer = self.with(|cloud, now| cloud.handle(&request, now));
        if request.method() != Method::GET {
            self.changed.notify_one();
        }
        if !answer.delay.is_zero() {
            self.clock.sleep(answer.delay).await;
        }
        (!answer.lost).then_some(answer.response)
    }
}
