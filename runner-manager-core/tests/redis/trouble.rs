//! Replicas that race, and data that is not as this release left it.

use futures_util::future::{join, join_all};
use runner_manager_core::domain::{JobId, RunnerName};
use runner_manager_core::queue::{Lane, TaskQueue};
use runner_manager_core::redis::{RedisOpenError, RedisStorage};
use runner_manager_core::store::{Applied, Change, Page, RunnerFilter, Store, StoreError, Version};
use std::time::Duration;

use crate::records::{
    completed, ended, group_name, job, put_group, put_job, queued, reconcile, runner, trust, write,
};
use crate::redis_server::RedisServer;
use crate::world::{open, try_open};

const PREFIX: &str = "rm:{acme}:";

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Checks that data cannot be read, and that the error names what and says what to do.
#[expect(clippy::needless_pass_by_value, reason = "an answer is looked at once")]
fn corrupt<T: std::fmt::Debug>(answer: Result<T, StoreError>, names: &[&str]) {
    let Err(StoreError::Corrupt(text, _)) = &answer else { panic!("{answer:?}") };
    for name in names {
        assert!(text.contains(name), "`{text}` does not name `{name}`");
    }
}

async fn adopt(storage: &RedisStorage, operation: &str, number: usize) -> Result<Applied, StoreError> {
    let change = Change::AdoptRunner { runner: runner(number, "linux") };
    storage.apply(write(operation, vec![change])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_race_never_exceed_max() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let replicas = [open(&server, "acme").await, open(&server, "acme").await];
    trust(&replicas[0]).await;
    replicas[0].apply(write("group", vec![put_group("linux", 10)])).await.unwrap();
    let reserve = |at: usize| {
        let change = Change::ReserveRunner { runner: runner(at, "linux") };
        let storage = &replicas[at % 2];
        async move { storage.apply(write(&format!("reserve-{at}"), vec![change])).await }
    };
    let answers = join_all((0..200).map(reserve)).await;
    let at_max =
        |answer: &&Result<Applied, _>| matches!(answer, Err(StoreError::AtMax { alive: 10, max: 10, .. }));
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 10);
    assert_eq!(answers.iter().filter(at_max).count(), 190);
    let group = replicas[1].group(&group_name("linux")).await.unwrap().unwrap();
    assert_eq!(group.counts.alive(), 10);
}

/// How many scripts a server has run.
fn scripts(server: &RedisServer) -> u64 {
    let told = server.ask(&["INFO", "commandstats"]);
    let calls = |line: &str| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse().ok();
    told.lines().find_map(calls).unwrap_or(0)
}

#[tokio::test]
async fn what_many_do_at_once_shares_scripts_and_stays_apart() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    trust(&storage).await;
    storage.apply(write("group", vec![put_group("linux", 20)])).await.unwrap();
    adopt(&storage, "taken", 7).await.unwrap();
    let before = scripts(&server);
    // Every third is of a name that there is, and changes nothing, not even what comes before it in its write.
    let answers = join_all((100..190).map(|at| {
        let first = put_job(job(at, queued("linux")));
        let number = if at % 3 == 0 { 7 } else { usize::try_from(at).unwrap() };
        let reserve = Change::ReserveRunner { runner: runner(number, "linux") };
        let mut both = write(&format!("both-{at}"), vec![first, reserve]);
        both.tasks = vec![reconcile(&format!("group-{at}"))];
        let storage = &storage;
        async move { storage.apply(both).await }
    }))
    .await;
    let shared = scripts(&server) - before;
    assert!((3..=10).contains(&shared), "{shared} scripts for 90 writes");
    let (mut made, mut last) = (0, Version(0));
    for (at, answer) in (100..).zip(&answers) {
        match answer {
            Err(StoreError::Conflict { .. }) => assert_eq!(at % 3, 0, "{at}"),
            Err(StoreError::AtMax { alive: 20, .. }) => assert_eq!(made, 19),
            Ok(applied) => {
                assert!(applied.versions.iter().flatten().all(|version| *version > last), "{at}");
                last = applied.versions[1].unwrap();
                made += 1;
            }
            other => panic!("{at}: {other:?}"),
        }
    }
    let counts = storage.group(&group_name("linux")).await.unwrap().unwrap().counts;
    assert_eq!((made, counts.alive(), counts.queued), (19, 20, 19));
    let due = storage.statistics().await.unwrap().lanes[0].due;
    assert_eq!(due, 19, "a refused write queues nothing");
}

