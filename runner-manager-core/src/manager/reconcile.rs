//! Compares what a group has with what it should have: the one path that makes runners.

use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use super::advance::{MOST_CONFLICTS, wake_task};
use super::worker::{TaskError, Work};
use crate::domain::{
    GroupName, JobState, Phase, Placement, Runner, RunnerName, RunnerState, WorkflowJob, later,
};
use crate::policy::lifecycle::Event;
use crate::policy::placement::{Choice, choose, mark_probe};
use crate::policy::scaling::{Allowance, Plan, plan, room_for_jobs};
use crate::queue::{ClaimToken, NewTask, Task};
use crate::store::{
    Change, Draining, Expected, GroupView, JobFilter, Page, RunnerFilter, StoreError, Versioned, Write,
};

/// How many records one write changes at most, and how many one page of a list has.
const BATCH: u32 = 50;

/// How often a group whose jobs wait looks again whether another group has room for them.
const OVERFLOW_PAUSE: Duration = Duration::from_secs(15);

impl Manager {
    pub(super) async fn reconcile(&self, claim: &ClaimToken, name: &GroupName) -> Result<Work, TaskError> {
        let mut conflicts = 0;
        loop {
            let Some(view) = self.store().group(name).await? else { return Ok(Work::Done) };
            let now = self.now().await?;
            let (allowance, placement) = allowance(&view, now);
            let record = &view.record.value;
            let plan = plan(record.spec.bounds, &view.counts, record.draining.is_some(), allowance);
            if let (true, Some((placement, probe))) = (plan.create > 0, placement) {
                let count = plan.create.min(BATCH);
                match self.request(claim, &view, placement, probe, count, now).await {
                    // Somebody else was faster: look again at what there is now.
                    Err(
                        StoreError::Conflict { .. } | StoreError::AtMax { .. } | StoreError::Closed { .. },
                    ) if conflicts < MOST_CONFLICTS => {
                        conflicts += 1;
                    }
                    outcome => outcome?,
                }
                continue;
            }
            return self.settle(claim, &view, plan, now).await;
        }
    }

    /// Reserves slots for `count` new runners on one placement, in one write with the tasks that bring them
    /// up.
    async fn request(
        &self,
        claim: &ClaimToken,
        view: &GroupView,
        placement: &Placement,
        probe: bool,
        count: u32,
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
        let write = Write { operation: self.operation(), claim: Some(claim.clone()), changes, tasks };
        self.apply(write).await?;
        tracing::info!(group = %spec.name, count, placement = %placement.description, "runners requested");
        Ok(())
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
            missing_since: None,
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
    ) -> Result<Work, TaskError> {
        self.cancel(claim, view, plan.cancel).await?;
        let mut again = self.give_up_idle(claim, view, plan.surplus_idle, now).await?;
        if plan.overflow > 0 {
            let left = self.pass_on(claim, view, plan.overflow).await?;
            again = earliest(again, look_again(view, left, now));
        }
        let counts = &view.counts;
        if view.record.value.draining == Some(Draining::Removed) && counts.alive() == 0 && counts.queued == 0
        {
            self.remove_group(claim, view).await?;
        }
        Ok(again.map_or(Work::Done, Work::AgainAt))
    }

    async fn cancel(&self, claim: &ClaimToken, view: &GroupView, count: u32) -> Result<(), StoreError> {
        if count == 0 {
            return Ok(());
        }
        let filter = RunnerFilter::Phase(view.record.value.spec.name.clone(), Phase::Requested);
        for runner in self.store().runners(&filter, &Page::first(count.min(BATCH) as usize)).await? {
            self.feed(Some(claim), &runner.value.name, &Event::Unneeded).await?;
        }
        Ok(())
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
    async fn pass_on(&self, claim: &ClaimToken, view: &GroupView, overflow: u32) -> Result<u32, StoreError> {
        let name = &view.record.value.spec.name;
        let groups = self.store().groups().await?;
        let listed = self.listed_groups().await?;
        let mut room: Vec<(GroupName, u32)> = groups
            .iter()
            .filter(|other| other.record.value.spec.name != *name)
            .map(|other| {
                let spec = &other.record.value.spec;
                (spec.name.clone(), room_for_jobs(spec.bounds, &other.counts))
            })
            .collect();
        let leaving = view.record.value.draining.is_some();
        if !leaving && room.iter().all(|(_, free)| *free == 0) {
            return Ok(overflow);
        }
        let filter = JobFilter::Queued(name.clone());
        let mut left = overflow;
        for job in self.store().jobs(&filter, &Page::first(overflow.min(BATCH) as usize)).await? {
            let asked = &job.value;
            let enterprise = asked.enterprise.as_deref();
            let fitting = self.serving(&listed, asked.id, &asked.repository, enterprise, &asked.labels);
            let target = fitting
                .iter()
                .find_map(|fits| room.iter().position(|(group, free)| group == fits && *free > 0));
            let target = match target {
                Some(at) => {
                    room[at].1 -= 1;
                    Some(room[at].0.clone())
                }
                // A draining group keeps nobody waiting: its jobs wait where they will be served, or for
                // nobody.
                None if leaving => fitting.into_iter().find(|fits| fits != name),
                None => continue,
            };
            self.move_job(claim, &job, target).await?;
            left -= 1;
        }
        Ok(left)
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
        let write =
            Write { operation: self.operation(), claim: Some(claim.clone()), changes: vec![change], tasks };
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
            changes: vec![change],
            tasks: Vec::new(),
        };
        self.apply(write).await?;
        self.inner.catalogue.forget();
        Ok(())
    }

    /// Places the waiting jobs that no group served, after the groups have changed.
    pub(super) async fn place_unserved(&self, claim: &ClaimToken) -> Result<Work, TaskError> {
        let listed = self.listed_groups().await?;
        let mut after = None;
        loop {
            let page = Page { after, limit: BATCH as usize };
            let jobs = self.store().jobs(&JobFilter::Unserved, &page).await?;
            for job in &jobs {
                let asked = &job.value;
                let enterprise = asked.enterprise.as_deref();
                let serving = self.serving(&listed, asked.id, &asked.repository, enterprise, &asked.labels);
                if let Some(group) = serving.into_iter().next() {
                    self.move_job(claim, job, Some(group)).await?;
                }
            }
            match jobs.last() {
                Some(last) if jobs.len() == BATCH as usize => after = Some(last.value.id),
                Some(_) | None => return Ok(Work::Done),
            }
        }
    }
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

/// When a group with jobs that it cannot serve should look again: when a placement may be tried again,
/// or another group may have room. A slot that is freed is told by a task of its own.
fn look_again(view: &GroupView, left: u32, now: Timestamp) -> Option<Timestamp> {
    if left == 0 {
        return None;
    }
    let blocked = match choose(&view.record.value, now) {
        Choice::Use(_) | Choice::Probe(_) => None,
        Choice::Blocked { until } => Some(until),
    };
    earliest(blocked, Some(later(now, OVERFLOW_PAUSE)))
}
