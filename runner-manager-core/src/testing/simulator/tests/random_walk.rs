//! Anything in any order, with everything going wrong: the books must add up at each step.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{Bench, ORGANIZATION};
use crate::testing::simulator::{
    Conclusion, DurationRange, Effect, FaultKind, Faults, JitLimit, Job, JobId, JobSpec, JobStatus,
    LyingBusy, RequestFault, RunId, SessionId, Settings, Simulator, WebhookFaults, random::Random,
};

const STEPS: usize = 250;
const SEEDS: u64 = 40;

#[test]
fn the_books_add_up_whatever_happens_and_every_fault_strikes() {
    let mut struck: BTreeMap<FaultKind, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        let mut walk = Walk::new(seed, everything_wrong());
        for step in 0..STEPS {
            walk.step();
            check(&walk.bench.github, &format!("seed {seed}, step {step}"));
        }
        for (kind, times) in &walk.bench.github.books().faults {
            *struck.entry(*kind).or_default() += times;
        }
    }
    let never: Vec<FaultKind> =
        FaultKind::ALL.into_iter().filter(|kind| !struck.contains_key(kind)).collect();
    assert!(never.is_empty(), "never struck: {never:?}");
}

#[test]
fn without_faults_no_job_is_killed_or_lost() {
    for seed in 0..SEEDS {
        let mut walk = Walk::new(seed, Faults::default());
        walk.machines_die = false;
        for _ in 0..STEPS {
            walk.step();
        }
        let books = walk.bench.github.books();
        assert!(books.violations.is_empty(), "seed {seed}: {:?}", books.violations);
        assert_eq!(books.jobs.lost, 0, "seed {seed}");
        assert!(books.jobs.completed > 0, "seed {seed}");
    }
}

fn everything_wrong() -> Faults {
    let seconds = SignedDuration::from_secs;
    let short = DurationRange { min: seconds(1), max: seconds(9) };
    let answer = |status| Effect::Answer { status, retry_after: Some(1) };
    let effects =
        [Effect::Delay(short), Effect::LoseReply, Effect::SkipEntries, answer(403), answer(429), answer(502)];
    let requests = effects.map(|effect| RequestFault::always(effect).with_probability(0.05)).to_vec();
    let delay = DurationRange { min: seconds(1), max: seconds(60) };
    Faults {
        webhooks: WebhookFaults { lost: 0.1, failed: 0.1, doubled: 0.1, delayed: 0.1, delay, reordered: 0.1 },
        requests,
        jit_limit: Some(JitLimit { per_minute: 6, announced: true }),
        hourly_budget: Some(25),
        lying_busy: vec![LyingBusy { probability: 0.5, lasts: seconds(600), spares: false }],
    }
}

struct Walk {
    bench: Bench,
    dice: Random,
    sessions: Vec<SessionId>,
    paths: Vec<String>,
    machines_die: bool,
}

impl Walk {
    fn new(seed: u64, faults: Faults) -> Self {
        let bench = Bench::with(Settings { seed, faults, ..Settings::default() });
        let (sessions, paths) = (Vec::new(), Vec::new());
        Self { bench, dice: Random::new(seed), sessions, paths, machines_die: true }
    }

    fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.dice.next() % 1_000_003).unwrap() % sides.max(1)
    }

    /// One of the newest, so that it is likely to be there still.
    fn session(&mut self) -> SessionId {
        let back = self.roll(4) + 1;
        let index = self.sessions.len().checked_sub(back);
        index.map_or(SessionId(0), |index| self.sessions[index])
    }

    fn job(&mut self) -> (JobId, RunId) {
        let index = self.roll(self.bench.github.jobs().count());
        self.bench.github.jobs().nth(index).map_or((JobId(0), RunId(0)), |job| (job.id, job.run))
    }

    /// Refusals are part of the game: only the books matter.
    fn step(&mut self) {
        let now = self.bench.now;
        let session = self.session();
        let (job, run) = self.job();
        match self.roll(16) {
            0 | 1 => self.queue(run),
            2 | 3 => self.register(),
            4..=6 => drop(self.bench.github.poll(session, now)),
            7 => drop(self.bench.github.finish(session, Conclusion::Failure, now)),
            8 if self.machines_die => drop(self.bench.github.die(session, now)),
            9 | 10 => self.remove(),
            11 => drop(self.bench.github.rerun_job(job, now)),
            12 => drop(self.bench.github.cancel_run(run, now)),
            13 => drop(self.bench.github.release_job(job, now)),
            14 => drop(self.bench.call("GET", "/orgs/acme/actions/runners?per_page=100", &Value::Null)),
            _ => self.pass(),
        }
    }

    fn queue(&mut self, run: RunId) {
        let label = ["linux", "gpu"][self.roll(2)];
        let mut spec = JobSpec::new(["acme/widgets", "acme/gadgets"][self.roll(2)], [label]);
        spec.waiting = self.roll(4) == 0;
        spec.run = (self.roll(3) == 0).then_some(run);
        let _ = self.bench.github.queue_job(&spec, self.bench.now);
    }

    fn register(&mut self) {
        let name = format!("r-{}", self.roll(1_000));
        let body = json!({"name": name, "runner_group_id": 1, "labels": ["linux", "gpu"]});
        let path = format!("{ORGANIZATION}/actions/runners");
        let (status, made, _) = self.bench.call("POST", &format!("{path}/generate-jitconfig"), &body);
        if status == 201 {
            self.paths.push(format!("{path}/{}", made["runner"]["id"]));
            let jit_config = made["encoded_jit_config"].as_str().unwrap();
            self.sessions.push(self.bench.github.connect(jit_config, self.bench.now).unwrap());
        }
    }

    fn remove(&mut self) {
        let back = self.roll(4) + 1;
        if let Some(index) = self.paths.len().checked_sub(back) {
            let path = self.paths[index].clone();
            self.bench.delete(&path);
        }
    }

    fn pass(&mut self) {
        // Without lost machines no time passes: GitHub would give up jobs that nobody ends.
        let most = if self.machines_die { 400 } else { 1 };
        let seconds = i64::try_from(self.roll(most)).unwrap();
        self.bench.pass(seconds);
        for delivery in self.bench.due() {
            let status = [Some(202), Some(500), None][self.roll(3)];
            self.bench.github.delivered(delivery.id, status, self.bench.now);
        }
    }
}

/// Everything that is counted along the way, counted again from the start.
fn check(github: &Simulator, at: &str) {
    let books = github.books();
    let jobs = |wanted: &dyn Fn(&Job) -> bool| github.jobs().filter(|job| wanted(job)).count() as u64;
    let count = |status: JobStatus| jobs(&|job| job.status == status);
    assert_eq!(books.jobs.waiting, count(JobStatus::Waiting), "{at}");
    assert_eq!(books.jobs.queued, count(JobStatus::Queued), "{at}");
    assert_eq!(books.jobs.in_progress, count(JobStatus::InProgress), "{at}");
    assert_eq!(books.jobs.completed, count(JobStatus::Completed), "{at}");
    assert_eq!(books.jobs.lost, jobs(&|job| job.lost), "{at}");
    let queued: usize = github.jobs.queue.values().map(std::collections::BTreeSet::len).sum();
    assert_eq!(books.jobs.queued, queued as u64, "{at}");

    let alive = github.runners().count() as u64;
    let removed: u64 = books.runners.removed.values().sum();
    assert_eq!((books.runners.alive, books.runners.registered), (alive, alive + removed), "{at}");
    let busy = github.runners().filter(|runner| runner.job.is_some()).count() as u64;
    assert_eq!(books.jobs.in_progress, busy, "{at}");
    assert!(books.runs_by_job.values().all(|runs| *runs == 1), "{at}");
    for run in github.jobs.runs.values() {
        let open = run.latest.iter().any(|id| github.job(*id).unwrap().status != JobStatus::Completed);
        assert_eq!(run.status() != JobStatus::Completed, open, "{at}");
    }
}
