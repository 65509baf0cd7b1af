//! What came of a run, by the books of those who were not disturbed.

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use runner_manager_backends::fake;
use runner_manager_core::testing::simulator;
use runner_manager_server::summary::Quantiles;

use crate::site::GROUPS;

/// How long after it went on a replica that was frozen may send the one call that it was about to send.
const LATE_CALL: SignedDuration = SignedDuration::from_secs(2);

/// What the replicas say that they did not do twice.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caught {
    /// Webhooks that had been taken in before.
    repeated: u64,
    /// Webhooks that said nothing new.
    nothing_new: u64,
    /// Tasks that another replica had taken over.
    lost: u64,
}

impl Caught {
    /// Adds what a replica's metrics tell.
    pub(crate) fn add(&mut self, metrics: &str) {
        for line in metrics.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            match name {
                _ if name.contains("observations") && name.contains("\"repeated\"") => self.repeated += value,
                _ if name.contains("observations") && name.contains("\"nothing_new\"") => {
                    self.nothing_new += value;
                }
                _ if name.contains("_tasks_total") && name.contains("\"lost\"") => self.lost += value,
                _ => {}
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) seconds: f64,
    pub(crate) disturbances: String,
    /// Taken, and not taken.
    pub(crate) webhooks: (u64, u64),
    pub(crate) caught: Caught,
    pub(crate) cloud: fake::Books,
    pub(crate) github: simulator::Books,
    pub(crate) jobs: Vec<simulator::Job>,
}

impl Verdict {
    /// The most machines that a group ever had at once.
    pub(crate) fn most_alive(&self, group: &str) -> u64 {
        let mut groups = self.cloud.groups.iter();
        groups.find(|(name, _)| name.as_str() == group).map_or(0, |(_, count)| count.max_alive)
    }

    /// Holds the promises against the books.
    pub(crate) fn check(&self, jobs: u64, thaws: &[Timestamp]) {
        assert_eq!((self.github.jobs.succeeded, self.github.jobs.lost), (jobs, 0), "no job is lost");
        assert_eq!(self.github.runs_by_job.len() as u64, jobs);
        assert!(self.github.runs_by_job.values().all(|runs| *runs == 1), "each job runs once");
        assert_eq!(self.github.violations, []);
        assert!(self.cloud.repeats.is_empty(), "asked for twice: {:?}", self.cloud.repeats);
        assert!(self.cloud.doubles.is_empty(), "made twice: {:?}", self.cloud.doubles);
        for (group, max) in GROUPS {
            self.check_max(group, max, thaws);
        }
    }

    /// At each moment at which a machine appeared, no more of its group may have been there than `max`, but for
    /// those that a replica asked for in the moment in which it woke up.
    fn check_max(&self, group: &str, max: u64, thaws: &[Timestamp]) {
        let lives: Vec<&fake::Life> =
            self.cloud.lives.iter().filter(|life| life.group.as_str() == group).collect();
        for moment in lives.iter().filter_map(|life| life.appeared_at) {
            let alive: Vec<_> = lives.iter().filter(|life| life.alive_at(moment)).collect();
            let late = alive.iter().filter(|life| self.is_late(life, thaws)).count();
            assert!(
                (alive.len() - late) as u64 <= max,
                "{} of group {group} at {moment}, {late} of them late, at most {max}: {alive:#?}",
                alive.len(),
            );
        }
    }

    /// Whether a machine may be one that a replica asked for after it had been frozen: asked for at the moment
    /// of waking, and of no use to any job.
    fn is_late(&self, life: &fake::Life, thaws: &[Timestamp]) -> bool {
        let ran =
            |job: &simulator::Job| job.runner.as_ref().is_some_and(|ran| ran.name == life.runner.as_str());
        thaws.iter().any(|thaw| (*thaw..*thaw + LATE_CALL).contains(&life.asked_at))
            && !self.jobs.iter().any(ran)
    }

    /// How long jobs waited.
    fn delays(&self) -> Quantiles {
        let waited = |job: &simulator::Job| job.started_at?.duration_since(job.created_at).try_into().ok();
        Quantiles::of(self.jobs.iter().filter_map(waited).collect())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Quantiles { p50, max, .. } = self.delays();
        let (median, longest) = (p50 / 1000.0, max / 1000.0);
        let most: BTreeMap<&str, u64> =
            GROUPS.iter().map(|(name, _)| (*name, self.most_alive(name))).collect();
        let (taken, dropped) = self.webhooks;
        let Caught { repeated, nothing_new, lost } = self.caught;
        write!(
            f,
            "{} jobs ran once each in {:.0} s, a job waited {median:.1} s (the middle one), {longest:.1} s at most; \
             {}; {taken} webhooks taken, {dropped} by nobody, {} lost before; not done twice: {repeated} repeated \
             and {nothing_new} stale webhooks, {lost} tasks of others; {} machines, at most {most:?} at once; {:?}",
            self.github.jobs.succeeded,
            self.seconds,
            self.disturbances,
            self.github.fault(simulator::FaultKind::WebhookLost),
            self.cloud.total.created,
            self.cloud.faults,
        )
    }
}
