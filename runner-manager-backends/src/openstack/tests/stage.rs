//! A cloud that is played: one proxy stands in for Keystone, Nova, Neutron, Glance and Cinder, by paths.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Method;
use runner_manager_core::backend::{Backend, InstanceSpec};
use serde_json::{Value, json};

use super::{connect, owner, spec};
use crate::testing::fault_proxy::{Harm, Proxy, Seen};

pub(super) const NETWORK: &str = "11111111-1111-1111-1111-111111111111";
pub(super) const IMAGE: &str = "22222222-2222-2222-2222-222222222222";
pub(super) const OUTSIDE: &str = "33333333-3333-3333-3333-333333333333";

/// A placement whose names need no looking up but for the flavor's.
pub(super) fn plain() -> Value {
    json!({"flavor": "f1", "image": IMAGE, "networks": [NETWORK]})
}

pub(super) fn json_answer(status: u16, body: &Value) -> Harm {
    Harm::Answer { status, body: Bytes::from(body.to_string()) }
}

/// The project's whole cloud, as far as this play goes.
#[derive(Default)]
pub(super) struct Cloud {
    pub(super) servers: Vec<Value>,
    pub(super) ports: Vec<Value>,
    pub(super) floating: Vec<Value>,
    pub(super) volumes: Vec<Value>,
    /// What was asked, in order: method and path.
    pub(super) asked: Vec<String>,
    /// Tokens that were given out.
    pub(super) tokens: usize,
    /// Whether the newest token is the only one that counts, and how often it may be used.
    pub(super) uses_left: Option<usize>,
}

pub(super) type Shared = Arc<Mutex<Cloud>>;

/// What the play answers in the place of its usual word.
pub(super) type Instead = dyn Fn(&Seen) -> Option<Harm> + Send + Sync;

pub(super) struct Play {
    pub(super) cloud: Shared,
    pub(super) proxy: Proxy,
}

impl Play {
    pub(super) async fn start(instead: impl Fn(&Seen) -> Option<Harm> + Send + Sync + 'static) -> Self {
        let cloud = Shared::default();
        let shared = Arc::clone(&cloud);
        let url: Arc<Mutex<String>> = Arc::default();
        let own = Arc::clone(&url);
        let instead: Box<Instead> = Box::new(instead);
        let proxy = Proxy::alone(move |seen| {
            let mut cloud = shared.lock().unwrap();
            let path = seen.path.split('?').next().unwrap_or_default();
            cloud.asked.push(format!("{} {path}", seen.method));
            let answer = instead(seen).or_else(|| cloud.answer(seen, &own.lock().unwrap()));
            Some((
                "played",
                answer.unwrap_or_else(|| {
                    json_answer(404, &json!({"itemNotFound": {"message": "no such thing"}}))
                }),
            ))
        })
        .await;
        (*url.lock().unwrap()).clone_from(&proxy.url);
        Self { cloud, proxy }
    }

    pub(super) async fn backend(&self) -> Arc<dyn Backend> {
        self.backend_with(json!({})).await
    }

