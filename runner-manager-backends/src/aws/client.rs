//! The aws backend: an instance is an EC2 instance, known by its tags.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_ec2::types::{Instance as Told, Tag};
use jiff::Timestamp;
use runner_manager_core::backend::{
    Activity, Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec, Throttle,
};
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{
    Instance, InstanceId, InstanceState, Owner, Placement, RunnerName, Secret, later,
};

use super::account::Account;
use super::config::{PlacementConfig, Settings};
use super::connection::Connection;
use super::errors::{Effect, Failure};
use super::images::Images;
use super::instance::{instance, is_terminated, marks};
use super::reading::{self, Looks, filter};
use super::{check, request};
use crate::bootstrap;
use crate::settings::RateConfig;

/// How long an instance that an answer has named may be unknown to a look: EC2 is consistent in the end.
/// <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>
const LAG: Duration = Duration::from_secs(30);

/// How long EC2 tells of an instance that has been terminated, and more: about an hour.
const TOLD_FOR: Duration = Duration::from_hours(3);

/// The longest value of a tag, in characters.
const MOST_OF_A_VALUE: usize = 256;

/// The backend of kind `aws`.
#[derive(Debug)]
pub struct AwsBackend {
    connection: Connection,
    clock: Arc<dyn Clock>,
    account: Account,
    create_rate: RateConfig,
    delete_rate: RateConfig,
    images: Images,
    by_id: Looks,
    by_name: Looks,
    page_size: u16,
    settle: Duration,
    removed: Removed,
}

impl AwsBackend {
    pub(super) fn new(connection: Connection, settings: &Settings, clock: Arc<dyn Clock>) -> Self {
        let looks = |filter| Looks::new(connection.ec2.clone(), clock.clone(), filter, settings.page_size);
        Self {
            by_id: looks("instance-id"),
            by_name: looks("tag:runner-manager-runner"),
            account: Account::new(clock.clone()),
            create_rate: settings.create_rate,
            delete_rate: settings.delete_rate,
            images: Images::default(),
            page_size: settings.page_size,
            settle: settings.settle,
            removed: Removed::default(),
            connection,
            clock,
        }
    }

    /// What is told of an instance. One that was removed here is gone, whatever EC2 ended it for before.
    fn told(&self, told: &Told) -> Option<Instance> {
        let mut instance = instance(told)?;
        if is_terminated(told) && self.removed.has(&instance.id) {
            instance.state = InstanceState::Gone;
        }
        Some(instance)
    }

    async fn listed(&self, owner: &Owner) -> Result<Vec<Instance>, Failure> {
        let filters = vec![
            filter(&format!("tag:{}", Owner::DEPLOYMENT_TAG), [owner.deployment.as_str()]),
            filter(&format!("tag:{}", Owner::FINGERPRINT_TAG), [owner.fingerprint.as_str()]),
        ];
        let all = reading::all(&self.connection.ec2, filters, self.page_size).await?;
        let own = all.iter().filter(|told| marks(told).is_some_and(|marks| marks.owner == *owner));
        let mut instances = Vec::new();
        for told in own {
            if let Some(mut instance) = instance(told) {
                // Its reason is for who looks at it by itself; here it would be taken for something to remove.
                if is_terminated(told) {
                    instance.state = InstanceState::Gone;
                }
                instances.push(instance);
            }
        }
        Ok(instances)
    }

    /// The error of a create. Images that may be wrong are looked up again.
    fn refuse(&self, spec: &InstanceSpec, effect: Effect, failure: &Failure) -> BackendError {
        let error = failure.to_error("create", effect, format!("instance {}", spec.runner));
        if matches!(error.kind, BackendErrorKind::NotFound | BackendErrorKind::InvalidConfig) {
            self.images.forget();
        }
        error
    }
}

/// The instances that were removed here. EC2 goes on telling why it ended one.
#[derive(Debug, Default)]
struct Removed(Mutex<BTreeMap<InstanceId, Timestamp>>);

impl Removed {
    fn note(&self, id: &InstanceId, now: Timestamp) {
        let mut removed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        removed.retain(|_, at| later(*at, TOLD_FOR) > now);
        removed.insert(id.clone(), now);
    }

    fn has(&self, id: &InstanceId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }
}

fn config(operation: &'static str, placement: &Placement) -> Result<PlacementConfig, BackendError> {
    PlacementConfig::read(&placement.settings).map_err(|faults| super::refused(operation, &faults))
}

