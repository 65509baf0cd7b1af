//! Takes a runner away in order, or sees whether it is time to: the one path that ends runners.

use std::time::Duration;

use super::Manager;
use super::advance::{Fed, InHand, Under};
use super::calls::CallError;
use super::provision::read_registration;
use super::worker::{TaskError, Work};
use crate::domain::{
    InstanceState, Leaving, RetireReason, RetireStep, Runner, RunnerName, RunnerState, Scope, later,
};
use crate::github::GitHubErrorKind;
use crate::policy::lifecycle::{
    Event, InstanceReading, RegistrationReading, Wake, is_given_up_unseen, is_overdue, is_too_early_to_count,
    wake,
};
use crate::policy::scaling::{Allowance, plan};
use crate::queue::ClaimToken;
use crate::retry::Retry;
use crate::store::StoreError;

/// How long a deletion that was accepted may take before it is asked for again.
const DELETE_PATIENCE: Duration = Duration::from_mins(1);

impl Manager {
    /// Does what is next for a runner on its way out, as far as it goes without waiting.
    pub(super) async fn retire_task(&self, claim: &ClaimToken, name: &RunnerName) -> Result<Work, TaskError> {
        let Some(mut in_hand) = self.store().runner(name).await? else { return Ok(Work::Done) };
        let runner = &in_hand.value;
        if is_overdue(runner, &self.limits_of(runner).await?, self.now().await?) {
            tracing::error!(runner = runner.name.as_str(), state = ?runner.state, "its retirement is stuck");
        }
        loop {
            let Some(event) = self.next_event(claim, &in_hand.value).await? else {
                return self.rest(&in_hand.value).await;
            };
            let before = in_hand.value.state.clone();
            let known = InHand { runner: in_hand, group: None };
            match self.feed_in_hand(Under::UntilGone(claim), known, &event).await? {
                (Fed::Gone, ended) => return Ok(if ended { Work::Ended } else { Work::Done }),
                (Fed::Alive(after), _) => in_hand = *after,
            }
            let runner = &in_hand.value;
            let limits = self.limits_of(runner).await?;
            let now = self.now().await?;
            match wake(runner, &limits, now) {
                Some(Wake::Retire(at)) if at <= now && runner.state != before => {}
                // Nothing came of it. It was queued for a time when something was expected to.
                Some(Wake::Retire(at)) if at <= now => {
                    let reason = format!("{} waits at {:?}", runner.name, runner.state);
                    return Err(TaskError::outside(reason, Retry::Backoff));
                }
                Some(Wake::Retire(at)) => return Ok(Work::AgainAt(at)),
                Some(Wake::Provision(_) | Wake::Held) | None => return Ok(Work::Done),
            }
        }
    }

    /// Waits for the time at which the runner is to be looked at again.
    async fn rest(&self, runner: &Runner) -> Result<Work, TaskError> {
        let limits = self.limits_of(runner).await?;
        let now = self.now().await?;
        Ok(match wake(runner, &limits, now) {
            Some(Wake::Retire(at)) => Work::AgainAt(at),
            Some(Wake::Provision(_) | Wake::Held) | None => Work::Done,
        })
    }

    /// Asks the outside what the runner's state waits for, and gives the answer as an event.
    async fn next_event(&self, claim: &ClaimToken, runner: &Runner) -> Result<Option<Event>, TaskError> {
        match &runner.state {
            RunnerState::Requested | RunnerState::Creating { .. } | RunnerState::Booting => Ok(None),
            RunnerState::Idle { leaving: None } | RunnerState::Busy { .. } => Ok(Some(Event::Tick)),
            RunnerState::Idle { leaving: Some(leaving) } => {
                self.ask_whether_busy(claim, runner, leaving).await.map(Some)
            }
            RunnerState::Retiring { why, retire } => match retire {
                RetireStep::Deregister => {
                    self.rely_on_the_store().await?;
                    if is_given_up_unseen(why)
                        && let Some(seen) = self.seen_after_all(runner).await?
                    {
                        return Ok(Some(seen));
                    }
                    self.deregister(runner).await.map(Some)
                }
                RetireStep::Grace { .. } => Ok(Some(Event::Tick)),
                RetireStep::Delete => self.delete(runner).await.map(Some),
                RetireStep::Confirm => self.confirm(runner).await,
                RetireStep::Suspect { .. } => self.find_any_registration(runner).await.map(Some),
            },
        }
    }

    /// A reading for an idle runner that is to go; or that it is needed after all.
    async fn ask_whether_busy(
        &self,
        claim: &ClaimToken,
        runner: &Runner,
        leaving: &Leaving,
    ) -> Result<Event, TaskError> {
        if leaving.reason == RetireReason::Surplus && !self.has_surplus(runner).await? {
            return Ok(Event::Needed);
        }
        let (reading, failed) = self.registration_reading(&runner.scope, runner).await?;
        if let Some(failed) = failed {
            // Unknown: the count of readings begins anew, and GitHub is asked again when it wants to be.
            self.feed(Some(claim), &runner.name, &reading).await?;
            return Err(failed);
        }
        Ok(reading)
    }

    pub(super) async fn has_surplus(&self, runner: &Runner) -> Result<bool, StoreError> {
        let Some(view) = self.store().group(&runner.group).await? else { return Ok(true) };
        let record = &view.record.value;
        let plan = plan(record.spec.bounds, &view.counts, record.draining.is_some(), Allowance::Any);
        Ok(plan.surplus_idle > 0)
    }

