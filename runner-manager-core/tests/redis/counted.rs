//! What operations cost, counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use futures_util::poll;
use jiff::Timestamp;
use runner_manager_core::budget::{Bound, BudgetKey, Budgets, Permission, Quota, Rate};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{Conclusion, JobId, JobState, Runner, RunnerState};
use runner_manager_core::manager::Storage;
use runner_manager_core::queue::{Claim, Lane, TaskQueue};
use runner_manager_core::redis::RedisStorage;
use runner_manager_core::store::{Change, Expected, Retention, Store};

use crate::heard::in_order;
use crate::reconcile::reconcile;
use crate::records::{self, completed, group_name, job, put_group, put_job, queued, runner, trust, write};
use crate::redis_server::RedisServer;
use crate::world::open;

const LEASE: Duration = Duration::from_mins(1);

/// How often the server has run each command, those of scripts included.
pub(crate) fn commands(server: &RedisServer) -> BTreeMap<String, u64> {
    let told = server.ask(&["INFO", "commandstats"]);
    let read = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    told.lines().filter_map(read).collect()
}

/// What the server has run since `before`: scripts, and commands, those of scripts included.
pub(crate) fn since(server: &RedisServer, before: &BTreeMap<String, u64>) -> [u64; 2] {
    let now = commands(server);
    let count = |name: &str| now.get(name).copied().unwrap_or(0) - before.get(name).copied().unwrap_or(0);
    let scripts = count("evalsha") + count("eval");
    // The look-up itself is no part of it, though `deployment` asks for it, too. How often the time is asked for depends on
    // how long ago that was.
    let beside = ["evalsha", "eval", "info", "quit", "time"];
    let within = now.keys().filter(|name| !beside.contains(&name.as_str())).map(|name| count(name)).sum();
    [scripts, within]
}

/// How often somebody has looked for tasks that are due: each look notes whether the lane is full.
fn looks(server: &RedisServer) -> u64 {
    commands(server).get("hdel").copied().unwrap_or(0)
}

fn used_memory(server: &RedisServer) -> u64 {
    let told = server.ask(&["INFO", "memory"]);
    let used = told.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    used.trim().parse().unwrap()
}

/// Writes so many records, many at a time.
pub(crate) async fn fill(storage: &RedisStorage, what: &str, count: usize, change: impl Fn(usize) -> Change) {
    for first in (0..count).step_by(500) {
        let changes = (first..count.min(first + 500)).map(&change).collect();
        storage.apply(write(&format!("{what}-{first}"), changes)).await.unwrap();
    }
}

/// What an accepted webhook, a reservation, a look at a group, a claim and its end cost, with so much beside.
async fn cost_beside(count: usize) -> Option<[[u64; 2]; 5]> {
    let server = RedisServer::start(&[])?;
    let storage = open(&server, "acme").await;
    trust(&storage).await;
    storage.apply(write("group", vec![put_group("linux", 100_000)])).await.unwrap();
    let adopt = |at| Change::AdoptRunner { runner: runner(at, "linux") };
    fill(&storage, "runners", count, adopt).await;
    fill(&storage, "jobs", count, |at| put_job(job(at as u64, queued("linux")))).await;
    let tasks = (0..count).map(|at| records::reconcile(&format!("g{at}")));
    storage.push(tasks.collect()).await.unwrap();
    // Every script is known from here on.
    let lane = Lane::control();
    let warm = storage.claim(&lane, 1, 9, LEASE, Duration::ZERO).await.unwrap();
    storage.ack(&warm[0].token).await.unwrap();

    let mut costs = [[0; 2]; 5];
    let before = commands(&server);
    let mut webhook = write("delivery:1", vec![put_job(job(61_234_500_000, queued("linux")))]);
    webhook.tasks = vec![records::reconcile("linux")];
    storage.apply(webhook).await.unwrap();
    costs[0] = since(&server, &before);
    let before = commands(&server);
    let reserve = Change::ReserveRunner { runner: runner(99_999_999, "linux") };
    storage.apply(write("reserve", vec![reserve])).await.unwrap();
    costs[1] = since(&server, &before);
    let before = commands(&server);
    let counts = storage.group(&group_name("linux")).await.unwrap().unwrap().counts;
    assert_eq!((counts.busy as usize, counts.queued as usize), (count + 1, count + 1));
    costs[2] = since(&server, &before);
    let before = commands(&server);
    let claims = storage.claim(&lane, 5, 9, LEASE, Duration::ZERO).await.unwrap();
    assert_eq!(claims.len(), 5);
    costs[3] = since(&server, &before);
    let before = commands(&server);
    storage.ack(&claims[0].token).await.unwrap();
    costs[4] = since(&server, &before);
    for whole in ["keys", "scan", "hscan", "zscan", "smembers", "hgetall", "hkeys", "hvals"] {
        assert!(!commands(&server).contains_key(whole), "`{whole}` reads everything");
    }
    Some(costs)
}

