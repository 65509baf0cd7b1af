//! `store` of kind `redis`: how the server is reached.

use super::cursor::{Cursor, Fields};
use super::duration::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT};
use super::environment::{Environment, certificates, secret};
use super::services::{REDIS_KEYS, StoreSettings};
use crate::domain::DeploymentName;
use crate::redis::{RedisSettings, RedisUrlError};

/// Stands in until the prefix itself is read.
const ANY_PREFIX: &str = "rm:{unnamed}";

/// Reads the settings. `name` is none where the deployment's name could not be read.
pub(super) fn read(
    at: &Cursor<'_>,
    environment: &dyn Environment,
    name: Option<&DeploymentName>,
) -> Option<StoreSettings> {
    let fields = at.known_fields(&REDIS_KEYS)?;
    let default = name.map_or_else(|| ANY_PREFIX.to_owned(), |name| format!("rm:{{{}}}", name.as_str()));
    let prefix = fields.or("prefix", default, |at| {
        at.parsed(|text| RedisSettings::new("redis://localhost", text).map(|read| read.prefix))
    });
    let user = fields.or("user", None, |at| at.parsed(not_empty).map(Some));
    let password = fields.or("password", None, |at| secret(at, environment, 1).map(Some));
    let ca = fields.or("ca", None, |at| certificates(at, environment).map(Some));
    let connect_timeout = CONNECT_TIMEOUT.read(&fields);
    let response_timeout = RESPONSE_TIMEOUT.read(&fields);
    let url = fields.required("url").and_then(|at| {
        let text = secret(at, environment, 1)?;
        let separate = fields.optional("password").is_some();
        at.checked(url(text.expose(), separate))
    });
    let mut settings = url?;
    tell_what_stands_twice(&fields, &settings);
    settings.prefix = prefix?;
    settings.user = user?.or(settings.user);
    settings.password = password?.or(settings.password);
    settings.ca = ca?;
    settings.connect_timeout = connect_timeout?;
    settings.response_timeout = response_timeout?;
    if settings.user.is_some() && settings.password.is_none() {
        fields.missing("password", "is required, but missing: there is a user without one");
        return None;
    }
    Some(StoreSettings::Redis(settings))
}

/// A URL may name a user whose password stands beside it.
fn url(text: &str, separate_password: bool) -> Result<RedisSettings, RedisUrlError> {
    if separate_password {
        RedisSettings::with_password_elsewhere(text, ANY_PREFIX)
    } else {
        RedisSettings::new(text, ANY_PREFIX)
    }
}

fn tell_what_stands_twice(fields: &Fields<'_>, url: &RedisSettings) {
    for (key, in_url) in [("user", url.user.is_some()), ("password", url.password.is_some())] {
        if let (Some(at), true) = (fields.optional(key), in_url) {
            at.fault("stands in the URL, too: remove one of them");
        }
    }
    if let (Some(at), false) = (fields.optional("ca"), url.tls) {
        at.fault("has no meaning without TLS: write rediss:// or rediss+sentinel:// in the URL");
    }
}

fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("expected a user, found an empty text") } else { Ok(text.to_owned()) }
}
