//! Feeding an event to a runner: the one place that writes existing runners.

use jiff::Timestamp;

use super::Manager;
use super::loss::LostJob;
use crate::domain::{EndedRunner, Limits, Phase, RetireReason, Runner, RunnerName};
use crate::flaws::{Flaw, is_on};
use crate::policy::lifecycle::{
    Event, MachineWord, Next, Wake, may_leave_registration, relies_on_the_store, step, wake,
};
use crate::policy::placement::{learn, may_teach};
use crate::queue::{ClaimToken, NewTask, Priority, Task};
use crate::store::{Applied, Change, Expected, GroupView, StoreError, Versioned, Write};

/// How often a write that somebody else's came before is decided anew. Each time somebody else got on, so
/// this is far more than ever happens.
pub(super) const MOST_CONFLICTS: usize = 32;

/// What a runner is after an event was fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fed {
    /// It is on record like this.
    Alive(Box<Versioned<Runner>>),
    /// Its record is removed, by this event or before.
    Gone,
}

/// A runner as a worker knows it, who need not read it again: where somebody else wrote meanwhile, the versions tell.
#[derive(Debug)]
pub(super) struct InHand<'g> {
    pub(super) runner: Versioned<Runner>,
    /// Its group, read under the same task. What it learns from a runner that began before is not lost by that: the
    /// group said which runner is its probe before that one began.
    pub(super) group: Option<&'g GroupView>,
}

