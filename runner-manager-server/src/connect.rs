//! From the configuration to what the manager works with: the storage, GitHub, the backends.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use runner_manager_core::backend::{Backend, BackendRegistry, ConnectContext};
use runner_manager_core::budget::Quota;
use runner_manager_core::clock::Clock;
use runner_manager_core::config::{BackendSettings, GitHubCredentials, GitHubSettings, Proxy, StoreSettings};
use runner_manager_core::domain::{BackendName, ConnectionName};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::github::GitHub;
use runner_manager_core::manager::{Account, ConnectedBackend, Connections, Storage};
use runner_manager_core::octocrab::{Credentials, OctocrabSettings, OctocrabTransport, ProxySettings};
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

/// One credential of a connection to GitHub.
#[derive(Debug)]
pub(crate) struct Connected {
    /// What people call it: `GitHub`, with the connection and the App where there are several.
    pub(crate) called: String,
    /// The number of its App; none of a token.
    pub(crate) app: Option<u64>,
    /// GitHub, by its REST API.
    pub(crate) github: Arc<dyn GitHub>,
}

/// GitHub by each credential of a connection. Nothing is asked yet.
///
/// # Errors
/// When a credential, the proxy or the certificates cannot be used.
pub(crate) fn connected(
    name: &ConnectionName,
    settings: &GitHubSettings,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Vec<Connected>> {
    let github = name.of_github();
    let each = settings.credentials.iter().map(|credentials| {
        let app = match credentials {
            GitHubCredentials::App { id, .. } => Some(*id),
            GitHubCredentials::Token(_) => None,
        };
        let several = settings.credentials.len() > 1;
        let called =
            app.filter(|_| several).map_or_else(|| github.clone(), |id| format!("{github}, App {id}"));
        let github = rest(settings, credentials.clone(), clock.clone());
        Ok(Connected {
            github: github.with_context(|| format!("{called} cannot be reached so"))?,
            app,
            called,
        })
    });
    each.collect()
}

fn rest(
    settings: &GitHubSettings,
    credentials: GitHubCredentials,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<dyn GitHub>> {
    let credentials = match credentials {
        GitHubCredentials::Token(token) => Credentials::Token(token),
        GitHubCredentials::App { id, private_key, installation } => {
            Credentials::App { id, private_key, installation }
        }
    };
    let proxy = |proxy: &Proxy| ProxySettings { url: proxy.url.clone(), login: proxy.login.clone() };
    let settings = OctocrabSettings {
        proxy: settings.proxy.as_ref().map(proxy),
        ca: settings.ca.clone(),
        call_timeout: settings.call_timeout,
        ..OctocrabSettings::new(settings.api_url.as_str(), credentials)
    };
    let transport = OctocrabTransport::new(settings, clock.clone())?;
    Ok(Arc::new(RestGitHub::new(Arc::new(transport), clock)))
}

/// The connections to GitHub, with what bounds the calls of each credential.
///
/// # Errors
/// When a credential, a proxy or certificates cannot be used.
pub(crate) fn connections(
    settings: &BTreeMap<ConnectionName, GitHubSettings>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Connections> {
    let mut connections = Connections::new();
    for (name, settings) in settings {
        let account = |connected: Connected| Account {
            github: connected.github,
            quota: Quota { concurrent: Some(settings.concurrency.into()), rate: None },
            registrations: Some(settings.jit_rate),
            call_timeout: Some(settings.call_timeout),
        };
        let accounts = connected(name, settings, clock)?.into_iter().map(account).collect();
        connections = connections.with(name.clone(), accounts);
    }
    Ok(connections)
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
        connected
            .insert(name.clone(), ConnectedBackend { backend, concurrency, quota, direct: settings.direct });
    }
    Ok(connected)
}