/// Each is refused as the writes are to be made, when all was checked that can be checked before.
#[tokio::test]
async fn what_a_refused_write_was_about_to_do_is_not_done_by_the_next_of_its_script() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    adopt(&storage, "known", 1).await.unwrap();
    server.ask(&["DEL", &key("ra")]);
    server.ask(&["SET", &key("ra"), "somebody else's"]);
    let before = scripts(&server);
    let mut refused = write("refused", vec![Change::AdoptRunner { runner: runner(2, "linux") }]);
    refused.tasks = vec![reconcile("linux")];
    let next = write("next", vec![put_job(job(1, queued("linux")))]);
    let (refused, next) = join(storage.apply(refused), storage.apply(next)).await;
    assert_eq!(scripts(&server) - before, 1, "they share a script");
    corrupt(refused, &[&key("ra")]);
    next.unwrap();
    assert_eq!(storage.runner(&runner(2, "linux").name).await.unwrap(), None);
    assert!(storage.job(JobId(1)).await.unwrap().is_some());
    assert_eq!(storage.statistics().await.unwrap().lanes.len(), 0, "nothing is queued");
}

#[tokio::test]
async fn trust_counts_from_its_write_on_within_a_script_too() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    storage.apply(write("group", vec![put_group("linux", 20)])).await.unwrap();
    let incarnation = storage.deployment().await.unwrap().incarnation;
    let reserve = |at| write(&format!("{at}"), vec![Change::ReserveRunner { runner: runner(at, "linux") }]);
    let before = scripts(&server);
    let answers = join_all([
        storage.apply(reserve(1)),
        storage.apply(write("trust", vec![Change::Trust { incarnation }])),
        storage.apply(reserve(2)),
    ])
    .await;
    assert_eq!(scripts(&server) - before, 1, "they share a script");
    assert!(matches!(answers[0], Err(StoreError::Untrusted)), "{answers:?}");
    assert!(answers[1].is_ok() && answers[2].is_ok(), "{answers:?}");
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_told_them() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    adopt(&storage, "one", 1).await.unwrap();
    assert_eq!(server.ask(&["SCRIPT", "FLUSH"]), "+OK");
    adopt(&storage, "two", 2).await.unwrap();
    assert_eq!(storage.runners(&RunnerFilter::All, &Page::first(9)).await.unwrap().len(), 2);
}

#[tokio::test]
async fn another_release_is_not_written_over() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    assert_eq!(server.ask(&["HGET", &key("m"), "schema"]), "$1\r\n2");
    for (schema, named) in [("1", "an earlier release (schema 1,"), ("3", "a later release (schema 3,")] {
        server.ask(&["HSET", &key("m"), "schema", schema]);
        let refused = try_open(&server, "acme").await.unwrap_err();
        assert!(matches!(refused, RedisOpenError::Data(_)));
        assert!(refused.to_string().contains(named), "{refused}");
        corrupt(adopt(&storage, "one", 1).await, &[named]);
        corrupt(storage.push(vec![reconcile("linux")]).await, &[named]);
    }
    assert_eq!(server.ask(&["KEYS", "*"]), format!("*1\r\n$11\r\n{}", key("m")), "nothing was written");
    server.ask(&["HSET", &key("m"), "schema", "one"]);
    let refused = try_open(&server, "acme").await.unwrap_err();
    assert!(refused.to_string().contains("schema"), "{refused}");
}

