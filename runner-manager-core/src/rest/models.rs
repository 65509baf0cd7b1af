//! GitHub's JSON, as far as we read it. Fields that we do not need are ignored, and words that are new to us
//! do not make an answer unreadable.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::{
    Conclusion, DeliveryId, GitHubGroupId, GitHubRunnerId, JobId, JobObservation, JobReport, LabelError,
    Labels, OpenRun, Repository, RepositoryError, RunId, Scope, Secret, WebhookDelivery,
};
use crate::github::{Hook, HookSpec, JOB_EVENT, RegisteredHook, RegisteredRunner};

/// The body of a request for a JIT config.
#[derive(Debug, Serialize)]
pub(super) struct JitBody<'a> {
    pub(super) name: &'a str,
    pub(super) runner_group_id: GitHubGroupId,
    pub(super) labels: Vec<&'a str>,
}

/// The answer to it. It has no `Debug`: it holds a secret.
#[derive(Deserialize)]
pub(super) struct JitAnswer {
    pub(super) runner: RunnerId,
    pub(super) encoded_jit_config: crate::domain::Secret,
}

#[derive(Deserialize)]
pub(super) struct RunnerId {
    pub(super) id: GitHubRunnerId,
}

/// An entry of a listing: which array it stands in, and by what it is told from others.
pub(super) trait Entry: DeserializeOwned {
    /// The name of the array in the listing's object.
    const ARRAY: &'static str;

    /// GitHub's number.
    fn id(&self) -> u64;
}

#[derive(Debug, Deserialize)]
pub(super) struct Runner {
    id: u64,
    name: String,
    status: String,
    busy: bool,
    #[serde(default)]
    labels: Vec<RunnerLabel>,
}

#[derive(Debug, Deserialize)]
struct RunnerLabel {
    name: String,
}

impl Entry for Runner {
    const ARRAY: &'static str = "runners";

    fn id(&self) -> u64 {
        self.id
    }
}

impl From<Runner> for RegisteredRunner {
    fn from(runner: Runner) -> Self {
        Self {
            id: GitHubRunnerId(runner.id),
            online: runner.status == "online",
            busy: runner.busy,
            labels: Labels::parse(runner.labels.iter().map(|label| &label.name)).unwrap_or_default(),
            name: runner.name,
        }
    }
}

/// A workflow run.
#[derive(Debug, Deserialize)]
pub(super) struct Run {
    pub(super) id: u64,
    pub(super) created_at: Timestamp,
}

impl From<Run> for OpenRun {
    fn from(run: Run) -> Self {
        Self { id: RunId(run.id), created_at: run.created_at }
    }
}

impl Entry for Run {
    const ARRAY: &'static str = "workflow_runs";

    fn id(&self) -> u64 {
        self.id
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct RepositoryEntry {
    id: u64,
    full_name: String,
    #[serde(default)]
    pub(super) archived: bool,
    #[serde(default)]
    pub(super) disabled: bool,
}

impl Entry for RepositoryEntry {
    const ARRAY: &'static str = "repositories";

    fn id(&self) -> u64 {
        self.id
    }
}

impl TryFrom<RepositoryEntry> for Repository {
    type Error = RepositoryError;

    fn try_from(entry: RepositoryEntry) -> Result<Self, RepositoryError> {
        entry.full_name.parse()
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Delivery {
    id: u64,
    guid: String,
    pub(super) delivered_at: Timestamp,
    #[serde(default)]
    status_code: Option<u16>,
    #[serde(default)]
    event: String,
    #[serde(default)]
    redelivery: bool,
}

impl From<Delivery> for WebhookDelivery {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            delivery: DeliveryId::new(delivery.guid),
            at: delivery.delivered_at,
            status: delivery.status_code.unwrap_or(0),
            event: delivery.event,
            is_redelivery: delivery.redelivery,
        }
    }
}

/// An App's installation.
#[derive(Debug, Deserialize)]
pub(crate) struct Installation {
    #[cfg_attr(
        not(feature = "octocrab"),
        expect(dead_code, reason = "only a transport with an App reads it")
    )]
    pub(crate) id: u64,
    #[serde(default)]
    pub(super) permissions: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) suspended_at: Option<Timestamp>,
}

/// A workflow job: the same object in the API's answers and in webhooks.
#[derive(Debug, Deserialize)]
pub(crate) struct Job {
    id: u64,
    run_id: u64,
    #[serde(default = "first_attempt")]
    run_attempt: u32,
    name: String,
    #[serde(default)]
    workflow_name: Option<String>,
    labels: Vec<String>,
    created_at: Timestamp,
    #[serde(default)]
    completed_at: Option<Timestamp>,
    /// What the API says of its progress. A webhook's action counts instead, where there is one.
    pub(crate) status: String,
    #[serde(default)]
    conclusion: Option<Conclusion>,
    #[serde(default)]
    runner_id: Option<u64>,
    #[serde(default)]
    runner_name: Option<String>,
}

