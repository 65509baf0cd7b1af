//! What the transport is told: where GitHub is, how it is reached, with which credentials, and how long
//! anything may take.

use std::time::Duration;

use http::Uri;

use crate::domain::Secret;

/// How the transport reaches GitHub.
#[derive(Debug, Clone)]
pub struct OctocrabSettings {
    /// The API's root: `https://api.github.com`, `https://api.SUBDOMAIN.ghe.com`, or `https://HOST/api/v3` of a
    /// GitHub Enterprise Server.
    pub api_url: String,
    /// Who we are there.
    pub credentials: Credentials,
    /// The proxy that leads there. Default none; what the environment says of proxies is not looked at.
    pub proxy: Option<ProxySettings>,
    /// The certificates, in PEM, that GitHub's, and that of a proxy with TLS, are checked with. Default the
    /// system's.
    pub ca: Option<String>,
    /// How long a connection may take, with all that a proxy adds. Default 10 s.
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
            proxy: None,
            ca: None,
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

/// A proxy that is asked, by HTTP `CONNECT`, to lead to GitHub. It sees no request.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// Where it is: `http://HOST:PORT`, or `https://HOST:PORT` where TLS leads to the proxy, too.
    pub url: String,
    /// The user and the password that it asks for.
    pub login: Option<(String, Secret)>,
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
    /// The proxy's address is none, or its user and password cannot be sent. The text is not repeated: it may
    /// have a password in it.
    #[error("the proxy is not one: write it as http://HOST:PORT, its user and password beside it")]
    Proxy,
    /// The token has a character that cannot be sent.
    #[error("the token is empty, or has a space, a line break or another character that no token has")]
    Token,
    /// The private key is none.
    #[error("the App's private key is not an RSA key in PEM form, as GitHub gives it")]
    PrivateKey,
    /// The certificates, the system's or those that were named, cannot be used.
    #[error("GitHub's certificate cannot be checked: {0}")]
    Certificates(String),
}

pub(super) fn check_token(token: &Secret) -> Result<(), SettingsError> {
    let text = token.expose();
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(SettingsError::Token) }
}
