//! A backend of your own, and the suites that tell whether it is one.
//!
//! ```text
//! cargo run -p runner-manager-examples --bin custom_backend
//! ```
//!
//! - [`rack`] is the backend: a rack of machines that are there already; an instance is one of them, switched
//!   on. The machines are imagined: where a real backend would talk to a machine's controller, this one
//!   changes a record.
//! - [`kind`] makes it pluggable: the word in the configuration, the settings, and how to connect.
//! - This file puts it into a registry and runs our conformance suites over it. They are those that our own
//!   backends pass: case by case what `Backend` and `BackendKind` document under *Behaviour*.
//!
//! A case that a backend cannot pass is skipped, with the reason. It is run all the same, because a skip that
//! is not needed fails the run: that is the one panic that you see.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod kind;
mod rack;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use runner_manager_core::backend::{Backend, BackendKind, ConnectContext};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{BackendName, DeploymentName, Instance, Owner, Placement, Secret};
use runner_manager_core::random::SystemRandom;
use runner_manager_core::testing::conformance::backend::{Hooks, NoSuchHook};
use runner_manager_core::testing::conformance::{Report, Skip, backend, backend_kind, run};
use serde_json::json;

use kind::RackKind;
use rack::Machines;

const SKIPS: &[Skip] = &[Skip {
    case: "list_is_complete",
    because: "the rack is one map: its list has no parts of which one could be missing",
}];

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // A server of your own would be given this registry, and then takes `kind: rack` in its configuration.
    let machines = Machines::default();
    let registry = runner_manager_backends::registry().register(Arc::new(RackKind::new(machines.clone())));
    let kind = registry.get("rack").context("it was just registered")?;

    tell("BackendKind", &check_kind(kind).await);
    let name = BackendName::new("basement")?;
    let settings = json!({"machines": {"large": 6}});
    let context = ConnectContext { name: name.clone(), clock: Arc::new(SystemClock) };
    let rack = kind.connect(&settings, context).await?;
    tell("Backend", &check_backend(rack, &name, machines).await?);
    Ok(())
}

async fn check_kind(kind: &Arc<dyn BackendKind>) -> Report {
    run(backend_kind::cases(), &[], || async {
        backend_kind::Subject {
            kind: kind.clone(),
            backend: json!({"machines": {"large": 6, "small": 20}}),
            placement: json!({"sizes": ["large", "small"]}),
            expanded: vec![json!({"sizes": "large"}), json!({"sizes": "small"})],
            faulty_backend: (
                json!({"machines": {"large": "six"}, "rakc": 1}),
                vec!["machines.large", "rakc"],
            ),
            faulty_placement: (json!({"sizes": ["large", 1], "szies": "small"}), vec!["sizes.1", "szies"]),
        }
    })
    .await
}

async fn check_backend(
    rack: Arc<dyn Backend>,
    name: &BackendName,
    machines: Machines,
) -> anyhow::Result<Report> {
    let place = |size: &str| Placement::new(name.clone(), size, json!({"sizes": size}));
    let (good, bad) = (place("large"), place("enormous"));
    let deployment = DeploymentName::new("conformance")?;
    let hooks: Arc<dyn Hooks> = Arc::new(RackHooks { machines, clock: SystemClock });
    let report = run(backend::cases(), SKIPS, || async {
        backend::Subject {
            backend: rack.clone(),
            good: good.clone(),
            bad: bad.clone(),
            owner: Owner::new(deployment.clone(), &Secret::new("one key")),
            stranger: Owner::new(deployment.clone(), &Secret::new("another key")),
            random: Arc::new(SystemRandom),
            hooks: hooks.clone(),
        }
    });
    Ok(report.await)
}

/// What the cases need of the outside.
#[derive(Debug)]
struct RackHooks {
    machines: Machines,
    clock: SystemClock,
}

#[async_trait]
impl Hooks for RackHooks {
    async fn pass(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    async fn end_by_itself(&self, instance: &Instance) -> Result<(), NoSuchHook> {
        self.machines.switch_off(&instance.id);
        Ok(())
    }
}

fn tell(subject: &str, report: &Report) {
    for case in &report.passed {
        println!("{subject}: {case} passed");
    }
    for case in &report.skipped {
        let because = SKIPS.iter().find(|skip| skip.case == *case).map_or("", |skip| skip.because);
        println!("{subject}: {case} skipped: {because}");
    }
}
