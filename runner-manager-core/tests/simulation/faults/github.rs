//! GitHub as a replica reaches it.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager_core::domain::{
    GitHubGroupId, GitHubRunnerId, GroupAccess, GroupRules, HookPlace, JobId, JobObservation, OpenRun,
    OpenRuns, RegisteredGroup, Repository, RunId, RunnerName, Scope, WebhookDelivery,
};
use runner_manager_core::github::{
    Budget, GitHub, GitHubError, GitHubErrorKind, Hook, HookSpec, Intent, JitConfig, JitRequest,
    RegisteredHook, RegisteredRunner,
};
use runner_manager_core::queue::Task;
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::testing::simulator::{self, DeliveryId, Removal, RunnerId};

use super::{Call, Failure, Process, Side};
use crate::checker::Removed;
use crate::limits::Asked;
use crate::shared::Promise;
use crate::trace::Who;

/// A replica's way to GitHub.
#[derive(Debug)]
pub(crate) struct FaultyGitHub {
    pub(crate) process: Arc<Process>,
    pub(crate) inner: RestGitHub,
}

/// What a replica is told of a call that failed: unclear where it may have changed something.
fn failed(what: &'static str) -> impl Fn(Failure) -> GitHubError + Send {
    move |failure| {
        let kind = match (failure, what) {
            (
                Failure::Lost,
                "create_jit_config"
                | "remove_runner"
                | "rerun_job"
                | "redeliver"
                | "create_hook"
                | "update_hook"
                | "delete_hook"
                | "create_runner_group"
                | "update_runner_group"
                | "set_group_members",
            ) => GitHubErrorKind::Unclear,
            (Failure::Refused | Failure::Lost, _) => GitHubErrorKind::Unavailable,
        };
        GitHubError::new(kind, what, format!("{failure:?}"))
    }
}

impl FaultyGitHub {
    async fn call<T: Send>(
        &self,
        name: &'static str,
        made: impl Future<Output = Result<T, GitHubError>> + Send,
    ) -> Result<T, GitHubError> {
        self.call_as(Asked::GitHub, name, made).await
    }

    /// Makes a call about a hook: about the App's own, as the App.
    async fn call_of_hook<T: Send>(
        &self,
        hook: &Hook,
        name: &'static str,
        made: impl Future<Output = Result<T, GitHubError>> + Send,
    ) -> Result<T, GitHubError> {
        let asked = match hook {
            Hook::App => Asked::GitHubAsApp,
            Hook::Of(..) => Asked::GitHub,
        };
        self.call_as(asked, name, made).await
    }

    async fn call_as<T: Send>(
        &self,
        asked: Asked,
        name: &'static str,
        made: impl Future<Output = Result<T, GitHubError>> + Send,
    ) -> Result<T, GitHubError> {
        let made = self.process.within_limits(asked, made);
        self.process.call(Call { side: Side::GitHub, name }, failed(name), made).await
    }

    fn note(&self, what: &'static str, outcome: &'static str, detail: impl FnOnce() -> String) {
        self.process.shared.note(Who::Replica(self.process.replica), what, outcome, detail);
    }

    fn read<'r>(&self, begun: Timestamp, found: impl IntoIterator<Item = &'r RegisteredRunner>) {
        let mut state = self.process.shared.state();
        for runner in found {
            state.checker.read(runner, begun);
        }
    }

    /// Removes a registration, and looks what GitHub truly had and what it did.
    async fn remove(&self, scope: &Scope, id: GitHubRunnerId) -> Result<(), GitHubError> {
        let shared = &self.process.shared;
        let (before, before_it) = {
            let github = shared.github();
            (github.runner(RunnerId(id.0)).cloned(), deleted(&github))
        };
        let mut removal = pin!(self.inner.remove_runner(scope, id));
        // GitHub does what it is asked before anybody waits.
        let first = futures_util::poll!(&mut removal);
        let done = deleted(&shared.github()) > before_it;
        if let (true, Some(runner)) = (done, before) {
            let now = shared.now();
            self.note("remove_runner", "done", || runner.name.clone());
            let violations = shared.github().books().violations.clone();
            let ours = runner.labels.iter().any(|label| label.eq_ignore_ascii_case(&shared.owner.label()));
            let removed =
                Removed { name: runner.name, online: runner.session.is_some(), job: runner.job, ours };
            shared.state().checker.removed(&removed, &violations, now);
        }
        match first {
            Poll::Ready(answer) => answer,
            Poll::Pending => removal.await,
        }
    }
}

