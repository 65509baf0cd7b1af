//! From the configuration to what the manager works with: the storage, GitHub, the backends.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use runner_manager_core::backend::{Backend, BackendRegistry, ConnectContext};
use runner_manager_core::budget::Quota;
use runner_manager_core::clock::Clock;
use runner_manager_core::config::{BackendSettings, GitHubCredentials, GitHubSettings, StoreSettings};
use runner_manager_core::domain::BackendName;
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::github::GitHub;
use runner_manager_core::manager::{Account, ConnectedBackend, Connections, Storage};
use runner_manager_core::octocrab::{Credentials, OctocrabSettings, OctocrabTransport};
use runner_manager_core::random::SystemRandom;
use runner_manager_core::redis::RedisStorage;
use runner_manager_core::rest::RestGitHub;

/// Opens the storage.
///
/// # Errors
/// When it cannot be opened: held by another process, out of reach, damaged.
pub(crate) async fn storage(settings: &StoreSettings, clock: Arc<dyn Clock>) -> anyhow::Result<Storage> {
    match settings {
        StoreSettings::Embedded { path } => {
            let storage = Arc::new(EmbeddedStorage::open(path, clock).context("the store cannot be opened")?);
            Ok(storage.into())
        }
        StoreSettings::Redis(settings) => {
            let storage = RedisStorage::open(settings.clone(), clock, Arc::new(SystemRandom));
            Ok(Arc::new(storage.await.context("the store cannot be used")?).into())
        }
        other => anyhow::bail!("this program has no store of this kind: {other:?}"),
    }
}

/// GitHub, by its REST API. Nothing is asked yet.
///
/// # Errors
/// When the credentials cannot be used.
pub(crate) fn github(settings: &GitHubSettings, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn GitHub>> {
    let credentials = match settings.credentials.clone() {
        GitHubCredentials::Token(token) => Credentials::Token(token),
        GitHubCredentials::App { id, private_key, installation } => {
            Credentials::App { id, private_key, installation }
        }
    };
    let settings = OctocrabSettings::new(settings.api_url.as_str(), credentials);
    let transport = OctocrabTransport::new(settings, clock.clone()).context("GitHub cannot be reached so")?;
    Ok(Arc::new(RestGitHub::new(Arc::new(transport), clock)))
}

/// The connections to GitHub.
///
/// # Errors
/// When the credentials cannot be used.
pub(crate) fn connections(settings: &GitHubSettings, clock: Arc<dyn Clock>) -> anyhow::Result<Connections> {
    let quota = Quota { concurrent: Some(settings.concurrency.into()), rate: None };
    let account = Account { github: github(settings, clock)?, quota, registrations: None };
    Ok(account.into())
}

/// One backend.
///
/// # Errors
/// When its settings cannot work.
pub(crate) async fn backend(
    name: &BackendName,
    settings: &BackendSettings,
    registry: &BackendRegistry,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<dyn Backend>> {
    let kind = registry
        .get(&settings.kind)
        .with_context(|| format!("backend {name}: this program knows no kind `{}`", settings.kind))?;
    let context = ConnectContext { name: name.clone(), clock };
    kind.connect(&settings.settings, context).await.with_context(|| format!("backend {name}"))
}

/// All backends.
///
/// # Errors
/// When the settings of one cannot work.
pub(crate) async fn backends(
    settings: &BTreeMap<BackendName, BackendSettings>,
    registry: &BackendRegistry,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<BTreeMap<BackendName, ConnectedBackend>> {
    let mut connected = BTreeMap::new();
    for (name, settings) in settings {
        let backend = backend(name, settings, registry, clock.clone()).await?;
        let concurrency = usize::from(settings.concurrency);
        let quota = Quota { concurrent: None, rate: settings.rate };
        connected.insert(name.clone(), ConnectedBackend { backend, concurrency, quota });
    }
    Ok(connected)
}
