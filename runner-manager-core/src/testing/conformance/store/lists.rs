//! Cases of lists, counters and history.

use std::time::Duration;

use jiff::Timestamp;

use super::super::storage::{
    StorageSubject, backend_name, completed, ended, group_name, job, presumed, queued, runner, runner_name,
    scope,
};
use crate::domain::{
    CreateStep, JobId, JobState, Phase, RetireReason, RetireStep, Runner, RunnerState, WorkflowJob, later,
};
use crate::random::{Random, SeededRandom};
use crate::store::{Change, Expected, GroupCounts, JobFilter, Page, RunnerFilter, Version, all_runners};

/// The names that a filter selects, read in pages of a size.
async fn names(on: &StorageSubject, filter: &RunnerFilter, size: usize) -> Vec<String> {
    let mut names = Vec::new();
    let mut page = Page::first(size);
    loop {
        let read = on.store.runners(filter, &page).await.unwrap();
        let complete = read.len() < size;
        page.after = read.last().map(|last| last.value.name.clone());
        names.extend(read.into_iter().map(|read| read.value.name.to_string()));
        if complete {
            return names;
        }
    }
}

/// The numbers that a filter selects, read in pages of a size.
async fn numbers(on: &StorageSubject, filter: &JobFilter, size: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut page = Page::first(size);
    loop {
        let read = on.store.jobs(filter, &page).await.unwrap();
        let complete = read.len() < size;
        page.after = read.last().map(|last| last.value.id);
        numbers.extend(read.into_iter().map(|read| read.value.id.0));
        if complete {
            return numbers;
        }
    }
}

/// Seven runners: the odd ones in another group, on another backend, in another scope, and the later its
/// name the shorter in its phase.
async fn seven_runners(on: &StorageSubject) {
    on.open_group("a", 10).await;
    on.open_group("b", 10).await;
    for at in [3, 0, 6, 1, 5, 2, 4_u64] {
        let mut made = runner(&format!("r{at}"), if at % 2 == 0 { "a" } else { "b" });
        if at % 2 == 1 {
            made.backend = backend_name("other");
            made.scope = crate::domain::Scope::Repository("Acme/App".parse().unwrap());
        }
        made.since = later(Timestamp::UNIX_EPOCH, Duration::from_secs(100 - at));
        on.apply(Change::ReserveRunner { runner: made }).await;
    }
}

pub(super) async fn lists_are_ordered_and_paged(on: StorageSubject) {
    seven_runners(&on).await;
    let repository = |name: &str| crate::domain::Scope::Repository(name.parse().unwrap());
    let lists = [
        (RunnerFilter::All, vec!["r0", "r1", "r2", "r3", "r4", "r5", "r6"]),
        (RunnerFilter::Group(group_name("a")), vec!["r0", "r2", "r4", "r6"]),
        (RunnerFilter::Phase(group_name("b"), Phase::Requested), vec!["r5", "r3", "r1"]),
        (RunnerFilter::Phase(group_name("b"), Phase::Idle), vec![]),
        (RunnerFilter::Backend(backend_name("other")), vec!["r1", "r3", "r5"]),
        (RunnerFilter::Scope(scope("acme")), vec!["r0", "r2", "r4", "r6"]),
        (RunnerFilter::Scope(repository("acme/APP")), vec!["r1", "r3", "r5"]),
        (RunnerFilter::Group(group_name("c")), vec![]),
    ];
    for (filter, expected) in lists {
        for size in [1, 2, 3, 100] {
            assert_eq!(names(&on, &filter, size).await, expected, "{filter:?} in pages of {size}");
        }
    }
    assert!(on.store.runners(&RunnerFilter::All, &Page::first(0)).await.unwrap().is_empty());
    for (id, state) in [
        (5, queued(Some("a"))),
        (9, queued(Some("a"))),
        (2, queued(Some("b"))),
        (7, queued(None)),
        (1, queued(None)),
        (4, JobState::Waiting),
        (6, presumed(on.now().await)),
    ] {
        // Heard of in the order of this list, made the later the smaller the number.
        let mut waiting = job(id, state, 50 - id);
        waiting.recorded_at = on.now().await;
        on.apply(Change::PutJob { job: waiting, expected: Expected::Absent }).await;
        on.pass(1).await;
    }
    let lists = [
        (JobFilter::All, vec![6, 4, 1, 7, 2, 9, 5]),
        (JobFilter::Queued(group_name("a")), vec![9, 5]),
        (JobFilter::Queued(group_name("b")), vec![2]),
        (JobFilter::Unserved, vec![7, 1]),
    ];
    for (filter, expected) in lists {
        for size in [1, 2, 3, 100] {
            assert_eq!(numbers(&on, &filter, size).await, expected, "{filter:?} in pages of {size}");
        }
    }
    no_page_skips(&on).await;
}