/// The claim under which something is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Under<'c> {
    /// None: whoever says it holds no task.
    NoClaim,
    /// This one.
    Claim(&'c ClaimToken),
    /// This one, whose task ends with what is written, unless that ends the runner: something may be left then that is
    /// to be done under the claim.
    Last(&'c ClaimToken),
    /// This one, whose task ends with the runner.
    UntilGone(&'c ClaimToken),
}

impl<'c> Under<'c> {
    const fn token(self) -> Option<&'c ClaimToken> {
        match self {
            Self::NoClaim => None,
            Self::Claim(token) | Self::Last(token) | Self::UntilGone(token) => Some(token),
        }
    }

    /// Whether the task ends with a write after which the runner is on record or is not.
    const fn ends(self, alive: bool) -> bool {
        match self {
            Self::NoClaim | Self::Claim(_) => false,
            Self::Last(_) => alive,
            Self::UntilGone(_) => !alive,
        }
    }
}

/// The changes and tasks that a decision about one runner comes to.
#[derive(Debug, Default)]
pub(super) struct Consequences {
    pub(super) changes: Vec<Change>,
    pub(super) tasks: Vec<NewTask>,
    /// Whether it rests on the store's word alone.
    pub(super) on_trust: bool,
    /// The job that lost its machine, and what became of that, where one did.
    pub(super) lost: Option<LostJob>,
    pub(super) ended: Option<RetireReason>,
    pub(super) after: Option<Box<Runner>>,
}

/// What must be written when `event` happens to a runner; nothing where it changes nothing.
pub(super) fn consequences(
    runner: &Versioned<Runner>,
    event: &Event,
    limits: &Limits,
    now: Timestamp,
) -> Option<Consequences> {
    let before = &runner.value;
    let reconcile = NewTask::now(Task::Reconcile { group: before.group.clone() });
    let next = step(before, event, limits, now);
    // GitHub is about to make something for it.
    let on_trust = relies_on_the_store(&before.state, &next)
        || matches!(event, Event::Machine(MachineWord::ConfigAsked { .. }));
    match next {
        Next::Unchanged => None,
        Next::Changed(after) => {
            let mut tasks: Vec<NewTask> = wake_task(&after, limits, now).into_iter().collect();
            if matches!(event, Event::Troubled { .. }) {
                // Whoever tells it says when the next try is.
                tasks.clear();
            }
            if is_free(before.phase()) != is_free(after.phase()) || becomes_idle(before, &after) {
                tasks.push(reconcile);
            }
            let change = Change::PutRunner { runner: (*after).clone(), expected: runner.version };
            Some(Consequences {
                changes: vec![change],
                tasks,
                on_trust,
                lost: None,
                ended: None,
                after: Some(after),
            })
        }
        Next::Ended { why } => {
            let ended = EndedRunner {
                name: before.name.clone(),
                group: before.group.clone(),
                backend: before.backend.clone(),
                requested_at: before.requested_at,
                ended_at: now,
                why: why.clone(),
                trouble: before.trouble.clone(),
                timeline: before.machine.timeline.clone(),
            };
            let mut tasks = vec![reconcile];
            if may_leave_registration(&why) {
                let (scope, runner) = (before.scope.clone(), before.name.clone());
                tasks.push(NewTask::now(Task::Forget { scope, runner }));
            }
            let change = Change::EndRunner { ended, expected: runner.version };
            Some(Consequences {
                changes: vec![change],
                tasks,
                on_trust,
                lost: None,
                ended: Some(why),
                after: None,
            })
        }
    }
}

const fn is_free(phase: Phase) -> bool {
    matches!(phase, Phase::Requested | Phase::Creating | Phase::Booting | Phase::Idle)
}

fn becomes_idle(before: &Runner, after: &Runner) -> bool {
    after.phase() == Phase::Idle && before.phase() != Phase::Idle
}

/// The task that looks at a runner again when its time comes.
pub(super) fn wake_task(runner: &Runner, limits: &Limits, now: Timestamp) -> Option<NewTask> {
    let (name, backend) = (runner.name.clone(), runner.backend.clone());
    match wake(runner, limits, now)? {
        Wake::Provision(at) => {
            Some(NewTask::at(Task::Provision { runner: name, backend }, at).priority(Priority::High))
        }
        // What is taken away frees a slot that somebody may wait for.
        Wake::Retire(at) => {
            Some(NewTask::at(Task::Retire { runner: name, backend }, at).priority(Priority::High))
        }
        Wake::Held => None,
    }
}

impl Manager {
    /// The limits of a runner's group; the usual ones where the group is not on record any more.
    pub(super) async fn limits_of(&self, runner: &Runner) -> Result<Limits, StoreError> {
        let groups = self.listed_groups().await?;
        let listed = groups.iter().find(|group| group.spec.name == runner.group);
        Ok(listed.map_or_else(Limits::default, |group| group.spec.limits))
    }

    /// Feeds an event to a runner: reads it, lets the policy decide, and writes what follows, for the runner
    /// and for its group.
    pub(super) async fn feed(
        &self,
        claim: Option<&ClaimToken>,
        name: &RunnerName,
        event: &Event,
    ) -> Result<Fed, StoreError> {
        let Some(runner) = self.store().runner(name).await? else { return Ok(Fed::Gone) };
        let under = claim.map_or(Under::NoClaim, Under::Claim);
        self.feed_in_hand(under, InHand { runner, group: None }, event).await.map(|(fed, _)| fed)
    }

    /// Feeds an event to a runner that was read before. Tells also whether its task has ended by that.
    ///
    /// Decides by what is in hand first. Only where somebody else's write came before, or where nothing would follow,
    /// the runner is read.
    pub(super) async fn feed_in_hand(
        &self,
        under: Under<'_>,
        in_hand: InHand<'_>,
        event: &Event,
    ) -> Result<(Fed, bool), StoreError> {
        let InHand { mut runner, mut group } = in_hand;
        let mut fresh = false;
        for _ in 0..MOST_CONFLICTS {
            let limits = self.limits_of(&runner.value).await?;
            let now = self.now().await?;
            if let Some(mut write) = consequences(&runner, event, &limits, now) {
                self.add_what_follows(under.token(), &runner.value, group, event, &mut write, now).await?;
                match self.commit(under, &mut write).await {
                    Ok(outcome) => {
                        self.log_change(&runner.value, &write, event);
                        if let Some(lost) = &write.lost {
                            self.tell_of_lost_job(lost);
                        }
                        return Ok(outcome);
                    }
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            } else if fresh {
                return Ok((Fed::Alive(Box::new(runner)), false));
            }
            let Some(read) = self.store().runner(&runner.value.name).await? else {
                return Ok((Fed::Gone, false));
            };
            (runner, group, fresh) = (read, None, true);
        }
        Err(StoreError::Conflict { record: format!("runner {}", runner.value.name) })
    }

    /// Adds to what follows for a runner what follows from it for its group and for its job.
    async fn add_what_follows(
        &self,
        claim: Option<&ClaimToken>,
        runner: &Runner,
        group: Option<&GroupView>,
        event: &Event,
        write: &mut Consequences,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if let Some(learned) = self.what_the_group_learns(runner, group, event, write, now).await? {
            write.changes.push(learned);
            write.tasks.push(NewTask::now(Task::Reconcile { group: runner.group.clone() }));
        }
        self.add_lost_job(runner, write, now).await?;
        // Whoever holds a task carries on with it: it is queued again for later, but not for at once.
        write.tasks.retain(|task| {
            let own = claim.is_some_and(|claim| claim.key == task.task.key());
            !(own && task.not_before.is_none_or(|at| at <= now))
        });
        Ok(())
    }

    /// The change to a runner's group that goes with a change to the runner. The group is read unless it is in hand.
    pub(super) async fn what_the_group_learns(
        &self,
        runner: &Runner,
        group: Option<&GroupView>,
        event: &Event,
        write: &Consequences,
        now: Timestamp,
    ) -> Result<Option<Change>, StoreError> {
        let after = write.after.as_deref();
        if !may_teach(runner, event, after) {
            return Ok(None);
        }
        let read = match group {
            Some(_) => None,
            None => self.store().group(&runner.group).await?,
        };
        let Some(view) = group.or(read.as_ref()) else { return Ok(None) };
        let learned = learn(&view.record.value, runner, event, after, now, self.entropy());
        let expected = Expected::Version(view.record.version);
        Ok(learned.map(|record| Change::PutGroup { record, expected }))
    }

    /// Writes what follows for a runner, which is the first of the changes.
    async fn commit(&self, under: Under<'_>, write: &mut Consequences) -> Result<(Fed, bool), StoreError> {
        let ends_claim = under.ends(write.after.is_some());
        let applied = self
            .apply(Write {
                operation: self.operation(),
                claim: under.token().cloned(),
                ends_claim,
                on_trust: write.on_trust,
                changes: std::mem::take(&mut write.changes),
                tasks: std::mem::take(&mut write.tasks),
            })
            .await?;
        let version = applied.versions.first().copied().flatten();
        let fed = match (&write.after, version) {
            (Some(after), Some(version)) => {
                Fed::Alive(Box::new(Versioned { value: (**after).clone(), version }))
            }
            (Some(_), None) | (None, _) => Fed::Gone,
        };
        Ok((fed, ends_claim))
    }

    /// Writes, and asks again under the same operation where the answer was lost.
    pub(super) async fn apply(&self, mut write: Write) -> Result<Applied, StoreError> {
        if is_on(Flaw::AckBeforeActing) {
            (write.claim, write.ends_claim) = (None, false);
        }
        match self.store().apply(write.clone()).await {
            Err(StoreError::Unclear(..)) => self.store().apply(write).await,
            answer => answer,
        }
    }

    fn log_change(&self, before: &Runner, write: &Consequences, event: &Event) {
        let runner = before.name.as_str();
        match (&write.after, &write.ended) {
            (Some(after), _) if after.phase() != before.phase() => {
                tracing::info!(runner, from = %before.phase(), to = %after.phase(), ?event, "runner changed");
            }
            (Some(after), _) => tracing::debug!(runner, state = ?after.state, ?event, "runner changed"),
            (None, Some(why)) => {
                self.inner.statistics.count(|counters| counters.ended += 1);
                tracing::info!(runner, %why, "runner ended");
            }
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::consequences;
    use crate::domain::{Limits, PlacementKey, RetireReason, RetireStep, Runner, RunnerState};
    use crate::policy::lifecycle::Event;
    use crate::policy::samples::{at, group_with_placements, runner};
    use crate::store::{Version, Versioned};

    #[test]
    fn noting_trouble_writes_the_runner_and_queues_nothing() {
        let state = RunnerState::Retiring { why: RetireReason::Surplus, retire: RetireStep::Delete };
        let value = Runner { state, ..runner(&group_with_placements(1), PlacementKey::unknown()) };
        let runner = Versioned { value, version: Version(1) };
        let event = Event::Troubled { detail: "status 502".to_owned() };
        let write = consequences(&runner, &event, &Limits::default(), at(60)).unwrap();
        assert_eq!((write.changes.len(), write.tasks.len()), (1, 0), "{write:?}");
        assert!(!write.on_trust);
    }
}
