//! Operations that go to Redis together.
//!
//! For each script that it runs, Redis makes the script's functions anew, asks for the time and takes up a message, and
//! that is as much work as a write itself. So what many do at the same time shares a script. An operation goes at once
//! while few scripts are under way; those that come otherwise go together as soon as one of these is answered. Nobody
//! waits for company, so one who is alone is answered as soon as ever, and the more there is to do the less each costs.
//!
//! Each is still a step of its own, with its own answer: see `scripts/run.lua`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redis::Value;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::args::Args;
use super::link::Link;
use super::reply::not_understood;
use super::scripts::{self, Operation};
use crate::store::StoreError;

/// The most operations that share a script: one or two milliseconds of work, which holds up everybody else meanwhile.
const MOST_TOGETHER: usize = 32;

/// How many scripts are under way before others wait to share one. More than one, so that a write need not wait for a
/// script that it has nothing to do with, such as the claim of the next task.
pub(super) const MOST_UNDER_WAY: usize = 4;

pub(super) type Answer = Result<Value, StoreError>;

/// The operations of one process on the data under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Convoy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    prefix: String,
    road: Mutex<Road>,
    /// Who brings operations to Redis and answers back, also to those who do not wait any more.
    drivers: TaskTracker,
}

/// What is on its way to Redis, and what waits for that to be answered.
#[derive(Debug, Default)]
struct Road {
    waiting: Vec<Waiting>,
    /// How many drivers there are: each has one script under way.
    drivers: usize,
}

/// An operation that is to go.
#[derive(Debug)]
pub(super) struct Waiting {
    operation: Operation,
    args: Args,
    sender: oneshot::Sender<Answer>,
}

impl Waiting {
    /// An operation, and where its answer comes.
    pub(super) fn new(operation: Operation, args: Args) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, answer) = oneshot::channel();
        (Self { operation, args, sender }, answer)
    }
}

impl Convoy {
    /// Nobody is under way yet.
    pub(super) fn new(link: Link, prefix: String) -> Self {
        let (road, drivers) = (Mutex::default(), TaskTracker::new());
        Self(Arc::new(Inner { link, prefix, road, drivers }))
    }

    /// Does an operation, and those that are to go right behind it. One whose caller goes away before it was sent is not
    /// done.
    ///
    /// # Errors
    /// As those of [`Link::run`].
    pub(super) async fn run(&self, operation: Operation, args: Args, behind: Vec<Waiting>) -> Answer {
        let (first, answer) = Waiting::new(operation, args);
        if self.0.join(first, behind) {
            let inner = Arc::clone(&self.0);
            self.0.drivers.spawn(async move { inner.drive().await });
        }
        heard(answer).await
    }
}

/// The answer to an operation that goes.
///
/// # Errors
/// As those of [`Link::run`].
pub(super) async fn heard(answer: oneshot::Receiver<Answer>) -> Answer {
    answer.await.unwrap_or_else(|_| Err(StoreError::Unclear("the process stops meanwhile".to_owned(), None)))
}

impl Inner {
    /// Adds operations, and tells whether somebody has to drive.
    fn join(&self, first: Waiting, behind: Vec<Waiting>) -> bool {
        let mut road = self.road();
        road.waiting.push(first);
        road.waiting.extend(behind);
        let is_free = road.drivers < MOST_UNDER_WAY;
        road.drivers += usize::from(is_free);
        is_free
    }

    /// Brings what waits to Redis, until nothing waits.
    async fn drive(&self) {
        while let Some(together) = self.next() {
            let answers = self.run(&together).await;
            for (Waiting { sender, .. }, answer) in together.into_iter().zip(answers) {
                // One who does not wait any more asks again under the same operation id, if at all.
                let _ = sender.send(answer);
            }
        }
    }

    /// Those that go next. Where there are none, their driver has left the road.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut road = self.road();
        road.waiting.retain(|waiting| !waiting.sender.is_closed());
        let together = road.waiting.len().min(MOST_TOGETHER);
        if together == 0 {
            road.drivers -= 1;
            return None;
        }
        Some(road.waiting.drain(..together).collect())
    }

    /// The answer of each.
    async fn run(&self, together: &[Waiting]) -> Vec<Answer> {
        let counts: Vec<String> = together.iter().map(|one| one.args.iter().len().to_string()).collect();
        let args = counts.iter().zip(together).flat_map(|(count, Waiting { operation, args, .. })| {
            [count.as_bytes(), operation.name.as_bytes()].into_iter().chain(args.iter())
        });
        let args: Vec<&[u8]> = args.collect();
        let failure = match self.link.run_all(&scripts::RUN, &[&self.prefix], &args).await {
            Ok(answers) if answers.len() == together.len() => return answers,
            Ok(_) => not_understood(),
            Err(failure) => failure,
        };
        together.iter().map(|_| Err(again(&failure))).collect()
    }

    fn road(&self) -> MutexGuard<'_, Road> {
        self.road.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one of several hears of a failure that concerns them all.
fn again(failure: &StoreError) -> StoreError {
    match failure {
        StoreError::Unavailable(text, _) => StoreError::Unavailable(text.clone(), None),
        StoreError::Unclear(text, _) => StoreError::Unclear(text.clone(), None),
        StoreError::Corrupt(text, _) => StoreError::Corrupt(text.clone(), None),
        other => StoreError::Unclear(other.to_string(), None),
    }
}