/// What leaves a list while it is read makes no page skip another.
async fn no_page_skips(on: &StorageSubject) {
    let filter = RunnerFilter::Phase(group_name("a"), Phase::Requested);
    let first = on.store.runners(&filter, &Page::first(1)).await.unwrap().remove(0);
    let change = Change::EndRunner { ended: ended(&first.value, on.now().await), expected: first.version };
    on.try_apply(change).await.unwrap();
    let rest = on.store.runners(&filter, &Page::after(first.value.name, 10)).await.unwrap();
    assert_eq!(rest.len(), 3);
    let mut moved = rest[0].clone();
    moved.value.state = RunnerState::Booting;
    moved.value.since = later(Timestamp::UNIX_EPOCH, Duration::from_hours(1));
    let after = moved.value.name.clone();
    on.apply(Change::PutRunner { runner: moved.value, expected: moved.version }).await;
    let rest = on.store.runners(&filter, &Page::after(after, 10)).await.unwrap();
    assert_eq!(rest.len(), 2);
    assert_eq!(names(on, &RunnerFilter::All, 2).await, ["r0", "r1", "r2", "r3", "r4", "r5"]);
}

/// Pseudo-random changes, as a model of what the store should hold.
struct Model {
    random: SeededRandom,
    runners: Vec<(Runner, Version)>,
    jobs: Vec<(WorkflowJob, Version)>,
    made: u64,
}

const GROUPS: [&str; 3] = ["a", "b", "c"];

impl Model {
    fn below(&self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("a bound fits");
        usize::try_from(self.random.next_u64() % bound).expect("what is below a bound fits")
    }

    fn state(&self) -> RunnerState {
        match self.below(6) {
            0 => RunnerState::Requested,
            1 => RunnerState::Creating { create: CreateStep::Registering },
            2 => RunnerState::Booting,
            3 => RunnerState::Idle { leaving: None },
            4 => RunnerState::Busy { job: None },
            _ => RunnerState::Retiring { why: RetireReason::Surplus, retire: RetireStep::Delete },
        }
    }

    fn job_state(&self, now: Timestamp) -> JobState {
        match self.below(7) {
            0 => queued(None),
            1 => JobState::InProgress { runner: "r".to_owned(), since: now },
            2 => completed(now),
            3 => presumed(now),
            _ => queued(Some(GROUPS[self.below(3)])),
        }
    }

    async fn change(&mut self, on: &StorageSubject) {
        self.made += 1;
        match self.below(5) {
            0 | 1 => {
                let mut runner = runner(&format!("r{}", self.made), GROUPS[self.below(3)]);
                let change = if self.below(4) == 0 {
                    runner.state = self.state();
                    Change::AdoptRunner { runner: runner.clone() }
                } else {
                    Change::ReserveRunner { runner: runner.clone() }
                };
                if let Ok(applied) = on.try_apply(change).await {
                    self.runners.push((runner, applied.versions[0].expect("the record exists")));
                }
            }
            2 if !self.runners.is_empty() => {
                let at = self.below(self.runners.len());
                let mut runner = self.runners[at].0.clone();
                runner.state = self.state();
                let expected = self.runners[at].1;
                let version = on.apply(Change::PutRunner { runner: runner.clone(), expected }).await;
                self.runners[at] = (runner, version);
            }
            3 if self.runners.len() > 5 => {
                let (runner, expected) = self.runners.swap_remove(self.below(self.runners.len()));
                let change = Change::EndRunner { ended: ended(&runner, on.now().await), expected };
                on.try_apply(change).await.unwrap();
            }
            _ => self.change_job(on).await,
        }
    }

