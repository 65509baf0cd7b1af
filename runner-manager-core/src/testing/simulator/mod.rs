//! GitHub as a runner manager sees it, without a network: a stateful and pure simulation.
//!
//! [`Simulator::handle`] is a function from (request, time) to an answer,
//! [`Simulator::deliveries_due`] gives the webhooks that are due by a time. There is no async in here, no
//! socket, no clock and no thread; all chance comes from [`Settings::seed`]. So the same calls give the same
//! bytes, and a test with simulated time runs as fast as the processor goes. Whoever wants a real server puts a
//! few lines of HTTP around it.
//!
//! It owns organizations, repositories, registrations, runner groups, jobs with their runs, hooks with their
//! deliveries, an App with its installations, credentials, rate limits, [faults](Faults), and
//! [books](Books) of what truly happened, against which a manager can be judged. It does not own the machines
//! that runners are on: who plays those calls [`connect`](Simulator::connect), [`poll`](Simulator::poll) and
//! [`finish`](Simulator::finish). It takes no job from a workflow file: jobs are [queued](Simulator::queue_job) by the test.
//!
//! What is simulated, for organizations, repositories and enterprises, with and without `/api/v3`: runners
//! (list, get, delete, JIT configs, registration and remove tokens, labels, downloads), runner groups, workflow
//! runs and jobs (read, cancel, re-run), hooks (also the App's) with deliveries and redelivery, App and
//! installations with their tokens, `/rate_limit`, `/meta`. All else is 404. Answers and payloads are tested
//! against the schemas that GitHub publishes. Known differences: listings of runs are filtered by `status`
//! alone; signatures of App web tokens are not verified; JIT configs and registration tokens are assumed to be what the rate limit resource
//! `actions_runner_registration` counts.
//!
//! # Example
//!
//! ```
//! use bytes::Bytes;
//! use jiff::{SignedDuration, Timestamp};
//! use runner_manager_core::testing::simulator::{Conclusion, DEFAULT_TOKEN, JobSpec, Scope, Settings, Simulator};
//!
//! let mut now = Timestamp::UNIX_EPOCH;
//! let mut github = Simulator::new(Settings { seed: 7, ..Settings::default() });
//! let acme = Scope::Organization("acme".into());
//! github.add_hook(&acme, "http://manager/webhook", "s3cret", now);
//!
//! // A job is queued, and the manager is told.
//! let job = github.queue_job(&JobSpec::new("acme/widgets", ["self-hosted", "linux"]).seconds(60), now)?;
//! let delivery = github.deliveries_due(now).pop().expect("one hook listens");
//! assert_eq!(delivery.action, Some("queued"));
//! github.delivered(delivery.id, Some(202), now);
//!
//! // The manager makes a runner for it.
//! let request = http::Request::post("/orgs/acme/actions/runners/generate-jitconfig")
//!     .header("authorization", format!("Bearer {DEFAULT_TOKEN}"))
//!     .header("user-agent", "example")
//!     .body(Bytes::from(r#"{"name": "r-1", "runner_group_id": 1, "labels": ["self-hosted", "linux"]}"#))?;
//! let answer = github.handle(&request, now);
//! assert_eq!(answer.response.status(), 201);
//! let body: serde_json::Value = serde_json::from_slice(answer.response.body())?;
//!
//! // The runner's agent comes, takes the job and ends it a minute later.
//! let session = github.connect(body["encoded_jit_config"].as_str().expect("a string"), now)?;
//! assert_eq!(github.poll(session, now)?.expect("it is queued").id, job);
//! now += SignedDuration::from_secs(60);
//! github.finish(session, Conclusion::Success, now)?;
//! assert_eq!(github.books().jobs.succeeded, 1);
//! assert_eq!(github.books().runners.alive, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod agents;
mod apps;
mod books;
pub mod control;
mod delivery_log;
mod faults;
mod groups;
mod hooks;
mod ids;
mod jobs;
mod lifecycle;
mod limits;
mod permissions;
mod policies;
mod random;
mod reply;
mod routes;
mod runners;
mod runs;
mod settings;
mod shapes;
#[cfg(test)]
mod tests;
mod timers;
mod webhooks;
mod world;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::Response;
use jiff::{SignedDuration, Timestamp};

