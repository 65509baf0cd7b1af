//! What is wrong with a backend or a placement: `check --online` names each, and `serve` blocks that group with that
//! reason while the others go on.

use serde_json::Value;
use tempfile::TempDir;

use runner_manager_core::testing::simulator::DEFAULT_TOKEN;

use crate::fault_proxy::{Harm, Proxy};
use crate::support::{Listening, TOKEN, WEBHOOK_SECRET, client, output, write};
use crate::world::{Peer, backend};

/// A group a fault: its name, its backend, its placement, what `check --online` tells, and what blocks the group.
const WRONG: [(&str, &str, &str, &str, &str); 8] = [
    (
        "image",
        "eu",
        "instance_types: t3.small, image: ami-00000000000000000, subnets: SUBNET",
        "there is no image ami-00000000000000000",
        "InvalidAMIID.NotFound",
    ),
    (
        "parameter",
        "eu",
        "instance_types: t3.small, image: 'ssm:/no/such', subnets: SUBNET",
        "there is no parameter /no/such",
        "there is no parameter /no/such",
    ),
    ("type", "eu", "instance_types: no.such, image: IMAGE, subnets: SUBNET", "no.such", "no.such"),
    (
        "subnet",
        "eu",
        "instance_types: t3.small, image: IMAGE, subnets: subnet-00000000000000000",
        "subnet-00000000000000000",
        "InvalidSubnetID.NotFound",
    ),
    (
        "rights",
        "denied",
        "instance_types: t3.small, image: IMAGE, subnets: SUBNET",
        "the credentials may not do ec2:RunInstances",
        "UnauthorizedOperation",
    ),
    (
        "quota",
        "broke",
        "instance_types: t3.small, image: IMAGE, subnets: SUBNET",
        "the account's quota allows 0 instances",
        "VcpuLimitExceeded",
    ),
    (
        "credentials",
        "stranger",
        "instance_types: t3.small, image: IMAGE, subnets: SUBNET",
        "AuthFailure",
        "AuthFailure",
    ),
    (
        "nobody",
        "nobody",
        "instance_types: t3.small, image: IMAGE, subnets: SUBNET",
        "the service cannot be reached",
        "the service cannot be reached",
    ),
];

/// What moto does not refuse: proxies before it do.
struct Refusing {
    denied: Proxy,
    broke: Proxy,
    stranger: Proxy,
}

fn refusal(status: u16, code: &str) -> Harm {
    let body = format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>a message</Message></Error></Errors>\
         <RequestID>r</RequestID></Response>"
    );
    Harm::Answer { status, body: body.into() }
}

impl Refusing {
    async fn new(peer: &Peer) -> Self {
        let denied = Proxy::before(&peer.url, |seen| {
            seen.says("Action=RunInstances&").then(|| ("denied", refusal(403, "UnauthorizedOperation")))
        });
        let broke = Proxy::before(&peer.url, |seen| {
            let attributes = "<DescribeAccountAttributesResponse><accountAttributeSet><item><attributeName>max-instances\
                              </attributeName><attributeValueSet><item><attributeValue>0</attributeValue></item>\
                              </attributeValueSet></item></accountAttributeSet></DescribeAccountAttributesResponse>";
            if seen.says("Action=DescribeAccountAttributes&") {
                return Some(("quota", Harm::Answer { status: 200, body: attributes.into() }));
            }
            let runs = seen.says("Action=RunInstances&") && !seen.says("DryRun=true");
            runs.then(|| ("quota", refusal(400, "VcpuLimitExceeded")))
        });
        let stranger = Proxy::before(&peer.url, |_| Some(("stranger", refusal(401, "AuthFailure"))));
        Self { denied: denied.await, broke: broke.await, stranger: stranger.await }
    }
}

