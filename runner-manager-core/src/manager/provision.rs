//! Brings a runner up: registers it at GitHub, has its instance created once, finds out what became of that,
//! and sees that it comes online in time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{OptionFuture, join};
use jiff::Timestamp;

use super::Manager;
use super::advance::{Fed, InHand, Under};
use super::calls::{CallError, Called, Chosen, LeaveToMake};
use super::fresh::Reserved;
use super::leave::Leave;
use super::mint::is_of_group;
use super::worker::{TaskError, Work};
use crate::backend::{Backend, BackendError, BackendErrorKind, Bootstrap, Capabilities};
use crate::domain::{
    CreateStep, GitHubGroup, GitHubGroupId, Instance, InstanceFailure, Limits, Runner, RunnerName,
    RunnerState, Scope, Secret, later,
};
use crate::flaws::{Flaw, is_on};
use crate::github::{GitHubError, GitHubErrorKind, JitRequest, RegisteredRunner};
use crate::policy::github_groups::missing;
use crate::policy::lifecycle::{Event, InstanceReading, RegistrationReading, start_deadline};
use crate::policy::placement::Availability;
use crate::queue::ClaimToken;
use crate::retry::Retry;
use crate::store::{GroupRecord, GroupView, Versioned};

/// How often the outcome of an unclear `create` is looked up.
const LOOK_UP_PAUSE: Duration = Duration::from_secs(2);

/// How long GitHub's number of a runner group is remembered.
const GROUP_ID_AGE: Duration = Duration::from_mins(10);

/// GitHub's numbers of the runner groups, by scope and name, with when they were read.
#[derive(Debug, Default)]
pub(super) struct GitHubGroups(Mutex<BTreeMap<(Scope, String), (GitHubGroupId, Timestamp)>>);

impl Manager {
    pub(super) async fn provision(&self, claim: &ClaimToken, name: &RunnerName) -> Result<Work, TaskError> {
        if let Some(Reserved { runner, group }) = self.inner.fresh.take(name, self.parts().clock.now()) {
            return self.start(claim, runner, Some(&group)).await;
        }
        let Some(runner) = self.store().runner(name).await? else { return Ok(Work::Done) };
        match &runner.value.state {
            RunnerState::Requested => {
                let group = self.store().group(&runner.value.group).await?;
                self.start(claim, runner, group.as_ref()).await
            }
            RunnerState::Creating { create: CreateStep::Registering } => {
                self.rely_on_the_store().await?;
                self.register_after_all(claim, runner).await
            }
            RunnerState::Creating { create: CreateStep::Asked { .. } } => {
                self.create_unclear(claim, name, "the worker that asked for it was lost").await
            }
            RunnerState::Booting => self.watch_start(claim, &runner.value).await,
            RunnerState::Idle { .. } | RunnerState::Busy { .. } | RunnerState::Retiring { .. } => {
                Ok(Work::Done)
            }
        }
    }

    /// Begins, unless its placement was set back meanwhile: then it goes, and the group makes another one
    /// where there is hope.
    async fn start(
        &self,
        claim: &ClaimToken,
        runner: Versioned<Runner>,
        group: Option<&GroupView>,
    ) -> Result<Work, TaskError> {
        let now = self.now().await?;
        let begins = group.is_some_and(|group| may_start(&group.record.value, &runner.value, now));
        if let (true, Some(group), Some(address)) = (begins, group, self.calls_back(&runner.value.backend))
            && let Some(bootstrap) = self.callback_for(&runner.value.name, address)
        {
            return self.start_to_call_back(claim, runner, group, bootstrap).await;
        }
        if let (true, Some(group)) = (begins, group) {
            return self.start_directly(claim, runner, group).await;
        }
        self.feed_in_hand(Under::Claim(claim), InHand { runner, group }, &Event::Unneeded).await?;
        Ok(Work::Done)
    }

    /// Has it registered, and then its instance created. That it begins is written down while leave for both is asked for:
    /// neither tells the other anything.
    async fn start_directly(
        &self,
        claim: &ClaimToken,
        in_hand: Versioned<Runner>,
        group: &GroupView,
    ) -> Result<Work, TaskError> {
        let runner = in_hand.value.clone();
        let Some(request) = self.jit_request(&runner, &group.record.value.spec).await? else {
            return self.no_github_group(claim, &runner, group).await;
        };
        let in_hand = InHand { runner: in_hand, group: Some(group) };
        let begins = self.feed_in_hand(Under::Claim(claim), in_hand, &Event::Started);
        match join(self.leave_to_make(&runner), begins).await {
            (leave, Ok((Fed::Alive(runner), _))) if is_registering(&runner.value) => {
                self.register(claim, *runner, group, &request, leave?).await
            }
            (leave, begun) => {
                if let Ok(leave) = leave {
                    self.give_back_all(leave).await;
                }
                begun?;
                Ok(Work::Done)
            }
        }
    }

