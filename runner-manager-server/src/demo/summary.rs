//! What came of a demo, by the simulator's and the backend's own books. The manager is not asked: it is what
//! is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::testing::simulator::{Books, JobId};
use serde::Serialize;

/// The life of one instance, as its backend saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Life {
    /// The runner group that is written on it.
    pub(super) group: String,
    /// When it was asked for.
    pub(super) created_at: Timestamp,
    /// When it was gone.
    pub(super) gone_at: Option<Timestamp>,
}

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    /// GitHub's books.
    pub(super) github: &'a Books,
    /// For each job its group, and when its `queued` was sent.
    pub(super) announced: &'a BTreeMap<JobId, (&'static str, Timestamp)>,
    /// The backend's books.
    pub(super) lives: &'a [Life],
    /// The groups' `max`.
    pub(super) max: &'a BTreeMap<String, u32>,
    /// How long it all took.
    pub(super) took: Duration,
}

/// What came of a demo.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) jobs: JobSummary,
    pub(super) runners: RunnerSummary,
    /// How long after the webhook of a job its runner's instance was asked for. Webhooks and instances of a
    /// group are matched in their order. Where the group was at `max` when the webhook came, the time counts
    /// from when an instance was gone: before that, none may be made.
    pub(super) webhook_to_create_ms: Quantiles,
    pub(super) seconds: f64,
}

/// Jobs, by GitHub's books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct JobSummary {
    pub(super) queued: u64,
    /// Ended by the runner that began them.
    pub(super) completed: u64,
    /// Begun, and not ended by their runner.
    pub(super) lost: u64,
}

/// Instances, by the backend's books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct RunnerSummary {
    pub(super) created: usize,
    pub(super) deleted: usize,
    /// Still there at the end, as an instance or as a registration.
    pub(super) leaked: usize,
    /// The most at one moment.
    pub(super) max_alive: usize,
    pub(super) groups: BTreeMap<String, GroupSummary>,
}

/// The instances of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct GroupSummary {
    pub(super) created: usize,
    pub(super) max_alive: usize,
    /// What was allowed.
    pub(super) max: u32,
}

/// Of a number of times, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Summary {
    /// Counts.
    pub(super) fn of(evidence: &Evidence<'_>) -> Self {
        let Evidence { github, lives, .. } = evidence;
        let deleted = lives.iter().filter(|life| life.gone_at.is_some()).count();
        let registered = usize::try_from(github.runners.alive).unwrap_or(usize::MAX);
        let groups = evidence.max.iter().map(|(name, max)| (name.clone(), group(lives, name, *max)));
        Self {
            jobs: JobSummary {
                queued: github.jobs.total,
                completed: github.jobs.succeeded,
                lost: github.jobs.lost,
            },
            runners: RunnerSummary {
                created: lives.len(),
                deleted,
                leaked: (lives.len() - deleted).max(registered),
                max_alive: most_at_once(lives.iter()),
                groups: groups.collect(),
            },
            webhook_to_create_ms: Quantiles::of(delays(evidence)),
            seconds: milliseconds(evidence.took).round() / 1000.0,
        }
    }

    /// Whether all is as it should be.
    pub(super) fn is_good(&self) -> bool {
        self.faults().is_empty()
    }

    /// What is not as it should be, in words.
    pub(super) fn faults(&self) -> Vec<String> {
        let Self { jobs, runners, .. } = self;
        let mut faults = Vec::new();
        if jobs.completed < jobs.queued {
            faults.push(format!("{} of {} jobs did not complete", jobs.queued - jobs.completed, jobs.queued));
        }
        if jobs.lost > 0 {
            faults.push(format!("{} jobs were lost", jobs.lost));
        }
        if runners.leaked > 0 {
            faults.push(format!("{} runners were left behind", runners.leaked));
        }
        let above = runners.groups.iter().filter(|(_, group)| group.max_alive > group.max as usize);
        faults.extend(above.map(|(name, group)| {
            format!("group {name} had {} instances, and {} is its max", group.max_alive, group.max)
        }));
        faults
    }
}

fn group(lives: &[Life], name: &str, max: u32) -> GroupSummary {
    let own = || lives.iter().filter(|life| life.group == name);
    GroupSummary { created: own().count(), max_alive: most_at_once(own()), max }
}

