//! Mints a machine's JIT config, in the call that asks for it.
//!
//! The runner's record is the claim: that GitHub is about to be asked is written down first, and what came of it only
//! where no other call took over meanwhile. A config that is not written down is given to nobody, so its registration can
//! be removed at once. What a call left behind that was cut off, the next one removes first; after the last one the
//! runner's end does, or the sweep.

use std::time::Duration;

use super::Manager;
use super::advance::{Fed, InHand, Under};
use super::bootstrap::{Caller, Denied};
use super::calls::CallError;
use super::provision::read_registration;
use super::worker::TaskError;
use crate::clock::timeout;
use crate::domain::{
    Boot, GitHubRunnerId, Label, OperationId, Runner, RunnerGroup, RunnerState, Scope, Secret,
};
use crate::github::{GitHubError, GitHubErrorKind, JitConfig, JitRequest};
use crate::policy::github_groups::missing;
use crate::policy::lifecycle::{
    Event, MINT_WITHIN, MachineWord, RegistrationReading, may_mint, start_deadline,
};
use crate::queue::{NewTask, Task};
use crate::retry::Retry;
use crate::store::Versioned;

/// How long GitHub may take: less than [`MINT_WITHIN`], by which the machine has given up.
const ASK_WITHIN: Duration = Duration::from_secs(15);
const _: () = assert!(ASK_WITHIN.as_secs() < MINT_WITHIN.as_secs());

/// Why there is no JIT config.
enum NotMinted {
    /// GitHub was not asked, or the call is known to be over.
    Over(TaskError),
    /// GitHub may yet do what it was asked.
    Unclear(TaskError),
    /// GitHub has a registration of this name that lives.
    Lives(RegistrationReading),
    /// GitHub would have none of this group.
    OfGroup(String),
}

impl Manager {
    /// Mints the JIT config of a machine, for the start of it that made up this word.
    ///
    /// # Errors
    /// [`Denied`]: `Refused` where another start had it, or where its listener was seen; `NotNow` while another call may be
    /// under way, or where GitHub cannot be asked.
    pub async fn jit_config(&self, caller: &Caller, boot: &str) -> Result<Secret, Denied> {
        let runner = self.record_of(caller).await?;
        let (limits, now) = (self.limits_of(&runner.value).await?, self.now().await?);
        let boot = Boot::of(boot);
        may_mint(&runner.value, &boot, start_deadline(&runner.value, &limits), now)?;
        let was_asked = runner.value.machine.mint.is_some() || runner.value.registration.is_some();
        let by = self.operation();
        let asked = Event::Machine(MachineWord::ConfigAsked { boot, by: by.clone() });
        let in_hand = InHand { runner, group: None };
        let runner = match self.feed_in_hand(Under::NoClaim, in_hand, &asked).await?.0 {
            Fed::Alive(runner) if is_call(&runner.value, &by) => runner,
            Fed::Alive(_) => return Err(Denied::NotNow("somebody else asked meanwhile".to_owned())),
            Fed::Gone => return Err(Denied::Gone),
        };
        let minted = timeout(&*self.parts().clock, ASK_WITHIN, self.mint(&runner.value, was_asked)).await;
        match minted.unwrap_or_else(|late| Err(NotMinted::Unclear(TaskError::outside(late, Retry::Backoff))))
        {
            Ok(config) => self.hand_over(*runner, by, config).await,
            Err(not) => Err(self.not_minted(caller, by, not).await?),
        }
    }

    /// Has GitHub register the runner. What an earlier call left behind is removed before.
    async fn mint(&self, runner: &Runner, was_asked: bool) -> Result<JitConfig, NotMinted> {
        let groups = self.listed_groups().await.map_err(|error| NotMinted::Over(error.into()))?;
        let spec = groups.iter().map(|group| &group.spec).find(|spec| spec.name == runner.group);
        let Some(spec) = spec else {
            return Err(NotMinted::OfGroup("its group is not on record any more".to_owned()));
        };
        let request = self.jit_request(runner, spec).await.map_err(NotMinted::Over)?;
        let Some(request) = request else {
            let missed = self.miss_github_group(&runner.scope, &spec.github_group).await;
            missed.map_err(|error| NotMinted::Over(error.into()))?;
            return Err(NotMinted::OfGroup(missing(&spec.github_group, &runner.scope, None)));
        };
        if was_asked {
            self.remove_unused(runner).await?;
        }
        self.register_runner(&request).await.map_err(|error| match error {
            CallError::NotMade(error) => NotMinted::Over(error),
            CallError::TimedOut(error) => NotMinted::Unclear(error),
            CallError::Failed(error) if is_of_group(&error) => NotMinted::OfGroup(error.to_string()),
            // A name that is taken is removed by the next call, which knows of this one.
            CallError::Failed(error) => NotMinted::Over(TaskError::outside(&error, error.retry)),
        })
    }

    /// What GitHub is asked for a runner; none where it has not the group that the runner is to be in.
    pub(super) async fn jit_request(
        &self,
        runner: &Runner,
        spec: &RunnerGroup,
    ) -> Result<Option<JitRequest>, TaskError> {
        let Some(group) = self.github_group(&runner.scope, &spec.github_group).await? else {
            return Ok(None);
        };
        let mut labels = spec.offered_labels();
        labels.insert(Label::new(self.parts().owner.label()).expect("the owner's label is a label"));
        Ok(Some(JitRequest { scope: runner.scope.clone(), name: runner.name.clone(), group, labels }))
    }

