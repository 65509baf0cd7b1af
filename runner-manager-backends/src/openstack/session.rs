//! A session at a cloud: signs in at Keystone at the first call, and again whenever a token is no longer taken.
//!
//! A token lives for an hour or so. Nothing keeps watch over that: a call that is refused with 401 had no effect, and is
//! made once more with a new token.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use reqwest::Url;
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::later;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

use super::catalog::{Entry, Service, endpoint};
use super::cloud::{Cloud, Credential, Domain, Named, Who};
use super::errors::{Failure, Refusal};
use super::transport::{Answer, Transport};

/// How long a refusal of who signs in is remembered: Keystone may lock out a user who tries too often.
const REFUSED_FOR: Duration = Duration::from_secs(20);

/// The newest microversion of Nova that is asked for: it tells of servers whose part of the cloud is down (2.69);
/// 2.52 sets tags at creation, 2.67 takes the type of a volume.
const WANTED: u32 = 69;

/// A cloud to which calls can be made.
#[derive(Debug)]
pub(super) struct Session {
    transport: Transport,
    cloud: Cloud,
    /// Held while somebody signs in, so that all who need it then wait for one token.
    held: Mutex<Held>,
    microversion: OnceCell<u32>,
}

#[derive(Debug, Default)]
struct Held {
    login: Option<Arc<Login>>,
    refused: Option<(Timestamp, String)>,
}

/// What signing in gave.
#[derive(Debug)]
pub(super) struct Login {
    token: HeaderValue,
    catalog: Vec<Entry>,
    pub(super) project: String,
    pub(super) roles: Vec<String>,
}

/// A call to a service.
#[derive(Debug, Clone)]
pub(super) struct Call {
    service: Service,
    method: Method,
    path: Vec<String>,
    query: Vec<(String, String)>,
    body: Option<Value>,
}

impl Call {
    pub(super) fn new(method: Method, service: Service, path: &[&str]) -> Self {
        let path = path.iter().map(|&segment| segment.to_owned()).collect();
        Self { service, method, path, query: Vec::new(), body: None }
    }

    pub(super) fn get(service: Service, path: &[&str]) -> Self {
        Self::new(Method::GET, service, path)
    }

    pub(super) fn delete(service: Service, path: &[&str]) -> Self {
        Self::new(Method::DELETE, service, path)
    }

    pub(super) fn post(service: Service, path: &[&str], body: Value) -> Self {
        Self { body: Some(body), ..Self::new(Method::POST, service, path) }
    }

    /// The same with one more field in its query, in place of the one of that name; an exception is `fields`, which
    /// may be there several times.
    pub(super) fn with(mut self, key: &str, value: &str) -> Self {
        if key != "fields" {
            self.query.retain(|(name, _)| name != key);
        }
        self.query.push((key.to_owned(), value.to_owned()));
        self
    }