use self::{
    agents::Sessions,
    apps::InstallationToken,
    groups::Groups,
    hooks::{HookTarget, Hooks},
    lifecycle::Jobs,
    limits::Limits,
    policies::Policies,
    random::Random,
    runners::Runners,
    timers::Timers,
    webhooks::Deliveries,
    world::{ScopeId, World},
};
pub use self::{
    agents::{AgentJob, ConnectRefusal, SessionEnded},
    books::{Books, JobCounts, Removal, RunnerCounts, Violation, WebhookCounts},
    faults::{DurationRange, Effect, FaultKind, Faults, JitLimit, LyingBusy, RequestFault, WebhookFaults},
    ids::{DeliveryId, HookId, JobId, RunId, RunnerId, SessionId},
    jobs::{Conclusion, Job, JobRunner, JobSpec, JobStatus, NotPossible},
    runners::Runner,
    settings::{AppHook, AppSettings, DEFAULT_TOKEN, Settings, Timings},
    webhooks::Delivery,
    world::Scope,
};

/// A simulated GitHub: see the [module](self).
#[derive(Debug)]
pub struct Simulator {
    settings: Settings,
    now: Timestamp,
    /// For names and secrets, apart from `chance`, so that a fault more does not rename all that follows.
    names: Random,
    chance: Random,
    world: World,
    groups: Groups,
    policies: Policies,
    runners: Runners,
    sessions: Sessions,
    jobs: Jobs,
    hooks: Hooks,
    deliveries: Deliveries,
    tokens: BTreeMap<String, InstallationToken>,
    limits: Limits,
    timers: Timers,
    books: Books,
}

/// The answer to one request.
#[derive(Debug)]
pub struct Answer {
    /// What GitHub says.
    pub response: Response<Bytes>,
    /// How long it is to be held back. What was asked has taken effect already.
    pub latency: Duration,
    /// The connection breaks before the answer is out: whoever asked is to see an error.
    pub reply_lost: bool,
}

impl Simulator {
    /// A GitHub without any content, but for the hooks of Apps that are to have one.
    pub fn new(settings: Settings) -> Self {
        let mut seeds = Random::new(settings.seed);
        let mut hooks = Hooks::default();
        for app in settings.app.iter().chain(&settings.more_apps) {
            if let Some(hook) = &app.hook {
                hooks.add(HookTarget::App(app.id), &hook.url, Some(&hook.secret), Timestamp::UNIX_EPOCH);
            }
        }
        Self {
            names: Random::new(seeds.next()),
            chance: Random::new(seeds.next()),
            settings,
            now: Timestamp::MIN,
            world: World::default(),
            groups: Groups::default(),
            policies: Policies::default(),
            runners: Runners::default(),
            sessions: Sessions::default(),
            jobs: Jobs::default(),
            hooks,
            deliveries: Deliveries::default(),
            tokens: BTreeMap::new(),
            limits: Limits::default(),
            timers: Timers::default(),
            books: Books::default(),
        }
    }

