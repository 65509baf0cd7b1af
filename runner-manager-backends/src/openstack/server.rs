//! Servers as Nova tells of them, and what stands on them: whose they are, and what goes with them.
//!
//! The marks are metadata, which every Nova has; tags are for people and other tools alone.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::domain::{
    Instance, InstanceFailure, InstanceId, InstanceState, Owner, OwnerTags, RunnerName, later,
};
use serde::Deserialize;

use super::errors::{shortage, told};

/// The item of metadata that tells what goes with a server.
pub(super) const WITH: &str = "runner-manager-with";

/// A server.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Server {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    created: Option<Timestamp>,
    #[serde(default)]
    updated: Option<Timestamp>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    fault: Option<Fault>,
    #[serde(default, rename = "OS-EXT-STS:task_state")]
    task_state: Option<String>,
    #[serde(default, rename = "OS-EXT-STS:power_state")]
    power_state: Option<u8>,
    #[serde(default, rename = "OS-SRV-USG:launched_at")]
    launched_at: Option<String>,
    #[serde(default, rename = "os-extended-volumes:volumes_attached")]
    pub(super) volumes: Vec<Attached>,
}

#[derive(Debug, Clone, Deserialize)]
struct Fault {
    #[serde(default)]
    message: String,
}

/// A volume of a server.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Attached {
    pub(super) id: String,
}

/// What Nova calls a guest that runs, whatever becomes of the server's other tasks.
const POWERED_ON: u8 = 1;

impl Server {
    /// Whether its cell does not answer, so that nothing is known of it.
    pub(super) fn is_unknown(&self) -> bool {
        self.status == "UNKNOWN"
    }

    /// Whether Nova keeps it although it was deleted.
    pub(super) fn is_kept(&self) -> bool {
        self.status == "SOFT_DELETED"
    }

    /// Whose it is; `None` where it bears no marks of ours, or those of another server: of the one that somebody
    /// copied it from.
    pub(super) fn marks(&self) -> Option<OwnerTags> {
        let marks = Owner::read_tags(|key| self.metadata.get(key).map(String::as_str))?;
        (marks.runner.as_str() == self.name).then_some(marks)
    }

    /// Since when its deletion is under way, where it is.
    pub(super) fn deleting_since(&self) -> Option<Timestamp> {
        let deleting = matches!(self.task_state.as_deref(), Some("deleting" | "soft-deleting"));
        self.updated.filter(|_| deleting)
    }

    /// Whether its deletion takes longer than a while.
    pub(super) fn is_stuck(&self, now: Timestamp, a_while: Duration) -> bool {
        self.deleting_since().is_some_and(|since| now > later(since, a_while))
    }

    /// The instance that it is, where it is ours.
    pub(super) fn instance(&self) -> Option<Instance> {
        let OwnerTags { runner, group, .. } = self.marks()?;
        let with = self.metadata.get(WITH).map(|with| With::parse(with)).unwrap_or_default();
        let id = Reference { server: Some(self.id.clone()), runner: runner.clone(), with }.id();
        Some(Instance { id, runner, group, state: self.state(), created_at: self.created? })
    }

    /// <https://docs.openstack.org/api-guide/compute/server_concepts.html>
    fn state(&self) -> InstanceState {
        match self.status.as_str() {
            // Its job has ended, or is about to: nothing brings such a server back.
            _ if self.deleting_since().is_some() => InstanceState::Stopped,
            "BUILD" => InstanceState::Pending,
            // A task on a server that runs failed, such as its migration: the guest goes on.
            "ERROR" if self.launched_at.is_some() && self.power_state == Some(POWERED_ON) => {
                InstanceState::Running
            }
            "ERROR" => self.failed(),
            "SHUTOFF" | "STOPPED" | "SHELVED" | "SHELVED_OFFLOADED" | "SOFT_DELETED" => {
                InstanceState::Stopped
            }
            "DELETED" => InstanceState::Gone,
            // Also of what is paused, suspended, rebooted or migrated: its job may go on.
            _ => InstanceState::Running,
        }
    }

    fn failed(&self) -> InstanceState {
        let fault = self.fault.as_ref().map(|fault| told(&fault.message)).filter(|fault| !fault.is_empty());
        let fault = fault.unwrap_or_else(|| "in ERROR, without a fault that tells why".to_owned());
        InstanceState::Failed(shortage(&fault).unwrap_or(InstanceFailure::Other), fault)
    }
}

/// What goes with a server beside itself, and is looked for after its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct With {
    /// A port of ours with a floating IP.
    pub(super) address: bool,
    /// A volume to boot from.
    pub(super) volume: bool,
}

impl With {
    pub(super) fn parse(text: &str) -> Self {
        let has = |word| text.split('+').any(|part| part == word);
        Self { address: has("address"), volume: has("volume") }
    }

    pub(super) fn words(self) -> Vec<&'static str> {
        [("address", self.address), ("volume", self.volume)]
            .iter()
            .filter(|(_, is)| *is)
            .map(|(word, _)| *word)
            .collect()
    }
}

/// What an instance's id holds: `SERVER/RUNNER+address+volume`; `-` in place of the server where there is only what was
/// to go with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) server: Option<String>,
    pub(super) runner: RunnerName,
    pub(super) with: With,
}

