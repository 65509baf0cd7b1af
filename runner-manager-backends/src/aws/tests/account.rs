//! For whom calls are counted, as STS tells it, as moto does, and as it is where nobody tells; and rates that EC2 never
//! refuses.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{join, join_all};
use jiff::Timestamp;
use runner_manager_core::backend::{Backend, BackendKind, ConnectContext};
use runner_manager_core::budget::{Bound, BudgetKey, Budgets, Permission, Permit, Quota, Rate};
use runner_manager_core::clock::{Clock, SimulatedClock, SystemClock, timeout};
use runner_manager_core::domain::{
    Arch, BackendName, Bounds, ConnectionName, GitHubGroup, GroupName, Labels, Limits, Os, RunnerGroup, Scope,
};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::manager::{self, Account, ConnectedBackend, Manager, Parts, Storage};
use runner_manager_core::random::SystemRandom;
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::store::StoreError;
use runner_manager_core::testing::simulated::SimulatorTransport;
use runner_manager_core::testing::simulator::{self, Simulator};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::AwsKind;
use super::super::config::Settings;
use super::peer::{Peer, calls, deployment};
use super::{connect, owner, placement};
use crate::testing::fault_proxy::{Harm, Proxy};

const WORD: &str = "aws:123456789012:us-east-1";

fn identity() -> Harm {
    let body = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
                <Arn>arn:aws:iam::123456789012:user/ci</Arn><UserId>AIDA</UserId><Account>123456789012</Account>\
                </GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>\
                </GetCallerIdentityResponse>";
    Harm::Answer { status: 200, body: Bytes::from_static(body.as_bytes()) }
}

fn denial() -> Harm {
    let body = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error>\
                <RequestId>r</RequestId></ErrorResponse>";
    Harm::Answer { status: 403, body: Bytes::from_static(body.as_bytes()) }
}

async fn by_the_clock(clock: &Arc<SimulatedClock>, settings: &Value) -> Arc<dyn Backend> {
    let context = ConnectContext { name: BackendName::new("eu").unwrap(), clock: clock.clone() };
    AwsKind::new().connect(settings, context).await.unwrap()
}

async fn account(backend: &Arc<dyn Backend>) -> Option<String> {
    let throttle = backend.throttle().await;
    let rate = |calls, seconds| Some(Rate { calls, per: Duration::from_secs(seconds) });
    assert_eq!((throttle.creates, throttle.deletes), (rate(3, 2), rate(40, 10)), "whoever tells what");
    throttle.account
}

#[tokio::test]
async fn sts_is_asked_once_and_where_it_does_not_tell_again_after_a_while() {
    let (tells, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (told, counted) = (Arc::clone(&tells), Arc::clone(&asked));
    let proxy = Proxy::alone(move |seen| {
        assert!(calls(seen, "GetCallerIdentity"), "nobody asks for more");
        counted.fetch_add(1, Ordering::SeqCst);
        Some(if told.load(Ordering::SeqCst) { ("told", identity()) } else { ("denied", denial()) })
    })
    .await;
    let clock = Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let backend = by_the_clock(&clock, &Peer::settings(&proxy.url)).await;
    // Who comes while it is asked has that answer, too.
    assert_eq!(join_all((0..9).map(|_| account(&backend))).await, vec![None; 9]);
    assert_eq!((account(&backend).await, asked.load(Ordering::SeqCst)), (None, 1));
    tells.store(true, Ordering::SeqCst);
    clock.advance(Duration::from_secs(299));
    assert_eq!((account(&backend).await, asked.load(Ordering::SeqCst)), (None, 1));
    clock.advance(Duration::from_secs(1));
    assert_eq!(join_all((0..9).map(|_| account(&backend))).await, vec![Some(WORD.to_owned()); 9]);
    tells.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_hours(24));
    assert_eq!((account(&backend).await.as_deref(), asked.load(Ordering::SeqCst)), (Some(WORD), 2));
}

#[tokio::test]
async fn where_there_is_no_way_to_sts_the_rates_stand() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(account(&connect(&Peer::settings(&url)).await).await, None);
}

#[tokio::test]
async fn backends_of_one_account_and_region_have_a_word_in_common() {
    let Some(peer) = Peer::find() else { return };
    let word = async |key: &str, value: Value| {
        let mut settings = Peer::settings(&peer.url);
        settings[key] = value;
        account(&connect(&settings).await).await.unwrap()
    };
    let role = |account: &str| json!({"role_arn": format!("arn:aws:iam::{account}:role/runners")});
    assert_eq!(word("page_size", json!(10)).await, WORD);
    assert_eq!(word("access_key", json!({"id": "another", "secret": "s"})).await, WORD);
    assert_eq!(word("assume_role", role("123456789012")).await, WORD);
    assert_eq!(word("assume_role", role("210987654321")).await, "aws:210987654321:us-east-1");
    assert_eq!(word("region", json!("eu-west-1")).await, "aws:123456789012:eu-west-1");
}

/// Notes for whom leave was had.
#[derive(Debug)]
struct Noting {
    inner: Arc<EmbeddedStorage>,
    had: Arc<Mutex<BTreeMap<String, Quota>>>,
}

