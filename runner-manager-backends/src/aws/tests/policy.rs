//! The policy of docs/backends/aws.md, on a moto that looks at credentials: it is enough, and nothing of it can be left out.
//!
//! moto looks at the actions of a policy alone. What it says of resources and conditions is not tested.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::domain::InstanceState;
use serde_json::{Value, json};

use super::peer::Peer;
use super::{connect, owner, placement, spec};

/// The policy as the docs have it, for any resource.
fn documented() -> Value {
    let page = include_str!("../../../../docs/backends/aws.md");
    let (_, rest) = page.split_once("```json\n").unwrap();
    let mut policy: Value = serde_json::from_str(rest.split("```").next().unwrap()).unwrap();
    for statement in policy["Statement"].as_array_mut().unwrap() {
        statement["Resource"] = json!("*");
    }
    policy
}

/// What it allows.
fn allowed() -> BTreeSet<String> {
    let policy = documented();
    let statements = policy["Statement"].as_array().unwrap().iter();
    let actions = statements.flat_map(|statement| match &statement["Action"] {
        Value::Array(actions) => actions.clone(),
        one => vec![one.clone()],
    });
    actions.map(|action| action.as_str().unwrap().to_owned()).collect()
}

fn without(action: &str) -> Value {
    let mut policy = documented();
    for statement in policy["Statement"].as_array_mut().unwrap() {
        match &mut statement["Action"] {
            Value::Array(actions) => actions.retain(|one| one != action),
            one if one == action => *one = json!("ec2:Nothing"),
            _ => {}
        }
    }
    policy
}

/// A moto with a user for each policy, or for everybody without any, for as long as it is held.
pub(super) struct Guarded {
    child: Child,
    url: String,
    placement: Value,
    keys: Vec<Value>,
}

impl Guarded {
    pub(super) fn start(peer: &Peer, policies: &[Value]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/peers/moto/guarded.py");
        let mut child = Command::new(&peer.python)
            .args(["-B", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines: Vec<String> = policies.iter().map(|policy| format!("{policy}\n")).collect();
        let lines = lines.concat();
        child.stdin.as_mut().unwrap().write_all(format!("{lines}\n").as_bytes()).unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut words = || -> Vec<String> {
            let line = told.next().unwrap().unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        let first = words();
        let placement = json!({"instance_types": "t3.small", "image": first[1], "subnets": first[2], "root_volume": {"size_gib": 9}});
        let keys =
            policies.iter().map(|_| words()).map(|key| json!({"id": key[0], "secret": key[1]})).collect();
        Self { child, url: first[0].clone(), placement, keys }
    }

    /// The moto of all tests with this one in its place.
    pub(super) fn instead_of(&self, peer: Peer) -> Peer {
        let text = |key: &str| self.placement[key].as_str().unwrap().to_owned();
        Peer {
            url: self.url.clone(),
            image: text("image"),
            subnets: [text("subnets"), text("subnets")],
            ..peer
        }
    }

    fn settings(&self, user: usize) -> Value {
        let mut settings = Peer::settings(&self.url);
        settings["access_key"] = self.keys[user].clone();
        settings
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is not tested here: moto does not ask for the first of them where an instance is to be made with tags, and the others are
/// for placements that name more (played.rs).
const ELSEWHERE: [&str; 5] = [
    "ec2:CreateTags",
    "ec2:DescribeKeyPairs",
    "ec2:DescribeLaunchTemplateVersions",
    "ec2:DescribePlacementGroups",
    "ec2:DescribeSecurityGroups",
];

#[tokio::test]
async fn the_documented_policy_is_enough_and_least() {
    let Some(peer) = Peer::find() else { return };
    let actions = [
        "ec2:RunInstances",
        "ec2:DescribeInstances",
        "ec2:TerminateInstances",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeSubnets",
    ];
    let quotas = "servicequotas:GetServiceQuota";
    let tested = actions.into_iter().chain([quotas]).chain(ELSEWHERE);
    assert_eq!(tested.map(str::to_owned).collect::<BTreeSet<_>>(), allowed());
    let policies: Vec<Value> =
        [documented(), without(quotas)].into_iter().chain(actions.map(without)).collect();
    let guarded = Guarded::start(&peer, &policies);
    let owner = owner("acme", "key");
    let backend = connect(&guarded.settings(0)).await;
    let spec = spec(owner.clone(), "acme-linux-1", &guarded.placement);
    let made = backend.create(&spec).await.unwrap();
    assert_eq!(backend.get(&made.id).await.unwrap().unwrap().state, InstanceState::Running);
    assert!(backend.find(&spec.runner).await.unwrap().is_some());
    assert_eq!(backend.list(&owner).await.unwrap().len(), 1);
    let placement = placement(&guarded.placement);
    assert_eq!(backend.validate(&placement).await.unwrap(), Vec::<String>::new());
    for (number, action) in actions.iter().enumerate() {
        let said = connect(&guarded.settings(number + 2)).await.validate(&placement).await.unwrap();
        assert!(
            said.iter().any(|said| said.contains(&format!("may not do {action}:"))),
            "{action}: {said:?}"
        );
    }
    // It may look at quotas, of which moto has none. Nothing is missing for who may not; moto refuses that in XML, which Service
    // Quotas does not speak: how the refusal is told is tested in quotas.rs.
    let told = backend.remarks(&placement, 1).await.unwrap();
    assert!(told.len() == 1 && told[0].contains("NoSuchResourceException"), "{told:?}");
    let without_quotas = connect(&guarded.settings(1)).await;
    assert_eq!(without_quotas.validate(&placement).await.unwrap(), Vec::<String>::new());
    let told = without_quotas.remarks(&placement, 1).await.unwrap();
    assert!(told.len() == 1 && !told[0].contains("NoSuchResourceException"), "{told:?}");
    backend.delete(&made.id).await.unwrap();

    let mut wrong = guarded.settings(0);
    wrong["access_key"]["secret"] = json!("another-secret");
    let error = connect(&wrong).await.create(&spec).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unauthenticated, "{error}");
    assert!(!error.to_string().contains("another-secret"), "{error}");
    let denied = connect(&guarded.settings(2)).await.create(&spec).await.unwrap_err();
    assert_eq!(denied.kind, BackendErrorKind::PermissionDenied, "{denied}");
}
