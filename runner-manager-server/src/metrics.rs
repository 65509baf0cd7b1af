//! `/metrics`: counters of this process and gauges of what is on record, in the text format of `OpenMetrics`.
//!
//! No metric bears the name of a job, a runner or a repository: their number has no bound.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use runner_manager_core::domain::{Phase, WithheldBecause};
use runner_manager_core::github::Budget;
use runner_manager_core::manager::{DeploymentStatus, GroupStatus, StatisticsSnapshot};
use runner_manager_core::queue::QueueStatistics;

use crate::http::AppState;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// From a millisecond to GitHub's patience of 10 s.
const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

type Labels = Vec<(&'static str, String)>;
type Labelled<M> = Family<Labels, M>;

/// What this process counts itself; the rest is read when it is asked for.
#[derive(Debug)]
pub(crate) struct Metrics {
    webhooks: Labelled<Counter>,
    webhook_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { webhooks: Family::default(), webhook_seconds: Histogram::new(SECONDS) }
    }
}

impl Metrics {
    /// Counts a webhook that was answered with a status after so many seconds.
    pub(crate) fn webhook(&self, status: StatusCode, seconds: f64) {
        self.webhooks.get_or_create(&labels([("status", status.as_str().to_owned())])).inc();
        self.webhook_seconds.observe(seconds);
    }
}

/// What a scrape tells, read at one moment.
#[derive(Debug)]
struct Reading {
    deployment: DeploymentStatus,
    groups: Vec<GroupStatus>,
    queue: QueueStatistics,
    statistics: StatisticsSnapshot,
    budgets: BTreeMap<(String, String), Budget>,
    now: Timestamp,
}