#[tokio::test]
async fn cost_does_not_grow_with_the_number_of_runners() {
    // Every hundredth job begins a piece of the order in which all were heard of: the second pair.
    for (few, many) in [(10, 10_010), (100, 10_000)] {
        let Some(cost) = cost_beside(few).await else { return };
        println!("scripts and commands of webhook, reservation, group, claim of 5, ack: {cost:?}");
        assert_eq!(cost, cost_beside(many).await.unwrap());
        assert_eq!(cost[2], [0, 1], "a look at a group is one command: {cost:?}");
        assert!([0, 1, 3, 4].iter().all(|at| cost[*at][0] == 1), "each is one round trip: {cost:?}");
        assert!(cost.iter().all(|[_, commands]| *commands <= 40), "{cost:?}");
    }
}

/// What a reconcile costs in a group of so many runners in this state: scripts, and commands.
async fn cost_of_a_reconcile(runners: usize, state: RunnerState, jobs: u32) -> Option<[u64; 2]> {
    let server = RedisServer::start(&[])?;
    let storage = open(&server, "acme").await;
    trust(&storage).await;
    storage.apply(write("group", vec![put_group("linux", 200_000)])).await.unwrap();
    let now = storage.now().await.unwrap();
    let of_state = |at| Runner { since: now, state: state.clone(), ..runner(at, "linux") };
    fill(&storage, "runners", runners, |at| Change::AdoptRunner { runner: of_state(at) }).await;
    let storage = Storage::from(Arc::new(storage));
    let mut cost = [0; 2];
    // By the second time every script is known.
    for round in 0..2 {
        let waiting = (jobs * round..jobs * (round + 1)).map(|id| put_job(job(id.into(), queued("linux"))));
        let mut asks = write(&format!("asks-{round}"), waiting.collect());
        asks.tasks = vec![records::reconcile("linux")];
        storage.store.apply(asks).await.unwrap();
        let fresh = Runner { state: RunnerState::Requested, ..runner(runners + round as usize, "linux") };
        let before = commands(&server);
        reconcile(&storage, &fresh).await.unwrap();
        cost = since(&server, &before);
    }
    let counts = storage.store.group(&group_name("linux")).await.unwrap().unwrap().counts;
    assert_eq!(counts.requested, 2 * jobs);
    Some(cost)
}

#[tokio::test]
async fn a_reconcile_costs_the_same_among_a_hundred_runners_and_a_hundred_thousand() {
    // One that makes a runner, and one that looks at idle ones.
    let (busy, idle) = (RunnerState::Busy { job: None }, RunnerState::Idle { leaving: None });
    for (state, jobs, scripts) in [(busy, 1, 2), (idle, 0, 4)] {
        let Some(few) = cost_of_a_reconcile(100, state.clone(), jobs).await else { return };
        println!("scripts and commands of a reconcile: {few:?}");
        assert_eq!(cost_of_a_reconcile(100_000, state, jobs).await, Some(few));
        assert_eq!(few[0], scripts, "each is one round trip: {few:?}");
        assert!(few[1] <= 80, "{few:?}");
    }
}