    async fn change_job(&mut self, on: &StorageSubject) {
        let state = self.job_state(on.now().await);
        if self.jobs.is_empty() || self.below(2) == 0 {
            let job = job(self.made, state, self.made);
            let version = on.apply(Change::PutJob { job: job.clone(), expected: Expected::Absent }).await;
            self.jobs.push((job, version));
            return;
        }
        let at = self.below(self.jobs.len());
        if self.jobs[at].0.is_completed() {
            // Completed jobs may have been forgotten meanwhile.
            self.jobs.swap_remove(at);
            return;
        }
        let mut job = self.jobs[at].0.clone();
        job.state = state;
        let expected = Expected::Version(self.jobs[at].1);
        let version = on.apply(Change::PutJob { job: job.clone(), expected }).await;
        self.jobs[at] = (job, version);
    }

    fn counts(&self, group: &str) -> GroupCounts {
        let group = group_name(group);
        let mut counts = GroupCounts::default();
        for (runner, _) in self.runners.iter().filter(|(runner, _)| runner.group == group) {
            *counts.of_mut(runner.phase()) += 1;
        }
        let demand = self.jobs.iter().filter(|(job, _)| job.demand() == Some(&group)).count();
        counts.queued = u32::try_from(demand).expect("the suite makes few jobs");
        counts
    }
}

pub(super) async fn counters_follow_the_records(on: StorageSubject) {
    for group in GROUPS {
        on.open_group(group, 12).await;
    }
    let random = SeededRandom::new(42);
    let mut model = Model { random, runners: Vec::new(), jobs: Vec::new(), made: 0 };
    for step in 0..400 {
        model.change(&on).await;
        if step % 20 != 19 {
            continue;
        }
        for group in GROUPS {
            let (name, expected) = (group_name(group), model.counts(group));
            assert_eq!(on.counts(group).await, expected, "group {group} after step {step}");
            for phase in Phase::ALL {
                let listed =
                    all_runners(&*on.store, &RunnerFilter::Phase(name.clone(), phase)).await.unwrap();
                assert_eq!(listed.len() as u64, u64::from(expected.of(phase)), "{group} in {phase}");
            }
            let waiting = on.store.jobs(&JobFilter::Queued(name), &Page::first(1000)).await.unwrap();
            assert_eq!(waiting.len() as u64, u64::from(expected.queued), "{group} after step {step}");
        }
    }
    assert!(model.runners.len() > 5 && model.jobs.len() > 20, "the suite has made records");
}

pub(super) async fn history_is_kept_and_bounded(on: StorageSubject) {
    on.open_group("a", 1).await;
    on.apply(Change::PutJob { job: job(1000, queued(None), 0), expected: Expected::Absent }).await;
    for at in 0..45_u64 {
        let now = on.now().await;
        let made = runner(&format!("r{at}"), "a");
        let expected = on.apply(Change::ReserveRunner { runner: made.clone() }).await;
        on.try_apply(Change::EndRunner { ended: ended(&made, now), expected }).await.unwrap();
        let done = job(at, completed(now), 1 + at);
        on.apply(Change::PutJob { job: done, expected: Expected::Absent }).await;
        on.pass(u32::from(at == 40)).await;
    }
    let kept = on.store.ended_runners(100).await.unwrap();
    assert_eq!(kept[0].name, runner_name("r44"));
    assert!((20..45).contains(&kept.len()), "{} ended runners are kept", kept.len());
    assert!(kept.is_sorted_by(|one, two| one.ended_at >= two.ended_at));
    assert_eq!(on.store.ended_runners(3).await.unwrap().len(), 3);
    let jobs = numbers(&on, &JobFilter::All, 7).await;
    assert!((21..46).contains(&jobs.len()), "{} jobs are kept", jobs.len());
    assert!(jobs.contains(&44) && jobs.contains(&1000) && !jobs.contains(&0), "{jobs:?}");
    on.pass(21).await;
    for at in 2000..2030_u64 {
        on.apply(Change::PutJob { job: job(at, queued(None), 1), expected: Expected::Absent }).await;
    }
    assert!(on.store.ended_runners(100).await.unwrap().is_empty());
    assert!(on.store.job(JobId(44)).await.unwrap().is_none());
    assert!(on.store.job(JobId(1000)).await.unwrap().is_some(), "a job that waits is never forgotten");
}
