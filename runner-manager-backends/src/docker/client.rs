//! The docker backend: an instance is a container, whose name is the runner's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use runner_manager_core::backend::{Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec};
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{Instance, InstanceId, InstanceState, Owner, Placement, RunnerName};

use super::config::{Host, PlacementConfig, Pull, Settings};
use super::convert::{create_body, inspected, listed, owner_filter};
use super::engine::Engine;
use super::errors::{Effect, Failure};
use super::images::Images;

/// How often, and after which pauses, a name that the engine has reserved is looked at.
const RESERVED_LOOKS: u32 = 20;
const RESERVED_PAUSE: Duration = Duration::from_millis(100);

/// The backend of kind `docker`.
#[derive(Debug)]
pub struct DockerBackend {
    engine: Arc<Engine>,
    images: Images,
    settle: Duration,
}

impl DockerBackend {
    pub(super) fn new(host: Host, settings: &Settings, clock: Arc<dyn Clock>) -> Self {
        let engine = Arc::new(Engine::new(host, settings.timeout, clock));
        let images = Images::new(Arc::clone(&engine), settings.pull_timeout);
        Self { engine, images, settle: settings.settle }
    }

    async fn docker(&self, operation: &'static str) -> Result<&Docker, BackendError> {
        self.engine.docker().await.map_err(|failure| failure.into_error(operation, Effect::None, "engine"))
    }

    /// What the engine tells of the container of a name or an id.
    async fn inspect(
        &self,
        operation: &'static str,
        effect: Effect,
        name: &str,
    ) -> Result<Told, BackendError> {
        let docker = self.docker(operation).await?;
        match self.engine.call(docker.inspect_container(name, None)).await {
            Ok(container) => Ok(inspected(&container).map_or(Told::Foreign, |(instance, owner)| {
                // The engine also takes the beginning of an id for a name.
                let exact = container.name.as_deref().map(|told| told.trim_start_matches('/')) == Some(name);
                Told::Marked { instance, owner, exact }
            })),
            Err(failure) if failure.status() == Some(404) => Ok(Told::Absent),
            Err(failure) => Err(failure.into_error(operation, effect, format!("container {name}"))),
        }
    }

    /// The container that bears the name which a create wanted.
    ///
    /// The engine reserves a name before it tells of the container, so one that is absent may be about to
    /// appear.
    async fn found(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let name = spec.runner.as_str();
        for _ in 0..RESERVED_LOOKS {
            match self.inspect("create", Effect::Some, name).await? {
                Told::Marked { instance, owner, exact: true } if owner == spec.owner => return Ok(instance),
                Told::Absent => self.engine.sleep(RESERVED_PAUSE).await,
                Told::Marked { .. } | Told::Foreign => {
                    let detail = format!(
                        "the name {name} is taken by a container without our owner mark: remove that"
                    );
                    return Err(BackendError::new(BackendErrorKind::InvalidConfig, "create", detail));
                }
            }
        }
        let detail =
            format!("the engine has reserved the name {name}, and tells of no container that bears it");
        Err(BackendError::new(BackendErrorKind::Unclear, "create", detail))
    }

    /// Starts a container; one that cannot start is removed again.
    async fn start(&self, docker: &Docker, id: &str, name: &RunnerName) -> Result<(), BackendError> {
        let what = format!("container {name} could not be started");
        let Err(failure) = self.engine.call(docker.start_container(id, None)).await else { return Ok(()) };
        let error = failure.into_error("create", Effect::Some, what);
        if error.kind == BackendErrorKind::Unclear {
            return Err(error);
        }
        match self.remove(docker, id).await {
            Ok(()) => Err(error),
            Err(left) => {
                let detail = format!(
                    "{}, nor removed: {}",
                    error.detail,
                    left.into_error("create", Effect::Some, id).detail
                );
                Err(BackendError::new(BackendErrorKind::Unclear, "create", detail).because(error))
            }
        }
    }

