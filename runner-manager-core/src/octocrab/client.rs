//! The HTTP client that octocrab works on.
//!
//! It is put together here, and not by octocrab's own builder, for what that one adds: a user agent of its
//! own beside ours, redirects of any request, an error in the log for each 5xx, and retries. It bears no
//! credentials: each request gets its own.

use std::sync::Arc;

use ::octocrab::service::middleware::base_uri::BaseUriLayer;
use ::octocrab::service::middleware::extra_headers::ExtraHeadersLayer;
use ::octocrab::{AuthState, Octocrab, OctocrabBuilder};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{ACCEPT, HeaderName, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;

use super::settings::{OctocrabSettings, ProxySettings, SettingsError};
use crate::certificates::{client_config, trusting_nobody};

const HEADERS: [(HeaderName, &str); 3] = [
    (USER_AGENT, concat!("runner-manager/", env!("CARGO_PKG_VERSION"))),
    (ACCEPT, "application/vnd.github+json"),
    (HeaderName::from_static("x-github-api-version"), "2022-11-28"),
];

/// A client of the API at an address.
pub(super) fn build(api_url: &str, settings: &OctocrabSettings) -> Result<Octocrab, SettingsError> {
    let uri: Uri = api_url.parse().map_err(|_| SettingsError::Url(api_url.to_owned()))?;
    let tls = tls(&uri, settings)?;
    let direct = https(tls.clone());
    match &settings.proxy {
        None => Ok(assemble(timed(TimeoutConnector::new(direct), settings), uri)),
        Some(proxy) => {
            let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
            let through = builder.wrap_connector(tunnel(proxy, direct)?);
            Ok(assemble(timed(TimeoutConnector::new(through), settings), uri))
        }
    }
}

/// What speaks plain HTTP needs no certificates, and there may be none.
fn tls(uri: &Uri, settings: &OctocrabSettings) -> Result<ClientConfig, SettingsError> {
    let proxy_with_tls = settings.proxy.as_ref().is_some_and(|proxy| proxy.url.starts_with("https:"));
    let is_plain = uri.scheme() == Some(&Scheme::HTTP) && !proxy_with_tls && settings.ca.is_none();
    let config = if is_plain { trusting_nobody() } else { client_config(settings.ca.as_deref()) };
    config.map_err(SettingsError::Certificates)
}

fn https(tls: ClientConfig) -> HttpsConnector<HttpConnector> {
    HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build()
}

/// The way through a proxy, which is reached by `to_proxy`.
fn tunnel<C>(proxy: &ProxySettings, to_proxy: C) -> Result<Tunnel<C>, SettingsError> {
    let uri: Uri = proxy.url.parse().map_err(|_| SettingsError::Proxy)?;
    let is_base = matches!(uri.scheme_str(), Some("https" | "http")) && matches!(uri.path(), "" | "/");
    let named = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if !is_base || !named || uri.query().is_some() {
        return Err(SettingsError::Proxy);
    }
    let tunnel = Tunnel::new(uri, to_proxy);
    let Some((user, password)) = &proxy.login else { return Ok(tunnel) };
    let login = BASE64_STANDARD.encode(format!("{user}:{}", password.expose()));
    let login = HeaderValue::from_str(&format!("Basic {login}")).map_err(|_| SettingsError::Proxy)?;
    Ok(tunnel.with_auth(login))
}

fn timed<C>(mut connector: TimeoutConnector<C>, settings: &OctocrabSettings) -> TimeoutConnector<C> {
    connector.set_connect_timeout(Some(settings.connect_timeout));
    connector.set_read_timeout(Some(settings.read_timeout));
    connector.set_write_timeout(Some(settings.read_timeout));
    connector
}

fn assemble<C>(connector: C, uri: Uri) -> Octocrab
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let headers = HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value)));
    let built = OctocrabBuilder::new_empty()
        .with_service(client)
        .with_layer(&BaseUriLayer::new(uri))
        .with_layer(&ExtraHeadersLayer::new(Arc::new(headers.to_vec())))
        .with_auth(AuthState::None)
        .build();
    built.unwrap_or_else(|never| match never {})
}
