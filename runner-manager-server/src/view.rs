//! What `/api/v1` tells: the answers' types, made from the records.
//!
//! The dashboard shows these same types and the client commands read them, so that people, scripts and pages
//! see one thing. No type in here has a place for a secret. New fields may come; none goes or changes its
//! meaning within `v1`.

mod hooks;
mod loss;
mod reasons;
mod sweeps;

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use runner_manager_core::domain::{self, CreateStep, JobState, RetireStep, RunnerState};
use runner_manager_core::manager::{DeploymentStatus, GroupStatus, JobStatus, Manager, ReplicaStatus};
use runner_manager_core::policy::doubt::Progress;
use runner_manager_core::policy::github_groups::remarks;
use runner_manager_core::policy::placement::Health;
use runner_manager_core::queue::{LaneStatistics, QueueStatistics};
use runner_manager_core::store::{Draining, GroupCounts, StoreError};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub(crate) use self::hooks::Hook;
pub(crate) use self::loss::Loss;
pub(crate) use self::reasons::{FailedRunner, Failure, LastError, Told};
pub(crate) use self::sweeps::{GoOn, Sweeps, Withheld};

/// How a moment is described in the API's schema.
pub(crate) struct Time;

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Listing_of_{T}")]
pub(crate) struct Listing<T> {
    /// The entries.
    pub(crate) items: Vec<T>,
    /// What to send as `after` to get the next page; null on the last one.
    pub(crate) next: Option<String>,
}

/// A runner group.
#[expect(clippy::struct_field_names, reason = "`github_group` is the word of the configuration")]
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Group {
    /// Its name.
    pub(crate) name: String,
    /// Where its runners register, such as `organization:acme`.
    pub(crate) scope: String,
    /// The connection to GitHub that works on it.
    #[serde(default)]
    pub(crate) github: String,
    /// GitHub's group that they register into.
    pub(crate) github_group: String,
    /// What people should know of that group, in sentences: that it is missing, why it is not as configured, what
    /// was last changed about it.
    #[serde(default)]
    pub(crate) github_group_remarks: Vec<String>,
    /// All labels that its runners offer, the implied ones included.
    pub(crate) labels: Vec<String>,
    /// How many runners are kept beyond what waiting jobs need.
    pub(crate) min_idle: u32,
    /// How many runners there may be, in whatever state.
    pub(crate) max: u32,
    /// How many runners there are, in whatever state.
    pub(crate) alive: u32,
    /// How many jobs wait, and how many runners are in each state.
    pub(crate) counts: GroupCounts,
    /// Why the group makes no new runners: `operator`, or `removed` from the configuration; null where it
    /// makes them.
    pub(crate) draining: Option<Draining>,
    /// Why no runner can be made now although some may be wanted, in words; null where one can.
    pub(crate) blocked: Option<String>,
    /// Where its instances are created, in the order in which the places are tried.
    pub(crate) placements: Vec<Placement>,
}

/// One place where instances of a group are created.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Placement {
    /// The backend.
    pub(crate) backend: String,
    /// What sets it apart from the others.
    pub(crate) description: String,
    /// How it fares; null where it fares well.
    pub(crate) trouble: Option<Trouble>,
}

/// How something that failed fares.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Trouble {
    /// Failures in a row.
    pub(crate) failures: u32,
    /// What was said last.
    pub(crate) detail: String,
    /// When that was.
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
    /// Not tried before this time.
    #[schemars(with = "Time")]
    pub(crate) retry_at: Timestamp,
}

