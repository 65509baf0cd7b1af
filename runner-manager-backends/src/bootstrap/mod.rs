//! What an instance does when it starts: the scripts of its user data, rendered for one runner.
//!
//! [`Scripts`] owns the templates, what is put into them, and the sizes that clouds take. It mints nothing and
//! talks to nobody: tokens and JIT configs come in as arguments, and the endpoints that the scripts call are
//! the server's. What happens on the machine is told for users in `docs/bootstrap.md`.
//!
//! # The contract with the manager
//!
//! In callback mode the scripts call these, below the manager's address. `RUNNER` is the runner's name; each
//! call bears its one-time token (`Authorization: Bearer`), which is good for this runner alone. Bodies are
//! `application/x-www-form-urlencoded`, answers are plain text, so that bash needs no parser for them. Every
//! `POST` has `boot`, a random word of this start of the script, which no job can read.
//!
//! | call | more fields | answer |
//! | --- | --- | --- |
//! | `GET /bootstrap/v1/runners/RUNNER/script` | no body | 200 and [`Scripts::script`] |
//! | `POST .../jit-config` | | 200 and the JIT config, minted on this call |
//! | `POST .../progress` | `step`: `began`, `downloading`, `started`, `listening` | 204 |
//! | `POST .../heartbeat` | `state`: `starting`, `idle`, `busy`; `leave`: `refused` | 200 and `stay` or `leave` |
//! | `POST .../job-started`, `.../job-completed` | `run_id`, `run_attempt`, `repository`, `job` (the id in the workflow), `workflow` | 204 |
//! | `POST .../failed` | `reason`, `detail` | 204 |
//! | `POST .../left` | `reason`: `asked`, `finished`, `listener-ended`, `ended`; `detail` | 204 |
//!
//! `reason` of a failure: `restarted`, `state`, `no-runner`, `download`, `checksum`, `unpack`, `user`, `hooks`,
//! `refused`, `listener`, `deadline`. It is the last word of a machine that powers itself off, as `left` is.
//! A machine says exactly one of the two, unless it dies.
//!
//! Answers to all: 401 for a wrong token, 410 for a runner that is retired or gone; but the last words and those of jobs
//! are then answered with 204, as there is nothing left to tell of. No answer, 408, 425, 429 and 5xx mean *again*; any
//! other 4xx is final. What is repeated, and what a repeat means:
//!
//! - `script`: repeated until the start's deadline; a repeat gets the same. A final refusal powers the machine off.
//! - `jit-config`: repeated until the deadline, one call after the other: an earlier call's answer is never used
//!   after a later call was made. So where the same `boot` asks again and its listener was never seen (no
//!   `listening`, no job), the manager may remove the registration and mint anew: the first config was lost on its way.
//!   Another `boot`, or a listener that was seen, gets 409: a second machine, a restart, or a job that found the
//!   token. A final refusal powers the machine off after `failed`.
//! - `progress`: said once, never repeated. `listening` is a reading of the listener's own log.
//! - `heartbeat`: every [`StartConfig::heartbeat`] seconds. `idle` says that no `Runner.Worker` runs on the
//!   machine at this moment. After `leave`, and after 410, the machine looks again: with a worker it answers at once with a
//!   second heartbeat, `state=busy` and `leave=refused`, stays, and is asked again by the next answers.
//!   Without one it interrupts the listener, waits until that has ended, and says `left`. GitHub can assign a job
//!   between look and interrupt; the listener or its worker is then waited for, and `left` says `finished`. So a
//!   registration is removed only after `left`, and GitHub's own refusal for a busy runner still counts.
//! - `job-started`, `job-completed`: repeated every second until settled, in this order where both wait, and at
//!   the end four times more. One may come twice, late, or not at all. They are what the job's user wrote: an
//!   observation of the runner's own job, and never of another runner.
//! - `failed`, `left`: tried four times; then the machine powers off all the same.

mod cloud;
mod config;
mod quote;
mod template;
#[cfg(test)]
mod tests;

use std::time::Duration;

use runner_manager_core::backend::{BackendError, BackendErrorKind, Bootstrap, InstanceSpec, SettingsFault};
use runner_manager_core::domain::{Arch, Os, RunnerName, Secret};
use thiserror::Error;

pub use self::cloud::{Cloud, TooLarge};
pub use self::config::{Download, DownloadConfig, StartConfig};
pub use self::template::placeholders;
use self::template::{Template, Values};
use crate::settings::{fault, refused};

const LINUX: &str = include_str!("templates/linux.sh");
const LINUX_FETCH: &str = include_str!("templates/linux-fetch.sh");
const WINDOWS: &str = include_str!("templates/windows.ps1");
const WINDOWS_FETCH: &str = include_str!("templates/windows-fetch.ps1");

/// The characters of a token besides letters and digits: it goes into a header, and into curl's configuration.
const TOKEN_SIGNS: &str = "-._~+/=";

