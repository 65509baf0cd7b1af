//! Calls to the outside: the one place that makes them.
//!
//! Each is bounded in time, and made only with leave from the budgets that all replicas share. Leave is asked
//! for always, also where nothing bounds the calls: whoever was told to stay away says so there, and that holds
//! for all. What an answer means, and whether another try is worth it, is left to whoever asked.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::Manager;
use super::connections::Candidate;
use super::worker::TaskError;
use crate::backend::{BackendError, BackendErrorKind};
use crate::budget::{BudgetKey, Permission, Permit, Quota, Rate};
use crate::clock::{TimedOut, timeout};
use crate::domain::{BackendName, Scope, later};
use crate::github::{GitHub, GitHubError, GitHubErrorKind, JitConfig, JitRequest};
use crate::retry::Retry;
use crate::store::StoreError;

/// How long a listing may take: it has many pages, and holds nobody up.
const LISTING_TIMEOUT: Duration = Duration::from_mins(5);

/// How much longer than its call a permit is good for, so that none runs out while the call is under way.
const PERMIT_MARGIN: Duration = Duration::from_secs(10);

/// A wait that a worker sits out. For a longer one the task is put back.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// How many short waits in a row a worker sits out.
const SHORT_WAITS: usize = 5;

/// A wait for which an account is passed over, where another one may do as well.
const LONG_WAIT: Duration = Duration::from_mins(3);

/// How much longer one call may take to reach GitHub than another one.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// The part of an account's calls that is kept from sweeps: a quarter.
const SWEEP_RESERVE: u64 = 4;

/// The part that is kept from recoveries, too.
const RECOVERY_RESERVE: u64 = 8;

/// What a call to GitHub is for. Where few calls are left, those that matter least end first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To register a runner: GitHub bounds these by themselves, too.
    Registration,
    /// To bring a runner up or to take it away.
    Runner,
    /// To find what no webhook told.
    Recovery,
    /// To compare all that there is with the records.
    Sweep,
}

impl Purpose {
    /// The key of what bounds an account's calls for this purpose alone.
    fn key(self, candidate: &Candidate<'_>) -> Option<BudgetKey> {
        let word = match self {
            Self::Registration => "registrations",
            Self::Runner => return None,
            Self::Recovery => "recovery",
            Self::Sweep => "sweep",
        };
        Some(candidate.key.part(word))
    }
}

/// What this process knows of waits: it has its own tasks queue up, rather than all come at once when the first
/// of them may.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<BTreeMap<BudgetKey, Timestamp>>);

impl Waits {
    /// How long a call waits that was told to wait for a rate: those who wait come one after the other, a little
    /// faster than the rate lets them pass.
    fn queue_up(&self, key: &BudgetKey, rate: Option<Rate>, pause: Duration, now: Timestamp) -> Duration {
        let Some(rate) = rate.filter(|_| pause > SHORT_WAIT) else { return pause };
        let apart = rate.per.mul_f64(0.9) / rate.calls.max(1);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = known.get(key).map_or(now, |last| later(*last, apart)).max(later(now, pause));
        known.insert(key.clone(), next);
        Duration::try_from(next.duration_since(now)).unwrap_or(pause)
    }

    /// Whether nobody here has said yet that something is left alone until this time.
    fn is_news(&self, key: &BudgetKey, until: Timestamp) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = known.get(key).is_none_or(|told| until > later(*told, ON_ITS_WAY));
        if is_news {
            known.insert(key.clone(), until);
        }
        is_news
    }
}

/// Leave to make one call.
#[derive(Debug)]
#[must_use = "it has to be given back"]
pub(super) struct Leave {
    permit: Permit,
    /// Whether anybody counts that it is under way.
    counted: bool,
}

/// Why a call brought nothing.
#[derive(Debug)]
pub(super) enum CallError<E> {
    /// It was refused, or failed.
    Failed(E),
    /// No answer came in time. It may have had its effect.
    TimedOut(TaskError),
    /// It was not made.
    NotMade(TaskError),
}

