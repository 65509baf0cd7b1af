//! A manager with every kind of secret, all of which the test knows, and with everything in its logs.

use std::path::Path;
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use runner_manager_core::domain::Secret;
use runner_manager_core::testing::secrets::Secrets;
use runner_manager_core::testing::simulator::Books;
use runner_manager_core::webhook::sign;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Outputs;
use super::clouds::{
    self, COMPUTE_REFUSES, COMPUTE_SECRET, COMPUTE_TOKEN, ENGINE_IS_FULL, STACK_PASSWORD, STACK_REFUSES,
    STACK_TOKEN, VCENTER_PASSWORD, VCENTER_REFUSES,
};
use super::http_server::Server;
use super::http_server::keys::private_key;
use super::http_server::proxy::Proxy;
use super::support::{Listening, PATIENCE, client, write};

pub(crate) const ADMIN: &str = "adm-Qz7Lw2Xc9Vb4Nm1K";
pub(crate) const VIEWER: &str = "view-Hy6Tg3Rf8Ed5Ws0P";
pub(crate) const REDIS_PASSWORD: &str = "Ju1hT3fR5dE7sW9aQx2Z";
const SECRET_KEY: &str = "key-Mk9oI8jU7hY6gT5fR4dE3sW2";
const HOOK: &str = "hook-Pl0oK9iJ8uH7yG6tF";
const FORMER_HOOK: &str = "hook-Zx1cV2bN3mA4sD5fG";
const TOKEN: &str = "ghp_Uy7Tr5Ew3Qa1Sd9Fg6Hj";
const REFUSED_TOKEN: &str = "ghp_Bn4Mk2Lo8Pi6Uj0Yh5Tg";
const AWAY_TOKEN: &str = "ghp_Cv3Bx1Zq9Wo7Ei5Ru2Ty";
/// As it is, and as it stands in a URL.
const PROXY_PASSWORD: [&str; 2] = ["p@ss/Dk4Fj6Gh8Ls0Aq2", "p%40ss%2FDk4Fj6Gh8Ls0Aq2"];
/// One that need not be looked up.
const IMAGE: &str = "22222222-2222-2222-2222-222222222222";
/// What stands for a secret where one is to be found. The alphabets of base64 differ in how they write `???`.
const PLANTED: &str = "planted-Xb5???Nv7Cm9Zl3Kj1H";

/// All processes, and what they are told.
pub(crate) struct World {
    manager: Listening,
    github: Listening,
    cloud: Listening,
    proxy: Proxy,
    _clouds: [Server; 4],
    key: String,
    pub(crate) config: String,
    pub(crate) folder: TempDir,
}

