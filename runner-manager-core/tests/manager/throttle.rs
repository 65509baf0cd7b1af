//! What two managers ask of clouds that count creates and deletes for whole accounts, by the cloud's own books.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use runner_manager_backends::fake::{Behaviour, FakeBackend, Fault, Life, Operation};
use runner_manager_core::backend::{
    Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec, Throttle,
};
use runner_manager_core::budget::{Bound, BudgetKey, Budgets, Permission, Permit, Quota, Rate};
use runner_manager_core::clock::{Clock, SimulatedClock};
use runner_manager_core::domain::{BackendName, Instance, InstanceId, Owner, RunnerGroup, RunnerName};
use runner_manager_core::manager::ConnectedBackend;
use runner_manager_core::store::StoreError;

use crate::world::{World, group, spec};
use crate::{HOUR, MINUTE};

const CREATES: Rate = Rate { calls: 5, per: Duration::from_secs(10) };
const DELETES: Rate = Rate { calls: 4, per: Duration::from_secs(15) };

/// What a backend of these tests says of its cloud.
#[derive(Debug, Clone)]
enum Says {
    At(&'static str),
    /// It does not know the account.
    NoAccount,
    /// It never comes to an answer.
    Nothing,
}

/// A backend that says how its cloud bounds calls. It has the instances of the group of its name.
#[derive(Debug)]
struct Throttled {
    inner: FakeBackend,
    clock: Arc<SimulatedClock>,
    name: &'static str,
    says: Says,
}

#[async_trait]
impl Backend for Throttled {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        self.inner.create(spec).await
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        self.inner.delete(id).await
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        self.inner.get(id).await
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        self.inner.find(name).await
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let all = self.inner.list(owner).await?;
        Ok(all.into_iter().filter(|instance| instance.group.as_str() == self.name).collect())
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn throttle(&self) -> Throttle {
        let account = match self.says {
            Says::At(account) => Some(account.to_owned()),
            Says::NoAccount => None,
            Says::Nothing => {
                self.clock.sleep(24 * HOUR).await;
                unreachable!("no test takes so long")
            }
        };
        Throttle { account, creates: Some(CREATES), deletes: Some(DELETES) }
    }
}

/// The group of a backend: both, and the label of its jobs, are called the same.
fn placed_on(name: &'static str) -> RunnerGroup {
    let mut group = group(name, &[name], 0, 100, &["zone-a"]);
    for placement in &mut group.placements {
        placement.backend = BackendName::new(name).unwrap();
    }
    group
}

/// A world with two managers, whose backends all reach the one cloud. What each says may differ by the manager.
async fn two_managers(
    names: &'static [&'static str],
    says: impl Fn(usize, &'static str) -> Says + 'static,
) -> World {
    let groups = names.iter().map(|name| placed_on(name)).collect();
    let mut world = World::new(groups, Behaviour::default()).await;
    world.crash().await;
    let (cloud, clock, managers) = (world.cloud.clone(), world.clock.clone(), AtomicUsize::new(0));
    world.adjust = Box::new(move |parts| {
        let manager = managers.fetch_add(1, Ordering::Relaxed);
        let connected = names.iter().map(|name| {
            let inner = FakeBackend::in_process(cloud.clone(), clock.clone());
            let backend = Throttled { inner, clock: clock.clone(), name, says: says(manager, name) };
            (BackendName::new(*name).unwrap(), ConnectedBackend::new(Arc::new(backend), 32))
        });
        parts.backends = connected.collect();
    });
    world.start();
    world.start();
    world
}

/// When something befell the instances of these groups, in order.
fn times(world: &World, groups: &[&str], when: impl Fn(&Life) -> Option<Timestamp>) -> Vec<Timestamp> {
    let lives = world.books().lives;
    let own = lives.iter().filter(|life| groups.contains(&life.group.as_str()));
    let mut times: Vec<Timestamp> = own.filter_map(when).collect();
    times.sort();
    times
}

fn made(world: &World, groups: &[&str]) -> Vec<Timestamp> {
    times(world, groups, |life| Some(life.asked_at))
}

/// The most of these times in a period of a length, wherever it begins.
fn most_in(times: &[Timestamp], period: Duration) -> usize {
    let period = SignedDuration::try_from(period).unwrap();
    let within = |from: Timestamp| times.iter().filter(|at| (from..from + period).contains(*at)).count();
    times.iter().map(|from| within(*from)).max().unwrap_or_default()
}

fn took(times: &[Timestamp]) -> SignedDuration {
    times.last().unwrap().duration_since(times[0])
}

#[tokio::test]
async fn creates_and_deletes_are_paced_for_an_account_over_its_backends_and_over_replicas() {
    let account = |_, name| Says::At(if name == "else" { "aws:2:eu" } else { "aws:1:eu" });
    let mut world = two_managers(&["one", "two", "else"], account).await;
    for name in ["one", "two", "else"] {
        world.queue(&spec(&[name]).seconds(300), 20);
    }
    world.until("all run", HOUR, |world| world.github().books().jobs.in_progress == 60).await;
    let (shared, other) = (made(&world, &["one", "two"]), made(&world, &["else"]));
    assert_eq!([most_in(&shared, CREATES.per), most_in(&other, CREATES.per)], [5, 5]);
    // Of forty five are made at once, and then five every ten seconds.
    let least = SignedDuration::from_secs(70);
    assert!((least..least * 3 / 2).contains(&took(&shared)), "{:#}", took(&shared));
    assert!(took(&other) < least * 3 / 4, "the other account does not wait for this one: {:#}", took(&other));
    world.until("all ran", HOUR, |world| world.completed() == 60).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(100);
    for groups in [&["one", "two"][..], &["else"]] {
        let deleted = times(&world, groups, |life| life.deleted_at);
        assert_eq!(most_in(&deleted, DELETES.per), 4, "{groups:?}: {deleted:?}");
    }
}

#[tokio::test]
async fn a_replica_that_does_not_know_the_account_keeps_to_the_rate_with_those_that_do() {
    let says = |manager, _| if manager == 1 { Says::NoAccount } else { Says::At("aws:1:eu") };
    let mut world = two_managers(&["one"], says).await;
    world.queue(&spec(&["one"]).seconds(300), 30);
    world.until("all run", HOUR, |world| world.github().books().jobs.in_progress == 30).await;
    assert_eq!(most_in(&made(&world, &["one"]), CREATES.per), 5);
    world.check(100);
}

#[tokio::test]
async fn a_create_that_is_refused_for_the_rate_keeps_the_account_from_creating_and_nobody_from_the_rest() {
    let account = |_, name| Says::At(if name == "else" { "aws:2:eu" } else { "aws:1:eu" });
    let mut world = two_managers(&["one", "two", "else"], account).await;
    world.queue(&spec(&["one"]).seconds(20), 2);
    world.until("both run", MINUTE, |world| world.github().books().jobs.in_progress == 2).await;
    let pause = Some(5 * MINUTE);
    let limited = Fault::Error { kind: BackendErrorKind::RateLimited, retry_after: pause };
    world.cloud().inject(Operation::Create, Some(limited));
    let before = world.clock.now();
    world.queue(&spec(&["one"]), 1);
    world.until("one is refused", MINUTE, |world| world.books().calls(Operation::Create) == 3).await;
    let refused = world.clock.now();
    world.queue(&spec(&["two"]), 1);
    world.queue(&spec(&["else"]), 1);
    world.until("the others ran", 2 * MINUTE, |world| world.completed() == 3).await;
    world.until("their machines went", MINUTE, |world| world.books().total.alive == 0).await;
    assert_eq!(made(&world, &["else"]).len(), 1, "the other account is not left alone");
    assert!(world.clock.now() < refused + SignedDuration::from_mins(3), "deletes went on");
    world.until("all ran", 10 * MINUTE, |world| world.completed() == 5).await;
    let early = refused..before + SignedDuration::from_mins(5);
    assert!(made(&world, &["one", "two"]).iter().all(|at| !early.contains(at)), "nobody else creates there");
    world.check(100);
}

#[tokio::test]
async fn a_backend_that_never_says_how_its_cloud_bounds_calls_stops_nothing() {
    let mut world = two_managers(&["one"], |_, _| Says::Nothing).await;
    world.queue(&spec(&["one"]), 3);
    world.until("all ran", 10 * MINUTE, |world| world.completed() == 3).await;
    world.until("nothing is left", HOUR, World::is_clean).await;
    world.check(100);
}

/// Notes what leave was asked for.
#[derive(Debug)]
struct Noting {
    inner: Arc<dyn Budgets>,
    takes: Arc<Mutex<Vec<Vec<Bound>>>>,
}

#[async_trait]
impl Budgets for Noting {
    async fn take(&self, bounds: &[Bound], lease: Duration) -> Result<Permission, StoreError> {
        self.takes.lock().unwrap().push(bounds.to_vec());
        self.inner.take(bounds, lease).await
    }

