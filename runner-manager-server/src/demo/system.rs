//! All parts of the demo, put together and running in this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use runner_manager_core::clock::{Clock, SystemClock, timeout};
use runner_manager_core::domain::{RunnerGroup, Secret, TokenKey};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::github::GitHub;
use runner_manager_core::manager::{
    Account, Callback, CallbackAddress, ConnectedBackend, Manager, Parts, Settings,
};
use runner_manager_core::octocrab::{Credentials, OctocrabSettings, OctocrabTransport};
use runner_manager_core::random::{Random, SystemRandom};
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::testing::simulator::{Job, Scope, Settings as GitHubSettings};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::hosting::{Connected, Hosting};
use super::progress::Standing;
use super::site::{Site, serve_site};
use super::{DemoArgs, hex_secret, plan};
use crate::github_face::{AT_ONCE, SimulatedGitHub};
use crate::http_face::{Face, listen, serve};
use crate::summary::{Evidence, Summary, first_sent};

/// How long an agent may say nothing before its job counts as lost.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// How long the parts may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// How often everything is listed: a lost webhook waits no longer than this.
const SWEEP: Duration = Duration::from_secs(15);

type Running = JoinSet<anyhow::Result<&'static str>>;

/// The demo, running.
#[derive(Debug)]
pub(super) struct System {
    /// Where the live page is.
    pub(super) page: String,
    github: Arc<SimulatedGitHub>,
    hosting: Arc<Hosting>,
    groups: Vec<RunnerGroup>,
    parts: Running,
    stop: CancellationToken,
    began: Timestamp,
}

impl System {
    /// Starts all parts.
    ///
    /// # Errors
    /// When a port cannot be had, or a part cannot be made.
    pub(super) async fn start(args: &DemoArgs, hosting: &Arc<Hosting>) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let mut parts = Running::new();
        let (listener, site) = listen(args.port).await?;
        let page = format!("http://{site}");
        let secret = Secret::new(hex_secret());
        let token = Secret::new(hex_secret());
        let (github, api_url) = start_github(&token, &mut parts, &stop).await?;
        github.with(|github, now| {
            let organization = Scope::Organization(plan::ORGANIZATION.to_owned());
            github.add_hook(&organization, &format!("{page}/webhook"), secret.expose(), now)
        });
        let connected = hosting.connect(&github, &mut parts, &stop).await?;
        let jobs = usize::try_from(args.jobs)?;
        let groups = plan::groups(jobs, hosting.ceiling(), &connected.placement)?;
        let adapter = OctocrabTransport::new(
            OctocrabSettings::new(api_url, Credentials::Token(token)),
            Arc::new(SystemClock),
        )?;
        let adapter: Arc<dyn GitHub> = Arc::new(RestGitHub::new(Arc::new(adapter), Arc::new(SystemClock)));
        let manager = manager(hosting, connected, adapter, &page);
        manager.configure(groups.clone()).await.context("the manager did not take its groups")?;
        start_manager(listener, Site { manager, secret }, &mut parts, &stop);
        let (hosting, began) = (Arc::clone(hosting), SystemClock.now());
        Ok(Self { page, github, hosting, groups, parts, stop, began })
    }

    /// Queues the demo's jobs at GitHub.
    ///
    /// # Errors
    /// When GitHub refuses one.
    pub(super) fn queue_jobs(&mut self, args: &DemoArgs) -> anyhow::Result<()> {
        self.began = SystemClock.now();
        let specs = plan::jobs(usize::try_from(args.jobs)?, args.job_seconds);
        self.github
            .with(|github, now| specs.iter().try_for_each(|spec| github.queue_job(spec, now).map(drop)))?;
        Ok(())
    }

    /// What is about to happen, for people.
    pub(super) fn describe(&self, args: &DemoArgs) -> String {
        let groups = self.groups.iter().map(|group| format!("{} (max {})", group.name, group.bounds.max()));
        let groups = groups.collect::<Vec<_>>().join(", ");
        format!("{} jobs of {} s for the runner groups {groups}", args.jobs, args.job_seconds)
    }

    /// How long the jobs must take at the least.
    pub(super) fn shortest(&self, args: &DemoArgs) -> Duration {
        let smallest = self.groups.iter().map(|group| group.bounds.max()).min().unwrap_or(1);
        Duration::from_secs(args.job_seconds * u64::from(args.jobs.div_ceil(smallest)))
    }

    /// How it stands, by GitHub's and the backend's books.
    pub(super) fn standing(&self) -> Standing {
        let alive = self.hosting.alive();
        let group = |group: &RunnerGroup| {
            let name = group.name.to_string();
            let alive = alive.get(&name).copied().unwrap_or(0);
            (name, alive, group.bounds.max())
        };
        Standing {
            jobs: self.github.with(|github, _| github.books().jobs),
            registered: self.github.with(|github, _| github.books().runners.alive),
            groups: self.groups.iter().map(group).collect(),
        }
    }

    /// Waits until one of the parts ends, which none may; tells which, and why.
    pub(super) async fn part_ended(&mut self) -> String {
        match self.parts.join_next().await {
            Some(Ok(Ok(part))) => part.to_owned(),
            Some(Ok(Err(error))) => format!("{error:#}"),
            Some(Err(error)) => error.to_string(),
            None => std::future::pending().await,
        }
    }

    /// What came of it until now.
    pub(super) fn summary(&self) -> Summary {
        let sent = first_sent(&self.github.sent());
        let of_group = |job: &Job| Some((plan::group_of(&job.labels)?.to_owned(), *sent.get(&job.id)?));
        let (books, announced) = self.github.with(|github, _| {
            let announced: Vec<_> = github.jobs().filter_map(of_group).collect();
            (github.books().clone(), announced)
        });
        let groups = self.groups.iter().map(|group| (group.name.to_string(), group.bounds)).collect();
        let took = SystemClock.now().duration_since(self.began);
        Summary::of(&Evidence {
            github: &books,
            announced: &announced,
            lives: &self.hosting.lives(),
            groups: &groups,
            took: took.try_into().unwrap_or(Duration::ZERO),
        })
    }

    /// Stops all parts, and waits for them.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        let ended = async { while self.parts.join_next().await.is_some() {} };
        if timeout(&SystemClock, STOP_WITHIN, ended).await.is_err() {
            tracing::warn!("some parts of the demo did not stop in time and were cut");
        }
    }
}

