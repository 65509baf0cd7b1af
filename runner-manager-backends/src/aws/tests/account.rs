//! For whom calls are counted, as STS tells it, as moto does, and as it is where nobody tells; and rates that EC2 never
//! refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use runner_manager_core::backend::{Backend, BackendKind, ConnectContext};
use runner_manager_core::budget::Rate;
use runner_manager_core::clock::SimulatedClock;
use runner_manager_core::domain::BackendName;
use serde_json::{Value, json};

use super::super::AwsKind;
use super::super::config::Settings;
use super::connect;
use super::peer::{Peer, calls};
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
