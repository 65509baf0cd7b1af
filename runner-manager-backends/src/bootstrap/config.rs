//! What a group says of its machines' start, read and checked: [`StartConfig`].

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use runner_manager_core::backend::SettingsFault;
use runner_manager_core::domain::{Arch, Os};
use schemars::JsonSchema;
use serde::Deserialize;

use super::template::Template;
use crate::settings::fault;

/// Where GitHub publishes the actions runner.
const RELEASES: &str = "https://github.com/actions/runner/releases/download";

/// How the machines of a group start their runner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StartConfig {
    /// Where the image has the actions runner, and where it is unpacked otherwise. Default `/opt/actions-runner`,
    /// on Windows `C:\actions-runner`.
    pub runner_folder: Option<String>,
    /// The user that the runner and its jobs run as; made where it is missing. Default `runner`.
    pub runner_user: String,
    /// The actions runner to download where the image has none. Default: what the manager finds at GitHub.
    pub download: Option<DownloadConfig>,
    /// An HTTP proxy for the machine and its runner, `http://host:port`. No password: jobs can read it.
    pub proxy: Option<String>,
    /// Hosts that are reached without the proxy, separated by commas.
    pub no_proxy: Option<String>,
    /// A script of the group's own that runs on the machine when a job starts (bash or PowerShell).
    pub job_started: Option<String>,
    /// A script of the group's own that runs on the machine when a job has ended (bash or PowerShell).
    pub job_completed: Option<String>,
    /// How long between two heartbeats, from 1 s to 1 min. Default 1 min.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub heartbeat: Duration,
    /// A template in place of the script.
    pub template: Option<String>,
    /// A template in place of the short script that fetches the other one, in callback mode.
    pub fetch_template: Option<String>,
}

impl Default for StartConfig {
    fn default() -> Self {
        Self {
            runner_folder: None,
            runner_user: "runner".to_owned(),
            download: None,
            proxy: None,
            no_proxy: None,
            job_started: None,
            job_completed: None,
            heartbeat: Duration::from_mins(1),
            template: None,
            fetch_template: None,
        }
    }
}

/// A pinned version of the actions runner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DownloadConfig {
    /// The version, such as `2.330.0`.
    pub version: String,
    /// The SHA-256 of the archive, as the release names it.
    pub sha256: String,
    /// A mirror in place of GitHub's releases: `MIRROR/vVERSION/actions-runner-OS-ARCH-VERSION.tar.gz`.
    #[serde(default)]
    pub mirror: Option<String>,
}

/// One archive of the actions runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    pub(super) url: String,
    pub(super) sha256: String,
}

impl Download {
    /// An archive at an address with the SHA-256 that it must have, as GitHub's list of downloads tells both.
    ///
    /// # Errors
    /// When the address is none, or the SHA-256 is not 64 hexadecimal digits.
    pub fn new(url: impl Into<String>, sha256: &str) -> Result<Self, String> {
        let url = url.into();
        check_url(&url)?;
        let sha256 = sha256.to_ascii_lowercase();
        if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("`{sha256}` is not a SHA-256: 64 hexadecimal digits"));
        }
        Ok(Self { url, sha256 })
    }
}

impl DownloadConfig {
    /// # Errors
    /// All faults.
    pub(super) fn resolve(&self, os: Os, arch: Arch) -> Result<Download, Vec<SettingsFault>> {
        let version = &self.version;
        let digits = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        let mut faults = Vec::new();
        if version.is_empty() || !version.bytes().all(digits) {
            faults.push(fault(
                ["download", "version"],
                format!("`{version}` is not a version such as 2.330.0"),
            ));
        }
        let mirror = self.mirror.as_deref().unwrap_or(RELEASES).trim_end_matches('/');
        if let Err(why) = check_url(mirror) {
            faults.push(fault(["download", "mirror"], why));
        }
        let (system, archive) = match os {
            Os::Linux => ("linux", "tar.gz"),
            Os::MacOs => ("osx", "tar.gz"),
            Os::Windows => ("win", "zip"),
        };
        let arch = arch.label();
        let url = format!("{mirror}/v{version}/actions-runner-{system}-{arch}-{version}.{archive}");
        match Download::new(url, &self.sha256) {
            Ok(download) if faults.is_empty() => return Ok(download),
            Err(why) if faults.is_empty() => faults.push(fault(["download", "sha256"], why)),
            _ => {}
        }
        Err(faults)
    }
}

