//! The demo on a Docker engine: the image that its containers are made from, and what the engine itself says of
//! them. The containers are made by the docker backend; this only looks, and clears up at the end.

mod census;
mod elf;
mod image;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, bail};
use bollard::Docker;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use runner_manager_core::clock::{SystemClock, timeout};
use runner_manager_core::domain::Owner;

pub(super) use self::census::Census;
pub(super) use self::image::Image;

/// How long the engine may take for one answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Connects with the local engine, in a version of its API that both sides speak.
///
/// # Errors
/// When there is none that answers.
pub(super) async fn connect() -> anyhow::Result<Docker> {
    let no_engine = "there is no Docker engine that answers: start one, or set DOCKER_HOST";
    let docker = Docker::connect_with_defaults().context(no_engine)?;
    match timeout(&SystemClock, Duration::from_secs(10), docker.negotiate_version()).await {
        Ok(docker) => docker.context(no_engine),
        Err(late) => bail!("{no_engine} ({late})"),
    }
}

/// The containers that bear an owner's mark, running or not: their ids.
///
/// # Errors
/// When the engine does not say.
pub(super) async fn containers(docker: &Docker, owner: &Owner) -> anyhow::Result<Vec<String>> {
    let options = ListContainersOptionsBuilder::new().all(true).filters(&marked(owner)).build();
    let listed = timeout(&SystemClock, PATIENCE, docker.list_containers(Some(options))).await;
    let listed = listed?.context("the Docker engine did not list its containers")?;
    Ok(listed.into_iter().filter_map(|container| container.id).collect())
}

/// Removes all containers that bear an owner's mark, whatever they do.
///
/// # Errors
/// When one could not be removed.
pub(super) async fn clear(docker: &Docker, owner: &Owner) -> anyhow::Result<()> {
    for id in containers(docker, owner).await? {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = timeout(&SystemClock, PATIENCE, docker.remove_container(&id, Some(options))).await;
        removed?.with_context(|| format!("the container {id} could not be removed"))?;
    }
    Ok(())
}

/// The engine's filter for what bears an owner's mark.
fn marked(owner: &Owner) -> HashMap<String, Vec<String>> {
    let label = format!("{}={}", Owner::FINGERPRINT_TAG, owner.fingerprint.as_str());
    HashMap::from([("label".to_owned(), vec![label])])
}