    fn url(&self, base: Url) -> Url {
        let mut url = below(base, &self.path);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

/// What is at a path below another: no segment can lead elsewhere.
fn below<S: AsRef<str>>(mut base: Url, path: impl IntoIterator<Item = S>) -> Url {
    if let Ok(mut segments) = base.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    base
}

impl Session {
    pub(super) fn new(transport: Transport, cloud: Cloud) -> Self {
        Self { transport, cloud, held: Mutex::default(), microversion: OnceCell::new() }
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.transport.clock()
    }

    /// Makes a call; an answer that is no success is a failure.
    pub(super) async fn call(&self, call: &Call) -> Result<Answer, Failure> {
        let version = match call.service {
            Service::Compute => Some(self.microversion().await?),
            Service::Network | Service::Image | Service::Volume => None,
        };
        self.exchange(call, version).await
    }

    /// Makes a call and reads the answer's JSON.
    pub(super) async fn read<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Failure> {
        self.call(call).await?.read()
    }

    /// Whether the cloud has a service.
    pub(super) async fn has(&self, service: Service) -> Result<bool, Failure> {
        let login = self.login(None).await?;
        match endpoint(&login.catalog, service, &self.cloud) {
            Ok(_) => Ok(true),
            Err(Failure::NoService { .. }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The microversion in which Nova is spoken to, of 2: the newest that both sides know.
    pub(super) async fn microversion(&self) -> Result<u32, Failure> {
        let discovered = self.microversion.get_or_try_init(async || {
            let answer = self.exchange(&Call::get(Service::Compute, &[""]), None).await?;
            let told: Value = answer.read()?;
            let newest = told["version"]["version"].as_str().and_then(|version| version.strip_prefix("2."));
            // A Nova without microversions tells an empty text.
            Ok::<_, Failure>(newest.and_then(|minor| minor.parse().ok()).unwrap_or(1).min(WANTED))
        });
        discovered.await.copied()
    }

    async fn exchange(&self, call: &Call, microversion: Option<u32>) -> Result<Answer, Failure> {
        let login = self.login(None).await?;
        let answer = self.send(call, &login, microversion).await?;
        let answer = if answer.status == StatusCode::UNAUTHORIZED {
            let login = self.login(Some(&login)).await?;
            self.send(call, &login, microversion).await?
        } else {
            answer
        };
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(Box::new(Refusal::read(answer.status.as_u16(), &answer.headers, &answer.body)).into())
    }

    async fn send(&self, call: &Call, login: &Login, microversion: Option<u32>) -> Result<Answer, Failure> {
        let url = call.url(endpoint(&login.catalog, call.service, &self.cloud)?);
        let mut headers =
            HeaderMap::from_iter([(http::HeaderName::from_static("x-auth-token"), login.token.clone())]);
        if let Some(minor) = microversion {
            let value = |text: String| {
                HeaderValue::from_str(&text).expect("digits, letters and spaces go into headers")
            };
            headers.insert("openstack-api-version", value(format!("compute 2.{minor}")));
            // How it was said before 2.27.
            headers.insert("x-openstack-nova-api-version", value(format!("2.{minor}")));
        }
        let body = call.body.as_ref().map(Value::to_string);
        let answer = self.transport.send(call.method.clone(), url, headers, body).await?;
        let (service, method, status) = (call.service, &call.method, answer.status.as_u16());
        tracing::debug!(%service, %method, path = call.path.join("/"), status, "asked OpenStack");
        Ok(answer)
    }

    /// The login that holds; a new one where there is none yet, or only the `expired` one.
    pub(super) async fn login(&self, expired: Option<&Arc<Login>>) -> Result<Arc<Login>, Failure> {
        let mut held = self.held.lock().await;
        if let Some(login) = &held.login
            && !expired.is_some_and(|expired| Arc::ptr_eq(expired, login))
        {
            return Ok(Arc::clone(login));
        }
        let now = self.clock().now();
        if let Some((at, why)) = &held.refused
            && now < later(*at, REFUSED_FOR)
        {
            return Err(Failure::NotSignedIn(why.clone()));
        }
        held.login = None;
        match self.sign_in().await {
            Ok(login) => {
                let login = Arc::new(login);
                *held = Held { login: Some(Arc::clone(&login)), refused: None };
                Ok(login)
            }
            Err(failure) if failure.refuses_credentials() => {
                held.refused = Some((now, failure.to_string()));
                Err(Failure::NotSignedIn(failure.to_string()))
            }
            Err(failure) => Err(Failure::SigningIn(Box::new(failure))),
        }
    }

    /// <https://docs.openstack.org/api-ref/identity/v3/#authentication-and-token-management>
    async fn sign_in(&self) -> Result<Login, Failure> {
        let url = below(self.cloud.auth_url.clone(), ["auth", "tokens"]);
        let body = Some(request(&self.cloud.who).to_string());
        let answer = self.transport.send(Method::POST, url, HeaderMap::new(), body).await?;
        if !answer.status.is_success() {
            return Err(Box::new(Refusal::read(answer.status.as_u16(), &answer.headers, &answer.body)).into());
        }
        let mut token = answer.headers.get("x-subject-token").cloned();
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        let token = token.ok_or_else(|| Failure::Broken("it bears no token".to_owned()))?;
        let told: Told = answer.read()?;
        let project =
            told.token.project.ok_or_else(|| Failure::Unfit("the token is for no project".to_owned()))?;
        let roles = told.token.roles.into_iter().map(|role| role.name).collect();
        Ok(Login { token, catalog: told.token.catalog, project: project.id, roles })
    }
}

#[derive(Deserialize)]
struct Told {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    catalog: Vec<Entry>,
    project: Option<Project>,
    #[serde(default)]
    roles: Vec<Role>,
}

#[derive(Deserialize)]
struct Project {
    id: String,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

/// What is sent to sign in.
fn request(who: &Who) -> Value {
    match who {
        Who::Password { user, password, project } => {
            let mut user = named(user);
            user["password"] = json!(password.expose());
            let identity = json!({"methods": ["password"], "password": {"user": user}});
            json!({"auth": {"identity": identity, "scope": {"project": named(project)}}})
        }
        Who::ApplicationCredential { credential, secret } => {
            let credential = match credential {
                Credential::Id(id) => json!({"id": id, "secret": secret.expose()}),
                Credential::Name { name, user } => {
                    json!({"name": name, "user": named(user), "secret": secret.expose()})
                }
            };
            let method = "application_credential";
            json!({"auth": {"identity": {"methods": [method], method: credential}}})
        }
    }
}

fn named(what: &Named) -> Value {
    match what {
        Named::Id(id) => json!({"id": id}),
        Named::Name { name, domain: Domain::Id(id) } => json!({"name": name, "domain": {"id": id}}),
        Named::Name { name, domain: Domain::Name(domain) } => {
            json!({"name": name, "domain": {"name": domain}})
        }
    }
}

#[cfg(test)]
mod tests {
    use runner_manager_core::domain::Secret;
    use serde_json::json;

    use super::{Call, Credential, Domain, Named, Service, Who, request};

    #[test]
    fn who_signs_in_is_told_as_keystone_wants_it() {
        let name = |name: &str, domain| Named::Name { name: name.to_owned(), domain };
        let by_password = Who::Password {
            user: name("me", Domain::Id("default".to_owned())),
            password: Secret::new("secret"),
            project: name("ci", Domain::Name("corp".to_owned())),
        };
        let user = json!({"name": "me", "domain": {"id": "default"}, "password": "secret"});
        assert_eq!(
            request(&by_password),
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"name": "ci", "domain": {"name": "corp"}}},
            }})
        );
        let credential = Credential::Name { name: "runners".to_owned(), user: Named::Id("u1".to_owned()) };
        let by_credential = Who::ApplicationCredential { credential, secret: Secret::new("hush") };
        let wanted = json!({"name": "runners", "user": {"id": "u1"}, "secret": "hush"});
        let methods = json!(["application_credential"]);
        assert_eq!(
            request(&by_credential),
            json!({"auth": {"identity": {"methods": methods, "application_credential": wanted}}})
        );
        assert!(!format!("{by_password:?} {by_credential:?}").contains("hush"));
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        let call = Call::get(Service::Compute, &["servers", "../flavors?x=1"])
            .with("name", "a&b=c")
            .with("name", "^d$");
        let url = call.url("https://nova/v2.1/".parse().unwrap());
        assert_eq!(url.as_str(), "https://nova/v2.1/servers/..%2Fflavors%3Fx=1?name=%5Ed%24");
    }
}