async fn start_github(
    token: &Secret,
    parts: &mut Running,
    stop: &CancellationToken,
) -> anyhow::Result<(Arc<SimulatedGitHub>, String)> {
    let (listener, address) = listen(0).await?;
    let url = format!("http://{address}");
    let mut settings = GitHubSettings {
        // Its JIT configs come from this.
        seed: SystemRandom.next_u64(),
        base_url: url.clone(),
        tokens: vec![token.expose().to_owned()],
        ..GitHubSettings::default()
    };
    settings.timings.heartbeat = Some(SILENCE);
    let github = SimulatedGitHub::new(settings, Arc::new(SystemClock));
    let (face, stopped) = (Arc::clone(&github) as Arc<dyn Face>, stop.clone());
    parts.spawn(async move {
        serve(listener, face, stopped).await;
        Ok("the simulated GitHub")
    });
    let (sender, stopped) = (Arc::clone(&github), stop.clone());
    parts.spawn(async move {
        sender.deliver(AT_ONCE, stopped).await;
        Ok("the sender of webhooks")
    });
    Ok((github, url))
}

fn manager(hosting: &Hosting, connected: Connected, github: Arc<dyn GitHub>, page: &str) -> Manager {
    let storage = Arc::new(EmbeddedStorage::in_memory(Arc::new(SystemClock)));
    let Connected { backend, placement, concurrency } = connected;
    let address = CallbackAddress { url: page.to_owned(), ca: None };
    let callback = Callback { key: TokenKey::new(Secret::new(hex_secret())), address: Some(address) };
    Manager::new(Parts {
        owner: hosting.owner.clone(),
        storage: storage.into(),
        // The simulated GitHub lets register as many as come.
        github: Account { registrations: None, ..Account::new(github) }.into(),
        backends: BTreeMap::from([(placement.backend, ConnectedBackend::new(backend, concurrency))]),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        settings: Settings { sweep_interval: SWEEP, callback: Some(callback), ..Settings::default() },
    })
}

fn start_manager(listener: TcpListener, site: Site, parts: &mut Running, stop: &CancellationToken) {
    let (manager, stopped) = (site.manager.clone(), stop.clone());
    parts.spawn(async move {
        manager.run(stopped).await;
        Ok("the manager")
    });
    let stopped = stop.clone();
    parts.spawn(async move {
        serve_site(listener, site, stopped).await;
        Ok("the manager's HTTP server")
    });
}
