//! Waking those who wait for a task.
//!
//! Scripts put a token into a lane's wake list when one who waits should look at the lane. Of those of a process
//! who wait on a lane one keeps the time: it waits until a token comes, or until something happens on the lane by
//! itself. It then looks, and the next one keeps the time. So a process has one connection that blocks for each lane,
//! however many wait.
//!
//! Who keeps the time also leaves its claim where this process' own writes find it: one that makes something due on the
//! lane takes the claim along in its script, so what a process makes for itself it has without asking again.
//!
//! What a look has told holds until a token comes: where it told that nothing else is due, the next one waits at once.
//!
//! A token that is lost with the one who took it delays a task by [`LOOK_AT_LEAST`] at most: after that time
//! whoever keeps the time looks anyway.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use super::args::Args;
use super::data::Data;
use super::queue::Look;
use crate::baton::Baton;
use crate::clock::Clock;
use crate::domain::later;
use crate::queue::Lane;
use crate::store::StoreError;

/// How long one who waits goes without looking at the lane.
const LOOK_AT_LEAST: Duration = Duration::from_secs(2);

/// What a claim was told: nothing where it did not look.
pub(super) type LookAnswer = Result<Option<Look>, StoreError>;

/// Those of this process who wait, by lane. A lane is remembered from its first wait on.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<BTreeMap<String, Arc<Waiters>>>);

impl Lanes {
    /// Those who wait on a lane.
    pub(super) fn of(&self, lane: &str) -> Arc<Waiters> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lanes.entry(lane.to_owned()).or_default())
    }
}

/// A claim that a write takes along.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) args: Args,
    pub(super) sender: oneshot::Sender<LookAnswer>,
}

/// What a look at a lane has told.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Until when nobody has to look, by this process' clock. None where nobody has looked.
    look_at: Option<Timestamp>,
    /// Whether nothing is due until then that no token tells of.
    quiet: bool,
}

/// Why a wait is over.
#[derive(Debug)]
pub(super) enum Woken<'w> {
    /// The lane is worth a look: until it is taken, this makes sure that another is woken in its place.
    Unseen(Baton<'w>),
    /// A write took the claim along and this is what it was told, or the time is over.
    Told(Option<Look>),
}

/// What happens to one who keeps the time.
#[derive(Debug)]
enum Event {
    HandedOn,
    Answered(LookAnswer),
    /// There was a token, or there was none for so long.
    Listened(Result<bool, StoreError>),
    TimeIsUp,
}

/// Those of this process who wait on one lane.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// How many claim or wait now.
    present: Arc<AtomicUsize>,
    /// One who was woken has left before it looked.
    handed_on: Notify,
    known: Mutex<Known>,
    /// The claim of the one who keeps the time, unless a write has taken it along.
    parked: Mutex<Option<Parked>>,
    /// Held by the one who keeps the time. Waiting for a token goes on where it leaves for another reason, and is the
    /// next one's: a connection on which somebody blocks can be used for nothing else.
    listening: tokio::sync::Mutex<JoinSet<Result<bool, StoreError>>>,
}

impl Waiters {
    /// Notes what a look at the lane has told at this time.
    pub(super) fn note(&self, look: &Look, now: Timestamp) {
        let next = look.next.map_or(LOOK_AT_LEAST, |next| next.min(LOOK_AT_LEAST));
        *self.known() = Known { look_at: Some(later(now, next)), quiet: look.quiet };
    }

    /// Whether a look would find nothing, as far as this process knows.
    pub(super) fn is_quiet(&self, now: Timestamp) -> bool {
        let known = *self.known();
        known.quiet && known.look_at.is_some_and(|look_at| now < look_at)
    }

    /// Takes the claim of the one who keeps the time, if it still waits.
    pub(super) fn take_parked(&self) -> Option<Parked> {
        self.parked().take().filter(|parked| !parked.sender.is_closed())
    }

