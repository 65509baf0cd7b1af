//! What hosts instances elsewhere: a Docker Engine that is given JIT configs, and a vCenter that is given a
//! password. Both are played, look whether it came, and refuse.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::json;

use super::http_server::{Reply, Server};

pub(crate) const VCENTER_PASSWORD: &str = "vc-Gt5Hy8Jk2Lp7Wq3Z";

/// What each says once it has the secret.
pub(crate) const ENGINE_IS_FULL: &str = "write /var/lib/docker/x: no space left on device";
pub(crate) const VCENTER_REFUSES: &str = "this vCenter knows no such password";

/// A Docker Engine that has an image, and no room for a container.
pub(crate) async fn engine() -> Server {
    Server::start(|request| {
        let path = request.uri().path();
        let (status, body) = if path == "/version" {
            (200, json!({"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"}))
        } else if path.ends_with("/images/x/json") {
            (200, json!({"Id": "x"}))
        } else if path.ends_with("/containers/json") {
            (200, json!([]))
        } else if says(&request, "\"ACTIONS_RUNNER_INPUT_JITCONFIG=") {
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

fn says(request: &Request<Bytes>, text: &str) -> bool {
    String::from_utf8_lossy(request.body()).contains(text)
}

fn answer(status: u16, body: String) -> Reply {
    Reply::Answer(Response::builder().status(status).body(body.into()).unwrap())
}
