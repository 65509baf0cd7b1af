//! `github`: the connections to GitHub, one or several by name.
//!
//! The keys of one connection stand in `github` itself, which is then called `default`, or in
//! `github.connections.NAME`. A connection has one credential, or several Apps that share its work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cursor::{Cursor, Fields, all};
use super::duration::{CALL_TIMEOUT, fits_into};
use super::environment::{Environment, certificates, secret};
use super::services::{MAX_CONCURRENCY, rate};
use super::url::{BaseUrl, Proxy, api_url};
use crate::budget::Rate;
use crate::domain::{ConnectionName, Secret};

/// The keys of a connection.
pub(super) const CONNECTION_KEYS: [&str; 9] =
    ["api_url", "app", "apps", "token", "concurrency", "jit_rate", CALL_TIMEOUT.name, "proxy", "ca"];
/// The key of `github` that holds several connections.
pub(super) const CONNECTIONS: &str = "connections";
pub(super) const APP_KEYS: [&str; 3] = ["id", "private_key", "installation"];
pub(super) const PROXY_KEYS: [&str; 3] = ["url", "user", "password"];
pub(super) const DEFAULT_API_URL: &str = "https://api.github.com";
/// The most Apps of a connection.
pub(super) const MAX_APPS: usize = 16;

/// A connection to GitHub.
#[derive(Debug, Clone)]
pub struct GitHubSettings {
    /// The REST API: `https://api.github.com` (the default), `https://api.SUBDOMAIN.ghe.com` or
    /// `https://HOST/api/v3`.
    pub api_url: BaseUrl,
    /// As whom: one credential, or several that share the work.
    pub credentials: Vec<GitHubCredentials>,
    /// How many calls with one credential may be under way at once, over all replicas. Default
    /// [`GitHubSettings::DEFAULT_CONCURRENCY`].
    pub concurrency: u16,
    /// How many runners one credential may register in a period, over all replicas. Default
    /// [`GitHubSettings::DEFAULT_JIT_RATE`].
    pub jit_rate: Rate,
    /// How long one call may take. Default as the whole configuration has it.
    pub call_timeout: Duration,
    /// The proxy that leads there. Default none.
    pub proxy: Option<Proxy>,
    /// The certificates, in PEM, that GitHub's is checked with. Default the system's.
    pub ca: Option<String>,
}

impl GitHubSettings {
    /// How many calls may be under way at once, unless the user says otherwise: GitHub allows 100, and others
    /// may work with the same credentials.
    pub const DEFAULT_CONCURRENCY: u16 = 60;

    /// How many runners may be registered in a period, unless the user says otherwise:
    /// [`Rate::GITHUB_REGISTRATIONS`].
    pub const DEFAULT_JIT_RATE: Rate = Rate::GITHUB_REGISTRATIONS;

    /// The secrets, for whoever compares two of these.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let password =
            self.proxy.as_ref().and_then(|proxy| proxy.login.as_ref()).map(|(_, password)| password);
        self.credentials.iter().map(GitHubCredentials::secret).chain(password)
    }
}

/// As whom the manager talks to GitHub.
#[derive(Debug, Clone)]
pub enum GitHubCredentials {
    /// As a GitHub App.
    App {
        /// The App's number.
        id: u64,
        /// Its private key in PEM.
        private_key: Secret,
        /// The number of its installation; where there is none it is looked up for each scope.
        installation: Option<u64>,
    },
    /// As a user, by a personal access token.
    Token(Secret),
}

impl GitHubCredentials {
    /// What proves it.
    pub const fn secret(&self) -> &Secret {
        match self {
            Self::App { private_key, .. } => private_key,
            Self::Token(token) => token,
        }
    }
}

/// What the whole configuration says of calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calls {
    pub(super) lease: Duration,
    pub(super) call_timeout: Duration,
}

/// The connections that stand in the file, whether or not they are right, so that a group that names one is not
/// blamed for it, with the API of those that are.
pub(super) type Declared = BTreeMap<String, Option<BaseUrl>>;

/// Reads the connections. `calls` is none where what bounds them could not be read.
pub(super) fn read(
    at: &Cursor<'_>,
    environment: &dyn Environment,
    calls: Option<Calls>,
) -> Option<(Declared, Option<BTreeMap<ConnectionName, GitHubSettings>>)> {
    let fields = at.fields()?;
    let Some(named) = fields.optional(CONNECTIONS) else {
        let keys = CONNECTION_KEYS.into_iter().chain([CONNECTIONS]).collect::<Vec<_>>();
        let (api_url, read) = connection(at, &keys, environment, calls);
        let name = ConnectionName::default();
        let declared = [(name.to_string(), api_url)].into();
        return Some((declared, read.map(|settings| [(name, settings)].into())));
    };
    for (key, at) in fields.iter().filter(|(key, _)| *key != CONNECTIONS) {
        at.fault(format!("`{key}` has no meaning beside connections: write it into each of them"));
    }
    several(named, environment, calls)
}

fn several(
    at: &Cursor<'_>,
    environment: &dyn Environment,
    calls: Option<Calls>,
) -> Option<(Declared, Option<BTreeMap<ConnectionName, GitHubSettings>>)> {
    let fields = at.fields()?;
    let mut declared = Declared::new();
    let read = all(fields.iter().map(|(name, at)| {
        let checked = at.checked(ConnectionName::new(name));
        let (api_url, settings) = connection(at, &CONNECTION_KEYS, environment, calls);
        declared.insert(name.to_owned(), api_url);
        checked.zip(settings)
    }));
    if declared.is_empty() {
        at.fault("expected at least one connection, found none");
        return None;
    }
    Some((declared, read.map(BTreeMap::from_iter)))
}

