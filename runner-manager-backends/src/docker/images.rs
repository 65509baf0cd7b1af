//! Images: pulled as the placement says, each at most once at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use futures_util::stream::TryStreamExt;
use runner_manager_core::backend::{BackendError, BackendErrorKind};
use runner_manager_core::retry::Retry;

use super::config::{PlacementConfig, Pull};
use super::engine::Engine;
use super::errors::{Effect, Failure};

/// How a pull ended, for all who wait for it.
type Outcome = Result<(), (BackendErrorKind, Retry, String)>;

/// The images of an engine.
///
/// A pull belongs to the engine and not to the call that began it: a call that is dropped leaves it under
/// way, and the next one for the image waits for the same pull. So an image that takes longer than one call
/// may take is there in the end.
#[derive(Debug)]
pub(super) struct Images {
    engine: Arc<Engine>,
    pull_timeout: Duration,
    pulls: Mutex<BTreeMap<String, Shared<BoxFuture<'static, Outcome>>>>,
}

impl Images {
    pub(super) fn new(engine: Arc<Engine>, pull_timeout: Duration) -> Self {
        Self { engine, pull_timeout, pulls: Mutex::default() }
    }

    /// Has the image of a placement on the engine, as far as its pull policy goes.
    pub(super) async fn provide(&self, config: &PlacementConfig) -> Result<(), BackendError> {
        let image = config.image();
        let pull = match config.pull {
            Pull::Never => false,
            Pull::Always => true,
            Pull::Missing => !self.has("create", image).await?,
        };
        if pull { self.pull(image).await } else { Ok(()) }
    }

    /// Whether the engine has an image.
    pub(super) async fn has(&self, operation: &'static str, image: &str) -> Result<bool, BackendError> {
        let told = match self.engine.docker().await {
            Ok(docker) => self.engine.call(docker.inspect_image(image)).await,
            Err(failure) => Err(failure),
        };
        match told {
            Ok(_) => Ok(true),
            Err(failure) if failure.status() == Some(404) => Ok(false),
            Err(failure) => Err(failure.into_error(operation, Effect::None, format!("image {image}"))),
        }
    }

    async fn pull(&self, image: &str) -> Result<(), BackendError> {
        let pull = {
            let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            pulls.entry(image.to_owned()).or_insert_with(|| self.begin(image)).clone()
        };
        let outcome = pull.clone().await;
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        if pulls.get(image).is_some_and(|other| other.ptr_eq(&pull)) {
            pulls.remove(image);
        }
        outcome.map_err(|(kind, retry, detail)| BackendError::new(kind, "create", detail).retry(retry))
    }

    fn begin(&self, image: &str) -> Shared<BoxFuture<'static, Outcome>> {
        let (engine, limit, image) = (Arc::clone(&self.engine), self.pull_timeout, image.to_owned());
        let pull = async move {
            let outcome = match engine.docker().await {
                Ok(docker) => {
                    let options = CreateImageOptionsBuilder::new().from_image(&with_tag(&image)).build();
                    let progress = docker.create_image(Some(options), None, None);
                    engine.within(limit, progress.try_for_each(async |_| Ok(()))).await
                }
                Err(failure) => Err(failure),
            };
            outcome.map_err(|failure| told(failure, &image))
        };
        pull.boxed().shared()
    }
}

fn told(failure: Failure, image: &str) -> (BackendErrorKind, Retry, String) {
    // No container is made before the image is there, so a pull without an end has changed nothing of ours.
    let error = failure.into_error("create", Effect::None, format!("image {image} could not be pulled"));
    (error.kind, error.retry, error.detail)
}

/// The engine would pull all tags of an image that names none.
fn with_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::with_tag;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        assert_eq!(with_tag("a/b"), "a/b:latest");
        assert_eq!(with_tag("host:5000/b"), "host:5000/b:latest");
        assert_eq!(with_tag("host:5000/b:1"), "host:5000/b:1");
        assert_eq!(with_tag("b@sha256:0"), "b@sha256:0");
    }
}
