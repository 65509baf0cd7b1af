//! The trait [`GitHub`]: what is asked of GitHub.
//!
//! It speaks of runners, runner groups, jobs, hooks, their deliveries and budgets in our words. How that becomes
//! HTTP is the affair of [`rest`](crate::rest).

mod explain;
mod hooks;

use std::fmt::{self, Debug};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{
    GitHubGroupId, GitHubRunnerId, GroupAccess, GroupRules, JobId, JobObservation, JobReport, Labels,
    OpenRun, OpenRuns, RegisteredGroup, Repository, RunId, RunnerName, Scope, Secret, WebhookDelivery,
};
use crate::retry::Retry;

pub use self::hooks::{Hook, HookSpec, JOB_EVENT, RegisteredHook};

/// A request for a JIT config: the registration of one runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JitRequest {
    /// Where to register.
    pub scope: Scope,
    /// Under which name.
    pub name: RunnerName,
    /// Into which of GitHub's groups.
    pub group: GitHubGroupId,
    /// The whole set of labels: GitHub adds none.
    pub labels: Labels,
}

/// GitHub's answer to a [`JitRequest`].
#[derive(Debug, Clone)]
pub struct JitConfig {
    /// GitHub's number of the new registration.
    pub id: GitHubRunnerId,
    /// `encoded_jit_config`: what the actions runner starts with. Good once.
    pub encoded: Secret,
}

/// A runner as GitHub sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredRunner {
    /// GitHub's number.
    pub id: GitHubRunnerId,
    /// Its name, ours or not.
    pub name: String,
    /// Whether it is connected.
    pub online: bool,
    /// Whether GitHub says that it runs a job. Known to lag behind the truth by minutes.
    pub busy: bool,
    /// All its labels. Empty where one of them is none by our rules, since it is then not ours.
    pub labels: Labels,
}

/// What is to be done on a scope, as far as it takes other permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Runners are supplied to jobs.
    Supply,
    /// Jobs are run again, too. What a token may do of that shows only when it is done.
    SupplyAndRerun,
}

/// What GitHub last said of the calls that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Calls in a period.
    pub limit: u64,
    /// Calls left in this one.
    pub remaining: u64,
    /// When the next begins.
    pub reset_at: Timestamp,
}

/// What kind of thing went wrong at GitHub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GitHubErrorKind {
    /// The scope, group or repository does not exist, or the credentials may not see it.
    NotFound,
    /// A registration, or a runner group, of that name exists.
    NameTaken,
    /// The runner runs a job, so it is not removed.
    Busy,
    /// The credentials are wrong or have ended.
    Unauthenticated,
    /// The credentials do not allow this call.
    PermissionDenied,
    /// The App is not installed there, or its installation is suspended. The call was not made.
    NoInstallation,
    /// Too many calls.
    RateLimited,
    /// GitHub does not take the request as it is.
    Invalid,
    /// GitHub could not be reached, or said that it cannot work now. The call had no effect.
    Unavailable,
    /// The call may or may not have had its effect.
    Unclear,
    /// Anything else.
    Unexpected,
}

impl fmt::Display for GitHubErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(self, f)
    }
}

/// A failed call to GitHub. It says nothing about any runner: never "gone", never "not busy".
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {kind}: {detail}")]
pub struct GitHubError {
    /// What kind of thing went wrong: callers act on this.
    pub kind: GitHubErrorKind,
    /// Whether another try is worth it: retry policies look at this alone.
    pub retry: Retry,
    /// Which call it was.
    pub operation: &'static str,
    /// What GitHub said, for people. No secret.
    pub detail: String,
    /// What is behind it.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl GitHubError {
    /// An error of a kind, with the retry advice that is usual for the kind.
    pub fn new(kind: GitHubErrorKind, operation: &'static str, detail: impl Into<String>) -> Self {
        let retry = match kind {
            GitHubErrorKind::NotFound
            | GitHubErrorKind::NameTaken
            | GitHubErrorKind::Unauthenticated
            | GitHubErrorKind::PermissionDenied
            | GitHubErrorKind::Invalid => Retry::Never,
            GitHubErrorKind::Busy
            | GitHubErrorKind::NoInstallation
            | GitHubErrorKind::RateLimited
            | GitHubErrorKind::Unavailable
            | GitHubErrorKind::Unclear
            | GitHubErrorKind::Unexpected => Retry::Backoff,
        };
        Self { kind, retry, operation, detail: detail.into(), source: None }
    }