    /// When the next delivery or change is due that comes by itself, for a driver that sleeps until then.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.deliveries.next().into_iter().chain(self.timers.next()).min()
    }

    /// What truly happened so far.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// All registrations that are there now, oldest first.
    pub fn runners(&self) -> impl Iterator<Item = &Runner> {
        self.runners.iter()
    }

    /// A registration that is there now.
    pub fn runner(&self, id: RunnerId) -> Option<&Runner> {
        self.runners.listed(id).map(|registration| &registration.runner)
    }

    /// The registration of this name in this scope, without case.
    pub fn runner_named(&self, scope: &Scope, name: &str) -> Option<&Runner> {
        self.runner(self.runners.find_name(self.find(scope)?, name)?)
    }

    /// What goes wrong now.
    pub fn faults(&self) -> &Faults {
        &self.settings.faults
    }

    /// To change what goes wrong from now on.
    pub fn faults_mut(&mut self) -> &mut Faults {
        &mut self.settings.faults
    }

    /// Sets all that goes wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.settings.faults = faults;
    }

    /// Has an App from now on, and its hook if it is to have one.
    pub fn install_app(&mut self, app: AppSettings) {
        if let Some(hook) = &app.hook {
            self.hooks.add(HookTarget::App(app.id), &hook.url, Some(&hook.secret), self.now);
        }
        self.settings.app = Some(app);
    }

    /// Where the first App's own hook goes from now on. Nothing happens without an App.
    pub fn set_app_hook(&mut self, url: &str, secret: &str, now: Timestamp) {
        let Some(app) = self.settings.app.as_ref().map(|app| app.id) else { return };
        let hook = self.hooks.of_app(app);
        let hook = hook.unwrap_or_else(|| self.hooks.add(HookTarget::App(app), url, None, now));
        let hook = self.hooks.get_mut(hook).expect("just looked up or added");
        url.clone_into(&mut hook.url);
        hook.secret = Some(secret.to_owned());
    }

    /// Suspends the installations of an App on these accounts, and on no other.
    pub fn suspend(&mut self, app: u64, accounts: &[&str]) {
        let apps = self.settings.app.iter_mut().chain(&mut self.settings.more_apps);
        for found in apps.filter(|found| found.id == app) {
            found.suspended_on = accounts.iter().map(ToString::to_string).collect();
        }
    }

    /// Sets [`Settings::clock_ahead`].
    pub fn set_clock_ahead(&mut self, by: SignedDuration) {
        self.settings.clock_ahead = by;
    }

    /// Sets [`Settings::base_url`], for a server that learns its port late.
    pub fn set_base_url(&mut self, base_url: &str) {
        base_url.trim_end_matches('/').clone_into(&mut self.settings.base_url);
        self.deliveries.forget_fragments();
    }

    /// Adds an organization, to an enterprise if one is named (which is added, too).
    pub fn add_organization(&mut self, login: &str, enterprise: Option<&str>) {
        let enterprise = enterprise.map(|slug| self.world.add_enterprise(slug));
        self.world.add_account(login, false, enterprise);
    }

    /// Adds a user, whose repositories belong to no organization.
    pub fn add_user(&mut self, login: &str) {
        self.world.add_account(login, true, None);
    }

    /// Adds a repository (and an organization as its owner, if it has none). A public one's jobs go only to
    /// runners of groups that allow public repositories, which `Default` does not.
    pub fn add_repository(&mut self, owner: &str, name: &str, private: bool) {
        let owner = self.world.add_account(owner, false, None);
        self.world.add_repository(owner, name, private);
    }

    fn find(&self, scope: &Scope) -> Option<ScopeId> {
        match scope {
            Scope::Organization(login) => self.world.find_account(login).map(ScopeId::Organization),
            Scope::Enterprise(slug) => self.world.find_enterprise(slug).map(ScopeId::Enterprise),
            Scope::Repository(full_name) => self.world.find_repository(full_name).map(ScopeId::Repository),
        }
    }

    /// As [`find`](Self::find), and makes what is missing, if it may.
    fn resolve(&mut self, scope: &Scope) -> Option<ScopeId> {
        match scope {
            Scope::Organization(login) => self.resolve_organization(login).map(ScopeId::Organization),
            Scope::Enterprise(slug) => self.resolve_enterprise(slug).map(ScopeId::Enterprise),
            Scope::Repository(full_name) => {
                let (owner, name) = full_name.split_once('/')?;
                self.resolve_repository(owner, name).map(ScopeId::Repository)
            }
        }
    }

    fn resolve_organization(&mut self, login: &str) -> Option<u64> {
        let id = self.resolve_account(login)?;
        (!self.world.account(id).is_user).then_some(id)
    }

    fn resolve_account(&mut self, login: &str) -> Option<u64> {
        if let Some(id) = self.world.find_account(login) {
            return Some(id);
        }
        if !self.settings.create_on_demand || !is_name(login) {
            return None;
        }
        let enterprise = self.settings.enterprise.as_ref().map(|slug| self.world.add_enterprise(slug));
        Some(self.world.add_account(login, false, enterprise))
    }

    fn resolve_enterprise(&mut self, slug: &str) -> Option<u64> {
        if let Some(id) = self.world.find_enterprise(slug) {
            return Some(id);
        }
        (self.settings.create_on_demand && is_name(slug)).then(|| self.world.add_enterprise(slug))
    }

    fn resolve_repository(&mut self, owner: &str, name: &str) -> Option<u64> {
        if let Some(id) = self.world.find_repository(&format!("{owner}/{name}")) {
            return Some(id);
        }
        if !self.settings.create_on_demand || !is_name(name) {
            return None;
        }
        let owner = self.resolve_account(owner)?;
        Some(self.world.add_repository(owner, name, true))
    }

    /// The scope's path in the API, for URLs.
    fn scope_path(&self, scope: ScopeId) -> String {
        match scope {
            ScopeId::Enterprise(id) => format!("/enterprises/{}", self.world.enterprise(id).slug),
            ScopeId::Organization(id) => format!("/orgs/{}", self.world.account(id).login),
            ScopeId::Repository(id) => format!("/repos/{}", self.world.repository(id).full_name),
        }
    }
}

/// What GitHub lets accounts, repositories and enterprises be called.
fn is_name(text: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=100).contains(&text.len()) && text.bytes().all(is_legal)
}
