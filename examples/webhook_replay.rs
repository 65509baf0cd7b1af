//! Recorded webhooks, taken in by a manager: what it knows of each job then, and why the job waits.
//!
//! ```text
//! cargo run -p runner-manager-examples --bin webhook_replay [FILE]...
//! ```
//!
//! A file holds one payload as GitHub sent it; without any, GitHub's published examples are replayed.
//! The manager takes webhooks in without [running](Manager::run): a job is recorded with the group that it
//! counts for, and nothing is made of it. So this tells what a configuration would do with real traffic.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::{
    Arch, BackendName, Bounds, ConnectionName, DeliveryId, DeploymentName, GitHubGroup, GroupName, JobState,
    Labels, Limits, Os, Owner, Placement, RunnerGroup, Scope, Secret,
};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::manager::{Account, Manager, Parts, Settings};
use runner_manager_core::random::SystemRandom;
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::testing::simulated::SimulatorTransport;
use runner_manager_core::testing::simulator::{self, Simulator};
use runner_manager_core::webhook::{Webhook, parse, sign, verify};

const EXAMPLES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../runner-manager-core/tests/data/github/webhook-examples");

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let manager = build()?;
    manager.configure(vec![group("codertocat", &["ubuntu-latest"])?, group("lineville", &["gpu"])?]).await?;
    for file in files()? {
        let body = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        println!("{name}");
        take_in(&manager, &file.to_string_lossy(), &body).await?;
    }
    Ok(())
}

/// What a receiver does with one request, given its body and its headers.
async fn take_in(manager: &Manager, delivery: &str, body: &[u8]) -> anyhow::Result<()> {
    // The headers were not recorded: the signature is made here, and the event told by the payload.
    let secrets = [Secret::new("the webhook's secret at GitHub")];
    let signature = sign(&secrets[0], body);
    let event = event_of(body)?;

    verify(&secrets, body, Some(&signature))?;
    match parse(event, body)? {
        Webhook::WorkflowJob(seen) => {
            // The delivery's name makes a repeat harmless: GitHub's redeliveries bear the first one's.
            let taken = manager.observe(&DeliveryId::new(delivery), &seen).await?;
            let known = manager.job(seen.id).await?.context("what was observed is on record")?;
            let status = known.status;
            println!("  {taken:?}: job {} of {} {}", seen.id, seen.repository, state(&status.job.state));
            if let Some(reason) = status.reason {
                println!("  It waits: {reason}");
            }
        }
        Webhook::Ping => println!("  a ping"),
        Webhook::Ignored { event, because } => println!("  {event} is ignored: {because}"),
    }
    Ok(())
}

fn state(state: &JobState) -> String {
    match state {
        JobState::Waiting => "is not let go yet".to_owned(),
        JobState::Queued { group: Some(group) } => format!("is queued and counts for group {group}"),
        JobState::Queued { group: None } => "is queued, and no group serves it".to_owned(),
        JobState::Presumed { runner, .. } => format!("runs on {runner}, as that says"),
        JobState::InProgress { runner, .. } => format!("runs on {runner}"),
        JobState::Completed { conclusion, .. } => format!("completed: {conclusion:?}"),
    }
}

fn event_of(body: &[u8]) -> anyhow::Result<&'static str> {
    let payload: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(body).context("a payload is a JSON object")?;
    Ok(match payload {
        payload if payload.contains_key("workflow_job") => "workflow_job",
        payload if payload.contains_key("zen") => "ping",
        _ => "unknown",
    })
}

fn files() -> anyhow::Result<Vec<PathBuf>> {
    let given: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if !given.is_empty() {
        return Ok(given);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(EXAMPLES).with_context(|| format!("cannot list {EXAMPLES}"))? {
        files.push(entry?.path());
    }
    // In the order in which GitHub would have sent them. The manager does not need that, but the reader does.
    files.sort();
    files.sort_by_key(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        ["ping", "waiting", "queued", "in_progress"]
            .iter()
            .position(|first| name.starts_with(first))
            .unwrap_or(4)
    });
    Ok(files)
}

/// A manager that will only be told things: it asks neither GitHub nor a backend.
fn build() -> anyhow::Result<Manager> {
    let clock = Arc::new(SystemClock);
    let storage = Arc::new(EmbeddedStorage::in_memory(clock.clone()));
    let github = Arc::new(Mutex::new(Simulator::new(simulator::Settings::default())));
    let transport = Arc::new(SimulatorTransport::new(github, clock.clone()));
    Ok(Manager::new(Parts {
        owner: Owner::new(DeploymentName::new("replay")?, &Secret::new("nothing is made under this key")),
        storage: storage.into(),
        github: Account::new(Arc::new(RestGitHub::new(transport, clock.clone()))).into(),
        backends: BTreeMap::new(),
        clock,
        random: Arc::new(SystemRandom),
        settings: Settings::default(),
    }))
}

/// A group for the repositories of one organization.
fn group(organization: &str, labels: &[&str]) -> anyhow::Result<RunnerGroup> {
    let placement = Placement::new(BackendName::new("nowhere")?, "nowhere", serde_json::json!({}));
    Ok(RunnerGroup {
        name: GroupName::new(organization)?,
        scope: Scope::organization(organization).context("not an organization's name")?,
        github: ConnectionName::default(),
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::parse(labels)?,
        bounds: Bounds::new(0, 4)?,
        priority: 0,
        order: 0,
        tags: BTreeMap::new(),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: vec![placement],
    })
}
