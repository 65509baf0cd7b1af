//! The suite of [`Clock`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{join, join_all};

use super::Case;
use super::storage::PassTime;
use crate::clock::{Clock, TimedOut, timeout};
use crate::domain::later;

/// A clock with the way to let its time pass.
#[derive(Debug)]
pub struct ClockSubject {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How its time passes.
    pub time: Arc<dyn PassTime>,
    /// What durations of the cases are counted in: see
    /// [`StorageSubject::unit`](super::storage::StorageSubject::unit).
    pub unit: Duration,
}

/// The cases, each named like the point of *Behaviour* that it tests.
pub fn cases() -> Vec<Case<ClockSubject>> {
    vec![
        Case::new("now_does_not_go_back", now_does_not_go_back),
        Case::new("sleep_waits_its_time", sleep_waits_its_time),
        Case::new("sleep_can_be_dropped", sleep_can_be_dropped),
    ]
}

async fn now_does_not_go_back(on: ClockSubject) {
    let mut before = on.clock.now();
    for _ in 0..3 {
        on.time.pass(on.unit).await;
        let now = on.clock.now();
        assert!(now >= later(before, on.unit), "{before} and {} after it {now}", on.unit.as_secs_f64());
        before = now;
    }
}

async fn sleep_waits_its_time(on: ClockSubject) {
    let begin = on.clock.now();
    let sleep = async |units: u32| {
        on.clock.sleep(on.unit * units).await;
        assert!(on.clock.now() >= later(begin, on.unit * units), "slept less than {units} units");
    };
    let pass = async {
        for _ in 0..3 {
            on.time.pass(on.unit).await;
        }
    };
    join(join_all([3, 1, 2, 1].map(sleep)), pass).await;
}

async fn sleep_can_be_dropped(on: ClockSubject) {
    for _ in 0..1000 {
        assert!(on.clock.sleep(on.unit * 1000).now_or_never().is_none());
    }
    let limit = timeout(&*on.clock, on.unit * 2, on.clock.sleep(on.unit * 1000));
    let (answer, ()) = join(limit, on.time.pass(on.unit * 2)).await;
    assert_eq!(answer, Err(TimedOut(on.unit * 2)));
}