    /// Has its instance created, which is registered once it calls.
    async fn start_to_call_back(
        &self,
        claim: &ClaimToken,
        in_hand: Versioned<Runner>,
        group: &GroupView,
        bootstrap: Bootstrap,
    ) -> Result<Work, TaskError> {
        let (runner, record) = (&in_hand.value, &group.record.value);
        if self.github_group(&runner.scope, &record.spec.github_group).await?.is_none() {
            return self.no_github_group(claim, runner, group).await;
        }
        let leave = self.leave_to_create(&runner.backend).await?;
        let in_hand = InHand { runner: in_hand, group: Some(group) };
        match self.feed_in_hand(Under::Claim(claim), in_hand, &Event::StartedToCallBack).await {
            Ok((Fed::Alive(runner), _)) if is_asked(&runner.value) => {
                self.create(claim, *runner, group, bootstrap, leave).await
            }
            Ok((Fed::Alive(_) | Fed::Gone, _)) => {
                self.give_back(leave).await;
                Ok(Work::Done)
            }
            Err(error) => {
                self.give_back(leave).await;
                Err(error.into())
            }
        }
    }

    /// GitHub has not the group that a runner is to be in.
    async fn no_github_group(
        &self,
        claim: &ClaimToken,
        runner: &Runner,
        group: &GroupView,
    ) -> Result<Work, TaskError> {
        let spec = &group.record.value.spec;
        self.miss_github_group(&runner.scope, &spec.github_group).await?;
        let detail = missing(&spec.github_group, &runner.scope, group.record.value.github.as_deref());
        self.registration_failed(claim, runner, &detail, true).await
    }

    /// Has one registered that has begun, where the task before came to nothing.
    async fn register_after_all(
        &self,
        claim: &ClaimToken,
        runner: Versioned<Runner>,
    ) -> Result<Work, TaskError> {
        let Some(group) = self.store().group(&runner.value.group).await? else {
            let detail = "its group is not on record any more";
            return self.registration_failed(claim, &runner.value, detail, false).await;
        };
        let Some(request) = self.jit_request(&runner.value, &group.record.value.spec).await? else {
            return self.no_github_group(claim, &runner.value, &group).await;
        };
        let leave = self.leave_to_make(&runner.value).await?;
        self.register(claim, runner, &group, &request, leave).await
    }

    async fn register(
        &self,
        claim: &ClaimToken,
        in_hand: Versioned<Runner>,
        group: &GroupView,
        request: &JitRequest,
        LeaveToMake { register, create: leave }: LeaveToMake<'_>,
    ) -> Result<Work, TaskError> {
        let (scope, name) = (in_hand.value.scope.clone(), in_hand.value.name.clone());
        match self.register_at_github(claim, in_hand, group, request, register).await {
            Ok(Registered::Asked(runner, jit_config)) => {
                let bootstrap = Bootstrap::Direct { jit_config };
                self.create(claim, *runner, group, bootstrap, leave).await
            }
            Ok(Registered::InVain) => {
                self.give_back(leave).await;
                self.forget(&scope, &name).await
            }
            Ok(Registered::Over(work)) => {
                self.give_back(leave).await;
                Ok(work)
            }
            Err(error) => {
                self.give_back(leave).await;
                Err(error)
            }
        }
    }

