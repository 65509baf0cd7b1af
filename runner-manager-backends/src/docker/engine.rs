//! The way to an engine: made at the first call, and made to speak a version that both know.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use http::Uri;
use http::uri::PathAndQuery;
use runner_manager_core::clock::{Clock, timeout};
use tokio::sync::OnceCell;

use super::config::Host;
use super::errors::Failure;

/// An engine, each call to which is bounded.
#[derive(Debug)]
pub(super) struct Engine {
    host: Host,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    docker: OnceCell<Docker>,
}

impl Engine {
    pub(super) fn new(host: Host, timeout: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { host, timeout, clock, docker: OnceCell::new() }
    }

    /// The client; connects where it has not yet been done. Nothing was changed where this fails.
    pub(super) async fn docker(&self) -> Result<&Docker, Failure> {
        self.docker.get_or_try_init(|| self.within(self.timeout, self.connect())).await
    }

    /// Makes one call.
    pub(super) async fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        self.within(self.timeout, call).await
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }

    /// Makes one call that may take so long.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        Ok(timeout(self.clock.as_ref(), limit, call).await??)
    }

    /// bollard 0.21 takes the version out of its requests' paths again (fussybeaver/bollard issue 736), so
    /// that the engine would answer in its own newest version. It is put back here.
    async fn connect(&self) -> Result<Docker, Error> {
        // Ours is the limit that counts; bollard's own begins at whole seconds and does not hold for bodies.
        let seconds = self.timeout.as_secs().saturating_add(1);
        let docker = match &self.host {
            Host::Unix(path) => Docker::connect_with_unix(path, seconds, API_DEFAULT_VERSION)?,
            Host::Tcp(address) => Docker::connect_with_http(address, seconds, API_DEFAULT_VERSION)?,
        };
        let prefix: Arc<OnceLock<String>> = Arc::default();
        let known = Arc::clone(&prefix);
        let docker = docker.with_request_modifier(move |request| match known.get() {
            Some(prefix) => versioned(request, prefix),
            None => request,
        });
        let docker = docker.negotiate_version().await?;
        prefix.get_or_init(|| format!("/v{}", docker.client_version()));
        Ok(docker)
    }
}

/// The request with the version before its path, unless it is there.
fn versioned(mut request: BollardRequest, prefix: &str) -> BollardRequest {
    let uri = request.uri();
    if uri.path().starts_with("/v1.") {
        return request;
    }
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path: PathAndQuery =
        format!("{prefix}{path}").parse().expect("a path with a prefix of letters, digits and dots is one");
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path);
    *request.uri_mut() = Uri::from_parts(parts).expect("only the path of a right URI has changed");
    request
}
