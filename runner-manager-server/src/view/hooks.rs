//! What is told of GitHub's hooks that may lead here.

use jiff::Timestamp;
use runner_manager_core::domain::{FoundHook, HookRecord, Redelivery};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Time;

/// A place that may have a hook that leads here.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Hook {
    /// The scope, or `app:CONNECTION/NUMBER`.
    pub(crate) place: String,
    /// Whether a hook leads here; null before anybody looked, and where GitHub does not say.
    pub(crate) leads_here: Option<bool>,
    /// When the log of its deliveries was last read.
    #[schemars(with = "Option<Time>")]
    pub(crate) read_at: Option<Timestamp>,
    /// How many failed deliveries GitHub has yet to be asked for again.
    pub(crate) failed: usize,
    /// Why it cannot be read, in words; null where it can.
    pub(crate) trouble: Option<String>,
}

impl From<HookRecord> for Hook {
    fn from(record: HookRecord) -> Self {
        let is_open = |redelivery: &Redelivery| match redelivery {
            Redelivery::Due | Redelivery::Asking { .. } => true,
            Redelivery::Asked { .. } | Redelivery::Over => false,
        };
        Self {
            place: record.place.to_string(),
            leads_here: record.found.map(|found| found != FoundHook::Absent),
            read_at: record.read_at,
            failed: record.failed.values().filter(|failed| is_open(&failed.redelivery)).count(),
            trouble: record.trouble,
        }
    }
}
