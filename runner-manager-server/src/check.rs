//! `check`: whether a configuration is right, and with `--online` whether it would work.

mod github_groups;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use runner_manager_core::clock::{Clock, SystemClock, timeout};
use runner_manager_core::config::{self, Configuration, Fault, LoadError, StoreSettings};
use runner_manager_core::domain::{ConnectionName, RunnerGroup, Scope};
use runner_manager_core::github::Intent;
use runner_manager_core::random::SystemRandom;
use runner_manager_core::redis::examine;
use serde::Serialize;

use crate::cli::ConfigFile;
use crate::connect::Connected;
use crate::{WRONG_INPUT, connect, output};

/// How long one question may take.
const QUESTION_WITHIN: Duration = Duration::from_mins(1);

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

async fn ask(configuration: &Configuration) -> Vec<Finding> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut findings = vec![store(configuration, clock.clone()).await];
    for name in configuration.github.keys() {
        github(configuration, name, &clock, &mut findings).await;
    }
    backends(configuration, clock, &mut findings).await;
    findings
}

async fn store(configuration: &Configuration, clock: Arc<dyn Clock>) -> Finding {
    let opened = timeout(&*clock, QUESTION_WITHIN, connect::storage(&configuration.store, clock.clone()));
    let answer = match opened.await {
        Ok(Ok(storage)) => in_time(&*clock, async { storage.store.ready().await.map(|()| Vec::new()) }).await,
        Ok(Err(error)) => Err(error),
        Err(late) => Err(late.into()),
    };
    let mut finding = Finding::new("store", answer);
    if let StoreSettings::Redis(settings) = &configuration.store {
        match in_time(&*clock, examine(settings, clock.clone(), Arc::new(SystemRandom))).await {
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
    findings: &mut Vec<Finding>,
) {
    let accounts = match connect::connected(name, &configuration.github[name], clock) {
        Ok(accounts) => accounts,
        Err(error) => return findings.push(Finding::new(name.of_github(), Err(error))),
    };
    let groups: Vec<&RunnerGroup> =
        configuration.groups.iter().filter(|group| group.github == *name).collect();
    let intents = intents(&groups);
    for Connected { called, github, .. } in &accounts {
        for (scope, intent) in &intents {
            let answer = in_time(&**clock, github.check(scope, *intent)).await;
            findings.push(Finding::new(format!("{called}, {scope}"), answer));
        }
    }
    let scopes: BTreeSet<&Scope> = intents.into_keys().collect();
    if scopes.is_empty() {
        let mut finding = Finding::new(name.of_github(), Ok::<_, anyhow::Error>(Vec::new()));
        finding.remarks.push("no runner group is worked on by it, so that nothing was asked".to_owned());
        return findings.push(finding);
    }
    findings.extend(webhooks::look(configuration, &scopes, &accounts, clock).await);
    for group in groups {
        findings.push(github_groups::look(&*accounts[0].github, group, &**clock).await);
    }
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

async fn backends(configuration: &Configuration, clock: Arc<dyn Clock>, findings: &mut Vec<Finding>) {
    let registry = runner_manager_backends::registry();
    for (name, settings) in &configuration.backends {
        let subject = format!("backend {name}");
        let backend = match connect::backend(name, settings, &registry, clock.clone()).await {
            Ok(backend) => backend,
            Err(error) => {
                findings.push(Finding::new(subject, Err(error)));
                continue;
            }
        };
        let listed = in_time(&*clock, backend.list(&configuration.owner)).await;
        findings.push(Finding::new(subject, listed.map(|_| Vec::new())));
        let placements = configuration.groups.iter().flat_map(|group| {
            group.placements.iter().filter(|placement| placement.backend == *name).map(move |of| (group, of))
        });
        for (group, placement) in placements {
            let subject = format!("placement {} of {} on {name}", placement.description, group.name);
            findings.push(Finding::new(subject, in_time(&*clock, backend.validate(placement)).await));
        }
    }
}

/// The answer to one question, or why there is none.
async fn in_time<T, E>(clock: &dyn Clock, question: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    Ok(timeout(clock, QUESTION_WITHIN, question).await??)
}
