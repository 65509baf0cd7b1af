//! The policy of docs/backends/aws.md, on a moto that looks at credentials: it is enough, and nothing of it can be left out.
//!
//! moto looks at the actions of a policy alone. What it says of resources and conditions is not tested.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use runner_manager_core::backend::{Activity, BackendErrorKind};
use runner_manager_core::domain::{InstanceState, Phase};
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

/// A moto with a user for each policy, for as long as it is held.
struct Guarded {
    child: Child,
    url: String,
    placement: Value,
    keys: Vec<Value>,
}

impl Guarded {
    fn start(peer: &Peer, policies: &[Value]) -> Self {
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

#[tokio::test]
async fn the_documented_policy_is_enough_and_least() {
    let Some(peer) = Peer::find() else { return };
    let actions = [
        "ec2:RunInstances",
        "ec2:DescribeInstances",
        "ec2:TerminateInstances",
        "ec2:CreateTags",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeSubnets",
        "ec2:DescribeAccountAttributes",
    ];
    let policies: Vec<Value> = std::iter::once(documented()).chain(actions.map(without)).collect();
    let guarded = Guarded::start(&peer, &policies);
    let owner = owner("acme", "key");
    let backend = connect(&guarded.settings(0)).await;
    let spec = spec(owner.clone(), "acme-linux-1", &guarded.placement);
    let made = backend.create(&spec).await.unwrap();
    assert_eq!(backend.get(&made.id).await.unwrap().unwrap().state, InstanceState::Running);
    assert!(backend.find(&spec.runner).await.unwrap().is_some());
    assert_eq!(backend.list(&owner).await.unwrap().len(), 1);
    backend.update(&made.id, &Activity { phase: Phase::Idle, job: None }).await.unwrap();
    let placement = placement(&guarded.placement);
    assert_eq!(backend.validate(&placement).await.unwrap(), Vec::<String>::new());
    for (number, action) in actions.iter().enumerate() {
        let said = connect(&guarded.settings(number + 1)).await.validate(&placement).await.unwrap();
        assert!(
            said.iter().any(|said| said.contains(&format!("may not do {action}:"))),
            "{action}: {said:?}"
        );
    }
    backend.delete(&made.id).await.unwrap();

    let mut wrong = guarded.settings(0);
    wrong["access_key"]["secret"] = json!("another-secret");
    let error = connect(&wrong).await.create(&spec).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unauthenticated, "{error}");
    assert!(!error.to_string().contains("another-secret"), "{error}");
    let denied = connect(&guarded.settings(1)).await.create(&spec).await.unwrap_err();
    assert_eq!(denied.kind, BackendErrorKind::PermissionDenied, "{denied}");
}
