//! Scripts and waits: what is lost, what is refused, and what goes on afterwards.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::Notify;

use super::played::{Asked, Played, Reply};
use super::{Under, clock, linked, open, script, until, within};
use crate::store::StoreError;

/// How long an answer may take, by default.
const RESPONSE: Duration = Duration::from_secs(5);

/// A play in which the first script is met so, and all else as usual.
fn first_script(reply: Reply) -> impl Fn(&Asked) -> Reply + Send + Sync {
    let met = std::sync::atomic::AtomicBool::new(false);
    move |asked: &Asked| {
        let is_first = asked.words[0] == "EVALSHA" && !met.swap(true, std::sync::atomic::Ordering::SeqCst);
        if is_first { reply.clone() } else { Reply::Usual }
    }
}

/// On which connections scripts were asked for.
fn connections(server: &Played) -> Vec<usize> {
    server.asked("EVALSHA").iter().map(|asked| asked.connection).collect()
}

impl Under {
    async fn run(&self) -> Result<Value, StoreError> {
        within(self.link.run(&script(), &["k"], &[b"a"])).await
    }

    async fn read(&self) -> Result<Value, StoreError> {
        within(self.link.read(&script(), &["k"], &[b"a"])).await
    }

    /// Runs a script whose answer does not come, until that is noticed.
    async fn run_in_vain(&self, server: &Played) -> StoreError {
        let asked = server.asked("EVALSHA").len();
        let (answer, ()) = tokio::join!(self.run(), async {
            until(async || server.asked("EVALSHA").len() > asked).await;
            self.clock.advance(RESPONSE);
        });
        answer.unwrap_err()
    }
}

#[tokio::test]
async fn a_script_is_sent_by_its_hash() {
    let server = Played::start(|_| Reply::Usual).await;
    let under = linked(&server).await;
    assert_eq!(under.run().await.unwrap(), Value::Int(1));
    assert_eq!(server.asked("EVALSHA")[0].words[2..], ["1", "k", "a"]);
    assert!(server.asked("EVAL ").is_empty());
}

#[tokio::test]
async fn a_script_that_is_not_known_is_sent_whole() {
    let server = Played::start(first_script(Reply::Say("-NOSCRIPT No matching script.\r\n"))).await;
    let under = linked(&server).await;
    assert_eq!(under.run().await.unwrap(), Value::Int(1));
    assert_eq!(server.asked("EVAL ")[0].words, ["EVAL", "return 1", "1", "k", "a"]);
    assert_eq!(under.run().await.unwrap(), Value::Int(1));
    assert_eq!(server.asked("EVAL ").len(), 1);
}

#[tokio::test]
async fn a_connection_that_breaks_after_a_script_was_sent_leaves_it_unclear() {
    let server = Played::start(first_script(Reply::Close)).await;
    let under = linked(&server).await;
    let error = under.run().await.unwrap_err();
    assert!(matches!(error, StoreError::Unclear(..)), "{error}");
    assert_eq!(connections(&server), [1], "nothing is repeated");
    assert_eq!(under.run().await.unwrap(), Value::Int(1));
    assert_eq!(connections(&server), [1, 2]);
}

#[tokio::test]
async fn a_read_that_is_lost_was_in_vain_and_no_more() {
    let server = Played::start(first_script(Reply::Close)).await;
    let under = linked(&server).await;
    let error = under.read().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(..)), "{error}");
    assert_eq!(under.read().await.unwrap(), Value::Int(1));
}

#[tokio::test]
async fn a_late_answer_is_nobody_elses() {
    let told = Arc::new(Notify::new());
    let server = Played::start(first_script(Reply::When(told.clone(), ":666\r\n"))).await;
    let under = linked(&server).await;
    let error = under.run_in_vain(&server).await;
    assert!(matches!(error, StoreError::Unclear(..)), "{error}");
    assert!(error.to_string().contains("script `test`: no answer within 5s"), "{error}");
    told.notify_one();
    assert_eq!(under.run().await.unwrap(), Value::Int(1));
    assert_eq!(connections(&server), [1, 2], "a connection that was late is used no more");
    until(async || server.open() == 1).await;
}

