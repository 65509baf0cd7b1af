//! Compares what a group has with what it should have: the one path that makes runners.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use super::advance::{MOST_CONFLICTS, wake_task};
use super::fresh::Reserved;
use super::worker::{TaskError, Work};
use crate::domain::{
    GroupName, JobState, Machine, Phase, Placement, Runner, RunnerName, RunnerState, WorkflowJob, later,
};
use crate::policy::lifecycle::Event;
use crate::policy::placement::{Choice, choose, mark_probe};
use crate::policy::scaling::{Allowance, Plan, plan, room_for_jobs};
use crate::queue::{ClaimToken, NewTask, Task};
use crate::store::{
    Applied, Change, Draining, Expected, GroupView, JobFilter, Page, RunnerFilter, StoreError, Versioned,
    Write,
};

/// How many records one write changes at most, and how many one page of a list has.
const BATCH: u32 = 50;

/// How often a group whose jobs wait looks again whether another group has room for them.
const OVERFLOW_PAUSE: Duration = Duration::from_secs(15);

impl Manager {
    pub(super) async fn reconcile(&self, claim: &ClaimToken, name: &GroupName) -> Result<Work, TaskError> {
        let mut conflicts = 0;
        loop {
            let Some(view) = self.store().group(name).await? else {
                self.inner.catalogue.forget();
                return self.place_waiting(claim, &JobFilter::Queued(name.clone())).await;
            };
            let now = self.now().await?;
            let (allowance, placement) = allowance(&view, now);
            let record = &view.record.value;
            let plan = plan(record.spec.bounds, &view.counts, record.draining.is_some(), allowance);
            if let (true, Some((placement, probe))) = (plan.create > 0, placement) {
                let count = plan.create.min(BATCH);
                // Whatever changes meanwhile has queued the task again, so there is nothing to look at afterwards.
                let is_all = plan == Plan { create: count, ..Plan::default() };
                match self.request(claim, &view, (placement, probe, count), is_all, now).await {
                    // Somebody else was faster: look again at what there is now.
                    Err(
                        StoreError::Conflict { .. } | StoreError::AtMax { .. } | StoreError::Closed { .. },
                    ) if conflicts < MOST_CONFLICTS => {
                        conflicts += 1;
                    }
                    Ok(()) if is_all => return Ok(Work::Ended),
                    outcome => outcome?,
                }
                continue;
            }
            match self.settle(claim, &view, plan, now).await? {
                Settled::Changed => {}
                Settled::Rests(work) => return Ok(work),
            }
        }
    }

    /// Reserves slots for so many new runners on one placement, in one write with the tasks that bring them up. Where that
    /// is all that the group's task has to do, it ends with it.
    async fn request(
        &self,
        claim: &ClaimToken,
        view: &GroupView,
        (placement, probe, count): (&Placement, bool, u32),
        ends_claim: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let spec = &view.record.value.spec;
        let (mut changes, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let runner = self.new_runner(view, placement, now)?;
            tasks.extend(wake_task(&runner, &spec.limits, now));
            changes.push(Change::ReserveRunner { runner });
        }
        if let (true, Some(Change::ReserveRunner { runner })) = (probe, changes.first()) {
            let mut record = view.record.value.clone();
            mark_probe(&mut record, &placement.key, &runner.name, now);
            changes.push(Change::PutGroup { record, expected: Expected::Version(view.record.version) });
        }
        let write = Write {
            operation: self.operation(),
            claim: Some(claim.clone()),
            ends_claim,
            on_trust: false,
            changes,
            tasks,
        };
        let reserved = write.changes.clone();
        let applied = self.apply(write).await?;
        if !probe {
            // A probe is started by what its group says since.
            self.note_reserved(view, reserved, &applied);
        }
        tracing::info!(group = %spec.name, count, placement = %placement.description, "runners requested");
        Ok(())
    }

    fn note_reserved(&self, view: &GroupView, reserved: Vec<Change>, applied: &Applied) {
        let group = Arc::new(view.clone());
        let reserved = reserved.into_iter().zip(&applied.versions).filter_map(|one| match one {
            (Change::ReserveRunner { runner }, Some(version)) => {
                let runner = Versioned { value: runner, version: *version };
                Some(Reserved { runner, group: Arc::clone(&group) })
            }
            _ => None,
        });
        self.inner.fresh.note(reserved, self.parts().clock.now());
    }

