//! How a simulated GitHub is set up.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{Faults, permissions};

/// The token that is accepted unless [`Settings::tokens`] says otherwise.
pub const DEFAULT_TOKEN: &str = "ghp_simulator";

/// How a simulated GitHub is set up. Tokens and secrets in here are made up for tests and protect nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// All chance comes from this: the same seed and the same calls give the same bytes. Default 0.
    pub seed: u64,
    /// Where the API is reached, without a slash at the end: for `Link` headers and the URLs in answers and
    /// payloads. Default `https://api.github.com`.
    pub base_url: String,
    /// Personal access tokens that are accepted. Default: [`DEFAULT_TOKEN`] alone.
    pub tokens: Vec<String>,
    /// A GitHub App. Default: none, and every App route answers 401.
    pub app: Option<AppSettings>,
    /// Further Apps, whose hooks are not simulated. Default none.
    pub more_apps: Vec<AppSettings>,
    /// How far GitHub's clock is ahead of everybody else's, as `Date` has it and web tokens are judged. Default 0.
    pub clock_ahead: SignedDuration,
    /// What the numbers of runs and jobs are higher by, so that those of two simulators differ. Default 0.
    pub numbers_from: u64,
    /// Whether an organization, repository or enterprise comes into being when it is first named in a
    /// request or a job (a repository's owner is then an organization, the repository private). With
    /// false only what was added is there. Default true.
    pub create_on_demand: bool,
    /// The enterprise that organizations made on demand belong to. Default none.
    pub enterprise: Option<String>,
    /// How long GitHub takes for what it does by itself.
    pub timings: Timings,
    /// What goes wrong. Default: nothing.
    pub faults: Faults,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            base_url: "https://api.github.com".to_owned(),
            tokens: vec![DEFAULT_TOKEN.to_owned()],
            app: None,
            more_apps: Vec::new(),
            clock_ahead: SignedDuration::ZERO,
            numbers_from: 0,
            create_on_demand: true,
            enterprise: None,
            timings: Timings::default(),
            faults: Faults::default(),
        }
    }
}

/// A GitHub App and where it is installed.
///
/// A JSON web token is accepted if it has three parts, its `iss` is the App's id or client id, and its times
/// are right. **Its signature is not verified**: the simulator knows no key of the App.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppSettings {
    /// The App's id. Default 12345.
    pub id: u64,
    /// The App's client id. Default `Iv1.simulator`.
    pub client_id: String,
    /// The App's name in URLs. Default `runner-manager`.
    pub slug: String,
    /// Logins of the accounts (and slugs of the enterprises) that it is installed on. None: on all. Default none.
    pub installed_on: Option<Vec<String>>,
    /// Those whose installation is suspended: its tokens are refused with 403, and none is given. Default none.
    pub suspended_on: Vec<String>,
    /// What the App may do, by permission: `read` or `write`. A token without a route's permission is
    /// refused with 403, and so is any on an enterprise's routes. Default: all that a runner manager needs.
    pub permissions: BTreeMap<String, String>,
    /// The events that the App is subscribed to. Default `workflow_job`.
    pub events: Vec<String>,
    /// Where the App's own webhook goes. Default: it has none.
    pub hook: Option<AppHook>,
    /// Whether `exp` and `iat` of a web token are compared with the simulator's time: to be switched off when
    /// the client signs by the system's clock and the simulator lives in another time. Default true.
    pub check_times: bool,
}

impl Default for AppSettings {
    fn default() -> Self {
        Self {
            id: 12345,
            client_id: "Iv1.simulator".to_owned(),
            slug: "runner-manager".to_owned(),
            installed_on: None,
            suspended_on: Vec::new(),
            permissions: permissions::all(),
            events: vec!["workflow_job".to_owned()],
            hook: None,
            check_times: true,
        }
    }
}

/// Where an App's webhook goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppHook {
    /// Its receiver.
    pub url: String,
    /// What its deliveries are signed with.
    pub secret: String,
}

/// How long GitHub takes for what it does by itself. In JSON: ISO 8601 durations, as in `"PT10M"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timings {
    /// From an event to its delivery. Default 0.
    pub webhook: SignedDuration,
    /// How long a runner that died in a job stays busy, and the job in progress. Default 12 min: 10 to 15
    /// are seen at GitHub.
    pub lost_runner: SignedDuration,
    /// How long a registration without an agent is kept. Default 24 h.
    pub unused_registration: SignedDuration,
    /// How long a job may be queued before GitHub cancels it. Default 24 h.
    pub queued_job: SignedDuration,
    /// How long an agent has to end a cancelled job. Default 5 min.
    pub cancel_grace: SignedDuration,
    /// How long an agent may say nothing before its machine counts as lost, as by
    /// [`die`](super::Simulator::die). None, the default: for ever.
    pub heartbeat: Option<SignedDuration>,
    /// How long deliveries stay in a hook's log. Default 3 days.
    pub delivery_log: SignedDuration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            webhook: SignedDuration::ZERO,
            lost_runner: SignedDuration::from_mins(12),
            unused_registration: SignedDuration::from_hours(24),
            queued_job: SignedDuration::from_hours(24),
            cancel_grace: SignedDuration::from_mins(5),
            heartbeat: None,
            delivery_log: SignedDuration::from_hours(72),
        }
    }
}
