//! A Redis that cannot be used: `serve` ends with a sentence that says what to do, and without the password.

use tempfile::TempDir;

use crate::redis_server::RedisServer;
use crate::support::{output, write};
use crate::world::on_redis;

const PASSWORD: &str = "hidden-password";

/// What `serve` says, in one text, before it ends as a failure.
pub(crate) fn refused(url: &str, more: &str) -> String {
    let folder = TempDir::new().unwrap();
    let config = write(&folder, &on_redis("http://127.0.0.1:1", url, more));
    let ended = output(&["serve", "--config", &config]);
    let [said, log] = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert_eq!(ended.status.code(), Some(1), "{said}\n{log}");
    assert!(said.is_empty(), "{said}");
    assert!(!log.contains(PASSWORD), "{log}");
    log
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn nobody_listens_there() {
    let Some(mut redis) = RedisServer::start(&[]) else { return };
    redis.kill();
    let address = format!("127.0.0.1:{}", redis.port());
    says(&refused(&redis.url(), ""), &[&address, "Connection refused", "host and port are right"]);
}

#[test]
fn a_name_that_nobody_has() {
    says(&refused("redis://redis.invalid:6379", ""), &["redis.invalid:6379", "host and port are right"]);
}

#[test]
fn a_wrong_password_or_none() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let with = |sign_in: &str| redis.url().replace("redis://", &format!("redis://{sign_in}"));
    says(
        &refused(&with(&format!(":{PASSWORD}@")), ""),
        &["signing in failed", "take the password out of the configuration"],
    );
    assert_eq!(redis.ask(&["CONFIG", "SET", "requirepass", "another"]), "+OK");
    says(&refused(&redis.url(), ""), &["NOAUTH", "put its password into the configuration"]);
    says(&refused(&with(&format!(":{PASSWORD}@")), ""), &["WRONGPASS", "see the user and the password"]);
    says(&refused(&with(&format!("nobody:{PASSWORD}@")), ""), &["WRONGPASS"]);
    says(&refused(&redis.url(), &format!(", password: {PASSWORD}")), &["WRONGPASS"]);
}

#[test]
fn a_database_that_is_not_there() {
    let Some(redis) = RedisServer::start(&["--databases", "2"]) else { return };
    says(&refused(&format!("redis://127.0.0.1:{}/2", redis.port()), ""), &["it has no database 2"]);
}

#[test]
fn a_read_only_replica() {
    let Some(redis) = RedisServer::start(&["--replicaof", "127.0.0.1 1"]) else { return };
    says(&refused(&redis.url(), ""), &["a read-only replica of 127.0.0.1:1", "name the master"]);
}

#[test]
fn a_sentinel_that_is_taken_for_a_redis_and_the_other_way_round() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let url = format!("redis+sentinel://127.0.0.1:{}/main", redis.port());
    says(&refused(&url, ""), &["no sentinel led to the master of `main`", "unknown command"]);
}

#[test]
fn something_else_listens_there() {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let answering = std::thread::Builder::new().name("no-redis".into());
    let answering = answering.spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        stream
    });
    says(&refused(&url, ""), &["what answers there is no Redis"]);
    answering.unwrap().join().unwrap();
}