    fn new_runner(
        &self,
        view: &GroupView,
        placement: &Placement,
        now: Timestamp,
    ) -> Result<Runner, StoreError> {
        let spec = &view.record.value.spec;
        let name = RunnerName::compose(&self.parts().owner.deployment, &spec.name, self.entropy())
            .map_err(|error| StoreError::Corrupt(format!("group {}", spec.name), Some(error.into())))?;
        Ok(Runner {
            name,
            group: spec.name.clone(),
            scope: spec.scope.clone(),
            backend: placement.backend.clone(),
            placement: placement.key.clone(),
            requested_at: now,
            since: now,
            registration: None,
            online_at: None,
            instance: None,
            named_at: None,
            missing_since: None,
            presumed: None,
            trouble: None,
            machine: Machine::default(),
            state: RunnerState::Requested,
        })
    }

    /// What is left once nothing is to be made: give up what is too much, pass jobs on, and know when to
    /// look again.
    async fn settle(
        &self,
        claim: &ClaimToken,
        view: &GroupView,
        plan: Plan,
        now: Timestamp,
    ) -> Result<Settled, TaskError> {
        if self.cancel(claim, view, plan.cancel).await? {
            return Ok(Settled::Changed);
        }
        let mut again = self.give_up_idle(claim, view, plan.surplus_idle, now).await?;
        if plan.overflow > 0 {
            let left = self.pass_on(claim, view, plan.overflow, now).await?;
            if left < plan.overflow {
                return Ok(Settled::Changed);
            }
            again = earliest(again, Some(later(now, OVERFLOW_PAUSE)));
        }
        if plan.held_back > 0 {
            again = earliest(again, blocked_until(view, now));
        }
        let counts = &view.counts;
        if view.record.value.draining == Some(Draining::Removed) && counts.alive() == 0 && counts.queued == 0
        {
            self.remove_group(claim, view).await?;
        }
        Ok(Settled::Rests(again.map_or(Work::Done, Work::AgainAt)))
    }

    /// Cancels requested runners that no job needs; tells whether there were any.
    async fn cancel(&self, claim: &ClaimToken, view: &GroupView, count: u32) -> Result<bool, StoreError> {
        if count == 0 {
            return Ok(false);
        }
        let filter = RunnerFilter::Phase(view.record.value.spec.name.clone(), Phase::Requested);
        let requested = self.store().runners(&filter, &Page::first(count.min(BATCH) as usize)).await?;
        for runner in &requested {
            self.feed(Some(claim), &runner.value.name, &Event::Unneeded).await?;
        }
        Ok(!requested.is_empty())
    }

    /// Tells the idle runners that no job needs, the oldest first, that they are to go once they were idle
    /// for long enough; says when the next one will have been.
    async fn give_up_idle(
        &self,
        claim: &ClaimToken,
        view: &GroupView,
        surplus: u32,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        if surplus == 0 {
            return Ok(None);
        }
        let record = &view.record.value;
        let patience =
            if record.draining.is_some() { Duration::ZERO } else { record.spec.limits.idle_timeout };
        let filter = RunnerFilter::Phase(record.spec.name.clone(), Phase::Idle);
        let page = Page::first(surplus.min(BATCH) as usize);
        for idle in self.store().runners(&filter, &page).await? {
            let due = later(idle.value.since, patience);
            if due > now {
                return Ok(Some(due));
            }
            self.feed(Some(claim), &idle.value.name, &Event::Unneeded).await?;
        }
        Ok(None)
    }

    /// Moves waiting jobs to the next group that fits and has room; says how many are left.
    async fn pass_on(
        &self,
        claim: &ClaimToken,
        view: &GroupView,
        overflow: u32,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let name = &view.record.value.spec.name;
        let leaving = view.record.value.draining.is_some();
        let mut room = self.room_elsewhere(name, now).await?;
        if !leaving && room.iter().all(|(_, free)| *free == 0) {
            return Ok(overflow);
        }
        let listed = self.listed_groups().await?;
        let filter = JobFilter::Queued(name.clone());
        let mut left = overflow;
        for job in self.store().jobs(&filter, &Page::first(overflow.min(BATCH) as usize)).await? {
            let fitting = self.serving(&listed, &job.value);
            let place = fitting
                .iter()
                .find_map(|fits| room.iter().position(|(group, free)| group == fits && *free > 0));
            let target = match place {
                Some(at) => {
                    room[at].1 -= 1;
                    Some(room[at].0.clone())
                }
                // A draining group keeps nobody waiting: its jobs wait where they will be served, or for
                // nobody.
                None if leaving => {
                    fitting.into_iter().find(|fits| room.iter().any(|(group, _)| group == fits))
                }
                None => continue,
            };
            self.move_job(claim, &job, target).await?;
            left -= 1;
        }
        Ok(left)
    }