#[tokio::test]
async fn records_are_small() {
    const COUNT: usize = 10_000;
    let Some(server) = RedisServer::start(&[]) else { return };
    let retention = Retention { completed_jobs_for: Duration::MAX, ..Retention::default() };
    let storage = open(&server, "acme").await.with_retention(retention);
    let begin = used_memory(&server);
    fill(&storage, "runners", COUNT, |at| Change::AdoptRunner { runner: runner(at, "linux-large") }).await;
    let runners = used_memory(&server);
    fill(&storage, "jobs", COUNT, |at| put_job(job(61_234_500_000 + at as u64, completed()))).await;
    let jobs = used_memory(&server);
    let (per_runner, per_job) = ((runners - begin) / COUNT as u64, (jobs - runners) / COUNT as u64);
    println!("{per_runner} bytes for each runner, {per_job} for each completed job");
    assert!(per_runner < 2048, "{per_runner} bytes for each runner");
    assert!(per_job < 512, "{per_job} bytes for each completed job");
}

#[tokio::test]
async fn what_is_forgotten_leaves_nothing() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let retention = Retention { operations: 20, completed_jobs: 20, ..Retention::default() };
    let retention = Retention { completed_jobs_for: Duration::MAX, ..retention };
    let storage = open(&server, "acme").await.with_retention(retention);
    for id in 0..100 {
        storage.apply(write(&format!("job-{id}"), vec![put_job(job(id, completed()))])).await.unwrap();
    }
    let count = |command: &str, key: &str| -> usize {
        server.ask(&[command, &format!("rm:{{acme}}:{key}")])[1..].parse().unwrap()
    };
    let (jobs, operations) = (count("HLEN", "j"), count("HLEN", "o"));
    // What is over is forgotten with every eighth write.
    assert!(
        (20..28).contains(&jobs) && (20..28).contains(&operations),
        "{jobs} jobs, {operations} operations"
    );
    assert_eq!([in_order(&server), count("LLEN", "jf"), count("LLEN", "ol")], [jobs, jobs, operations]);
    assert!(storage.apply(write("job-99", Vec::new())).await.unwrap().repeated);
    assert!(!storage.apply(write("job-0", Vec::new())).await.unwrap().repeated);
}

#[tokio::test]
async fn a_job_that_is_written_as_it_should_be_forgotten_is_forgotten_later() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    let others = async |numbers: std::ops::Range<u64>| {
        for number in numbers {
            let other = put_job(job(number, queued("linux")));
            storage.apply(write(&format!("other-{number}"), vec![other])).await.unwrap();
        }
    };
    // What is over is forgotten with every eighth write: the last of these eight. It ended longer ago than is kept.
    let state =
        JobState::Completed { conclusion: Conclusion::Success, runner: None, at: Timestamp::UNIX_EPOCH };
    others(2..8).await;
    let made = storage.apply(write("made", vec![put_job(job(1, state.clone()))])).await.unwrap();
    let expected = Expected::Version(made.versions[0].unwrap());
    let change = Change::PutJob { job: job(1, state), expected };
    storage.apply(write("again", vec![change])).await.unwrap();
    assert!(storage.job(JobId(1)).await.unwrap().is_some(), "what was just written is there");
    others(8..16).await;
    assert!(storage.job(JobId(1)).await.unwrap().is_none(), "nothing forgets it any more");
}

#[tokio::test]
async fn budgets_go_by_themselves() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    let key = BudgetKey::github("acme");
    let rate = Some(Rate { calls: 5, per: Duration::from_hours(1) });
    let quota = Quota { concurrent: Some(5), rate };
    for lease in [Duration::from_hours(2), LEASE] {
        let answer = storage.take(&[Bound { key: key.clone(), quota }], lease).await.unwrap();
        assert!(matches!(answer, Permission::Granted(_)));
    }
    storage
        .pause(&key, runner_manager_core::domain::later(storage.now().await.unwrap(), LEASE))
        .await
        .unwrap();
    for (name, seconds) in [("bu", 7200), ("bb", 3600), ("bp", 60)] {
        let left = server.ask(&["TTL", &format!("rm:{{acme}}:{name}:github:acme")]);
        let left: u64 = left.strip_prefix(':').unwrap().parse().expect("the key has an end");
        assert!((seconds - 30..=seconds).contains(&left), "{name} stays for {left} s");
    }
}

