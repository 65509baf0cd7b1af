//! A backend as a replica reaches it.

use std::sync::Arc;

use async_trait::async_trait;
use runner_manager_backends::fake::FakeBackend;
use runner_manager_core::backend::{
    Activity, Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec, Throttle,
};
use runner_manager_core::domain::{Instance, InstanceId, Owner, Placement, RunnerName};

use super::{Call, Failure, LATELY, Process, Side};
use crate::limits::Asked;
use crate::shared::Promise;
use crate::trace::Who;

/// A replica's way to a backend.
#[derive(Debug)]
pub(crate) struct FaultyBackend {
    pub(crate) process: Arc<Process>,
    pub(crate) inner: FakeBackend,
    /// What it knows of how the cloud bounds calls.
    pub(crate) throttle: Throttle,
}

/// What a replica is told of a call that failed: unclear where it may have changed something.
fn failed(what: &'static str) -> impl Fn(Failure) -> BackendError + Send {
    move |failure| {
        let kind = match (failure, what) {
            (Failure::Lost, "create" | "delete") => BackendErrorKind::Unclear,
            (Failure::Refused | Failure::Lost, _) => BackendErrorKind::Unavailable,
        };
        BackendError::new(kind, what, format!("{failure:?}"))
    }
}

impl FaultyBackend {
    async fn call<T: Send>(
        &self,
        name: &'static str,
        made: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, BackendError> {
        let made = self.process.within_limits(Asked::Backend, made);
        self.process.call(Call { side: Side::Backend, name }, failed(name), made).await
    }

    fn note(&self, what: &'static str, outcome: &'static str, detail: impl FnOnce() -> String) {
        self.process.shared.note(Who::Replica(self.process.replica), what, outcome, detail);
    }

    /// Holds a `create` that is about to leave against the promises.
    fn begin_create(&self, runner: &InstanceSpec) {
        let shared = &self.process.shared;
        let now = shared.now();
        self.note("create", "sent", || format!("{} at {}", runner.runner, runner.placement.description));
        let mut cloud = shared.cloud();
        let mut state = shared.state();
        let state = &mut *state;
        let held = state.ledger.holds(self.process.replica, &format!("provision:{}", runner.runner), now);
        // Between its last look at its hold and the call no process can know that the hold is gone.
        let lately = now - LATELY;
        let thawed = self.process.thawed_since(lately);
        let lost = state.lost_at.is_some_and(|at| at >= lately);
        if !held && thawed {
            state.admit("a create that a process sent when it was thawed");
        } else if !held && lost {
            state.admit("a create that was under way when the store lost its hold");
        }
        let excused = thawed || lost;
        if self.throttle.creates.is_some()
            && let Some(wrong) = state.checker.limits.uses(self.process.replica, "creates")
        {
            state.checker.broken(Promise::Limits, wrong);
        }
        state.checker.create(runner, held, excused, cloud.books(now));
    }

    /// Holds a `delete` that is about to leave against the promises.
    fn begin_delete(&self, id: &InstanceId) {
        let shared = &self.process.shared;
        let now = shared.now();
        let mut cloud = shared.cloud();
        let runs = cloud.is_running(id, now);
        let life = cloud.books(now).lives.iter().find(|life| life.id == *id).cloned();
        drop(cloud);
        if self.throttle.deletes.is_some() {
            let mut state = shared.state();
            if let Some(wrong) = state.checker.limits.uses(self.process.replica, "deletes") {
                state.checker.broken(Promise::Limits, wrong);
            }
        }
        let Some(life) = life else { return };
        self.note("delete", "sent", || format!("{} of {}", id, life.runner));
        let github = shared.github();
        let registration = github.runners().find(|runner| runner.name == life.runner.as_str());
        let online = registration.filter(|runner| runs && runner.session.is_some());
        let job = online.and_then(|runner| runner.job);
        shared.state().checker.delete(&life, &shared.owner, online.is_some(), job);
    }
}

#[async_trait]
impl Backend for FaultyBackend {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let made = async {
            self.begin_create(spec);
            let answer = self.inner.create(spec).await;
            if answer.is_ok() {
                self.note("create", "accepted", || spec.runner.to_string());
            }
            answer
        };
        self.call("create", made).await
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        let made = async {
            self.begin_delete(id);
            self.inner.delete(id).await
        };
        self.call("delete", made).await
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        self.call("get", self.inner.get(id)).await
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        self.call("find", self.inner.find(name)).await
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let made = async {
            let listed = self.inner.list(owner).await?;
            self.note("list", "ok", || format!("{} instances", listed.len()));
            Ok(listed)
        };
        self.call("list", made).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn throttle(&self) -> Throttle {
        self.throttle.clone()
    }

    async fn update(&self, id: &InstanceId, activity: &Activity) -> Result<(), BackendError> {
        self.call("update", self.inner.update(id, activity)).await
    }

    async fn validate(&self, placement: &Placement) -> Result<Vec<String>, BackendError> {
        self.call("validate", self.inner.validate(placement)).await
    }

    async fn remarks(&self, placement: &Placement, max: u32) -> Result<Vec<String>, BackendError> {
        self.call("remarks", self.inner.remarks(placement, max)).await
    }
}
