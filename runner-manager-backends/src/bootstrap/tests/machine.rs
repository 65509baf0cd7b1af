//! The real Linux scripts in a container of their own, against a manager and a runner package that stand in for
//! the real ones. The container has this machine's `/usr`, so that no registry is needed.
//!
//! Where no Docker engine answers they are skipped, and fail under `CI=true`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::{Arch, Os, Secret};
use runner_manager_core::random::{Random, SystemRandom};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::super::{Cloud, Download, Mode, Scripts, StartConfig};
use super::manager::{Call, Manager, Plan};
use super::{callback, runner};

const LISTENER: &str = r#"#!/bin/bash
trap 'echo "asked to end"; exit 0' INT
kind=$ACTIONS_RUNNER_INPUT_JITCONFIG
unset ACTIONS_RUNNER_INPUT_JITCONFIG
echo "I am $(id -un) in $HOME as $kind"
case $kind in
    dies) exit 1 ;;
    mute) while :; do sleep 0.2; done ;;
esac
echo "Listening for Jobs"
case $kind in
    idle) while :; do sleep 0.2; done ;;
    taken) sleep 2; echo "the registration has been deleted"; exit 1 ;;
    *) sleep 1; exec bin/Runner.Worker ;;
esac
"#;

const WORKER: &str = r#"#!/bin/bash
export GITHUB_RUN_ID=77 GITHUB_RUN_ATTEMPT=2 GITHUB_REPOSITORY=acme/app GITHUB_JOB=build GITHUB_WORKFLOW=$'a&b="c"\nd'
bash -e "$ACTIONS_RUNNER_HOOK_JOB_STARTED" || echo "the hook failed"
sleep 4
bash -e "$ACTIONS_RUNNER_HOOK_JOB_COMPLETED" || echo "the hook failed"
echo "the job is done"
"#;

/// What powers the machine off: it shows that, and what the runner wrote.
const POWER_OFF: &str =
    "#!/bin/bash\ncat \"$RUNNER_MANAGER_STATE\"/*/private/runner.log\necho \"the power is off\"\n";

/// Runs the user data as they come in, which begin with `#!`. `TWICE` is a restart.
const BOOT: &str = "cat >/user-data; chmod +x /user-data; /user-data; [[ -z $TWICE ]] || /user-data";

/// The containers share two cores.
static TURNS: Semaphore = Semaphore::const_new(2);

/// One machine's start: its settings, and how the manager is to answer.
struct Start {
    config: StartConfig,
    seconds_to_register: u64,
    sha256: Option<String>,
    direct: Option<&'static str>,
    /// The manager is not there for so long.
    late: Duration,
    twice: bool,
    plan: Plan,
}

/// What came of it.
struct Outcome {
    calls: Vec<Call>,
    console: String,
}

impl Start {
    fn with(jit_config: &'static str) -> Self {
        let config = StartConfig { heartbeat: Duration::from_secs(1), ..StartConfig::default() };
        let plan = Plan { jit_config: Some(jit_config), ..Plan::default() };
        Self {
            config,
            seconds_to_register: 60,
            sha256: None,
            direct: None,
            late: Duration::ZERO,
            twice: false,
            plan,
        }
    }