/// A runner.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Runner {
    /// Its name, at GitHub and at the backend.
    pub(crate) name: String,
    /// The group that it was made for.
    pub(crate) group: String,
    /// Where it registers.
    pub(crate) scope: String,
    /// The backend that it lives on.
    pub(crate) backend: String,
    /// Its instance, once the backend named it.
    pub(crate) instance: Option<String>,
    /// GitHub's number of its registration, once there is one.
    pub(crate) registration: Option<u64>,
    /// `requested`, `creating`, `booting`, `idle`, `busy` or `retiring`.
    pub(crate) state: domain::Phase,
    /// What goes on in that state, in words; empty where the state says all.
    pub(crate) detail: String,
    /// Whether it is being taken away for longer than its group's `retire_timeout`.
    pub(crate) overdue: bool,
    /// The job that it runs, where we know it.
    pub(crate) job: Option<u64>,
    /// When its slot was reserved.
    #[schemars(with = "Time")]
    pub(crate) requested_at: Timestamp,
    /// When its present state began.
    #[schemars(with = "Time")]
    pub(crate) since: Timestamp,
    /// When it was first known to be online at GitHub.
    #[schemars(with = "Option<Time>")]
    pub(crate) online_at: Option<Timestamp>,
    /// What last went wrong with what is done for it; null once it came up after that.
    #[serde(default)]
    pub(crate) last_error: Option<Failure>,
    /// What its machine said and was given, in order; empty where machines say nothing.
    #[serde(default)]
    pub(crate) timeline: Vec<Told>,
}

/// A runner that is gone.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct EndedRunner {
    /// Its name.
    pub(crate) name: String,
    /// The group that it was made for.
    pub(crate) group: String,
    /// The backend that it lived on.
    pub(crate) backend: String,
    /// When its slot was reserved.
    #[schemars(with = "Time")]
    pub(crate) requested_at: Timestamp,
    /// When its slot became free.
    #[schemars(with = "Time")]
    pub(crate) ended_at: Timestamp,
    /// Why it was taken away, in words.
    pub(crate) why: String,
    /// What last went wrong with what was done for it, where it did not come up after that.
    #[serde(default)]
    pub(crate) last_error: Option<Failure>,
    /// What its machine said and was given, in order; empty where machines say nothing.
    #[serde(default)]
    pub(crate) timeline: Vec<Told>,
}

/// A workflow job.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Job {
    /// GitHub's number.
    pub(crate) id: u64,
    /// The run that it is part of.
    pub(crate) run: u64,
    /// Which attempt of that run, from 1.
    pub(crate) attempt: u32,
    /// The repository.
    pub(crate) repository: String,
    /// The job's name. Whoever may open a pull request chooses it.
    pub(crate) name: String,
    /// The workflow's name.
    pub(crate) workflow: Option<String>,
    /// What it asks for.
    pub(crate) labels: Vec<String>,
    /// `waiting`, `queued`, `in_progress` or `completed`.
    pub(crate) state: String,
    /// Why it still waits, in words; null where it does not.
    pub(crate) waits: Option<String>,
    /// What last went wrong for its group while it waits, whether or not that is what it waits for now.
    #[serde(default)]
    pub(crate) last_error: Option<LastError>,
    /// The runners of its group that failed while it waited, the newest first: told of one job, not in lists.
    #[serde(default)]
    pub(crate) failed_runners: Vec<FailedRunner>,
    /// The group that it counts for while it is queued.
    pub(crate) group: Option<String>,
    /// The runner that has or had it, ours or not.
    pub(crate) runner: Option<String>,
    /// How it ended, such as `success`.
    pub(crate) conclusion: Option<domain::Conclusion>,
    /// That it lost the machine under it, where it did: it did not fail by itself.
    #[serde(default)]
    pub(crate) lost: Option<Loss>,
    /// When GitHub made it.
    #[schemars(with = "Time")]
    pub(crate) created_at: Timestamp,
    /// When we first heard of it.
    #[schemars(with = "Time")]
    pub(crate) recorded_at: Timestamp,
    /// When its present state began, as far as we know.
    #[schemars(with = "Time")]
    pub(crate) since: Timestamp,
}

/// The queue of background work.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Queue {
    /// Its lanes by their names: `control`, `sweeps`, and `backend:NAME` for each backend.
    pub(crate) lanes: BTreeMap<String, Lane>,
    /// Tasks that were given up.
    pub(crate) dead: u64,
}

/// A lane of the queue.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Lane {
    /// Tasks that are due.
    pub(crate) due: u64,
    /// Tasks that wait for their time.
    pub(crate) delayed: u64,
    /// Tasks that are being worked on.
    pub(crate) claimed: u64,
    /// When the oldest task that is due became due.
    #[schemars(with = "Option<Time>")]
    pub(crate) oldest_due: Option<Timestamp>,
}

