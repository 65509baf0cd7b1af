//! Where the demo's instances are, and what that says of them by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bollard::Docker;
use jiff::Timestamp;
use runner_manager_backends::docker::DockerKind;
use runner_manager_backends::fake::{Behaviour, FakeKind};
use runner_manager_core::backend::{Backend, BackendKind, ConnectContext, PlacementSettings};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{BackendName, DeploymentName, Owner, Placement, Secret};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::docker::{self, Census, Image};
use super::progress::Progress;
use super::{BackendChoice, hex_secret};
use crate::fake_cloud::{CallingArgs, ServedCloud};
use crate::github_face::SimulatedGitHub;
use crate::http_face::{Face, listen, serve};
use crate::summary::Life;

/// Where the instances are.
#[derive(Debug)]
pub(super) struct Hosting {
    /// Whose they are.
    pub(super) owner: Owner,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Fake { cloud: Arc<ServedCloud> },
    Docker { docker: Docker, image: Image, census: Arc<Census>, since: Timestamp },
}

/// A backend for the manager, and how to make an instance there.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) placement: Placement,
    /// How many calls to it may be under way.
    pub(super) concurrency: usize,
}

impl Hosting {
    /// Prepares what instances need before there can be any.
    ///
    /// # Errors
    /// When there is no Docker engine, or it does not take the image.
    pub(super) async fn prepare(
        choice: BackendChoice,
        run: &str,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let owner = Owner::new(DeploymentName::new("demo")?, &Secret::new(hex_secret()));
        let place = match choice {
            BackendChoice::Fake => {
                // Instances take their time, as everywhere, but not so long that it bores.
                let behaviour = Behaviour {
                    boot_time: Duration::from_millis(200),
                    boot_jitter: Duration::from_millis(300),
                    delete_time: Duration::from_millis(200),
                    callback: true,
                    ..Behaviour::default()
                };
                let cloud = ServedCloud::new(behaviour, CallingArgs::default(), Arc::new(SystemClock))?;
                Place::Fake { cloud }
            }
            BackendChoice::Docker => {
                let docker = docker::connect().await?;
                let since = SystemClock.now();
                progress.say("making the image of this program on the local Docker engine ...")?;
                let image = Image::make(&docker, run, since).await?;
                Place::Docker { docker, image, census: Arc::default(), since }
            }
        };
        Ok(Self { owner, place })
    }

    /// How many runners one group may have.
    pub(super) const fn ceiling(&self) -> u32 {
        match self.place {
            Place::Fake { .. } => 1000,
            Place::Docker { .. } => 10,
        }
    }

    /// Starts what the instances need beside the manager, into `parts`, and connects the backend.
    ///
    /// # Errors
    /// When there is no port, or the backend cannot be connected.
    pub(super) async fn connect(
        &self,
        github: &Arc<SimulatedGitHub>,
        parts: &mut JoinSet<anyhow::Result<&'static str>>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Connected> {
        match &self.place {
            Place::Fake { cloud } => {
                let (listener, address) = listen(0).await?;
                let face = Arc::clone(cloud) as Arc<dyn Face>;
                let stopped = stop.clone();
                parts.spawn(async move {
                    serve(listener, face, stopped).await;
                    Ok("the fake cloud")
                });
                let (cloud, link, stopped) = (Arc::clone(cloud), Arc::clone(github), stop.clone());
                parts.spawn(async move {
                    cloud.play_machines(link, stopped).await;
                    Ok("the machines of the fake cloud")
                });
                let settings = json!({"url": format!("http://{address}"), "behaviour": {"callback": true}});
                connected(&FakeKind::new(), &settings, &json!({}), 32).await
            }
            Place::Docker { docker, image, census, since } => {
                let (census, docker, owner) = (Arc::clone(census), docker.clone(), self.owner.clone());
                let (since, stopped) = (*since, stop.clone());
                parts.spawn(async move {
                    census.take(docker, owner, since, stopped).await?;
                    Ok("the census of containers")
                });
                // In the host's network, so that agents reach the simulator on 127.0.0.1.
                let placement = json!({
                    "image": image.name(), "pull": "never", "command": [], "network": "host",
                });
                connected(&DockerKind::new(), &json!({}), &placement, 4).await
            }
        }
    }

    /// The lives of all instances so far, by the backend's own books.
    pub(super) fn lives(&self) -> Vec<Life> {
        match &self.place {
            Place::Fake { cloud } => cloud.with(|cloud, now| {
                let lives = cloud.books(now).lives.iter();
                lives
                    .map(|life| Life {
                        group: life.group.to_string(),
                        created_at: life.asked_at,
                        gone_at: life.gone_at,
                    })
                    .collect()
            }),
            Place::Docker { census, .. } => census.lives(),
        }
    }

    /// How many instances each group has now.
    pub(super) fn alive(&self) -> BTreeMap<String, u64> {
        match &self.place {
            Place::Fake { cloud } => cloud.with(|cloud, now| {
                let groups = cloud.books(now).groups.iter();
                groups.map(|(name, count)| (name.to_string(), count.alive)).collect()
            }),
            Place::Docker { census, .. } => census.alive(),
        }
    }

    /// Takes away what the demo still has there.
    ///
    /// # Errors
    /// When the Docker engine does not let go of something.
    pub(super) async fn clear(&self) -> anyhow::Result<()> {
        let Place::Docker { docker, image, .. } = &self.place else { return Ok(()) };
        docker::clear(docker, &self.owner).await?;
        image.remove(docker).await
    }
}

async fn connected(
    kind: &dyn BackendKind,
    settings: &Value,
    placement: &Value,
    concurrency: usize,
) -> anyhow::Result<Connected> {
    let name = BackendName::new(kind.kind())?;
    let context = ConnectContext { name: name.clone(), clock: Arc::new(SystemClock) };
    let backend = kind.connect(settings, context).await.context("the backend cannot be connected")?;
    let placements = kind.placements(placement).ok().and_then(|placements| placements.into_iter().next());
    let PlacementSettings { description, settings } = placements.context("the placement is refused")?;
    Ok(Connected { backend, placement: Placement::new(name, description, settings), concurrency })
}
