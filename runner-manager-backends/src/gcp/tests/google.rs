//! Google, played on loopback: whatever gives tokens, Compute, and the keys and tokens that they know.

use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use runner_manager_core::backend::Backend;
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::later;
use serde_json::{Value, json};

use super::connect;
use super::played::refusal;
use crate::testing::fault_proxy::{Harm, Proxy, Seen};

pub(super) const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
pub(super) const ACCOUNT: &str = "manager@acme.iam.gserviceaccount.com";
pub(super) const KEY_ID: &str = "0123456789abcdef";
pub(super) const AUDIENCE: &str =
    "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/ci/providers/acme";
/// Where one account acts as another.
pub(super) const ACTS_AS: &str = "/v1/projects/-/serviceAccounts/runners@acme:generateAccessToken";

/// All of Google, and what it was asked.
pub(super) struct Google {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _proxy: Proxy,
}

impl Google {
    pub(super) async fn play(answer: impl Fn(&Seen) -> Harm + Send + Sync + 'static) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let proxy = Proxy::alone(move |one| {
            noted.lock().unwrap().push(one.clone());
            Some(("asked", answer(one)))
        })
        .await;
        Self { url: proxy.url.clone(), seen, _proxy: proxy }
    }

    /// What was asked at paths that begin so, in its order.
    pub(super) fn asked(&self, path: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path.starts_with(path)).cloned().collect()
    }

    pub(super) async fn backend(&self, credentials: &Value, timeout: &str) -> Arc<dyn Backend> {
        connect(&json!({
            "project": "acme", "endpoint": self.url, "credentials": credentials.to_string(), "timeout": timeout,
        }))
        .await
    }

    /// The credentials of a workload that has a token of somebody else's.
    pub(super) fn workload(&self, source: &Value) -> Value {
        json!({
            "type": "external_account", "audience": AUDIENCE, "credential_source": source,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": format!("{}/sts", self.url),
        })
    }

    pub(super) fn impersonation_url(&self) -> String {
        format!("{}{ACTS_AS}", self.url)
    }
}

pub(super) fn answer(status: u16, body: &Value) -> Harm {
    Harm::Answer { status, body: Bytes::from(body.to_string()) }
}

/// A token for a workload's own.
pub(super) fn exchanged(token: &str) -> Value {
    json!({
        "access_token": token, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer", "expires_in": 3600,
    })
}

/// A token to act as another with.
pub(super) fn impersonated(token: &str) -> Value {
    let end = later(SystemClock.now(), std::time::Duration::from_hours(1));
    json!({"accessToken": token, "expireTime": end.to_string()})
}

pub(super) fn bearer(seen: &Seen) -> &str {
    let header = seen.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default()
}

/// A Compute without instances for who has a token.
pub(super) fn compute(seen: &Seen, good: impl Fn(&str) -> bool) -> Harm {
    if good(bearer(seen)) {
        answer(200, &json!({"items": {}}))
    } else {
        refusal(401, "authError", "Request had invalid authentication credentials.")
    }
}

/// A key that was made for one test: its private half in PEM form, and its public half.
pub(super) struct Key {
    pub(super) pem: String,
    public: Vec<u8>,
}

impl Key {
    pub(super) fn new() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let text = BASE64_STANDARD.encode(pair.as_der().unwrap().as_ref());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
        Self { pem, public: pair.public_key().as_ref().to_vec() }
    }

    /// The file that Google gives out for it.
    pub(super) fn file(&self, google: &Google) -> Value {
        json!({
            "type": "service_account", "project_id": "acme", "private_key_id": KEY_ID, "private_key": self.pem,
            "client_email": ACCOUNT, "client_id": "1", "token_uri": format!("{}/token", google.url),
            "universe_domain": "googleapis.com",
        })
    }

    /// What a token claims; `None` where this key did not sign it.
    pub(super) fn claims(&self, token: &str) -> Option<Value> {
        let read = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public);
        public.verify(signed.as_bytes(), &read(signature)?).ok()?;
        let header: Value = serde_json::from_slice(&read(header)?).ok()?;
        assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": KEY_ID}));
        serde_json::from_slice(&read(claims)?).ok()
    }
}