#[tokio::test]
async fn those_who_share_a_connection_that_is_given_up_still_get_their_answers() {
    let told = Arc::new(Notify::new());
    let server = Played::start(first_script(Reply::When(told.clone(), ":666\r\n"))).await;
    let under = linked(&server).await;
    let second = async {
        until(async || server.asked("EVALSHA").len() == 1).await;
        // Asked on the same connection, half a time-out later, behind the one that hangs.
        under.clock.advance(RESPONSE / 2);
        let (answer, ()) = tokio::join!(under.run(), async {
            under.clock.advance(RESPONSE / 2);
            until(async || under.link.address().await.is_none()).await;
            told.notify_one();
        });
        answer
    };
    let (first, second) = within(async { tokio::join!(under.run(), second) }).await;
    assert!(matches!(first, Err(StoreError::Unclear(..))), "{first:?}");
    assert_eq!(second.unwrap(), Value::Int(1));
}

#[tokio::test]
async fn what_is_refused_was_surely_not_done_and_says_what_to_do() {
    for (answer, says, connection) in [
        ("-LOADING Redis is loading the dataset in memory\r\n", "reads its data after a start: wait", 1),
        ("-OOM command not allowed when used memory > 'maxmemory'.\r\n", "raise that", 1),
        ("-MISCONF Redis is configured to save RDB snapshots\r\n", "see its disk", 1),
        ("-NOREPLICAS Not enough good replicas to write.\r\n", "min-replicas-to-write", 1),
        ("-BUSY Redis is busy running a script.\r\n", "SCRIPT KILL", 1),
        ("-TRYAGAIN Multiple keys request during rehashing\r\n", "wait", 1),
        ("-NOPERM this user has no permissions\r\n", "may not do this", 1),
        ("-READONLY You can't write against a read only replica.\r\n", "looked for anew", 2),
        ("-MASTERDOWN Link with MASTER is down\r\n", "looked for anew", 2),
        ("-CLUSTERDOWN The cluster is down\r\n", "see its nodes", 2),
        ("-MOVED 1 10.0.0.1:6379\r\n", "name that node", 2),
        ("-NOAUTH Authentication required.\r\n", "put it into the configuration", 2),
        ("-ERR Error running script: Script killed by user with SCRIPT KILL\r\n", "ended by an operator", 1),
    ] {
        let server = Played::start(first_script(Reply::Say(answer))).await;
        let under = linked(&server).await;
        let error = under.run().await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(..)), "{answer}: {error}");
        let text = error.to_string();
        let word = answer[1..].split(' ').next().unwrap();
        assert!(text.contains(says) && text.contains(word), "{answer}: {text}");
        assert!(text.contains(&format!("127.0.0.1:{}", server.port())), "{text}");
        assert_eq!(under.run().await.unwrap(), Value::Int(1), "{answer}");
        assert_eq!(connections(&server), [1, connection], "{answer}");
    }
}

#[tokio::test]
async fn a_script_that_fails_by_itself_says_that_something_is_damaged() {
    for (answer, says) in [
        ("-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", "use another prefix"),
        ("-ERR user_script:1: attempt to index a nil value\r\n", "script `test` failed (ERR user_script"),
    ] {
        let server = Played::start(first_script(Reply::Say(answer))).await;
        let error = linked(&server).await.run().await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(..)), "{answer}: {error}");
        assert!(error.to_string().contains(says), "{answer}: {error}");
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_while_nobody_asks_is_missed_by_nobody() {
    let server = Played::start(first_script(Reply::Last(":1\r\n"))).await;
    let under = linked(&server).await;
    assert_eq!(under.run().await.unwrap(), Value::Int(1));
    until(async || under.link.address().await.is_none()).await;
    assert_eq!(under.run().await.unwrap(), Value::Int(1));
    assert_eq!(connections(&server), [1, 2]);
}

#[tokio::test]
async fn who_comes_soon_after_a_failure_hears_of_it_at_once_and_later_ones_try() {
    let server = Played::start(first_script(Reply::Close)).await;
    let (port, under) = (server.port(), linked(&server).await);
    under.run().await.unwrap_err();
    drop(server);
    let error = under.run().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(..)), "{error}");
    assert!(error.to_string().contains("see that it runs there"), "{error}");
    let soon = under.run().await.unwrap_err().to_string();
    assert!(soon.ends_with("(tried a moment ago)"), "{soon}");
    under.clock.advance(Duration::from_secs(1));
    let later = under.run().await.unwrap_err().to_string();
    assert!(later.contains(&port.to_string()) && !later.contains("a moment ago"), "{later}");
}