/// One who asks by a long period has all calls remembered for so long, however many others are allowed meanwhile.
#[tokio::test]
async fn no_more_calls_are_remembered_than_a_rate_may_name() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    let take = async |calls, per| {
        let quota = Quota { concurrent: None, rate: Some(Rate { calls, per }) };
        storage.take(&[Bound { key: BudgetKey::github("acme"), quota }], LEASE).await.unwrap()
    };
    assert!(matches!(take(1, Duration::from_hours(1)).await, Permission::Granted(_)));
    let begun = "rm:{acme}:bb:github:acme";
    let many = "local now = redis.call('TIME')[1] for i = 1, 25000 do \
                redis.call('ZADD', KEYS[1], (now - 10) * 1000000 + i, 'other-' .. i) end";
    server.ask(&["EVAL", many, "1", begun]);
    assert!(matches!(take(Rate::MOST_CALLS, Duration::from_secs(1)).await, Permission::Granted(_)));
    // And how long they are remembered.
    assert_eq!(server.ask(&["ZCARD", begun]), format!(":{}", Rate::MOST_CALLS + 1));
    assert!(matches!(take(1, Duration::from_hours(1)).await, Permission::Wait { .. }));
}

#[tokio::test]
async fn one_task_wakes_one_of_those_who_wait_in_whichever_process() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (one, two) = (open(&server, "acme").await, open(&server, "acme").await);
    let (lane, wait) = (Lane::control(), Duration::from_secs(5));
    let begin = looks(&server);
    let waiting = [&one, &two]
        .map(|storage| join_all((0..20).map(|_| storage.claim(&lane, 1, usize::MAX, LEASE, wait))));
    let pushing = async {
        // All have looked once.
        while looks(&server) < begin + 40 {
            SystemClock.sleep(Duration::from_millis(5)).await;
        }
        let before = looks(&server);
        for at in 0..10 {
            one.push(vec![records::reconcile(&format!("g{at}"))]).await.unwrap();
        }
        while server.ask(&["ZCARD", "rm:{acme}:h:control"]) != ":10" {
            SystemClock.sleep(Duration::from_millis(5)).await;
        }
        // Ten take what they look for; a token that was there already makes another one look.
        looks(&server) - before
    };
    let [first, second] = waiting;
    let ((first, second), looks) = join(join(first, second), pushing).await;
    let claims: Vec<Claim> = first.into_iter().chain(second).flat_map(Result::unwrap).collect();
    assert_eq!(claims.len(), 10);
    assert!((10..=25).contains(&looks), "{looks} looks for ten tasks");
    let slowest = claims.iter().map(|claim| claim.waited).max().unwrap();
    assert!(slowest < Duration::from_millis(1500), "one was claimed {slowest:?} late, as if by a poll");
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_put_back() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    storage.push(vec![records::reconcile("linux")]).await.unwrap();
    let (lane, hour) = (Lane::control(), Duration::from_hours(1));
    server.pause();
    let mut leaves = Box::pin(storage.claim(&lane, 1, usize::MAX, hour, hour));
    assert!(poll!(&mut leaves).is_pending());
    // The question is on its way, and will be answered.
    SystemClock.sleep(Duration::from_millis(200)).await;
    drop(leaves);
    server.resume();
    let stays = storage.claim(&lane, 1, usize::MAX, hour, Duration::from_secs(20)).await.unwrap();
    assert_eq!((stays.len(), stays[0].attempt), (1, 1), "it is put back as if it had not been claimed");
}