/// The most lives at one moment. One that ends when another begins is counted as gone by then.
fn most_at_once<'a>(lives: impl Iterator<Item = &'a Life>) -> usize {
    let changes = lives.flat_map(|life| {
        let gone = life.gone_at.map(|at| (at, false));
        [Some((life.created_at, true)), gone].into_iter().flatten()
    });
    // `false` sorts before `true`: gone first.
    let mut changes: Vec<(Timestamp, bool)> = changes.collect();
    changes.sort_unstable();
    let (mut alive, mut most) = (0_usize, 0);
    for (_, begins) in changes {
        alive = if begins { alive + 1 } else { alive.saturating_sub(1) };
        most = most.max(alive);
    }
    most
}

fn delays(evidence: &Evidence<'_>) -> Vec<Duration> {
    let of_group = |(name, max): (&String, &u32)| {
        let sorted = |mut times: Vec<Timestamp>| {
            times.sort_unstable();
            times
        };
        let own = || evidence.lives.iter().filter(|life| life.group == *name);
        let webhooks = evidence.announced.values().filter(|(group, _)| group == name);
        let webhooks = sorted(webhooks.map(|(_, at)| *at).collect());
        let created = sorted(own().map(|life| life.created_at).collect());
        let gone = sorted(own().filter_map(|life| life.gone_at).collect());
        let room = std::iter::repeat_n(Timestamp::MIN, *max as usize).chain(gone);
        webhooks
            .into_iter()
            .zip(room)
            .zip(created)
            .map(|((webhook, room), created)| {
                created.duration_since(webhook.max(room)).try_into().unwrap_or(Duration::ZERO)
            })
            .collect::<Vec<Duration>>()
    };
    evidence.max.iter().flat_map(of_group).collect()
}

impl Quantiles {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |hundredths: usize| {
            let rank = (times.len() * hundredths).div_ceil(100).max(1) - 1;
            times.get(rank).copied().map_or(0.0, milliseconds)
        };
        Self { p50: at(50), p99: at(99), max: at(100) }
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use jiff::Timestamp;
    use runner_manager_core::testing::simulator::{Books, JobId};

    use super::{Evidence, Life, Quantiles, Summary};

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(millisecond).unwrap()
    }

    fn life(created_at: i64, gone_at: Option<i64>) -> Life {
        Life { group: "small".to_owned(), created_at: at(created_at), gone_at: gone_at.map(at) }
    }

    fn summary(lives: &[Life], max: u32, webhooks: &[i64]) -> Summary {
        let mut github = Books::default();
        github.jobs.total = webhooks.len() as u64;
        github.jobs.succeeded = github.jobs.total;
        let announced = (0..).zip(webhooks).map(|(id, time)| (JobId(id), ("small", at(*time)))).collect();
        Summary::of(&Evidence {
            github: &github,
            announced: &announced,
            lives,
            max: &BTreeMap::from([("small".to_owned(), max)]),
            took: Duration::from_secs(1),
        })
    }

    #[test]
    fn a_place_that_is_free_at_once_counts_from_the_webhook() {
        let told = summary(&[life(5, Some(100)), life(8, Some(110))], 2, &[0, 2]);
        assert_eq!(told.webhook_to_create_ms, Quantiles { p50: 5.0, p99: 6.0, max: 6.0 });
        assert_eq!((told.runners.max_alive, told.runners.leaked), (2, 0));
        assert!(told.is_good(), "{:?}", told.faults());
    }

    #[test]
    fn a_group_at_max_counts_from_the_place_that_came_free() {
        let told = summary(&[life(5, Some(100)), life(103, Some(200))], 1, &[0, 2]);
        assert_eq!(told.webhook_to_create_ms, Quantiles { p50: 3.0, p99: 5.0, max: 5.0 });
        assert_eq!(told.runners.max_alive, 1);
    }

    #[test]
    fn every_fault_is_told() {
        let mut told = summary(&[life(5, None), life(6, Some(9))], 1, &[0, 0]);
        told.jobs.completed -= 1;
        told.jobs.lost += 1;
        let faults = told.faults();
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert_eq!(told.runners.groups["small"].max_alive, 2);
    }

    #[test]
    fn nothing_at_all_has_no_times() {
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
    }
}
