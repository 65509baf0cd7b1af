//! Calls to the outside: the one place that makes them.
//!
//! Each is bounded in time, and made only with [`leave`](super::leave). What an answer means, and whether another try is
//! worth it, is left to whoever asked.

use std::future::Future;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::Manager;
use super::bounds::{Bounds, Errand};
use super::connections::Candidate;
use super::leave::Leave;
use super::worker::TaskError;
use crate::backend::{Backend, BackendError, BackendErrorKind};
use crate::budget::{Bound, BudgetKey, Permission, Quota};
use crate::clock::{TimedOut, timeout};
use crate::domain::{BackendName, HookPlace, InstanceId, Runner, Scope};
use crate::github::{GitHub, GitHubError, GitHubErrorKind, JitConfig, JitRequest};
use crate::retry::Retry;
use crate::store::StoreError;

/// What GitHub's call is called that registers a runner.
const REGISTER: &str = "create_jit_config";

/// How long a listing may take: it has many pages, and holds nobody up.
const LISTING_TIMEOUT: Duration = Duration::from_mins(5);

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

/// An account whose turn it is, with leave for a call, and those that follow where GitHub does not let it make that.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    candidate: Candidate<'a>,
    leave: Leave,
    others: Vec<Candidate<'a>>,
}

/// Leave for both calls that make a runner.
#[derive(Debug)]
pub(super) struct LeaveToMake<'a> {
    /// GitHub registers it.
    pub(super) register: Chosen<'a>,
    /// Its backend creates its instance.
    pub(super) create: Leave,
}

/// What came of a call, and the leave for it that is to be given back, if it was made.
#[derive(Debug)]
pub(super) struct Called<T, E> {
    pub(super) answer: Result<T, CallError<E>>,
    pub(super) leave: Option<Leave>,
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
        self.call_github(Purpose::Registration, &request.scope, None, REGISTER, |github| {
            github.create_jit_config(request)
        })
        .await
    }

    /// Has GitHub register a runner, with the leave that was had for it.
    pub(super) async fn register_with(
        &self,
        leave: Chosen<'_>,
        request: &JitRequest,
    ) -> Called<JitConfig, GitHubError> {
        let limit = self.call_timeout_of(leave.others.iter().chain([&leave.candidate]));
        let asked = (Purpose::Registration, Some(&request.scope), limit, REGISTER);
        self.call_chosen(leave, asked, |github| github.create_jit_config(request)).await
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
        let accounts = self.some_accounts_for(scope, what).await.map_err(CallError::NotMade)?;
        self.call_with(purpose, accounts, Some(scope), limit, what, call).await
    }

    /// The accounts that work on a scope: one at least.
    async fn some_accounts_for(&self, scope: &Scope, what: &str) -> Result<Vec<Candidate<'_>>, TaskError> {
        let accounts = self.accounts_for(scope).await?;
        if accounts.is_empty() {
            let name = self.connection_of(scope).await?;
            let reason = format!("{what}: connection {name} to GitHub, of {scope}, is not configured here");
            return Err(TaskError::outside(reason, Retry::Backoff));
        }
        Ok(accounts)
    }

    /// Makes a call with one of several accounts. `scope` is whose calls GitHub tells what is left of.
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
        let chosen = self.choose(purpose, accounts, limit, what).await.map_err(CallError::NotMade)?;
        let Called { answer, leave } = self.call_chosen(chosen, (purpose, scope, limit, what), call).await;
        if let Some(leave) = leave {
            self.give_back(leave).await;
        }
        answer
    }

    /// Chooses one of several accounts that may make a call now.
    async fn choose<'a>(
        &self,
        purpose: Purpose,
        mut accounts: Vec<Candidate<'a>>,
        limit: Duration,
        what: &str,
    ) -> Result<Chosen<'a>, TaskError> {
        let ways: Vec<Bounds> =
            accounts.iter().map(|candidate| Bounds::of_account(candidate, purpose)).collect();
        let (number, leave) = self.leave_by_any(&ways, limit, what).await?;
        Ok(Chosen { candidate: accounts.swap_remove(number), leave, others: accounts })
    }

    /// Makes a call with the account that was chosen. One that GitHub does not let do it is passed over: such a refusal
    /// had no effect, and another account may do as well.
    async fn call_chosen<'a, T>(
        &'a self,
        mut chosen: Chosen<'a>,
        (purpose, scope, limit, what): (Purpose, Option<&Scope>, Duration, &str),
        call: impl Fn(&'a dyn GitHub) -> BoxFuture<'a, Result<T, GitHubError>> + Send,
    ) -> Called<T, GitHubError> {
        loop {
            let Chosen { candidate, leave, others } = chosen;
            let answer = self.make(&leave, limit, call(&*candidate.account.github)).await;
            if let Some(scope) = scope {
                self.save_calls(&candidate, scope).await;
            }
            match answer {
                Ok(Err(refusal)) if is_about_the_account(&refusal) && !others.is_empty() => {
                    self.give_back(leave).await;
                    self.pass_over(&candidate, &refusal);
                }
                answer => return Called { answer: ended(what, answer), leave: Some(leave) },
            }
            chosen = match self.choose(purpose, others, limit, what).await {
                Ok(chosen) => chosen,
                Err(error) => return Called { answer: Err(CallError::NotMade(error)), leave: None },
            };
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

    /// Leave to register a runner and to create its instance, had with one question. It is asked for before anything is
    /// made for the runner, and is good until the runner is registered and its instance was asked for: what the backend
    /// may be asked is settled before GitHub makes a secret that cannot be kept.
    pub(super) async fn leave_to_make(&self, runner: &Runner) -> Result<LeaveToMake<'_>, TaskError> {
        let mut accounts = self.some_accounts_for(&runner.scope, REGISTER).await?;
        let create = self.backend_bounds(&runner.backend, Errand::Create).await;
        let register =
            |candidate: &Candidate<'_>| Bounds::of_account(candidate, Purpose::Registration).and(&create);
        let ways: Vec<Bounds> = accounts.iter().map(register).collect();
        let limit = self.call_timeout() + self.longest_call_to_github();
        let (number, leave) = self.leave_by_any(&ways, limit, "to make a runner").await?;
        let candidate = accounts.swap_remove(number);
        let (create, leave) = leave.part(&create);
        Ok(LeaveToMake { register: Chosen { candidate, leave, others: accounts }, create })
    }

    /// Gives back leave to make a runner that is not made.
    pub(super) async fn give_back_all(&self, LeaveToMake { register, create }: LeaveToMake<'_>) {
        self.give_back(register.leave).await;
        self.give_back(create).await;
    }

    /// Leave to create an instance that is registered later. It is asked for before that is on record: then nothing may
    /// come between.
    pub(super) async fn leave_to_create(&self, name: &BackendName) -> Result<Leave, TaskError> {
        self.leave(self.backend_bounds(name, Errand::Create).await, self.call_timeout(), "create").await
    }

    /// Has a backend create an instance, with the leave that was had for it.
    pub(super) async fn create_with<T>(
        &self,
        leave: Leave,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<Result<T, BackendError>, TimedOut> {
        self.spend(leave, self.call_timeout(), call).await
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

    /// Makes a call and gives the leave for it back.
    async fn spend<T, E: Refusal>(
        &self,
        leave: Leave,
        limit: Duration,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<Result<T, E>, TimedOut> {
        let answer = self.make(&leave, limit, call).await;
        self.give_back(leave).await;
        answer
    }

    /// Makes a call. Where the answer says to stay away, all do.
    async fn make<T, E: Refusal>(
        &self,
        leave: &Leave,
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
        answer
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
