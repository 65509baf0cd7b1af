//! What stands on a machine: whose it is, for which runner, and what vCenter's answers make of that.
//!
//! The marks are entries of the machine's `extraConfig`, which backups and people leave alone. The annotation
//! (the "notes" of a machine) says the same for people, and is never read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use runner_manager_core::backend::InstanceSpec;
use runner_manager_core::domain::{Instance, InstanceFailure, InstanceId, InstanceState, Owner, OwnerTags};

use super::config::Ready;
use super::properties::Object;
use super::xml::Reference;

/// When the machine was asked for, by vCenter's clock. (vCenter itself tells it only since version 6.7.)
const CREATED: &str = "runner-manager-created";

/// When it counts as running.
const READY: &str = "runner-manager-ready";

/// What the user's own tags begin with.
const TAG: &str = "runner-manager-tag-";

/// The properties that [`Machine::read`] reads.
/// <https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.VirtualMachine.html>
pub(super) const PROPERTIES: [&str; 8] = [
    "name",
    "config.extraConfig",
    "config.instanceUuid",
    "config.template",
    "runtime.powerState",
    "runtime.connectionState",
    "guest.toolsRunningStatus",
    "guest.ipAddress",
];

/// The marks of a new machine.
pub(super) fn of(spec: &InstanceSpec, ready: Ready, now: Timestamp) -> BTreeMap<String, String> {
    let mut marks = spec.owner.tags(&spec.runner, &spec.group);
    marks.extend(spec.tags.iter().map(|(key, value)| (format!("{TAG}{key}"), value.clone())));
    marks.insert(CREATED.to_owned(), now.to_string());
    marks.insert(READY.to_owned(), ready.as_str().to_owned());
    marks
}

/// The marks for people.
pub(super) fn annotation(marks: &BTreeMap<String, String>) -> String {
    let lines = marks.iter().map(|(key, value)| format!("\n{key}: {value}"));
    format!("Made by Runner Manager, which removes it again.{}", lines.collect::<String>())
}

/// A machine that bears our marks.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) reference: Reference,
    pub(super) name: String,
    pub(super) tags: OwnerTags,
    id: InstanceId,
    created_at: Timestamp,
    ready: Ready,
    power: Power,
    tools: bool,
    address: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    Off,
    Lost,
}

impl Machine {
    /// What was told of a machine; `None` for one without our marks, and for one that is still being made,
    /// which has no settings yet.
    pub(super) fn read(object: &Object) -> Option<Self> {
        let mut marks = BTreeMap::new();
        for option in object.get("config.extraConfig")?.children("OptionValue") {
            if let (Some(key), Some(value)) = (option.text_of("key"), option.text_of("value")) {
                marks.insert(key, value);
            }
        }
        let tags = Owner::read_tags(|key| marks.get(key).copied())?;
        // A template that was made from one of our machines is no instance.
        if object.text("config.template") == Some("true") {
            return None;
        }
        let reference = object.reference.clone();
        Some(Self {
            id: id(&reference, object.text("config.instanceUuid")?),
            name: object.text("name")?.to_owned(),
            tags,
            created_at: marks.get(CREATED)?.parse().ok()?,
            ready: marks.get(READY).and_then(|ready| Ready::parse(ready)).unwrap_or_default(),
            power: power(object),
            tools: object.text("guest.toolsRunningStatus") == Some("guestToolsRunning"),
            address: object.text("guest.ipAddress").is_some_and(|address| !address.is_empty()),
            reference,
        })
    }

    pub(super) const fn id(&self) -> &InstanceId {
        &self.id
    }

    pub(super) const fn is_on(&self) -> bool {
        matches!(self.power, Power::On)
    }

    /// Whether it bears the name of its runner. A clone that somebody made of it has its marks too, and
    /// another name.
    pub(super) fn is_the_runners(&self) -> bool {
        self.name == self.tags.runner.as_str()
    }

    /// The instance. One that is off is `Pending` as long as a clone may take, because it is told of before it is
    /// powered on; after that, it is `Stopped`.
    pub(super) fn into_instance(self, now: Timestamp, clone_timeout: std::time::Duration) -> Instance {
        let young = now.duration_since(self.created_at).unsigned_abs() <= clone_timeout;
        let up = match self.ready {
            Ready::PoweredOn => true,
            Ready::Tools => self.tools,
            Ready::Address => self.address,
        };
        let state = match self.power {
            Power::On if up => InstanceState::Running,
            Power::On => InstanceState::Pending,
            Power::Off if young => InstanceState::Pending,
            Power::Off => InstanceState::Stopped,
            Power::Lost => InstanceState::Failed(
                InstanceFailure::Other,
                "vCenter knows of it, but no host has it any more".to_owned(),
            ),
        };
        Instance {
            id: self.id,
            runner: self.tags.runner,
            group: self.tags.group,
            state,
            created_at: self.created_at,
        }
    }
}

/// One that cannot be reached (`disconnected`, `inaccessible`) is as it was told last: it may well run. So may a
/// suspended one go on.
fn power(object: &Object) -> Power {
    match (object.text("runtime.connectionState"), object.text("runtime.powerState")) {
        (Some("invalid" | "orphaned"), _) => Power::Lost,
        (_, Some("poweredOff")) => Power::Off,
        _ => Power::On,
    }
}

/// The reference alone might mean another machine after vCenter's database was restored from a backup.
fn id(reference: &Reference, uuid: &str) -> InstanceId {
    InstanceId::new(format!("{}/{uuid}", reference.value))
}

/// The reference in an id.
pub(super) fn reference(id: &InstanceId) -> Option<Reference> {
    let (value, _uuid) = id.as_str().split_once('/')?;
    Some(Reference::new("VirtualMachine", value))
}
