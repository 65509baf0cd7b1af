//! The image of the demo's containers, made on the local engine from nothing but this program: the running
//! executable, its interpreter and its libraries. No registry is asked for anything.
//!
//! Each run has an image of its own, so that one run that ends takes nothing from another. The engine keeps
//! equal contents once.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bollard::Docker;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use runner_manager_core::clock::{SystemClock, timeout};

use super::{PATIENCE, elf};

const REPOSITORY: &str = "runner-manager-demo";
/// A run's image that is older than any run may be was left behind by one that was killed.
const LEFT_BEHIND: Duration = Duration::from_hours(24);
/// How long the engine may take to take the image in.
const IMPORT: Duration = Duration::from_mins(3);

/// An image on the local engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::demo) struct Image(String);

impl Image {
    /// Makes the image of a run.
    ///
    /// # Errors
    /// When the executable cannot be read, or the engine does not take it.
    pub(in crate::demo) async fn make(docker: &Docker, run: &str, now: Timestamp) -> anyhow::Result<Self> {
        remove_left_behind(docker, now).await?;
        let contents = contents().await.context("the image could not be put together")?;
        let changes = vec![
            r#"ENTRYPOINT ["/runner-manager", "simulated-agent"]"#.to_owned(),
            "ENV LD_LIBRARY_PATH=/libraries".to_owned(),
        ];
        let options =
            CreateImageOptionsBuilder::new().from_src("-").repo(REPOSITORY).tag(run).changes(changes).build();
        let imported = docker.create_image(Some(options), Some(bollard::body_full(contents)), None);
        let imported = timeout(&SystemClock, IMPORT, imported.try_collect::<Vec<_>>()).await;
        imported?.context("the Docker engine did not take the image")?;
        Ok(Self(format!("{REPOSITORY}:{run}")))
    }

    /// Its name.
    pub(in crate::demo) fn name(&self) -> &str {
        &self.0
    }

    /// Removes it.
    ///
    /// # Errors
    /// When it is still in use, or the engine does not answer.
    pub(in crate::demo) async fn remove(&self, docker: &Docker) -> anyhow::Result<()> {
        remove(docker, &self.0).await
    }
}

async fn remove(docker: &Docker, name: &str) -> anyhow::Result<()> {
    let options = RemoveImageOptionsBuilder::new().build();
    let removed = timeout(&SystemClock, PATIENCE, docker.remove_image(name, Some(options), None)).await;
    removed?.with_context(|| format!("the image {name} could not be removed"))?;
    Ok(())
}

async fn remove_left_behind(docker: &Docker, now: Timestamp) -> anyhow::Result<()> {
    let filters = HashMap::from([("reference".to_owned(), vec![format!("{REPOSITORY}:*")])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    let images = timeout(&SystemClock, PATIENCE, docker.list_images(Some(options))).await;
    let limit = now.checked_sub(LEFT_BEHIND).unwrap_or(Timestamp::MIN).as_second();
    let images = images?.context("the Docker engine did not list its images")?;
    for name in images.into_iter().filter(|image| image.created < limit).flat_map(|image| image.repo_tags) {
        if let Err(error) = remove(docker, &name).await {
            tracing::warn!(error = format!("{error:#}"), "an image of an earlier demo stays");
        }
    }
    Ok(())
}

/// The image's one layer.
async fn contents() -> anyhow::Result<Bytes> {
    // By its number and not as `self`, which the interpreter would take for itself.
    let executable = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let mut files = vec![(PathBuf::from("runner-manager"), executable.clone())];
    let mut opened =
        File::open(&executable).context("only on Linux can a program read its own executable")?;
    if let Some(interpreter) = elf::interpreter(&mut opened)? {
        let libraries = timeout(&SystemClock, PATIENCE, elf::libraries(&interpreter, &executable)).await??;
        files.extend(libraries.into_iter().map(|(name, path)| (Path::new("libraries").join(name), path)));
        files.push((interpreter.strip_prefix("/").unwrap_or(&interpreter).to_owned(), interpreter.clone()));
    }
    tokio::task::spawn_blocking(move || pack(&files)).await.context("the packing ended early")?
}

fn pack(files: &[(PathBuf, PathBuf)]) -> anyhow::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, path) in files {
        let add = |archive: &mut tar::Builder<Vec<u8>>| {
            let mut file = File::open(path)?;
            let mut header = tar::Header::new_gnu();
            header.set_size(file.metadata()?.len());
            header.set_mode(0o755);
            archive.append_data(&mut header, name, &mut file)
        };
        add(&mut archive).with_context(|| format!("{} cannot be packed", path.display()))?;
    }
    let mut packed = archive.into_inner()?;
    packed.flush()?;
    Ok(packed.into())
}
