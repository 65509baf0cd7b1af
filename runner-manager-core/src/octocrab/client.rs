//! The HTTP client that octocrab works on.
//!
//! It is put together here, and not by octocrab's own builder, for what that one adds: a user agent of its
//! own beside ours, redirects of any request, an error in the log for each 5xx, and retries.

use std::sync::Arc;

use ::octocrab::auth::AppAuth;
use ::octocrab::service::middleware::base_uri::BaseUriLayer;
use ::octocrab::service::middleware::extra_headers::ExtraHeadersLayer;
use ::octocrab::{AuthState, EncodingKey, Octocrab, OctocrabBuilder};
use http::header::{ACCEPT, HeaderName, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

use super::settings::{Credentials, OctocrabSettings, SettingsError, check_token};

const HEADERS: [(HeaderName, &str); 3] = [
    (USER_AGENT, concat!("runner-manager/", env!("CARGO_PKG_VERSION"))),
    (ACCEPT, "application/vnd.github+json"),
    (HeaderName::from_static("x-github-api-version"), "2022-11-28"),
];

/// A client of the API at an address. It bears the App's web token, or nothing where there is none.
pub(super) fn build(api_url: &str, settings: &OctocrabSettings) -> Result<Octocrab, SettingsError> {
    let uri: Uri = api_url.parse().map_err(|_| SettingsError::Url(api_url.to_owned()))?;
    // What speaks plain HTTP needs no certificates, and there may be none.
    let tls = if uri.scheme() == Some(&Scheme::HTTP) {
        let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
        HttpsConnectorBuilder::new().with_tls_config(config.with_no_client_auth())
    } else {
        HttpsConnectorBuilder::new().with_native_roots().map_err(|why| SettingsError::Roots(why.into()))?
    };
    let mut connector = TimeoutConnector::new(tls.https_or_http().enable_http1().build());
    connector.set_connect_timeout(Some(settings.connect_timeout));
    connector.set_read_timeout(Some(settings.read_timeout));
    connector.set_write_timeout(Some(settings.read_timeout));
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let headers = HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value)));
    let built = OctocrabBuilder::new_empty()
        .with_service(client)
        .with_layer(&BaseUriLayer::new(uri))
        .with_layer(&ExtraHeadersLayer::new(Arc::new(headers.to_vec())))
        .with_auth(auth(&settings.credentials)?)
        .build();
    Ok(built.unwrap_or_else(|never| match never {}))
}

fn auth(credentials: &Credentials) -> Result<AuthState, SettingsError> {
    match credentials {
        Credentials::Token(token) => check_token(token).map(|()| AuthState::None),
        Credentials::App { id, private_key, .. } => {
            let key = EncodingKey::from_rsa_pem(private_key.expose().as_bytes());
            let key = key.map_err(|_| SettingsError::PrivateKey)?;
            Ok(AuthState::App(AppAuth { app_id: (*id).into(), key }))
        }
    }
}
