//! `serve`: the manager and its HTTP server, from start to stop.
//!
//! The order at the start: the configuration, the port, the storage, GitHub, the backends, the groups. What is
//! wrong with one of them ends the start before anything was done. At the stop the port closes first, and the
//! manager finishes or puts back what it holds. In between, SIGHUP has the groups and
//! `sweep_dry_run` read anew.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::config::{self, Configuration, Webhooks};
use runner_manager_core::domain::TokenKey;
use runner_manager_core::manager::{Callback, CallbackAddress, Manager, Parts, Settings};
use runner_manager_core::random::SystemRandom;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::auth::Access;
use crate::http::{AppParts, AppState, router, server};
use crate::reload::Reloads;
use crate::signals::ReloadSignal;
use crate::webhooks::webhook_url;
use crate::{connect, output};

/// Serves until `stop` is cancelled.
///
/// # Errors
/// When it cannot start.
pub(crate) async fn run(file: &Path, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let reload = ReloadSignal::listen().context("cannot listen for SIGHUP")?;
    let configuration = config::load(file, &runner_manager_backends::registry())?;
    serve(file, configuration, reload, stop).await?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(
    file: &Path,
    configuration: Configuration,
    reload: ReloadSignal,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let listen = configuration.server.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let access = Access::new(&configuration.server, address);
    warn_of(&configuration, &access);
    let webhooks = configuration.server.webhooks.clone();
    let parts = parts(&configuration, clock.clone()).await?;
    let manager = Manager::new(parts);
    manager
        .configure(configuration.groups.clone())
        .await
        .context("the groups cannot be written to the store")?;
    let state = AppState::new(AppParts {
        manager: manager.clone(),
        clock: clock.clone(),
        webhooks,
        access,
        stop: stop.clone(),
    });
    tracing::info!(%address, deployment = %configuration.name, version = env!("CARGO_PKG_VERSION"), "listening");
    output::line(&format!("listening on http://{address}"))?;
    let reloads = Reloads { file, started_with: configuration, manager: &manager };
    tokio::join!(
        server::serve(listener, router(state), clock, stop.clone()),
        reloads.serve(reload, &stop),
        manager.run(stop.clone())
    );
    Ok(())
}

async fn parts(configuration: &Configuration, clock: Arc<dyn Clock>) -> anyhow::Result<Parts> {
    let storage = connect::storage(&configuration.store, clock.clone()).await?;
    let registry = runner_manager_backends::registry();
    Ok(Parts {
        owner: configuration.owner.clone(),
        storage,
        github: connect::connections(&configuration.github, &clock)?,
        backends: connect::backends(&configuration.backends, &registry, clock.clone()).await?,
        clock,
        random: Arc::new(SystemRandom),
        settings: Settings {
            balance: configuration.balance,
            sweep_interval: configuration.sweep_interval,
            sweep_dry_run: configuration.sweep_dry_run,
            lease: configuration.lease,
            call_timeout: configuration.call_timeout,
            heartbeat: configuration.lease / 18,
            recover_interval: configuration.recover_interval,
            redeliver_interval: configuration.redeliver_interval,
            webhook_url: webhook_url(configuration),
            callback: Some(callback(configuration)),
            ..Settings::default()
        },
    })
}

/// Machines that call are always heard: some may have been told to before the configuration was another.
fn callback(configuration: &Configuration) -> Callback {
    let server = &configuration.server;
    let address = server.bootstrap_url.as_ref().map(|url| CallbackAddress {
        url: url.as_str().trim_end_matches('/').to_owned(),
        ca: server.bootstrap_ca.clone(),
    });
    Callback { key: TokenKey::new(configuration.secret_key.clone()), address }
}

fn warn_of(configuration: &Configuration, access: &Access) {
    if matches!(access, Access::Nobody) {
        tracing::warn!("no server.tokens are configured: the dashboard, the API and /metrics answer nobody");
    }
    if configuration.sweep_dry_run {
        tracing::warn!("sweep_dry_run: sweeps say what they would do, and do nothing of it");
    }
    if matches!(configuration.server.webhooks, Webhooks::Unsigned) {
        tracing::warn!("allow_unsigned_webhooks: whoever reaches this port can send webhooks");
    }
}
