//! `check --online`: what a Redis promises as it is set, and what is wrong with it.

use serde_json::Value;
use tempfile::TempDir;

use crate::redis_server::RedisServer;
use crate::support::{Listening, output, write};
use crate::world::{World, on_redis};

/// What `check --online` finds of the store: what is missing, and the remarks.
fn found(url: &str) -> (Vec<String>, Vec<String>) {
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    let config = write(&folder, &on_redis(&github.url, url, ""));
    let said = output(&["check", "--online", "--json", "--config", &config]);
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    let store = &report["online"][0];
    assert_eq!(store["subject"], "store");
    let texts = |key: &str| {
        let list = store[key].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    (texts("missing"), texts("remarks"))
}

#[track_caller]
fn has(texts: &[String], part: &str) {
    assert!(texts.iter().any(|text| text.contains(part)), "{part:?} is not in {texts:#?}");
}

#[test]
fn what_is_promised_follows_from_the_settings() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let (missing, remarks) = found(&redis.url());
    assert!(missing.is_empty(), "{missing:#?}");
    has(&remarks, &format!("at 127.0.0.1:{}", redis.port()));
    has(&remarks, "nothing that was acknowledged is lost");
    has(&remarks, "no maxmemory");

    redis.ask(&["CONFIG", "SET", "appendfsync", "everysec"]);
    has(&found(&redis.url()).1, "the last second or so is lost");
    redis.ask(&["CONFIG", "SET", "appendonly", "no"]);
    has(&found(&redis.url()).1, "a restart loses everything");
    redis.ask(&["CONFIG", "SET", "save", "60 1"]);
    has(&found(&redis.url()).1, "since the last snapshot is lost");
}

#[test]
fn throwing_away_is_a_fault() {
    let Some(redis) = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]) else { return };
    has(&found(&redis.url()).0, "set it to noeviction");
}

#[test]
fn what_may_not_be_asked_is_said_to_be_unseen() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let rights = ["ACL", "SETUSER", "managed", "on", ">secret", "~*", "&*", "+@all", "-config"];
    assert_eq!(redis.ask(&rights), "+OK");
    let url = redis.url().replace("redis://", "redis://managed:secret@");
    let (missing, remarks) = found(&url);
    assert!(missing.is_empty(), "{missing:#?}");
    has(&remarks, "some of its settings could not be seen");
}

#[test]
fn a_redis_that_is_not_there_is_missing() {
    let Some(mut redis) = RedisServer::start(&[]) else { return };
    redis.kill();
    let (missing, remarks) = found(&redis.url());
    has(&missing, "see that it runs there");
    assert!(remarks.is_empty() && missing.len() == 1, "{missing:#?} {remarks:#?}");
}

#[test]
fn a_person_reads_notes() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let world = World::start(&redis.url(), "");
    let folder = TempDir::new().unwrap();
    let config = write(&folder, &on_redis(world.github(), &redis.url(), ""));
    let said = output(&["check", "--online", "--config", &config]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("\nok       store\nnote     store: Redis "), "{said}");
}
