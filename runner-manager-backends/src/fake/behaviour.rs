//! How a fake cloud behaves: its size, how long things take, and what goes wrong.
//!
//! Plain data, as it stands in the configuration and in `POST /script`. What follows from it is
//! [`cloud`](super::cloud)'s affair.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::{
    optional as maybe_friendly, required as friendly,
};
use runner_manager_core::backend::{BackendErrorKind, Capabilities, SettingsFault};
use runner_manager_core::domain::{InstanceFailure, InstanceState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a fake cloud behaves. By default it does everything at once, has room for everything in its three
/// zones, and nothing goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Where its random numbers begin. Default 0.
    pub seed: u64,
    /// Its zones, and how many instances each has room for; `null` is no limit. Default `zone-a`, `zone-b`
    /// and `zone-c`, without limits.
    pub zones: BTreeMap<String, Option<u32>>,
    /// How many instances there may be in all zones together. Default no limit.
    pub quota: Option<u32>,
    /// Whether a second instance of one name is refused. Default true.
    pub unique_names: bool,
    /// What the backend tells as its `settle` time. It must be longer than any `late` fault, or the backend
    /// tells an untruth. Default 30 s.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub settle: Duration,
    /// What the backend tells as its `lag`: how long an instance that was named may be missing from a look.
    /// It must be as long as any `stale` fault looks back. Default 0.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub lag: Duration,
    /// How long a `create` call takes. Default 0.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub create_latency: Duration,
    /// How long any other call takes. Default 0.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub call_latency: Duration,
    /// How long an instance is `Pending` before it is `Running`. Default 0.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub boot_time: Duration,
    /// How much longer that may be, drawn evenly. Default 0.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub boot_jitter: Duration,
    /// How long an instance is still there after its deletion was accepted. Default 0.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub delete_time: Duration,
    /// How long an instance is told as `Gone` before it is not told of any more. Default 0.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub tell_gone: Duration,
    /// How many instances one page of a list has; at least 1. Default 100.
    pub page_size: usize,
    /// Whether its machines can call the manager. Default no.
    pub callback: bool,
    /// What goes wrong by chance. Default nothing.
    pub faults: Vec<Rule>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            seed: 0,
            zones: ["zone-a", "zone-b", "zone-c"].map(|zone| (zone.to_owned(), None)).into(),
            quota: None,
            unique_names: true,
            settle: Duration::from_secs(30),
            lag: Duration::ZERO,
            create_latency: Duration::ZERO,
            call_latency: Duration::ZERO,
            boot_time: Duration::ZERO,
            boot_jitter: Duration::ZERO,
            delete_time: Duration::ZERO,
            tell_gone: Duration::ZERO,
            page_size: 100,
            callback: false,
            faults: Vec::new(),
        }
    }
}

impl Behaviour {
    /// What a backend that behaves so tells of itself.
    pub fn capabilities(&self) -> Capabilities {
        let Self { unique_names, settle, lag, callback, .. } = *self;
        Capabilities { unique_names, settle, lag, update: true, callback }
    }

    /// Looks for what cannot be meant.
    pub fn faults(&self) -> Vec<SettingsFault> {
        let path = |key: &str| vec![key.to_owned()];
        let mut faults = Vec::new();
        if self.page_size == 0 {
            let message = "must be at least 1".to_owned();
            faults.push(SettingsFault { path: path("page_size"), message });
        }
        if self.zones.is_empty() {
            let message = "a cloud needs at least one zone".to_owned();
            faults.push(SettingsFault { path: path("zones"), message });
        }
        for (at, rule) in self.faults.iter().enumerate() {
            let place = |key: &str| vec!["faults".to_owned(), at.to_string(), key.to_owned()];
            if !(0.0..=1.0).contains(&rule.chance) {
                let message = format!("{} is not a chance: from 0 to 1", rule.chance);
                faults.push(SettingsFault { path: place("chance"), message });
            }
            if !rule.fault.fits(rule.operation) {
                let message = format!("{} cannot happen to {}", rule.fault, rule.operation);
                faults.push(SettingsFault { path: place("fault"), message });
            }
        }
        faults
    }
}

/// What can be asked of the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Make an instance.
    Create,
    /// Delete an instance.
    Delete,
    /// Tell of an instance by its id.
    Get,
    /// Tell of an instance by its name.
    Find,
    /// Tell of all instances of an owner.
    List,
    /// Write tags onto an instance.
    Update,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Get => "get",
            Self::Find => "find",
            Self::List => "list",
            Self::Update => "update",
        })
    }
}

