//! What is different from cloud to cloud.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::fault_proxy::{Proxy, Seen};

/// How long after a request a cloud may still make a machine of it, as the backends are told: longer than
/// what the cases hold requests up for.
pub(crate) const SETTLE: &str = "15s";

/// A cloud's peer, as its `up` started it, and a place there for one deployment.
pub(crate) trait Cloud: Sized {
    /// `None` where none runs.
    async fn find(deployment: &str) -> Option<Self>;

    /// A script of the peer's, which takes the deployment next.
    fn script(&self, name: &str) -> Command;

    /// Where the service that makes machines is.
    fn service(&self) -> String;

    /// Whether a request is for a new machine.
    fn creates(seen: &Seen) -> bool;

    /// Whether a request removes a machine.
    fn removes(seen: &Seen) -> bool;

    /// The settings of a backend that asks for machines at an address, as they stand in a configuration. The
    /// folder may hold files that they name.
    fn backend(&self, url: &str, folder: &Path) -> String;

    /// The settings of a placement on it.
    fn placement(&self) -> String;

    /// The machines that have not gone, of what `look.py` told.
    fn machines(told: &Value) -> Vec<Machine>;

    /// What a deployment left beside machines, of what `look.py` told.
    fn left(_told: &Value, _deployment: &str) -> Vec<Value> {
        Vec::new()
    }

    /// What can be wrong.
    async fn wrong(&self) -> Wrong;
}

/// A machine, as a client that is not ours tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) id: String,
    /// Of the runner's group.
    pub(crate) group: String,
}

impl Machine {
    /// Of a cloud's answer that has an id and marks.
    pub(crate) fn read(told: &Value, id: &str, marks: &str) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text: {told:#}")).to_owned();
        Self { id: text(&told[id]), group: text(&told[marks]["runner-manager-group"]) }
    }
}

/// The secret of backends whose answers and logs are searched for it.
pub(crate) const SECRET: &str = "hunter2-hunter2-hunter2";

/// Backends, and groups in which something is wrong.
pub(crate) struct Wrong {
    /// Their settings by their names; in the first nothing is wrong.
    pub(crate) backends: Vec<(&'static str, String)>,
    pub(crate) groups: Vec<Group>,
    /// What plays part of the cloud.
    pub(crate) _proxies: Vec<Proxy>,
}

/// A group in which one thing is wrong.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) backend: &'static str,
    pub(crate) placement: String,
    /// What `check --online` tells; what only a request for a machine meets is not told.
    pub(crate) told: Option<&'static str>,
    /// What blocks the group.
    pub(crate) why: &'static str,
}

/// The groups of a table: name, backend, placement, what is told, and what blocks.
pub(crate) fn groups(
    table: &[(&'static str, &'static str, &str, Option<&'static str>, &'static str)],
    placement: impl Fn(&str) -> String,
) -> Vec<Group> {
    let group = |&(name, backend, settings, told, why): &_| {
        let placement = placement(settings);
        Group { name, backend, placement, told, why }
    };
    table.iter().map(group).collect()
}

/// What a peer's `up` printed, by the rest of its name; `None` where it did not run.
pub(crate) fn printed<const N: usize>(peer: &str, prefix: &str, names: [&str; N]) -> Option<[String; N]> {
    let of = |name: &str| std::env::var(format!("{prefix}_{name}"));
    if of(names[0]).is_err() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{prefix}_{} is not set", names[0]);
        eprintln!("skipped: no peer runs (scripts/peers/{peer}/up)");
        return None;
    }
    Some(names.map(|name| of(name).unwrap_or_else(|_| panic!("{prefix}_{name} is not set"))))
}

/// A command of a peer's script. None outlives any case, nor by long the request to end.
pub(crate) fn script(python: &str, peer: &str, name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args([
        "--kill-after=10s",
        "15m",
        python,
        "-B",
        &format!("{}/../scripts/peers/{peer}/{name}", env!("CARGO_MANIFEST_DIR")),
    ]);
    command
}