    /// How many waiting jobs each of the other groups could take over now. One that is blocked takes none, or
    /// two that are would pass the same jobs back and forth. So would one that is draining, which is not among them:
    /// that it is may be news to those who know the groups of a few seconds ago.
    async fn room_elsewhere(
        &self,
        name: &GroupName,
        now: Timestamp,
    ) -> Result<Vec<(GroupName, u32)>, StoreError> {
        let groups = self.store().groups().await?;
        let others = groups.iter().filter(|other| other.record.value.spec.name != *name);
        Ok(others
            .filter(|other| other.record.value.draining.is_none())
            .map(|other| {
                let spec = &other.record.value.spec;
                let (allowance, _) = allowance(other, now);
                (spec.name.clone(), room_for_jobs(spec.bounds, &other.counts, allowance))
            })
            .collect())
    }

    async fn move_job(
        &self,
        claim: &ClaimToken,
        job: &Versioned<WorkflowJob>,
        group: Option<GroupName>,
    ) -> Result<(), StoreError> {
        let tasks =
            group.iter().map(|group| NewTask::now(Task::Reconcile { group: group.clone() })).collect();
        let moved = WorkflowJob { state: JobState::Queued { group }, ..job.value.clone() };
        let change = Change::PutJob { job: moved, expected: Expected::Version(job.version) };
        let write = Write {
            operation: self.operation(),
            claim: Some(claim.clone()),
            ends_claim: false,
            on_trust: false,
            changes: vec![change],
            tasks,
        };
        match self.apply(write).await {
            // It moved on by itself meanwhile.
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove_group(&self, claim: &ClaimToken, view: &GroupView) -> Result<(), StoreError> {
        let name = view.record.value.spec.name.clone();
        let change = Change::RemoveGroup { name, expected: view.record.version };
        let write = Write {
            operation: self.operation(),
            claim: Some(claim.clone()),
            ends_claim: false,
            on_trust: false,
            changes: vec![change],
            tasks: Vec::new(),
        };
        self.apply(write).await?;
        self.inner.catalogue.forget();
        Ok(())
    }

    /// Places the waiting jobs that no group served, after the groups have changed.
    pub(super) async fn place_unserved(&self, claim: &ClaimToken) -> Result<Work, TaskError> {
        self.inner.catalogue.forget();
        self.place_waiting(claim, &JobFilter::Unserved).await
    }

    /// Gives waiting jobs to the groups that would serve them: jobs of no group, or of one that is gone.
    async fn place_waiting(&self, claim: &ClaimToken, filter: &JobFilter) -> Result<Work, TaskError> {
        let listed = self.listed_groups().await?;
        let mut after = None;
        loop {
            let jobs = self.store().jobs(filter, &Page { after, limit: BATCH as usize }).await?;
            for job in &jobs {
                let group = self.serving(&listed, &job.value).into_iter().next();
                if group.as_ref() != job.value.demand() {
                    self.move_job(claim, job, group).await?;
                }
            }
            match jobs.last() {
                Some(last) if jobs.len() == BATCH as usize => after = Some(last.value.id),
                Some(_) | None => return Ok(Work::Done),
            }
        }
    }
}

/// How a group is left that makes nothing.
enum Settled {
    /// Something was changed: it is to be looked at again.
    Changed,
    /// There is nothing to do for now.
    Rests(Work),
}

fn allowance(view: &GroupView, now: Timestamp) -> (Allowance, Option<(&Placement, bool)>) {
    match choose(&view.record.value, now) {
        Choice::Use(placement) => (Allowance::Any, Some((placement, false))),
        Choice::Probe(placement) => (Allowance::One, Some((placement, true))),
        Choice::Blocked { .. } => (Allowance::Nothing, None),
    }
}

fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// When a placement of the group may be tried again.
fn blocked_until(view: &GroupView, now: Timestamp) -> Option<Timestamp> {
    match choose(&view.record.value, now) {
        Choice::Use(_) | Choice::Probe(_) => None,
        Choice::Blocked { until } => Some(until),
    }
}