/// What the replicas share.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Deployment {
    /// The replica that answers.
    pub(crate) replica: String,
    /// Which groups are configured: a fingerprint; null before anything was.
    pub(crate) configuration: Option<String>,
    /// How often a configuration was applied.
    pub(crate) revision: u64,
    /// Whether the replica that answers has another configuration than the deployment.
    pub(crate) config_drift: bool,
    /// Whether the store's word is relied on.
    pub(crate) store_trusted: bool,
    /// How far the listings have come where it is not; null where it is.
    pub(crate) doubt: Option<Doubt>,
    /// The replicas that were heard of in the last minutes.
    pub(crate) replicas: Vec<Replica>,
    /// The sweeps, where they left something.
    pub(crate) sweeps: Sweeps,
    /// Where hooks are looked for that lead here, to have failed webhooks delivered again.
    #[serde(default)]
    pub(crate) hooks: Vec<Hook>,
}

/// How everything is, at a glance.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Status {
    /// When this was so, by the clock of the replica that answers.
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
    /// What people should know, in sentences; empty where all is as usual.
    pub(crate) remarks: Vec<String>,
    /// What the replicas share.
    pub(crate) deployment: Deployment,
    /// All groups, by name.
    pub(crate) groups: Vec<Group>,
    /// The queue of background work.
    pub(crate) queue: Queue,
}

/// What became of an operator's wish that a runner goes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Retired {
    /// The runner's name.
    pub(crate) runner: String,
    /// `leaving`: it goes once GitHub has said twice that it runs no job; `retiring`: it is being taken away;
    /// `gone`: nothing is left of it.
    pub(crate) outcome: String,
    /// The same in words.
    pub(crate) detail: String,
}

impl Status {
    /// How everything is that a manager looks after.
    pub(crate) async fn of(manager: &Manager, at: Timestamp) -> Result<Self, StoreError> {
        let deployment = Deployment::from(manager.deployment().await?);
        Ok(Self {
            at,
            remarks: deployment.remarks(),
            deployment,
            groups: manager.groups().await?.iter().map(Group::from).collect(),
            queue: manager.queue_statistics().await?.into(),
        })
    }
}

/// The store was started anew: nothing is made or taken away on its word until all outside was listed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Doubt {
    /// When that was found.
    #[schemars(with = "Time")]
    pub(crate) since: Timestamp,
    /// How many listings were taken in.
    pub(crate) taken_in: usize,
    /// How many are needed.
    pub(crate) required: usize,
    /// What has yet to be listed, in words.
    pub(crate) missing: Vec<String>,
}

/// A replica: one manager process.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Replica {
    /// Its name: another one with every start.
    pub(crate) id: String,
    /// The fingerprint of the groups in its own file.
    pub(crate) configuration: String,
    /// Whether these are not the deployment's.
    pub(crate) config_drift: bool,
    /// When it last said that it runs.
    #[schemars(with = "Time")]
    pub(crate) seen_at: Timestamp,
    /// Whether that is so lately that it is taken to run.
    pub(crate) lives: bool,
    /// The backends that it can reach.
    pub(crate) backends: Vec<String>,
}

/// How many findings of a sweep are named where they are not asked for.
const SOME_FINDINGS: usize = 5;

impl From<DeploymentStatus> for Deployment {
    fn from(status: DeploymentStatus) -> Self {
        let sweeps = Sweeps::new(&status, SOME_FINDINGS);
        let replica = |replica: ReplicaStatus| Replica {
            id: replica.id.to_string(),
            configuration: replica.configuration.to_string(),
            config_drift: replica.config_drift,
            seen_at: replica.seen_at,
            lives: replica.lives,
            backends: replica.backends.iter().map(ToString::to_string).collect(),
        };
        let doubt = |progress: Progress| Doubt {
            since: progress.since,
            taken_in: progress.taken_in(),
            required: progress.required,
            missing: progress.missing.iter().map(ToString::to_string).collect(),
        };
        Self {
            replica: status.replica.to_string(),
            configuration: status.configuration.map(|digest| digest.to_string()),
            revision: status.revision,
            config_drift: status.config_drift,
            store_trusted: status.trusted,
            doubt: status.doubt.map(doubt),
            replicas: status.replicas.into_iter().map(replica).collect(),
            hooks: status.hooks.into_iter().map(Hook::from).collect(),
            sweeps,
        }
    }
}