    /// A reading that shows a runner online that was given up because it was not: nothing where it still is not.
    async fn seen_after_all(&self, runner: &Runner) -> Result<Option<Event>, TaskError> {
        let (reading, failed) = self.registration_reading(&runner.scope, runner).await?;
        match (failed, &reading) {
            (Some(failed), _) => Err(failed),
            (None, Event::Registration { reading: RegistrationReading::Present { online, busy }, .. })
                if *online || *busy =>
            {
                Ok(Some(reading))
            }
            (None, _) => Ok(None),
        }
    }

    /// Has GitHub remove the registration.
    async fn deregister(&self, runner: &Runner) -> Result<Event, TaskError> {
        let scope = &runner.scope;
        let registered = if runner.registration.is_some() {
            runner.registration
        } else {
            let found =
                self.ask_github(scope, "find_runner", |github| github.find_runner(scope, &runner.name));
            found.await?.map(|found| found.id)
        };
        let Some(id) = registered else { return Ok(Event::Deregistered) };
        match self.ask_github(scope, "remove_runner", |github| github.remove_runner(scope, id)).await {
            Ok(()) => Ok(Event::Deregistered),
            Err(CallError::Failed(error)) if error.kind == GitHubErrorKind::Busy => {
                Ok(Event::DeregisterRefused)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Has the backend delete the instance, and looks at once whether it is gone: often it is.
    async fn delete(&self, runner: &Runner) -> Result<Event, TaskError> {
        let mut named = runner.clone();
        if named.instance.is_none() {
            let found = self.instance_reading(runner).await?;
            match &found {
                Event::Instance { reading: InstanceReading::Present { id, .. }, .. } => {
                    named.instance = Some(id.clone());
                }
                _ => return Ok(found),
            }
        }
        let (Some(backend), Some(id)) = (self.backend(&named.backend), &named.instance) else {
            let reason = format!("backend {} is not configured any more", named.backend);
            return Err(TaskError::outside(reason, Retry::Backoff));
        };
        self.delete_instance(&named.backend, &**backend, id).await?;
        let reading = self.instance_reading(&named).await?;
        let absent = matches!(&reading, Event::Instance { reading: InstanceReading::Absent { .. }, .. })
            && !is_too_early_to_count(&named, &reading);
        Ok(if absent { reading } else { Event::DeleteAccepted })
    }

    /// Looks whether a deleted instance is gone; one that is still there after a while is deleted again.
    async fn confirm(&self, runner: &Runner) -> Result<Option<Event>, TaskError> {
        let reading = self.instance_reading(runner).await?;
        let gone = match &reading {
            Event::Instance { reading: InstanceReading::Present { state, .. }, .. } => {
                *state == InstanceState::Gone
            }
            // A backend whose reads lag may have taken the deletion for one of nothing: it is asked again.
            _ => !is_too_early_to_count(runner, &reading),
        };
        if gone {
            return Ok(Some(reading));
        }
        let patience_over = self.now().await? >= later(runner.since, DELETE_PATIENCE);
        Ok(patience_over.then_some(Event::Tick))
    }

    /// Looks for a registration of a recordless instance's name in every scope: its own is not known.
    async fn find_any_registration(&self, runner: &Runner) -> Result<Event, TaskError> {
        let begun = self.now().await?;
        let reading = self.registration_anywhere(&runner.name).await?;
        Ok(Event::Registration {
            reading: reading.map_or(RegistrationReading::Absent, |found| found.1),
            begun,
        })
    }

    /// The scope in which a runner of this name is registered, and what GitHub says of it.
    pub(super) async fn registration_anywhere(
        &self,
        name: &RunnerName,
    ) -> Result<Option<(Scope, RegistrationReading)>, TaskError> {
        for scope in self.scopes().await? {
            let found =
                self.ask_github(&scope, "find_runner", |github| github.find_runner(&scope, name)).await?;
            if found.is_some() {
                return Ok(Some((scope, read_registration(found.as_ref()))));
            }
        }
        Ok(None)
    }

    /// Removes a registration that has neither a record nor an instance.
    pub(super) async fn forget(&self, scope: &Scope, name: &RunnerName) -> Result<Work, TaskError> {
        self.rely_on_the_store().await?;
        // Where others reach more backends than this replica, one of them may find its instance.
        let mut elsewhere = self.reached_by_others().await?;
        elsewhere.retain(|backend| self.backend(backend).is_none());
        if self.store().runner(name).await?.is_some() || !elsewhere.is_empty() {
            return Ok(Work::Done);
        }
        let found = self.ask_github(scope, "find_runner", |github| github.find_runner(scope, name)).await?;
        let Some(found) = found.filter(|found| !found.online && !found.busy) else { return Ok(Work::Done) };
        for (backend, connected) in &self.parts().backends {
            let instance = self.ask_backend(backend, "find", connected.backend.find(name)).await?;
            if instance.is_some() {
                return Ok(Work::Done);
            }
        }
        tracing::info!(runner = name.as_str(), %scope, "removing a registration without record and instance");
        match self.ask_github(scope, "remove_runner", |github| github.remove_runner(scope, found.id)).await {
            Ok(()) => Ok(Work::Done),
            // GitHub keeps a dead runner busy for some minutes; the next sweep finds it again.
            Err(CallError::Failed(error)) if error.kind == GitHubErrorKind::Busy => Ok(Work::Done),
            Err(error) => Err(error.into()),
        }
    }
}