/// How a machine gets its JIT config.
#[derive(Debug, Clone)]
pub enum Mode {
    /// It asks the manager.
    Callback {
        /// The manager's address as the machine reaches it, without `/bootstrap`.
        url: String,
        /// The certificates in PEM that sign the manager's; `None` where the system's own do.
        ca: Option<String>,
        /// The runner's one-time token: letters, digits and `-._~+/=`.
        token: Secret,
    },
    /// It has it in its user data.
    Direct {
        /// GitHub's `encoded_jit_config`.
        jit_config: Secret,
    },
}

impl Mode {
    /// The mode that a specification asks for; `None` for one that no script knows.
    pub fn of(bootstrap: &Bootstrap) -> Option<Self> {
        match bootstrap.clone() {
            Bootstrap::Direct { jit_config } => Some(Self::Direct { jit_config }),
            Bootstrap::Callback { url, ca, token } => Some(Self::Callback { url, ca, token }),
            _ => None,
        }
    }
}

/// The user data of an instance, in the mode that its specification asks for, by the scripts that its placement's
/// settings give.
///
/// # Errors
/// `Unsupported` for a mode that no script knows, `InvalidConfig` where the script cannot be rendered.
pub fn user_data(
    scripts: Result<Scripts, Vec<SettingsFault>>,
    cloud: Cloud,
    spec: &InstanceSpec,
) -> Result<Secret, BackendError> {
    let scripts = scripts.map_err(|faults| refused("create", &faults))?;
    let mode = mode("create", spec)?;
    scripts.user_data(cloud, &spec.runner, &mode, None).map_err(|error| unfit("create", &error))
}

/// The script that an instance fetches in callback mode.
///
/// # Errors
/// As [`user_data`].
pub fn script(
    scripts: Result<Scripts, Vec<SettingsFault>>,
    spec: &InstanceSpec,
) -> Result<Secret, BackendError> {
    let scripts = scripts.map_err(|faults| refused("start_script", &faults))?;
    let mode = mode("start_script", spec)?;
    scripts.script(&spec.runner, &mode, None).map_err(|error| unfit("start_script", &error))
}

fn mode(operation: &'static str, spec: &InstanceSpec) -> Result<Mode, BackendError> {
    let detail = "there is no start script for this kind of bootstrap";
    Mode::of(&spec.bootstrap)
        .ok_or_else(|| BackendError::new(BackendErrorKind::Unsupported, operation, detail))
}

fn unfit(operation: &'static str, error: &ScriptError) -> BackendError {
    BackendError::new(BackendErrorKind::InvalidConfig, operation, error.to_string())
}

/// Why no script was rendered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// The user data are larger than the cloud takes.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Something that was to go into the script cannot.
    #[error("{0}")]
    Unfit(String),
}

/// The scripts of one group's machines, checked and ready to be rendered for its runners.
///
/// ```
/// use std::time::Duration;
/// use runner_manager_backends::bootstrap::{Cloud, Mode, Scripts, StartConfig};
/// use runner_manager_core::domain::{Arch, Os, RunnerName, Secret};
///
/// let scripts = Scripts::new(StartConfig::default(), Os::Linux, Arch::X64, Duration::from_mins(10)).unwrap();
/// let mode = Mode::Callback {
///     url: "https://runners.example.com".to_owned(),
///     ca: None,
///     token: Secret::new("f00d"),
/// };
/// let runner = RunnerName::new("acme-linux-1").unwrap();
/// let user_data = scripts.user_data(Cloud::Aws, &runner, &mode, None).unwrap();
/// assert!(user_data.expose().starts_with("#!/bin/bash\n"));
/// ```
#[derive(Debug, Clone)]
pub struct Scripts {
    os: Os,
    config: StartConfig,
    download: Option<Download>,
    start_timeout: Duration,
    script: Template,
    fetch: Template,
}

impl Scripts {
    /// The scripts of a group. A machine that is not registered after `start_timeout` (counted from the start of
    /// the script, in whole seconds) powers itself off.
    ///
    /// # Errors
    /// All faults of the settings at once. There are no scripts for macOS.
    pub fn new(
        config: StartConfig,
        os: Os,
        arch: Arch,
        start_timeout: Duration,
    ) -> Result<Self, Vec<SettingsFault>> {
        let (script, fetch) = match os {
            Os::Linux => (LINUX, LINUX_FETCH),
            Os::Windows => (WINDOWS, WINDOWS_FETCH),
            Os::MacOs => return Err(vec![fault([], "there are no start scripts for macOS")]),
        };
        let mut faults = config.faults(os);
        let download = config.download.as_ref().map(|download| download.resolve(os, arch)).transpose();
        let own = (config.template.as_deref(), config.fetch_template.as_deref());
        let script =
            config::read_template("template", own.0, script, &["runner", "url", "token", "jit_config"]);
        let fetch = config::read_template("fetch_template", own.1, fetch, &["runner", "url", "token"]);
        match (download, script, fetch) {
            (Ok(download), Ok(script), Ok(fetch)) if faults.is_empty() => {
                Ok(Self { os, config, download, start_timeout, script, fetch })
            }
            (download, script, fetch) => {
                faults.extend(download.err().into_iter().flatten());
                faults.extend(script.err().into_iter().flatten());
                faults.extend(fetch.err().into_iter().flatten());
                Err(faults)
            }
        }
    }