    /// Boots the machine and waits for its end; `None` where no engine answers.
    async fn run(mut self) -> Option<Outcome> {
        let _turn = TURNS.acquire().await.unwrap();
        let image = Image::new()?;
        // One that is bound anew later has an address where nobody else takes its port meanwhile.
        let host = if self.late.is_zero() { "127.0.0.1:0" } else { "127.0.0.2:0" };
        let listener = TcpListener::bind(host).await.unwrap();
        let address = listener.local_addr().unwrap();
        self.plan.archive = archive();
        let sha256 = self.sha256.take().unwrap_or_else(|| hex::encode(Sha256::digest(&self.plan.archive)));
        let download = Download::new(format!("http://{address}/runner.tar.gz"), &sha256).unwrap();
        let timeout = Duration::from_secs(self.seconds_to_register);
        let scripts = Scripts::new(self.config, Os::Linux, Arch::X64, timeout).unwrap();
        let mode = match self.direct {
            Some(jit_config) => Mode::Direct { jit_config: Secret::new(jit_config) },
            None => callback(&format!("http://{address}")),
        };
        let script = scripts.script(&runner(), &mode, Some(&download)).unwrap();
        script.expose().clone_into(&mut self.plan.script);
        let user_data = scripts.user_data(Cloud::Aws, &runner(), &mode, Some(&download)).unwrap();
        let (user_data, twice) = (user_data.expose().to_owned(), self.twice);

        let listener = self.late.is_zero().then_some(listener);
        let machine = tokio::task::spawn_blocking(move || image.boot(&user_data, twice));
        let listener = if let Some(listener) = listener {
            listener
        } else {
            SystemClock.sleep(self.late).await;
            TcpListener::bind(address).await.unwrap()
        };
        let manager = Manager::serve(listener, self.plan);
        let console = machine.await.unwrap();
        let outcome = Outcome { calls: manager.calls(), console };
        assert!(outcome.console.ends_with("the power is off\n"), "{}", outcome.console);
        Some(outcome)
    }
}

impl Outcome {
    /// What was said, without heartbeats: the word, and what tells it from others.
    fn said(&self) -> Vec<String> {
        let calls = self.calls.iter().filter(|call| call.what != "heartbeat");
        let told = |call: &Call| ["step", "reason"].iter().find_map(|key| call.fields.get(*key).cloned());
        calls
            .map(|call| told(call).map_or(call.what.clone(), |told| format!("{} {told}", call.what)))
            .collect()
    }

    /// The same without the word that the listener is up: the machine reads that in the listener's log while a job
    /// may have begun already, so that either may be said first.
    fn said_of_the_job(&self) -> Vec<String> {
        let (up, rest): (Vec<_>, Vec<_>) =
            self.said().into_iter().partition(|said| said == "progress listening");
        assert_eq!(up.len(), 1, "{rest:?}");
        rest
    }

    fn field(&self, what: &str, key: &str) -> &str {
        let call = self.calls.iter().find(|call| call.what == what && call.fields.contains_key(key));
        &call.unwrap_or_else(|| panic!("no {what} with {key}: {:?}", self.calls)).fields[key]
    }

    fn heartbeats(&self, key: &str, value: &str) -> usize {
        let has =
            |call: &&Call| call.what == "heartbeat" && call.fields.get(key).is_some_and(|is| is == value);
        self.calls.iter().filter(has).count()
    }

    fn shows(&self, text: &str) -> bool {
        self.console.contains(text)
    }
}

/// An image of a bare root, removed at its end.
struct Image(String);

impl Image {
    fn new() -> Option<Self> {
        if !Command::new("docker").arg("version").output().is_ok_and(|output| output.status.success()) {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no Docker engine answers");
            println!("skipped: no Docker engine answers");
            return None;
        }
        let image = Self(format!("runner-manager-start-tests:{:016x}", SystemRandom.next_u64()));
        let (output, status) = docker(&["import", "-", &image.0], &root());
        assert!(status, "{output}");
        Some(image)
    }

    /// Boots a machine with these user data and gives what it wrote on its console.
    fn boot(&self, user_data: &str, twice: bool) -> String {
        let twice = format!("TWICE={}", if twice { "yes" } else { "" });
        let run = [
            "run",
            "--rm",
            "-i",
            "--network=host",
            "-v=/usr:/usr:ro",
            "-e=RUNNER_MANAGER_STATE=/var/lib/runner-manager",
            "-e=RUNNER_MANAGER_POWER_OFF=/power-off",
            "-e",
            &twice,
            &self.0,
            "/usr/bin/timeout",
            "120",
            "/usr/bin/bash",
            "-c",
            BOOT,
        ];
        docker(&run, user_data.as_bytes()).0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        docker(&["image", "rm", "--force", &self.0], b"");
    }
}

