//! The vsphere backend: an instance is a virtual machine, whose name is the runner's.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use runner_manager_core::backend::{
    Activity, Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec,
};
use runner_manager_core::domain::{Instance, InstanceId, Owner, Placement, RunnerName, Secret};

use super::clone::{Place, clone_spec, user_data};
use super::config::{PlacementConfig, Settings};
use super::errors::{Effect, Failure};
use super::inventory::Inventory;
use super::marks::{self, Machine, PROPERTIES};
use super::properties::{follow, read, read_below};
use super::session::Session;
use super::xml::Reference;
use super::{api, attributes};
use crate::bootstrap;

/// How often a removal begins anew, where somebody else's work on the machine was in the way.
const REMOVALS: u32 = 3;

/// How often, and after which pauses, a name that is taken is looked at until its machine says whose it is.
const TAKEN_LOOKS: u32 = 20;
const TAKEN_PAUSE: Duration = Duration::from_millis(500);

/// The backend of kind `vsphere`.
#[derive(Debug)]
pub struct VsphereBackend {
    session: Session,
    inventory: Inventory,
    clone_timeout: Duration,
    custom_attributes: bool,
}

impl VsphereBackend {
    pub(super) fn new(session: Session, settings: &Settings) -> Self {
        Self {
            session,
            inventory: Inventory::new(settings.datacenter.clone(), settings.folder.clone()),
            clone_timeout: settings.clone_timeout,
            custom_attributes: settings.custom_attributes,
        }
    }