fn configuration(peer: &Peer, refusing: &Refusing, github: &str) -> String {
    let backends: Vec<String> = [
        ("eu", peer.url.as_str()),
        ("denied", refusing.denied.url.as_str()),
        ("broke", refusing.broke.url.as_str()),
        ("stranger", refusing.stranger.url.as_str()),
        ("nobody", "http://127.0.0.1:1"),
    ]
    .iter()
    .map(|(name, url)| format!("  {name}: {}\n", backend(url).replace("peer-secret", SECRET)))
    .collect();
    let groups: Vec<String> = WRONG
        .iter()
        .map(|(name, backend, placement, ..)| {
            let placement = placement.replace("IMAGE", &peer.image).replace("SUBNET", &peer.subnet);
            format!("  - {{name: {name}, organization: acme, labels: [{name}], max: 2, placements: [{{backend: {backend}, {placement}}}]}}\n")
        })
        .collect();
    format!(
        "
name: wrong
secret_key: a-secret-key-of-the-tests-0123456789
server:
  listen: 127.0.0.1:0
  webhook_secret: {WEBHOOK_SECRET}
  tokens: [{{name: tests, role: viewer, token: {TOKEN}}}]
store: {{kind: embedded, path: store.redb}}
github: {{api_url: '{github}', token: {DEFAULT_TOKEN}}}
backends:
  fake: {{kind: fake}}
{}runner_groups:
  - {{name: good, organization: acme, labels: [good], max: 2, min_idle: 1, placements: [{{backend: fake}}]}}
{}",
        backends.concat(),
        groups.concat()
    )
}

/// The key that the backends are given.
const SECRET: &str = "hunter2-hunter2-hunter2";

#[tokio::test(flavor = "multi_thread")]
async fn check_online_names_each() {
    let Some(peer) = Peer::find() else { return };
    let refusing = Refusing::new(&peer).await;
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    let config = write(&folder, &configuration(&peer, &refusing, &github.url));
    let checked = output(&["check", "--config", &config, "--online", "--json"]);
    assert_eq!(checked.status.code(), Some(1), "{}", String::from_utf8_lossy(&checked.stderr));
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let findings = report["online"].as_array().unwrap();
    for (group, backend, _, told, _) in WRONG {
        let subject = |finding: &&Value| {
            let subject = finding["subject"].as_str().unwrap();
            subject.contains(&format!(" of {group} on {backend}"))
        };
        let finding =
            findings.iter().find(subject).unwrap_or_else(|| panic!("nothing of {group}: {findings:#?}"));
        let missing = finding["missing"].as_array().unwrap();
        assert!(missing.iter().any(|what| what.as_str().unwrap().contains(told)), "{group}: {finding:#}");
        assert!(!finding.to_string().contains(SECRET));
    }
    let good = findings.iter().find(|finding| finding["subject"] == "backend eu").unwrap();
    assert_eq!(good["missing"].as_array().unwrap().len(), 0, "{good:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_blocks_each_group_with_its_reason_and_the_others_go_on() {
    let Some(peer) = Peer::find() else { return };
    let refusing = Refusing::new(&peer).await;
    let folder = TempDir::new().unwrap();
    let github = Listening::start(&folder, "github", &["github-simulator"]);
    // Each group wants one runner from the start.
    let configuration = configuration(&peer, &refusing, &github.url)
        .replace("max: 2, placements", "max: 2, min_idle: 1, placements");
    let config = write(&folder, &configuration);
    let manager =
        Listening::start(&folder, "manager", &["serve", "--config", &config, "--log-format", "json"]);
    let (client, url) = (client(), format!("{}/api/v1/groups", manager.url));
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(4);
    loop {
        let answer = client.get(&url).bearer_auth(TOKEN).send().await.unwrap();
        let groups: Value = answer.json().await.unwrap();
        let group = |name: &str| {
            let all = groups["items"].as_array().or(groups.as_array()).unwrap();
            all.iter().find(|group| group["name"] == name).unwrap().clone()
        };
        let blocked = |(name, _, _, _, why): &(&str, &str, &str, &str, &str)| {
            let group = group(name);
            let trouble = &group["placements"][0]["trouble"];
            // Three failures in a row open the breaker.
            let open = !group["blocked"].is_null() && trouble["failures"].as_u64() >= Some(3);
            open && trouble["detail"].as_str().unwrap().contains(why)
        };
        let good = group("good");
        if WRONG.iter().all(blocked) && good["alive"] == 1 && good["blocked"].is_null() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "not in time: {groups:#}");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    assert!(!manager.log().contains(SECRET));
}