#[tokio::test]
async fn waits_have_connections_of_their_own_and_use_them_again() {
    let server = Played::start(|asked| {
        let full = asked.words[0] == "BLPOP" && asked.words[1] == "full";
        if full { Reply::Say("*2\r\n$4\r\nfull\r\n$1\r\nx\r\n") } else { Reply::Usual }
    });
    let server = server.await;
    let under = linked(&server).await;
    assert!(!within(under.link.wait("empty", Duration::from_secs(2))).await.unwrap());
    assert!(within(under.link.wait("full", Duration::ZERO)).await.unwrap());
    under.run().await.unwrap();
    let waits = server.asked("BLPOP");
    assert_eq!(waits[0].words[1..], ["empty", "2.000"]);
    assert_eq!(waits[1].words[1..], ["full", "0.010"], "0 would be without end");
    assert_eq!((waits[0].connection, waits[1].connection), (2, 2));
    assert_eq!(connections(&server), [1]);
}

#[tokio::test]
async fn a_wait_that_gets_no_answer_ends_and_closes_its_connection() {
    let never = Arc::new(Notify::new());
    let held = never.clone();
    let server = Played::start(move |asked| match &*asked.words[0] {
        "BLPOP" => Reply::When(held.clone(), "*-1\r\n"),
        _ => Reply::Usual,
    });
    let server = server.await;
    let under = linked(&server).await;
    let limit = Duration::from_secs(10);
    let (answer, ()) = within(async {
        tokio::join!(under.link.wait("k", limit), async {
            until(async || !server.asked("BLPOP").is_empty()).await;
            under.clock.advance(limit + RESPONSE);
        })
    })
    .await;
    assert!(matches!(answer, Err(StoreError::Unavailable(..))), "{answer:?}");
    until(async || server.open() == 1).await;
}

#[tokio::test]
async fn a_wait_that_is_dropped_closes_its_connection() {
    let held = Arc::new(Notify::new());
    let server = Played::start(move |asked| match &*asked.words[0] {
        "BLPOP" => Reply::When(held.clone(), "*-1\r\n"),
        _ => Reply::Usual,
    });
    let server = server.await;
    let under = linked(&server).await;
    within(async {
        tokio::select! {
            biased;
            _ = under.link.wait("k", Duration::from_secs(10)) => panic!("there is no answer"),
            () = until(async || !server.asked("BLPOP").is_empty()) => {}
        }
    })
    .await;
    until(async || server.open() == 1).await;
}

#[tokio::test]
async fn a_failover_is_followed_by_the_sentinels_word() {
    let demoted = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let was = demoted.clone();
    let old = Played::start(move |asked| {
        if !was.load(std::sync::atomic::Ordering::SeqCst) {
            return Reply::Usual;
        }
        match &*asked.words[0] {
            "EVALSHA" => Reply::Say("-READONLY You can't write against a read only replica.\r\n"),
            "ROLE" => Reply::Say("*5\r\n$5\r\nslave\r\n$1\r\nx\r\n:1\r\n$9\r\nconnected\r\n:0\r\n"),
            _ => Reply::Usual,
        }
    });
    let old = old.await;
    let new = Played::start(|_| Reply::Usual).await;
    // One sentinel lags behind for ever; the other one knows.
    let stale = told_master(old.port());
    let (first, second) = (told_master(old.port()), told_master(new.port()));
    let now = demoted.clone();
    let lagging = Played::start(move |asked| said_by_sentinel(asked, stale)).await;
    let knowing = Played::start(move |asked| {
        let moved = now.load(std::sync::atomic::Ordering::SeqCst);
        said_by_sentinel(asked, if moved { second } else { first })
    });
    let knowing = knowing.await;
    let url = format!("redis+sentinel://127.0.0.1:{},127.0.0.1:{}/main", lagging.port(), knowing.port());
    let clock = clock();
    let under = Under { link: open(&url, clock.clone()).await.unwrap(), clock };
    under.run().await.unwrap();
    demoted.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = under.run().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(..)), "{error}");
    assert_eq!(under.run().await.unwrap(), Value::Int(1));
    assert_eq!(connections(&new), [1]);
}

/// What a sentinel says of the master.
pub(super) fn told_master(port: u16) -> &'static str {
    let port = port.to_string();
    format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len()).leak()
}

fn said_by_sentinel(asked: &Asked, answer: &'static str) -> Reply {
    if asked.words[0] == "SENTINEL" && asked.words[2] == "main" { Reply::Say(answer) } else { Reply::Usual }
}
