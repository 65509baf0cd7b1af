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
use super::bounds::{Bounds, Errand};
use super::connections::Candidate;
use super::worker::TaskError;
use crate::backend::{Backend, BackendError, BackendErrorKind};
use crate::budget::{Bound, BudgetKey, Permission, Permit, Quota, Rate};
use crate::clock::{TimedOut, timeout};
use crate::domain::{BackendName, HookPlace, InstanceId, Scope, later};
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

/// By how much two answers may differ in when they say that a period ends, and mean the same.
const ABOUT_NOW: Duration = Duration::from_secs(2);

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
    pub(super) fn key(self, candidate: &Candidate<'_>) -> Option<BudgetKey> {
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
        let is_news = known.get(key).is_none_or(|told| until > later(*told, ABOUT_NOW));
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
    /// What all leave alone where the answer says so.
    left_alone: Vec<BudgetKey>,
}

/// What keeps a call from being made, and for how long.
#[derive(Debug)]
struct Held<'a> {
    key: &'a BudgetKey,
    rate: Option<Rate>,
    pause: Duration,
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
    /// Makes a call to GitHub for a scope, which ends within the call time-out of its connection.
    pub(super) async fn ask_github<'a, T>(
        &'a self,
        scope: &'a Scope,
        what: &str,
        call: impl Fn(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        self.call_github(Purpose::Runner, scope, None, what, call).await
    }

    /// Has GitHub register a runner.
    pub(super) async fn register_runner(
        &self,
        request: &JitRequest,
    ) -> Result<JitConfig, CallError<GitHubError>> {
        self.call_github(Purpose::Registration, &request.scope, None, "create_jit_config", |github| {
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
        call: impl Fn(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        self.call_github(purpose, scope, Some(LISTING_TIMEOUT), what, call).await
    }

    /// Has GitHub list something about a place's hook.
    pub(super) async fn list_of_hook<'a, T>(
        &'a self,
        place: &HookPlace,
        what: &str,
        call: impl Fn(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        self.call_of_hook(place, Some(LISTING_TIMEOUT), what, call).await
    }

    /// Has GitHub do something about a place's hook.
    pub(super) async fn ask_of_hook<'a, T>(
        &'a self,
        place: &HookPlace,
        what: &str,
        call: impl Fn(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        self.call_of_hook(place, None, what, call).await
    }

    async fn call_of_hook<'a, T>(
        &'a self,
        place: &HookPlace,
        limit: Option<Duration>,
        what: &str,
        call: impl Fn(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        let accounts =
            self.accounts_for_hook(place).await.map_err(|error| CallError::NotMade(error.into()))?;
        if accounts.is_empty() {
            let reason = format!("{what}: the connection to GitHub, of {place}, is not configured here");
            return Err(CallError::NotMade(TaskError::outside(reason, Retry::Backoff)));
        }
        let scope = match place {
            HookPlace::Scope(scope) => Some(scope),
            HookPlace::App { .. } => None,
        };
        self.call_with(Purpose::Recovery, accounts, scope, limit, what, call).await
    }

    async fn call_github<'a, T>(
        &'a self,
        purpose: Purpose,
        scope: &'a Scope,
        limit: Option<Duration>,
        what: &str,
        call: impl Fn(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        let accounts = self.accounts_for(scope).await.map_err(|error| CallError::NotMade(error.into()))?;
        if accounts.is_empty() {
            let name = self.connection_of(scope).await.map_err(|error| CallError::NotMade(error.into()))?;
            let reason = format!("{what}: connection {name} to GitHub, of {scope}, is not configured here");
            return Err(CallError::NotMade(TaskError::outside(reason, Retry::Backoff)));
        }
        self.call_with(purpose, accounts, Some(scope), limit, what, call).await
    }

    /// Makes a call with one of several accounts. One that GitHub does not let do it is passed over: such a refusal
    /// had no effect, and another account may do as well. `scope` is whose calls GitHub tells what is left of.
    async fn call_with<'a, T>(
        &'a self,
        purpose: Purpose,
        accounts: Vec<Candidate<'a>>,
        scope: Option<&Scope>,
        limit: Option<Duration>,
        what: &str,
        call: impl Fn(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        let limit = limit.unwrap_or_else(|| self.call_timeout_of(&accounts));
        let mut left = accounts;
        loop {
            let ways: Vec<Bounds> =
                left.iter().map(|candidate| Bounds::of_account(candidate, purpose)).collect();
            let chosen = self.leave_by_any(&ways, limit, what).await;
            let (number, leave) = chosen.map_err(CallError::NotMade)?;
            let candidate = left.swap_remove(number);
            let answer = self.spend(leave, limit, call(&*candidate.account.github)).await;
            if let Some(scope) = scope {
                self.save_calls(&candidate, scope).await;
            }
            match answer {
                Ok(Err(refusal)) if is_about_the_account(&refusal) && !left.is_empty() => {
                    self.pass_over(&candidate, &refusal);
                }
                answer => return ended(what, answer),
            }
        }
    }

    /// Has a backend look at something, which ends within [`call_timeout`](super::Settings::call_timeout).
    pub(super) async fn ask_backend<T>(
        &self,
        name: &BackendName,
        what: &str,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, CallError<BackendError>> {
        let bounds = self.backend_bounds(name, Errand::Look).await;
        self.ask(bounds, self.call_timeout(), what, call).await
    }

    /// Has a backend delete an instance.
    pub(super) async fn delete_instance(
        &self,
        name: &BackendName,
        backend: &dyn Backend,
        id: &InstanceId,
    ) -> Result<(), CallError<BackendError>> {
        let bounds = self.backend_bounds(name, Errand::Delete).await;
        self.ask(bounds, self.call_timeout(), "delete", backend.delete(id)).await
    }

    /// Has a backend list its instances, which may take longer.
    pub(super) async fn list_backend<T>(
        &self,
        name: &BackendName,
        what: &str,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, CallError<BackendError>> {
        self.ask(self.backend_bounds(name, Errand::Look).await, LISTING_TIMEOUT, what, call).await
    }

    /// Leave to create an instance. It is asked for before anything is made for the runner, and is good until
    /// the runner is registered and its instance was asked for: once that is on record, nothing may come
    /// between.
    pub(super) async fn leave_to_create(&self, name: &BackendName) -> Result<Leave, TaskError> {
        let limit = self.call_timeout() + self.longest_call_to_github();
        self.leave(self.backend_bounds(name, Errand::Create).await, limit, "create").await
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
        if let Err(error) = self.parts().storage.budgets.give_back(&leave.permit).await {
            // It counts until its lease is over.
            tracing::debug!(keys = ?leave.permit.keys, %error, "a permit was not given back");
        }
    }

    /// Until when GitHub registers no runner in a scope, where it wants to be left alone.
    pub(super) async fn paused_until(&self, scope: &Scope) -> Result<Option<Timestamp>, StoreError> {
        // What nothing bounds is not counted, so this only tells of a pause.
        let mut paused = None;
        for candidate in self.accounts_for(scope).await? {
            let bound = Bound { key: candidate.key.clone(), quota: Quota::default() };
            match self.parts().storage.budgets.take(&[bound], Duration::ZERO).await? {
                Permission::Granted(_) => return Ok(None),
                Permission::Wait { until, .. } => {
                    paused = Some(paused.map_or(until, |other: Timestamp| other.min(until)));
                }
            }
        }
        Ok(paused)
    }

    async fn ask<T, E: Refusal>(
        &self,
        bounds: Bounds,
        limit: Duration,
        what: &str,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, CallError<E>> {
        let leave = self.leave(bounds, limit, what).await.map_err(CallError::NotMade)?;
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
            for key in &leave.left_alone {
                self.stay_away(key, pause, &refusal.to_string()).await;
            }
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

    async fn leave(&self, bounds: Bounds, limit: Duration, what: &str) -> Result<Leave, TaskError> {
        self.leave_by_any(&[bounds], limit, what).await.map(|(_, leave)| leave)
    }

    /// Leave by the first way that is open. A short wait is sat out.
    async fn leave_by_any(
        &self,
        ways: &[Bounds],
        limit: Duration,
        what: &str,
    ) -> Result<(usize, Leave), TaskError> {
        let mut tries = SHORT_WAITS;
        loop {
            let mut shortest: Option<Held<'_>> = None;
            for (number, way) in ways.iter().enumerate() {
                match self.try_leave(way, limit).await? {
                    Ok(leave) => return Ok((number, leave)),
                    Err(held) if shortest.as_ref().is_some_and(|other| other.pause <= held.pause) => {}
                    Err(held) => shortest = Some(held),
                }
            }
            let Held { key, rate, pause } = shortest.expect("there is a way, and it is not open");
            tries -= 1;
            if pause > SHORT_WAIT || tries == 0 {
                let pause = self.inner.waits.queue_up(key, rate, pause, self.parts().clock.now());
                let reason = format!("{what}: {key} is not to be asked now");
                return Err(TaskError::NotNow { reason, pause });
            }
            self.parts().clock.sleep(pause).await;
        }
    }

    /// Leave by one way.
    async fn try_leave<'b>(
        &self,
        Bounds { all, left_alone }: &'b Bounds,
        limit: Duration,
    ) -> Result<Result<Leave, Held<'b>>, StoreError> {
        match self.parts().storage.budgets.take(all, limit + PERMIT_MARGIN).await? {
            Permission::Granted(permit) => Ok(Ok(Leave { permit, left_alone: left_alone.clone() })),
            Permission::Wait { until, bound } => {
                let Bound { key, quota } = &all[bound.min(all.len() - 1)];
                Ok(Err(Held { key, rate: quota.rate, pause: self.time_until(until).await? }))
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

    async fn time_until(&self, until: Timestamp) -> Result<Duration, StoreError> {
        let pause = Duration::try_from(until.duration_since(self.now().await?)).unwrap_or_default();
        Ok(pause.max(Duration::from_millis(1)))
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

/// Whether GitHub refused a call for who made it, so that it had no effect and somebody else may be let do it.
const fn is_about_the_account(refusal: &GitHubError) -> bool {
    matches!(
        refusal.kind,
        GitHubErrorKind::NoInstallation
            | GitHubErrorKind::Unauthenticated
            | GitHubErrorKind::PermissionDenied
    )
}
