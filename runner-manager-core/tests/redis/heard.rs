//! The order in which jobs were heard of, of many more than a piece of it has.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use runner_manager_core::domain::{Conclusion, JobId, JobState, WorkflowJob, later};
use runner_manager_core::random::{Random, SeededRandom};
use runner_manager_core::redis::RedisStorage;
use runner_manager_core::store::{Change, Expected, JobFilter, Page, Retention, Store, Version};

use crate::counted::{commands, fill, since};
use crate::records::{completed, job, noon, put_job, queued, write};
use crate::redis_server::RedisServer;
use crate::world::open;

/// How many jobs are in the order; and its pieces are those that it names.
pub(crate) fn in_order(server: &RedisServer) -> usize {
    let number =
        |script: &str| -> usize { server.ask(&["EVAL", script, "1", "rm:{acme}:ja"])[1..].parse().unwrap() };
    let named = number("return redis.call('ZCARD', KEYS[1])");
    assert_eq!(
        number("return #redis.call('KEYS', KEYS[1] .. ':*')"),
        named,
        "a piece was left, or is missing"
    );
    number(
        "local count = 0 for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do \
         count = count + redis.call('ZCARD', KEYS[1] .. ':' .. name) end return count",
    )
}

/// All jobs, read in pages of a size.
async fn listed(storage: &RedisStorage, size: usize) -> Vec<u64> {
    let (mut ids, mut page) = (Vec::new(), Page::first(size));
    loop {
        let jobs = storage.jobs(&JobFilter::All, &page).await.unwrap();
        ids.extend(jobs.iter().map(|job| job.value.id.0));
        if jobs.len() < size {
            return ids;
        }
        page.after = jobs.last().map(|job| job.value.id);
    }
}

/// Jobs that come late, together, at one time, end, end again, begin anew, and are forgotten.
struct Many {
    random: SeededRandom,
    known: BTreeMap<u64, (WorkflowJob, Version)>,
    made: u64,
}

impl Many {
    fn below(&self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    fn state(&self, round: u64) -> JobState {
        let at = later(noon(), Duration::from_secs(round - self.below(2)));
        match self.below(5) {
            0 | 1 => queued("linux"),
            _ => JobState::Completed { conclusion: Conclusion::Success, runner: None, at },
        }
    }

    /// A job that is new or is known, and the change that writes it.
    fn change(&mut self, round: u64, late: u64) -> (WorkflowJob, Change) {
        let heard = later(noon(), Duration::from_millis(round * 1000 - self.below(late) * 500));
        let skip = usize::try_from(self.below(1 + self.known.len() as u64)).unwrap();
        let known = self.known.iter().nth(skip).filter(|_| self.below(5) < 2).map(|(id, _)| *id);
        let (mut written, expected) =
            if let Some((known, version)) = known.and_then(|id| self.known.remove(&id)) {
                (known, Expected::Version(version))
            } else {
                self.made += 1;
                // Some have more digits than others, and their order is not that of their times.
                (job(self.made * 7919 % 1_000_003, JobState::Waiting), Expected::Absent)
            };
        if expected == Expected::Absent || self.below(10) == 0 {
            written.recorded_at = heard;
        }
        written.state = self.state(round);
        (written.clone(), Change::PutJob { job: written, expected })
    }

    async fn write(&mut self, storage: &RedisStorage, round: u64, late: u64) {
        let count = [1, 1, 5, 60][usize::try_from(self.below(4)).unwrap()];
        let (jobs, changes): (Vec<_>, Vec<_>) = (0..count).map(|_| self.change(round, late)).unzip();
        let applied = storage.apply(write(&format!("round-{round}"), changes)).await.unwrap();
        for (job, version) in jobs.into_iter().zip(applied.versions) {
            self.known.insert(job.id.0, (job, version.unwrap()));
        }
        for id in self.known.keys().copied().collect::<Vec<_>>() {
            if storage.job(JobId(id)).await.unwrap().is_none() {
                let (forgotten, _) = self.known.remove(&id).unwrap();
                assert!(forgotten.is_completed(), "{forgotten:?} is forgotten");
            }
        }
    }

    fn in_order(&self) -> Vec<u64> {
        let mut jobs: Vec<_> = self.known.values().map(|(job, _)| (job.recorded_at, job.id.0)).collect();
        jobs.sort_by_key(|place| Reverse(*place));
        jobs.into_iter().map(|(_, id)| id).collect()
    }
}

#[tokio::test]
async fn many_jobs_stay_in_the_order_in_which_they_were_heard_of() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let retention =
        Retention { completed_jobs: 150, completed_jobs_for: Duration::MAX, ..Retention::default() };
    // Late by two seconds at most, which is usual, and by more than any piece takes in time.
    for late in [4, 200] {
        server.ask(&["FLUSHALL"]);
        let storage = open(&server, "acme").await.with_retention(retention);
        let mut many = Many { random: SeededRandom::new(late), known: BTreeMap::new(), made: 0 };
        for round in 100..160 {
            many.write(&storage, round, late).await;
            let expected = many.in_order();
            for size in [17, 1000] {
                assert_eq!(listed(&storage, size).await, expected, "round {round} in pages of {size}");
            }
            assert_eq!(in_order(&server), expected.len());
        }
        assert!(many.made > 500 && many.known.len() > 250, "{} of {}", many.known.len(), many.made);
    }
}

#[tokio::test]
async fn a_page_costs_the_same_wherever_it_begins() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let retention =
        Retention { completed_jobs: 100_000, completed_jobs_for: Duration::MAX, ..Retention::default() };
    let storage = open(&server, "acme").await.with_retention(retention);
    let made = |at: usize| {
        let mut made = job(at as u64, completed());
        made.recorded_at = later(noon(), Duration::from_millis(at as u64));
        put_job(made)
    };
    fill(&storage, "jobs", 20_000, made).await;
    let piece = server.ask(&["ZRANGE", "rm:{acme}:ja", "-1", "-1"]);
    let piece = piece.lines().last().unwrap();
    let encoding = server.ask(&["OBJECT", "ENCODING", &format!("rm:{{acme}}:ja:{piece}")]);
    assert!(["listpack", "ziplist"].iter().any(|packed| encoding.ends_with(packed)), "{encoding}");
    // The script is known from here on.
    assert_eq!(listed(&storage, 1000).await.len(), 20_000);
    for after in [19_999, 10_050, 150, 50] {
        let before = commands(&server);
        let page = storage.jobs(&JobFilter::All, &Page::after(JobId(after), 40)).await.unwrap();
        assert_eq!(
            page.iter().map(|job| job.value.id.0).collect::<Vec<_>>(),
            (after - 40..after).rev().collect::<Vec<_>>()
        );
        let [scripts, within] = since(&server, &before);
        assert!(
            scripts == 1 && within <= 8,
            "{within} commands of {scripts} scripts for a page after {after}"
        );
    }
}