impl Deployment {
    /// What people should know about it, though all goes on.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let untrusted = (!self.store_trusted).then(|| {
            let progress = self.doubt.as_ref().map_or_else(String::new, |doubt| {
                let Doubt { since, taken_in, required, .. } = doubt;
                format!(": {taken_in} of {required} listings taken in since {since:.0}")
            });
            format!("the store was started anew, nothing is made or taken away on its word{progress}")
        });
        let drift = self.config_drift.then(|| {
            "configuration drift: the groups of this replica's file are not the deployment's".to_owned()
        });
        let drifting =
            |replica: &&Replica| replica.lives && replica.config_drift && replica.id != self.replica;
        let others = self.replicas.iter().filter(drifting).count();
        let others =
            (others > 0).then(|| format!("configuration drift: {others} other replicas have other groups"));
        let hooks = self.hooks.iter().filter_map(|hook| {
            let trouble = hook.trouble.as_ref()?;
            Some(format!("webhooks that fail are not redelivered, {}: {trouble}", hook.place))
        });
        let sweeps = self.sweeps.remarks();
        [untrusted, drift, others].into_iter().flatten().chain(hooks).chain(sweeps).collect()
    }
}

impl From<&GroupStatus> for Group {
    fn from(status: &GroupStatus) -> Self {
        let (spec, finding) = (&status.record.spec, status.record.github.as_deref());
        let placement = |placement: &domain::Placement| Placement {
            backend: placement.backend.to_string(),
            description: placement.description.clone(),
            trouble: status.record.placements.get(&placement.key).map(Trouble::new),
        };
        Self {
            name: spec.name.to_string(),
            scope: spec.scope.to_string(),
            github: spec.github.to_string(),
            github_group: spec.github_group.name.clone(),
            github_group_remarks: finding
                .map(|finding| remarks(&spec.github_group, &spec.scope, finding))
                .unwrap_or_default(),
            labels: spec.offered_labels().iter().map(ToString::to_string).collect(),
            min_idle: spec.bounds.min_idle(),
            max: spec.bounds.max(),
            alive: status.counts.alive(),
            counts: status.counts,
            draining: status.record.draining,
            blocked: blocked(status),
            placements: spec.placements.iter().map(placement).collect(),
        }
    }
}

/// Why a group can make no runner, whatever is asked for.
fn blocked(status: &GroupStatus) -> Option<String> {
    let max = status.record.spec.bounds.max();
    if status.counts.alive() >= max {
        return Some(format!("at its max of {max}"));
    }
    let until = status.blocked_until?;
    Some(match &status.record.registration {
        Some(health) => {
            let github = status.record.spec.github.of_github();
            format!("registering at {github} fails: {}; next try at {until:.0}", health.last.detail)
        }
        None => format!("no placement can be tried before {until:.0}"),
    })
}

impl Trouble {
    fn new(health: &Health) -> Self {
        Self {
            failures: health.failures,
            detail: health.last.detail.clone(),
            at: health.last.at,
            retry_at: health.retry_at,
        }
    }
}

impl Runner {
    /// What is shown of each of these runners.
    pub(crate) async fn all(
        manager: &Manager,
        runners: impl Iterator<Item = &domain::Runner>,
    ) -> Result<Vec<Self>, StoreError> {
        let mut shown = Vec::new();
        for runner in runners {
            shown.push(Self::new(runner, manager.is_overdue(runner).await?));
        }
        Ok(shown)
    }

