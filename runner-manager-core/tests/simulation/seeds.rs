//! Many seeds, one seed, and the same seed twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::faults;
use super::plan::{self, Plan};
use super::run::{Outcome, run};
use super::shared::Violation;
use super::throttle::WAITS;

/// How many seeds a run without `SIM_SEEDS` takes.
const SEEDS: u64 = 40;

/// How many of the last lines a failed seed shows.
const LINES: usize = 60;

/// How many threads share the seeds. Each has a runtime of its own.
const THREADS: u64 = 2;

/// From how many seeds on every kind of fault must have struck.
const ENOUGH_SEEDS: u64 = SEEDS;

/// What many runs came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) failed: Option<(u64, Violation)>,
    pub(crate) events: u64,
    pub(crate) steps: u64,
    pub(crate) struck: BTreeMap<String, u64>,
    pub(crate) honest: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.events += outcome.events;
        self.steps += outcome.steps;
        for (fault, count) in outcome.struck {
            *self.struck.entry(fault).or_default() += count;
        }
        for (what, count) in outcome.honest {
            *self.honest.entry(what).or_default() += count;
        }
        if let Some(violation) = outcome.violation
            && self.failed.as_ref().is_none_or(|(first, _)| seed < *first)
        {
            self.failed = Some((seed, violation));
        }
    }
}

/// Runs seeds on several threads until one fails. The failure with the least number counts.
pub(crate) fn run_all(seeds: std::ops::Range<u64>, run: impl Fn(u64) -> Outcome + Sync) -> Tally {
    let next = AtomicU64::new(seeds.start);
    let tally = Mutex::new(Tally::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end
                || tally.lock().unwrap().failed.as_ref().is_some_and(|(first, _)| *first < seed)
            {
                return;
            }
            let outcome = run(seed);
            tally.lock().unwrap().add(seed, outcome);
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    tally.into_inner().unwrap()
}

/// What a person needs who wants to know why a seed failed.
fn report(seed: u64, violation: &Violation) -> String {
    let again = run(Plan::of(seed), true);
    let lines = &again.lines[again.lines.len().saturating_sub(LINES)..];
    let mut text = format!("seed {seed}: {violation}\n\n");
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    let _ = write!(
        text,
        "\nreplay: SIM_SEED={seed} cargo test -p runner-manager-core --features testing --test simulation seeds \
         -- --nocapture"
    );
    text
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")))
}

/// `SIM_SEED=7` runs one seed, and prints all that happened.
fn replay(seed: u64) {
    let plan = Plan::of(seed);
    println!("{plan:#?}");
    let outcome = run(plan, true);
    for line in &outcome.lines {
        println!("{line}");
    }
    println!("struck: {:#?}", outcome.struck);
    assert_eq!(outcome.violation.map(|violation| violation.to_string()), None, "seed {seed}");
    println!("seed {seed}: all promises held");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how fast the seeds go is told, and nothing depends on it")]
fn seeds() {
    if let Some(seed) = number("SIM_SEED") {
        return replay(seed);
    }
    let first = number("SIM_FIRST").unwrap_or_default();
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    let began = std::time::Instant::now();
    let tally = run_all(first..first + count, |seed| run(Plan::of(seed), false));
    let seconds = began.elapsed().as_secs_f64();
    if let Some((seed, violation)) = &tally.failed {
        panic!("{}", report(*seed, violation));
    }
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let speed = count as f64 / seconds;
    println!(
        "{count} seeds in {seconds:.1} s: {speed:.1} seeds/s, {} events, {} steps",
        tally.events, tally.steps
    );
    println!("struck: {:#?}", tally.struck);
    println!("allowed, counted by itself: {:#?}", tally.honest);
    if count >= ENOUGH_SEEDS {
        let missing: Vec<_> =
            all_faults().into_iter().filter(|fault| !tally.struck.contains_key(fault)).collect();
        assert!(missing.is_empty(), "these never struck: {missing:?}");
    }
}

/// Everything that is to go wrong in some seed.
fn all_faults() -> Vec<String> {
    let mut all = faults::all_kinds();
    all.extend(plan::all_faults());
    all.extend(WAITS.map(|(_, word)| word.to_owned()));
    all
}

#[test]
fn the_same_seed_does_the_same() {
    for seed in 0..6 {
        let [one, other] = [(), ()].map(|()| run(Plan::of(seed), false));
        assert_eq!((one.hash, one.events, one.steps), (other.hash, other.events, other.steps), "seed {seed}");
        assert_ne!(one.hash, run(Plan::of(seed + 1), false).hash);
    }
}

#[test]
fn nothing_goes_wrong_where_nothing_goes_wrong() {
    let tally = run_all(0..10, |seed| run(Plan::calm(seed), false));
    assert_eq!(tally.failed, None);
}
