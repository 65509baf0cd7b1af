//! vSphere: vCenter as vcsim simulates it, where a clone has ended when its call returns. And a kill while it
//! is followed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cloud::{Cloud, Machine, SECRET, SETTLE, Wrong, groups, printed, script};
use crate::fault_proxy::{Harm, Seen};
use crate::world::World;

suite!(Vsphere);

/// Where vcsim is.
struct Vsphere {
    /// With the path of its SDK.
    url: String,
    ca_file: String,
    thumbprint: String,
    python: String,
}

/// The settings of a backend that signs in with a password, and others of its own.
fn backend(url: &str, password: &str, own: &str) -> String {
    let who = format!("url: '{url}', username: peer, password: {password}");
    format!("{{kind: vsphere, {who}, timeout: 1m, clone_timeout: {SETTLE}{own}}}")
}

impl Cloud for Vsphere {
    async fn find(_deployment: &str) -> Option<Self> {
        let names = ["URL", "CA_FILE", "THUMBPRINT", "PYTHON"];
        let [url, ca_file, thumbprint, python] = printed("vcsim", "VCSIM", names)?;
        Some(Self { url, ca_file, thumbprint, python })
    }

    fn script(&self, name: &str) -> Command {
        script(&self.python, "vcsim", name)
    }

    fn service(&self) -> String {
        self.url.trim_end_matches("/sdk").to_owned()
    }

    fn creates(seen: &Seen) -> bool {
        seen.says("<CloneVM_Task ")
    }

    fn removes(seen: &Seen) -> bool {
        seen.says("<Destroy_Task ")
    }

    fn backend(&self, url: &str, _folder: &Path) -> String {
        backend(url, "peer", "")
    }

    fn placement(&self) -> String {
        "template: runner-template, cluster: DC0_C0, datastore: LocalDS_0".to_owned()
    }

    fn machines(told: &Value) -> Vec<Machine> {
        let machines = told.as_array().unwrap().iter();
        machines.map(|machine| Machine::read(machine, "reference", "options")).collect()
    }

    async fn wrong(&self) -> Wrong {
        let trusted = format!(", ca_file: {}", self.ca_file);
        let another = format!(", thumbprint: 'FF{}'", &self.thumbprint[2..]);
        let with = |own: &str| backend(&self.url, "peer", &format!("{trusted}{own}"));
        let backends = vec![
            ("vc", with("")),
            ("folderless", with(", folder: no-such")),
            ("elsewhere", with(", datacenter: no-such")),
            ("stranger", backend(&self.url, SECRET, &trusted)),
            ("impostor", backend(&self.url, "peer", &another)),
            ("unknown", backend(&self.url, "peer", "")),
            ("nobody", backend("https://127.0.0.1:1", "peer", &trusted)),
        ];
        Wrong { backends, groups: groups(&WRONG, str::to_owned), _proxies: Vec::new() }
    }
}

const GOOD: &str = "template: runner-template, cluster: DC0_C0";

const WRONG: [(&str, &str, &str, Option<&str>, &str); 10] = [
    (
        "template",
        "vc",
        "template: no-such, cluster: DC0_C0",
        Some("there is no template no-such in datacenter DC0"),
        "there is no template no-such in datacenter DC0",
    ),
    (
        "cluster",
        "vc",
        "template: runner-template, cluster: no-such",
        Some("there is no cluster no-such in datacenter DC0"),
        "there is no cluster no-such in datacenter DC0",
    ),
    (
        "datastore",
        "vc",
        "template: runner-template, cluster: DC0_C0, datastore: no-such",
        Some("there is no datastore no-such in datacenter DC0"),
        "there is no datastore no-such in datacenter DC0",
    ),
    (
        "network",
        "vc",
        "template: runner-template, cluster: DC0_C0, network: no-such",
        Some("there is no network no-such in datacenter DC0"),
        "there is no network no-such in datacenter DC0",
    ),
    (
        "folder",
        "folderless",
        GOOD,
        Some("there is no folder no-such in datacenter DC0"),
        "there is no folder no-such in datacenter DC0",
    ),
    (
        "datacenter",
        "elsewhere",
        GOOD,
        Some("there is no datacenter no-such"),
        "there is no datacenter no-such",
    ),
    ("password", "stranger", GOOD, Some("username or password is wrong"), "username or password is wrong"),
    (
        "thumbprint",
        "impostor",
        GOOD,
        Some("the server's certificate has the thumbprint"),
        "the server's certificate has the thumbprint",
    ),
    ("signed", "unknown", GOOD, Some("ca_file or thumbprint"), "ca_file or thumbprint"),
    ("nobody", "nobody", GOOD, Some("vCenter cannot be reached"), "vCenter cannot be reached"),
];

/// vCenter took the clone on, and the manager dies before it hears of its end.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_clone_is_followed_makes_one_machine() {
    let Some(mut world) = World::<Vsphere>::start().await else { return };
    let follows = |seen: &Seen| seen.says("<WaitForUpdatesEx ");
    world.harm_where(follows, "held end", Harm::HoldReply(Duration::from_mins(5)));
    world.queue(1, 2).await;
    world.until("its end is held", async || world.harmed("held end") == 1).await;
    let made = world.machine_is_made().await;
    world.kill();
    world.restart();
    world.its_job_runs_on(&made).await;
}
