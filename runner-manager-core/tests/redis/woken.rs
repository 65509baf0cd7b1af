//! How those who wait for a task come to it: what it costs, and what becomes of a wake-up that nobody uses.

use std::time::Duration;

use futures_util::future::join;
use futures_util::poll;
use jiff::Timestamp;
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::later;
use runner_manager_core::queue::{Claim, Lane, NewTask, TaskQueue};
use runner_manager_core::redis::RedisStorage;
use runner_manager_core::store::{Store, StoreError};

use crate::records::{job, put_job, queued, reconcile, write};
use crate::redis_server::RedisServer;
use crate::world::open;

const LEASE: Duration = Duration::from_mins(1);
const LONG: Duration = Duration::from_secs(10);
const TOKENS: &str = "rm:{acme}:k:control";
const HELD: &str = "rm:{acme}:h:control";

async fn claim(storage: &RedisStorage, most: usize, wait: Duration) -> Result<Vec<Claim>, StoreError> {
    storage.claim(&Lane::control(), most, usize::MAX, LEASE, wait).await
}

/// How often a server was asked something.
fn times(server: &RedisServer, command: &str) -> u64 {
    let told = server.ask(&["INFO", "commandstats"]);
    let line = told.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

/// Waits until so many connections wait for a token.
async fn until_blocked(server: &RedisServer, count: usize) {
    let line = format!("blocked_clients:{count}");
    while !server.ask(&["INFO", "clients"]).lines().any(|told| told == line) {
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
}

fn at(time: Timestamp) -> NewTask {
    NewTask { not_before: Some(time), ..reconcile("linux") }
}

/// What a storage's own write makes due comes with it, whether by a push or a change, and says that it is due now or at
/// a time that has come.
#[tokio::test]
async fn one_who_waits_has_what_its_own_process_writes_in_the_same_script() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    // The script is known from here on.
    storage.push(vec![reconcile("windows")]).await.unwrap();
    storage.ack(&claim(&storage, 1, LONG).await.unwrap()[0].token).await.unwrap();
    for (round, task) in [reconcile("linux"), at(storage.now().await.unwrap())].into_iter().enumerate() {
        let making = async {
            until_blocked(&server, 1).await;
            let before = times(&server, "evalsha");
            let mut webhook = write(&format!("delivery:{round}"), Vec::new());
            webhook.changes = vec![put_job(job(round as u64, queued("linux")))];
            webhook.tasks = vec![task];
            storage.apply(webhook).await.unwrap();
            before
        };
        let (claims, before) = join(claim(&storage, 1, LONG), making).await;
        assert_eq!(times(&server, "evalsha") - before, 1, "one script both writes and claims");
        assert_eq!(server.ask(&["LLEN", TOKENS]), ":0", "nobody is woken for what is claimed");
        storage.ack(&claims.unwrap()[0].token).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_due_yet_wakes_whoever_waits_in_time() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    let pushing = async {
        until_blocked(&server, 1).await;
        let due = later(storage.now().await.unwrap(), Duration::from_millis(300));
        storage.push(vec![at(due)]).await.unwrap();
    };
    let (claims, ()) = join(claim(&storage, 1, LONG), pushing).await;
    let waited = claims.unwrap()[0].waited;
    assert!(waited < Duration::from_millis(300), "it was due for {waited:?}");
}

#[tokio::test]
async fn a_write_takes_no_claim_along_of_one_who_has_left() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    let mut leaves = Box::pin(claim(&storage, 1, LONG));
    assert!(poll!(&mut leaves).is_pending());
    tokio::select! {
        _ = &mut leaves => panic!("there is nothing to claim"),
        () = until_blocked(&server, 1) => {}
    }
    drop(leaves);
    storage.push(vec![reconcile("linux")]).await.unwrap();
    assert_eq!(server.ask(&["ZCARD", HELD]), ":0", "nobody holds it");
    assert_eq!(claim(&storage, 1, Duration::ZERO).await.unwrap()[0].attempt, 1);
}

/// Whoever waited before still listens for a moment: a wake-up that comes to it goes on to those who wait.
#[tokio::test]
async fn a_wake_up_that_comes_when_nobody_waits_here_is_for_others() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let [gone, waits, pushes] =
        [open(&server, "acme").await, open(&server, "acme").await, open(&server, "acme").await];
    assert!(claim(&gone, 1, Duration::from_millis(50)).await.unwrap().is_empty());
    let pushing = async {
        // Of those who listen the first is served first: it is the one whose caller has left.
        until_blocked(&server, 2).await;
        pushes.push(vec![reconcile("linux")]).await.unwrap();
    };
    let (claims, ()) = join(claim(&waits, 1, LONG), pushing).await;
    let waited = claims.unwrap()[0].waited;
    assert!(waited < Duration::from_millis(500), "it was due for {waited:?}, as if by a poll");
}

/// After a look that left nothing the next claim waits at once: it is woken where there is something.
#[tokio::test]
async fn what_the_last_look_has_told_is_not_asked_again() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let [one, two] = [open(&server, "acme").await, open(&server, "acme").await];
    one.push(vec![reconcile("linux"), reconcile("windows")]).await.unwrap();
    assert_eq!(claim(&one, 2, LONG).await.unwrap().len(), 2);
    let before = times(&server, "evalsha");
    assert!(claim(&one, 2, Duration::from_millis(100)).await.unwrap().is_empty());
    assert_eq!(times(&server, "evalsha") - before, 0, "it knows that there is nothing");
    let pushing = async {
        until_blocked(&server, 1).await;
        two.push(vec![reconcile("macos")]).await.unwrap();
    };
    let (claims, ()) = join(claim(&one, 2, LONG), pushing).await;
    assert_eq!(claims.unwrap().len(), 1);
    // A look that found more than it took, or a lane that was full, tells that there may be something.
    one.push(vec![reconcile("linux-arm"), reconcile("windows-arm")]).await.unwrap();
    assert_eq!(claim(&one, 1, LONG).await.unwrap().len(), 1);
    assert_eq!(claim(&one, 1, LONG).await.unwrap().len(), 1);
}