/// Reads a connection, and which API it is of, also where something else about it is wrong.
fn connection(
    at: &Cursor<'_>,
    keys: &[&str],
    environment: &dyn Environment,
    calls: Option<Calls>,
) -> (Option<BaseUrl>, Option<GitHubSettings>) {
    let Some(fields) = at.known_fields(keys) else { return (None, None) };
    let default = BaseUrl::new(DEFAULT_API_URL).expect("the default is a URL");
    let api_url = fields.or("api_url", default, |at| at.parsed(api_url));
    let credentials = credentials(at, &fields, environment);
    let concurrency =
        fields.or("concurrency", GitHubSettings::DEFAULT_CONCURRENCY, |at| at.whole(1..=MAX_CONCURRENCY));
    let jit_rate = fields.or("jit_rate", GitHubSettings::DEFAULT_JIT_RATE, rate);
    let call_timeout = fields.or(CALL_TIMEOUT.name, calls.map(|calls| calls.call_timeout), |at| {
        let own = CALL_TIMEOUT.parse(at)?;
        calls.is_none_or(|calls| fits_into(at, own, calls.lease)).then_some(Some(own))
    });
    let proxy = fields.or("proxy", None, |at| proxy(at, environment).map(Some));
    let ca = fields.or("ca", None, |at| certificates(at, environment).map(Some));
    let read = || {
        Some(GitHubSettings {
            api_url: api_url.clone()?,
            credentials: credentials?,
            concurrency: concurrency?,
            jit_rate: jit_rate?,
            call_timeout: call_timeout??,
            proxy: proxy?,
            ca: ca?,
        })
    };
    let read = read();
    (api_url, read)
}

fn credentials(
    at: &Cursor<'_>,
    fields: &Fields<'_>,
    environment: &dyn Environment,
) -> Option<Vec<GitHubCredentials>> {
    let one = fields.optional("app").map(|at| app(at, environment).map(|app| vec![app]));
    let several = fields.optional("apps").map(|at| apps(at, environment));
    let token = fields.optional("token").map(|at| token(at, environment).map(|token| vec![token]));
    let mut given = [one, several, token].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(credentials), None) => credentials,
        (first, _) => {
            let found = if first.is_none() { "none" } else { "more than one" };
            at.fault(format!("expected one of app, apps and token, found {found}"));
            None
        }
    }
}

fn apps(at: &Cursor<'_>, environment: &dyn Environment) -> Option<Vec<GitHubCredentials>> {
    let items = at.items()?;
    if items.is_empty() || items.len() > MAX_APPS {
        at.fault(format!("expected 1 to {MAX_APPS} Apps, found {}", items.len()));
        return None;
    }
    let mut ids = BTreeSet::new();
    all(items.iter().map(|item| {
        let app = app(item, environment)?;
        if let GitHubCredentials::App { id, .. } = &app
            && !ids.insert(*id)
        {
            item.fault(format!("App {id} stands in this list already: GitHub counts its calls once"));
        }
        Some(app)
    }))
}

fn app(at: &Cursor<'_>, environment: &dyn Environment) -> Option<GitHubCredentials> {
    let fields = at.known_fields(&APP_KEYS)?;
    let id = fields.required("id").and_then(|at| at.whole(1..=u64::MAX));
    let private_key = fields.required("private_key").and_then(|at| {
        let key = secret(at, environment, 1)?;
        let is_pem = key.expose().trim_start().starts_with("-----BEGIN ");
        if !is_pem {
            at.fault("expected a private key in PEM, which begins with -----BEGIN");
        }
        is_pem.then_some(key)
    });
    let installation = fields.or("installation", None, |at| at.whole(1..=u64::MAX).map(Some));
    Some(GitHubCredentials::App { id: id?, private_key: private_key?, installation: installation? })
}

fn token(at: &Cursor<'_>, environment: &dyn Environment) -> Option<GitHubCredentials> {
    let token = secret(at, environment, 1)?;
    if token.expose().chars().any(|c| !c.is_ascii_graphic()) {
        at.fault("expected a token without spaces, line breaks and characters outside ASCII");
        return None;
    }
    Some(GitHubCredentials::Token(token))
}

/// A proxy: its URL, plain or as a secret, or a map with its parts.
fn proxy(at: &Cursor<'_>, environment: &dyn Environment) -> Option<Proxy> {
    let parts = at.is_map().then(|| at.fields()).flatten().filter(|fields| fields.optional("url").is_some());
    if parts.is_none() {
        let url = secret(at, environment, 1)?;
        return at.checked(Proxy::new(url.expose()));
    }
    let fields = at.known_fields(&PROXY_KEYS)?;
    let url = fields.required("url").and_then(|at| {
        let url = secret(at, environment, 1)?;
        at.checked(Proxy::new(url.expose()))
    });
    let user = fields.or("user", None, |at| at.text().map(|user| Some(user.to_owned())));
    let password = fields.or("password", None, |at| secret(at, environment, 1).map(Some));
    let (proxy, user, password) = (url?, user?, password?);
    match (proxy.login.is_some(), user, password) {
        (_, None, None) => Some(proxy),
        (false, Some(user), Some(password)) => Some(Proxy { login: Some((user, password)), ..proxy }),
        (true, _, _) => {
            at.fault("user and password stand in the URL, too: remove one of them");
            None
        }
        (false, Some(_), None) => {
            fields.missing("password", "is required, but missing: there is a user without one");
            None
        }
        (false, None, Some(_)) => {
            fields.missing("user", "is required, but missing: there is a password without one");
            None
        }
    }
}