    /// Waits until the lane is worth a look, and no longer than `end`; `args` is the claim that a write may take along.
    ///
    /// # Errors
    /// When the server does not say when there is a token.
    pub(super) async fn wait(
        &self,
        data: &Data,
        clock: &dyn Clock,
        lane: &Lane,
        args: impl FnOnce() -> Args + Send,
        end: Timestamp,
    ) -> Result<Woken<'_>, StoreError> {
        let mut listening = tokio::select! {
            biased;
            () = self.handed_on.notified() => return Ok(Woken::Unseen(Baton::of(&self.handed_on))),
            guard = self.listening.lock() => guard,
            () = clock.sleep(left(clock, end)) => return Ok(Woken::Told(None)),
        };
        let look_at = self.known().look_at.unwrap_or_else(|| later(clock.now(), LOOK_AT_LEAST));
        // One that failed while nobody waited says nothing of how the server is now.
        let heard = listening.try_join_next().is_some_and(|listened| matches!(listened, Ok(Ok(true))));
        if heard {
            return Ok(self.unseen());
        }
        if listening.is_empty() {
            self.listen(&mut listening, data, lane);
        }
        let (sender, mut answer) = oneshot::channel();
        *self.parked() = Some(Parked { args: args(), sender });
        let event = tokio::select! {
            biased;
            () = self.handed_on.notified() => Event::HandedOn,
            answer = &mut answer => Event::Answered(answer.unwrap_or(Ok(None))),
            Some(listened) = listening.join_next() => Event::Listened(listened.unwrap_or(Ok(false))),
            () = clock.sleep(left(clock, look_at.min(end))) => Event::TimeIsUp,
        };
        let is_up = look_at < end && look_at <= clock.now();
        let is_worth_it = match event {
            Event::Answered(answer) => return Ok(Woken::Told(answer?)),
            Event::HandedOn => true,
            Event::Listened(token) => token?,
            Event::TimeIsUp => is_up,
        };
        if self.parked().take().is_none() {
            // A write has taken it along: what it was told comes first, and another one looks.
            let _baton = is_worth_it.then(|| Baton::of(&self.handed_on));
            return Ok(Woken::Told(answer.await.unwrap_or(Ok(None))?));
        }
        Ok(if is_worth_it { self.unseen() } else { Woken::Told(None) })
    }

    /// Has the one who keeps the time look. It notes anew when to look next: that is not for all who keep the time until
    /// then.
    fn unseen(&self) -> Woken<'_> {
        *self.known() = Known { look_at: None, quiet: false };
        Woken::Unseen(Baton::of(&self.handed_on))
    }

    /// Waits for a token in the background. One that comes when nobody waits here is for others.
    fn listen(&self, listening: &mut JoinSet<Result<bool, StoreError>>, data: &Data, lane: &Lane) {
        let (data, tokens) = (data.clone(), data.key(&format!("k:{}", lane.as_str())));
        let present = Arc::clone(&self.present);
        listening.spawn(async move {
            let is_woken = data.link.wait(&tokens, LOOK_AT_LEAST).await?;
            if is_woken && present.load(Ordering::Relaxed) == 0 {
                data.command("LPUSH", &tokens, &["1"]).await?;
                return Ok(false);
            }
            Ok(is_woken)
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parked(&self) -> MutexGuard<'_, Option<Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long it is to a point in time.
fn left(clock: &dyn Clock, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(clock.now())).unwrap_or(Duration::ZERO)
}

/// One who claims or waits on a lane.
#[derive(Debug)]
pub(super) struct Present<'w>(&'w Waiters);

impl<'w> Present<'w> {
    /// Counts as present from here on.
    pub(super) fn on(waiters: &'w Waiters) -> Self {
        waiters.present.fetch_add(1, Ordering::Relaxed);
        Self(waiters)
    }

    /// Whether nobody else of this process is.
    pub(super) fn is_alone(&self) -> bool {
        self.0.present.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
    }
}
