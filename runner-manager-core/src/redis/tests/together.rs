//! Operations that share a script: who goes with whom, and what each hears.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{JoinAll, join_all};
use futures_util::poll;
use redis::Value;
use tokio::sync::Notify;

use super::played::{Asked, Played, Reply};
use super::{Under, linked, within};
use crate::redis::args::Args;
use crate::redis::convoy::{Convoy, MOST_UNDER_WAY};
use crate::redis::scripts::PUSH;
use crate::store::StoreError;

/// What the server answers where all of so many operations went well.
fn all_well(operations: usize) -> &'static str {
    format!("*{operations}\r\n{}", "*1\r\n$2\r\nok\r\n".repeat(operations)).leak()
}

/// How many operations a question brings: each has one argument.
fn operations(asked: &Asked) -> usize {
    (asked.words.len() - 4) / 3
}

/// A play in which the scripts are met so, one after the other, and those behind them all go well.
fn scripts(replies: Vec<Reply>) -> impl Fn(&Asked) -> Reply + Send + Sync {
    let met = AtomicUsize::new(0);
    move |asked: &Asked| {
        if asked.words[0] != "EVALSHA" {
            return Reply::Usual;
        }
        let at = met.fetch_add(1, Ordering::SeqCst);
        replies.get(at).cloned().unwrap_or_else(|| Reply::Say(all_well(operations(asked))))
    }
}

/// A play in which as many scripts as may be under way are held up until `told`, and those behind them are met so.
fn held_up(told: &Arc<Notify>, behind: Vec<Reply>) -> impl Fn(&Asked) -> Reply + Send + Sync + use<> {
    let first = std::iter::once(Reply::When(told.clone(), all_well(1)));
    // The server answers one after the other.
    let rest = std::iter::repeat_n(Reply::Say(all_well(1)), MOST_UNDER_WAY - 1);
    scripts(first.chain(rest).chain(behind).collect())
}

fn convoy(under: &Under) -> Convoy {
    Convoy::new(under.link.clone(), "rm:{test}:".to_owned())
}

async fn push(convoy: &Convoy, what: &str) -> Result<Value, StoreError> {
    within(convoy.run(PUSH, Args::of(what), Vec::new())).await
}

/// As many scripts as may be, each with one operation.
async fn under_way(convoy: &Convoy) -> JoinAll<impl Future<Output = Result<Value, StoreError>>> {
    let mut first = Vec::new();
    for _ in 0..MOST_UNDER_WAY {
        let mut one = Box::pin(push(convoy, "first"));
        assert!(poll!(&mut one).is_pending());
        // Who brings it to the server begins.
        tokio::task::yield_now().await;
        first.push(one);
    }
    join_all(first)
}

/// What those hear who come while as many scripts as may be are under way, which `told` lets go on.
async fn behind(told: &Notify, convoy: &Convoy, names: &[String]) -> Vec<Result<Value, StoreError>> {
    let first = under_way(convoy).await;
    let mut others = Box::pin(join_all(names.iter().map(|name| push(convoy, name))));
    assert!(poll!(&mut others).is_pending());
    told.notify_one();
    let (first, others) = within(async { tokio::join!(first, others) }).await;
    assert!(first.iter().all(Result::is_ok), "{first:?}");
    others
}

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|at| at.to_string()).collect()
}

/// The arguments of the operations that each script brought, without the first ones.
fn brought(server: &Played) -> Vec<Vec<String>> {
    let words = |asked: &Asked| asked.words[4..].chunks(3).map(|words| words[2].clone()).collect();
    let all: Vec<Vec<String>> = server.asked("EVALSHA").iter().map(words).collect();
    all.into_iter().filter(|words| words[..] != ["first"]).collect()
}

#[tokio::test]
async fn one_who_is_alone_goes_at_once() {
    let server = Played::start(scripts(Vec::new())).await;
    let convoy = convoy(&linked(&server).await);
    push(&convoy, "a").await.unwrap();
    push(&convoy, "b").await.unwrap();
    let asked = server.asked("EVALSHA");
    assert_eq!(asked[0].words[2..], ["1", "rm:{test}:", "1", "push", "a"]);
    assert_eq!(brought(&server), [["a"], ["b"]]);
}

#[tokio::test]
async fn those_who_come_meanwhile_go_together_and_never_too_many() {
    let told = Arc::new(Notify::new());
    let server = Played::start(held_up(&told, Vec::new())).await;
    let convoy = convoy(&linked(&server).await);
    let answers = behind(&told, &convoy, &names(0..40)).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let brought = brought(&server);
    assert_eq!(brought.concat(), names(0..40), "in the order in which they came");
    assert_eq!(brought.iter().map(Vec::len).collect::<Vec<_>>(), [32, 8]);
}

#[tokio::test]
async fn each_hears_its_own_answer() {
    let told = Arc::new(Notify::new());
    let mixed = "*3\r\n*1\r\n$2\r\nok\r\n-READONLY You can't write against a read only replica.\r\n\
                 *1\r\n$4\r\nlost\r\n";
    let server = Played::start(held_up(&told, vec![Reply::Say(mixed)])).await;
    let under = linked(&server).await;
    let convoy = convoy(&under);
    let three = behind(&told, &convoy, &names(0..3)).await;
    let word = |text: &str| Value::Array(vec![Value::BulkString(text.as_bytes().to_vec())]);
    assert_eq!(three[0].as_ref().unwrap(), &word("ok"));
    assert!(matches!(&three[1], Err(StoreError::Unavailable(text, _)) if text.contains("READONLY")));
    assert_eq!(three[2].as_ref().unwrap(), &word("lost"));
    assert_eq!(under.link.address().await, None, "a master is looked for anew");
}

#[tokio::test]
async fn a_failure_is_heard_by_all_and_those_behind_go_on() {
    let told = Arc::new(Notify::new());
    let server = Played::start(held_up(&told, vec![Reply::Close])).await;
    let convoy = convoy(&linked(&server).await);
    for answer in behind(&told, &convoy, &names(0..2)).await {
        let Err(StoreError::Unclear(text, _)) = &answer else { panic!("{answer:?}") };
        assert!(text.contains("script `run`: the connection broke"), "{text}");
    }
    push(&convoy, "later").await.unwrap();
    assert_eq!(brought(&server), [vec!["0", "1"], vec!["later"]], "nothing is repeated");
}

#[tokio::test]
async fn an_answer_of_another_number_of_operations_is_nobodys() {
    let server = Played::start(scripts(vec![Reply::Say(all_well(2))])).await;
    let answer = push(&convoy(&linked(&server).await), "a").await;
    assert!(matches!(answer, Err(StoreError::Corrupt(..))), "{answer:?}");
}

#[tokio::test]
async fn one_who_leaves_holds_up_nobody_and_is_not_sent_in_vain() {
    let told = Arc::new(Notify::new());
    let server = Played::start(held_up(&told, Vec::new())).await;
    let convoy = convoy(&linked(&server).await);
    let first = under_way(&convoy).await;
    let mut leaves = Box::pin(push(&convoy, "leaves"));
    let mut stays = Box::pin(push(&convoy, "stays"));
    assert!(poll!(&mut leaves).is_pending() && poll!(&mut stays).is_pending());
    drop((first, leaves));
    told.notify_one();
    stays.await.unwrap();
    assert_eq!(brought(&server), [["stays"]]);
}