    /// Registers a runner, and saves that its backend is asked for an instance.
    async fn register_at_github(
        &self,
        claim: &ClaimToken,
        in_hand: Versioned<Runner>,
        group: &GroupView,
        request: &JitRequest,
        leave: Chosen<'_>,
    ) -> Result<Registered, TaskError> {
        let Called { answer, leave } = self.register_with(leave, request).await;
        // Nobody waits for it to be back.
        let give_back = OptionFuture::from(leave.map(|leave| self.give_back(leave)));
        let runner = &in_hand.value;
        let over = match answer {
            Ok(jit) => {
                let registered = Event::Registered { id: jit.id };
                let in_hand = InHand { runner: in_hand, group: Some(group) };
                let feeding = self.feed_in_hand(Under::Claim(claim), in_hand, &registered);
                match join(feeding, give_back).await.0? {
                    (Fed::Alive(runner), _) if is_asked(&runner.value) => {
                        return Ok(Registered::Asked(runner, jit.encoded));
                    }
                    // It was retired meanwhile; whoever retires it knows its registration now.
                    (Fed::Alive(_), _) => Ok(Work::Done),
                    (Fed::Gone, _) => return Ok(Registered::InVain),
                }
            }
            Err(CallError::Failed(error)) => {
                give_back.await;
                self.not_registered(claim, runner, &error).await
            }
            Err(error) => {
                give_back.await;
                Err(error.into())
            }
        };
        over.map(Registered::Over)
    }

    /// GitHub refused to register a runner.
    async fn not_registered(
        &self,
        claim: &ClaimToken,
        runner: &Runner,
        error: &GitHubError,
    ) -> Result<Work, TaskError> {
        match error.kind {
            GitHubErrorKind::NameTaken => {
                let detail = "GitHub has a registration of this name, whose secret was lost on the way";
                self.registration_failed(claim, runner, detail, false).await
            }
            _ if is_of_group(error) => {
                self.github_groups_forget(&runner.scope);
                self.registration_failed(claim, runner, &error.to_string(), true).await
            }
            _ => Err(TaskError::outside(error, error.retry)),
        }
    }

    /// GitHub will not have it. Where that is the group's fault and not this runner's, the group backs off.
    async fn registration_failed(
        &self,
        claim: &ClaimToken,
        runner: &Runner,
        detail: &str,
        of_group: bool,
    ) -> Result<Work, TaskError> {
        let event = Event::RegistrationFailed { detail: detail.to_owned(), of_group };
        self.feed(Some(claim), &runner.name, &event).await?;
        Ok(Work::Done)
    }

    /// Asks the backend, once. Whatever comes of it is saved before anything else is done.
    async fn create(
        &self,
        claim: &ClaimToken,
        in_hand: Versioned<Runner>,
        group: &GroupView,
        bootstrap: Bootstrap,
        leave: Leave,
    ) -> Result<Work, TaskError> {
        let (runner, spec) = (&in_hand.value, &group.record.value.spec);
        let (Some(mut spec), Some(backend)) =
            (self.instance_spec(runner, spec, bootstrap), self.backend(&runner.backend))
        else {
            self.give_back(leave).await;
            let detail = format!("group {} has this placement no more", runner.group);
            return self.create_failed(claim, runner, InstanceFailure::Other, &detail, Retry::Backoff).await;
        };
        let answer = self.create_with(leave, backend.create(&spec)).await;
        let word = match &answer {
            Ok(Ok(_)) => "accepted",
            Ok(Err(error)) => error.kind.as_str(),
            Err(_) => BackendErrorKind::Unclear.as_str(),
        };
        self.inner.statistics.count(|counters| *counters.creates.entry(word).or_default() += 1);
        let answer = match answer {
            Ok(Err(error)) if error.kind == BackendErrorKind::Unclear && is_on(Flaw::FallOverWhenUnclear) => {
                spec.placement
                    .clone_from(group.record.value.spec.placements.last().unwrap_or(&spec.placement.clone()));
                Ok(backend.create(&spec).await)
            }
            answer => answer,
        };
        match answer {
            Ok(Ok(instance)) => self.created(claim, in_hand, group, backend, instance).await,
            Ok(Err(error)) if error.kind != BackendErrorKind::Unclear => {
                self.create_failed(claim, runner, failure_kind(&error), &error.to_string(), error.retry).await
            }
            Ok(Err(error)) => self.create_unclear(claim, &runner.name, &error.to_string()).await,
            Err(timed_out) => self.create_unclear(claim, &runner.name, &format!("create: {timed_out}")).await,
        }
    }

    /// It is not known what came of `create`: that is found out.
    async fn create_unclear(
        &self,
        claim: &ClaimToken,
        name: &RunnerName,
        detail: &str,
    ) -> Result<Work, TaskError> {
        tracing::warn!(runner = name.as_str(), detail, "the answer to create was lost: it is looked up");
        let detail = detail.to_owned();
        match self.feed(Some(claim), name, &Event::CreateUnclear { detail }).await? {
            Fed::Alive(runner) => self.look_up(claim, &runner.value).await,
            Fed::Gone => Ok(Work::Done),
        }
    }

