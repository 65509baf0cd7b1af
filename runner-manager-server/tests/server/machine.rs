//! The real start script in callback mode, against the real endpoints and the GitHub simulator. The machine is this one: it
//! powers nothing off, and its runner is the simulated agent under the name of the actions runner's listener.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use runner_manager_backends::bootstrap::{Cloud, Mode, Scripts, StartConfig};
use runner_manager_core::domain::{Arch, Os, RunnerName, Secret, TokenKey};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::support::{PATIENCE, System, client, ended};

const SECRET_KEY: &str = "a-secret-key-of-the-tests-0123456789";
const ADMIN: &str = "an-admin-token-of-the-tests";

/// Runs a job, and calls the hooks as the actions runner does around one.
const RUN: &str = r#"#!/bin/bash
echo 'Listening for Jobs'
"$(dirname "$0")/Runner.Listener" simulated-agent
code=$?
if [[ ! -e ${0%/*}/idle ]]; then
    export GITHUB_RUN_ID=1 GITHUB_RUN_ATTEMPT=1 GITHUB_REPOSITORY=Codertocat/app GITHUB_JOB=build
    "$ACTIONS_RUNNER_HOOK_JOB_STARTED"
    "$ACTIONS_RUNNER_HOOK_JOB_COMPLETED"
fi
exit $code
"#;

/// Drops no rights, because the tests may have none to drop.
const SETPRIV: &str = "#!/bin/bash\nexec \"${@: -1}\"\n";
/// Notes what is to be seen of it by everybody on the machine.
const CURL: &str =
    "#!/bin/bash\nprintf '%s\\n' \"$*\" >>\"${0%/*}/calls\"\nPATH=${PATH#*:}\nexec curl \"$@\"\n";
const POWER_OFF: &str = "#!/bin/bash\necho 'the power is off'\n";

fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn lay_out(folder: &Path) {
    for (path, text) in
        [("runner/run.sh", RUN), ("bin/setpriv", SETPRIV), ("bin/curl", CURL), ("bin/poweroff", POWER_OFF)]
    {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    symlink(env!("CARGO_BIN_EXE_runner-manager"), folder.join("runner/Runner.Listener")).unwrap();
}

/// A script takes the machine that it runs on for its own, and interrupts every listener there: one at a time.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// A system with one runner, whose machine has booted as far as its user data.
async fn start(idle: bool) -> (MutexGuard<'static, ()>, System, String, Child, TempDir) {
    let turn = MACHINE.lock().await;
    // Where machines call has to be known before the manager listens.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let folder = TempDir::new().unwrap();
    lay_out(folder.path());
    if idle {
        std::fs::write(folder.path().join("runner/idle"), "").unwrap();
    }
    let runner_folder = folder.path().join("runner").display().to_string();
    let user = user();
    let system = System::start_with(|configuration| {
        let admin = format!("{{name: ops, role: admin, token: {ADMIN}}}, {{name: tests,");
        let start = format!(
            "{{backend: fake, start: {{heartbeat: 1s, runner_folder: {runner_folder}, runner_user: {user}}}}}"
        );
        configuration
            .replacen("{name: tests,", &admin, 1)
            .replacen("listen: 127.0.0.1:0", &format!("listen: 127.0.0.1:{port}\n  public_url: {url}"), 1)
            .replacen("fake: {kind: fake}", "fake: {kind: fake, behaviour: {callback: true}}", 1)
            .replacen("max: 3", "min_idle: 1, max: 1", 1)
            .replacen("{backend: fake}", &start, 1)
    });
    let booting = |answer: &Value| answer["items"][0]["state"] == "booting";
    let runners = system.wait_for("/api/v1/runners", booting).await;
    let runner = runners["items"][0]["name"].as_str().unwrap().to_owned();
    let machine = boot(folder.path(), &url, &runner);
    (turn, system, runner, machine, folder)
}

/// What a cloud would hand over, run as cloud-init does.
fn boot(folder: &Path, url: &str, runner: &str) -> Child {
    let runner = RunnerName::new(runner).unwrap();
    let token = TokenKey::new(Secret::new(SECRET_KEY)).token(&runner);
    let timeout = Duration::from_mins(1);
    let scripts = Scripts::new(StartConfig::default(), Os::Linux, Arch::X64, timeout).unwrap();
    let mode = Mode::Callback { url: url.to_owned(), ca: None, token };
    let user_data = scripts.user_data(Cloud::Aws, &runner, &mode, None).unwrap();
    let path = folder.join("user-data");
    std::fs::write(&path, user_data.expose()).unwrap();
    let console = std::fs::File::create(folder.join("console")).unwrap();
    let programs = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
    Command::new("bash")
        .arg(path)
        .env("PATH", programs)
        .env("NO_PROXY", "127.0.0.1")
        .env("RUNNER_MANAGER_STATE", folder.join("state"))
        .env("RUNNER_MANAGER_POWER_OFF", folder.join("bin/poweroff"))
        .stdin(Stdio::null())
        .stdout(console.try_clone().unwrap())
        .stderr(console)
        .spawn()
        .unwrap()
}

/// What the machine said, by the runner's record or its history.
async fn timeline(system: &System, runner: &str) -> Vec<String> {
    for path in ["/api/v1/runners", "/api/v1/ended-runners"] {
        let listed = system.get(path).await;
        let all = listed["items"].as_array().unwrap();
        if let Some(found) = all.iter().find(|listed| listed["name"] == runner) {
            let told = found["timeline"].as_array().unwrap().iter();
            return told.map(|told| told["what"].as_str().unwrap().to_owned()).collect();
        }
    }
    panic!("no runner {runner}");
}

const START: [&str; 5] = [
    "its script began",
    "asked for its JIT config",
    "GitHub registered it and gave JIT config 1",
    "started the runner",
    "its listener waits for jobs",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_script_runs_a_job_in_callback_mode() {
    let (_turn, system, runner, mut machine, folder) = start(false).await;
    let queued =
        json!({"repository": "Codertocat/app", "labels": ["ubuntu-latest"], "count": 1, "seconds": 3});
    let url = format!("{}/_simulator/jobs", system.github_url());
    assert!(client().post(url).json(&queued).send().await.unwrap().status().is_success());
    tokio::task::spawn_blocking(move || ended(&mut machine)).await.unwrap();
    let books: Value = client()
        .get(format!("{}/_simulator/books", system.github_url()))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let console = std::fs::read_to_string(folder.path().join("console")).unwrap();
    let told = timeline(&system, &runner).await;
    assert_eq!(books["jobs"]["succeeded"], 1, "{console}\n{told:#?}\n{books:#}");
    assert_eq!(told[..5], START, "{told:#?}");
    assert_eq!(
        told[5..],
        [
            "job build of run 1, attempt 1, of Codertocat/app begins",
            "job build of run 1, attempt 1, of Codertocat/app ends",
            "left: finished: the runner ended with 0",
        ]
    );
    // Every job can read the command lines on its machine.
    let calls = std::fs::read_to_string(folder.path().join("bin/calls")).unwrap();
    let token = TokenKey::new(Secret::new(SECRET_KEY)).token(&RunnerName::new(&*runner).unwrap());
    for seen in ["/script", "/jit-config", "state=idle", "/job-started", "/left"] {
        assert!(calls.contains(seen), "{seen} was not called: {calls}");
    }
    assert!(!calls.contains("boot=") && !calls.contains(token.expose()), "{calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_leaves_when_asked() {
    let (_turn, system, runner, mut machine, _folder) = start(true).await;
    let idle = |answer: &Value| answer["items"][0]["state"] == "idle";
    system.wait_for("/api/v1/runners", idle).await;
    let url = format!("{}/api/v1/runners/{runner}/retire", system.manager.url);
    let request = client().post(url).bearer_auth(ADMIN).json(&json!({"force": false}));
    assert_eq!(request.send().await.unwrap().status(), 200);
    tokio::task::spawn_blocking(move || ended(&mut machine)).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while system.get("/api/v1/ended-runners").await["items"].as_array().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "its slot stays taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let told = timeline(&system, &runner).await;
    assert_eq!(told[..5], START, "{told:#?}");
    assert_eq!(told[5..], ["left: asked: the runner ended with 0"]);
}