impl FaultyGitHub {
    /// Has a webhook delivered again, and looks what GitHub truly did.
    async fn deliver_again(&self, hook: &Hook, id: u64) -> Result<(), GitHubError> {
        let shared = &self.process.shared;
        let delivery = shared.github().delivery_guid(DeliveryId(id)).unwrap_or_default().to_owned();
        let count = || shared.github().books().redeliveries.get(&delivery).copied();
        let before = count();
        let mut asking = pin!(self.inner.redeliver(hook, id));
        // GitHub does what it is asked before anybody waits.
        let first = futures_util::poll!(&mut asking);
        if count() > before {
            self.note("redeliver", "done", || delivery.clone());
            let mut state = shared.state();
            let state = &mut *state;
            let holds = state.ledger.holds(self.process.replica, &task_of(hook), shared.now());
            match state.checker.redeliveries.asked(&delivery, holds) {
                Ok(None) => {}
                Ok(Some(why)) => state.admit(why),
                Err(what) => state.checker.broken(Promise::Limits, what),
            }
        }
        match first {
            Poll::Ready(answer) => answer,
            Poll::Pending => asking.await,
        }
    }
}

/// The key of the task that looks after a hook.
fn task_of(hook: &Hook) -> String {
    let Hook::Of(scope, _) = hook else { panic!("the simulated deployment has no App") };
    Task::RedeliverWebhooks { place: HookPlace::Scope(scope.clone()) }.key()
}

impl FaultyGitHub {
    /// Makes a call that writes to a runner group, and looks what GitHub truly did.
    async fn write_group<T: Send>(
        &self,
        scope: &Scope,
        name: &'static str,
        made: impl Future<Output = Result<T, GitHubError>> + Send,
    ) -> Result<T, GitHubError> {
        let looked_at = async {
            let shared = &self.process.shared;
            let before = shared.github().books().runner_groups.clone();
            let mut made = pin!(made);
            // GitHub does what it is asked before anybody waits.
            let first = futures_util::poll!(&mut made);
            let after = shared.github().books().runner_groups.clone();
            for (group, _) in after.iter().filter(|(group, count)| before.get(*group) != Some(*count)) {
                self.note(name, "done", || group.clone());
                self.wrote_group(scope, group);
            }
            match first {
                Poll::Ready(answer) => answer,
                Poll::Pending => made.await,
            }
        };
        self.call(name, looked_at).await
    }

    fn wrote_group(&self, scope: &Scope, group: &str) {
        let task = Task::SyncGitHubGroups { scope: scope.clone() }.key();
        let now = self.process.shared.now();
        let mut state = self.process.shared.state();
        let state = &mut *state;
        let holds = state.ledger.holds(self.process.replica, &task, now);
        match state.checker.groups.wrote(group, holds) {
            Ok(None) => state.strike("github group: mended"),
            Ok(Some(why)) => state.admit(why),
            Err((promise, what)) => state.checker.broken(promise, what),
        }
    }
}

/// How many jobs there ever were: one more where a job is run again.
fn jobs(github: &runner_manager_core::testing::simulator::Simulator) -> u64 {
    github.books().jobs.total
}

fn deleted(github: &runner_manager_core::testing::simulator::Simulator) -> u64 {
    github.books().runners.removed.get(&Removal::Deleted).copied().unwrap_or_default()
}

impl FaultyGitHub {
    /// Has a job run again, and looks what GitHub truly did.
    async fn rerun(&self, repository: &Repository, id: JobId) -> Result<(), GitHubError> {
        let shared = &self.process.shared;
        let before = jobs(&shared.github());
        let mut rerun = pin!(self.inner.rerun_job(repository, id));
        let first = futures_util::poll!(&mut rerun);
        let again = {
            let github = shared.github();
            let is_again = jobs(&github) > before;
            github.job(simulator::JobId(id.0)).filter(|_| is_again).map(|job| (job.run, job.name.clone()))
        };
        if let Some((run, name)) = again {
            self.note("rerun_job", "done", || id.to_string());
            let now = shared.now();
            let mut state = shared.state();
            let state = &mut *state;
            state.strike("lost job run again");
            // Between its last look at its hold and the call no process can know that the hold is gone.
            if state.ledger.holds(self.process.replica, &format!("follow-lost-job:{id}"), now) {
                state.checker.ran_again(run, &name);
            } else {
                state.admit("a re-run that a process asked for when it had lost its hold");
            }
        }
        match first {
            Poll::Ready(answer) => answer,
            Poll::Pending => rerun.await,
        }
    }
}

#[async_trait]
impl GitHub for FaultyGitHub {
    async fn create_jit_config(&self, request: &JitRequest) -> Result<JitConfig, GitHubError> {
        let made = async {
            let made = self.inner.create_jit_config(request).await?;
            self.note("create_jit_config", "ok", || request.name.to_string());
            self.process.shared.state().checker.secret(made.encoded.expose());
            Ok(made)
        };
        self.call("create_jit_config", made).await
    }

    async fn runners(&self, scope: &Scope) -> Result<Vec<RegisteredRunner>, GitHubError> {
        let made = async {
            let begun = self.process.shared.now();
            let listed = self.inner.runners(scope).await?;
            self.read(begun, &listed);
            self.note("runners", "ok", || format!("{} in {scope}", listed.len()));
            Ok(listed)
        };
        self.call("runners", made).await
    }

