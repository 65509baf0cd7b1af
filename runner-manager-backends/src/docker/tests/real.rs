//! The docker backend on the real engine of this machine, with an image of one small program that the tests
//! compile themselves: no registry is needed.
//!
//! Where no engine answers they are skipped, and fail under `CI=true`. All containers and images that they
//! make are removed at their end, and those that earlier runs left at their beginning.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    ListImagesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use bollard::{Docker, body_full};
use futures_util::{FutureExt, TryStreamExt};
use runner_manager_core::backend::{Backend, BackendErrorKind};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{DeploymentName, Instance, InstanceState, Owner, Secret};
use runner_manager_core::random::{Random, SystemRandom};
use runner_manager_core::testing::conformance::backend::{Hooks, NoSuchHook, Subject, cases};
use runner_manager_core::testing::conformance::{Skip, run};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::super::config::Host;
use super::registry::Registry;
use super::{connect, placement, spec};

/// The repository of the images that these tests make, each with a tag of its own.
const REPOSITORY: &str = "runner-manager-docker-tests";

/// What is older than this was left by a run that was killed.
const LEFTOVER_AGE: Duration = Duration::from_mins(15);

/// One test at a time: they share the engine, and clean up.
static TURN: Mutex<()> = Mutex::const_new(());

/// Runs until it is told to end. With an argument it ends by itself, with that status; without a JIT config
/// it does not run at all.
const PROGRAM: &str = r#"
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
int main(int count, char **arguments) {
    signal(SIGTERM, end);
    if (!getenv("ACTIONS_RUNNER_INPUT_JITCONFIG")) return 3;
    if (count > 1) return atoi(arguments[1]);
    for (;;) pause();
}
"#;

/// What one test has: the engine, its own image, and an owner that no other run has.
struct Lab {
    docker: Docker,
    image: String,
    key: String,
}

impl Lab {
    /// `None` where no engine answers.
    async fn new() -> Option<Self> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| Host::DEFAULT.to_owned());
        let docker = Docker::connect_with_host(&host).ok()?;
        if docker.ping().await.is_err() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no engine answers at {host}");
            println!("skipped: no Docker engine answers at {host}");
            return None;
        }
        clean(&docker, None).await;
        let key = format!("{:016x}", SystemRandom.next_u64());
        let lab = Self { docker, image: format!("{REPOSITORY}:{key}"), key };
        lab.import(program()).await;
        Some(lab)
    }

    async fn import(&self, layer: Vec<u8>) {
        let options = CreateImageOptionsBuilder::new().from_src("-").repo(REPOSITORY).tag(&self.key).build();
        let body = Some(body_full(layer.into()));
        let progress = self.docker.create_image(Some(options), body, None);
        progress.try_collect::<Vec<_>>().await.expect("the engine takes the image");
    }

    fn owner(&self, which: &str) -> Owner {
        let key = Secret::new(format!("{which} {}", self.key));
        Owner::new(DeploymentName::new("docker-tests").unwrap(), &key)
    }

    fn settings(&self) -> Value {
        json!({"image": self.image, "pull": "never", "command": ["/program"], "network": "none"})
    }

    async fn backend(&self) -> Arc<dyn Backend> {
        connect(&json!({"settle": "1s"})).await
    }
}

/// Runs a test with a lab, which is cleared away also when the test fails.
async fn in_lab(test: impl AsyncFnOnce(&Lab)) {
    let _turn = TURN.lock().await;
    let Some(lab) = Lab::new().await else { return };
    let outcome = AssertUnwindSafe(test(&lab)).catch_unwind().await;
    clean(&lab.docker, Some(&lab.key)).await;
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

/// The program in a tar archive: the whole file system of the image.
fn program() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let (source, binary) = (directory.path().join("program.c"), directory.path().join("program"));
    std::fs::write(&source, PROGRAM).unwrap();
    let compiled =
        Command::new("cc").args(["-static", "-Os", "-o"]).args([&binary, &source]).status().unwrap();
    assert!(compiled.success(), "cc cannot link statically");
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_path_with_name(&binary, "program").unwrap();
    archive.into_inner().unwrap()
}

