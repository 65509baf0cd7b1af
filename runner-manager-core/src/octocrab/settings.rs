//! What the transport is told: where GitHub is, with which credentials, and how long anything may take.

use std::error::Error;
use std::time::Duration;

use http::Uri;

use crate::domain::Secret;

/// How the transport reaches GitHub.
#[derive(Debug, Clone)]
pub struct OctocrabSettings {
    /// The API's root: `https://api.github.com`, or `https://HOST/api/v3` of a GitHub Enterprise Server.
    pub api_url: String,
    /// Who we are there.
    pub credentials: Credentials,
    /// How long a connection may take. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a connection may be silent while something is awaited. Default 30 s.
    pub read_timeout: Duration,
    /// How long a whole call may take, with all that goes before it to get credentials. Default 60 s.
    pub call_timeout: Duration,
    /// The largest answer that is taken, in bytes. Default 10 MiB.
    pub answer_limit: usize,
}

impl OctocrabSettings {
    /// GitHub's own API root.
    pub const GITHUB: &'static str = "https://api.github.com";

    /// The API at an address with some credentials; all else by default.
    pub fn new(api_url: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            api_url: api_url.into(),
            credentials,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_mins(1),
            answer_limit: 10 * 1024 * 1024,
        }
    }

    /// The API's root without a slash at the end.
    pub(super) fn checked_url(&self) -> Result<String, SettingsError> {
        let url = self.api_url.trim_end_matches('/');
        let wrong = || SettingsError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let plain = matches!(uri.scheme_str(), Some("https" | "http")) && uri.query().is_none();
        let host = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if plain && host { Ok(url.to_owned()) } else { Err(wrong()) }
    }
}

/// Who we are at GitHub.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// A personal access token, classic or fine-grained.
    Token(Secret),
    /// A GitHub App.
    App {
        /// Its id.
        id: u64,
        /// Its RSA private key as GitHub gives it: PEM.
        private_key: Secret,
        /// The one installation to work with. None: the one for each scope is looked up.
        installation: Option<u64>,
    },
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The API's root is no address.
    #[error("`{0}` is not GitHub's API: write it as https://api.github.com or https://HOST/api/v3")]
    Url(String),
    /// The token has a character that cannot be sent.
    #[error("the token is empty, or has a space, a line break or another character that no token has")]
    Token,
    /// The private key is none.
    #[error("the App's private key is not an RSA key in PEM form, as GitHub gives it")]
    PrivateKey,
    /// The certificates that the system trusts could not be read.
    #[error("the certificates that this system trusts cannot be read: install its CA certificates")]
    Roots(#[source] Box<dyn Error + Send + Sync>),
}

pub(super) fn check_token(token: &Secret) -> Result<(), SettingsError> {
    let text = token.expose();
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(SettingsError::Token) }
}
