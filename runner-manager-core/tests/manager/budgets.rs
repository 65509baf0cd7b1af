//! What two managers on one storage may ask of GitHub and of a backend together.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use runner_manager_backends::fake::{Behaviour, FakeBackend, Fault, Operation};
use runner_manager_core::backend::{
    Activity, Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec,
};
use runner_manager_core::budget::{Bound, BudgetKey, Budgets, Permission, Permit, Quota, Rate};
use runner_manager_core::clock::{Clock, SimulatedClock};
use runner_manager_core::domain::{Instance, InstanceId, Owner, RunnerName};
use runner_manager_core::manager::{Account, ConnectedBackend};
use runner_manager_core::rest::{As, RestGitHub, Transport, TransportError};
use runner_manager_core::store::{JobFilter, Page, StoreError};
use runner_manager_core::testing::simulated::SimulatorTransport;
use runner_manager_core::testing::simulator::{DurationRange, Effect, JitLimit, RequestFault};

use crate::world::{World, backend, change_account, spec};
use crate::{HOUR, MINUTE, all_run, linux};

/// When calls began, and how many were under way, whoever made them.
#[derive(Debug)]
struct Counter {
    clock: Arc<SimulatedClock>,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    begun: Vec<Timestamp>,
    under_way: usize,
    most: usize,
}

impl Counter {
    fn new(clock: &Arc<SimulatedClock>) -> Arc<Self> {
        Arc::new(Self { clock: clock.clone(), calls: Mutex::default() })
    }

    async fn count<T>(&self, call: impl Future<Output = T> + Send) -> T {
        {
            let mut calls = self.calls.lock().unwrap();
            calls.begun.push(self.clock.now());
            calls.under_way += 1;
            calls.most = calls.most.max(calls.under_way);
        }
        let answer = call.await;
        self.calls.lock().unwrap().under_way -= 1;
        answer
    }

    /// The most calls that were under way at a time.
    fn most(&self) -> usize {
        self.calls.lock().unwrap().most
    }

    fn begun(&self) -> Vec<Timestamp> {
        self.calls.lock().unwrap().begun.clone()
    }

    /// The most calls that were begun in a period of a length, wherever it begins.
    fn most_in(&self, period: Duration) -> usize {
        let (begun, period) = (self.begun(), SignedDuration::try_from(period).unwrap());
        let within = |from: Timestamp| begun.iter().filter(|at| (from..from + period).contains(*at)).count();
        begun.iter().map(|from| within(*from)).max().unwrap_or_default()
    }
}

/// A backend whose calls are counted, but for listings.
#[derive(Debug)]
struct Counted {
    inner: FakeBackend,
    counter: Arc<Counter>,
    lists: bool,
}

#[async_trait]
impl Backend for Counted {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        self.counter.count(self.inner.create(spec)).await
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        self.counter.count(self.inner.delete(id)).await
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        self.counter.count(self.inner.get(id)).await
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        self.counter.count(self.inner.find(name)).await
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let call = self.inner.list(owner);
        if self.lists { self.counter.count(call).await } else { call.await }
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn update(&self, id: &InstanceId, activity: &Activity) -> Result<(), BackendError> {
        self.inner.update(id, activity).await
    }
}

/// A way to GitHub whose requests are counted.
#[derive(Debug)]
struct CountedTransport {
    inner: SimulatorTransport,
    counter: Arc<Counter>,
}

#[async_trait]
impl Transport for CountedTransport {
    async fn send(
        &self,
        who: As<'_>,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, TransportError> {
        self.counter.count(self.inner.send(who, request)).await
    }

    fn account(&self, who: As<'_>) -> String {
        self.inner.account(who)
    }
}

/// A world with two managers, whose calls to the backend are counted together.
async fn two_managers(behaviour: Behaviour, concurrency: usize, quota: Quota) -> (World, Arc<Counter>) {
    let mut world = World::new(vec![linux(0, 100)], behaviour).await;
    world.crash().await;
    let counter = Counter::new(&world.clock);
    let (cloud, clock, shared) = (world.cloud.clone(), world.clock.clone(), counter.clone());
    let lists = quota != Quota::default();
    world.adjust = Box::new(move |parts| {
        let inner = FakeBackend::in_process(cloud.clone(), clock.clone());
        let backend = Arc::new(Counted { inner, counter: shared.clone(), lists });
        parts.backends =
            [(self::backend(), ConnectedBackend { backend, concurrency, quota, direct: false })].into();
    });
    world.start();
    world.start();
    (world, counter)
}

