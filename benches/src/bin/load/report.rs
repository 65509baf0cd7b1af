//! What is told at the end.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_backends::fake;
use runner_manager_core::domain::{Bounds, RunnerName};
use runner_manager_core::testing::simulator::control::SentWebhook;
use runner_manager_core::testing::simulator::{self, Job};
use runner_manager_server::summary::{Evidence, Life, Quantiles, Summary, first_sent};
use serde::Serialize;

use crate::site::Moment;

/// All that was counted.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) webhooks_only: bool,
    pub(crate) groups: BTreeMap<String, Bounds>,
    /// When the first job was about to be queued.
    pub(crate) began: Timestamp,
    pub(crate) before: Moment,
    pub(crate) after: Moment,
    pub(crate) idle: Option<Idle>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) webhooks: Vec<SentWebhook>,
    pub(crate) cloud: fake::Books,
}

/// What is told. docs/performance.md says what each figure means.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    summary: Summary,
    webhook_ms: Quantiles,
    webhooks_per_s: f64,
    webhook_errors: usize,
    creates_per_s: f64,
    cpu_s: BTreeMap<String, f64>,
    rss_mib: BTreeMap<String, f64>,
    redis_commands_per_job: Option<f64>,
    redis_scripts_per_job: Option<f64>,
    github_calls_per_job: f64,
    machine_calls: BTreeMap<String, u64>,
    idle: Option<Idle>,
    violations: usize,
    faults: Vec<String>,
}

/// What runners cost that only are there.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Idle {
    seconds: f64,
    /// Processor time of each process, in hundredths of one core.
    cpu_percent: BTreeMap<String, f64>,
    redis_commands_per_s: Option<f64>,
    github_reads: u64,
    /// Of the reads, those that cost nothing of GitHub's budget.
    github_reads_unchanged: u64,
    /// Heartbeats, but for what machines tell that have just started.
    machine_calls_per_s: f64,
}

impl Idle {
    /// What was used between two moments.
    pub(crate) fn between(before: &Moment, after: &Moment, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        let share = |used: f64| rounded(used / seconds * 100.0);
        let reads = |moment: &Moment| {
            let reads = moment.github.requests.iter().filter(|(route, _)| route.starts_with("GET "));
            reads.map(|(_, count)| count).sum::<u64>()
        };
        let unchanged = |moment: &Moment| moment.github.unchanged.values().sum::<u64>();
        let calls = |moment: &Moment| moment.calls.values().sum::<u64>();
        let redis = after.redis.zip(before.redis).map(|(after, before)| after.since(before));
        Self {
            seconds: rounded(seconds),
            cpu_percent: cpu(before, after).into_iter().map(|(name, used)| (name, share(used))).collect(),
            redis_commands_per_s: redis.map(|redis| rounded(as_f64(redis.commands) / seconds)),
            github_reads: reads(after) - reads(before),
            github_reads_unchanged: unchanged(after) - unchanged(before),
            machine_calls_per_s: rounded(as_f64(calls(after) - calls(before)) / seconds),
        }
    }
}

