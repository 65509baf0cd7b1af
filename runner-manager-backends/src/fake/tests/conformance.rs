//! Both suites, in process with a simulated clock, with the cloud as it is by default and as a slow one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use runner_manager_core::backend::{Backend, BackendKind};
use runner_manager_core::clock::{Clock, SimulatedClock};
use runner_manager_core::domain::Instance;
use runner_manager_core::random::SeededRandom;
use runner_manager_core::testing::conformance::backend::{Hooks, NoSuchHook, Subject, cases};
use runner_manager_core::testing::conformance::{backend_kind, run};
use serde_json::json;

use super::super::{Behaviour, FakeBackend, FakeCloud, FakeKind, Fault, Operation};
use super::{Lab, owner, placement};

#[derive(Debug)]
struct InProcess {
    cloud: Arc<Mutex<FakeCloud>>,
    clock: Arc<SimulatedClock>,
}

#[async_trait]
impl Hooks for InProcess {
    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        tokio::task::yield_now().await;
    }

    async fn end_by_itself(&self, instance: &Instance) -> Result<(), NoSuchHook> {
        self.cloud.lock().unwrap().instance_ended(&instance.id, self.clock.now());
        Ok(())
    }

    async fn break_the_next_list(&self) -> Result<(), NoSuchHook> {
        self.cloud.lock().unwrap().inject(Operation::List, Some(Fault::MissingPage));
        Ok(())
    }
}

/// The subject of a lab, whose backend is what `wrap` makes of it.
pub(super) fn subject(lab: Lab, wrap: impl FnOnce(FakeBackend) -> Arc<dyn Backend>) -> Subject {
    Subject {
        backend: wrap(lab.backend),
        good: placement("zone-a"),
        bad: placement("zone-of-nowhere"),
        owner: owner("one"),
        stranger: owner("another"),
        random: Arc::new(SeededRandom::new(1)),
        hooks: Arc::new(InProcess { cloud: lab.cloud, clock: lab.clock }),
    }
}

async fn conforms(behaviour: Behaviour) {
    let report =
        run(cases(), &[], || async { subject(Lab::new(behaviour.clone()), |backend| Arc::new(backend)) })
            .await;
    assert_eq!(report.passed.len(), cases().len());
}

#[tokio::test]
async fn in_process() {
    conforms(Behaviour::default()).await;
}

#[tokio::test]
async fn in_process_slow_and_in_pages() {
    conforms(Behaviour {
        boot_time: Duration::from_secs(20),
        boot_jitter: Duration::from_secs(10),
        delete_time: Duration::from_secs(20),
        tell_gone: Duration::from_mins(1),
        page_size: 2,
        ..Behaviour::default()
    })
    .await;
}

#[tokio::test]
async fn in_process_without_unique_names() {
    conforms(Behaviour { unique_names: false, ..Behaviour::default() }).await;
}

#[tokio::test]
async fn kind() {
    run(backend_kind::cases(), &[], || async {
        backend_kind::Subject {
            kind: Arc::new(FakeKind::new()),
            backend: json!({"behaviour": {"boot_time": "20s", "zones": {"zone-a": 2, "zone-b": null}}}),
            placement: json!({"zones": ["zone-a", "zone-b"], "instance_types": ["large", "small"]}),
            expanded: [("large", "zone-a"), ("large", "zone-b"), ("small", "zone-a"), ("small", "zone-b")]
                .map(|(kind, zone)| json!({"instance_types": kind, "zones": zone, "image": "image-1"}))
                .into(),
            faulty_backend: (
                json!({"utl": "x", "timeout": 5, "behaviour": {"boot_time": "soon", "zones": {"a": "x"},
                    "faults": [{"operation": "create", "chance": 0.5, "fault": "lost_reply"},
                               {"operation": "explode", "chance": 0.5, "fault": "lost_reply"}]}}),
                vec![
                    "utl",
                    "timeout",
                    "behaviour.boot_time",
                    "behaviour.zones.a",
                    "behaviour.faults.1.operation",
                ],
            ),
            faulty_placement: (
                json!({"zones": ["zone-a", 1], "imgae": "x", "instance_types": []}),
                vec!["imgae", "instance_types", "zones.1"],
            ),
        }
    })
    .await;
}

#[test]
fn what_serde_takes_but_nobody_can_mean_is_refused() {
    let check = |settings: serde_json::Value| -> Vec<String> {
        let faults = FakeKind::new().check(&settings).unwrap_err();
        faults.into_iter().map(|fault| fault.path.join(".")).collect()
    };
    let behaviour = json!({"page_size": 0, "zones": {}, "faults": [
        {"operation": "list", "chance": 2.0, "fault": {"late": "10s"}},
    ]});
    assert_eq!(
        check(json!({"timeout": "0s", "behaviour": behaviour})),
        [
            "behaviour.page_size",
            "behaviour.zones",
            "behaviour.faults.0.chance",
            "behaviour.faults.0.fault",
            "timeout"
        ]
    );
    assert_eq!(check(json!({"url": "localhost:1", "behaviour": {"seed": 1}})), ["url", "behaviour"]);
}

/// As `docs/backends/fake.md` writes them.
#[test]
fn faults_read_as_they_are_documented() {
    for (operation, fault) in [
        ("create", json!({"error": {"kind": "NoCapacity", "retry_after": "30s"}})),
        ("list", json!({"error": {"kind": "Unavailable"}})),
        ("delete", json!("lost_reply")),
        ("get", json!({"no_answer": "5m"})),
        ("create", json!({"late": "40s"})),
        ("create", json!({"dies": {"after": "1m", "how": "stopped"}})),
        ("find", json!({"stale": "30s"})),
        ("list", json!("missing_page")),
    ] {
        let rule = json!({"operation": operation, "chance": 0.5, "fault": fault});
        let settings = json!({"behaviour": {"faults": [rule]}});
        assert_eq!(FakeKind::new().check(&settings), Ok(()), "{settings}");
    }
}