#[async_trait]
impl Budgets for Noting {
    async fn take(&self, bounds: &[Bound], lease: Duration) -> Result<Permission, StoreError> {
        let permission = self.inner.take(bounds, lease).await?;
        if matches!(permission, Permission::Granted(_)) {
            self.had.lock().unwrap().extend(bounds.iter().map(|bound| (bound.key.to_string(), bound.quota)));
        }
        Ok(permission)
    }

    async fn give_back(&self, permit: &Permit) -> Result<(), StoreError> {
        self.inner.give_back(permit).await
    }

    async fn pause(&self, key: &BudgetKey, until: Timestamp) -> Result<(), StoreError> {
        self.inner.pause(key, until).await
    }
}

/// A group that keeps one runner idle.
fn one_idle(peer: &Peer) -> RunnerGroup {
    RunnerGroup {
        name: GroupName::new("linux").unwrap(),
        scope: Scope::organization("acme").unwrap(),
        github: ConnectionName::default(),
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::parse(["large"]).unwrap(),
        bounds: Bounds::new(1, 1).unwrap(),
        priority: 0,
        order: 0,
        tags: BTreeMap::new(),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: vec![placement(&peer.good())],
    }
}

#[tokio::test]
async fn the_manager_has_leave_for_the_account_before_it_creates() {
    let Some(peer) = Peer::find() else { return };
    let (name, clock, had) = (deployment(), Arc::new(SystemClock), Arc::new(Mutex::default()));
    let (backend, owner) = (peer.backend().await, owner(&name, "key"));
    let inner = Arc::new(EmbeddedStorage::in_memory(clock.clone()));
    let budgets = Arc::new(Noting { inner: inner.clone(), had: Arc::clone(&had) });
    let github = Arc::new(Mutex::new(Simulator::new(simulator::Settings::default())));
    let transport = Arc::new(SimulatorTransport::new(github, clock.clone()));
    let connected = ConnectedBackend::new(backend.clone(), 4);
    let manager = Manager::new(Parts {
        owner: owner.clone(),
        storage: Storage { budgets, ..inner.into() },
        github: Account::new(Arc::new(RestGitHub::new(transport, clock.clone()))).into(),
        backends: [(BackendName::new("eu").unwrap(), connected)].into(),
        clock: clock.clone(),
        random: Arc::new(SystemRandom),
        settings: manager::Settings::default(),
    });
    manager.configure(vec![one_idle(&peer)]).await.unwrap();
    let stop = CancellationToken::new();
    let made = async {
        while manager.statistics().snapshot().creates.is_empty() {
            clock.sleep(Duration::from_millis(50)).await;
        }
        stop.cancel();
    };
    let ended = timeout(&*clock, Duration::from_mins(2), join(manager.run(stop.clone()), made)).await;
    ended.expect("an instance is made");
    assert_eq!(manager.statistics().snapshot().creates, [("accepted", 1)].into());
    for instance in backend.list(&owner).await.unwrap() {
        backend.delete(&instance.id).await.unwrap();
    }
    let rate = Some(Rate { calls: 3, per: Duration::from_secs(2) });
    let had = had.lock().unwrap();
    for of in ["backend:eu", &format!("cloud:{WORD}")] {
        let quota = had.get(&format!("{of}:creates"));
        assert_eq!(quota, Some(&Quota { concurrent: None, rate }), "{of} of {had:?}");
    }
}

/// Whether a bucket that gets its tokens by the whole second has one for each of many calls: as many as a rate allows leave
/// at once, as often as it allows, and the first ones arrive a second late.
fn is_never_refused(rate: Rate, size: u32, a_second: u32) -> bool {
    let late = Duration::from_secs(1);
    let arrivals: Vec<Duration> =
        (0..1_000).map(|burst| rate.per * burst).map(|leaves| leaves.max(late)).collect();
    (0..1_000_u64).step_by(50).map(Duration::from_millis).all(|phase| {
        let refills = |until: Duration| (until + phase).as_secs();
        let (mut tokens, mut before) = (u64::from(size), refills(late));
        arrivals.iter().all(|arrives| {
            let refilled = (refills(*arrives) - before) * u64::from(a_second);
            before = refills(*arrives);
            tokens = (tokens + refilled).min(u64::from(size));
            tokens.checked_sub(u64::from(rate.calls)).inspect(|left| tokens = *left).is_some()
        })
    })
}

#[test]
fn the_usual_rates_find_a_token_in_ec2s_buckets() {
    let Settings { create_rate, delete_rate, .. } = Settings::default();
    // Sizes and refills of RunInstances and TerminateInstances. Their buckets for resources are larger, and get no less.
    assert!(is_never_refused(create_rate.into(), 5, 2));
    assert!(is_never_refused(delete_rate.into(), 100, 5));
    for (calls, per) in [(4, 2), (5, 2), (6, 4), (5, 1)] {
        assert!(!is_never_refused(Rate { calls, per: Duration::from_secs(per) }, 5, 2), "{calls} in {per} s");
    }
}