    /// The scripts of a placement whose settings have `start` and `start_timeout`.
    ///
    /// # Errors
    /// All faults of these two at once, with their places in the placement's settings.
    pub fn of_placement(
        start: &StartConfig,
        os: Os,
        arch: Arch,
        start_timeout: Duration,
    ) -> Result<Self, Vec<SettingsFault>> {
        let mut faults = Vec::new();
        if start_timeout.is_zero() {
            faults.push(fault(["start_timeout"], "must be longer than 0"));
        }
        match Self::new(start.clone(), os, arch, start_timeout) {
            Ok(scripts) if faults.is_empty() => return Ok(scripts),
            Ok(_) => {}
            Err(wrong) => faults.extend(wrong.into_iter().map(|mut fault| {
                fault.path.insert(0, "start".to_owned());
                fault
            })),
        }
        Err(faults)
    }

    /// The user data of a runner's instance: in callback mode the short script that fetches the other one, in
    /// direct mode the whole. `newest` is the actions runner to download where the group pins none.
    ///
    /// # Errors
    /// When the cloud does not take so much, or the mode's values are not fit for a script.
    pub fn user_data(
        &self,
        cloud: Cloud,
        runner: &RunnerName,
        mode: &Mode,
        newest: Option<&Download>,
    ) -> Result<Secret, ScriptError> {
        let template = match mode {
            Mode::Callback { .. } => &self.fetch,
            Mode::Direct { .. } => &self.script,
        };
        let script = self.render(template, runner, mode, newest)?;
        Ok(Secret::new(cloud.wrap(self.os, &script)?))
    }

    /// The whole script, which the manager answers in callback mode.
    ///
    /// # Errors
    /// When the mode's values are not fit for a script.
    pub fn script(
        &self,
        runner: &RunnerName,
        mode: &Mode,
        newest: Option<&Download>,
    ) -> Result<Secret, ScriptError> {
        self.render(&self.script, runner, mode, newest).map(Secret::new)
    }

    fn render<'a>(
        &'a self,
        template: &Template,
        runner: &'a RunnerName,
        mode: &'a Mode,
        newest: Option<&'a Download>,
    ) -> Result<String, ScriptError> {
        let (url, ca, token, jit_config) = mode.values()?;
        let some = |value: &'a Option<String>| value.as_deref().unwrap_or_default();
        let config = &self.config;
        let download = self.download.as_ref().or(newest);
        let values = Values {
            runner: runner.as_str(),
            url,
            token,
            ca,
            jit_config,
            runner_folder: config.folder(self.os),
            runner_user: &config.runner_user,
            download_url: download.map_or("", |download| &download.url),
            download_sha256: download.map_or("", |download| &download.sha256),
            start_timeout: self.start_timeout.as_secs().to_string(),
            heartbeat: config.heartbeat.as_secs().to_string(),
            job_started: some(&config.job_started),
            job_completed: some(&config.job_completed),
            proxy: some(&config.proxy),
            no_proxy: some(&config.no_proxy),
        };
        Ok(template.render(self.os, &values))
    }
}

impl Mode {
    /// The address, the certificates, the token and the JIT config.
    fn values(&self) -> Result<(&str, &str, &str, &str), ScriptError> {
        match self {
            Self::Callback { url, ca, token } => {
                config::check_url(url).map_err(ScriptError::Unfit)?;
                let ca = ca.as_deref().unwrap_or_default();
                check_secret("token", token)?;
                if ca.contains('\0') {
                    return Err(ScriptError::Unfit("the certificates hold a NUL".to_owned()));
                }
                Ok((url.trim_end_matches('/'), ca, token.expose(), ""))
            }
            Self::Direct { jit_config } => {
                check_secret("JIT config", jit_config)?;
                Ok(("", "", "", jit_config.expose()))
            }
        }
    }
}

fn check_secret(what: &str, secret: &Secret) -> Result<(), ScriptError> {
    let known = |char: char| char.is_ascii_alphanumeric() || TOKEN_SIGNS.contains(char);
    if !secret.expose().is_empty() && secret.expose().chars().all(known) {
        return Ok(());
    }
    Err(ScriptError::Unfit(format!("a {what} that is empty or has other signs than {TOKEN_SIGNS}")))
}