    async fn give_back(&self, permit: &Permit) -> Result<(), StoreError> {
        self.inner.give_back(permit).await
    }

    async fn pause(&self, key: &BudgetKey, until: Timestamp) -> Result<(), StoreError> {
        self.inner.pause(key, until).await
    }
}

/// The leaves that were asked of a backend for one job and its runner, each by its bounds there: the leave to create comes
/// with that to register.
async fn leaves_of_a_job(throttled: bool) -> Vec<Vec<(String, Quota)>> {
    let mut world = World::new(vec![placed_on("one")], Behaviour::default()).await;
    world.crash().await;
    let takes = Arc::new(Mutex::default());
    let (cloud, clock, noted) = (world.cloud.clone(), world.clock.clone(), Arc::clone(&takes));
    world.adjust = Box::new(move |parts| {
        let inner = FakeBackend::in_process(cloud.clone(), clock.clone());
        let says = Says::At("aws:1:eu");
        let backend: Arc<dyn Backend> = if throttled {
            Arc::new(Throttled { inner, clock: clock.clone(), name: "one", says })
        } else {
            Arc::new(inner)
        };
        parts.backends = [(BackendName::new("one").unwrap(), ConnectedBackend::new(backend, 32))].into();
        let inner = parts.storage.budgets.clone();
        parts.storage.budgets = Arc::new(Noting { inner, takes: Arc::clone(&noted) });
    });
    world.start();
    world.queue(&spec(&["one"]), 1);
    world.until("it ran", MINUTE, |world| world.completed() == 1).await;
    world.until("nothing is left", MINUTE, World::is_clean).await;
    let of_backend = |bound: &&Bound| !bound.key.as_str().starts_with("github:");
    let told = |bounds: &Vec<Bound>| -> Vec<(String, Quota)> {
        bounds.iter().filter(of_backend).map(|bound| (bound.key.to_string(), bound.quota)).collect()
    };
    let takes = takes.lock().unwrap();
    takes.iter().map(told).filter(|bounds| !bounds.is_empty()).collect()
}

#[tokio::test]
async fn leave_is_asked_for_once_whatever_bounds_a_call() {
    let plain = leaves_of_a_job(false).await;
    let unbounded = vec![("backend:one".to_owned(), Quota::default())];
    assert!(plain.iter().all(|bounds| *bounds == unbounded), "nothing is counted: {plain:?}");
    let throttled = leaves_of_a_job(true).await;
    assert_eq!(throttled.len(), plain.len(), "{throttled:?}");
    let with = |word: &str, rate| {
        let part = |of: &str| (format!("{of}:{word}"), Quota { concurrent: None, rate: Some(rate) });
        [unbounded.clone(), vec![part("backend:one"), part("cloud:aws:1:eu")]].concat()
    };
    for (bounds, times) in
        [(with("creates", CREATES), 1), (with("deletes", DELETES), 1), (unbounded.clone(), plain.len() - 2)]
    {
        let count = throttled.iter().filter(|taken| **taken == bounds).count();
        assert_eq!(count, times, "{bounds:?} of {throttled:?}");
    }
}