#[tokio::test]
async fn a_backends_concurrency_holds_over_two_managers() {
    let behaviour = Behaviour {
        create_latency: Duration::from_secs(5),
        call_latency: Duration::from_secs(1),
        ..Behaviour::default()
    };
    let (mut world, counter) = two_managers(behaviour, 4, Quota::default()).await;
    world.queue(&spec(&["large"]), 40);
    all_run(&mut world, 40, HOUR).await;
    world.check(100);
    assert_eq!(counter.most(), 4);
}

#[tokio::test]
async fn a_backends_rate_holds_in_any_period_over_two_managers() {
    let rate = Rate { calls: 5, per: Duration::from_secs(10) };
    let quota = Quota { concurrent: None, rate: Some(rate) };
    let (mut world, counter) = two_managers(Behaviour::default(), 32, quota).await;
    world.queue(&spec(&["large"]), 30);
    all_run(&mut world, 30, HOUR).await;
    world.check(100);
    assert_eq!(counter.most_in(rate.per), 5);
    assert_eq!(world.books().total.created, 30);
}

#[tokio::test]
async fn a_backend_that_wants_to_be_left_alone_is_by_both() {
    let (mut world, counter) = two_managers(Behaviour::default(), 32, Quota::default()).await;
    world.queue(&spec(&["large"]), 10);
    world.until("all run", MINUTE, |world| world.github().books().jobs.in_progress == 10).await;
    let pause = Some(2 * MINUTE);
    let limited = Fault::Error { kind: BackendErrorKind::RateLimited, retry_after: pause };
    world.cloud().inject(Operation::Delete, Some(limited));
    world.until("a deletion is refused", MINUTE, |world| world.books().calls(Operation::Delete) > 0).await;
    let refused = *counter.begun().last().unwrap();
    all_run(&mut world, 10, 10 * MINUTE).await;
    let pause = refused..refused + SignedDuration::from_mins(2);
    let early = counter.begun().iter().filter(|at| pause.contains(*at)).count();
    assert_eq!(early, 1, "it was asked before the pause was over");
    world.check(100);
}

#[tokio::test]
async fn github_is_left_alone_by_both_when_it_wants_to_be() {
    let (mut world, _) = two_managers(Behaviour::default(), 32, Quota::default()).await;
    world.pass(MINUTE).await;
    let (until, retry_after) = (world.clock.now() + SignedDuration::from_secs(1), Some(600));
    let limited = RequestFault::always(Effect::Answer { status: 429, retry_after }).until(until);
    world.github().faults_mut().requests.push(limited.on("POST", "/orgs"));
    world.queue(&spec(&["large"]), 20);
    world.pass(Duration::from_secs(5)).await;
    let asked = |world: &World| world.github().books().requests.values().sum::<u64>();
    let before = asked(&world);
    // Both managers would sweep and look for jobs in this time.
    world.pass(9 * MINUTE + Duration::from_secs(50)).await;
    assert_eq!(asked(&world), before, "GitHub was asked before the pause was over");
    let jobs = world.manager.jobs(&JobFilter::All, &Page::first(1)).await.unwrap();
    let reason = jobs[0].reason.as_ref().unwrap().to_string();
    assert!(reason.starts_with("GitHub had too many calls: no runner of group linux can"), "{reason}");
    all_run(&mut world, 20, 10 * MINUTE).await;
    world.check(100);
    assert_eq!(world.books().total.created, 20);
}

#[tokio::test]
async fn calls_to_github_under_way_are_bounded_over_two_managers() {
    let mut world = World::new(vec![linux(0, 100)], Behaviour::default()).await;
    world.crash().await;
    let counter = Counter::new(&world.clock);
    let (github, clock, shared) = (world.github.clone(), world.clock.clone(), counter.clone());
    world.adjust = Box::new(move |parts| {
        let inner = SimulatorTransport::new(github.clone(), clock.clone());
        let transport = CountedTransport { inner, counter: shared.clone() };
        let github = Arc::new(RestGitHub::new(Arc::new(transport), clock.clone()));
        let quota = Quota { concurrent: Some(3), rate: None };
        parts.github = Account { quota, ..Account::new(github) }.into();
    });
    let second = SignedDuration::from_secs(1);
    let slow = RequestFault::always(Effect::Delay(DurationRange { min: second, max: second }));
    world.github().faults_mut().requests.push(slow);
    world.start();
    world.start();
    world.queue(&spec(&["large"]), 30);
    all_run(&mut world, 30, HOUR).await;
    world.check(100);
    assert_eq!(counter.most(), 3);
}

