//! Who asks: credentials by the rules of Google's libraries, and the settings.
//! <https://cloud.google.com/docs/authentication/application-default-credentials>

use std::error::Error;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use google_cloud_auth::credentials::{
    Builder, CacheableResource, Credentials, external_account, impersonated, service_account, user_account,
};
use http::{Extensions, HeaderMap};
use serde_json::Value;

use super::config::Settings;
use super::errors::{Failure, chain, told};
use super::unsaid::without_secrets;
use crate::settings::SecretSource;

/// What is asked for: Compute, and what it needs of other services.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

const NONSENSE: &str = "the answer to a request for a token makes no sense";

/// The credentials, which get new tokens by themselves as long as they are not refused.
pub(super) struct Access {
    source: Option<SecretSource>,
    impersonate: Option<String>,
    now: Mutex<Held>,
}

/// The credentials in use; none where the next call is to begin anew.
#[derive(Default)]
struct Held {
    round: u64,
    credentials: Option<Credentials>,
}

/// What says who asks.
pub(super) struct Signed {
    pub(super) headers: HeaderMap,
    round: u64,
}

impl fmt::Debug for Access {
    /// Without the credentials: the library shows what was answered to them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("impersonate", &self.impersonate).finish_non_exhaustive()
    }
}

impl Access {
    /// The credentials that the settings mean. Must be called within a runtime, in which a token is asked for.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        let (source, impersonate) = (settings.credentials.clone(), settings.impersonate.clone());
        let credentials = Some(find(source.as_ref(), impersonate.as_deref())?);
        Ok(Self { source, impersonate, now: Mutex::new(Held { round: 0, credentials }) })
    }

    /// The headers that say who asks.
    ///
    /// # Errors
    /// Where no token is to be had.
    pub(super) async fn headers(&self) -> Result<Signed, Failure> {
        let (round, credentials) = self.held()?;
        let mut waiting = Waiting { access: Some(self), round };
        // At times that make no sense the library panics.
        let answer = AssertUnwindSafe(credentials.headers(Extensions::new())).catch_unwind().await;
        let answer = answer.map_err(|_panic| Failure::NoCredentials(NONSENSE.to_owned()))?;
        let headers = match answer {
            Ok(CacheableResource::New { data, .. }) => data,
            // Only who shows a mark of what it has gets this answer.
            Ok(CacheableResource::NotModified) => HeaderMap::new(),
            Err(why) if why.is_transient() => {
                // The library asks again by itself.
                waiting.access = None;
                return Err(Failure::CredentialsLate(told_of(&why)));
            }
            Err(why) => return Err(Failure::NoCredentials(told_of(&why))),
        };
        waiting.access = None;
        Ok(Signed { headers, round })
    }

    /// Has the next call begin anew, where nobody has before: the libraries never ask again once they were refused, and do
    /// not know when a token was.
    pub(super) fn renew(&self, refused: &Signed) {
        self.end(refused.round);
    }

    fn held(&self) -> Result<(u64, Credentials), Failure> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let credentials = match &now.credentials {
            Some(credentials) => credentials.clone(),
            None => {
                find(self.source.as_ref(), self.impersonate.as_deref()).map_err(Failure::NoCredentials)?
            }
        };
        now.credentials = Some(credentials.clone());
        Ok((now.round, credentials))
    }

    fn end(&self, round: u64) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.round == round {
            *now = Held { round: round + 1, credentials: None };
        }
    }
}

/// Somebody who waits for a token. Who leaves without one takes the credentials out of use: the library waits for an
/// answer, and reads it, for as long as it takes, and all later calls would wait with it.
struct Waiting<'a> {
    access: Option<&'a Access>,
    round: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(access) = self.access {
            access.end(self.round);
        }
    }
}

fn find(source: Option<&SecretSource>, impersonate: Option<&str>) -> Result<Credentials, String> {
    let found = match source {
        None => Builder::default().with_scopes([SCOPE]).build().map_err(|error| told_of(&error))?,
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
        .map_err(|error| format!("impersonate: {}", told_of(&error)))
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
    built.map_err(|error| format!("of type {kind}: {}", told_of(&error)))
}

fn told_of(error: &dyn Error) -> String {
    told(&without_secrets(&chain(error)))
}