const fn first_attempt() -> u32 {
    1
}

/// Why a job that could be read cannot be told in our words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JobError {
    /// No runner of ours can offer such a label.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A word for its progress that this version does not know.
    #[error("a job's progress `{0}` is not known")]
    Progress(String),
}

impl Entry for Job {
    const ARRAY: &'static str = "jobs";

    fn id(&self) -> u64 {
        self.id
    }
}

impl Job {
    /// Puts it into our words. `progress` is a webhook's action or the job's own status.
    ///
    /// Who runs it is believed only once it is in progress: GitHub's own example of a queued job names a
    /// runner. A number 0 and an empty name stand for none.
    pub(crate) fn observe(
        self,
        progress: &str,
        repository: Repository,
        enterprise: Option<String>,
    ) -> Result<JobObservation, JobError> {
        let labels = Labels::parse(&self.labels)?;
        let runner = self.runner_name.filter(|name| !name.is_empty());
        let report = match progress {
            "queued" => JobReport::Queued,
            "waiting" | "pending" | "requested" => JobReport::Waiting,
            "in_progress" => JobReport::InProgress {
                runner: runner.unwrap_or_default(),
                runner_id: self.runner_id.filter(|id| *id != 0).map(GitHubRunnerId),
            },
            "completed" => JobReport::Completed {
                conclusion: self.conclusion.unwrap_or(Conclusion::Other),
                runner,
                ended_at: self.completed_at,
            },
            other => return Err(JobError::Progress(other.to_owned())),
        };
        Ok(JobObservation {
            id: JobId(self.id),
            run: RunId(self.run_id),
            attempt: self.run_attempt,
            repository,
            enterprise,
            public: false,
            name: self.name,
            workflow: self.workflow_name,
            labels,
            created_at: self.created_at,
            report,
        })
    }
}

/// An App, as far as its hook tells of it.
#[derive(Debug, Deserialize)]
pub(super) struct App {
    #[serde(default)]
    pub(super) events: Vec<String>,
}

/// A hook of an organization or a repository.
#[derive(Debug, Deserialize)]
pub(super) struct HookEntry {
    id: u64,
    active: bool,
    events: Vec<String>,
    config: HookConfig,
}

impl HookEntry {
    pub(super) fn registered(self, scope: &Scope) -> RegisteredHook {
        self.config.registered(Hook::Of(scope.clone(), self.id), self.events, self.active)
    }
}

/// How a hook sends.
#[derive(Debug, Deserialize)]
pub(super) struct HookConfig {
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    content_type: Option<String>,
    /// A number, or the same as a text.
    #[serde(default)]
    insecure_ssl: Value,
    /// Never the secret itself.
    #[serde(default)]
    secret: Option<IgnoredAny>,
}

impl HookConfig {
    pub(super) fn registered(self, hook: Hook, events: Vec<String>, is_active: bool) -> RegisteredHook {
        RegisteredHook {
            hook,
            url: self.url.unwrap_or_default(),
            events,
            is_active,
            is_json: self.content_type.as_deref() == Some("json"),
            is_insecure: self.insecure_ssl == 1 || self.insecure_ssl == "1",
            is_signed: self.secret.is_some(),
        }
    }
}

/// The body of a request that makes or changes a hook. It has no `Debug`: it holds a secret.
#[derive(Serialize)]
pub(super) struct HookBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    active: bool,
    events: [&'static str; 1],
    config: HookConfigBody<'a>,
}

impl<'a> HookBody<'a> {
    pub(super) fn of_new(spec: &'a HookSpec) -> Self {
        Self { name: Some("web"), ..Self::of(spec) }
    }

    pub(super) fn of(spec: &'a HookSpec) -> Self {
        Self { name: None, active: true, events: [JOB_EVENT], config: HookConfigBody::of(spec) }
    }
}

/// How a hook is to send. It has no `Debug`: it holds a secret.
#[derive(Serialize)]
pub(super) struct HookConfigBody<'a> {
    url: &'a str,
    content_type: &'static str,
    insecure_ssl: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl<'a> HookConfigBody<'a> {
    pub(super) fn of(spec: &'a HookSpec) -> Self {
        let secret = spec.secret.as_ref().map(Secret::expose);
        Self { url: &spec.url, content_type: "json", insecure_ssl: "0", secret }
    }
}