impl Reference {
    pub(super) fn id(&self) -> InstanceId {
        let runner = self.runner.as_str();
        let parts: Vec<&str> = [runner].into_iter().chain(self.with.words()).collect();
        InstanceId::new(format!("{}/{}", self.server.as_deref().unwrap_or("-"), parts.join("+")))
    }

    /// Reads an id that we gave.
    pub(super) fn read(id: &InstanceId) -> Option<Self> {
        let (server, rest) = id.as_str().split_once('/')?;
        let (runner, with) = rest.split_once('+').unwrap_or((rest, ""));
        let server = Some(server).filter(|server| *server != "-").map(str::to_owned);
        Some(Self { server, runner: RunnerName::new(runner).ok()?, with: With::parse(with) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runner_manager_core::domain::{InstanceFailure, InstanceId, InstanceState};
    use serde_json::{Value, json};

    use super::{Reference, Server};

    fn server(others: &Value) -> Server {
        let mut server = json!({
            "id": "s1", "name": "acme-linux-1", "status": "ACTIVE",
            "created": "2026-11-26T11:55:11Z", "updated": "2026-11-26T12:00:00Z",
            "metadata": {
                "runner-manager-deployment": "acme", "runner-manager-owner": "0011223344556677",
                "runner-manager-runner": "acme-linux-1", "runner-manager-group": "linux",
                "runner-manager-with": "address+volume",
            },
        });
        server.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        serde_json::from_value(server).unwrap()
    }

    #[test]
    fn states_are_told() {
        let state = |others: Value| server(&others).instance().unwrap().state;
        for running in ["ACTIVE", "REBOOT", "MIGRATING", "PAUSED", "SUSPENDED", "a new word"] {
            assert_eq!(state(json!({"status": running})), InstanceState::Running, "{running}");
        }
        for stopped in ["SHUTOFF", "SHELVED_OFFLOADED", "SOFT_DELETED"] {
            assert_eq!(state(json!({"status": stopped})), InstanceState::Stopped, "{stopped}");
        }
        assert_eq!(state(json!({"status": "BUILD"})), InstanceState::Pending);
        assert_eq!(state(json!({"status": "DELETED"})), InstanceState::Gone);
        assert_eq!(state(json!({"OS-EXT-STS:task_state": "deleting"})), InstanceState::Stopped);
        let migration_failed = json!({"status": "ERROR", "OS-EXT-STS:power_state": 1, "OS-SRV-USG:launched_at": "2026-11-26T11:56:00.0"});
        assert_eq!(state(migration_failed), InstanceState::Running);
    }

    #[test]
    fn faults_are_told_apart() {
        for (fault, kind) in [
            ("No valid host was found. There are not enough hosts available.", InstanceFailure::NoCapacity),
            ("No fixed IP addresses available for network: n", InstanceFailure::NoCapacity),
            (
                "Quota exceeded for cores: Requested 4, but already used 20 of 20 cores",
                InstanceFailure::QuotaExceeded,
            ),
            ("Maximum number of ports exceeded", InstanceFailure::QuotaExceeded),
            (
                "Build of instance x aborted: VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds \
                 allowed gigabytes quota.",
                InstanceFailure::QuotaExceeded,
            ),
            ("Exceeded maximum number of retries. Exhausted all hosts available", InstanceFailure::Other),
            ("Build of instance x aborted: Failed to allocate the network(s)", InstanceFailure::Other),
        ] {
            let failed = server(&json!({"status": "ERROR", "fault": {"code": 500, "message": fault}}));
            assert_eq!(failed.instance().unwrap().state, InstanceState::Failed(kind, fault.to_owned()));
        }
        let InstanceState::Failed(_, why) = server(&json!({"status": "ERROR"})).state() else {
            panic!("it failed")
        };
        assert!(why.contains("without a fault"), "{why}");
    }

    #[test]
    fn a_copy_is_not_ours() {
        assert!(server(&json!({"name": "acme-linux-1-copy"})).instance().is_none());
        assert!(server(&json!({"metadata": {}})).instance().is_none());
    }

    #[test]
    fn a_deletion_is_stuck_after_a_while() {
        let deleting = server(&json!({"OS-EXT-STS:task_state": "deleting"}));
        let at = |time: &str| time.parse().unwrap();
        assert!(!deleting.is_stuck(at("2026-11-26T12:09:00Z"), Duration::from_mins(10)));
        assert!(deleting.is_stuck(at("2026-11-26T12:11:00Z"), Duration::from_mins(10)));
        assert!(!server(&json!({})).is_stuck(at("2026-11-27T12:11:00Z"), Duration::from_mins(10)));
    }

    #[test]
    fn ids_read_back() {
        let id = server(&json!({})).instance().unwrap().id;
        assert_eq!(id.as_str(), "s1/acme-linux-1+address+volume");
        for text in [id.as_str(), "-/acme-linux-1+volume", "s1/acme-linux-1"] {
            assert_eq!(Reference::read(&InstanceId::new(text)).unwrap().id().as_str(), text);
        }
        assert_eq!(Reference::read(&InstanceId::new("vm-12")), None);
    }
}