/// One thing that goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The call has no effect and is refused. `Unclear` is a request that was lost on its way.
    Error {
        /// As what.
        #[schemars(with = "String")]
        kind: BackendErrorKind,
        /// When the cloud asks to be called again. Default: it does not say.
        #[serde(default, with = "maybe_friendly")]
        #[schemars(with = "Option<String>")]
        retry_after: Option<Duration>,
    },
    /// The call has its effect; its answer is lost.
    LostReply,
    /// The call has its effect; nobody answers for this long, and then the connection ends.
    NoAnswer(
        #[serde(with = "friendly")]
        #[schemars(with = "String")]
        Duration,
    ),
    /// Only `create`: the answer is lost, and the instance appears this much later.
    Late(
        #[serde(with = "friendly")]
        #[schemars(with = "String")]
        Duration,
    ),
    /// Only `create`: the instance ends by itself.
    Dies {
        /// How long after it appeared.
        #[serde(with = "friendly")]
        #[schemars(with = "String")]
        after: Duration,
        /// In which way.
        how: Ending,
    },
    /// Only `get`, `find` and `list`: the answer shows what was so long ago. At most 10 min.
    Stale(
        #[serde(with = "friendly")]
        #[schemars(with = "String")]
        Duration,
    ),
    /// Only `list`: there is one more page, and it cannot be had.
    MissingPage,
}

impl Fault {
    /// Whether it can happen to an operation.
    pub const fn fits(&self, operation: Operation) -> bool {
        match self {
            Self::Error { .. } | Self::LostReply | Self::NoAnswer(_) => true,
            Self::Late(_) | Self::Dies { .. } => matches!(operation, Operation::Create),
            Self::Stale(_) => matches!(operation, Operation::Get | Operation::Find | Operation::List),
            Self::MissingPage => matches!(operation, Operation::List),
        }
    }
}

impl fmt::Display for Fault {
    /// The word that the books count it by.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error { kind, .. } => write!(f, "error {kind}"),
            Self::LostReply => f.write_str("lost_reply"),
            Self::NoAnswer(_) => f.write_str("no_answer"),
            Self::Late(_) => f.write_str("late"),
            Self::Dies { how, .. } => write!(f, "dies {how}"),
            Self::Stale(_) => f.write_str("stale"),
            Self::MissingPage => f.write_str("missing_page"),
        }
    }
}

/// How an instance ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It powered off.
    Stopped,
    /// It is gone without a trace.
    Vanished,
    /// It failed, for lack of room.
    NoCapacity,
    /// It failed, for a quota.
    QuotaExceeded,
    /// It failed: the cloud took it back.
    Reclaimed,
    /// It failed for another reason.
    Failed,
}

impl Ending {
    /// What the cloud tells of an instance that ended so; `None` where it tells nothing.
    pub(super) fn state(self) -> Option<InstanceState> {
        let failed = |kind, why: &str| Some(InstanceState::Failed(kind, why.to_owned()));
        match self {
            Self::Stopped => Some(InstanceState::Stopped),
            Self::Vanished => None,
            Self::NoCapacity => failed(InstanceFailure::NoCapacity, "no host had room for the instance"),
            Self::QuotaExceeded => failed(InstanceFailure::QuotaExceeded, "a quota did not allow it"),
            Self::Reclaimed => failed(InstanceFailure::Reclaimed, "the cloud took the instance back"),
            Self::Failed => failed(InstanceFailure::Other, "the host of the instance failed"),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Vanished => "vanished",
            Self::NoCapacity => "no_capacity",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Reclaimed => "reclaimed",
            Self::Failed => "failed",
        })
    }
}

/// A fault that happens by chance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// To which calls.
    pub operation: Operation,
    /// In which share of them, from 0 to 1.
    pub chance: f64,
    /// What happens.
    pub fault: Fault,
}

/// What becomes of one of the next calls of an operation: the body of `POST /script` holds several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scripted {
    /// Of which operation.
    pub operation: Operation,
    /// What goes wrong; nothing where none is given, whatever the chances.
    pub fault: Option<Fault>,
}

/// A change to a cloud's behaviour, as `POST /script` takes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// How it behaves from now on; unchanged where none is given.
    pub behaviour: Option<Behaviour>,
    /// What becomes of the next calls, in their order, beside those that are scripted already.
    pub next: Vec<Scripted>,
}