    async fn created(
        &self,
        claim: &ClaimToken,
        runner: Versioned<Runner>,
        group: &GroupView,
        backend: &Arc<dyn Backend>,
        instance: Instance,
    ) -> Result<Work, TaskError> {
        let event = Event::Created { id: instance.id.clone() };
        let (name, on) = (runner.value.name.clone(), runner.value.backend.clone());
        let in_hand = InHand { runner, group: Some(group) };
        let (fed, has_ended) = self.feed_in_hand(Under::Last(claim), in_hand, &event).await?;
        if fed == Fed::Gone {
            // A store that lost the record says the same of a runner that has a job by now.
            self.rely_on_the_store().await?;
            tracing::warn!(runner = name.as_str(), "created after its end: deleted again");
            self.delete_instance(&on, &**backend, &instance.id).await?;
        }
        Ok(if has_ended { Work::Ended } else { Work::Done })
    }

    async fn create_failed(
        &self,
        claim: &ClaimToken,
        runner: &Runner,
        kind: InstanceFailure,
        detail: &str,
        retry: Retry,
    ) -> Result<Work, TaskError> {
        let retry_after = match retry {
            Retry::After(pause) => Some(pause),
            Retry::Never | Retry::Backoff => None,
        };
        let event = Event::CreateFailed { kind, detail: detail.to_owned(), retry_after };
        self.feed(Some(claim), &runner.name, &event).await?;
        Ok(Work::Done)
    }

    /// Looks an instance up by name after an unclear `create`, until it is found or surely absent.
    async fn look_up(&self, claim: &ClaimToken, runner: &Runner) -> Result<Work, TaskError> {
        let mut state = runner.clone();
        loop {
            if !matches!(state.state, RunnerState::Creating { .. }) {
                return Ok(Work::Done);
            }
            let reading = self.instance_reading(&state).await?;
            match self.feed(Some(claim), &runner.name, &reading).await? {
                Fed::Alive(after) if matches!(after.value.state, RunnerState::Creating { .. }) => {
                    state = after.value;
                }
                Fed::Alive(_) | Fed::Gone => return Ok(Work::Done),
            }
            let limits = self.limits_of(&state).await?;
            if self.now().await? >= start_deadline(&state, &limits) {
                self.feed(Some(claim), &runner.name, &Event::Tick).await?;
                return Ok(Work::Done);
            }
            self.parts().clock.sleep(LOOK_UP_PAUSE).await;
        }
    }

    /// One look at the backend for a runner's instance.
    pub(super) async fn instance_reading(&self, runner: &Runner) -> Result<Event, TaskError> {
        let Some(backend) = self.backend(&runner.backend) else {
            let reason = format!(
                "backend {} is not configured, but runner {} lives on it",
                runner.backend, runner.name
            );
            return Err(TaskError::outside(reason, Retry::Backoff));
        };
        let begun = self.now().await?;
        let look = async {
            match &runner.instance {
                Some(id) => backend.get(id).await,
                None => backend.find(&runner.name).await,
            }
        };
        let found = self.ask_backend(&runner.backend, "get", look).await?;
        let reading = if let Some(instance) = found {
            InstanceReading::Present { id: instance.id, state: instance.state }
        } else {
            let Capabilities { settle, lag, .. } = backend.capabilities();
            InstanceReading::Absent { settle, lag }
        };
        Ok(Event::Instance { reading, begun })
    }

    /// One look at GitHub for a runner's registration. A failed one is *unknown*, with what failed.
    pub(super) async fn registration_reading(
        &self,
        scope: &Scope,
        runner: &Runner,
    ) -> Result<(Event, Option<TaskError>), TaskError> {
        let begun = self.now().await?;
        let look = self.ask_github(scope, "runner", |github| match runner.registration {
            Some(id) => github.runner(scope, id),
            None => github.find_runner(scope, &runner.name),
        });
        let (reading, failed) = match look.await {
            Ok(found) => (read_registration(found.as_ref()), None),
            // It was not asked, so nothing was read, not even that it is unknown.
            Err(CallError::NotMade(error)) => return Err(error),
            Err(error) => (RegistrationReading::Unknown, Some(error.into())),
        };
        Ok((Event::Registration { reading, begun }, failed))
    }

