//! The backend: it makes, finds, lists and deletes instances, and decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use runner_manager_core::backend::{Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec};
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{Instance, InstanceId, InstanceState, Owner, RunnerName};

/// The machines that are taken, by the runner on each. One runner has one machine, so names are unique.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machines(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    by_runner: BTreeMap<RunnerName, Machine>,
    switched_on: u64,
}

#[derive(Debug)]
struct Machine {
    size: String,
    owner: Owner,
    instance: Instance,
}

impl Machines {
    /// The agent on a machine has ended and powered it off.
    pub(crate) fn switch_off(&self, id: &InstanceId) {
        for machine in self.lock().by_runner.values_mut().filter(|machine| machine.instance.id == *id) {
            machine.instance.state = InstanceState::Stopped;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The backend of a rack of machines.
#[derive(Debug)]
pub(crate) struct Rack {
    machines: Machines,
    room: BTreeMap<String, u32>,
    clock: Arc<dyn Clock>,
}

impl Rack {
    pub(crate) const fn new(machines: Machines, room: BTreeMap<String, u32>, clock: Arc<dyn Clock>) -> Self {
        Self { machines, room, clock }
    }
}

/// Why `create` made nothing. Only `Unclear` would leave that open: it is for a lost answer, which cannot happen
/// here.
fn refused(kind: BackendErrorKind, detail: impl Into<String>) -> BackendError {
    BackendError::new(kind, "create", detail)
}

#[async_trait]
impl Backend for Rack {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let size = spec.placement.settings["sizes"].as_str().unwrap_or_default();
        let room = self.room.get(size).ok_or_else(|| {
            refused(BackendErrorKind::NotFound, format!("the rack has no machines of size `{size}`"))
        })?;
        let mut taken = self.machines.lock();
        // Called again for a runner that has its machine, `create` answers with that one.
        if let Some(machine) = taken.by_runner.get(&spec.runner) {
            return if machine.owner == spec.owner {
                Ok(machine.instance.clone())
            } else {
                Err(refused(BackendErrorKind::InvalidConfig, format!("{} is another owner's", spec.runner)))
            };
        }
        if taken.by_runner.values().filter(|machine| machine.size == size).count() >= *room as usize {
            let detail = format!("all {room} machines of size `{size}` are taken");
            return Err(refused(BackendErrorKind::NoCapacity, detail));
        }
        // Here a real one sends `spec.bootstrap`, with which the agent starts, and switches the machine on.
        taken.switched_on += 1;
        let instance = Instance {
            // Never used again, so that a late `delete` of this runner's instance cannot meet the next one.
            id: InstanceId::new(format!("{size}-{}", taken.switched_on)),
            runner: spec.runner.clone(),
            group: spec.group.clone(),
            state: InstanceState::Running,
            created_at: self.clock.now(),
        };
        let machine =
            Machine { size: size.to_owned(), owner: spec.owner.clone(), instance: instance.clone() };
        taken.by_runner.insert(spec.runner.clone(), machine);
        Ok(instance)
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        self.machines.lock().by_runner.retain(|_, machine| machine.instance.id != *id);
        Ok(())
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        let taken = self.machines.lock();
        let found = taken.by_runner.values().find(|machine| machine.instance.id == *id);
        Ok(found.map(|machine| machine.instance.clone()))
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        Ok(self.machines.lock().by_runner.get(name).map(|machine| machine.instance.clone()))
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let taken = self.machines.lock();
        let theirs = taken.by_runner.values().filter(|machine| machine.owner == *owner);
        Ok(theirs.map(|machine| machine.instance.clone()).collect())
    }

    fn capabilities(&self) -> Capabilities {
        // An instance is there once `create` returned, and never later: nothing settles, nothing lags.
        Capabilities {
            unique_names: true,
            settle: Duration::ZERO,
            lag: Duration::ZERO,
            update: false,
            callback: false,
        }
    }
}