/// `GET /metrics`.
pub(crate) async fn scrape(State(state): State<AppState>) -> Response {
    let reading = match read(&state).await {
        Ok(reading) => reading,
        Err(refusal) => return refusal.into_response(),
    };
    let mut text = String::new();
    match encode(&mut text, &registry(state.metrics(), &reading)) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(std::fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn read(state: &AppState) -> Result<Reading, crate::http::Refusal> {
    let groups = state.manager().groups().await?;
    Ok(Reading {
        budgets: state.manager().github_budgets().await?,
        deployment: state.manager().deployment().await?,
        groups,
        queue: state.manager().queue_statistics().await?,
        statistics: state.manager().statistics().snapshot(),
        now: state.clock().now(),
    })
}

fn registry(metrics: &Metrics, reading: &Reading) -> Registry {
    let mut registry = Registry::with_prefix("runner_manager");
    let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The program that answers", version);
    registry.register(
        "webhooks",
        "Webhooks by the status that they were answered with",
        metrics.webhooks.clone(),
    );
    let help = "How long webhooks took to be answered";
    registry.register_with_unit("webhook", help, Unit::Seconds, metrics.webhook_seconds.clone());
    counters(&mut registry, &reading.statistics);
    deployment(&mut registry, &reading.deployment);
    groups(&mut registry, &reading.groups);
    queue(&mut registry, &reading.queue, reading.now);
    budgets(&mut registry, &reading.budgets);
    registry
}

fn counters(registry: &mut Registry, statistics: &StatisticsSnapshot) {
    let by = |name: &'static str, counts: &BTreeMap<&'static str, u64>| {
        count(counts.iter().map(|(word, count)| (vec![(name, (*word).to_owned())], *count)))
    };
    let observations = by("outcome", &statistics.observations);
    registry.register("observations", "What webhooks said of jobs, by what became of it", observations);
    let signals = by("outcome", &statistics.signals);
    registry.register("signals", "What machines said of their jobs, by what became of it", signals);
    let tasks = statistics.tasks.iter().map(|((kind, outcome), count)| {
        (labels([("kind", (*kind).to_owned()), ("outcome", (*outcome).to_owned())]), *count)
    });
    registry.register("tasks", "Background tasks by kind and outcome", count(tasks));
    registry.register("creates", "Create calls to backends by outcome", by("outcome", &statistics.creates));
    let help = "GitHub's runner groups that were not as configured, by what came of it";
    registry.register("github_groups", help, by("outcome", &statistics.github_groups));
    let help = "Webhooks that failed and were asked for again, by GitHub's answer and by what came of it";
    registry.register("redeliveries", help, by("outcome", &statistics.redeliveries));
    let stopped = statistics.sweeps_held.iter().map(|(of, count)| (labels([("of", of.clone())]), *count));
    let help = "Sweeps that stopped because they would have condemned too much";
    registry.register("sweeps_held", help, count(stopped));
    let single = |value| count([(Vec::new(), value)]);
    registry.register("runners_ended", "Runners whose slot was freed", single(statistics.ended));
    registry.register("jobs_lost", "Jobs whose machine was lost under them", single(statistics.jobs_lost));
    let help = "Re-runs of jobs that lost their machine, by what came of it";
    registry.register("job_reruns", help, by("outcome", &statistics.job_reruns));
    registry.register(
        "runners_adopted",
        "Instances found without a record and adopted",
        single(statistics.adopted),
    );
}

fn deployment(registry: &mut Registry, deployment: &DeploymentStatus) {
    let single = |value: f64| gauge([(Vec::new(), value)]);
    let flag = |set: bool| single(f64::from(u8::from(set)));
    let help =
        "1 where the store's word is relied on, 0 while all outside is listed after it was started anew";
    registry.register("store_trusted", help, flag(deployment.trusted));
    let help = "1 where the groups of this replica's file are not the deployment's";
    registry.register("config_drift", help, flag(deployment.config_drift));
    let help = "How often a configuration of groups was applied";
    registry.register("config_revision", help, single(number(deployment.revision)));
    let help = "1 where the sweeps of this replica only say what they would do";
    registry.register("sweep_dry_run", help, flag(deployment.sweep_dry_run));
    let left = deployment.withheld.iter().map(|withheld| {
        let because = match withheld.because {
            WithheldBecause::TooMuch => "too_much",
            WithheldBecause::DryRun => "dry_run",
        };
        let labels = labels([("of", withheld.source.word()), ("because", because.to_owned())]);
        (labels, number(withheld.count as u64))
    });
    let help = "What the last sweeps found and left as it is: they stopped, or only say what they would do";
    registry.register("sweep_withheld", help, gauge(left));
    let living = deployment.replicas.iter().filter(|replica| replica.lives).count();
    registry.register("replicas", "Replicas that run", single(number(living as u64)));
}

fn groups(registry: &mut Registry, groups: &[GroupStatus]) {
    let name = |group: &GroupStatus| ("group", group.record.spec.name.to_string());
    let of = |value: fn(&GroupStatus) -> u32| {
        gauge(groups.iter().map(|group| (labels([name(group)]), f64::from(value(group)))))
    };
    let runners = groups.iter().flat_map(|group| {
        Phase::ALL.map(|phase| {
            let labels = labels([name(group), ("state", phase.to_string())]);
            (labels, f64::from(group.counts.of(phase)))
        })
    });
    registry.register("runners", "Runners by group and state", gauge(runners));
    registry.register(
        "jobs_queued",
        "Jobs that wait and count for the group",
        of(|group| group.counts.queued),
    );
    registry.register(
        "runners_max",
        "How many runners the group may have",
        of(|group| group.record.spec.bounds.max()),
    );
    registry.register(
        "runners_min_idle",
        "How many runners the group keeps idle",
        of(|group| group.record.spec.bounds.min_idle()),
    );
    let help = "1 where the group can make no runners because all its placements are set back";
    registry.register("group_blocked", help, of(|group| u32::from(group.blocked_until.is_some())));
    let help = "1 where the group makes no new runners because it drains";
    registry.register("group_draining", help, of(|group| u32::from(group.record.draining.is_some())));
}

fn queue(registry: &mut Registry, queue: &QueueStatistics, now: Timestamp) {
    let mut tasks = Vec::new();
    let mut oldest = Vec::new();
    for lane in &queue.lanes {
        let name = ("lane", lane.lane.as_str().to_owned());
        for (state, count) in [("due", lane.due), ("delayed", lane.delayed), ("claimed", lane.claimed)] {
            tasks.push((labels([name.clone(), ("state", state.to_owned())]), number(count)));
        }
        let age = lane.oldest_due.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0));
        oldest.push((labels([name]), age));
    }
    registry.register("queue_tasks", "Tasks in the queue by lane and state", gauge(tasks));
    let help = "How long the oldest due task of the lane has been due";
    registry.register_with_unit("queue_oldest", help, Unit::Seconds, gauge(oldest));
    registry.register("queue_dead", "Tasks that were given up", gauge([(Vec::new(), number(queue.dead))]));
}

fn budgets(registry: &mut Registry, budgets: &BTreeMap<(String, String), Budget>) {
    let of = |value: fn(&Budget) -> u64| {
        gauge(budgets.iter().map(|((connection, account), budget)| {
            let labels = labels([("connection", connection.clone()), ("account", account.clone())]);
            (labels, number(value(budget)))
        }))
    };
    let help = "Calls that GitHub allows in a period";
    registry.register("github_budget_limit", help, of(|budget| budget.limit));
    let help = "Calls that are left of GitHub's period";
    registry.register("github_budget_remaining", help, of(|budget| budget.remaining));
}

fn labels<const N: usize>(labels: [(&'static str, String); N]) -> Labels {
    labels.into()
}

fn count(counts: impl IntoIterator<Item = (Labels, u64)>) -> Labelled<Counter> {
    let family = Labelled::<Counter>::default();
    for (labels, value) in counts {
        family.get_or_create(&labels).inc_by(value);
    }
    family
}

fn gauge(values: impl IntoIterator<Item = (Labels, f64)>) -> Labelled<Gauge<f64, AtomicU64>> {
    let family = Labelled::<Gauge<f64, AtomicU64>>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    family
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^52 do not come up")]
const fn number(count: u64) -> f64 {
    count as f64
}
