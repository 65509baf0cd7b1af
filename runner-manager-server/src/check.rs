//! `check`: whether a configuration is right, and with `--online` whether it would work.

mod github_groups;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use futures_util::future::{join_all, join3};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::config::{self, Configuration, Fault, LoadError, StoreSettings};
use runner_manager_core::domain::{BackendName, ConnectionName, RunnerGroup, Scope};
use runner_manager_core::github::Intent;
use runner_manager_core::random::SystemRandom;
use runner_manager_core::redis::examine;
use serde::Serialize;

use crate::cli::ConfigFile;
use crate::connect::Connected;
use crate::patience::Patience;
use crate::{WRONG_INPUT, connect, output};

/// What is to be checked.
#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    #[command(flatten)]
    file: ConfigFile,
    /// Also asks GitHub, the store (which is opened, and made where there is none) and each backend.
    #[arg(long)]
    online: bool,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Whether nothing is wrong.
    ok: bool,
    /// What is wrong in the file.
    faults: Vec<Fault>,
    /// What was asked online, in this order.
    online: Vec<Finding>,
}

/// One thing that was asked, and what is missing.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was asked about.
    subject: String,
    /// What is missing, in words; empty where all is well.
    missing: Vec<String>,
    /// What is good to know, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remarks: Vec<String>,
}

impl Finding {
    /// What an answer says; a failed question is something missing, too.
    fn new(subject: impl Into<String>, answer: Result<Vec<String>, impl Display>) -> Self {
        let missing = answer.unwrap_or_else(|error| vec![format!("{error:#}")]);
        Self { subject: subject.into(), missing, remarks: Vec::new() }
    }
}

