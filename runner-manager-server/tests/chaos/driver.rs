//! Queues jobs, and meanwhile kills, freezes and restarts what may fail.

use std::fmt;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::dice::Dice;
use crate::site::{LEASE, Site};

/// In how many portions the jobs are queued.
const PORTIONS: u64 = 40;
/// How often Redis is started anew in one run: each time it takes some seconds until its word is relied on again.
const MOST_REDIS_STARTS: u64 = 3;

/// What was done to the site.
#[derive(Debug, Default)]
pub(crate) struct Disturbances {
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) freezes: u64,
    pub(crate) redis_kills: u64,
    pub(crate) redis_freezes: u64,
    pub(crate) resets: u64,
    /// When a frozen replica went on.
    pub(crate) thaws: Vec<Timestamp>,
}

impl Disturbances {
    fn all(&self) -> [u64; 6] {
        [self.kills, self.stops, self.freezes, self.redis_kills, self.redis_freezes, self.resets]
    }
}

impl fmt::Display for Disturbances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills, {} restarts and {} freezes of replicas; {} kills and {} freezes of Redis, {} times all its \
             connections cut",
            self.kills, self.stops, self.freezes, self.redis_kills, self.redis_freezes, self.resets
        )
    }
}

/// A site that is down in part, and what is still to be done about it.
#[derive(Debug)]
pub(crate) struct Driver {
    site: Site,
    dice: Dice,
    done: Disturbances,
    /// Replicas that are frozen or dead, and until when.
    away: Vec<(usize, Away, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    Dead,
    Frozen,
}

impl Driver {
    pub(crate) fn new(site: Site, dice: Dice) -> Self {
        Self { site, dice, done: Disturbances::default(), away: Vec::new() }
    }

    /// Queues the jobs in portions, and disturbs the site between them; everybody is back when it ends.
    pub(crate) async fn run(&mut self, jobs: u64) {
        let mut queued = 0;
        for portion in 1..=PORTIONS {
            let upto = jobs * portion / PORTIONS;
            let group = ["small", "middle", "large"][usize::try_from(self.dice.roll(0..3)).unwrap()];
            self.site.queue(group, upto - queued, 1).await;
            queued = upto;
            self.bring_back();
            self.disturb().await;
            tokio::time::sleep(self.dice.millis(300..1_800)).await;
        }
        while !self.away.is_empty() {
            self.bring_back();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let never: Vec<_> = self.done.all().into_iter().filter(|times| *times == 0).collect();
        assert!(never.is_empty(), "a kind of disturbance never came: {}", self.done);
    }

    pub(crate) fn end(self) -> (Site, Disturbances) {
        (self.site, self.done)
    }

    async fn disturb(&mut self) {
        // Each kind comes in its turn once, and then as the dice fall.
        let missing = self.done.all().iter().position(|times| *times == 0);
        let kind = match missing {
            Some(kind) if self.dice.roll(0..2) == 0 => u64::try_from(kind).unwrap(),
            Some(_) | None => self.dice.roll(0..7),
        };
        match kind {
            0 => self.kill().await,
            1 => self.restart_in_order().await,
            2 => self.freeze(),
            3 if self.done.redis_kills < MOST_REDIS_STARTS => self.kill_redis().await,
            4 => self.freeze_redis().await,
            5 => {
                self.site.cut_connections();
                self.done.resets += 1;
            }
            _ => {}
        }
    }

    /// One of the replicas that are there, if it is not the last one.
    fn somebody(&mut self) -> Option<usize> {
        let count = self.site.replicas();
        let there: Vec<usize> =
            (0..count).filter(|one| self.away.iter().all(|(other, ..)| other != one)).collect();
        let chosen = self.dice.roll(0..there.len().max(1) as u64);
        (there.len() > 1).then(|| there[usize::try_from(chosen).unwrap()])
    }

    async fn kill(&mut self) {
        let Some(replica) = self.somebody() else { return };
        self.site.kill(replica).await;
        self.done.kills += 1;
        let until = Instant::now() + self.dice.millis(100..3_000);
        self.away.push((replica, Away::Dead, until));
    }

    async fn restart_in_order(&mut self) {
        let Some(replica) = self.somebody() else { return };
        self.site.stop(replica).await;
        self.site.start_replica(replica);
        self.done.stops += 1;
    }

    fn freeze(&mut self) {
        let Some(replica) = self.somebody() else { return };
        self.site.signal(replica, "STOP");
        self.done.freezes += 1;
        let until = Instant::now() + LEASE + self.dice.millis(200..3_000);
        self.away.push((replica, Away::Frozen, until));
    }

    async fn kill_redis(&mut self) {
        self.site.kill_redis();
        self.done.redis_kills += 1;
        tokio::time::sleep(self.dice.millis(50..1_500)).await;
        self.site.start_redis();
    }

    async fn freeze_redis(&mut self) {
        self.site.freeze_redis();
        self.done.redis_freezes += 1;
        tokio::time::sleep(self.dice.millis(200..3_000)).await;
        self.site.thaw_redis();
    }

    /// Brings back whoever was away for long enough.
    fn bring_back(&mut self) {
        let now = Instant::now();
        let (back, away) = std::mem::take(&mut self.away).into_iter().partition(|(.., until)| *until <= now);
        self.away = away;
        let back: Vec<(usize, Away, Instant)> = back;
        for (replica, how, _) in back {
            match how {
                Away::Dead => self.site.start_replica(replica),
                Away::Frozen => {
                    self.done.thaws.push(Timestamp::now());
                    self.site.signal(replica, "CONT");
                }
            }
        }
    }
}