/// What a call of docker wrote, and whether it went well.
fn docker(arguments: &[&str], input: &[u8]) -> (String, bool) {
    let mut command = Command::new("docker");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stderr, output.stdout].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.success())
}

fn file(archive: &mut tar::Builder<impl Write>, path: &str, text: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o755);
    archive.append_data(&mut header, path, text.as_bytes()).unwrap();
}

/// A root with nothing but what useradd needs: programs and libraries are this machine's.
fn root() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for folder in ["dev", "proc", "sys", "tmp", "run", "root", "home", "opt", "usr", "etc", "var/lib"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(if folder == "tmp" { 0o1777 } else { 0o755 });
        archive.append_data(&mut header, folder, std::io::empty()).unwrap();
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, link, format!("usr/{link}")).unwrap();
    }
    file(&mut archive, "etc/passwd", "root:x:0:0:root:/root:/bin/bash\n");
    file(&mut archive, "etc/group", "root:x:0:\n");
    file(&mut archive, "etc/shadow", "root:*:19000:0:99999:7:::\n");
    file(
        &mut archive,
        "etc/login.defs",
        "UID_MIN 1000\nUID_MAX 60000\nGID_MIN 1000\nGID_MAX 60000\nUSERGROUPS_ENAB yes\n",
    );
    file(&mut archive, "power-off", POWER_OFF);
    archive.into_inner().unwrap()
}