impl Report {
    /// Counts.
    pub(crate) fn of(counted: &Counted) -> Self {
        let Counted { groups, before, after, webhooks, cloud, .. } = counted;
        let summary = summary(counted);
        let per_job = |count: u64| rounded(as_f64(count) / as_f64(summary.jobs.queued.max(1)));
        let redis = after.redis.zip(before.redis).map(|(after, before)| after.since(before));
        let calls = |moment: &Moment| moment.github.requests.values().sum::<u64>();
        let of_jobs = || webhooks.iter().filter(|webhook| webhook.job.is_some());
        let mut rss: BTreeMap<String, f64> =
            after.usage.iter().map(|(name, usage)| (name.clone(), rounded(usage.rss_mib))).collect();
        rss.extend(redis.map(|redis| ("redis".to_owned(), rounded(redis.usage.rss_mib))));
        let violations = violations(&after.github, cloud, groups);
        let mut errors = BTreeMap::<Option<u16>, usize>::new();
        for webhook in of_jobs().filter(|webhook| !is_taken(webhook)) {
            *errors.entry(webhook.status).or_default() += 1;
        }
        let mut faults = if counted.webhooks_only { Vec::new() } else { summary.faults() };
        faults.extend(violations.iter().cloned());
        faults.extend(errors.iter().map(|(status, count)| match status {
            Some(status) => format!("{count} webhooks were answered with {status}"),
            None => format!("{count} webhooks were not answered"),
        }));
        Self {
            webhook_ms: Quantiles::of(
                of_jobs().map(|webhook| Duration::from_secs_f64(webhook.seconds)).collect(),
            ),
            webhooks_per_s: webhooks_per_s(webhooks),
            webhook_errors: errors.values().sum(),
            creates_per_s: creates_per_s(cloud, counted.began),
            cpu_s: cpu(before, after).into_iter().map(|(name, used)| (name, rounded(used))).collect(),
            rss_mib: rss,
            redis_commands_per_job: redis.map(|redis| per_job(redis.commands)),
            redis_scripts_per_job: redis.map(|redis| per_job(redis.scripts)),
            github_calls_per_job: per_job(calls(after) - calls(before)),
            machine_calls: after.calls.clone(),
            idle: counted.idle.clone(),
            violations: violations.len(),
            faults,
            summary,
        }
    }

