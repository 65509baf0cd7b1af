//! One HTTP request to a service of a cloud, and its answer within bounds.
//!
//! It knows nothing of what is asked, and logs neither headers nor bodies: tokens and user data are in them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Client, Url};
use runner_manager_core::clock::{Clock, timeout};
use serde::de::DeserializeOwned;

use super::cloud::Cloud;
use super::errors::Failure;
use crate::outgoing;

/// The most of an answer that is read: a page of a thousand servers has 3 MB.
pub(super) const MOST_BYTES: usize = 16 << 20;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The way to the services of a cloud.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// Its JSON. What cannot be read is not quoted.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::Broken(format!(
                "it is not the JSON that was asked for (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }
}

impl Transport {
    /// # Errors
    /// Why there can be no such client.
    pub(super) fn new(cloud: &Cloud, timeout: Duration, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let mut builder = outgoing::client();
        if !cloud.authorities.is_empty() {
            builder = builder.tls_certs_only(cloud.authorities.clone());
        }
        if cloud.auth_url.scheme() == "http" && !is_here(&cloud.auth_url) {
            tracing::warn!(auth_url = %cloud.auth_url, "whoever signs in there sends secrets in clear: use https");
        }
        if !cloud.verify {
            tracing::warn!(auth_url = %cloud.auth_url, "certificates are not looked at: whoever is in between reads all secrets");
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        let client = builder.build().map_err(|error| format!("the client cannot be made: {error}"))?;
        Ok(Self { client, timeout, clock })
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    pub(super) async fn send(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<String>,
    ) -> Result<Answer, Failure> {
        timeout(self.clock.as_ref(), self.timeout, self.exchange(method, url, headers, body)).await?
    }

    async fn exchange(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<String>,
    ) -> Result<Answer, Failure> {
        let mut request = self.client.request(method, url).headers(headers).header(ACCEPT, JSON);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, JSON).body(body);
        }
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = outgoing::body(response, MOST_BYTES, Failure::Broken).await?;
        Ok(Answer { status, headers, body: body.into() })
    }
}

/// Whether an address is on this machine.
fn is_here(url: &Url) -> bool {
    matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"))
}