impl World {
    /// One on a store, with logs in a format.
    pub(crate) async fn start(store: &str, log_format: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let login = BASE64_STANDARD.encode(format!("ann:{}", PROXY_PASSWORD[0]));
        let proxy = Proxy::start(Some(&format!("Basic {login}"))).await;
        let settings = json!({"tokens": [TOKEN], "app": {"id": 12345}}).to_string();
        let loud = ["--log-level", "trace", "--log-format", log_format];
        let start = |name: &str, words: &[&str]| Listening::start(&folder, name, &[words, &loud].concat());
        let github = start("github", &["github-simulator", "--settings", &settings]);
        let cloud =
            start("cloud", &["fake-cloud", "--github", &github.url, "--behaviour", r#"{"settle": "1s"}"#]);
        let [engine, vcenter, stack, compute] =
            [clouds::engine().await, clouds::vcenter().await, clouds::stack().await, clouds::compute().await];
        let key = private_key();
        std::fs::write(folder.path().join("app.pem"), &key).unwrap();
        let mut text = configuration(store, &github.url, &cloud.url, &proxy.url);
        text =
            text.replace("ENGINE", &engine.url.replace("http://", "tcp://")).replace("VCENTER", &vcenter.url);
        text = text.replace("STACK", &stack.url).replace("COMPUTE", &compute.url);
        // A Redis that is new is not relied on before all outside was listed, which these never are.
        let is_new_redis = store.contains("redis");
        if is_new_redis {
            text = without_troubles(&text);
        }
        let config = write(&folder, &text);
        let manager = start("manager", &["serve", "--config", &config]);
        Self {
            manager,
            github,
            cloud,
            proxy,
            _clouds: [engine, vcenter, stack, compute],
            key,
            config,
            folder,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.manager.url
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.config).unwrap()
    }

    async fn post(&self, path: &str, body: &Value) {
        let answer = client().post(format!("{}/_simulator/{path}", self.github.url)).json(body).send().await;
        assert!(answer.unwrap().status().is_success(), "{path}");
    }

    /// Jobs of an App and of a token run through, so that JIT configs are made and used.
    pub(crate) async fn run_jobs(&self) {
        for owner in ["acme", "tools"] {
            let url = format!("{}/webhook", self.manager.url);
            self.post("hooks", &json!({"scope": {"organization": owner}, "url": url, "secret": HOOK})).await;
            let labels = ["self-hosted", "build"];
            let queued =
                json!({"repository": format!("{owner}/app"), "labels": labels, "count": 2, "seconds": 1});
            self.post("jobs", &queued).await;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let url = format!("{}/_simulator/books", self.github.url);
            let books: Books = client().get(url).send().await.unwrap().json().await.unwrap();
            if books.jobs.succeeded == 4 {
                return;
            }
            assert!(Instant::now() < deadline, "{:?}", books.jobs);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// GitHub refuses one connection and is not reached by another, two backends have no room, and three refuse.
    pub(crate) async fn until_all_went_wrong(&self) {
        let deadline = Instant::now() + PATIENCE;
        let text = self.text();
        let groups = [
            ("refused", ""),
            ("away", ""),
            ("full", ""),
            ("engine", ENGINE_IS_FULL),
            ("vcenter", VCENTER_REFUSES),
            ("stack", STACK_REFUSES),
            ("compute", COMPUTE_REFUSES),
        ];
        for (group, why) in groups.into_iter().filter(|(group, _)| text.contains(&format!("name: {group},")))
        {
            let went_wrong = |log: &str| {
                log.lines().any(|line| {
                    line.contains("WARN") && line.contains(&format!("rm-{group}-"))
                        || line.contains(&format!("organization:{group}"))
                })
            };
            while !(went_wrong(&self.manager.log()) && self.manager.log().contains(why)) {
                assert!(Instant::now() < deadline, "{group} went well");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }

    /// Puts what stands for a secret where it is logged, served and stored, and tells in which forms.
    pub(crate) async fn plant(&self) -> (Secrets, Vec<&'static str>) {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../runner-manager-core/tests/data/github/webhook-examples/queued.payload.json"
        );
        let mut job: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        job["workflow_job"]["name"] = json!(PLANTED);
        job["workflow_job"]["labels"] = json!(["self-hosted", "build"]);
        for owned in ["/organization/login", "/repository/owner/login"] {
            if let Some(login) = job.pointer_mut(owned) {
                *login = json!("acme");
            }
        }
        job["repository"]["full_name"] = json!("acme/app");
        let body = serde_json::to_vec(&job).unwrap();
        let forms = [
            ("plain", PLANTED.to_owned()),
            ("base64", BASE64_STANDARD.encode(format!("ann:{PLANTED}"))),
            ("base64 for URLs", BASE64_URL_SAFE_NO_PAD.encode(format!("\u{ff}{PLANTED}?>"))),
            (
                "percent-encoded",
                PLANTED.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02x}")),
            ),
            ("hex", hex::encode(PLANTED)),
            ("escaped", PLANTED.escape_unicode().to_string()),
            ("list of bytes", format!("{:?}", PLANTED.as_bytes())),
        ];
        // The first one is taken, and tells of a job; what the others say of themselves is logged with their refusal.
        for (form, delivery) in &forms {
            let (status, answer) = self.deliver(HOOK, delivery, body.clone()).await;
            assert!(status == 202 || *form != "plain", "{answer}");
        }
        let secrets = Secrets::default().and("what was planted", PLANTED);
        (secrets, forms.into_iter().map(|(form, _)| form).collect())
    }

    /// Delivers a webhook that is signed with a secret.
    pub(crate) async fn deliver(&self, secret: &str, delivery: &str, body: Vec<u8>) -> (u16, String) {
        let request = client()
            .post(format!("{}/webhook", self.manager.url))
            .header("content-type", "application/json")
            .header("x-github-event", "workflow_job")
            .header("x-github-delivery", delivery)
            .header("x-hub-signature-256", sign(&Secret::new(secret), &body))
            .body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// What the API, the page and the metrics say.
    pub(crate) async fn answers(&self) -> Outputs {
        let mut answers = Vec::new();
        let api = [
            "status",
            "groups",
            "runners",
            "runners/ended",
            "jobs",
            "queue",
            "deployment",
            "sweeps",
            "openapi.json",
        ];
        let api = api.map(|path| format!("/api/v1/{path}"));
        for path in api.iter().map(String::as_str).chain(["/", "/metrics", "/healthz", "/readyz"]) {
            let url = format!("{}{path}", self.manager.url);
            let answer = client().get(url).bearer_auth(ADMIN).send().await.unwrap();
            let head = format!("{:?}", answer.headers());
            answers.push((path.to_owned(), [head.as_bytes(), &answer.bytes().await.unwrap()].concat()));
        }
        answers
    }

    /// All secrets: those that the test made up, and those that went over the proxy.
    pub(crate) fn secrets(&self) -> Secrets {
        let key: String = self.key.lines().filter(|line| !line.starts_with("---")).collect();
        let mut secrets = Secrets::default()
            .and("the admin's token", ADMIN)
            .and("the viewer's token", VIEWER)
            .and("the secret key", SECRET_KEY)
            .and("the webhook secret", HOOK)
            .and("the former webhook secret", FORMER_HOOK)
            .and("the token", TOKEN)
            .and("the refused token", REFUSED_TOKEN)
            .and("the token for nobody", AWAY_TOKEN)
            .and("the Redis password", REDIS_PASSWORD)
            .and("the vCenter's password", VCENTER_PASSWORD)
            .and("OpenStack's password", STACK_PASSWORD)
            .and("OpenStack's token", STACK_TOKEN)
            .and("Google's client secret", COMPUTE_SECRET)
            .and("Google's token", COMPUTE_TOKEN)
            .and("the proxy's password", PROXY_PASSWORD[0])
            .and("the App's key", &key)
            .and("the App's key, as bytes", BASE64_STANDARD.decode(&key).unwrap());
        let heard: Vec<String> =
            self.proxy.heard().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        for (name, start, fewest) in [
            ("a JIT config", "\"encoded_jit_config\":\"", 4),
            ("an installation's token", "\"token\":\"", 1),
            ("an App's web token", "authorization: Bearer eyJ", 1),
        ] {
            let found: Vec<&str> = heard.iter().flat_map(|text| behind(text, start)).collect();
            assert!(found.len() >= fewest, "{name} went over the proxy {} times", found.len());
            for secret in found {
                secrets.add(name, secret.as_bytes());
                if name == "a JIT config" {
                    secrets.add("the key in a JIT config", key_of(secret).as_bytes());
                }
            }
        }
        secrets
    }

    /// Ends all, and gives what they logged.
    pub(crate) fn end(&mut self) -> Outputs {
        let processes = [&mut self.manager, &mut self.github, &mut self.cloud];
        let names = ["manager.log", "github.log", "cloud.log"];
        let ended = processes.into_iter().zip(names).map(|(process, name)| {
            process.terminate();
            (name.to_owned(), process.log().into_bytes())
        });
        ended.collect()
    }
}

/// All texts up to the next quote or line's end that stand behind another.
fn behind<'t>(text: &'t str, start: &str) -> Vec<&'t str> {
    text.split(start).skip(1).map(|rest| rest.split(['"', '\r']).next().unwrap()).collect()
}

/// The key in a JIT config, which opens GitHub's queue of jobs.
fn key_of(jit_config: &str) -> String {
    let decoded =
        |text: &str| -> Value { serde_json::from_slice(&BASE64_STANDARD.decode(text).unwrap()).unwrap() };
    let files = decoded(jit_config);
    decoded(files[".credentials_rsaparams"].as_str().unwrap())["d"].as_str().unwrap().to_owned()
}

fn configuration(store: &str, github: &str, cloud: &str, proxy: &str) -> String {
    let proxy = proxy.replace("://", &format!("://ann:{}@", PROXY_PASSWORD[1]));
    let credentials = json!({
        "type": "authorized_user", "client_id": "rm", "client_secret": COMPUTE_SECRET, "refresh_token": "r",
        "token_uri": "COMPUTE/token",
    });
    let text = format!(
        "
name: rm
secret_key: {SECRET_KEY}
# A new Redis is relied on once what was under way would have been seen: so long after its start, and `settle`.
call_timeout: 5s
server:
  listen: 127.0.0.1:0
  public_url: http://127.0.0.1:9
  webhook_secret: [{HOOK}, {FORMER_HOOK}]
  tokens: [{{name: ops, role: admin, token: {ADMIN}}}, {{name: eyes, role: viewer, token: {VIEWER}}}]
store: {store}
github:
  connections:
    app: {{api_url: '{github}', app: {{id: 12345, private_key: {{file: app.pem}}}}, proxy: '{proxy}'}}
    token: {{api_url: '{github}', token: {TOKEN}, proxy: '{proxy}'}}
    refused: {{api_url: '{github}', token: {REFUSED_TOKEN}}}
    away: {{api_url: 'http://127.0.0.1:9', token: {AWAY_TOKEN}}}
backends:
  fake: {{kind: fake, url: '{cloud}', behaviour: {{settle: 1s}}}}
  full: {{kind: fake, behaviour: {{settle: 1s, zones: {{zone-a: 0}}}}}}
  engine: {{kind: docker, host: 'ENGINE', settle: 1s}}
  vcenter: {{kind: vsphere, url: 'VCENTER', username: rm, password: {VCENTER_PASSWORD}}}
  stack: {{kind: openstack, auth: {{auth_url: 'STACK', username: rm, password: {STACK_PASSWORD}, project_name: ci}}, settle: 1s}}
  compute: {{kind: gcp, project: p, credentials: '{credentials}', endpoint: 'COMPUTE', settle: 1s}}
runner_groups:
  - {{name: app, organization: acme, github: app, labels: [build], max: 3, placements: [{{backend: fake}}]}}
  - {{name: token, organization: tools, github: token, labels: [build], max: 3, placements: [{{backend: fake}}]}}
  - {{name: refused, organization: refused, github: refused, min_idle: 1, placements: [{{backend: fake}}]}}
  - {{name: away, organization: away, github: away, min_idle: 1, placements: [{{backend: fake}}]}}
  - {{name: full, organization: full, github: token, min_idle: 1, placements: [{{backend: full}}]}}
  - {{name: engine, organization: engine, github: token, min_idle: 1, placements: [{{backend: engine, image: x}}]}}
  - {{name: vcenter, organization: vcenter, github: token, min_idle: 1, placements: [{{backend: vcenter, template: t, cluster: c}}]}}
  - {{name: stack, organization: stack, github: token, min_idle: 1, placements: [{{backend: stack, flavor: f, image: {IMAGE}}}]}}
  - {{name: compute, organization: compute, github: token, min_idle: 1, placements: [{{backend: compute, zones: z, machine_types: t, image: i}}]}}
"
    );
    let text = if cfg!(feature = "gcp") { text } else { without(&["compute"], &text) };
    let text = if cfg!(feature = "vsphere") { text } else { without(&["vcenter"], &text) };
    if cfg!(feature = "openstack") { text } else { without(&["stack"], &text) }
}

/// A configuration without what cannot be listed, and its groups.
pub(crate) fn without_troubles(text: &str) -> String {
    without(&["refused", "away", "vcenter"], text)
}

/// A configuration without the connections and backends of these names, and their groups.
fn without(names: &[&str], text: &str) -> String {
    let is_theirs = |line: &&str| {
        names
            .iter()
            .any(|name| line.contains(&format!(" {name}:")) || line.contains(&format!("name: {name},")))
    };
    text.split_inclusive('\n').filter(|line| !is_theirs(line)).collect()
}

/// Where a file of a folder is.
pub(crate) fn beside(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