    pub(super) async fn backend_with(&self, others: Value) -> Arc<dyn Backend> {
        let auth =
            json!({"auth_url": self.proxy.url, "username": "u", "password": "p", "project_name": "ci"});
        let mut settings = json!({"auth": auth, "timeout": "2s", "settle": "0s"});
        settings.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        connect(&settings).await
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Cloud> {
        self.cloud.lock().unwrap()
    }

    /// How often something was asked.
    pub(super) fn asked(&self, what: &str) -> usize {
        self.lock().asked.iter().filter(|asked| *asked == what).count()
    }
}

impl Cloud {
    fn answer(&mut self, seen: &Seen, url: &str) -> Option<Harm> {
        let path = seen.path.split('?').next().unwrap_or_default().to_owned();
        if path == "/v3/auth/tokens" {
            return Some(self.token(url));
        }
        let token =
            seen.headers.get("x-auth-token").and_then(|token| token.to_str().ok()).unwrap_or_default();
        if token != format!("token-{}", self.tokens) || self.uses_left == Some(0) {
            return Some(json_answer(
                401,
                &json!({"error": {"code": 401, "title": "Unauthorized", "message": "m"}}),
            ));
        }
        if let Some(left) = &mut self.uses_left {
            *left -= 1;
        }
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (&seen.method, segments.as_slice()) {
            (&Method::GET, ["compute", "v2.1"]) => {
                Some(json_answer(200, &json!({"version": {"version": "2.90", "min_version": "2.1"}})))
            }
            (&Method::GET, ["compute", "v2.1", "flavors", "detail"]) => {
                Some(json_answer(200, &json!({"flavors": [{"id": "f1", "name": "small"}]})))
            }
            (&Method::POST, ["compute", "v2.1", "servers"]) => {
                Some(self.create(&serde_json::from_slice(&seen.body).unwrap()))
            }
            // All are on the first page.
            (&Method::GET, ["compute", "v2.1", "servers", ..]) if seen.path.contains("marker=") => {
                Some(json_answer(200, &json!({"servers": []})))
            }
            (method, ["compute", "v2.1", "servers", rest @ ..]) => {
                self.of(|cloud| &mut cloud.servers, "server", method, rest)
            }
            (&Method::POST, ["network", "v2.0", kind]) => Some(self.make_address(kind, &seen.body)),
            (method, ["network", "v2.0", "ports", rest @ ..]) => {
                self.of(|cloud| &mut cloud.ports, "port", method, rest)
            }
            (method, ["network", "v2.0", "floatingips", rest @ ..]) => {
                self.of(|cloud| &mut cloud.floating, "floatingip", method, rest)
            }
            (&Method::POST, ["volume", "v3", "volumes", id, "metadata"]) => {
                let body: Value = serde_json::from_slice(&seen.body).unwrap();
                let volume = self.volumes.iter_mut().find(|volume| volume["id"] == **id)?;
                volume["metadata"] = body["metadata"].clone();
                Some(json_answer(200, &body))
            }
            (method, ["volume", "v3", "volumes", rest @ ..]) => {
                self.of(|cloud| &mut cloud.volumes, "volume", method, rest)
            }
            _ => None,
        }
    }

    fn token(&mut self, url: &str) -> Harm {
        self.tokens += 1;
        self.uses_left = self.uses_left.map(|_| 3);
        let catalog: Vec<Value> = ["compute", "network", "image", "volumev3"]
            .map(|kind| {
                let url = format!("{url}/{}", kind.trim_end_matches("v3"));
                json!({"type": kind, "endpoints": [{"interface": "public", "region": "one", "url": url}]})
            })
            .into();
        let token = json!({"catalog": catalog, "project": {"id": "p1"}, "roles": [{"name": "member"}]});
        Harm::AnswerWith {
            status: 201,
            headers: vec![("x-subject-token", format!("token-{}", self.tokens))],
            body: Bytes::from(json!({"token": token}).to_string()),
        }
    }

    fn create(&mut self, body: &Value) -> Harm {
        let id = format!("server-{}", self.servers.len());
        let asked = &body["server"];
        self.servers.push(json!({
            "id": id, "name": asked["name"], "metadata": asked["metadata"], "status": "ACTIVE",
            "created": "2020-11-26T11:55:11Z", "updated": "2020-11-26T11:55:11Z",
        }));
        json_answer(202, &json!({"server": {"id": id, "adminPass": "x"}}))
    }

    fn make_address(&mut self, kind: &str, body: &Bytes) -> Harm {
        let mut body: Value = serde_json::from_slice(body).unwrap();
        let (word, things) =
            if kind == "ports" { ("port", &mut self.ports) } else { ("floatingip", &mut self.floating) };
        let mut thing = body[word].take();
        thing["id"] = json!(format!("{word}-{}", things.len()));
        thing["created_at"] = json!("2020-11-26T11:55:11Z");
        things.push(thing.clone());
        json_answer(201, &json!({word: thing}))
    }

    /// What every list of things can do: be listed, be told of one by one, and lose one.
    fn of(
        &mut self,
        things: impl Fn(&mut Self) -> &mut Vec<Value>,
        word: &str,
        method: &Method,
        rest: &[&str],
    ) -> Option<Harm> {
        let things = things(self);
        match (method, rest) {
            (&Method::GET, [] | ["detail"]) => Some(json_answer(200, &json!({format!("{word}s"): things}))),
            (&Method::GET, [id]) => {
                let thing = things.iter().find(|thing| thing["id"] == *id)?;
                Some(json_answer(200, &json!({word: thing})))
            }
            (&Method::DELETE, [id]) => {
                let before = things.len();
                things.retain(|thing| thing["id"] != *id);
                (things.len() < before).then(|| json_answer(204, &Value::Null))
            }
            _ => None,
        }
    }
}

pub(super) fn is(seen: &Seen, method: &Method, path: &str) -> bool {
    seen.method == *method && seen.path.split('?').next() == Some(path)
}

pub(super) fn runner(number: usize, settings: &Value) -> InstanceSpec {
    spec(owner("acme", "key"), &format!("acme-linux-{number}"), settings)
}