/// Removes what the run of a key made; without one, what runs left that ended long ago.
async fn clean(docker: &Docker, key: Option<&str>) {
    let long_ago = SystemClock.now().as_second() - i64::try_from(LEFTOVER_AGE.as_secs()).unwrap();
    let label = format!("{}=docker-tests", Owner::DEPLOYMENT_TAG);
    let filters = HashMap::from([("label".to_owned(), vec![label])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for container in docker.list_containers(Some(options)).await.unwrap() {
        let of_the_run =
            key.is_some_and(|key| container.image.as_deref().is_some_and(|image| image.ends_with(key)));
        if of_the_run || container.created.is_some_and(|created| created < long_ago) {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            // Another run may clean at the same time.
            let _ = docker.remove_container(&container.id.unwrap(), Some(options)).await;
        }
    }
    let filters =
        HashMap::from([("reference".to_owned(), vec![REPOSITORY.to_owned(), format!("*/{REPOSITORY}")])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    for image in docker.list_images(Some(options)).await.unwrap() {
        let of_the_run = key.is_some_and(|key| image.repo_tags.iter().any(|tag| tag.ends_with(key)));
        if of_the_run || image.created < long_ago {
            for tag in &image.repo_tags {
                let options = RemoveImageOptionsBuilder::new().force(true).build();
                let _ = docker.remove_image(tag, Some(options), None).await;
            }
        }
    }
}

#[derive(Debug)]
struct Real(Docker);

#[async_trait]
impl Hooks for Real {
    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn end_by_itself(&self, instance: &Instance) -> Result<(), NoSuchHook> {
        let options = KillContainerOptionsBuilder::new().signal("SIGTERM").build();
        self.0.kill_container(instance.id.as_str(), Some(options)).await.unwrap();
        Ok(())
    }
}

const SKIPS: [Skip; 1] = [Skip {
    case: "list_is_complete",
    because: "a real engine cannot be made to break off its one answer; played::a_list_that_breaks_off_is_an_error does",
}];

#[tokio::test]
async fn conforms() {
    in_lab(async |lab| {
        let report = run(cases(), &SKIPS, || async {
            Subject {
                backend: lab.backend().await,
                good: placement(&lab.settings()),
                bad: placement(&json!({"image": "runner-manager-docker-tests:no-such-tag", "pull": "never"})),
                owner: lab.owner("one"),
                stranger: lab.owner("another"),
                random: Arc::new(SystemRandom),
                hooks: Arc::new(Real(lab.docker.clone())),
            }
        })
        .await;
        assert_eq!((report.passed.len(), report.skipped.len()), (cases().len() - 1, 1));
    })
    .await;
}

#[tokio::test]
async fn what_the_engine_refuses_is_told_and_leaves_nothing() {
    in_lab(async |lab| {
        let backend = lab.backend().await;
        for (change, kind) in [
            (json!({"command": ["/no-such-program"]}), BackendErrorKind::InvalidConfig),
            (json!({"image": "runner-manager-docker-tests:no-such-tag"}), BackendErrorKind::NotFound),
            (json!({"network": "no-such-network"}), BackendErrorKind::NotFound),
            (json!({"runtime": "no-such-runtime"}), BackendErrorKind::InvalidConfig),
            (json!({"cpus": 4000}), BackendErrorKind::InvalidConfig),
            (json!({"user": "nobody-of-that-name"}), BackendErrorKind::InvalidConfig),
            (json!({"image": "UPPER CASE"}), BackendErrorKind::InvalidConfig),
            (json!({"image": "127.0.0.1:1/no/registry", "pull": "missing"}), BackendErrorKind::Unavailable),
        ] {
            let mut settings = lab.settings();
            settings.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let name = format!("docker-tests-linux-{:x}", SystemRandom.next_u64());
            let mut spec = spec(&name, &settings);
            spec.owner = lab.owner("one");
            let error = backend.create(&spec).await.unwrap_err();
            assert_eq!(error.kind, kind, "{change}: {error}");
            assert_eq!(backend.find(&spec.runner).await.unwrap(), None, "{change}: a container is left");
        }
    })
    .await;
}

#[tokio::test]
async fn limits_and_labels_reach_the_engine_and_an_ended_runner_is_stopped() {
    in_lab(async |lab| {
        let backend = lab.backend().await;
        let mut settings = lab.settings();
        settings["memory"] = json!("64MiB");
        settings["cpus"] = json!(0.5);
        settings["env"] = json!({"GREETING": "hello"});
        settings["command"] = json!(["/program", "7"]);
        let mut spec = spec(&format!("docker-tests-linux-{:x}", SystemRandom.next_u64()), &settings);
        spec.owner = lab.owner("one");
        let made = backend.create(&spec).await.unwrap();

        let told = lab.docker.inspect_container(made.id.as_str(), None).await.unwrap();
        let (config, host) = (told.config.unwrap(), told.host_config.unwrap());
        assert_eq!((host.memory, host.nano_cpus), (Some(64 << 20), Some(500_000_000)));
        assert!(config.env.unwrap().contains(&"GREETING=hello".to_owned()));
        assert_eq!(config.labels.unwrap()["cost-center"], "ci");
        assert_eq!(config.hostname.as_deref(), Some(spec.runner.as_str()));

        let mut waited = 0;
        while backend.get(&made.id).await.unwrap().unwrap().state != InstanceState::Stopped {
            assert!(waited < 100, "a container that exited is not Stopped");
            waited += 1;
            SystemClock.sleep(Duration::from_millis(100)).await;
        }
        let told = lab.docker.inspect_container(made.id.as_str(), None).await.unwrap();
        assert_eq!(told.state.unwrap().exit_code, Some(7), "the JIT config did not reach the program");
    })
    .await;
}

#[tokio::test]
async fn validation_asks_the_engine() {
    in_lab(async |lab| {
    let backend = lab.backend().await;
    assert_eq!(backend.validate(&placement(&lab.settings())).await.unwrap(), Vec::<String>::new());
    let wrong = json!({"image": "runner-manager-docker-tests:no-such-tag", "pull": "never", "network": "no-such-network"});
    assert_eq!(backend.validate(&placement(&wrong)).await.unwrap().len(), 2);
    }).await;
}

#[tokio::test]
async fn a_missing_image_is_pulled() {
    in_lab(async |lab| {
        let registry = Registry::new(program()).await;
        let backend = lab.backend().await;
        let create = async |pull: &str| {
            let mut settings = lab.settings();
            settings["image"] = json!(format!("{}/{REPOSITORY}:{}", registry.address, lab.key));
            settings["pull"] = json!(pull);
            let mut spec = spec(&format!("docker-tests-linux-{:x}", SystemRandom.next_u64()), &settings);
            spec.owner = lab.owner("one");
            backend.create(&spec).await
        };
        assert_eq!(create("never").await.unwrap_err().kind, BackendErrorKind::NotFound);
        assert_eq!(registry.asked(), 0, "never is never");
        create("missing").await.unwrap();
        let once = registry.asked();
        assert!(once > 0, "the image was not pulled");
        create("missing").await.unwrap();
        assert_eq!(registry.asked(), once, "an image that is there was pulled");
        create("always").await.unwrap();
        assert!(registry.asked() > once, "always is always");
    })
    .await;
}
