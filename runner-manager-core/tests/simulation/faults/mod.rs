//! What goes wrong between a replica and everything it talks to.
//!
//! Every call of a manager goes through a wrapper of the trait. Before and after each call something may
//! happen to the process that made it: it crashes, it is frozen, the call is slow, it is refused, or its answer
//! is lost. The manager knows nothing of this.

pub(crate) mod backend;
pub(crate) mod github;
pub(crate) mod queue;
pub(crate) mod store;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::later;
use tokio::sync::Notify;

use super::limits::Asked;
use super::shared::{Promise, Shared};
use super::trace::Who;

/// How long a call may be on its way from a process that was thawed, or whose hold was lost.
pub(crate) const LATELY: SignedDuration = SignedDuration::from_secs(30);

/// What a replica talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Store,
    Queue,
    Budgets,
    GitHub,
    Backend,
}

impl Side {
    pub(crate) const ALL: [Self; 5] = [Self::Store, Self::Queue, Self::Budgets, Self::GitHub, Self::Backend];

    const fn word(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Queue => "queue",
            Self::Budgets => "budgets",
            Self::GitHub => "github",
            Self::Backend => "backend",
        }
    }

    /// How long a slow call may be slowed down.
    const fn slowness(self) -> u64 {
        match self {
            Self::Store | Self::Queue | Self::Budgets => 1_500,
            Self::GitHub | Self::Backend => 12_000,
        }
    }
}

/// Whether something happens before a call has its effect, or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

/// What happens to a process at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Crash,
    Freeze,
    Slow,
    /// The call is not made, and the process is told so.
    Refuse,
    /// The call has its effect, and the process is not told.
    Lose,
}

/// The name that a trouble is counted by.
fn kind(side: Side, moment: Moment, trouble: Trouble) -> String {
    let side = side.word();
    match (moment, trouble) {
        (_, Trouble::Refuse) => format!("{side}: refused"),
        (_, Trouble::Lose) => format!("{side}: reply lost"),
        (Moment::Before, trouble) => format!("{side}: {trouble:?} before").to_lowercase(),
        (Moment::After, trouble) => format!("{side}: {trouble:?} after").to_lowercase(),
    }
}

/// Every kind of trouble that calls can meet.
pub(crate) fn all_kinds() -> Vec<String> {
    let mut kinds = Vec::new();
    for side in Side::ALL {
        for trouble in [Trouble::Crash, Trouble::Freeze, Trouble::Slow] {
            kinds.push(kind(side, Moment::Before, trouble));
            kinds.push(kind(side, Moment::After, trouble));
        }
        kinds.push(kind(side, Moment::Before, Trouble::Refuse));
        kinds.push(kind(side, Moment::After, Trouble::Lose));
    }
    kinds
}

/// A call did not come to its end as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was not made.
    Refused,
    /// It was made, and nobody knows what came of it.
    Lost,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) side: Side,
    pub(crate) name: &'static str,
}

/// The one process of a replica: whether it runs, and the only way out of it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) shared: Arc<Shared>,
    pub(crate) replica: usize,
    lease: Duration,
    dead: AtomicBool,
    frozen: Mutex<Frozen>,
    thaw: Notify,
    /// Whether anything may go wrong with its calls.
    is_troubled: bool,
}