    /// Removes a registration whose JIT config was lost on its way.
    async fn remove_unused(&self, runner: &Runner) -> Result<(), NotMinted> {
        let over = |error: CallError<GitHubError>| NotMinted::Over(error.into());
        let (scope, name) = (&runner.scope, &runner.name);
        let found = self.ask_github(scope, "find_runner", |github| github.find_runner(scope, name)).await;
        let Some(found) = found.map_err(over)? else { return Ok(()) };
        if found.online || found.busy {
            return Err(NotMinted::Lives(read_registration(Some(&found))));
        }
        match self.ask_github(scope, "remove_runner", |github| github.remove_runner(scope, found.id)).await {
            Ok(()) => Ok(()),
            Err(CallError::Failed(error)) if error.kind == GitHubErrorKind::Busy => {
                Err(NotMinted::Lives(RegistrationReading::Present { online: true, busy: true }))
            }
            Err(error) => Err(over(error)),
        }
    }

    /// Writes down that GitHub gave a JIT config, and gives it to the machine: to nobody where the record says by now
    /// that it is not wanted.
    async fn hand_over(
        &self,
        runner: Versioned<Runner>,
        by: OperationId,
        config: JitConfig,
    ) -> Result<Secret, Denied> {
        let (scope, name) = (runner.value.scope.clone(), runner.value.name.clone());
        let made = Event::Machine(MachineWord::ConfigMade { by: by.clone(), id: config.id });
        let in_hand = InHand { runner, group: None };
        let fed = self.feed_in_hand(Under::NoClaim, in_hand, &made).await;
        let denied = match fed {
            Ok((Fed::Alive(runner), _))
                if is_call(&runner.value, &by) && starts(&runner.value, config.id) =>
            {
                tracing::info!(runner = name.as_str(), "its machine is given a JIT config");
                return Ok(config.encoded);
            }
            Ok((Fed::Alive(_), _)) => Denied::NotNow("somebody else asked meanwhile".to_owned()),
            Ok((Fed::Gone, _)) => Denied::Gone,
            Err(error) => error.into(),
        };
        // Nobody has the secret, so no runner can be behind it.
        if let Err(error) = self.remove_registration(&scope, config.id).await {
            tracing::warn!(runner = name.as_str(), %error, "a registration in vain was not removed: that is tried again");
            self.queue().push(vec![NewTask::now(Task::Forget { scope, runner: name })]).await?;
        }
        Err(denied)
    }

    async fn remove_registration(&self, scope: &Scope, id: GitHubRunnerId) -> Result<(), TaskError> {
        Ok(self.ask_github(scope, "remove_runner", |github| github.remove_runner(scope, id)).await?)
    }

    /// Writes down what a call without a JIT config tells, and says what the machine is told.
    async fn not_minted(&self, caller: &Caller, by: OperationId, not: NotMinted) -> Result<Denied, Denied> {
        let (event, denied) = match not {
            // Until its time is over nobody asks GitHub again.
            NotMinted::Unclear(error) => return Ok(Denied::NotNow(error.to_string())),
            NotMinted::Over(error) => {
                let lost = Event::Machine(MachineWord::ConfigLost { by });
                (lost, Denied::NotNow(error.to_string()))
            }
            NotMinted::Lives(reading) => {
                let begun = self.now().await?;
                let denied = Denied::Refused("GitHub says that its listener lives".to_owned());
                (Event::Registration { reading, begun }, denied)
            }
            NotMinted::OfGroup(detail) => {
                let denied = Denied::Refused(format!("GitHub does not register it: {detail}"));
                (Event::RegistrationFailed { detail, of_group: true }, denied)
            }
        };
        let runner = caller.runner().as_str();
        tracing::warn!(runner, %denied, "its machine is given no JIT config");
        self.feed(None, caller.runner(), &event).await?;
        Ok(denied)
    }
}

fn is_call(runner: &Runner, by: &OperationId) -> bool {
    runner.machine.mint.as_ref().is_some_and(|mint| mint.by == *by)
}

fn starts(runner: &Runner, id: GitHubRunnerId) -> bool {
    runner.registration == Some(id)
        && matches!(runner.state, RunnerState::Creating { .. } | RunnerState::Booting)
}

/// Whether GitHub refuses what the group asks, so that no other runner of it would fare better.
pub(super) const fn is_of_group(error: &GitHubError) -> bool {
    match error.kind {
        GitHubErrorKind::NotFound
        | GitHubErrorKind::PermissionDenied
        | GitHubErrorKind::NoInstallation
        | GitHubErrorKind::Unauthenticated
        | GitHubErrorKind::Invalid => true,
        GitHubErrorKind::NameTaken
        | GitHubErrorKind::Busy
        | GitHubErrorKind::RateLimited
        | GitHubErrorKind::Unavailable
        | GitHubErrorKind::Unclear
        | GitHubErrorKind::Unexpected => false,
    }
}
