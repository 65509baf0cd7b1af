//! The openstack backend: an instance is a server, whose name is the runner's.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager_core::backend::{
    Activity, Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec,
};
use runner_manager_core::domain::{
    Instance, InstanceId, InstanceState, Owner, OwnerTags, Placement, RunnerName, Secret,
};
use serde_json::json;

use super::config::{PlacementConfig, Settings};
use super::errors::{Effect, Failure};
use super::names::{self, Names};
use super::server::{Reference, Server};
use super::session::Session;
use super::{api, leftovers, request};
use crate::bootstrap;

/// How often a new server is looked at until Nova tells of it, and the pause in between.
const LOOKS: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How long what one of Nova's processes wrote may be unknown to another: they may read from copies of the database.
const LAG: Duration = Duration::from_secs(10);

/// How old a port, a floating IP or a volume without a server is at least when it is told of: longer than a create takes
/// from its port to its server.
const LEFTOVER_AGE: Duration = Duration::from_mins(5);

/// The longest value of an item of metadata.
const MOST_OF_A_VALUE: usize = 255;

/// The backend of kind `openstack`.
#[derive(Debug)]
pub struct OpenStackBackend {
    session: Session,
    names: Names,
    settle: Duration,
    delete_timeout: Duration,
}

impl OpenStackBackend {
    pub(super) fn new(session: Session, settings: &Settings) -> Self {
        Self {
            session,
            names: Names::default(),
            settle: settings.settle,
            delete_timeout: settings.delete_timeout,
        }
    }

    /// Asks for a server: its id. Changes nothing where it fails with anything but `Unclear`, but for an address that
    /// could not be taken back, which a later list tells of.
    async fn ask(&self, spec: &InstanceSpec, config: &PlacementConfig) -> Result<String, BackendError> {
        let definite = |failure: Failure| self.refuse(spec, Effect::None, failure);
        // What cannot be told to a server is found out before anything is asked for.
        let user_data = request::user_data(spec, config)?;
        let session = &self.session;
        let microversion = session.microversion().await.map_err(definite)?;
        let mut place = self.names.place(session, config).await.map_err(definite)?;
        let address = leftovers::prepare_address(session, &self.names, config, &place, spec);
        place.port = address.await.map_err(definite)?;
        let asked = match request::server(spec, config, &place, &user_data, microversion) {
            Ok(body) => api::create_server(session, body).await,
            Err(failure) => Err(failure),
        };
        match asked {
            Ok(id) => Ok(id),
            Err(failure) => {
                let error = self.refuse(spec, Effect::Some, failure);
                if error.kind != BackendErrorKind::Unclear {
                    self.take_back(spec, config).await;
                }
                Err(error)
            }
        }
    }

    /// The error of a create. Ids that may be wrong are looked up again.
    fn refuse(&self, spec: &InstanceSpec, effect: Effect, failure: Failure) -> BackendError {
        let error = failure.into_error("create", effect, format!("server {}", spec.runner));
        if matches!(error.kind, BackendErrorKind::NotFound | BackendErrorKind::InvalidConfig) {
            self.names.forget();
        }
        error
    }

    /// Removes what was made for a server that is not.
    async fn take_back(&self, spec: &InstanceSpec, config: &PlacementConfig) {
        let mut with = request::with(config);
        with.volume = false;
        let reference = Reference { server: None, runner: spec.runner.clone(), with };
        if let Err(failure) = leftovers::remove(&self.session, &reference).await {
            tracing::warn!(runner = %spec.runner, %failure, "the address of a server that was refused is still there; a sweep removes it");
        }
    }

    /// The instance of a server that was accepted, as all later looks will tell of it.
    async fn made(&self, spec: &InstanceSpec, id: &str) -> Result<Instance, BackendError> {
        let mut why = "Nova accepted it, and does not tell of it".to_owned();
        for look in 0..LOOKS {
            if look > 0 {
                self.session.clock().sleep(LOOK_PAUSE).await;
            }
            match api::server(&self.session, id).await {
                Ok(server) => {
                    if let Some(instance) = server.and_then(|server| server.instance()) {
                        return Ok(instance);
                    }
                }
                Err(failure) => why = format!("Nova accepted it, and then: {failure}"),
            }
        }
        let detail = format!("server {} ({id}): {why}", spec.runner);
        Err(BackendError::new(BackendErrorKind::Unclear, "create", detail))
    }

    /// The server of an id.
    async fn server_of(&self, reference: &Reference) -> Result<Found, Failure> {
        let Some(id) = &reference.server else { return Ok(Found::Nothing) };
        Ok(match api::server(&self.session, id).await? {
            None => Found::Nothing,
            Some(server) => match server.marks().filter(|marks| marks.runner == reference.runner) {
                Some(marks) => Found::Ours(Box::new(server), marks),
                None => Found::Foreign,
            },
        })
    }