/// The runner package, as GitHub's is laid out; a tar without gzip would not be taken.
fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    file(&mut archive, "run.sh", "#!/bin/bash\ncd \"$(dirname \"$0\")\" && bin/Runner.Listener\n");
    file(&mut archive, "bin/Runner.Listener", LISTENER);
    file(&mut archive, "bin/Runner.Worker", WORKER);
    file(&mut archive, ".env", "LANG=C.UTF-8\nACTIONS_RUNNER_HOOK_JOB_STARTED=/of/the/image.sh\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runner.tar");
    std::fs::write(&path, archive.into_inner().unwrap()).unwrap();
    let output = Command::new("gzip").args(["-n", "-c"]).arg(&path).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_run_told_of_and_the_machine_powers_off() {
    let mut start = Start::with("job");
    start.config.job_started = Some("echo 'own hook runs'; exit 7".to_owned());
    let Some(outcome) = start.run().await else { return };
    let expected = [
        "script",
        "progress began",
        "progress downloading",
        "jit-config",
        "progress started",
        "job-started",
        "job-completed",
        "left finished",
    ];
    assert_eq!(outcome.said_of_the_job(), expected, "{}", outcome.console);
    assert_eq!(outcome.field("job-started", "run_id"), "77");
    assert_eq!(outcome.field("job-started", "run_attempt"), "2");
    assert_eq!(outcome.field("job-completed", "repository"), "acme/app");
    assert_eq!(outcome.field("job-completed", "job"), "build");
    assert_eq!(outcome.field("job-completed", "workflow"), "a&b=\"c\" d");
    assert!(outcome.heartbeats("state", "busy") > 0);
    assert!(outcome.shows("I am runner in /home/runner as job"), "{}", outcome.console);
    // The group's own hook ran and failed; ours did not, and the job went on.
    assert!(outcome.shows("own hook runs\n::warning::the runner group's own job hook ended with 7"));
    assert!(outcome.shows("the job is done") && !outcome.shows("the hook failed"));
    let boots: std::collections::BTreeSet<_> =
        outcome.calls.iter().filter_map(|call| call.fields.get("boot")).collect();
    assert_eq!(boots.len(), 1, "one start has one word for itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_mode_needs_no_manager() {
    let mut start = Start::with("");
    start.direct = Some("job");
    let Some(outcome) = start.run().await else { return };
    assert!(outcome.calls.is_empty(), "{:?}", outcome.calls);
    assert!(outcome.shows("the job is done") && !outcome.shows("the hook failed"), "{}", outcome.console);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_does_not_answer_at_first_is_asked_again() {
    let mut start = Start::with("job");
    start.late = Duration::from_secs(4);
    start.plan.unavailable = 1;
    let Some(outcome) = start.run().await else { return };
    assert!(outcome.shows("no script yet, the manager's answer is 000"), "{}", outcome.console);
    assert!(outcome.shows("no script yet, the manager's answer is 503"), "{}", outcome.console);
    assert_eq!(outcome.said().last().unwrap(), "left finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_with_a_wrong_checksum_is_not_started() {
    let mut start = Start::with("job");
    start.sha256 = Some("ab".repeat(32));
    let Some(outcome) = start.run().await else { return };
    assert_eq!(outcome.said()[1..], ["progress began", "progress downloading", "failed checksum"]);
    assert!(!outcome.shows("I am"), "{}", outcome.console);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_jit_config_ends_the_machine() {
    let mut start = Start::with("");
    start.plan.jit_config = None;
    let Some(outcome) = start.run().await else { return };
    assert_eq!(outcome.said()[3..], ["jit-config", "failed refused"], "{}", outcome.console);
    assert!(outcome.field("failed", "detail").ends_with("409"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_machine_leaves_when_asked() {
    let mut start = Start::with("idle");
    start.plan.leave = Some("idle");
    let Some(outcome) = start.run().await else { return };
    assert_eq!(outcome.said().last().unwrap(), "left asked");
    // It ended by SIGINT, in order, and not by force.
    assert!(outcome.shows("asked to end"), "{}", outcome.console);
    assert_eq!(outcome.heartbeats("leave", "refused"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_a_job_does_not_leave_when_asked() {
    let mut start = Start::with("job");
    start.plan.leave = Some("busy");
    let Some(outcome) = start.run().await else { return };
    assert!(outcome.heartbeats("leave", "refused") > 0);
    assert_eq!(outcome.said_of_the_job()[5..], ["job-started", "job-completed", "left finished"]);
    assert!(outcome.shows("the job is done") && !outcome.shows("asked to end"), "{}", outcome.console);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_dies_at_once_is_a_failure() {
    let Some(outcome) = Start::with("dies").run().await else { return };
    assert_eq!(outcome.said().last().unwrap(), "failed listener");
    assert!(outcome.field("failed", "detail").contains("I am runner"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_registration_was_taken_ends_the_machine() {
    let Some(outcome) = Start::with("taken").run().await else { return };
    assert_eq!(outcome.said()[5..], ["progress listening", "left listener-ended"], "{}", outcome.console);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_does_not_register_in_time_powers_off() {
    let mut start = Start::with("mute");
    start.seconds_to_register = 8;
    let Some(outcome) = start.run().await else { return };
    assert_eq!(outcome.said().last().unwrap(), "failed deadline", "{}", outcome.console);
    assert!(outcome.shows("asked to end"), "{}", outcome.console);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_restarted_does_not_start_again() {
    let mut start = Start::with("job");
    start.twice = true;
    let Some(outcome) = start.run().await else { return };
    let said = outcome.said();
    assert_eq!(
        said[said.len() - 3..],
        ["left finished", "script", "failed restarted"],
        "{}",
        outcome.console
    );
    assert_eq!(outcome.console.matches("powering off").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_is_no_script_ends_the_machine() {
    let mut start = Start::with("job");
    start.config.template = Some("# {{runner}} {{url}} {{token}} {{jit_config}}\nif".to_owned());
    let Some(outcome) = start.run().await else { return };
    assert_eq!(outcome.said(), ["script"], "{}", outcome.console);
}