    /// Removes a container and its anonymous volumes, running or not; absent is success.
    async fn remove(&self, docker: &Docker, id: &str) -> Result<(), Failure> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.engine.call(docker.remove_container(id, Some(options))).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.status() == Some(404) => Ok(()),
            Err(failure) if failure.words().contains("is already in progress") => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

/// What the engine tells of one container.
enum Told {
    /// There is none.
    Absent,
    /// One without our marks.
    Foreign,
    /// One with marks of ours.
    Marked {
        instance: Instance,
        owner: Owner,
        /// Whether it bears exactly the name that was asked for.
        exact: bool,
    },
}

fn config(operation: &'static str, placement: &Placement) -> Result<PlacementConfig, BackendError> {
    PlacementConfig::read(&placement.settings).map_err(|faults| super::refused(operation, &faults))
}

#[async_trait]
impl Backend for DockerBackend {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let config = config("create", &spec.placement)?;
        let body = create_body(spec, &config)?;
        let docker = self.docker("create").await?;
        self.images.provide(&config).await?;
        let name = spec.runner.as_str();
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let id = match self.engine.call(docker.create_container(Some(options), body)).await {
            Ok(made) => made.id,
            Err(failure) if failure.status() == Some(409) && failure.words().contains("already in use") => {
                let found = self.found(spec).await?;
                if found.state != InstanceState::Pending {
                    return Ok(found);
                }
                found.id.as_str().to_owned()
            }
            Err(failure) => {
                return Err(failure.into_error("create", Effect::Some, format!("container {name}")));
            }
        };
        self.start(docker, &id, &spec.runner).await?;
        match self.inspect("create", Effect::Some, &id).await {
            Ok(Told::Marked { instance, .. }) => Ok(instance),
            // It was made, so no error may say that it was not.
            Ok(Told::Absent | Told::Foreign) => {
                let detail = format!("container {name} was gone right after it had been started");
                Err(BackendError::new(BackendErrorKind::Unclear, "create", detail))
            }
            Err(error) => {
                let detail = format!("container {name} was started, and then: {}", error.detail);
                Err(BackendError::new(BackendErrorKind::Unclear, "create", detail).because(error))
            }
        }
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        let docker = self.docker("delete").await?;
        let removed = self.remove(docker, id.as_str()).await;
        removed.map_err(|failure| failure.into_error("delete", Effect::Some, format!("container {id}")))
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        match self.inspect("get", Effect::None, id.as_str()).await? {
            Told::Marked { instance, .. } if instance.id == *id => Ok(Some(instance)),
            _ => Ok(None),
        }
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        match self.inspect("find", Effect::None, name.as_str()).await? {
            Told::Marked { instance, exact: true, .. } => Ok(Some(instance)),
            _ => Ok(None),
        }
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let docker = self.docker("list").await?;
        let options = ListContainersOptionsBuilder::new().all(true).filters(&owner_filter(owner)).build();
        let containers = self.engine.call(docker.list_containers(Some(options))).await;
        let containers =
            containers.map_err(|failure| failure.into_error("list", Effect::None, "containers"))?;
        let instances = containers.iter().filter_map(|container| {
            let instance = listed(container);
            if instance.is_none() {
                tracing::warn!(container = ?container.id, "a container bears our owner mark but no runner or group: not ours to touch");
            }
            instance
        });
        Ok(instances.collect())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            unique_names: true,
            settle: self.settle,
            lag: Duration::ZERO,
            update: false,
            callback: false,
        }
    }

    async fn validate(&self, placement: &Placement) -> Result<Vec<String>, BackendError> {
        let config = config("validate", placement)?;
        let docker = self.docker("validate").await?;
        let mut missing = Vec::new();
        let image = config.image();
        if config.pull == Pull::Never && !self.images.has("validate", image).await? {
            missing.push(format!("the engine has no image {image}, and pull is never"));
        }
        if let Some(network) = config.network.as_deref().filter(|network| !network.starts_with("container:"))
        {
            match self.engine.call(docker.inspect_network(network, None)).await {
                Ok(_) => {}
                Err(failure) if failure.status() == Some(404) => {
                    missing.push(format!("the engine has no network {network}"));
                }
                Err(failure) => {
                    return Err(failure.into_error("validate", Effect::None, format!("network {network}")));
                }
            }
        }
        Ok(missing)
    }
}