    /// A runner whose instance exists must come online before `start_timeout` is over.
    async fn watch_start(&self, claim: &ClaimToken, runner: &Runner) -> Result<Work, TaskError> {
        let limits: Limits = self.limits_of(runner).await?;
        let deadline = start_deadline(runner, &limits);
        if self.now().await? < deadline {
            return Ok(Work::AgainAt(deadline));
        }
        let (reading, failed) = self.registration_reading(&runner.scope, runner).await?;
        if let Some(failed) = failed {
            return Err(failed);
        }
        match self.feed(Some(claim), &runner.name, &reading).await? {
            Fed::Alive(after) if matches!(after.value.state, RunnerState::Booting) => {
                self.feed(Some(claim), &after.value.name, &Event::Tick).await?;
                Ok(Work::Done)
            }
            Fed::Alive(_) | Fed::Gone => Ok(Work::Done),
        }
    }

    /// GitHub's number of a group of ours at GitHub; none where GitHub has no such group.
    pub(super) async fn github_group(
        &self,
        scope: &Scope,
        group: &GitHubGroup,
    ) -> Result<Option<GitHubGroupId>, TaskError> {
        if group.is_default() {
            return Ok(Some(GitHubGroupId::DEFAULT));
        }
        let now = self.parts().clock.now();
        let key = (scope.clone(), group.name.to_lowercase());
        let known = self.github_groups().get(&key).copied();
        if let Some((id, _)) = known.filter(|(_, read_at)| now < later(*read_at, GROUP_ID_AGE)) {
            return Ok(Some(id));
        }
        let listed = self.ask_github(scope, "runner_groups", |github| github.runner_groups(scope)).await?;
        let found = listed.iter().find(|listed| listed.name.to_lowercase() == key.1).map(|listed| listed.id);
        if let Some(id) = found {
            self.github_groups().insert(key, (id, now));
        }
        Ok(found)
    }

    fn github_groups(
        &self,
    ) -> std::sync::MutexGuard<'_, BTreeMap<(Scope, String), (GitHubGroupId, Timestamp)>> {
        self.inner.github_groups.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn github_groups_forget(&self, scope: &Scope) {
        self.github_groups().retain(|(known, _), _| known != scope);
    }
}

/// What came of registering a runner.
enum Registered {
    /// Its backend is asked for an instance next, as the record says.
    Asked(Box<Versioned<Runner>>, Secret),
    /// It ended meanwhile, and its registration is to be removed.
    InVain,
    /// There is nothing more to do.
    Over(Work),
}

/// Whether a requested runner should begin: its placement is there and not set back, or it is the probe.
fn may_start(group: &GroupRecord, runner: &Runner, now: Timestamp) -> bool {
    let usable = |health: &crate::policy::placement::Health| match health.availability(now) {
        Availability::Open => true,
        // One of those that waited may try, and the group says which.
        Availability::Probe | Availability::SetBack { .. } => false,
        Availability::Probing { .. } => health.probe.as_ref().is_some_and(|(probe, _)| *probe == runner.name),
    };
    group.draining.is_none()
        && group.spec.placement(&runner.placement).is_some()
        && group.placements.get(&runner.placement).is_none_or(usable)
        && group.registration.as_ref().is_none_or(usable)
}

const fn is_registering(runner: &Runner) -> bool {
    matches!(runner.state, RunnerState::Creating { create: CreateStep::Registering })
}

fn is_asked(runner: &Runner) -> bool {
    matches!(runner.state, RunnerState::Creating { create: CreateStep::Asked { .. } })
}

fn failure_kind(error: &BackendError) -> InstanceFailure {
    match error.kind {
        BackendErrorKind::NoCapacity => InstanceFailure::NoCapacity,
        BackendErrorKind::QuotaExceeded => InstanceFailure::QuotaExceeded,
        BackendErrorKind::NotFound
        | BackendErrorKind::RateLimited
        | BackendErrorKind::Unauthenticated
        | BackendErrorKind::PermissionDenied
        | BackendErrorKind::InvalidConfig
        | BackendErrorKind::Unsupported
        | BackendErrorKind::Unavailable
        | BackendErrorKind::Unclear
        | BackendErrorKind::Unexpected => InstanceFailure::Other,
    }
}

/// A complete answer of GitHub as a reading.
pub(super) fn read_registration(found: Option<&RegisteredRunner>) -> RegistrationReading {
    found.map_or(RegistrationReading::Absent, |found| RegistrationReading::Present {
        online: found.online,
        busy: found.busy,
    })
}
