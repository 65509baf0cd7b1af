//! What is wrong with a server shows when it is opened, in a sentence of its own.

use std::sync::Arc;

use tokio::sync::Notify;

use super::played::{Asked, Played, Reply};
use super::{clock, open, until, within};
use crate::redis::RedisOpenError;

/// The error of opening a server that answers one command so.
async fn refused(command: &'static str, answer: &'static str) -> (RedisOpenError, String) {
    let play = move |asked: &Asked| {
        if asked.words[0] == command { Reply::Say(answer) } else { Reply::Usual }
    };
    let server = Played::start(play).await;
    let url = server.url().replace("redis://", "redis://ops:hidden@") + "/5";
    let error = open(&url, clock()).await.unwrap_err();
    told(error)
}

fn told(error: RedisOpenError) -> (RedisOpenError, String) {
    let text = error.to_string();
    assert!(!text.contains("hidden") && !format!("{error:?}").contains("hidden"), "{text}");
    (error, text)
}

#[tokio::test]
async fn who_may_come_in_signs_in_and_names_itself() {
    let server = Played::start(|_| Reply::Usual).await;
    let url = server.url().replace("redis://", "redis://ops:hidden@") + "/5";
    open(&url, clock()).await.unwrap();
    assert_eq!(server.asked("AUTH")[0].words[1..], ["ops", "hidden"]);
    assert_eq!(server.asked("SELECT")[0].words[1], "5");
    assert_eq!(server.asked("CLIENT SETNAME")[0].words[2], "runner-manager");
    let url = server.url().replace("redis://", "redis://:hidden@");
    open(&url, clock()).await.unwrap();
    assert_eq!(server.asked("AUTH")[1].words[1..], ["hidden"]);
    assert_eq!(server.asked("SELECT").len(), 1);
}

#[tokio::test]
async fn a_sign_in_that_fails() {
    let (error, text) = refused("AUTH", "-WRONGPASS invalid username-password pair\r\n").await;
    assert!(matches!(error, RedisOpenError::SignIn { .. }), "{error:?}");
    assert!(text.contains("see the user and the password"), "{text}");
    let without = "-ERR AUTH <password> called without any password configured for the default user.\r\n";
    let (error, text) = refused("AUTH", without).await;
    assert!(matches!(error, RedisOpenError::SignIn { .. }), "{error:?}");
    assert!(text.contains("take the password out"), "{text}");

    let server = Played::start(|_| Reply::Say("-NOAUTH Authentication required.\r\n")).await;
    let (error, text) = told(open(&server.url(), clock()).await.unwrap_err());
    assert!(matches!(error, RedisOpenError::SignIn { .. }), "{error:?}");
    assert!(text.contains("put its password into the configuration"), "{text}");
}

#[tokio::test]
async fn a_database_that_is_not_there() {
    let (error, text) = refused("SELECT", "-ERR DB index is out of range\r\n").await;
    assert!(matches!(error, RedisOpenError::Database { database: 5, .. }), "{error:?}");
    assert!(text.contains("it has no database 5"), "{text}");
}

#[tokio::test]
async fn a_server_that_is_no_master() {
    let replica = "*5\r\n$5\r\nslave\r\n$6\r\nmaster\r\n:6379\r\n$9\r\nconnected\r\n:0\r\n";
    let (error, text) = refused("ROLE", replica).await;
    assert!(matches!(error, RedisOpenError::Replica { .. }), "{error:?}");
    assert!(text.contains("a read-only replica of master:6379"), "{text}");
    let (error, _) = refused("ROLE", "*2\r\n$8\r\nsentinel\r\n*0\r\n").await;
    assert!(matches!(error, RedisOpenError::IsSentinel { .. }), "{error:?}");
}

#[tokio::test]
async fn what_may_not_be_seen_is_no_reason_to_refuse() {
    let server = Played::start(|asked| match &*asked.words[0] {
        "ROLE" | "INFO" | "CLIENT" => Reply::Say("-NOPERM this user has no permissions\r\n"),
        _ => Reply::Usual,
    });
    open(&server.await.url(), clock()).await.unwrap();
}

#[tokio::test]
async fn a_version_that_is_too_old() {
    let (error, text) = refused("INFO", "$22\r\nredis_version:6.0.16\r\n\r\n").await;
    assert!(matches!(error, RedisOpenError::TooOld { .. }), "{error:?}");
    assert!(text.contains("its version is 6.0.16: 6.2 or later is needed"), "{text}");
}

#[tokio::test]
async fn protected_mode() {
    let server = Played::unfriendly("-DENIED Redis is running in protected mode because...\r\n").await;
    let (error, text) = told(open(&server.url(), clock()).await.unwrap_err());
    assert!(matches!(error, RedisOpenError::Protected { .. }), "{error:?}");
    assert!(text.contains("give it a password"), "{text}");
}

