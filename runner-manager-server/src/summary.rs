//! What came of a demo, or of a load, by the simulator's and the backend's own books. The manager is not asked:
//! it is what is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::domain::Bounds;
use runner_manager_core::testing::simulator::control::SentWebhook;
use runner_manager_core::testing::simulator::{Books, JobId};
use serde::Serialize;

/// The life of one instance, as its backend saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The runner group that is written on it.
    pub group: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was gone.
    pub gone_at: Option<Timestamp>,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// GitHub's books.
    pub github: &'a Books,
    /// For each job its group, and when its `queued` was first sent.
    pub announced: &'a [(String, Timestamp)],
    /// The backend's books.
    pub lives: &'a [Life],
    /// How many runners the groups keep: `min_idle` were there before the first job, and stay behind the last.
    pub groups: &'a BTreeMap<String, Bounds>,
    /// How long it all took.
    pub took: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The jobs.
    pub jobs: JobSummary,
    /// The runners.
    pub runners: RunnerSummary,
    /// How long after the webhook of a job its runner's instance was asked for. Jobs and runners are not tied to each
    /// other, so webhooks and instances of a group are matched in their order: the first instance beyond `min_idle`
    /// with the first webhook. Where the group was at `max` when the webhook came, the time counts
    /// from when an instance was gone: before that, none may be made.
    pub webhook_to_create_ms: Quantiles,
    /// How long it all took.
    pub seconds: f64,
}

/// Jobs, by GitHub's books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobSummary {
    /// All that ever were.
    pub queued: u64,
    /// Ended by the runner that began them.
    pub completed: u64,
    /// Begun, and not ended by their runner.
    pub lost: u64,
}

/// Instances, by the backend's books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunnerSummary {
    /// Asked for.
    pub created: usize,
    /// Gone.
    pub deleted: usize,
    /// Still there at the end, as an instance or as a registration, beyond the idle ones that groups keep.
    pub leaked: usize,
    /// The most at one moment.
    pub max_alive: usize,
    /// By group.
    pub groups: BTreeMap<String, GroupSummary>,
}

/// The instances of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupSummary {
    /// Asked for.
    pub created: usize,
    /// The most at one moment.
    pub max_alive: usize,
    /// What was allowed.
    pub max: u32,
}

/// Of a number of times, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half of them are no longer.
    pub p50: f64,
    /// 99 of 100 are no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// When the `queued` of each job was first sent.
pub fn first_sent(webhooks: &[SentWebhook]) -> BTreeMap<JobId, Timestamp> {
    let mut first = BTreeMap::new();
    for webhook in webhooks.iter().filter(|webhook| webhook.action.as_deref() == Some("queued")) {
        let Some(job) = webhook.job else { continue };
        let at = first.entry(job).or_insert(webhook.sent_at);
        *at = webhook.sent_at.min(*at);
    }
    first
}

impl Summary {
    /// Counts.
    pub fn of(evidence: &Evidence<'_>) -> Self {
        let Evidence { github, lives, .. } = evidence;
        let deleted = lives.iter().filter(|life| life.gone_at.is_some()).count();
        let registered = usize::try_from(github.runners.alive).unwrap_or(usize::MAX);
        let kept: usize = evidence.groups.values().map(|bounds| bounds.min_idle() as usize).sum();
        let groups = evidence.groups.iter();
        let groups = groups.map(|(name, bounds)| (name.clone(), group(lives, name, bounds.max())));
        Self {
            jobs: JobSummary {
                queued: github.jobs.total,
                completed: github.jobs.succeeded,
                lost: github.jobs.lost,
            },
            runners: RunnerSummary {
                created: lives.len(),
                deleted,
                leaked: (lives.len() - deleted).max(registered).saturating_sub(kept),
                max_alive: most_at_once(lives.iter()),
                groups: groups.collect(),
            },
            webhook_to_create_ms: Quantiles::of(delays(evidence)),
            seconds: milliseconds(evidence.took).round() / 1000.0,
        }
    }

    /// Whether all is as it should be.
    pub fn is_good(&self) -> bool {
        self.faults().is_empty()
    }

    /// What is not as it should be, in words.
    pub fn faults(&self) -> Vec<String> {
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
    let of_group = |(name, bounds): (&String, &Bounds)| {
        let kept = bounds.min_idle() as usize;
        let sorted = |mut times: Vec<Timestamp>| {
            times.sort_unstable();
            times
        };
        let own = || evidence.lives.iter().filter(|life| life.group == *name);
        let webhooks = evidence.announced.iter().filter(|(group, _)| group == name);
        let webhooks = sorted(webhooks.map(|(_, at)| *at).collect());
        let created = sorted(own().map(|life| life.created_at).collect());
        let gone = sorted(own().filter_map(|life| life.gone_at).collect());
        let room = std::iter::repeat_n(Timestamp::MIN, bounds.max() as usize - kept).chain(gone);
        webhooks
            .into_iter()
            .zip(room)
            .zip(created.into_iter().skip(kept))
            .map(|((webhook, room), created)| {
                created.duration_since(webhook.max(room)).try_into().unwrap_or(Duration::ZERO)
            })
            .collect::<Vec<Duration>>()
    };
    evidence.groups.iter().flat_map(of_group).collect()
}

impl Quantiles {
    /// Sorts and counts; of none they are 0.
    pub fn of(mut times: Vec<Duration>) -> Self {
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
    use runner_manager_core::domain::Bounds;
    use runner_manager_core::testing::simulator::Books;

    use super::{Evidence, Life, Quantiles, Summary};

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(millisecond).unwrap()
    }

    fn life(created_at: i64, gone_at: Option<i64>) -> Life {
        Life { group: "small".to_owned(), created_at: at(created_at), gone_at: gone_at.map(at) }
    }

    fn summary(lives: &[Life], max: u32, webhooks: &[i64]) -> Summary {
        summary_with(lives, Bounds::new(0, max).unwrap(), webhooks)
    }

    fn summary_with(lives: &[Life], bounds: Bounds, webhooks: &[i64]) -> Summary {
        let mut github = Books::default();
        github.jobs.total = webhooks.len() as u64;
        github.jobs.succeeded = github.jobs.total;
        let announced: Vec<_> = webhooks.iter().map(|time| ("small".to_owned(), at(*time))).collect();
        Summary::of(&Evidence {
            github: &github,
            announced: &announced,
            lives,
            groups: &BTreeMap::from([("small".to_owned(), bounds)]),
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
    fn runners_that_a_group_keeps_are_no_answer_to_a_webhook_and_not_left_behind() {
        let lives = [life(-900, Some(30)), life(-800, None), life(14, Some(90)), life(96, None)];
        let told = summary_with(&lives, Bounds::new(2, 3).unwrap(), &[10, 20]);
        // The second webhook waits for the first of the kept ones to be gone.
        assert_eq!(told.webhook_to_create_ms, Quantiles { p50: 4.0, p99: 66.0, max: 66.0 });
        assert_eq!(told.runners.leaked, 0);
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
