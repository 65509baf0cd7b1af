//! Who asks: credentials by the rules of Google's libraries, and the settings.
//! <https://cloud.google.com/docs/authentication/application-default-credentials>

use std::sync::{Mutex, PoisonError};

use google_cloud_auth::credentials::{
    Builder, CacheableResource, Credentials, external_account, impersonated, service_account, user_account,
};
use http::{Extensions, HeaderMap};
use serde_json::Value;

use super::config::Settings;
use super::errors::{Failure, chain, told};
use crate::settings::SecretSource;

/// What is asked for: Compute, and what it needs of other services.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The credentials, which get new tokens by themselves as long as they are not refused.
#[derive(Debug)]
pub(super) struct Access {
    source: Option<SecretSource>,
    impersonate: Option<String>,
    now: Mutex<Credentials>,
}

impl Access {
    /// The credentials that the settings mean. Nothing is asked yet. Must be called within a runtime.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        let (source, impersonate) = (settings.credentials.clone(), settings.impersonate.clone());
        let now = Mutex::new(find(source.as_ref(), impersonate.as_deref())?);
        Ok(Self { source, impersonate, now })
    }

    /// The headers that say who asks.
    ///
    /// # Errors
    /// Where no token is to be had.
    pub(super) async fn headers(&self) -> Result<HeaderMap, Failure> {
        let credentials = self.now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match credentials.headers(Extensions::new()).await {
            Ok(CacheableResource::New { data, .. }) => Ok(data),
            // Only who shows a mark of what it has gets this answer.
            Ok(CacheableResource::NotModified) => Ok(HeaderMap::new()),
            Err(why) if why.is_transient() => Err(Failure::CredentialsLate(told(&chain(&why)))),
            Err(why) => {
                self.renew();
                Err(Failure::NoCredentials(told(&chain(&why))))
            }
        }
    }

    /// Begins anew: the libraries never ask again once they were refused, and do not know when a token was.
    pub(super) fn renew(&self) {
        if let Ok(fresh) = find(self.source.as_ref(), self.impersonate.as_deref()) {
            *self.now.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }
}

fn find(source: Option<&SecretSource>, impersonate: Option<&str>) -> Result<Credentials, String> {
    let found = match source {
        None => Builder::default().with_scopes([SCOPE]).build().map_err(|error| told(&chain(&error)))?,
        Some(source) => {
            let json = source.resolve().map_err(|why| format!("credentials: {why}"))?;
            given(json.expose()).map_err(|why| format!("credentials: {why}"))?
        }
    };
    let Some(account) = impersonate else { return Ok(found) };
    impersonated::Builder::from_source_credentials(found)
        .with_target_principal(account)
        .with_scopes([SCOPE])
        .build()
        .map_err(|error| format!("impersonate: {}", told(&chain(&error))))
}

/// The credentials of a JSON text. What cannot be read is not quoted.
fn given(text: &str) -> Result<Credentials, String> {
    let json: Value = serde_json::from_str(text).map_err(|error| {
        format!("is not the JSON of credentials (line {}, column {})", error.line(), error.column())
    })?;
    let kind = json.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let built = match kind.as_str() {
        "service_account" => service_account::Builder::new(json)
            .with_access_specifier(service_account::AccessSpecifier::from_scopes([SCOPE]))
            .build(),
        "authorized_user" => user_account::Builder::new(json).with_scopes([SCOPE]).build(),
        "external_account" => external_account::Builder::new(json).with_scopes([SCOPE]).build(),
        "impersonated_service_account" => impersonated::Builder::new(json).with_scopes([SCOPE]).build(),
        _ => {
            return Err(
                "have no known type: service_account, external_account, impersonated_service_account or \
                        authorized_user"
                    .to_owned(),
            );
        }
    };
    built.map_err(|error| format!("of type {kind}: {}", told(&chain(&error))))
}