    async fn remove(&self, reference: &Reference) -> Result<(), Failure> {
        let session = &self.session;
        let (server, marks) = match self.server_of(reference).await? {
            Found::Ours(server, marks) => (server, marks),
            Found::Nothing => return leftovers::remove(session, reference).await,
            Found::Foreign => return Ok(()),
        };
        if reference.with.volume {
            leftovers::mark_volumes(session, &server, &marks).await?;
        }
        if server.is_kept() {
            return api::force_delete_server(session, &server.id).await;
        }
        api::delete_server(session, &server.id).await?;
        match server.deleting_since().filter(|_| server.is_stuck(session.clock().now(), self.delete_timeout))
        {
            Some(since) => Err(Failure::Incomplete(format!(
                "its deletion has been stuck since {since}: an administrator must look (`openstack server set --state error {}` \
                 often frees it)",
                server.id
            ))),
            None => Ok(()),
        }
    }

    /// What is told of an instance. One whose server is gone is gone only without what went with it.
    async fn told(&self, reference: &Reference) -> Result<Option<Instance>, Failure> {
        match self.server_of(reference).await? {
            Found::Ours(server, _) => Ok(server.instance()),
            Found::Nothing => leftovers::remove(&self.session, reference).await.map(|()| None),
            Found::Foreign => Ok(None),
        }
    }

    async fn listed(&self, owner: &Owner) -> Result<Vec<Instance>, Failure> {
        let now = self.session.clock().now();
        let age = self.settle.max(LEFTOVER_AGE);
        let before = now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let mut instances: Vec<Instance> = api::servers(&self.session)
            .await?
            .iter()
            .filter(|server| server.marks().is_some_and(|marks| marks.owner == *owner))
            .filter_map(Server::instance)
            .collect();
        // A page may repeat what the one before it had.
        instances.sort_by(|one, other| one.id.cmp(&other.id));
        instances.dedup_by(|one, other| one.id == other.id);
        let left = leftovers::instances(&self.session, owner, &instances, before).await?;
        instances.extend(left);
        Ok(instances)
    }
}

/// What is at an id.
enum Found {
    Ours(Box<Server>, OwnerTags),
    /// A server whose marks somebody took off, or changed: not ours to touch any more.
    Foreign,
    Nothing,
}

fn config(operation: &'static str, placement: &Placement) -> Result<PlacementConfig, BackendError> {
    PlacementConfig::read(&placement.settings).map_err(|faults| super::refused(operation, &faults))
}

/// Of several servers of one name, the one that is told of: one that lives before one that does not, and the first of
/// those.
fn foremost(servers: &[Server]) -> Option<Instance> {
    let rank = |instance: &Instance| match instance.state {
        InstanceState::Pending | InstanceState::Running => 0,
        InstanceState::Stopped | InstanceState::Failed(..) => 1,
        InstanceState::Gone => 2,
    };
    let instances = servers.iter().filter_map(Server::instance);
    instances.min_by_key(|instance| (rank(instance), instance.created_at, instance.id.clone()))
}

#[async_trait]
impl Backend for OpenStackBackend {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let config = config("create", &spec.placement)?;
        let id = self.ask(spec, &config).await?;
        self.made(spec, &id).await
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        let Some(reference) = Reference::read(id) else { return Ok(()) };
        let removed = self.remove(&reference).await;
        removed.map_err(|failure| failure.into_error("delete", Effect::None, format!("server {id}")))
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        let Some(reference) = Reference::read(id) else { return Ok(None) };
        let told = self.told(&reference).await;
        told.map_err(|failure| failure.into_error("get", Effect::None, format!("server {id}")))
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        let named = api::servers_named(&self.session, name.as_str()).await;
        let named =
            named.map_err(|failure| failure.into_error("find", Effect::None, format!("server {name}")))?;
        Ok(foremost(&named))
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        self.listed(owner).await.map_err(|failure| failure.into_error("list", Effect::None, "servers"))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { unique_names: false, settle: self.settle, lag: LAG, update: true, callback: true }
    }

    fn start_script(&self, spec: &InstanceSpec) -> Result<Secret, BackendError> {
        bootstrap::script(config("start_script", &spec.placement)?.scripts(), spec)
    }

    async fn update(&self, id: &InstanceId, activity: &Activity) -> Result<(), BackendError> {
        let Some(server) = Reference::read(id).and_then(|reference| reference.server) else { return Ok(()) };
        let job = activity.job.as_ref().map(ToString::to_string).unwrap_or_default();
        let job: String = job.chars().take(MOST_OF_A_VALUE).collect();
        let items = json!({"runner-manager-phase": activity.phase.to_string(), "runner-manager-job": job});
        let written = api::set_metadata(&self.session, &server, items).await;
        written.map_err(|failure| failure.into_error("update", Effect::Some, format!("server {id}")))
    }

    async fn validate(&self, placement: &Placement) -> Result<Vec<String>, BackendError> {
        let config = config("validate", placement)?;
        self.names.forget();
        let missing = names::missing(&self.session, &config).await;
        missing.map_err(|failure| failure.into_error("validate", Effect::None, "placement"))
    }
}
