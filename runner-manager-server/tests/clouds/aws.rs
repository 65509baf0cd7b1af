//! EC2, as moto simulates it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cloud::{Cloud, Machine, SECRET, SETTLE, Wrong, groups, printed, script};
use crate::fault_proxy::{Harm, Proxy, Seen};

suite!(Aws);

/// Where moto is, and what it was seeded with.
struct Aws {
    url: String,
    image: String,
    subnet: String,
    python: String,
}

/// The settings of a backend that asks at an address.
fn backend(url: &str) -> String {
    let key = format!("{{id: peer, secret: {SECRET}}}");
    let endpoints = format!("{{ec2: '{url}', servicequotas: '{url}', ssm: '{url}', sts: '{url}'}}");
    format!(
        "{{kind: aws, region: us-east-1, access_key: {key}, endpoints: {endpoints}, timeout: 1m, \
         settle: {SETTLE}}}"
    )
}

impl Cloud for Aws {
    async fn find(_deployment: &str) -> Option<Self> {
        let [url, image, subnet, python] = printed("moto", "MOTO", ["URL", "IMAGE", "SUBNET_A", "PYTHON"])?;
        Some(Self { url, image, subnet, python })
    }

    fn script(&self, name: &str) -> Command {
        let mut command = script(&self.python, "moto", name);
        command.env("MOTO_URL", &self.url);
        command
    }

    fn service(&self) -> String {
        self.url.clone()
    }

    fn creates(seen: &Seen) -> bool {
        seen.says("Action=RunInstances&")
    }

    fn removes(seen: &Seen) -> bool {
        seen.says("Action=TerminateInstances&")
    }

    fn backend(&self, url: &str, _folder: &Path) -> String {
        backend(url)
    }

    fn placement(&self) -> String {
        format!("instance_types: [t3.small], image: {}, subnets: [{}]", self.image, self.subnet)
    }

    fn machines(told: &Value) -> Vec<Machine> {
        let instances = told["instances"].as_array().unwrap().iter();
        let living = instances.filter(|instance| instance["state"] != "terminated");
        living.map(|instance| Machine::read(instance, "id", "tags")).collect()
    }

    fn left(told: &Value, _deployment: &str) -> Vec<Value> {
        told["volumes"].as_array().unwrap().clone()
    }

    async fn wrong(&self) -> Wrong {
        let [denied, broke, stranger] = refusing(&self.url).await;
        let backends = [
            ("eu", self.url.as_str()),
            ("denied", denied.url.as_str()),
            ("broke", broke.url.as_str()),
            ("stranger", stranger.url.as_str()),
            ("nobody", "http://127.0.0.1:1"),
        ];
        let backends = backends.map(|(name, url)| (name, backend(url))).into();
        let groups = groups(&WRONG, |placement| {
            placement.replace("IMAGE", &self.image).replace("SUBNET", &self.subnet)
        });
        Wrong { backends, groups, _proxies: vec![denied, broke, stranger] }
    }
}

const WRONG: [(&str, &str, &str, Option<&str>, &str); 8] = [
    (
        "image",
        "eu",
        "instance_types: t3.small, image: ami-00000000000000000, subnets: SUBNET",
        Some("there is no image ami-00000000000000000"),
        "InvalidAMIID.NotFound",
    ),
    (
        "parameter",
        "eu",
        "instance_types: t3.small, image: 'ssm:/no/such', subnets: SUBNET",
        Some("there is no parameter /no/such"),
        "there is no parameter /no/such",
    ),
    ("type", "eu", "instance_types: no.such, image: IMAGE, subnets: SUBNET", Some("no.such"), "no.such"),
    (
        "subnet",
        "eu",
        "instance_types: t3.small, image: IMAGE, subnets: subnet-00000000000000000",
        Some("subnet-00000000000000000"),
        "InvalidSubnetID.NotFound",
    ),
    (
        "rights",
        "denied",
        "instance_types: t3.small, image: IMAGE, subnets: SUBNET",
        Some("the credentials may not do ec2:RunInstances"),
        "UnauthorizedOperation",
    ),
    (
        "quota",
        "broke",
        "instance_types: t3.small, image: IMAGE, subnets: SUBNET",
        Some("the quota `Running On-Demand Standard instances` (L-1216C47A) allows 0 processors"),
        "VcpuLimitExceeded",
    ),
    (
        "credentials",
        "stranger",
        "instance_types: t3.small, image: IMAGE, subnets: SUBNET",
        Some("AuthFailure"),
        "AuthFailure",
    ),
    (
        "nobody",
        "nobody",
        "instance_types: t3.small, image: IMAGE, subnets: SUBNET",
        Some("the service cannot be reached"),
        "the service cannot be reached",
    ),
];

fn refusal(status: u16, code: &str) -> Harm {
    let body = format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>a message</Message></Error></Errors>\
         <RequestID>r</RequestID></Response>"
    );
    Harm::Answer { status, body: body.into() }
}

/// What moto does not refuse, proxies before it do: who may start nothing, who has no quota, and who is not
/// known.
async fn refusing(url: &str) -> [Proxy; 3] {
    let denied = Proxy::before(url, |seen| {
        seen.says("Action=RunInstances&").then(|| ("denied", refusal(403, "UnauthorizedOperation")))
    });
    let broke = Proxy::before(url, |seen| {
        let zero = r#"{"Quota": {"QuotaName": "Running On-Demand Standard instances", "Value": 0.0}}"#;
        let target = seen.headers.get("x-amz-target").map(http::HeaderValue::as_bytes);
        if target == Some(b"ServiceQuotasV20190624.GetServiceQuota") && seen.says("L-1216C47A") {
            return Some(("quota", Harm::Answer { status: 200, body: zero.into() }));
        }
        let runs = seen.says("Action=RunInstances&") && !seen.says("DryRun=true");
        runs.then(|| ("quota", refusal(400, "VcpuLimitExceeded")))
    });
    let stranger = Proxy::before(url, |_| Some(("stranger", refusal(401, "AuthFailure"))));
    [denied.await, broke.await, stranger.await]
}
