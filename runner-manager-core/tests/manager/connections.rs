//! Several connections to GitHub, and several Apps on one scope.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use jiff::SignedDuration;
use runner_manager_backends::fake::Behaviour;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{
    ConnectionName, DeliveryId, FoundHook, JobId, JobObservation, JobReport, Labels, RunId, RunnerGroup,
    Scope,
};
use runner_manager_core::manager::{Account, Connections, Taken};
use runner_manager_core::policy::waiting::WaitReason;
use runner_manager_core::rest::{As, RestGitHub, Transport, TransportError};
use runner_manager_core::store::{JobFilter, Page};
use runner_manager_core::testing::simulated::SimulatorTransport;
use runner_manager_core::testing::simulator::{self, AppSettings, JitLimit, JobSpec, Simulator};

use crate::world::{SECRET, WEBHOOK_URL, World, group, name, spec};
use crate::{HOUR, MINUTE, all_run, linux};

/// A way to GitHub whose registrations are counted.
#[derive(Debug)]
struct CountedTransport {
    inner: SimulatorTransport,
    registrations: Arc<AtomicU64>,
}

#[async_trait]
impl Transport for CountedTransport {
    async fn send(&self, who: As<'_>, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let registers = request.uri().path().ends_with("/generate-jitconfig");
        let answer = self.inner.send(who, request).await;
        if registers && answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
            self.registrations.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    fn app(&self) -> Option<u64> {
        self.inner.app()
    }

    fn account(&self, who: As<'_>) -> String {
        self.inner.account(who)
    }
}

fn connection(name: &str) -> ConnectionName {
    ConnectionName::new(name).unwrap()
}

/// How many runners each App of a world has registered.
#[derive(Debug, Clone)]
struct Registered([Arc<AtomicU64>; 2]);

impl Registered {
    fn counts(&self) -> [u64; 2] {
        [&self.0[0], &self.0[1]].map(|count| count.load(Ordering::Relaxed))
    }
}

/// A world of Apps 1 and 2, installed on what is told, which stand in the connections that are told.
async fn world(
    groups: Vec<RunnerGroup>,
    installed_on: [&[&str]; 2],
    connections: [&'static str; 2],
) -> (World, Registered) {
    let mut world = World::new(groups, Behaviour::default()).await;
    world.crash().await;
    let app = |id: u64, on: &[&str]| AppSettings {
        id,
        client_id: format!("Iv1.{id}"),
        installed_on: Some(on.iter().map(ToString::to_string).collect()),
        ..AppSettings::default()
    };
    let settings = simulator::Settings {
        seed: 7,
        app: Some(app(1, installed_on[0])),
        more_apps: vec![app(2, installed_on[1])],
        ..simulator::Settings::default()
    };
    *world.github() = Simulator::new(settings);
    for owner in ["acme", "umbrella"] {
        let scope = simulator::Scope::Organization(owner.into());
        let now = world.clock.now();
        world.github().add_hook(&scope, WEBHOOK_URL, SECRET, now);
    }
    let registered = Registered([Arc::default(), Arc::default()]);
    let (github, clock, counters) = (world.github.clone(), world.clock.clone(), registered.clone());
    world.adjust = Box::new(move |parts| {
        let mut all = Connections::new();
        for ((id, name), registrations) in (1..).zip(connections).zip(&counters.0) {
            let inner = SimulatorTransport::app(github.clone(), clock.clone(), id);
            let transport = Arc::new(CountedTransport { inner, registrations: Arc::clone(registrations) });
            let account = Account::new(Arc::new(RestGitHub::new(transport, clock.clone())));
            let name = connection(name);
            let accounts = [all.accounts(&name), &[account]].concat();
            all = all.with(name, accounts);
        }
        parts.github = all;
    });
    world.start();
    (world, registered)
}

#[tokio::test]
async fn each_group_works_by_its_own_connection() {
    let by = |name: &str, owner: &str, of: RunnerGroup| RunnerGroup {
        github: connection(name),
        scope: Scope::organization(owner).unwrap(),
        ..of
    };
    let groups = vec![
        by("main", "acme", group("linux", &["large"], 0, 20, &["zone-a"])),
        by("other", "umbrella", group("spare", &["large"], 0, 20, &["zone-a"])),
    ];
    // Neither App sees anything of the other's organization.
    let (mut world, registered) = world(groups, [&["acme"], &["umbrella"]], ["main", "other"]).await;
    world.queue(&spec(&["large"]), 6);
    world.queue(&JobSpec::new("umbrella/app", ["large"]).seconds(30), 4);
    all_run(&mut world, 10, HOUR).await;
    assert_eq!(registered.counts(), [6, 4]);
    let refusals = [401, 403, 404].map(|status| world.github().books().statuses.get(&status).copied());
    assert_eq!(refusals, [None; 3], "nobody asks where it has nothing to ask");
    let budgets = world.manager.github_budgets().await.unwrap();
    let names: Vec<_> = budgets.keys().map(|(name, account)| (name.as_str(), account.as_str())).collect();
    assert_eq!(names, [("main", "app:1/acme"), ("other", "app:2/umbrella")]);
    world.check(20);
}

/// An App's hook tells of the organizations that it is installed on, and of no other.
#[tokio::test]
async fn the_hook_of_one_app_does_not_stand_for_the_scopes_of_another() {
    let mut other = linux(0, 20);
    other.name = name("other");
    other.scope = Scope::organization("umbrella").unwrap();
    let groups = vec![linux(0, 20), other];
    let (mut world, _) = world(groups, [&["acme"], &["umbrella"]], ["default"; 2]).await;
    let now = world.clock.now();
    world.github().set_app_hook(WEBHOOK_URL, SECRET, now);
    world.crash().await;
    let apps = std::mem::replace(&mut world.adjust, Box::new(|_| ()));
    world.adjust = Box::new(move |parts| {
        apps(parts);
        parts.settings.webhook_url = Some(WEBHOOK_URL.to_owned());
        parts.settings.recover_interval = HOUR;
    });
    world.start();
    world.pass(5 * MINUTE).await;
    world.deliver = |_| false;
    world.queue(&JobSpec::new("umbrella/app", ["large"]).seconds(30), 4);
    world.pass(Duration::from_secs(10)).await;
    world.deliver = |_| true;
    all_run(&mut world, 4, 10 * MINUTE).await;
    let hooks = world.manager.hooks().await.unwrap();
    let found = |place: &str| hooks.iter().find(|hook| hook.place.to_string() == place).unwrap().found;
    assert!(matches!(found("organization:umbrella"), Some(FoundHook::Numbered(_))), "{hooks:?}");
    world.check(20);
}

#[tokio::test]
async fn several_apps_share_a_scope_and_what_each_may_register() {
    let (mut world, registered) = world(vec![linux(0, 600)], [&["acme"]; 2], ["default"; 2]).await;
    // GitHub says nothing of the limit, which holds for each App by itself.
    world.github().faults_mut().jit_limit = Some(JitLimit { per_minute: 180, announced: false });
    let begun = world.clock.now();
    world.queue(&spec(&["large"]).seconds(7_200), 600);
    world.until("all run", HOUR, |world| world.github().books().jobs.in_progress == 600).await;
    let took = world.clock.now().duration_since(begun);
    let refused = [403, 429].map(|status| world.github().books().statuses.get(&status).copied());
    assert_eq!(refused, [None; 2], "none is refused");
    let at_the_limit = SignedDuration::from_secs(600 * 60 / (2 * 180));
    assert!(took <= at_the_limit * 100 / 95, "600 runners were registered in {took:?}");
    let counts = registered.counts();
    assert!(counts.iter().all(|count| *count >= 240) && counts[0] + counts[1] == 600, "{counts:?}");
    world.check(600);
}

#[tokio::test]
async fn an_app_that_is_suspended_is_passed_over_until_it_is_not() {
    let (mut world, registered) = world(vec![linux(0, 60)], [&["acme"]; 2], ["default"; 2]).await;
    world.github().suspend(1, &["acme"]);
    world.queue(&spec(&["large"]), 30);
    all_run(&mut world, 30, 10 * MINUTE).await;
    assert_eq!(registered.counts(), [0, 30]);
    // With neither, the job says what is the matter and what to do.
    world.github().suspend(2, &["acme"]);
    world.queue(&spec(&["large"]), 1);
    world.pass(2 * MINUTE).await;
    let jobs = world.manager.jobs(&JobFilter::Queued(name("linux")), &Page::first(10)).await.unwrap();
    let reason = jobs[0].reason.as_ref().unwrap();
    assert!(matches!(reason, WaitReason::Blocked { .. }), "{reason:?}");
    let told = reason.to_string();
    assert!(told.contains("on acme is suspended: lift that in the settings of acme"), "{told}");
    // Once that is lifted all goes on by itself.
    world.github().suspend(1, &[]);
    all_run(&mut world, 31, Duration::from_mins(30)).await;
    assert_eq!(registered.counts(), [1, 30]);
    world.check(60);
}

#[tokio::test]
async fn a_job_that_another_server_numbers_alike_is_left_out() {
    let world = World::new(vec![linux(0, 1)], Behaviour::default()).await;
    let now = world.clock.now();
    let seen = |run: u64, repository: &str| JobObservation {
        id: JobId(5),
        run: RunId(run),
        attempt: 1,
        repository: repository.parse().unwrap(),
        enterprise: None,
        public: false,
        name: "build".to_owned(),
        workflow: None,
        labels: Labels::parse(["large"]).unwrap(),
        created_at: now,
        report: JobReport::Queued,
    };
    let manager = &world.manager;
    let first = manager.observe(&DeliveryId::new("a"), &seen(1, "acme/app")).await.unwrap();
    let second = manager.observe(&DeliveryId::new("b"), &seen(2, "acme/other")).await.unwrap();
    assert_eq!((first, second), (Taken::Recorded, Taken::NothingNew));
    let kept = manager.job(JobId(5)).await.unwrap().unwrap().status.job;
    assert_eq!((kept.run, kept.repository.name()), (RunId(1), "app"));
}