/// Of several instances of one name, the one that is told of: one that lives before one that does not, and the first of
/// those.
fn foremost(instances: impl Iterator<Item = Instance>) -> Option<Instance> {
    let rank = |instance: &Instance| match instance.state {
        InstanceState::Pending | InstanceState::Running => 0,
        InstanceState::Stopped | InstanceState::Failed(..) => 1,
        InstanceState::Gone => 2,
    };
    instances.min_by_key(|instance| (rank(instance), instance.created_at, instance.id.clone()))
}

#[async_trait]
impl Backend for AwsBackend {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let config = config("create", &spec.placement)?;
        let definite = |failure: Failure| self.refuse(spec, Effect::None, &failure);
        let user_data = request::user_data(spec, &config)?;
        let ami = self.images.of(&self.connection, &self.clock, &config).await.map_err(definite)?;
        let request = request::run(spec, &config, ami.as_ref(), user_data).map_err(definite)?;
        let answer = request.send_with(&self.connection.ec2).await;
        let made = answer.map_err(|error| self.refuse(spec, Effect::Some, &error.into()))?;
        made.instances().iter().find_map(instance).ok_or_else(|| {
            let detail = format!("instance {}: EC2 accepted it, and does not tell of it", spec.runner);
            BackendError::new(BackendErrorKind::Unclear, "create", detail)
        })
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        let answer = self.connection.ec2.terminate_instances().instance_ids(id.as_str()).send().await;
        match answer.map_err(Failure::from) {
            Err(failure) if !failure.code().starts_with("InvalidInstanceID") => {
                Err(failure.to_error("delete", Effect::None, format!("instance {id}")))
            }
            _ => {
                self.removed.note(id, self.clock.now());
                Ok(())
            }
        }
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        let looked = self.by_id.look(id.as_str()).await;
        let told =
            looked.map_err(|failure| failure.to_error("get", Effect::None, format!("instance {id}")))?;
        let own = told.iter().find(|told| told.instance_id() == Some(id.as_str()));
        Ok(own.and_then(|told| self.told(told)))
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        let looked = self.by_name.look(name.as_str()).await;
        let told =
            looked.map_err(|failure| failure.to_error("find", Effect::None, format!("instance {name}")))?;
        Ok(foremost(
            told.iter().filter_map(|told| self.told(told)).filter(|instance| instance.runner == *name),
        ))
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        self.listed(owner).await.map_err(|failure| failure.to_error("list", Effect::None, "instances"))
    }

    /// Names are not unique for certain: EC2 knows a client token for a while only, and compares it with the whole
    /// request.
    fn capabilities(&self) -> Capabilities {
        Capabilities { unique_names: false, settle: self.settle, lag: LAG, update: true, callback: true }
    }

    async fn throttle(&self) -> Throttle {
        Throttle {
            account: self.account.word(&self.connection).await,
            creates: Some(self.create_rate.into()),
            deletes: Some(self.delete_rate.into()),
        }
    }

    fn start_script(&self, spec: &InstanceSpec) -> Result<Secret, BackendError> {
        bootstrap::script(config("start_script", &spec.placement)?.scripts(), spec)
    }

    async fn update(&self, id: &InstanceId, activity: &Activity) -> Result<(), BackendError> {
        let job = activity.job.as_ref().map(ToString::to_string).unwrap_or_default();
        let job: String = job.chars().take(MOST_OF_A_VALUE).collect();
        let items = [("runner-manager-phase", activity.phase.to_string()), ("runner-manager-job", job)];
        let tags = items.map(|(key, value)| Tag::builder().key(key).value(value).build());
        let request = self.connection.ec2.create_tags().resources(id.as_str()).set_tags(Some(tags.into()));
        let written = request.send().await.map(drop).map_err(Failure::from);
        written.map_err(|failure| failure.to_error("update", Effect::Some, format!("instance {id}")))
    }

    async fn validate(&self, placement: &Placement) -> Result<Vec<String>, BackendError> {
        let config = config("validate", placement)?;
        self.images.forget();
        let missing = Box::pin(check::missing(&self.connection, &self.images, &self.clock, &config)).await;
        missing.map_err(|failure| failure.to_error("validate", Effect::None, "placement"))
    }

    async fn remarks(&self, placement: &Placement, max: u32) -> Result<Vec<String>, BackendError> {
        let config = config("remarks", placement)?;
        let remarks = check::remarks(&self.connection, &config, max).await;
        remarks.map_err(|failure| failure.to_error("remarks", Effect::None, "placement"))
    }
}