#[tokio::test]
async fn registrations_keep_to_githubs_limit_and_use_it() {
    let mut world = World::new(vec![linux(0, 600)], Behaviour::default()).await;
    world.stop().await;
    // GitHub says nothing of the limit; we know it by configuration.
    world.github().faults_mut().jit_limit = Some(JitLimit { per_minute: 180, announced: false });
    for _ in 0..3 {
        world.start();
    }
    let begun = world.clock.now();
    world.queue(&spec(&["large"]).seconds(7_200), 600);
    world.until("all run", HOUR, |world| world.github().books().jobs.in_progress == 600).await;
    let took = world.clock.now().duration_since(begun);
    assert_eq!(world.github().books().statuses.get(&403), None, "none is refused");
    assert_eq!(world.github().books().statuses.get(&429), None, "none is refused");
    let at_the_limit = SignedDuration::from_secs(600 * 60 / 180);
    let rate = at_the_limit.as_secs_f64() / took.as_secs_f64() * 100.0;
    eprintln!("3 replicas, 600 runners registered in {took:#}: {rate:.1} % of 180 a minute, none refused");
    assert!(took <= at_the_limit * 100 / 95, "600 runners were registered in {took:?}");
    world.check(600);
}

#[tokio::test]
async fn where_few_calls_are_left_sweeps_and_recoveries_end_and_jobs_go_on() {
    let mut world = World::new(vec![linux(0, 60)], Behaviour::default()).await;
    world.stop().await;
    world.adjust = Box::new(|parts| {
        parts.settings.sweep_interval = 2 * MINUTE;
        parts.settings.recover_interval = 2 * MINUTE;
    });
    world.start();
    world.queue(&spec(&["large"]), 1);
    all_run(&mut world, 1, HOUR).await;
    world.github().faults_mut().hourly_budget = Some(100);
    let listings = |world: &World| {
        let github = world.github();
        let of = |path: &str| -> u64 {
            let routes = github.books().requests.iter().filter(|(route, _)| route.contains(path));
            routes.map(|(_, count)| *count).sum()
        };
        of("GET /orgs/{org}/actions/runners") + of("/actions/runs")
    };
    let spent = |world: &World| world.github().books().requests.values().sum::<u64>();
    world.until("few are left", HOUR, |world| spent(world) >= 88).await;
    world.pass(2 * MINUTE).await;
    let before = listings(&world);
    world.queue(&spec(&["large"]).seconds(60), 5);
    world.until("all ran", 10 * MINUTE, |world| world.github().books().jobs.succeeded == 6).await;
    assert_eq!(listings(&world), before, "no listing is made while few calls are left");
    assert_eq!(world.github().books().statuses.get(&403), None, "the budget is never overspent");
}

/// Counts nothing now and then, and never takes a permit back.
#[derive(Debug)]
struct Forgetful {
    inner: Arc<dyn Budgets>,
    asked: Mutex<u64>,
}

#[async_trait]
impl Budgets for Forgetful {
    async fn take(&self, bounds: &[Bound], lease: Duration) -> Result<Permission, StoreError> {
        let asked = {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            *asked
        };
        match asked % 7 {
            0 => Err(StoreError::Unavailable("it counts nothing".to_owned(), None)),
            _ => self.inner.take(bounds, lease).await,
        }
    }

    async fn give_back(&self, _: &Permit) -> Result<(), StoreError> {
        Err(StoreError::Unavailable("it takes nothing back".to_owned(), None))
    }

    async fn pause(&self, key: &BudgetKey, until: Timestamp) -> Result<(), StoreError> {
        self.inner.pause(key, until).await
    }
}

#[tokio::test]
async fn a_permit_that_is_lost_leaves_no_create_unclear() {
    let mut world = World::new(vec![linux(0, 100)], Behaviour::default()).await;
    world.crash().await;
    world.adjust = Box::new(|parts| {
        let inner = parts.storage.budgets.clone();
        parts.storage.budgets = Arc::new(Forgetful { inner, asked: Mutex::default() });
        change_account(parts, |account| account.quota = Quota { concurrent: Some(10), rate: None });
    });
    world.start();
    world.queue(&spec(&["large"]), 20);
    all_run(&mut world, 20, HOUR).await;
    world.check(100);
    assert_eq!(world.books().total.created, 20);
    let creates = world.manager.statistics().snapshot().creates;
    assert_eq!(creates, [("accepted", 20)].into());
}