/// Checks, and prints what was found.
///
/// # Errors
/// When the file cannot be read at all.
pub(crate) async fn run(options: &CheckOptions) -> anyhow::Result<ExitCode> {
    let file = &options.file.config;
    let configuration = match config::load(file, &runner_manager_backends::registry()) {
        Ok(configuration) => configuration,
        Err(LoadError::Faults(faults)) => {
            if options.json {
                output::json(&Report { faults: faults.iter().cloned().collect(), ..Report::default() })?;
            } else {
                output::line(&faults.to_string())?;
            }
            return Ok(ExitCode::from(WRONG_INPUT));
        }
        Err(unreadable @ LoadError::Unreadable { .. }) => return Err(unreadable.into()),
    };
    let online = if options.online { ask(&configuration).await } else { Vec::new() };
    let ok = online.iter().all(|finding| finding.missing.is_empty());
    let report = Report { ok, online, ..Report::default() };
    if options.json {
        output::json(&report)?;
    } else {
        let (groups, backends) = (configuration.groups.len(), configuration.backends.len());
        output::line(&format!(
            "{}: no faults (runner groups: {groups}, backends: {backends})",
            file.display()
        ))?;
        print(&report.online)?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(findings: &[Finding]) -> std::io::Result<()> {
    for Finding { subject, missing, remarks } in findings {
        if missing.is_empty() {
            output::line(&format!("ok       {subject}"))?;
        }
        for what in missing {
            output::line(&output::printable(&format!("MISSING  {subject}: {what}")))?;
        }
        for what in remarks {
            output::line(&output::printable(&format!("note     {subject}: {what}")))?;
        }
    }
    Ok(())
}

/// Asks all of them at the same time, so that who does not answer keeps nobody else from it.
async fn ask(configuration: &Configuration) -> Vec<Finding> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let connections = configuration.github.keys().map(|name| github(configuration, name, &clock));
    let backends = configuration.backends.keys().map(|name| backend(configuration, name, &clock));
    let (store, connections, backends) =
        join3(store(configuration, &clock), join_all(connections), join_all(backends)).await;
    let others = connections.into_iter().chain(backends).flatten();
    [store].into_iter().chain(others).collect()
}

async fn store(configuration: &Configuration, clock: &Arc<dyn Clock>) -> Finding {
    let patience = Patience::new(clock.clone(), configuration.call_timeout);
    let answer = match patience.ask(connect::storage(&configuration.store, clock.clone())).await {
        Ok(storage) => patience.ask(storage.store.ready()).await.map(|()| Vec::new()),
        Err(error) => Err(error),
    };
    let mut finding = Finding::new("store", answer);
    if let StoreSettings::Redis(settings) = &configuration.store {
        match patience.ask(examine(settings, clock.clone(), Arc::new(SystemRandom))).await {
            Ok(found) => {
                finding.missing.extend(found.faults());
                finding.remarks = found.remarks();
            }
            // What is in the way was told by opening it.
            Err(error) if finding.missing.is_empty() => finding.missing.push(format!("{error:#}")),
            Err(_) => {}
        }
    }
    finding
}

/// What GitHub says by one connection: of the scopes of its groups by each credential, of hooks, and of runner
/// groups.
async fn github(
    configuration: &Configuration,
    name: &ConnectionName,
    clock: &Arc<dyn Clock>,
) -> Vec<Finding> {
    let settings = &configuration.github[name];
    let accounts = match connect::connected(name, settings, clock) {
        Ok(accounts) => accounts,
        Err(error) => return vec![Finding::new(name.of_github(), Err(error))],
    };
    let patience = Patience::new(clock.clone(), settings.call_timeout);
    let groups: Vec<&RunnerGroup> =
        configuration.groups.iter().filter(|group| group.github == *name).collect();
    let intents = intents(&groups);
    let mut findings = Vec::new();
    for Connected { called, github, .. } in &accounts {
        for (scope, intent) in &intents {
            let answer = patience.ask(github.check(scope, *intent)).await;
            findings.push(Finding::new(format!("{called}, {scope}"), answer));
        }
    }
    let scopes: BTreeSet<&Scope> = intents.into_keys().collect();
    if scopes.is_empty() {
        let mut finding = Finding::new(name.of_github(), Ok::<_, anyhow::Error>(Vec::new()));
        finding.remarks.push("no runner group is worked on by it, so that nothing was asked".to_owned());
        return vec![finding];
    }
    findings.extend(webhooks::look(configuration, &scopes, &accounts, &patience).await);
    for group in groups {
        findings.push(github_groups::look(&*accounts[0].github, group, &patience).await);
    }
    findings
}

/// What is to be done on each scope of these groups.
fn intents<'a>(groups: &[&'a RunnerGroup]) -> BTreeMap<&'a Scope, Intent> {
    let mut intents = BTreeMap::new();
    for group in groups {
        let intent = intents.entry(&group.scope).or_insert(Intent::Supply);
        if group.rerun_on_loss {
            *intent = Intent::SupplyAndRerun;
        }
    }
    intents
}

/// What one backend says: whether it lists its instances, and of the placements on it.
async fn backend(configuration: &Configuration, name: &BackendName, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let registry = runner_manager_backends::registry();
    let patience = Patience::new(clock.clone(), configuration.call_timeout);
    let subject = format!("backend {name}");
    let connecting = connect::backend(name, &configuration.backends[name], &registry, clock.clone());
    let backend = match patience.ask(connecting).await {
        Ok(backend) => backend,
        Err(error) => return vec![Finding::new(subject, Err(error))],
    };
    let listed = patience.ask(backend.list(&configuration.owner)).await;
    let mut findings = vec![Finding::new(subject, listed.map(|_| Vec::new()))];
    let placements = configuration.groups.iter().flat_map(|group| {
        group.placements.iter().filter(|placement| placement.backend == *name).map(move |of| (group, of))
    });
    for (group, placement) in placements {
        let subject = format!("placement {} of {} on {name}", placement.description, group.name);
        let answer = patience.ask(backend.validate(placement)).await;
        // Who could not be asked once is not asked again.
        let remarks = match &answer {
            Ok(_) => patience.ask(backend.remarks(placement, group.bounds.max())).await,
            Err(_) => Ok(Vec::new()),
        };
        let mut finding = Finding::new(subject, answer);
        finding.remarks = remarks.unwrap_or_else(|error| vec![format!("{error:#}")]);
        findings.push(finding);
    }
    findings
}
