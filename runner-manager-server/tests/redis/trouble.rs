//! A Redis that fails while managers work on it: they say so, and go on by themselves.

use crate::redis_server::RedisServer;
use crate::world::World;

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test]
async fn replicas_share_a_redis() {
    let Some(redis) = RedisServer::start(&DURABLE) else { return };
    let mut world = World::start(&redis.url(), "");
    world.add_replica();
    assert_eq!(world.ready().await, (200, "ok".to_owned()));
    assert_eq!(world.queue_job(1).await, 202);
    world.until_jobs_are(0, 1).await;
    world.until_jobs_are(1, 1).await;
    world.until_tasks_go_on(0).await;
    let named = redis.ask(&["CLIENT", "LIST"]);
    assert!(named.contains("name=runner-manager"), "{named}");
    for replica in &mut world.replicas {
        assert!(replica.terminate().success());
    }
}

#[tokio::test]
async fn a_redis_that_dies_and_comes_back() {
    let Some(mut redis) = RedisServer::start(&DURABLE) else { return };
    let mut world = World::start(&redis.url(), "");
    world.all_goes_on(1).await;
    redis.kill();
    world.until_ready_is(503, "see that it runs there").await;
    assert_eq!(world.queue_job(2).await, 503);
    redis.restart();
    world.all_goes_on(3).await;
    world.until_jobs_are(0, 2).await;
}

#[tokio::test]
async fn a_redis_that_is_frozen_for_a_while() {
    let Some(redis) = RedisServer::start(&DURABLE) else { return };
    let mut world = World::start(&redis.url(), "");
    world.all_goes_on(1).await;
    redis.pause();
    world.until_ready_is(503, "no answer within 1s").await;
    assert_eq!(world.queue_job(2).await, 503);
    redis.resume();
    world.all_goes_on(3).await;
}

#[tokio::test]
async fn a_redis_that_is_full() {
    let Some(redis) = RedisServer::start(&DURABLE) else { return };
    let mut world = World::start(&redis.url(), "");
    world.all_goes_on(1).await;
    assert_eq!(redis.ask(&["CONFIG", "SET", "maxmemory", "1"]), "+OK");
    world.until_ready_is(503, "it is at its maxmemory").await;
    assert_eq!(world.queue_job(2).await, 503);
    assert_eq!(redis.ask(&["CONFIG", "SET", "maxmemory", "0"]), "+OK");
    world.all_goes_on(3).await;
}

#[tokio::test]
async fn a_redis_that_became_a_replica() {
    let Some(redis) = RedisServer::start(&DURABLE) else { return };
    let mut world = World::start(&redis.url(), "");
    world.all_goes_on(1).await;
    // Of a master that is not there.
    assert_eq!(redis.ask(&["REPLICAOF", "127.0.0.1", "1"]), "+OK");
    world.until_ready_is(503, "replica").await;
    assert_eq!(world.queue_job(2).await, 503);
    assert_eq!(redis.ask(&["REPLICAOF", "NO", "ONE"]), "+OK");
    world.all_goes_on(3).await;
}

#[tokio::test]
async fn a_redis_that_lacks_replicas() {
    let Some(redis) = RedisServer::start(&DURABLE) else { return };
    let mut world = World::start(&redis.url(), "");
    world.all_goes_on(1).await;
    assert_eq!(redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]), "+OK");
    world.until_ready_is(503, "min-replicas-to-write").await;
    assert_eq!(world.queue_job(2).await, 503);
    assert_eq!(redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]), "+OK");
    world.all_goes_on(3).await;
}

#[tokio::test]
async fn connections_that_are_cut_are_made_anew() {
    let Some(redis) = RedisServer::start(&DURABLE) else { return };
    let mut world = World::start(&redis.url(), "");
    world.all_goes_on(1).await;
    for job in 2..5 {
        let cut = redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert!(cut.starts_with(':'), "{cut}");
        world.all_goes_on(job).await;
    }
    world.until_jobs_are(0, 4).await;
}

#[tokio::test]
async fn a_user_that_is_let_in_no_more_hears_of_it() {
    let Some(redis) = RedisServer::start(&DURABLE) else { return };
    let user = ["ACL", "SETUSER", "rm", "on", ">secret", "~*", "+@all"];
    assert_eq!(redis.ask(&user), "+OK");
    let mut world = World::start(&redis.url().replace("redis://", "redis://rm:secret@"), "");
    world.all_goes_on(1).await;
    // Its connections are cut with it.
    assert_eq!(redis.ask(&["ACL", "DELUSER", "rm"]), ":1");
    world.until_ready_is(503, "see the user and the password").await;
    assert_eq!(world.queue_job(2).await, 503);
    assert_eq!(redis.ask(&user), "+OK");
    world.all_goes_on(3).await;
}

#[tokio::test]
async fn a_user_of_its_own_needs_few_rights() {
    let Some(redis) = RedisServer::start(&DURABLE) else { return };
    let rights = "on >secret ~rm:{tests}:* +@read +@write +eval +evalsha +time +info +role +select \
                  +client|setname";
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let page = std::fs::read_to_string(page).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let documented = rights.replace("tests", "NAME").replace("secret", "PASSWORD");
    assert!(page.contains(&documented), "docs/operations.md must name these rights: {documented}");
    let words: Vec<_> = ["ACL", "SETUSER", "rm"].into_iter().chain(rights.split(' ')).collect();
    assert_eq!(redis.ask(&words), "+OK");
    let url = redis.url().replace("redis://", "redis://rm:secret@");
    let mut world = World::start(&url, "");
    world.all_goes_on(1).await;
}
