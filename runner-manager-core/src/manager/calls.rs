//! Calls to the outside: the one place that makes them.
//!
//! Each is bounded in time, and made only with leave from the budgets that all replicas share. Leave is asked
//! for always, also where nothing bounds the calls: whoever was told to stay away says so there, and that holds
//! for all. What an answer means, and whether another try is worth it, is left to whoever asked.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use super::worker::TaskError;
use crate::backend::{BackendError, BackendErrorKind};
use crate::budget::{BudgetKey, Permission, Permit, Quota};
use crate::clock::{TimedOut, timeout};
use crate::domain::{BackendName, Scope, later};
use crate::github::{GitHubError, GitHubErrorKind};
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
    /// Makes a call to GitHub, which ends within [`call_timeout`](super::Settings::call_timeout).
    pub(super) async fn ask_github<T>(
        &self,
        scope: &Scope,
        what: &str,
        call: impl Future<Output = Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        self.ask(self.github_key(scope), &self.github_quota(), self.call_timeout(), what, call).await
    }

    /// Has GitHub list something, which may take longer.
    pub(super) async fn list_github<T>(
        &self,
        scope: &Scope,
        what: &str,
        call: impl Future<Output = Result<T, GitHubError>> + Send,
    ) -> Result<T, CallError<GitHubError>> {
        self.ask(self.github_key(scope), &self.github_quota(), LISTING_TIMEOUT, what, call).await
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

    /// Until when GitHub is not asked for a scope, where it wants to be left alone.
    pub(super) async fn paused_until(&self, scope: &Scope) -> Result<Option<Timestamp>, StoreError> {
        // What nothing bounds is not counted, so this only tells of a pause.
        let (key, nothing) = (self.github_key(scope), Quota::default());
        match self.parts().storage.budgets.take(&key, &nothing, PERMIT_MARGIN).await? {
            Permission::Granted(_) => Ok(None),
            Permission::Wait(until) => Ok(Some(until)),
        }
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
        match self.spend(leave, limit, call).await {
            Ok(answer) => answer.map_err(CallError::Failed),
            Err(timed_out) => {
                let error = TaskError::outside(format!("{what}: {timed_out}"), Retry::Backoff);
                Err(CallError::TimedOut(error))
            }
        }
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
            let until = match self.parts().storage.budgets.take(&key, quota, limit + PERMIT_MARGIN).await? {
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
        Err(TaskError::outside(format!("{what}: {key} is not to be asked now"), Retry::After(pause)))
    }

    async fn time_until(&self, until: Timestamp) -> Result<Duration, StoreError> {
        let pause = Duration::try_from(until.duration_since(self.now().await?)).unwrap_or_default();
        Ok(pause.max(Duration::from_millis(1)))
    }

    fn github_key(&self, scope: &Scope) -> BudgetKey {
        BudgetKey::github(&self.github().account(scope))
    }

    fn github_quota(&self) -> Quota {
        self.parts().settings.github_quota
    }

    fn backend_quota(&self, name: &BackendName) -> Quota {
        self.parts().backends.get(name).map(|connected| connected.quota).unwrap_or_default()
    }

    fn call_timeout(&self) -> Duration {
        self.parts().settings.call_timeout
    }
}