impl StartConfig {
    pub(super) fn folder(&self, os: Os) -> &str {
        let default = if os == Os::Windows { r"C:\actions-runner" } else { "/opt/actions-runner" };
        self.runner_folder.as_deref().unwrap_or(default)
    }

    /// What is wrong with it, but for the download and the templates, which are told by who reads them.
    pub(super) fn faults(&self, os: Os) -> Vec<SettingsFault> {
        let mut faults = Vec::new();
        let mut check = |key, outcome: Result<(), String>| {
            faults.extend(outcome.err().map(|why| fault([key], why)));
        };
        check("runner_folder", check_folder(os, self.folder(os)));
        check("runner_user", check_user(&self.runner_user));
        check("proxy", self.proxy.as_deref().map_or(Ok(()), check_url));
        check("no_proxy", self.no_proxy.as_deref().map_or(Ok(()), check_plain));
        check("job_started", self.job_started.as_deref().map_or(Ok(()), check_text));
        check("job_completed", self.job_completed.as_deref().map_or(Ok(()), check_text));
        if !(1..=60).contains(&self.heartbeat.as_secs()) {
            check("heartbeat", Err("not between 1 s and 1 min".to_owned()));
        }
        faults
    }
}

/// Reads a template of the group's, or ours.
pub(super) fn read_template(
    key: &'static str,
    own: Option<&str>,
    ours: &str,
    required: &[&str],
) -> Result<Template, Vec<SettingsFault>> {
    let text = own.unwrap_or(ours);
    if let Err(why) = check_text(text) {
        return Err(vec![fault([key], why)]);
    }
    Template::new(text, required).map_err(|faults| faults.into_iter().map(|why| fault([key], why)).collect())
}

/// Addresses go into curl's arguments and into user data: no user, no password, nothing strange.
pub(super) fn check_url(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let Some(rest) = rest.filter(|rest| !rest.is_empty() && !rest.starts_with('/')) else {
        return Err(format!("`{url}` is not an http or https address"));
    };
    if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
        return Err("an address with a user or password: whoever runs a job could read it".to_owned());
    }
    check_plain(url)
}

fn check_plain(text: &str) -> Result<(), String> {
    let strange = |char: char| !char.is_ascii_graphic() || "\"'`<>\\".contains(char);
    if text.contains(strange) {
        Err(format!("`{text}` has white space, quotes or other signs"))
    } else {
        Ok(())
    }
}

fn check_text(text: &str) -> Result<(), String> {
    if text.contains('\0') { Err("a NUL cannot stand in a script".to_owned()) } else { Ok(()) }
}

fn check_folder(os: Os, folder: &str) -> Result<(), String> {
    let rest = match os {
        Os::Windows => folder.get(1..).and_then(|rest| rest.strip_prefix(r":\")),
        Os::Linux | Os::MacOs => folder.strip_prefix('/'),
    };
    let strange = |char: char| char.is_control() || "\"<>|*?".contains(char);
    match rest {
        Some(rest) if !rest.is_empty() && !rest.contains(strange) => Ok(()),
        _ => Err(format!("`{folder}` is not the absolute path of a folder")),
    }
}

/// A name that both useradd and Windows take.
fn check_user(user: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    let first = user.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if first && user.len() <= 20 && user.bytes().all(inner) {
        return Ok(());
    }
    Err(format!("`{user}` is not a user name: a-z, 0-9, `_` and `-`, at most 20, a letter first"))
}
