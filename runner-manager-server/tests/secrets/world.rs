//! A manager with every kind of secret, all of which the test knows, and with everything in its logs.

use std::net::TcpListener;
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
    self, COMPUTE_REFUSES, COMPUTE_SECRET, COMPUTE_TOKEN, ENGINE_IS_FULL, Orders, STACK_PASSWORD,
    STACK_REFUSES, STACK_TOKEN, VCENTER_PASSWORD, VCENTER_REFUSES,
};
use super::http_server::Server;
use super::http_server::keys::private_key;
use super::http_server::proxy::Proxy;
use super::machines;
use super::support::{Listening, PATIENCE, client, write};

pub(crate) const ADMIN: &str = "adm-Qz7Lw2Xc9Vb4Nm1K";
pub(crate) const VIEWER: &str = "view-Hy6Tg3Rf8Ed5Ws0P";
pub(crate) const REDIS_PASSWORD: &str = "Ju1hT3fR5dE7sW9aQx2Z";
pub(crate) const SECRET_KEY: &str = "key-Mk9oI8jU7hY6gT5fR4dE3sW2";
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
    /// A cloud whose machines call the manager.
    callers: Listening,
    proxy: Proxy,
    /// What an engine, a stack and a compute were asked to make.
    pub(crate) orders: [Orders; 3],
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
        let cloud = |name: &str, behaviour: &str| {
            let words = ["fake-cloud", "--github", &github.url, "--behaviour", behaviour, "--heartbeat", "1"];
            start(name, &words)
        };
        let callers = cloud("callers", r#"{"settle": "1s", "callback": true}"#);
        let cloud = cloud("cloud", r#"{"settle": "1s"}"#);
        let orders = <[Orders; 3]>::default();
        let [engine, vcenter, stack, compute] = [
            clouds::engine(orders[0].clone()).await,
            clouds::vcenter().await,
            clouds::stack(orders[1].clone()).await,
            clouds::compute(orders[2].clone()).await,
        ];
        let key = private_key();
        std::fs::write(folder.path().join("app.pem"), &key).unwrap();
        let mut text = configuration(store, &github.url, &cloud.url, &proxy.url);
        text =
            text.replace("ENGINE", &engine.url.replace("http://", "tcp://")).replace("VCENTER", &vcenter.url);
        text = text.replace("STACK", &stack.url).replace("COMPUTE", &compute.url);
        // Machines are told where to call before anybody listens there.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        text = text.replace("ADDRESS", &address).replace("CALLERS", &callers.url);
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
            callers,
            proxy,
            orders,
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

    /// Jobs of an App and of a token run through, so that JIT configs are made and used, and some on machines that call.
    pub(crate) async fn run_jobs(&self) {
        for owner in ["acme", "tools", "machines"] {
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
            if books.jobs.succeeded == 6 {
                return;
            }
            assert!(Instant::now() < deadline, "{:?}", books.jobs);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// GitHub refuses one connection and is not reached by another, two backends have no room, and the others refuse.
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
            ("direct-stack", STACK_REFUSES),
            ("compute", COMPUTE_REFUSES),
            ("direct-compute", COMPUTE_REFUSES),
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
            "ended-runners",
            "jobs",
            "queue",
            "deployment",
            "sweeps",
            "openapi.json",
        ];
        let mut paths: Vec<String> = api.map(|path| format!("/api/v1/{path}")).to_vec();
        paths.extend(self.jobs().await.iter().map(|job| format!("/api/v1/jobs/{job}")));
        paths.extend(["/", "/metrics", "/healthz", "/readyz"].map(str::to_owned));
        for path in paths {
            let answer =
                client().get(format!("{}{path}", self.url())).bearer_auth(ADMIN).send().await.unwrap();
            assert_ne!(answer.status(), 404, "{path}");
            let head = format!("{:?}", answer.headers());
            answers.push((path, [head.as_bytes(), &answer.bytes().await.unwrap()].concat()));
        }
        answers
    }

    /// What the API answers to who may see all.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let request = client().get(format!("{}/api/v1/{path}", self.url())).bearer_auth(ADMIN);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// The numbers of the jobs on record.
    pub(crate) async fn jobs(&self) -> Vec<String> {
        let jobs = self.get("jobs").await;
        jobs["items"].as_array().unwrap().iter().map(|job| job["id"].to_string()).collect()
    }

    /// All secrets: those that the test made up, those that went over the proxy, and the tokens of machines.
    pub(crate) async fn secrets(&self) -> Secrets {
        let mut secrets = self.lasting_secrets();
        self.add_jit_configs(&mut secrets);
        for runner in machines::callers(self).await {
            let token = machines::token(&runner);
            secrets.add("a machine's token", token.as_bytes());
            secrets.add("a machine's token, as bytes", &hex::decode(token).unwrap());
        }
        secrets.and("the word of a start", machines::BOOT)
    }

    /// The secrets that are good for more than one runner.
    pub(crate) fn lasting_secrets(&self) -> Secrets {
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
        self.add_heard(&mut secrets, "an installation's token", "\"token\":\"", 1);
        self.add_heard(&mut secrets, "an App's web token", "authorization: Bearer eyJ", 1);
        secrets
    }

    /// The JIT configs alone.
    pub(crate) fn jit_configs(&self) -> Secrets {
        let mut secrets = Secrets::default();
        self.add_jit_configs(&mut secrets);
        secrets
    }

    fn add_jit_configs(&self, secrets: &mut Secrets) {
        self.add_heard(secrets, "a JIT config", "\"encoded_jit_config\":\"", 7);
    }

    /// Adds what went over the proxy behind a text, so often at least.
    fn add_heard(&self, secrets: &mut Secrets, name: &str, start: &str, fewest: usize) {
        let heard: Vec<String> =
            self.proxy.heard().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        let found: Vec<&str> = heard.iter().flat_map(|text| behind(text, start)).collect();
        assert!(found.len() >= fewest, "{name} went over the proxy {} times", found.len());
        for secret in found {
            secrets.add(name, secret.as_bytes());
            if name == "a JIT config" {
                secrets.add("the key in a JIT config", key_of(secret).as_bytes());
            }
        }
    }

    /// Ends all, and gives what they logged.
    pub(crate) fn end(&mut self) -> Outputs {
        let processes = [&mut self.manager, &mut self.github, &mut self.cloud, &mut self.callers];
        let names = ["manager.log", "github.log", "cloud.log", "callers.log"];
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
  listen: ADDRESS
  public_url: http://127.0.0.1:9
  bootstrap_url: 'http://ADDRESS'
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
  calling: {{kind: fake, url: 'CALLERS', behaviour: {{settle: 1s, callback: true}}}}
  mute: {{kind: fake, behaviour: {{settle: 1s, callback: true}}}}
  full: {{kind: fake, bootstrap: direct, behaviour: {{settle: 1s, zones: {{zone-a: 0}}}}}}
  engine: {{kind: docker, host: 'ENGINE', settle: 1s}}
  vcenter: {{kind: vsphere, url: 'VCENTER', username: rm, password: {VCENTER_PASSWORD}}}
  stack: {{kind: openstack, auth: {{auth_url: 'STACK', username: rm, password: {STACK_PASSWORD}, project_name: ci}}, settle: 1s}}
  direct-stack: {{kind: openstack, bootstrap: direct, auth: {{auth_url: 'STACK', username: rm, password: {STACK_PASSWORD}, project_name: ci}}, settle: 1s}}
  compute: {{kind: gcp, project: p, credentials: '{credentials}', endpoint: 'COMPUTE', settle: 1s}}
  direct-compute: {{kind: gcp, bootstrap: direct, project: p, credentials: '{credentials}', endpoint: 'COMPUTE', settle: 1s}}
runner_groups:
  - {{name: app, organization: acme, github: app, labels: [build], max: 3, placements: [{{backend: fake}}]}}
  - {{name: token, organization: tools, github: token, labels: [build], max: 3, placements: [{{backend: fake}}]}}
  - {{name: calling, organization: machines, github: token, labels: [build], max: 3, placements: [{{backend: calling}}]}}
  - {{name: mute, organization: mute, github: token, min_idle: 1, max: 1, placements: [{{backend: mute}}]}}
  - {{name: refused, organization: refused, github: refused, min_idle: 1, placements: [{{backend: fake}}]}}
  - {{name: away, organization: away, github: away, min_idle: 1, placements: [{{backend: fake}}]}}
  - {{name: full, organization: full, github: token, min_idle: 1, placements: [{{backend: full}}]}}
  - {{name: engine, organization: engine, github: token, min_idle: 1, placements: [{{backend: engine, image: x}}]}}
  - {{name: vcenter, organization: vcenter, github: token, min_idle: 1, placements: [{{backend: vcenter, template: t, cluster: c}}]}}
  - {{name: stack, organization: stack, github: token, min_idle: 1, placements: [{{backend: stack, flavor: f, image: {IMAGE}}}]}}
  - {{name: direct-stack, organization: direct-stack, github: token, min_idle: 1, placements: [{{backend: direct-stack, flavor: f, image: {IMAGE}}}]}}
  - {{name: direct-compute, organization: direct-compute, github: token, min_idle: 1, placements: [{{backend: direct-compute, zones: z, machine_types: t, image: i}}]}}
  - {{name: compute, organization: compute, github: token, min_idle: 1, placements: [{{backend: compute, zones: z, machine_types: t, image: i}}]}}
"
    );
    let text = if cfg!(feature = "gcp") { text } else { without(&["compute", "direct-compute"], &text) };
    let text = if cfg!(feature = "vsphere") { text } else { without(&["vcenter"], &text) };
    if cfg!(feature = "openstack") { text } else { without(&["stack", "direct-stack"], &text) }
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
