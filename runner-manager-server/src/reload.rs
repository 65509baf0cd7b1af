//! SIGHUP: the configuration is read anew while the manager runs.
//!
//! The groups and `sweep_dry_run` are taken in, the groups also where they name another connection to GitHub or another
//! backend than before, of those that the process started with; whatever else has changed is named in the log and needs
//! a restart. A file with
//! faults changes nothing: all its faults are logged, and the manager goes on with what it has.

use std::collections::BTreeSet;
use std::path::Path;

use runner_manager_core::config::{self, Configuration, GitHubSettings, LoadError, StoreSettings, Webhooks};
use runner_manager_core::domain::{BackendName, ConnectionName, Secret};
use runner_manager_core::manager::Manager;
use tokio_util::sync::CancellationToken;

use crate::signals::ReloadSignal;

/// What a reload works with.
#[derive(Debug)]
pub(crate) struct Reloads<'a> {
    /// The file.
    pub(crate) file: &'a Path,
    /// What the process started with: all but the groups and `sweep_dry_run` is still so.
    pub(crate) started_with: Configuration,
    /// Who is told of the groups.
    pub(crate) manager: &'a Manager,
}

impl Reloads<'_> {
    /// Reads the file anew with each signal, until `stop` is cancelled.
    pub(crate) async fn serve(self, mut signal: ReloadSignal, stop: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = signal.next() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.reload() => {}
            }
        }
    }

    async fn reload(&self) {
        let configuration = match config::load(self.file, &runner_manager_backends::registry()) {
            Ok(configuration) => configuration,
            Err(LoadError::Faults(faults)) => {
                for fault in faults.iter() {
                    tracing::error!(%fault, "wrong in the configuration");
                }
                tracing::error!("SIGHUP: the configuration has faults; the one before stays");
                return;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "SIGHUP: the configuration cannot be read; the one before stays");
                return;
            }
        };
        for section in changed(&self.started_with, &configuration) {
            tracing::warn!(section, "changed in the configuration: it needs a restart to take effect");
        }
        if let Err(error) = self.manager.set_dry_sweeps(configuration.sweep_dry_run).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "SIGHUP: the sweeps could not be queued: the next ones go the new way");
        }
        let unknown = unknown_connections(&self.started_with, &configuration);
        if !unknown.is_empty() {
            tracing::error!(
                connections = unknown.join(", "),
                "SIGHUP: groups use connections to GitHub that this process was not started with: restart it; the \
                 groups before stay"
            );
            return;
        }
        let unknown = unknown_backends(&self.started_with, &configuration);
        if !unknown.is_empty() {
            tracing::error!(
                backends = unknown.join(", "),
                "SIGHUP: groups use backends that this process was not started with: restart it; the groups \
                 before stay"
            );
            return;
        }
        match self.manager.reconfigure(configuration.groups).await {
            Ok(outcome) => tracing::info!(?outcome, "SIGHUP: the groups were read anew"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "SIGHUP: the groups were not taken; those before stay");
            }
        }
    }
}

/// The sections that differ, but for the groups.
fn changed(before: &Configuration, after: &Configuration) -> Vec<&'static str> {
    let sections = [
        ("name", before.name != after.name),
        ("secret_key", before.secret_key.expose() != after.secret_key.expose()),
        ("server", server(before) != server(after)),
        ("store", store(before) != store(after)),
        ("github", github(before) != github(after)),
        ("backends", before.backends != after.backends),
        ("balance", before.balance != after.balance),
        ("sweep_interval", before.sweep_interval != after.sweep_interval),
        ("recover_interval", before.recover_interval != after.recover_interval),
        ("redeliver_interval", before.redeliver_interval != after.redeliver_interval),
        ("lease", before.lease != after.lease),
        ("call_timeout", before.call_timeout != after.call_timeout),
    ];
    sections.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section).collect()
}

/// All that the section says: what prints, and the secrets, which do not.
fn server(configuration: &Configuration) -> (String, Vec<&str>) {
    let server = &configuration.server;
    let mut secrets: Vec<&str> = server.tokens.iter().map(|token| token.token.expose()).collect();
    if let Webhooks::Signed(webhooks) = &server.webhooks {
        secrets.extend(webhooks.iter().map(Secret::expose));
    }
    (format!("{server:?}"), secrets)
}

fn store(configuration: &Configuration) -> (String, Option<&str>) {
    let password = match &configuration.store {
        StoreSettings::Redis(redis) => redis.password.as_ref().map(Secret::expose),
        _ => None,
    };
    (format!("{:?}", configuration.store), password)
}

fn github(configuration: &Configuration) -> (String, Vec<&str>) {
    let secrets = configuration.github.values().flat_map(GitHubSettings::secrets).map(Secret::expose);
    (format!("{:?}", configuration.github), secrets.collect())
}

/// The connections that groups use now and that were not there at the start.
fn unknown_connections(before: &Configuration, after: &Configuration) -> Vec<String> {
    let used: BTreeSet<&ConnectionName> = after.groups.iter().map(|group| &group.github).collect();
    used.into_iter().filter(|name| !before.github.contains_key(*name)).map(ToString::to_string).collect()
}

/// The backends that groups use now and that were not there at the start.
fn unknown_backends(before: &Configuration, after: &Configuration) -> Vec<String> {
    let used: BTreeSet<&BackendName> =
        after.groups.iter().flat_map(|group| &group.placements).map(|placement| &placement.backend).collect();
    used.into_iter().filter(|name| !before.backends.contains_key(*name)).map(ToString::to_string).collect()
}