#[derive(Debug, Default)]
struct Frozen {
    until: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Process {
    pub(crate) fn new(shared: Arc<Shared>, replica: usize, lease: Duration) -> Self {
        Self {
            shared,
            replica,
            lease,
            dead: AtomicBool::new(false),
            frozen: Mutex::default(),
            thaw: Notify::new(),
            is_troubled: true,
        }
    }

    /// The same process with calls that all go well.
    pub(crate) const fn without_trouble(mut self) -> Self {
        self.is_troubled = false;
        self
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Nothing more comes out of the process from here on.
    pub(crate) fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.lock().unwrap().until.is_some()
    }

    pub(crate) fn frozen_until(&self) -> Option<Timestamp> {
        self.frozen.lock().unwrap().until
    }

    /// Whether the process was frozen at some time since `since`, and runs again.
    pub(crate) fn thawed_since(&self, since: Timestamp) -> bool {
        self.frozen.lock().unwrap().last.is_some_and(|thawed| thawed >= since)
    }

    pub(crate) fn freeze(&self, pause: Duration) {
        let until = later(self.shared.now(), pause);
        self.frozen.lock().unwrap().until = Some(until);
        self.shared.state().checker.limits.freezes(self.replica);
    }

    /// Goes on where its time has come.
    pub(crate) fn thaw(&self, now: Timestamp) -> bool {
        let mut frozen = self.frozen.lock().unwrap();
        if frozen.until.is_none_or(|until| until > now) {
            return false;
        }
        *frozen = Frozen { until: None, last: Some(now) };
        self.thaw.notify_waiters();
        true
    }

    /// Passes while the process runs.
    pub(crate) async fn gate(&self) {
        loop {
            let thaw = self.thaw.notified();
            if self.is_dead() {
                return std::future::pending().await;
            }
            if !self.is_frozen() {
                return;
            }
            thaw.await;
        }
    }

    /// Makes a call, with whatever goes wrong.
    pub(crate) async fn call<T, E>(
        &self,
        call: Call,
        failed: impl Fn(Failure) -> E + Send,
        made: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E>
    where
        T: Send,
        E: Send + std::error::Error,
    {
        self.gate().await;
        if self.trouble(call, Moment::Before).await == Some(Failure::Refused) {
            return Err(failed(Failure::Refused));
        }
        let answer = made.await;
        if self.trouble(call, Moment::After).await == Some(Failure::Lost) {
            return Err(failed(Failure::Lost));
        }
        if let Err(error) = &answer {
            self.shared.state().checker.shown(&format!("{error} {error:?}"));
            self.shared.note(Who::Replica(self.replica), call.name, "error", || error.to_string());
        }
        answer
    }

    /// Makes a call to the outside, and holds it against what all replicas may ask.
    pub(crate) async fn within_limits<T>(&self, asked: Asked, made: impl Future<Output = T> + Send) -> T {
        let is_late = self.thawed_since(self.shared.now() - LATELY);
        {
            let mut state = self.shared.state();
            if let Some(wrong) = state.checker.limits.begins(self.replica, asked, is_late) {
                state.checker.broken(Promise::Limits, wrong);
            }
        }
        let _under_way = UnderWay(self, asked);
        made.await
    }

    async fn trouble(&self, call: Call, moment: Moment) -> Option<Failure> {
        let drawn = if self.is_troubled { self.draw(call, moment) } else { None };
        if let Some((trouble, _)) = drawn {
            let word = kind(call.side, moment, trouble);
            self.shared.note(Who::Replica(self.replica), call.name, &word, String::new);
            self.shared.state().strike(word);
        }
        let failure = match drawn {
            None => None,
            Some((Trouble::Crash, _)) => {
                self.die();
                None
            }
            Some((Trouble::Freeze, pause)) => {
                self.freeze(pause);
                None
            }
            Some((Trouble::Slow, pause)) => {
                self.shared.clock.sleep(pause).await;
                None
            }
            Some((Trouble::Refuse, _)) => Some(Failure::Refused),
            Some((Trouble::Lose, _)) => Some(Failure::Lost),
        };
        self.gate().await;
        failure
    }

    fn draw(&self, call: Call, moment: Moment) -> Option<(Trouble, Duration)> {
        let mut state = self.shared.state();
        let state = &mut *state;
        let chances = state.chances[call.side as usize];
        let failing = match moment {
            Moment::Before => (Trouble::Refuse, chances.refuse),
            Moment::After => (Trouble::Lose, chances.lose),
        };
        let crash = if state.crashes_left > 0 { chances.crash } else { 0 };
        let freeze = if state.freezes_left > 0 { chances.freeze } else { 0 };
        let mut drawn = state.chaos.next() % 1_000_000;
        for (trouble, chance) in
            [(Trouble::Crash, crash), (Trouble::Freeze, freeze), (Trouble::Slow, chances.slow), failing]
        {
            let chance = u64::from(chance);
            if drawn >= chance {
                drawn -= chance;
                continue;
            }
            let pause = match trouble {
                Trouble::Crash => {
                    state.crashes_left -= 1;
                    Duration::ZERO
                }
                Trouble::Freeze => {
                    state.freezes_left -= 1;
                    // Most often for longer than its lease, sometimes only nearly so.
                    self.lease.mul_f64(0.8) + state.chaos.seconds(0, 60)
                }
                Trouble::Slow => state.chaos.millis(1, call.side.slowness()),
                Trouble::Refuse | Trouble::Lose => Duration::ZERO,
            };
            return Some((trouble, pause));
        }
        None
    }
}

/// A call that is under way until it is answered or given up.
struct UnderWay<'p>(&'p Process, Asked);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.shared.state().checker.limits.ends(self.0.replica, self.1);
    }
}

/// A replica's own clock: off by some minutes, and standing still while its process is frozen.
#[derive(Debug)]
pub(crate) struct SkewedClock {
    pub(crate) process: Arc<Process>,
    pub(crate) skew: SignedDuration,
}

#[async_trait::async_trait]
impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        self.process.shared.now() + self.skew
    }

    async fn sleep(&self, duration: Duration) {
        self.process.shared.clock.sleep(duration).await;
        self.process.gate().await;
    }
}