#[tokio::test]
async fn a_foreign_key_is_named_and_left_alone() {
    let Some(server) = RedisServer::start(&[]) else { return };
    // Those that a write reads, those that it only writes, and those from which it forgets.
    let keys =
        ["m", "r", "g", "ra", "rg:linux", "rp4:linux", "rb:eu", "rs:organization:acme", "o", "ol", "j", "jf"];
    for (at, name) in
        keys.into_iter().chain(["ja", "ja:0", "t", "l", "w1:control", "k:control", "f"]).enumerate()
    {
        let deployment = format!("d{at}");
        let storage = open(&server, &deployment).await;
        let foreign = format!("rm:{{{deployment}}}:{name}");
        server.ask(&["DEL", &foreign]);
        server.ask(&["SET", &foreign, "somebody's"]);
        let adopt = Change::AdoptRunner { runner: runner(1, "linux") };
        let mut write = write("one", vec![adopt, put_job(job(1, completed()))]);
        write.tasks = vec![reconcile("linux")];
        corrupt(storage.apply(write).await, &[&foreign, "another type", "remove"]);
        let keys = server.ask(&["KEYS", &format!("rm:{{{deployment}}}:*")]);
        assert!(keys.starts_with(if name == "m" { "*1\r\n" } else { "*2\r\n" }), "{name}: {keys}");
        assert_eq!(server.ask(&["GET", &foreign]), "$10\r\nsomebody's");
    }
    let storage = open(&server, "acme").await;
    storage.push(vec![reconcile("linux")]).await.unwrap();
    server.ask(&["SET", &key("h:control"), "somebody's"]);
    let claim = storage.claim(&Lane::control(), 1, 9, Duration::from_secs(9), Duration::ZERO).await;
    corrupt(claim, &[&key("h:control")]);
    corrupt(storage.statistics().await, &[&key("h:control")]);
    assert!(matches!(try_open_foreign(&server).await, RedisOpenError::Data(_)));
}

async fn try_open_foreign(server: &RedisServer) -> RedisOpenError {
    server.ask(&["SET", "rm:{foreign}:m", "somebody's"]);
    try_open(server, "foreign").await.unwrap_err()
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named_and_left_alone() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    adopt(&storage, "one", 1).await.unwrap();
    let made = runner(1, "linux");
    let (table, name) = (key("r"), made.name.as_str());
    let version = storage.runner(&made.name).await.unwrap().unwrap().version;
    let later_form = "2\tsomething else\n{}".to_owned();
    let later_state = format!("1\t{}\t4\tlinux\teu\torganization:acme\n{{\"state\":\"asleep\"}}", version.0);
    for record in ["", "{}", &later_form, &later_state] {
        server.ask(&["HSET", &table, name, record]);
        if !record.is_empty() {
            corrupt(storage.runner(&made.name).await, &[&table, name, "release"]);
        }
        corrupt(storage.runners(&RunnerFilter::All, &Page::first(9)).await, &[&table, name, "release"]);
        if record != later_state {
            let put = Change::PutRunner { runner: made.clone(), expected: version };
            corrupt(storage.apply(write("two", vec![put])).await, &[&table, name, "release"]);
            let end = Change::EndRunner { ended: ended(&made), expected: version };
            corrupt(storage.apply(write("three", vec![end])).await, &[&table, name]);
        }
        assert_eq!(server.ask(&["HGET", &table, name]), format!("${}\r\n{record}", record.len()).trim_end());
    }
    server.ask(&["HDEL", &table, name]);
    let listed = storage.runners(&RunnerFilter::All, &Page::first(9)).await;
    corrupt(listed, &[&key("ra"), name, "removed"]);

    server.ask(&["HSET", &key("t"), "reconcile:linux", "garbage"]);
    corrupt(storage.push(vec![reconcile("linux")]).await, &[&key("t"), "reconcile:linux"]);
    server.ask(&["HDEL", &key("t"), "reconcile:linux"]);
    server.ask(&["ZADD", &key("w1:control"), "1", "0000000000000001reconcile:gone"]);
    let claim = storage.claim(&Lane::control(), 9, 9, Duration::from_secs(9), Duration::ZERO).await;
    corrupt(claim, &[&key("w1:control"), "reconcile:gone"]);
}

#[tokio::test]
async fn counters_that_were_lost_are_told() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let storage = open(&server, "acme").await;
    let version = adopt(&storage, "one", 1).await.unwrap().versions[0].unwrap();
    let waiting = put_job(job(7, queued("linux")));
    storage.apply(write("job", vec![waiting])).await.unwrap();
    server.ask(&["HDEL", &key("g"), "linux#"]);
    let put = |version: Version| Change::PutRunner { runner: runner(1, "linux"), expected: version };
    corrupt(storage.apply(write("two", vec![put(version)])).await, &["linux", "counters"]);
    server.ask(&["HSET", &key("g"), "linux#", "many"]);
    corrupt(storage.apply(write("two", vec![put(version)])).await, &[&key("g"), "linux#"]);
    let name: &RunnerName = &runner(1, "linux").name;
    assert_eq!(storage.runner(name).await.unwrap().unwrap().version, version, "nothing was written");
}