/// What is common to the errors of those who are asked.
pub(super) trait Refusal: std::fmt::Display {
    /// For how long nobody is to ask again, where that was said.
    fn stay_away(&self) -> Option<Duration>;

    /// When the call is worth another try.
    fn retry(&self) -> Retry;
}

impl Refusal for GitHubError {
    fn stay_away(&self) -> Option<Duration> {
        match self.retry {
            Retry::After(pause) if self.kind == GitHubErrorKind::RateLimited => Some(pause),
            Retry::After(_) | Retry::Never | Retry::Backoff => None,
        }
    }

    fn retry(&self) -> Retry {
        self.retry
    }
}

impl Refusal for BackendError {
    fn stay_away(&self) -> Option<Duration> {
        match self.retry {
            Retry::After(pause) if self.kind == BackendErrorKind::RateLimited => Some(pause),
            Retry::After(_) | Retry::Never | Retry::Backoff => None,
        }
    }

    fn retry(&self) -> Retry {
        self.retry
    }
}

impl<E: Refusal> From<CallError<E>> for TaskError {
    fn from(error: CallError<E>) -> Self {
        match error {
            CallError::Failed(refusal) => Self::outside(&refusal, refusal.retry()),
            CallError::TimedOut(error) | CallError::NotMade(error) => error,
        }
    }
}

impl Manager {
    /// Makes a call to GitHub for a scope, which ends within [`call_timeout`](super::Settings::call_timeout).
    pub(super) async fn ask_github<'a, T>(
        &'a self,
        scope: &'a Scope,
        what: &str,
        call: impl FnOnce(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        self.call_github(Purpose::Runner, scope, self.call_timeout(), what, call).await
    }

    /// Has GitHub register a runner.
    pub(super) async fn register_runner(
        &self,
        request: &JitRequest,
    ) -> Result<JitConfig, CallError<GitHubError>> {
        let limit = self.call_timeout();
        self.call_github(Purpose::Registration, &request.scope, limit, "create_jit_config", |github| {
            github.create_jit_config(request)
        })
        .await
    }

    /// Has GitHub list something, which may take longer.
    pub(super) async fn list_github<'a, T>(
        &'a self,
        purpose: Purpose,
        scope: &'a Scope,
        what: &str,
        call: impl FnOnce(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        self.call_github(purpose, scope, LISTING_TIMEOUT, what, call).await
    }

    async fn call_github<'a, T>(
        &'a self,
        purpose: Purpose,
        scope: &'a Scope,
        limit: Duration,
        what: &str,
        call: impl FnOnce(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        let chosen = self.leave_at_github(purpose, scope, limit, what).await;
        let (candidate, leave) = chosen.map_err(CallError::NotMade)?;
        let answer = self.spend(leave, limit, call(&*candidate.account.github)).await;
        self.save_calls(&candidate, scope).await;
        ended(what, answer)
    }