    /// Whether all is as it should be.
    pub(crate) fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

fn summary(counted: &Counted) -> Summary {
    let Counted { groups, began, after, jobs, webhooks, cloud, .. } = counted;
    let sent = first_sent(webhooks);
    let of_group = |job: &Job| {
        let group = job.labels.iter().find(|label| groups.contains_key(*label))?;
        Some((group.clone(), *sent.get(&job.id)?))
    };
    let lives = cloud.lives.iter().map(|life| Life {
        group: life.group.to_string(),
        created_at: life.asked_at,
        gone_at: life.gone_at,
    });
    let last_end = jobs.iter().filter_map(|job| job.completed_at).max().unwrap_or(*began);
    Summary::of(&Evidence {
        github: &after.github,
        announced: &jobs.iter().filter_map(of_group).collect::<Vec<_>>(),
        lives: &lives.collect::<Vec<_>>(),
        groups,
        took: last_end.duration_since(*began).try_into().unwrap_or(Duration::ZERO),
    })
}

/// The promises that were broken, in words.
fn violations(
    github: &simulator::Books,
    cloud: &fake::Books,
    groups: &BTreeMap<String, Bounds>,
) -> Vec<String> {
    let mut broken: Vec<String> =
        github.violations.iter().map(|violation| format!("{violation:?}")).collect();
    let twice = |runners: &BTreeMap<RunnerName, u32>, what: &str| {
        let tell = |(runner, more): (&RunnerName, &u32)| format!("{runner} {what} {} times", more + 1);
        runners.iter().map(tell).collect::<Vec<String>>()
    };
    broken.extend(twice(&cloud.doubles, "was made"));
    broken.extend(twice(&cloud.repeats, "was asked for"));
    for (group, count) in &cloud.groups {
        let max = groups.get(group.as_str()).map_or(0, |bounds| u64::from(bounds.max()));
        if count.max_alive > max {
            broken.push(format!("group {group} had {} instances, and {max} is its max", count.max_alive));
        }
    }
    broken
}

fn is_taken(webhook: &SentWebhook) -> bool {
    webhook.status.is_some_and(|status| (200..300).contains(&status))
}

/// Of the jobs' first webhooks, `queued`: from when the first was sent to when the last was answered.
fn webhooks_per_s(webhooks: &[SentWebhook]) -> f64 {
    let queued =
        || webhooks.iter().filter(|webhook| webhook.action.as_deref() == Some("queued") && is_taken(webhook));
    let answered_at = |webhook: &SentWebhook| webhook.sent_at + Duration::from_secs_f64(webhook.seconds);
    let first = queued().map(|webhook| webhook.sent_at).min();
    per_second(queued().count(), first, queued().map(answered_at).max())
}

/// From the first `create` to the last one, of those since the beginning.
fn creates_per_s(cloud: &fake::Books, began: Timestamp) -> f64 {
    let asked = || cloud.lives.iter().map(|life| life.asked_at).filter(|asked| *asked >= began);
    per_second(asked().count(), asked().min(), asked().max())
}

fn per_second(count: usize, first: Option<Timestamp>, last: Option<Timestamp>) -> f64 {
    let took = first.zip(last).map(|(first, last)| last.duration_since(first).as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    took.filter(|took| *took > 0.0).map_or(0.0, |took| rounded(count as f64 / took))
}

fn cpu(before: &Moment, after: &Moment) -> BTreeMap<String, f64> {
    let of_process = |(name, usage): (&String, &crate::process::Usage)| {
        let used_before = before.usage.get(name).map_or(0.0, |usage| usage.cpu_s);
        (name.clone(), usage.cpu_s - used_before)
    };
    let mut cpu: BTreeMap<String, f64> = after.usage.iter().map(of_process).collect();
    let redis = after.redis.zip(before.redis).map(|(after, before)| after.since(before));
    cpu.extend(redis.map(|redis| ("redis".to_owned(), redis.usage.cpu_s)));
    cpu
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// To two places.
fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { jobs, runners, webhook_to_create_ms, seconds } = &self.summary;
        let of = |figures: &BTreeMap<String, f64>| {
            figures.iter().map(|(name, figure)| format!("{name} {figure}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(
            f,
            "jobs       {} queued, {} completed, {} lost, in {seconds} s",
            jobs.queued, jobs.completed, jobs.lost
        )?;
        writeln!(
            f,
            "runners    {} created, {} deleted, {} left behind, at most {} at once; {} creates a second",
            runners.created, runners.deleted, runners.leaked, runners.max_alive, self.creates_per_s
        )?;
        writeln!(f, "webhooks   {} a second, {}", self.webhooks_per_s, Times(&self.webhook_ms))?;
        writeln!(f, "to create  {}", Times(webhook_to_create_ms))?;
        writeln!(f, "processor  {} (s)", of(&self.cpu_s))?;
        writeln!(f, "memory     {} (MiB at most)", of(&self.rss_mib))?;
        write!(f, "a job      {} calls to GitHub", self.github_calls_per_job)?;
        if let (Some(commands), Some(scripts)) = (self.redis_commands_per_job, self.redis_scripts_per_job) {
            write!(f, ", {commands} commands of Redis, {scripts} of them scripts")?;
        }
        if let Some(idle) = &self.idle {
            let Idle { seconds, github_reads, github_reads_unchanged, .. } = idle;
            write!(f, "\nidle       {} (% of a core) in {seconds} s; ", of(&idle.cpu_percent))?;
            write!(f, "{github_reads} reads of GitHub, {github_reads_unchanged} of them for nothing; ")?;
            write!(f, "{} calls of machines a second", idle.machine_calls_per_s)?;
        }
        if !self.machine_calls.is_empty() {
            let calls = self.machine_calls.iter().map(|(answer, count)| format!("{count} {answer}"));
            write!(f, "\nmachines   {} (calls by answer)", calls.collect::<Vec<_>>().join(", "))?;
        }
        self.faults.iter().try_for_each(|fault| write!(f, "\nFAILED: {fault}"))
    }
}

struct Times<'a>(&'a Quantiles);

impl Display for Times<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Quantiles { p50, p99, max } = self.0;
        write!(f, "{p50} ms for half of them, {p99} ms for 99 %, {max} ms at most")
    }
}
