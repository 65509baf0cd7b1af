//! Instances as Compute tells of them: whose they are by their labels, and what their states mean.

use google_cloud_compute_v1::model::instance::Status;
use google_cloud_compute_v1::model::scheduling::ProvisioningModel;
use google_cloud_compute_v1::model::{Instance as Told, Operation};
use runner_manager_core::backend::InstanceSpec;
use runner_manager_core::domain::{Instance, InstanceId, InstanceState, Owner, OwnerTags};

use super::names::last;

/// Where an instance is, and its number, which Compute never gives again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) zone: String,
    pub(super) number: u64,
}

impl Place {
    /// `None` where the backend never gave such an id.
    pub(super) fn read(id: &InstanceId) -> Option<Self> {
        let (zone, number) = id.as_str().split_once('/')?;
        Some(Self { zone: zone.to_owned(), number: number.parse().ok()? })
    }

    fn id(&self) -> InstanceId {
        InstanceId::new(format!("{}/{}", self.zone, self.number))
    }
}

/// Whose an instance is; `None` where it bears no marks of a Runner Manager. The words of marks have no characters that
/// labels do not allow.
pub(super) fn marks(told: &Told) -> Option<OwnerTags> {
    Owner::read_tags(|key| told.labels.get(key).map(String::as_str))
}

/// The instance, where it is one of a Runner Manager.
pub(super) fn instance(told: &Told) -> Option<Instance> {
    let OwnerTags { runner, group, .. } = marks(told)?;
    let place = Place { zone: last(told.zone.as_deref()?).to_owned(), number: told.id? };
    let created_at = told.creation_timestamp.as_deref()?.parse().ok()?;
    Some(Instance { id: place.id(), runner, group, state: state(told), created_at })
}

/// The instance that an accepted operation makes, while nothing more can be told of it.
pub(super) fn to_be(spec: &InstanceSpec, zone: &str, operation: &Operation) -> Option<Instance> {
    let place = Place { zone: zone.to_owned(), number: operation.target_id? };
    Some(Instance {
        id: place.id(),
        runner: spec.runner.clone(),
        group: spec.group.clone(),
        state: InstanceState::Pending,
        created_at: operation.insert_time.as_deref()?.parse().ok()?,
    })
}

/// Whether it is a Spot instance.
pub(super) fn is_spot(told: &Told) -> bool {
    let model = told.scheduling.as_ref().and_then(|scheduling| scheduling.provisioning_model.as_ref());
    model == Some(&ProvisioningModel::Spot)
}

/// What its state means. <https://cloud.google.com/compute/docs/instances/instance-lifecycle>
fn state(told: &Told) -> InstanceState {
    match told.status {
        Some(Status::Pending | Status::Provisioning | Status::Staging) => InstanceState::Pending,
        // Its job has ended, or is about to: nothing starts such an instance again.
        Some(
            Status::PendingStop
            | Status::Stopping
            | Status::Stopped
            | Status::Suspending
            | Status::Suspended
            | Status::Terminated
            | Status::Deprovisioning,
        ) => InstanceState::Stopped,
        // Also under repair, and of a new word of Compute's: nothing is known of it, so that its job may go on.
        _ => InstanceState::Running,
    }
}

#[cfg(test)]
mod tests {
    use google_cloud_compute_v1::model::instance::Status;
    use google_cloud_compute_v1::model::{Instance as Told, Scheduling, scheduling};
    use runner_manager_core::domain::{
        DeploymentName, GroupName, InstanceId, InstanceState, Owner, RunnerName, Secret,
    };

    use super::{Place, instance, is_spot};

    fn told(status: &str) -> Told {
        let owner = Owner::new(DeploymentName::new("acme").unwrap(), &Secret::new("key"));
        let marks = owner.tags(&RunnerName::new("acme-linux-1").unwrap(), &GroupName::new("linux").unwrap());
        Told::new()
            .set_labels(marks)
            .set_id(42_u64)
            .set_zone("https://compute.googleapis.com/compute/v1/projects/p/zones/europe-west1-b")
            .set_creation_timestamp("2026-11-26T04:00:00.000-08:00")
            .set_status(Status::from(status))
    }

    #[test]
    fn an_instance_is_told() {
        let told = instance(&told("RUNNING")).unwrap();
        assert_eq!(told.id, InstanceId::new("europe-west1-b/42"));
        assert_eq!((told.runner.as_str(), told.group.as_str()), ("acme-linux-1", "linux"));
        assert_eq!(told.created_at, "2026-11-26T12:00:00Z".parse().unwrap());
        let place = Place::read(&told.id).unwrap();
        assert_eq!((place.zone.as_str(), place.number), ("europe-west1-b", 42));
        for other in ["42", "i-1", "zone/name", ""] {
            assert_eq!(Place::read(&InstanceId::new(other)), None);
        }
    }

    #[test]
    fn states_are_what_they_mean() {
        let state = |status| instance(&told(status)).unwrap().state;
        for status in ["PENDING", "PROVISIONING", "STAGING"] {
            assert_eq!(state(status), InstanceState::Pending, "{status}");
        }
        for status in ["RUNNING", "REPAIRING", "A_NEW_WORD"] {
            assert_eq!(state(status), InstanceState::Running, "{status}");
        }
        for status in ["STOPPING", "STOPPED", "SUSPENDED", "TERMINATED", "PENDING_STOP", "DEPROVISIONING"] {
            assert_eq!(state(status), InstanceState::Stopped, "{status}");
        }
    }

    #[test]
    fn what_bears_no_marks_is_none_of_ours() {
        let mut foreign = told("RUNNING");
        foreign.labels.remove(Owner::RUNNER_TAG);
        assert_eq!(instance(&foreign), None);
        assert!(!is_spot(&foreign));
        let scheduling = Scheduling::new().set_provisioning_model(scheduling::ProvisioningModel::Spot);
        assert!(is_spot(&foreign.set_scheduling(scheduling)));
    }
}
