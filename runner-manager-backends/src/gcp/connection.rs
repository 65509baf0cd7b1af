//! One call of Compute's API, and its answer within bounds.
//!
//! It knows nothing of what is asked, and logs neither headers nor bodies: tokens and start scripts are in them.
//! <https://cloud.google.com/compute/docs/reference/rest/v1>

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Client, Url};
use runner_manager_core::clock::{Clock, timeout};
use serde::de::DeserializeOwned;

use super::config::Settings;
use super::credentials::{Access, Signed};
use super::errors::Failure;
use crate::outgoing;

/// Where Compute is.
const ENDPOINT: &str = "https://compute.googleapis.com";

/// The most of an answer that is read: a page of 500 instances has 5 MB, without what their metadata hold.
pub(super) const MOST_BYTES: usize = 64 << 20;

/// How long a connection may take until it is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What we are called in the project's logs.
const NAME: HeaderValue = HeaderValue::from_static(concat!("runner-manager/", env!("CARGO_PKG_VERSION")));

/// The way to one project.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    access: Access,
    base: Url,
    pub(super) project: String,
    pub(super) network_project: String,
    pub(super) timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

/// What is asked for, in the query of a call.
pub(super) type Query<'a> = &'a [(&'a str, &'a str)];

impl Connection {
    /// # Errors
    /// Why there can be none.
    pub(super) fn new(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let endpoint = settings.endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/');
        let base = Url::parse(&format!("{endpoint}/compute/v1/"))
            .map_err(|error| format!("endpoint: `{endpoint}`: {error}"))?;
        let client = outgoing::client().connect_timeout(CONNECT_TIMEOUT).build();
        let client = client.map_err(|error| format!("the client cannot be made: {error}"))?;
        let project = settings.project.clone().unwrap_or_default();
        Ok(Self {
            client,
            access: Access::new(settings)?,
            base,
            network_project: settings.network_project.clone().unwrap_or_else(|| project.clone()),
            project,
            timeout: settings.timeout,
            clock,
        })
    }

    /// The path of something in a zone of the project.
    pub(super) fn in_zone(&self, zone: &str, rest: &str) -> String {
        format!("projects/{}/zones/{zone}/{rest}", self.project)
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: Query<'_>) -> Result<T, Failure> {
        self.call(Method::GET, path, query, None, self.timeout).await
    }

    /// One call, which ends within a time, signing in included.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: Query<'_>,
        body: Option<String>,
        limit: Duration,
    ) -> Result<T, Failure> {
        let mut url = self.base.join(path).map_err(|error| Failure::Unfit(format!("{path}: {error}")))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let call = Call { method, url, body, is_sent: AtomicBool::new(false) };
        let answer = timeout(self.clock.as_ref(), limit, self.exchange(&call)).await;
        match answer {
            Err(_) if !call.is_sent.load(Ordering::SeqCst) => {
                Err(Failure::CredentialsLate("none came in time".to_owned()))
            }
            answer => answer?,
        }
    }

    /// A token that is refused is replaced once, unnoticed: it may have ended early, or while this machine slept. What was
    /// refused so was not done.
    async fn exchange<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Failure> {
        let signed = self.access.headers().await?;
        let mut answer = self.send(call, &signed).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            call.is_sent.store(false, Ordering::SeqCst);
            self.access.renew(&signed);
            let again = self.access.headers().await?;
            // A metadata server has one token for all who ask.
            if again.headers != signed.headers {
                answer = self.send(call, &again).await?;
            }
            if answer.status == StatusCode::UNAUTHORIZED {
                self.access.renew(&again);
            }
        }
        answer.read()
    }

    async fn send(&self, call: &Call, signed: &Signed) -> Result<Answer, Failure> {
        let mut request = self.client.request(call.method.clone(), call.url.clone());
        request = request.headers(signed.headers.clone()).header(ACCEPT, JSON).header(USER_AGENT, NAME);
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, JSON).body(body.clone());
        } else if call.method == Method::POST {
            // Google's front ends want to be told that there is none.
            request = request.body("");
        }
        call.is_sent.store(true, Ordering::SeqCst);
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = outgoing::body(response, MOST_BYTES, Failure::Unanswered).await?;
        Ok(Answer { status, headers, body })
    }
}

/// What is asked, and whether it may have been done.
struct Call {
    method: Method,
    url: Url,
    body: Option<String>,
    is_sent: AtomicBool,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if !self.status.is_success() {
            return Err(Failure::refused(self.status, &self.headers, &self.body));
        }
        // What cannot be read is not quoted.
        serde_json::from_slice(&self.body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Failure::Unanswered(format!(
                "it is not the JSON that was asked for (line {line}, column {column})"
            ))
        })
    }
}