    fn new(runner: &domain::Runner, overdue: bool) -> Self {
        let stuck = if overdue { "stuck: " } else { "" };
        Self {
            name: runner.name.to_string(),
            group: runner.group.to_string(),
            scope: runner.scope.to_string(),
            backend: runner.backend.to_string(),
            instance: runner.instance.as_ref().map(ToString::to_string),
            registration: runner.registration.map(|id| id.0),
            state: runner.phase(),
            detail: format!("{stuck}{}", detail(&runner.state)),
            overdue,
            job: match &runner.state {
                RunnerState::Busy { job } => job.as_ref().map(|job| job.id.0),
                _ => None,
            },
            requested_at: runner.requested_at,
            since: runner.since,
            online_at: runner.online_at,
            last_error: runner.trouble.as_ref().map(Failure::from),
            timeline: Told::all(&runner.machine.timeline),
        }
    }
}

impl Runner {
    /// What goes on and what last went wrong, in words; empty where its state says all.
    pub(crate) fn note(&self) -> String {
        let parts = [
            (!self.detail.is_empty()).then(|| self.detail.clone()),
            self.last_error.as_ref().map(Failure::sentence),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

fn detail(state: &RunnerState) -> String {
    match state {
        RunnerState::Requested | RunnerState::Booting | RunnerState::Idle { leaving: None } => String::new(),
        RunnerState::Creating { create: CreateStep::Registering } => "being registered at GitHub".to_owned(),
        RunnerState::Creating { create: CreateStep::Asked { unclear_since: None, .. } } => {
            "the backend is being asked".to_owned()
        }
        RunnerState::Creating { create: CreateStep::Asked { unclear_since: Some(_), .. } } => {
            "the backend's answer was lost: its instance is being looked for".to_owned()
        }
        RunnerState::Idle { leaving: Some(leaving) } => format!("to go: {}", leaving.reason),
        RunnerState::Busy { job: Some(job) } => format!("job {job}"),
        RunnerState::Busy { job: None } => "a job that we have yet to hear of".to_owned(),
        RunnerState::Retiring { why, retire } => format!("{why}; {}", step(retire)),
    }
}

const fn step(step: &RetireStep) -> &'static str {
    match step {
        RetireStep::Deregister => "being taken out of GitHub",
        RetireStep::Grace { .. } => "kept a moment for a job assigned at the last one",
        RetireStep::Delete => "its instance is being deleted",
        RetireStep::Confirm => "waiting until its instance is gone",
        RetireStep::Suspect { .. } => "found without a record: looked at once more",
    }
}

impl From<&JobStatus> for Job {
    fn from(status: &JobStatus) -> Self {
        let job = &status.job;
        let (state, runner, since) = match &job.state {
            JobState::Waiting => ("waiting", None, job.recorded_at),
            JobState::Queued { .. } => ("queued", None, job.recorded_at),
            JobState::Presumed { runner, since } => ("in_progress", Some(runner.to_string()), *since),
            JobState::InProgress { runner, since } => ("in_progress", Some(runner.clone()), *since),
            JobState::Completed { runner, at, .. } => ("completed", runner.clone(), *at),
        };
        Self {
            id: job.id.0,
            run: job.run.0,
            attempt: job.attempt,
            repository: job.repository.to_string(),
            name: job.name.clone(),
            workflow: job.workflow.clone(),
            labels: job.labels.iter().map(ToString::to_string).collect(),
            state: state.to_owned(),
            waits: status.reason.as_ref().map(ToString::to_string),
            last_error: status.last_error.as_ref().map(LastError::from),
            failed_runners: Vec::new(),
            group: job.demand().map(ToString::to_string),
            runner,
            conclusion: match &job.state {
                JobState::Completed { conclusion, .. } => Some(*conclusion),
                _ => None,
            },
            lost: job.lost.as_deref().map(Loss::from),
            created_at: job.created_at,
            recorded_at: job.recorded_at,
            since,
        }
    }
}

impl From<QueueStatistics> for Queue {
    fn from(queue: QueueStatistics) -> Self {
        let lane = |lane: LaneStatistics| {
            let LaneStatistics { lane, due, delayed, claimed, oldest_due } = lane;
            (lane.as_str().to_owned(), Lane { due, delayed, claimed, oldest_due })
        };
        Self { lanes: queue.lanes.into_iter().map(lane).collect(), dead: queue.dead }
    }
}
