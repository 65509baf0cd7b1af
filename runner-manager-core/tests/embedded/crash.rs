//! A real process that is killed at any moment: what it was told is done is done.
//!
//! The test runs itself once more as the process that is to be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use runner_manager_core::clock::{Clock, SimulatedClock, SystemClock};
use runner_manager_core::domain::JobId;
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::queue::{Lane, TaskQueue};
use runner_manager_core::random::{Random, SeededRandom};
use runner_manager_core::store::Store;

use crate::records::{put_job, reconcile, write};

const FILE: &str = "RUNNER_MANAGER_CRASH_TEST_FILE";
const ROUND: &str = "RUNNER_MANAGER_CRASH_TEST_ROUND";
const LEASE: Duration = Duration::from_mins(1);

/// The process that is to be killed. By itself it does nothing.
#[tokio::test]
async fn writes_until_it_is_killed() {
    let (Ok(file), Ok(round)) = (std::env::var(FILE), std::env::var(ROUND)) else { return };
    let storage = EmbeddedStorage::open(file, Arc::new(SystemClock)).unwrap();
    let round: u64 = round.parse().unwrap();
    let lane = async |lane: u64| {
        for number in 0.. {
            let id = round * 1_000_000_000 + number * 10 + lane;
            let mut write = write(&id.to_string(), vec![put_job(id)]);
            write.tasks = vec![reconcile(&format!("written-{id}"))];
            storage.apply(write).await.unwrap();
            println!("\n@written {id}");
            storage.push(vec![reconcile(&format!("pushed-{id}"))]).await.unwrap();
            println!("\n@pushed {id}");
            let claims = storage.claim(&Lane::control(), 1, usize::MAX, LEASE, Duration::ZERO).await.unwrap();
            for claim in claims {
                println!("\n@claimed {}", claim.token.key);
            }
        }
    };
    join_all((0..8).map(lane)).await;
}

fn start(file: &Path, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::writes_until_it_is_killed", "--nocapture"])
        .env(FILE, file)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the process was told until it was killed, which is after so many words of it.
fn kill_after(mut child: Child, words: u64) -> Vec<(String, String)> {
    let mut told = Vec::new();
    let output = BufReader::new(child.stdout.take().unwrap());
    if words == 0 {
        child.kill().unwrap();
    }
    for line in output.lines() {
        let line = line.unwrap();
        if let Some((what, which)) = line.strip_prefix('@').and_then(|line| line.split_once(' ')) {
            told.push((what.to_owned(), which.to_owned()));
        }
        if told.len() as u64 == words && words > 0 {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(!status.success(), "it was killed");
    told
}

#[derive(Default)]
struct Told {
    jobs: Vec<u64>,
    tasks: BTreeSet<String>,
    claimed: BTreeSet<String>,
}

impl Told {
    fn add(&mut self, told: Vec<(String, String)>) {
        for (what, which) in told {
            match what.as_str() {
                "written" => {
                    self.jobs.push(which.parse().unwrap());
                    self.tasks.insert(format!("reconcile:written-{which}"));
                }
                "pushed" => drop(self.tasks.insert(format!("reconcile:pushed-{which}"))),
                "claimed" => drop(self.claimed.insert(which)),
                other => panic!("it said {other}"),
            }
        }
    }
}

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("storage");
    let random = SeededRandom::new(7);
    let mut told = Told::default();
    for round in 0..8 {
        let words = if round == 0 { 0 } else { 1 + random.next_u64() % 300 };
        told.add(kill_after(start(&file, round), words));
        let clock = Arc::new(SimulatedClock::new(SystemClock.now()));
        let storage = EmbeddedStorage::open(&file, clock).unwrap();
        for id in &told.jobs {
            assert!(storage.job(JobId(*id)).await.unwrap().is_some(), "job {id} after round {round}");
            let again = storage.apply(write(&id.to_string(), vec![put_job(*id)])).await.unwrap();
            assert!(again.repeated, "write {id} after round {round}");
        }
    }
    assert!(told.jobs.len() > 100 && told.claimed.len() > 50, "the test did what it is for");
    claimed_tasks_come_back(&file, &told).await;
}

/// Tasks that were held by the process that was killed come back at once: nobody else has the file.
async fn claimed_tasks_come_back(file: &Path, told: &Told) {
    let clock = Arc::new(SimulatedClock::new(SystemClock.now()));
    let storage = EmbeddedStorage::open(file, clock.clone()).unwrap();
    let claim = async || {
        let claims =
            storage.claim(&Lane::control(), usize::MAX, usize::MAX, LEASE, Duration::ZERO).await.unwrap();
        claims.into_iter().map(|claim| (claim.token.key, claim.attempt)).collect::<BTreeMap<_, _>>()
    };
    let found = claim().await;
    for key in &told.claimed {
        assert!(found.get(key).is_some_and(|attempt| *attempt >= 2), "{key} came back");
    }
    let lost: Vec<_> = told.tasks.iter().filter(|key| !found.contains_key(*key)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    clock.advance(LEASE / 2);
    assert!(claim().await.is_empty(), "a lease of this process was cut short");
}