    /// The same error with what is behind it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with another retry advice.
    #[must_use]
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }
}

/// What is asked of GitHub.
///
/// # Behaviour
/// The conformance suite (`testing::conformance::github`) tests these, by these names:
/// - `a_jit_config_registers`: after `create_jit_config` the runner is found by name and listed, offline,
///   with exactly the labels that were sent.
/// - `a_taken_name_is_told`: a second registration of a name is `NameTaken`.
/// - `an_unknown_group_is_told`: registering into a group that does not exist is `NotFound`.
/// - `remove_takes_away`: after `remove_runner` the runner is neither found, got nor listed.
/// - `remove_absent_succeeds`: removing what is not registered is success.
/// - `remove_busy_is_refused`: removing a runner that runs a job is `Busy`, and it stays.
/// - `lists_are_complete`: `runners` follows all pages; where one is missing it is an error.
/// - `get_absent_is_none`, `find_absent_is_none`: what is not registered is `None`, not an error.
/// - `groups_are_listed`: `runner_groups` has `Default`.
/// - `a_group_is_made`: after `create_runner_group` the group is listed with its rules, and has the repositories
///   or organizations that were named.
/// - `a_taken_group_is_told`: a second group of a name is `NameTaken`.
/// - `a_group_is_changed`: `update_runner_group` changes the rules and leaves the members as they are;
///   `set_group_members` changes the members.
/// - `a_repository_has_no_groups`: for a repository all of these are `Invalid`.
/// - `open_runs_are_listed`: the runs that have not ended, among the moving ones those with a job in the queue.
/// - `open_jobs_are_listed`: the jobs that wait and those that run, whatever run they are part of, and none
///   that has ended.
/// - `a_job_is_told`, `an_absent_job_is_none`.
/// - `a_job_is_run_again`: after `rerun_job` the job of that name is in the run's latest attempt, and waits.
/// - `a_job_that_runs_is_not_run_again`: that is refused as `PermissionDenied`.
/// - `a_hook_is_made_and_listed`: after `create_hook` the hook is listed as it is to be, and signs what it sends.
/// - `a_hook_is_mended`: after `update_hook` the same hook is as it is to be, with the secret that was given.
/// - `delete_hook_takes_away`: the hook is no longer listed; deleting it again is success.
/// - `the_hook_of_an_app_is_set`: with an App, its hook is told and changed; with a token that is `Invalid`.
/// - `a_delivery_is_logged_and_repeated`: a delivery stands in the log, and `redeliver` sends it again under
///   the same name.
/// - `a_log_is_cut`: of a log no more is listed than was asked for, the newest first.
/// - `a_refusal_is_unknown`: 403, 429 and 5xx are errors of their kinds, never an empty answer.
/// - `a_wait_is_honoured`: `Retry-After` and a spent budget come back as [`Retry::After`].
///
/// # Errors
/// Each call ends in a [`GitHubError`]. After [`Unclear`](GitHubErrorKind::Unclear) the call may have had
/// its effect. An error is *unknown*: no verdict about a runner may be drawn from it.
///
/// ```
/// use runner_manager_core::domain::{GitHubGroupId, RunnerName, Scope};
/// use runner_manager_core::github::{GitHub, GitHubError, GitHubErrorKind, JitConfig, JitRequest};
///
/// /// Registers a runner. Where the name is taken, an earlier call had its effect, but its answer and with it
/// /// the secret are lost: that registration is good for nothing.
/// async fn register(github: &dyn GitHub, request: &JitRequest) -> Result<JitConfig, GitHubError> {
///     let error = match github.create_jit_config(request).await {
///         Ok(made) => return Ok(made),
///         Err(error) => error,
///     };
///     if error.kind == GitHubErrorKind::NameTaken
///         && let Some(lost) = github.find_runner(&request.scope, &request.name).await?
///     {
///         github.remove_runner(&request.scope, lost.id).await?;
///     }
///     Err(error)
/// }
/// #
/// # use std::sync::Arc;
/// # use bytes::Bytes;
/// # use runner_manager_core::{clock::SystemClock, domain::Labels, rest};
/// #
/// # #[derive(Debug)]
/// # struct Taken;
/// #
/// # #[async_trait::async_trait]
/// # impl rest::Transport for Taken {
/// #     async fn send(
/// #         &self,
/// #         _: rest::As<'_>,
/// #         request: http::Request<Bytes>,
/// #     ) -> Result<http::Response<Bytes>, rest::TransportError> {
/// #         let runner = r#"{"id": 7, "name": "ci-linux-1", "status": "offline", "busy": false}"#;
/// #         let (status, body) = match request.method().as_str() {
/// #             "POST" => (409, String::new()),
/// #             "GET" => (200, format!(r#"{{"total_count": 1, "runners": [{runner}]}}"#)),
/// #             _ => (204, String::new()),
/// #         };
/// #         Ok(http::Response::builder().status(status).body(body.into()).unwrap())
/// #     }
/// #
/// #     fn account(&self, _: rest::As<'_>) -> String {
/// #         String::new()
/// #     }
/// # }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let github = rest::RestGitHub::new(Arc::new(Taken), Arc::new(SystemClock));
/// let request = JitRequest {
///     scope: Scope::organization("acme").unwrap(),
///     name: RunnerName::new("ci-linux-1")?,
///     group: GitHubGroupId::DEFAULT,
///     labels: Labels::parse(["self-hosted", "linux", "x64"])?,
/// };
/// let error = register(&github, &request).await.unwrap_err();
/// assert_eq!(error.kind, GitHubErrorKind::NameTaken);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait GitHub: Debug + Send + Sync + 'static {
    /// Registers a runner and returns its JIT config.
    ///
    /// # Errors
    /// `NameTaken`, `NotFound` (scope or group), `Invalid`, `Unclear`, ...
    async fn create_jit_config(&self, request: &JitRequest) -> Result<JitConfig, GitHubError>;

    /// Lists all runners of a scope, complete, ours or not.
    ///
    /// # Errors
    /// When any page could not be had.
    async fn runners(&self, scope: &Scope) -> Result<Vec<RegisteredRunner>, GitHubError>;

    /// Tells of one runner; `None` where it is not registered.
    ///
    /// # Errors
    /// When GitHub did not say.
    async fn runner(
        &self,
        scope: &Scope,
        id: GitHubRunnerId,
    ) -> Result<Option<RegisteredRunner>, GitHubError>;

    /// Finds a runner by name; `None` where none of that name is registered.
    ///
    /// # Errors
    /// When GitHub did not say.
    async fn find_runner(
        &self,
        scope: &Scope,
        name: &RunnerName,
    ) -> Result<Option<RegisteredRunner>, GitHubError>;

    /// Removes a registration. Absent is success.
    ///
    /// # Errors
    /// `Busy` when it runs a job.
    async fn remove_runner(&self, scope: &Scope, id: GitHubRunnerId) -> Result<(), GitHubError>;

    /// Lists the runner groups of a scope. A repository has one, `Default`.
    ///
    /// # Errors
    /// When any page could not be had.
    async fn runner_groups(&self, scope: &Scope) -> Result<Vec<RegisteredGroup>, GitHubError>;

    /// Makes a runner group.
    ///
    /// # Errors
    /// `NameTaken`; `NotFound` where a repository or organization that is named does not exist, or where the plan
    /// of the organization has no runner groups of its own; `Invalid` for a repository, which has none.
    async fn create_runner_group(
        &self,
        scope: &Scope,
        name: &str,
        rules: &GroupRules,
    ) -> Result<RegisteredGroup, GitHubError>;

    /// Changes the rules of a runner group, but for the repositories or organizations that are named: see
    /// [`set_group_members`](Self::set_group_members).
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a repository, and where an enterprise alone changes it.
    async fn update_runner_group(
        &self,
        scope: &Scope,
        id: GitHubGroupId,
        name: &str,
        rules: &GroupRules,
    ) -> Result<RegisteredGroup, GitHubError>;

    /// Lists the repositories or organizations that a group was given to whose visibility is
    /// [`Selected`](crate::domain::GroupVisibility::Selected).
    ///
    /// # Errors
    /// When any page could not be had; `Invalid` for a repository.
    async fn group_members(&self, scope: &Scope, id: GitHubGroupId) -> Result<GroupAccess, GitHubError>;

    /// Gives a group to these repositories or organizations, and to no others. [`GroupAccess::All`] changes
    /// nothing: it has no members.
    ///
    /// # Errors
    /// `NotFound` where one does not exist, or the group; `Invalid` for a repository.
    async fn set_group_members(
        &self,
        scope: &Scope,
        id: GitHubGroupId,
        members: &GroupAccess,
    ) -> Result<(), GitHubError>;

    /// Lists the workflow runs of a repository that have not ended.
    ///
    /// # Errors
    /// When any page could not be had.
    async fn open_runs(&self, repository: &Repository, which: OpenRuns) -> Result<Vec<OpenRun>, GitHubError>;

    /// Lists the jobs of a run's latest attempt, whether or not they have ended.
    ///
    /// # Errors
    /// When any page could not be had.
    async fn latest_jobs(
        &self,
        repository: &Repository,
        run: RunId,
    ) -> Result<Vec<JobObservation>, GitHubError>;

    /// Lists the jobs of a run's latest attempt that have not ended: those that wait, and those that a runner
    /// has.
    ///
    /// # Errors
    /// When any page could not be had.
    async fn open_jobs(
        &self,
        repository: &Repository,
        run: RunId,
    ) -> Result<Vec<JobObservation>, GitHubError> {
        let mut jobs = self.latest_jobs(repository, run).await?;
        jobs.retain(|job| !matches!(job.report, JobReport::Completed { .. }));
        Ok(jobs)
    }

    /// Lists the repositories of a scope that the credentials can see, without those that are archived or
    /// disabled: they have no jobs.
    ///
    /// # Errors
    /// When any page could not be had. `Invalid` for an enterprise: GitHub does not list its repositories.
    async fn repositories(&self, scope: &Scope) -> Result<Vec<Repository>, GitHubError>;

    /// Tells of one job; `None` where it does not exist.
    ///
    /// # Errors
    /// When GitHub did not say.
    async fn job(&self, repository: &Repository, id: JobId) -> Result<Option<JobObservation>, GitHubError>;

    /// Has a job that has ended run again, and those that depend on it: as new jobs in the next attempt of its
    /// run.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` also where its run has not ended, or ended too long ago.
    async fn rerun_job(&self, repository: &Repository, id: JobId) -> Result<(), GitHubError>;

    /// Lists the hooks of an organization or a repository.
    ///
    /// # Errors
    /// When any page could not be had. `Invalid` for an enterprise: GitHub has no calls for its hooks.
    async fn hooks(&self, scope: &Scope) -> Result<Vec<RegisteredHook>, GitHubError>;

    /// Tells of the App's hook.
    ///
    /// # Errors
    /// `Invalid` where the credentials are a token.
    async fn app_hook(&self) -> Result<RegisteredHook, GitHubError>;

    /// Makes a hook of an organization or a repository.
    ///
    /// # Errors
    /// `Invalid` where there is one with that URL, and for an enterprise.
    async fn create_hook(&self, scope: &Scope, spec: &HookSpec) -> Result<RegisteredHook, GitHubError>;

    /// Makes a hook be what it is to be. What the App's hook tells of cannot be changed by a call.
    ///
    /// # Errors
    /// `NotFound` where there is no such hook.
    async fn update_hook(&self, hook: &Hook, spec: &HookSpec) -> Result<(), GitHubError>;

    /// Removes a hook. Absent is success.
    ///
    /// # Errors
    /// `Invalid` for the App's: it always has one.
    async fn delete_hook(&self, hook: &Hook) -> Result<(), GitHubError>;

    /// Lists the log of a hook's deliveries since a point in time, newest first, and of more than `most` the
    /// newest. GitHub keeps three days.
    ///
    /// # Errors
    /// When any page could not be had.
    async fn deliveries(
        &self,
        hook: &Hook,
        since: Timestamp,
        most: usize,
    ) -> Result<Vec<WebhookDelivery>, GitHubError>;

    /// Asks GitHub to deliver again what the attempt `id` delivered.
    ///
    /// # Errors
    /// When GitHub did not accept it.
    async fn redeliver(&self, hook: &Hook, id: u64) -> Result<(), GitHubError>;

    /// Whether GitHub would let us do this on a scope: finds the App's installation, or asks with the token.
    /// Each sentence of the answer names something that is missing.
    ///
    /// # Errors
    /// When GitHub could not be asked at all.
    async fn check(&self, scope: &Scope, intent: Intent) -> Result<Vec<String>, GitHubError>;

    /// The word for the account that GitHub counts the calls for a scope for: scopes whose calls are made with
    /// the same credentials have the same. Default `github`, for all.
    fn account(&self, scope: &Scope) -> String {
        let _ = scope;
        "github".to_owned()
    }

    /// What GitHub last said of the calls that are left, for the credentials of a scope; `None` before the
    /// first answer.
    fn budget(&self, scope: &Scope) -> Option<Budget>;
}
