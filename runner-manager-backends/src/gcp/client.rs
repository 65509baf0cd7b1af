//! The gcp backend: an instance is a VM instance of Compute Engine, known by its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use google_cloud_compute_v1::model::{
    Instance as Told, InstanceAggregatedList, InstancesScopedList, InstancesSetLabelsRequest, Operation,
};
use http::Method;
use jiff::Timestamp;
use runner_manager_core::backend::{
    Activity, Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec,
};
use runner_manager_core::domain::{
    Instance, InstanceId, InstanceState, Owner, Placement, RunnerName, Secret, later,
};
use serde::Serialize;

use super::config::{PlacementConfig, Settings};
use super::connection::Connection;
use super::errors::{Effect, Failure};
use super::instance::{Place, instance, is_spot, marks, to_be};
use super::operations::{Followed, end_of, follow};
use super::{check, labels, names, request};
use crate::bootstrap;

/// The most pages of one list.
const MOST_PAGES: usize = 1000;

/// How many instances are remembered, for what is told of those that vanish.
const MOST_KNOWN: usize = 20_000;

/// How long an instance that an answer has named may be unknown to a look: until its operation is under way.
const LAG: Duration = Duration::from_secs(30);

/// The share of a call's time in which a new instance's operation is followed: what is left is for a look at it.
const FOR_ITS_OPERATION: f64 = 0.8;

/// The backend of kind `gcp`.
#[derive(Debug)]
pub struct GcpBackend {
    connection: Connection,
    page_size: String,
    settle: Duration,
    known: Known,
}

impl GcpBackend {
    pub(super) fn new(connection: Connection, settings: &Settings) -> Self {
        Self {
            connection,
            page_size: settings.page_size.to_string(),
            settle: settings.settle,
            known: Known::default(),
        }
    }

    fn path(&self, zone: &str, instance: impl std::fmt::Display) -> String {
        self.connection.in_zone(zone, &format!("instances/{instance}"))
    }

