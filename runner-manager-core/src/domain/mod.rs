//! The words of Runner Manager: plain data, valid by construction.
//!
//! A value that exists is right: names have been checked, bounds are in order, labels compare without
//! case, secrets do not print. Each type converts with serde in both directions and refuses on the way in
//! what its constructor refuses. Nothing in here decides anything: that is [`policy`](crate::policy).

mod deployment;
mod github_group;
mod group;
mod hook;
mod ids;
mod instance;
mod job;
mod label;
mod loss;
mod machine;
mod names;
mod owner;
mod runner;
mod scope;
mod secret;
mod sweep;
mod text;
mod time;
mod token;
mod webhook;

pub use deployment::{Deployment, Doubt, Replica, Source, SourceError};
pub use github_group::{
    FoundGroup, GitHubGroup, GroupAccess, GroupFinding, GroupRules, GroupVisibility, Mended, RegisteredGroup,
};
pub use group::{Arch, Balance, Bounds, BoundsError, Limits, Os, Placement, PlacementKey, RunnerGroup};
pub use hook::{FailedDelivery, FoundHook, HookPlace, HookRecord, Redelivery};
pub use ids::{
    DeliveryId, Digest, GitHubGroupId, GitHubRunnerId, Incarnation, InstanceId, JobId, OperationId,
    ReplicaId, RunId,
};
pub use instance::{Instance, InstanceFailure, InstanceState};
pub use job::{
    Conclusion, JobMoment, JobObservation, JobRef, JobReport, JobSignal, JobState, OpenRun, OpenRuns,
    WorkflowJob,
};
pub use label::{Label, LabelError, Labels};
pub use loss::{Loss, Rerun};
pub use machine::{Boot, Machine, Mint, Told};
pub use names::{BackendName, ConnectionName, DeploymentName, GroupName, NameError, RunnerName};
pub use owner::{Fingerprint, Owner, OwnerTags};
pub use runner::{
    CreateStep, EndedRunner, Failure, Leaving, Phase, RetireReason, RetireStep, Runner, RunnerState,
};
pub use scope::{Repository, RepositoryError, Scope};
pub use secret::Secret;
pub use sweep::{Finding, GoOn, Withheld, WithheldBecause};
pub use text::bounded;
pub use time::later;
pub use token::TokenKey;
pub use webhook::{JOB_EVENT, WebhookDelivery};