    /// The machine at a reference; `None` where there is none, or none that bears our marks.
    async fn machine(&self, reference: &Reference) -> Result<Option<Machine>, Failure> {
        match read(&self.session, reference, &PROPERTIES).await {
            Ok(object) => Ok(Machine::read(&object)),
            Err(failure) if failure.tells_gone(reference) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The machine of an id.
    async fn machine_of(&self, id: &InstanceId) -> Result<Option<Machine>, Failure> {
        let Some(reference) = marks::reference(id) else { return Ok(None) };
        Ok(self.machine(&reference).await?.filter(|machine| machine.id() == id))
    }

    /// What bears a name in our folder.
    async fn named(&self, name: &RunnerName) -> Result<Option<Reference>, Failure> {
        let folder = self.inventory.folder(&self.session).await?;
        api::find_child(&self.session, &folder, name.as_str()).await
    }

    /// The machine of a runner.
    async fn machine_named(&self, name: &RunnerName) -> Result<Option<Machine>, Failure> {
        let Some(reference) = self.named(name).await? else { return Ok(None) };
        let machine = self.machine(&reference).await?;
        Ok(machine.filter(|machine| machine.tags.runner == *name))
    }

    fn told(&self, machine: Machine) -> Instance {
        machine.into_instance(self.session.clock().now(), self.clone_timeout)
    }

    /// Begins a clone, which changes nothing where it fails with anything but `Unclear`.
    async fn begin(&self, spec: &InstanceSpec, config: &PlacementConfig) -> Result<Begun, BackendError> {
        let what = || format!("machine {}", spec.runner);
        let definite = |failure: Failure| failure.into_error("create", Effect::None, what());
        // What cannot be told to a machine is found out before vCenter is asked for anything.
        let user_data = user_data(spec, config)?;
        let now = api::current_time(&self.session).await.map_err(definite)?;
        let whole = |place: &Place| clone_spec(spec, config, &user_data, place, now);
        let place = self.inventory.place(&self.session, config, spec.runner.as_str(), whole).await;
        let place = place.map_err(definite)?;
        let clone = whole(&place);
        let (template, folder) = (&place.template, &place.folder);
        match api::clone(&self.session, template, folder, spec.runner.as_str(), clone).await {
            Ok(task) => Ok(Begun::Task(task)),
            Err(failure) if failure.is("DuplicateName") => Ok(Begun::Taken),
            Err(failure) => Err(failure.into_error("create", Effect::Some, what())),
        }
    }

    /// Follows a clone to its end: the new machine.
    async fn made(&self, spec: &InstanceSpec, task: &Reference) -> Result<Instance, BackendError> {
        let unclear = |why: String, failure: Option<Failure>| {
            let said = failure.map(|failure| format!(": {failure}")).unwrap_or_default();
            let detail = format!("machine {}: {why}{said}", spec.runner);
            BackendError::new(BackendErrorKind::Unclear, "create", detail)
        };
        let end = follow(&self.session, task, self.clone_timeout).await;
        match end.map_err(|failure| unclear("how its clone ends was not told".to_owned(), Some(failure)))? {
            Ok(result) => {
                let machine = result.as_ref().and_then(Reference::read);
                let machine =
                    machine.ok_or_else(|| unclear("its clone names no machine".to_owned(), None))?;
                match self.machine(&machine).await {
                    Ok(Some(machine)) => Ok(self.told(machine)),
                    Ok(None) => Err(unclear("it was gone right after it had been made".to_owned(), None)),
                    Err(failure) => Err(unclear("it was made, and then".to_owned(), Some(failure))),
                }
            }
            Err(failure) if failure.is("DuplicateName") => self.taken(spec).await,
            Err(failure) => Err(self.failed(spec, failure).await),
        }
    }

    /// The error of a clone that failed, after what it left is removed: a machine that could not be powered on
    /// stays where it is.
    async fn failed(&self, spec: &InstanceSpec, failure: Failure) -> BackendError {
        let what = format!("machine {}", spec.runner);
        let left = match self.machine_named(&spec.runner).await {
            Ok(Some(machine)) if machine.tags.owner == spec.owner => self.remove(machine.id()).await,
            other => other.map(drop),
        };
        match left {
            Ok(()) => failure.into_error("create", Effect::None, what),
            Err(left) => {
                let detail =
                    format!("{what}: {failure}; whether a half-made machine is left is unknown: {left}");
                BackendError::new(BackendErrorKind::Unclear, "create", detail)
            }
        }
    }

    /// The machine that bears the name which a create wanted. One that is still being made does not say yet
    /// whose it is.
    async fn taken(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let name = &spec.runner;
        let refuse = |kind, detail: String| Err(BackendError::new(kind, "create", detail));
        for _ in 0..TAKEN_LOOKS {
            match self.machine_named(name).await {
                Ok(Some(machine)) if machine.tags.owner == spec.owner => return Ok(self.told(machine)),
                Ok(Some(_)) => {
                    let detail = format!("the name {name} is taken by a machine of another owner");
                    return refuse(BackendErrorKind::InvalidConfig, detail);
                }
                Ok(None) => self.session.clock().sleep(TAKEN_PAUSE).await,
                Err(failure) => {
                    let detail = format!("the name {name} is taken, and whose it is was not told: {failure}");
                    return refuse(BackendErrorKind::Unclear, detail);
                }
            }
        }
        let detail = format!("the name {name} is taken by a machine that does not say whose it is");
        refuse(BackendErrorKind::Unclear, detail)
    }

    /// Powers a machine off and removes it with its files; absent is success.
    async fn remove(&self, id: &InstanceId) -> Result<(), Failure> {
        let mut last = Ok(());
        for _ in 0..REMOVALS {
            let Some(machine) = self.machine_of(id).await? else { return Ok(()) };
            let ended = self.remove_once(&machine).await;
            match ended {
                Err(failure) if failure.tells_gone(&machine.reference) => return Ok(()),
                Err(failure) => {
                    match failure.task_in_the_way() {
                        // Most often it is another removal of the same machine.
                        Some(task) => drop(follow(&self.session, &task, self.clone_timeout).await?),
                        // It was powered on or off in between.
                        None if failure.is("InvalidPowerState") => {}
                        None => return Err(failure),
                    }
                    last = Err(failure);
                }
                Ok(()) => return Ok(()),
            }
        }
        last
    }

    async fn remove_once(&self, machine: &Machine) -> Result<(), Failure> {
        let limit = self.clone_timeout;
        if machine.is_on() {
            let task = api::power_off(&self.session, &machine.reference).await?;
            follow(&self.session, &task, limit).await??;
        }
        let task = api::destroy(&self.session, &machine.reference).await?;
        follow(&self.session, &task, limit).await?.map(drop)
    }

    /// Writes the tags onto a machine as attributes, too. Nothing depends on them, so a failure is only told.
    async fn note(&self, spec: &InstanceSpec, instance: &Instance) {
        let Some(machine) = marks::reference(&instance.id).filter(|_| self.custom_attributes) else { return };
        let mut values: BTreeMap<String, String> = spec.tags.clone();
        values.extend(spec.owner.tags(&spec.runner, &spec.group));
        if let Err(failure) = attributes::write(&self.session, &machine, &values).await {
            tracing::warn!(runner = %spec.runner, %failure, "the custom attributes of a machine could not be written");
        }
    }
}

/// What came of the beginning of a clone.
enum Begun {
    Task(Reference),
    /// The name is taken.
    Taken,
}

fn config(operation: &'static str, placement: &Placement) -> Result<PlacementConfig, BackendError> {
    PlacementConfig::read(&placement.settings).map_err(|faults| super::refused(operation, &faults))
}

#[async_trait]
impl Backend for VsphereBackend {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let config = config("create", &spec.placement)?;
        let created = match self.begin(spec, &config).await {
            Ok(Begun::Task(task)) => self.made(spec, &task).await,
            Ok(Begun::Taken) => self.taken(spec).await,
            Err(error) => Err(error),
        };
        match &created {
            Ok(instance) => self.note(spec, instance).await,
            Err(_) => self.inventory.forget(),
        }
        created
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        let removed = self.remove(id).await;
        removed.map_err(|failure| failure.into_error("delete", Effect::Some, format!("machine {id}")))
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        match self.machine_of(id).await {
            Ok(machine) => Ok(machine.map(|machine| self.told(machine))),
            Err(failure) => Err(failure.into_error("get", Effect::None, format!("machine {id}"))),
        }
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        match self.machine_named(name).await {
            Ok(machine) => Ok(machine.map(|machine| self.told(machine))),
            Err(failure) => {
                self.inventory.forget();
                Err(failure.into_error("find", Effect::None, format!("machine {name}")))
            }
        }
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let refuse = |failure: Failure| {
            self.inventory.forget();
            failure.into_error("list", Effect::None, "machines")
        };
        let folder = self.inventory.folder(&self.session).await.map_err(refuse)?;
        let objects = read_below(&self.session, &folder, "VirtualMachine", &PROPERTIES).await;
        let machines = objects.map_err(refuse)?.iter().filter_map(Machine::read).collect::<Vec<_>>();
        let mut instances = Vec::new();
        for machine in machines.into_iter().filter(|machine| machine.tags.owner == *owner) {
            if machine.is_the_runners() {
                instances.push(self.told(machine));
            } else {
                tracing::warn!(machine = %machine.name, runner = %machine.tags.runner, "a machine bears the marks of a runner and another name, as a clone of it would: not ours to touch");
            }
        }
        Ok(instances)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // Of one folder, which all placements share.
            unique_names: true,
            settle: self.clone_timeout,
            lag: Duration::ZERO,
            update: self.custom_attributes,
            callback: true,
        }
    }

    fn start_script(&self, spec: &InstanceSpec) -> Result<Secret, BackendError> {
        bootstrap::script(config("start_script", &spec.placement)?.scripts(), spec)
    }

    async fn update(&self, id: &InstanceId, activity: &Activity) -> Result<(), BackendError> {
        let Some(machine) = marks::reference(id).filter(|_| self.custom_attributes) else { return Ok(()) };
        let job = activity.job.as_ref().map(ToString::to_string).unwrap_or_default();
        let values = BTreeMap::from([
            ("runner-manager-phase".to_owned(), activity.phase.to_string()),
            ("runner-manager-job".to_owned(), job),
        ]);
        let written = attributes::write(&self.session, &machine, &values).await;
        written.map_err(|failure| failure.into_error("update", Effect::Some, format!("machine {id}")))
    }

    async fn validate(&self, placement: &Placement) -> Result<Vec<String>, BackendError> {
        let config = config("validate", placement)?;
        self.inventory.forget();
        let missing = self.inventory.missing(&self.session, &config).await;
        missing.map_err(|failure| failure.into_error("validate", Effect::None, "placement"))
    }
}
