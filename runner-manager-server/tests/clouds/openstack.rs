//! OpenStack: its real services.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cloud::{Cloud, Machine, SECRET, SETTLE, Wrong, groups, printed, script};
use crate::fault_proxy::Seen;

suite!(Openstack);

/// Where the services are.
struct Openstack {
    clouds: String,
    python: String,
}

impl Openstack {
    fn text(&self) -> String {
        std::fs::read_to_string(&self.clouds).unwrap()
    }

    fn keystone(&self) -> String {
        let text = self.text();
        text.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap().to_owned()
    }
}

/// The settings of a backend that is a cloud of a file.
fn of_file(cloud: &str, clouds: &str) -> String {
    format!("{{kind: openstack, cloud: {cloud}, clouds_file: {clouds}, timeout: 1m, settle: {SETTLE}}}")
}

/// The settings of a backend that signs in with a password.
fn by_password(url: &str) -> String {
    let who = "username: runner, project_name: runners";
    format!("{{kind: openstack, auth: {{auth_url: '{url}', {who}, password: {SECRET}}}}}")
}

impl Cloud for Openstack {
    async fn find(_deployment: &str) -> Option<Self> {
        let [clouds, python] = printed("openstack", "OPENSTACK_PEER", ["CLOUDS", "PYTHON"])?;
        Some(Self { clouds, python })
    }

    fn script(&self, name: &str) -> Command {
        script(&self.python, "openstack", name)
    }

    /// Nova, which is beside Keystone.
    fn service(&self) -> String {
        let keystone = reqwest::Url::parse(&self.keystone()).unwrap();
        format!("http://127.0.0.1:{}", keystone.port().unwrap() + 1)
    }

    fn creates(seen: &Seen) -> bool {
        seen.method == http::Method::POST && seen.path == "/v2.1/servers"
    }

    fn removes(seen: &Seen) -> bool {
        seen.method == http::Method::DELETE && seen.path.starts_with("/v2.1/servers/")
    }

    fn backend(&self, url: &str, folder: &Path) -> String {
        let (head, file) = ("  runners:\n", folder.join("clouds.yaml"));
        let here = format!("{head}    compute_endpoint_override: {url}/v2.1\n");
        std::fs::write(&file, self.text().replacen(head, &here, 1)).unwrap();
        of_file("runners", file.to_str().unwrap())
    }

    fn placement(&self) -> String {
        "flavor: m1.tiny, image: debian-12, networks: [runners-net]".to_owned()
    }

    fn machines(told: &Value) -> Vec<Machine> {
        let servers = told["servers"].as_array().unwrap().iter();
        servers.map(|server| Machine::read(server, "id", "metadata")).collect()
    }

    /// Ports that no server has.
    fn left(told: &Value, deployment: &str) -> Vec<Value> {
        let ports = told["ports"].as_array().unwrap().iter();
        ports.filter(|port| port["name"].as_str().unwrap().starts_with(deployment)).cloned().collect()
    }

    async fn wrong(&self) -> Wrong {
        let backends = vec![
            ("os", of_file("runners", &self.clouds)),
            ("reader", of_file("reader", &self.clouds)),
            ("broke", of_file("broke", &self.clouds)),
            ("stranger", by_password(&self.keystone())),
            ("nobody", by_password("http://127.0.0.1:1/v3")),
        ];
        Wrong { backends, groups: groups(&WRONG, str::to_owned), _proxies: Vec::new() }
    }
}

const WRONG: [(&str, &str, &str, Option<&str>, &str); 8] = [
    (
        "image",
        "os",
        "flavor: m1.tiny, image: no-such",
        Some("there is no image no-such"),
        "there is no image no-such",
    ),
    (
        "flavor",
        "os",
        "flavor: no-such, image: debian-12",
        Some("there is no flavor no-such"),
        "there is no flavor no-such",
    ),
    (
        "network",
        "os",
        "flavor: m1.tiny, image: debian-12, networks: [no-such]",
        Some("there is no network no-such"),
        "there is no network no-such",
    ),
    (
        "zone",
        "os",
        "flavor: m1.tiny, image: debian-12, availability_zone: no-such",
        Some("there is no availability zone no-such; there are: "),
        "The requested availability zone is not available",
    ),
    (
        "rights",
        "reader",
        "flavor: m1.tiny, image: debian-12",
        Some("the user has the role `reader` alone"),
        "Policy doesn't allow os_compute_api:servers:create",
    ),
    (
        "quota",
        "broke",
        "flavor: m1.tiny, image: debian-12, networks: [broke-net]",
        Some("the quota allows 0 instances"),
        "Quota exceeded for instances",
    ),
    (
        "password",
        "stranger",
        "flavor: m1.tiny, image: debian-12",
        Some("Keystone refuses who signs in"),
        "Keystone refuses who signs in",
    ),
    (
        "nobody",
        "nobody",
        "flavor: m1.tiny, image: debian-12",
        Some("the service cannot be reached"),
        "the service cannot be reached",
    ),
];