#[tokio::test]
async fn too_many_clients() {
    let server = Played::unfriendly("-ERR max number of clients reached\r\n").await;
    let url = server.url().replace("redis://", "redis://:hidden@");
    let (error, text) = told(open(&url, clock()).await.unwrap_err());
    assert!(matches!(error, RedisOpenError::Refused { .. }), "{error:?}");
    assert!(text.contains("max number of clients reached"), "{text}");
}

#[tokio::test]
async fn something_that_is_no_redis() {
    let server = Played::unfriendly("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let (error, text) = told(open(&server.url(), clock()).await.unwrap_err());
    assert!(matches!(error, RedisOpenError::NotRedis { .. }), "{error:?}");
    assert!(text.contains("is no Redis"), "{text}");
}

#[tokio::test]
async fn nobody_there() {
    let server = Played::start(|_| Reply::Usual).await;
    let url = server.url();
    drop(server);
    let (error, text) = told(open(&url, clock()).await.unwrap_err());
    assert!(matches!(error, RedisOpenError::Unreachable { .. }), "{error:?}");
    assert!(text.contains("see that it runs there"), "{text}");
}

#[tokio::test]
async fn a_server_that_hangs_up() {
    let server = Played::start(|_| Reply::Close).await;
    let (error, text) = told(open(&server.url(), clock()).await.unwrap_err());
    assert!(matches!(error, RedisOpenError::Closed { .. }), "{error:?}");
    assert!(text.contains("may expect TLS"), "{text}");
}

#[tokio::test]
async fn a_server_that_says_nothing() {
    let never = Arc::new(Notify::new());
    let server = Played::start(move |_| Reply::When(never.clone(), "")).await;
    let (url, clock) = (server.url(), clock());
    let (opened, ()) = within(async {
        tokio::join!(open(&url, clock.clone()), async {
            until(async || !server.asked("CLIENT").is_empty()).await;
            clock.advance(std::time::Duration::from_secs(3));
        })
    })
    .await;
    let (error, text) = told(opened.unwrap_err());
    assert!(matches!(error, RedisOpenError::Silent { .. }), "{error:?}");
    assert!(text.contains("no answer within 3s"), "{text}");
}

#[tokio::test]
async fn tls_where_there_is_none() {
    let server = Played::unfriendly("-ERR unknown command\r\n").await;
    let ca = include_str!("ca.pem");
    let url = server.url().replace("redis://", "rediss://");
    let mut settings = crate::redis::RedisSettings::new(&url, "rm:{test}").unwrap();
    settings.ca = Some(ca.to_owned());
    let random = Arc::new(crate::random::SeededRandom::new(1));
    let opened = within(super::Link::open(settings.clone(), clock(), random.clone())).await;
    let (error, text) = told(opened.unwrap_err());
    assert!(matches!(error, RedisOpenError::Tls { .. }), "{error:?}");
    assert!(text.contains("redis:// instead of rediss://"), "{text}");

    settings.ca = Some("-----BEGIN CERTIFICATE-----\nnot\n-----END CERTIFICATE-----\n".to_owned());
    let (error, _) = told(within(super::Link::open(settings, clock(), random)).await.unwrap_err());
    assert!(matches!(error, RedisOpenError::Certificates { .. }), "{error:?}");
}

#[tokio::test]
async fn no_sentinel_that_knows_the_master() {
    let ignorant = Played::start(|asked| match &*asked.words[0] {
        "SENTINEL" => Reply::Say("*-1\r\n"),
        _ => Reply::Usual,
    });
    let ignorant = ignorant.await;
    let closed = Played::unfriendly("-NOAUTH x\r\n").await;
    let url = format!("redis+sentinel://127.0.0.1:{},127.0.0.1:{}/main", ignorant.port(), closed.port());
    let (error, text) = told(open(&url, clock()).await.unwrap_err());
    assert!(matches!(error, RedisOpenError::Sentinels { .. }), "{error:?}");
    assert!(text.contains("no sentinel led to the master of `main`"), "{text}");
    assert!(text.contains("knows no such master; redis 127.0.0.1:"), "{text}");
}

#[tokio::test]
async fn a_sentinel_that_wants_a_password_gets_it() {
    let master = Played::start(|_| Reply::Usual).await;
    let told = super::calls::told_master(master.port());
    let signed_in = std::sync::atomic::AtomicBool::new(false);
    let sentinel = Played::start(move |asked| match &*asked.words[0] {
        "AUTH" => {
            signed_in.store(true, std::sync::atomic::Ordering::SeqCst);
            Reply::Usual
        }
        _ if signed_in.load(std::sync::atomic::Ordering::SeqCst) => Reply::Say(told),
        _ => Reply::Say("-NOAUTH Authentication required.\r\n"),
    });
    let sentinel = sentinel.await;
    let url = format!("redis+sentinel://:hidden@127.0.0.1:{}/main", sentinel.port());
    open(&url, clock()).await.unwrap();
    assert_eq!(sentinel.asked("AUTH")[0].words[1], "hidden");
}