    /// Makes a call to a backend, which ends within [`call_timeout`](super::Settings::call_timeout).
    pub(super) async fn ask_backend<T>(
        &self,
        name: &BackendName,
        what: &str,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, CallError<BackendError>> {
        let (key, quota) = (BudgetKey::backend(name), self.backend_quota(name));
        self.ask(key, &quota, self.call_timeout(), what, call).await
    }

    /// Has a backend list its instances, which may take longer.
    pub(super) async fn list_backend<T>(
        &self,
        name: &BackendName,
        what: &str,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, CallError<BackendError>> {
        let (key, quota) = (BudgetKey::backend(name), self.backend_quota(name));
        self.ask(key, &quota, LISTING_TIMEOUT, what, call).await
    }

    /// Leave to create an instance. It is asked for before anything is made for the runner, and is good until
    /// the runner is registered and its instance was asked for: once that is on record, nothing may come
    /// between.
    pub(super) async fn leave_to_create(&self, name: &BackendName) -> Result<Leave, TaskError> {
        let limit = self.call_timeout() * 2;
        self.leave(BudgetKey::backend(name), &self.backend_quota(name), limit, "create").await
    }

    /// Has a backend create an instance, with the leave that was had for it.
    pub(super) async fn create_with<T>(
        &self,
        leave: Leave,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<Result<T, BackendError>, TimedOut> {
        self.spend(leave, self.call_timeout(), call).await
    }

    /// Gives back leave: the call is over, or is not made.
    pub(super) async fn give_back(&self, leave: Leave) {
        if leave.counted
            && let Err(error) = self.parts().storage.budgets.give_back(&leave.permit).await
        {
            // It counts until its lease is over.
            tracing::debug!(key = %leave.permit.key, %error, "a permit was not given back");
        }
    }

    /// Until when GitHub registers no runner in a scope, where it wants to be left alone.
    pub(super) async fn paused_until(&self, scope: &Scope) -> Result<Option<Timestamp>, StoreError> {
        // What nothing bounds is not counted, so this only tells of a pause.
        let mut paused = None;
        for candidate in self.accounts_for(scope).await? {
            match self.take(&candidate.key, &Quota::default(), Duration::ZERO).await? {
                Permission::Granted(_) => return Ok(None),
                Permission::Wait(until) => {
                    paused = Some(paused.map_or(until, |other: Timestamp| other.min(until)));
                }
            }
        }
        Ok(paused)
    }

    async fn ask<T, E: Refusal>(
        &self,
        key: BudgetKey,
        quota: &Quota,
        limit: Duration,
        what: &str,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, CallError<E>> {
        let leave = self.leave(key, quota, limit, what).await.map_err(CallError::NotMade)?;
        ended(what, self.spend(leave, limit, call).await)
    }

    /// Makes a call and gives the leave for it back. Where the answer says to stay away, all do.
    async fn spend<T, E: Refusal>(
        &self,
        leave: Leave,
        limit: Duration,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<Result<T, E>, TimedOut> {
        let answer = timeout(&*self.parts().clock, limit, call).await;
        if let Ok(Err(refusal)) = &answer
            && let Some(pause) = refusal.stay_away()
        {
            self.stay_away(&leave.permit.key, pause, &refusal.to_string()).await;
        }
        self.give_back(leave).await;
        answer
    }

    async fn stay_away(&self, key: &BudgetKey, pause: Duration, why: &str) {
        tracing::warn!(%key, ?pause, why, "too many calls: it is left alone");
        let said = match self.now().await {
            Ok(now) => self.parts().storage.budgets.pause(key, later(now, pause)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = said {
            tracing::warn!(%key, %error, "the other replicas were not told");
        }
    }

    async fn leave(
        &self,
        key: BudgetKey,
        quota: &Quota,
        limit: Duration,
        what: &str,
    ) -> Result<Leave, TaskError> {
        let mut pause = Duration::ZERO;
        for _ in 0..SHORT_WAITS {
            let until = match self.take(&key, quota, limit).await? {
                Permission::Granted(permit) => {
                    return Ok(Leave { permit, counted: quota.concurrent.is_some() });
                }
                Permission::Wait(until) => until,
            };
            pause = self.time_until(until).await?;
            if pause > SHORT_WAIT {
                break;
            }
            self.parts().clock.sleep(pause).await;
        }
        let pause = self.inner.waits.queue_up(&key, quota.rate, pause, self.parts().clock.now());
        Err(TaskError::outside(format!("{what}: {key} is not to be asked now"), Retry::After(pause)))
    }

    /// Leave to call GitHub with one of the accounts that work on a scope. One that has to be left alone for
    /// long is passed over for another.
    async fn leave_at_github<'a>(
        &'a self,
        purpose: Purpose,
        scope: &Scope,
        limit: Duration,
        what: &str,
    ) -> Result<(Candidate<'a>, Leave), TaskError> {
        let mut shortest = None;
        for candidate in self.accounts_for(scope).await? {
            let error = match self.leave_with(&candidate, purpose, limit, what).await {
                Ok(leave) => return Ok((candidate, leave)),
                Err(error) => error,
            };
            let TaskError::Outside { reason, retry: Retry::After(pause) } = error else { return Err(error) };
            if shortest.as_ref().is_none_or(|(_, shortest)| pause < *shortest) {
                shortest = Some((reason, pause));
            }
            if pause < LONG_WAIT {
                break;
            }
        }
        Err(if let Some((reason, pause)) = shortest {
            TaskError::outside(reason, Retry::After(pause))
        } else {
            let reason = format!("{what}: the connection to GitHub for {scope} is not configured here");
            TaskError::outside(reason, Retry::Backoff)
        })
    }

    /// Leave to call with one account: first what bounds all its calls, then what bounds those of a purpose.
    async fn leave_with(
        &self,
        candidate: &Candidate<'_>,
        purpose: Purpose,
        limit: Duration,
        what: &str,
    ) -> Result<Leave, TaskError> {
        let leave = self.leave(candidate.key.clone(), &candidate.account.quota, limit, what).await?;
        let Some(key) = purpose.key(candidate) else { return Ok(leave) };
        let rate = match purpose {
            Purpose::Registration => candidate.account.registrations.map(within_any_period),
            Purpose::Runner | Purpose::Recovery | Purpose::Sweep => None,
        };
        match self.leave(key, &Quota { concurrent: None, rate }, limit, what).await {
            Ok(_) => Ok(leave),
            Err(error) => {
                self.give_back(leave).await;
                Err(error)
            }
        }
    }

    /// Where an account has few calls left in its period, those that matter least are not made until it is over.
    async fn save_calls(&self, candidate: &Candidate<'_>, scope: &Scope) {
        let Some(budget) = candidate.account.github.budget(scope) else { return };
        let now = self.parts().clock.now();
        for (purpose, part) in [(Purpose::Sweep, SWEEP_RESERVE), (Purpose::Recovery, RECOVERY_RESERVE)] {
            let is_scarce = budget.remaining < budget.limit / part && budget.reset_at > now;
            let Some(key) = purpose.key(candidate).filter(|_| is_scarce) else { continue };
            if self.inner.waits.is_news(&key, budget.reset_at) {
                let left = Duration::try_from(budget.reset_at.duration_since(now)).unwrap_or_default();
                self.stay_away(&key, left, "few calls are left: they are saved for runners").await;
            }
        }
    }

    async fn take(&self, key: &BudgetKey, quota: &Quota, limit: Duration) -> Result<Permission, StoreError> {
        self.parts().storage.budgets.take(key, quota, limit + PERMIT_MARGIN).await
    }

    async fn time_until(&self, until: Timestamp) -> Result<Duration, StoreError> {
        let pause = Duration::try_from(until.duration_since(self.now().await?)).unwrap_or_default();
        Ok(pause.max(Duration::from_millis(1)))
    }

    fn backend_quota(&self, name: &BackendName) -> Quota {
        self.parts().backends.get(name).map(|connected| connected.quota).unwrap_or_default()
    }

    fn call_timeout(&self) -> Duration {
        self.parts().settings.call_timeout
    }
}

fn ended<T, E>(what: &str, answer: Result<Result<T, E>, TimedOut>) -> Result<T, CallError<E>> {
    match answer {
        Ok(answer) => answer.map_err(CallError::Failed),
        Err(timed_out) => {
            let error = TaskError::outside(format!("{what}: {timed_out}"), Retry::Backoff);
            Err(CallError::TimedOut(error))
        }
    }
}

/// A rate that also holds where one call takes longer on its way than another.
const fn within_any_period(rate: Rate) -> Rate {
    Rate { calls: rate.calls, per: rate.per.saturating_add(ON_ITS_WAY) }
}