    async fn runner(
        &self,
        scope: &Scope,
        id: GitHubRunnerId,
    ) -> Result<Option<RegisteredRunner>, GitHubError> {
        let made = async {
            let begun = self.process.shared.now();
            let found = self.inner.runner(scope, id).await?;
            self.read(begun, &found);
            Ok(found)
        };
        self.call("runner", made).await
    }

    async fn find_runner(
        &self,
        scope: &Scope,
        name: &RunnerName,
    ) -> Result<Option<RegisteredRunner>, GitHubError> {
        let made = async {
            let begun = self.process.shared.now();
            let found = self.inner.find_runner(scope, name).await?;
            self.read(begun, &found);
            Ok(found)
        };
        self.call("find_runner", made).await
    }

    async fn remove_runner(&self, scope: &Scope, id: GitHubRunnerId) -> Result<(), GitHubError> {
        self.call("remove_runner", self.remove(scope, id)).await
    }

    async fn runner_groups(&self, scope: &Scope) -> Result<Vec<RegisteredGroup>, GitHubError> {
        self.call("runner_groups", self.inner.runner_groups(scope)).await
    }

    async fn create_runner_group(
        &self,
        scope: &Scope,
        name: &str,
        rules: &GroupRules,
    ) -> Result<RegisteredGroup, GitHubError> {
        self.write_group(scope, "create_runner_group", self.inner.create_runner_group(scope, name, rules))
            .await
    }

    async fn update_runner_group(
        &self,
        scope: &Scope,
        id: GitHubGroupId,
        name: &str,
        rules: &GroupRules,
    ) -> Result<RegisteredGroup, GitHubError> {
        let made = self.inner.update_runner_group(scope, id, name, rules);
        self.write_group(scope, "update_runner_group", made).await
    }

    async fn group_members(&self, scope: &Scope, id: GitHubGroupId) -> Result<GroupAccess, GitHubError> {
        self.call("group_members", self.inner.group_members(scope, id)).await
    }

    async fn set_group_members(
        &self,
        scope: &Scope,
        id: GitHubGroupId,
        members: &GroupAccess,
    ) -> Result<(), GitHubError> {
        self.write_group(scope, "set_group_members", self.inner.set_group_members(scope, id, members)).await
    }

    async fn open_runs(&self, repository: &Repository, which: OpenRuns) -> Result<Vec<OpenRun>, GitHubError> {
        self.call("open_runs", self.inner.open_runs(repository, which)).await
    }

    async fn latest_jobs(
        &self,
        repository: &Repository,
        run: RunId,
    ) -> Result<Vec<JobObservation>, GitHubError> {
        self.call("latest_jobs", self.inner.latest_jobs(repository, run)).await
    }

    async fn repositories(&self, scope: &Scope) -> Result<Vec<Repository>, GitHubError> {
        self.call("repositories", self.inner.repositories(scope)).await
    }

    async fn job(&self, repository: &Repository, id: JobId) -> Result<Option<JobObservation>, GitHubError> {
        self.call("job", self.inner.job(repository, id)).await
    }

    async fn rerun_job(&self, repository: &Repository, id: JobId) -> Result<(), GitHubError> {
        self.call("rerun_job", self.rerun(repository, id)).await
    }

    async fn hooks(&self, scope: &Scope) -> Result<Vec<RegisteredHook>, GitHubError> {
        self.call("hooks", self.inner.hooks(scope)).await
    }

    async fn app_hook(&self) -> Result<RegisteredHook, GitHubError> {
        self.call_of_hook(&Hook::App, "app_hook", self.inner.app_hook()).await
    }

    async fn create_hook(&self, scope: &Scope, spec: &HookSpec) -> Result<RegisteredHook, GitHubError> {
        self.call("create_hook", self.inner.create_hook(scope, spec)).await
    }

    async fn update_hook(&self, hook: &Hook, spec: &HookSpec) -> Result<(), GitHubError> {
        self.call_of_hook(hook, "update_hook", self.inner.update_hook(hook, spec)).await
    }

    async fn delete_hook(&self, hook: &Hook) -> Result<(), GitHubError> {
        self.call_of_hook(hook, "delete_hook", self.inner.delete_hook(hook)).await
    }

    async fn deliveries(
        &self,
        hook: &Hook,
        since: Timestamp,
        most: usize,
    ) -> Result<Vec<WebhookDelivery>, GitHubError> {
        self.call_of_hook(hook, "deliveries", self.inner.deliveries(hook, since, most)).await
    }

    async fn redeliver(&self, hook: &Hook, id: u64) -> Result<(), GitHubError> {
        self.call_of_hook(hook, "redeliver", self.deliver_again(hook, id)).await
    }

    async fn check(&self, scope: &Scope, intent: Intent) -> Result<Vec<String>, GitHubError> {
        self.call("check", self.inner.check(scope, intent)).await
    }

    fn account(&self, scope: &Scope) -> String {
        self.inner.account(scope)
    }

    fn budget(&self, scope: &Scope) -> Option<Budget> {
        self.inner.budget(scope)
    }
}