    /// An instance by its name or number; `None` where it does not exist.
    async fn look(&self, zone: &str, instance: impl std::fmt::Display) -> Result<Option<Told>, Failure> {
        match self.connection.get(&self.path(zone, instance), &[]).await {
            Ok(told) => Ok(Some(told)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All instances that pass a filter, of all zones.
    async fn all(&self, filter: &str) -> Result<Vec<Told>, Failure> {
        let path = format!("projects/{}/aggregated/instances", self.connection.project);
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        let mut token = String::new();
        for _ in 0..MOST_PAGES {
            let mut query = vec![("filter", filter), ("maxResults", &self.page_size)];
            if !token.is_empty() {
                query.push(("pageToken", &token));
            }
            let page: InstanceAggregatedList = self.connection.get(&path, &query).await?;
            if let Some(zone) = page.unreachables.first() {
                return Err(Failure::Partial(format!("{zone} cannot be reached")));
            }
            for (zone, scoped) in page.items {
                complete(&zone, &scoped)?;
                // A page may repeat what the one before it had.
                found.extend(scoped.instances.into_iter().filter(|told| seen.insert(told.id)));
            }
            token = page.next_page_token.unwrap_or_default();
            if token.is_empty() {
                return Ok(found);
            }
        }
        Err(Failure::Partial(format!("it has more than {MOST_PAGES} pages")))
    }

    /// What came of an accepted request for an instance.
    async fn accepted(
        &self,
        spec: &InstanceSpec,
        zone: &str,
        operation: Operation,
        until: Timestamp,
    ) -> Result<Instance, BackendError> {
        let what = format!("instance {}", spec.runner);
        let unclear =
            |why: &str| BackendError::new(BackendErrorKind::Unclear, "create", format!("{what}: {why}"));
        let Some(expected) = to_be(spec, zone, &operation) else {
            return Err(unclear("Compute accepted it, and does not tell of it"));
        };
        let number = operation.target_id.unwrap_or_default();
        let followed = follow(&self.connection, zone, operation, until).await;
        let there = self.look(zone, number).await;
        match (followed, there) {
            (Followed::Done | Followed::Running, Ok(Some(told))) => instance(&told)
                .ok_or_else(|| unclear("it does not bear the labels that it was asked for with")),
            (Followed::Running, _) | (Followed::Done, Err(_)) => Ok(expected),
            (Followed::Done, Ok(None)) => Err(unclear("it was made, and is not there")),
            (Followed::Failed(failure), Ok(None)) => Err(failure.to_error("create", Effect::Some, what)),
            (Followed::Failed(failure), Ok(Some(_)) | Err(_)) => {
                Err(unclear(&format!("{failure}, and it may be there")))
            }
        }
    }

    /// What bears the name of a runner already: its own instance, or somebody else's.
    async fn taken(&self, spec: &InstanceSpec, zone: &str) -> Result<Instance, BackendError> {
        let what = format!("instance {}", spec.runner);
        let told = self.look(zone, &spec.runner).await;
        let told = told.map_err(|failure| {
            BackendError::new(
                BackendErrorKind::Unclear,
                "create",
                format!("{what}: the name is taken: {failure}"),
            )
        })?;
        let Some(told) = told else {
            let detail = format!("{what}: the name was taken a moment ago");
            return Err(BackendError::new(BackendErrorKind::Unclear, "create", detail));
        };
        let own = marks(&told).is_some_and(|marks| marks.owner == spec.owner && marks.runner == spec.runner);
        own.then(|| instance(&told)).flatten().ok_or_else(|| {
            let detail = format!("{what}: the name is taken in {zone} by an instance that is not ours");
            BackendError::new(BackendErrorKind::Unexpected, "create", detail)
        })
    }

    /// What the operations on an instance say of its end. Where they cannot be asked that is no reason not to tell that it
    /// is gone.
    async fn end_of(&self, place: &Place) -> Option<InstanceState> {
        match end_of(&self.connection, &place.zone, place.number).await {
            Ok(end) => end,
            Err(failure) => {
                tracing::debug!(zone = place.zone, number = place.number, %failure, "nobody says how it ended");
                None
            }
        }
    }

    async fn change<T: Serialize + Sync>(&self, path: &str, body: &T) -> Result<Operation, Failure> {
        let body = serde_json::to_string(body).map_err(|error| Failure::Unfit(error.to_string()))?;
        self.connection.call(Method::POST, path, &[], Some(body), self.connection.timeout).await
    }

    async fn label(&self, place: &Place, activity: &Activity) -> Result<(), Failure> {
        let Some(told) = self.look(&place.zone, place.number).await? else { return Ok(()) };
        let job = activity.job.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut all: BTreeMap<String, String> = told.labels.into_iter().collect();
        all.insert("runner-manager-phase".to_owned(), labels::cut(&activity.phase.to_string()));
        all.insert("runner-manager-job".to_owned(), labels::cut(&job));
        if all.len() > labels::MOST {
            return Ok(());
        }
        // The fingerprint says which labels these take the place of: what somebody else changed meanwhile is not lost.
        let request = InstancesSetLabelsRequest::new()
            .set_labels(all)
            .set_or_clear_label_fingerprint(told.label_fingerprint);
        let path = self.path(&place.zone, format!("{}/setLabels", place.number));
        self.change(&path, &request).await.map(drop)
    }
}

/// The instances that were seen here and not removed: of one that vanishes, Compute tells neither runner nor group.
#[derive(Debug, Default)]
struct Known(Mutex<BTreeMap<InstanceId, Instance>>);

impl Known {
    fn all(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Instance>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, instance: &Instance) {
        let mut all = self.all();
        if all.len() >= MOST_KNOWN {
            all.pop_first();
        }
        all.insert(instance.id.clone(), instance.clone());
    }

    fn forget(&self, id: &InstanceId) {
        self.all().remove(id);
    }

    fn of(&self, id: &InstanceId) -> Option<Instance> {
        self.all().get(id).cloned()
    }
}

fn config(operation: &'static str, placement: &Placement) -> Result<PlacementConfig, BackendError> {
    PlacementConfig::read(&placement.settings).map_err(|faults| super::refused(operation, &faults))
}

/// A zone may say that it could not be looked at, in a list that succeeded.
fn complete(zone: &str, scoped: &InstancesScopedList) -> Result<(), Failure> {
    let code = scoped.warning.as_ref().and_then(|warning| warning.code.as_ref());
    match code.and_then(|code| code.name()) {
        None | Some("NO_RESULTS_ON_PAGE") => Ok(()),
        Some(word) => Err(Failure::Partial(format!("{zone}: {word}"))),
    }
}

/// Of several instances of one name, the one that is told of: one that lives before one that does not, and the first of
/// those.
fn foremost(instances: impl Iterator<Item = Instance>) -> Option<Instance> {
    let has_ended = |state: &InstanceState| !matches!(state, InstanceState::Pending | InstanceState::Running);
    instances.min_by_key(|instance| (has_ended(&instance.state), instance.created_at, instance.id.clone()))
}

#[async_trait]
impl Backend for GcpBackend {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let config = config("create", &spec.placement)?;
        let connection = &self.connection;
        let began = connection.clock.now();
        let definite = |why| BackendError::new(BackendErrorKind::InvalidConfig, "create", why);
        let script = request::script(spec, &config)?;
        let marked = request::marked(spec).map_err(definite)?;
        let body = request::instance(spec, &config, connection, &marked, &script);
        let body = serde_json::to_string(&body).map_err(|error| definite(error.to_string()))?;
        let id = request::request_id(spec, &connection.project, config.zone());
        let mut query = vec![("requestId", id.as_str())];
        let template = config.instance_template.as_deref();
        let template = template.map(|template| names::template(&connection.project, template));
        query.extend(template.as_deref().map(|template| ("sourceInstanceTemplate", template)));
        let path = connection.in_zone(config.zone(), "instances");
        let asked = connection.call(Method::POST, &path, &query, Some(body), connection.timeout).await;
        let asked = asked.map_err(|failure| failure.without(&request::beginnings(spec, &script)));
        let made = match asked {
            Ok(operation) => {
                let until = later(began, connection.timeout.mul_f64(FOR_ITS_OPERATION));
                self.accepted(spec, config.zone(), operation, until).await
            }
            Err(failure) if failure.says("ALREADY_EXISTS") => self.taken(spec, config.zone()).await,
            Err(failure) => {
                Err(failure.to_error("create", Effect::Some, format!("instance {}", spec.runner)))
            }
        }?;
        self.known.note(&made);
        Ok(made)
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        let Some(place) = Place::read(id) else { return Ok(()) };
        let connection = &self.connection;
        let path = self.path(&place.zone, place.number);
        let asked = connection.call(Method::DELETE, &path, &[], None, connection.timeout).await;
        let accepted = match asked {
            Ok(operation) => Failure::of(&operation).map_or(Ok(()), Err),
            Err(failure) if failure.is_not_found() => Ok(()),
            // Something else is being done with it: where that is its end, there is nothing more to ask for.
            Err(failure) if failure.says("RESOURCE_NOT_READY") => {
                match self.look(&place.zone, place.number).await {
                    Ok(None) => Ok(()),
                    Ok(Some(told))
                        if instance(&told).is_some_and(|told| told.state == InstanceState::Stopped) =>
                    {
                        Ok(())
                    }
                    _ => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        };
        accepted.map_err(|failure| failure.to_error("delete", Effect::None, format!("instance {id}")))?;
        self.known.forget(id);
        Ok(())
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        let Some(place) = Place::read(id) else { return Ok(None) };
        let error = |failure: Failure| failure.to_error("get", Effect::None, format!("instance {id}"));
        let told = self.look(&place.zone, place.number).await.map_err(error)?;
        let Some(told) = told else {
            let Some(known) = self.known.of(id) else { return Ok(None) };
            let end = self.end_of(&place).await;
            return Ok(end.map(|state| Instance { state, ..known }));
        };
        let Some(mut instance) = instance(&told) else { return Ok(None) };
        match instance.state {
            InstanceState::Pending | InstanceState::Running => self.known.note(&instance),
            InstanceState::Stopped if is_spot(&told) => {
                if let Some(end @ InstanceState::Failed(..)) = self.end_of(&place).await {
                    instance.state = end;
                }
            }
            _ => {}
        }
        Ok(Some(instance))
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        let all = self.all(&format!("name = {name}")).await;
        let all =
            all.map_err(|failure| failure.to_error("find", Effect::None, format!("instance {name}")))?;
        Ok(foremost(all.iter().filter_map(instance).filter(|instance| instance.runner == *name)))
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let (deployment, fingerprint) = (owner.deployment.as_str(), owner.fingerprint.as_str());
        let filter = format!(
            "(labels.{} = {deployment}) (labels.{} = {fingerprint})",
            Owner::DEPLOYMENT_TAG,
            Owner::FINGERPRINT_TAG
        );
        let all = self.all(&filter).await;
        let all = all.map_err(|failure| failure.to_error("list", Effect::None, "instances"))?;
        let own = all.iter().filter(|told| marks(told).is_some_and(|marks| marks.owner == *owner));
        Ok(own.filter_map(instance).collect())
    }

    /// Compute refuses a second instance of one name in a zone, and a runner has one placement, which is in one zone.
    fn capabilities(&self) -> Capabilities {
        Capabilities { unique_names: true, settle: self.settle, lag: LAG, update: true, callback: true }
    }

    fn start_script(&self, spec: &InstanceSpec) -> Result<Secret, BackendError> {
        bootstrap::script(config("start_script", &spec.placement)?.scripts(), spec)
    }

    async fn update(&self, id: &InstanceId, activity: &Activity) -> Result<(), BackendError> {
        let Some(place) = Place::read(id) else { return Ok(()) };
        let written = self.label(&place, activity).await;
        written.map_err(|failure| failure.to_error("update", Effect::Some, format!("instance {id}")))
    }

    async fn validate(&self, placement: &Placement) -> Result<Vec<String>, BackendError> {
        let config = config("validate", placement)?;
        let missing = Box::pin(check::missing(&self.connection, &config)).await;
        missing.map_err(|failure| failure.to_error("validate", Effect::None, "placement"))
    }
}
