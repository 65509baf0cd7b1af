//! What hosts instances elsewhere: a Docker Engine that is given JIT configs, a vCenter that is given a password, and an
//! OpenStack and a Compute Engine that are given both. All are played, look whether it came, and refuse.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};

use super::http_server::{Reply, Server};

pub(crate) const VCENTER_PASSWORD: &str = "vc-Gt5Hy8Jk2Lp7Wq3Z";

pub(crate) const STACK_PASSWORD: &str = "os-Ws4Ed7Rf2Tg9Yh3Uj";
/// What its Keystone gives out.
pub(crate) const STACK_TOKEN: &str = "gAAAAABw-Qe5Rt8Yu1Io4Pa7Sd0Fg";

pub(crate) const COMPUTE_SECRET: &str = "gce-Lk6Jh3Gf9Ds2Ap5Qw";
/// What Google gives out for it.
pub(crate) const COMPUTE_TOKEN: &str = "ya29.Vb2Nm7Xc4Zl9Kj1Hg6Fd";

/// What each says once it has the secret.
pub(crate) const ENGINE_IS_FULL: &str = "write /var/lib/docker/x: no space left on device";
pub(crate) const VCENTER_REFUSES: &str = "this vCenter knows no such password";
pub(crate) const STACK_REFUSES: &str = "Invalid input for field/attribute user_data.";

pub(crate) const COMPUTE_REFUSES: &str = "Invalid value for field 'resource.metadata.items[0].value'";

/// The bodies of what was asked to be made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orders(Arc<Mutex<Vec<Bytes>>>);

impl Orders {
    fn note(&self, request: &Request<Bytes>) {
        self.0.lock().unwrap().push(request.body().clone());
    }

    /// All of them, as JSON.
    pub(crate) fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().iter().map(|body| serde_json::from_slice(body).unwrap()).collect()
    }
}

/// A Docker Engine that has an image, and no room for a container.
pub(crate) async fn engine(orders: Orders) -> Server {
    Server::start(move |request| {
        let path = request.uri().path();
        let (status, body) = if path == "/version" {
            (200, json!({"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"}))
        } else if path.ends_with("/images/x/json") {
            (200, json!({"Id": "x"}))
        } else if path.ends_with("/containers/json") {
            (200, json!([]))
        } else if says(&request, "\"ACTIONS_RUNNER_INPUT_JITCONFIG=") {
            orders.note(&request);
            (500, json!({"message": ENGINE_IS_FULL}))
        } else {
            (404, json!({"message": "no such thing"}))
        };
        answer(status, body.to_string())
    })
    .await
}

/// A vCenter that takes no password.
pub(crate) async fn vcenter() -> Server {
    Server::start(|request| {
        let (status, body) = if says(&request, "<RetrieveServiceContent") {
            let manager = "<returnval><sessionManager type=\"SessionManager\">s</sessionManager></returnval>";
            (200, format!("<RetrieveServiceContentResponse>{manager}</RetrieveServiceContentResponse>"))
        } else if says(&request, VCENTER_PASSWORD) {
            let detail = "<detail><InvalidLoginFault/></detail>";
            (500, format!("<Fault><faultstring>{VCENTER_REFUSES}</faultstring>{detail}</Fault>"))
        } else {
            (404, String::new())
        };
        answer(status, format!("<Envelope><Body>{body}</Body></Envelope>"))
    })
    .await
}

/// An OpenStack that repeats the user data that it refuses, as Nova does where they are too long.
pub(crate) async fn stack(orders: Orders) -> Server {
    Server::start(move |request| {
        let path = request.uri().path();
        if path == "/v3/auth/tokens" && says(&request, STACK_PASSWORD) {
            return token(&request);
        }
        if request.headers().get("x-auth-token").is_none_or(|token| token != STACK_TOKEN) {
            return answer(401, json!({"error": {"message": "a token or a password is missing"}}).to_string());
        }
        let (status, body) = match path {
            "/v2.1/" => (200, json!({"version": {"version": "2.90"}})),
            "/v2.1/flavors/detail" => (200, json!({"flavors": [{"id": "f", "name": "f"}]})),
            "/v2.1/servers" if request.method() == "POST" => {
                orders.note(&request);
                let asked: Value = serde_json::from_slice(request.body()).unwrap();
                let data = asked["server"]["user_data"].as_str().unwrap();
                (400, json!({"badRequest": {"message": format!("{STACK_REFUSES} Value: {data}. '{data}' is too long")}}))
            }
            "/v2.1/servers" | "/v2.1/servers/detail" => (200, json!({"servers": []})),
            _ => (404, json!({"itemNotFound": {"message": "no such thing"}})),
        };
        answer(status, body.to_string())
    })
    .await
}

/// Google's tokens, and a Compute that repeats the start script that it refuses.
pub(crate) async fn compute(orders: Orders) -> Server {
    Server::start(move |request| {
        let path = request.uri().path();
        if path == "/token" && says(&request, COMPUTE_SECRET) {
            let token = json!({"access_token": COMPUTE_TOKEN, "token_type": "Bearer", "expires_in": 3600});
            return answer(200, token.to_string());
        }
        let bearer = request.headers().get("authorization");
        if bearer.is_none_or(|bearer| *bearer != format!("Bearer {COMPUTE_TOKEN}")) {
            return answer(401, json!({"error": {"message": "a token is missing"}}).to_string());
        }
        if path.ends_with("/instances") && request.method() == "POST" {
            orders.note(&request);
            let asked: Value = serde_json::from_slice(request.body()).unwrap();
            let script = asked["metadata"]["items"][0]["value"].as_str().unwrap();
            let message = format!("{COMPUTE_REFUSES}: '{script}'. It is too long.");
            let reasons = json!([{"reason": "invalid", "message": message}]);
            return answer(400, json!({"error": {"message": message, "errors": reasons}}).to_string());
        }
        answer(200, json!({}).to_string())
    })
    .await
}

fn token(request: &Request<Bytes>) -> Reply {
    let host = request.headers()["host"].to_str().unwrap();
    let endpoints = json!([{"interface": "public", "region": "one", "url": format!("http://{host}/v2.1")}]);
    let token = json!({"catalog": [{"type": "compute", "endpoints": endpoints}], "project": {"id": "p"}});
    let body = json!({"token": token}).to_string();
    Reply::Answer(
        Response::builder().status(201).header("x-subject-token", STACK_TOKEN).body(body.into()).unwrap(),
    )
}

fn says(request: &Request<Bytes>, text: &str) -> bool {
    String::from_utf8_lossy(request.body()).contains(text)
}

fn answer(status: u16, body: String) -> Reply {
    Reply::Answer(Response::builder().status(status).body(body.into()).unwrap())
}
