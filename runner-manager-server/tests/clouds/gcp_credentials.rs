//! Credentials of every kind, each as itself and as the account of `impersonate`, by the program itself: at Google's own
//! names, which a proxy leads to a played Google whose certificate the program is told to trust.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use runner_manager_core::clock::{Clock, SystemClock};
use runner_manager_core::domain::later;
use runner_manager_core::testing::simulator::DEFAULT_TOKEN;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::certificates::make_certificates_for;
use crate::http_server::keys::private_key;
use crate::http_server::{Reply, Server};
use crate::support::{Listening, WEBHOOK_SECRET, program, write};

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const ACCOUNT: &str = "runners@acme.iam.gserviceaccount.com";
/// One that nobody may act as.
const CLOSED: &str = "closed@acme.iam.gserviceaccount.com";
const NAMES: &str = "DNS:compute.googleapis.com,DNS:iamcredentials.googleapis.com,DNS:sts.googleapis.com,\
                     DNS:oauth2.googleapis.com";

const PERSON: &str = "ya29.person-Qw2Er5Ty8Ui1Op4As7Df0Gh3Jk6";
const WORKLOAD: &str = "ya29.workload-Zx1Cv4Bn7Mq0Wo3Ei6Ru9Ty2";
const MACHINE: &str = "ya29.machine-Pl0Ok9Ij8Uh7Yg6Tf5Rd4Es3";
const ACTING: &str = "ya29.acting-Mk5Nj4Bh3Vg2Cf1Xd0Zs9Aq8";
const SUBJECT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjaTphIn0.c2ln-Rk4xTz9";

/// What a name was asked.
struct Asked {
    host: String,
    path: String,
    bearer: String,
    body: Bytes,
}

/// All names of Google, as far as they were asked, and a machine's metadata server.
struct Google {
    proxy: String,
    metadata: Server,
    asked: Arc<Mutex<Vec<Asked>>>,
    _server: Server,
    _tasks: JoinSet<()>,
}

impl Google {
    async fn play(folder: &Path) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let noted = Arc::clone(&asked);
        let server = Server::start_tls(folder, move |request| {
            let one = Asked::read(&request);
            let (status, body) = one.answer();
            noted.lock().unwrap().push(one);
            answer(status, &body)
        })
        .await;
        let address = server.url.strip_prefix("https://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(lead_all(listener, address));
        Self {
            proxy,
            metadata: Server::start(|request| metadata(&request)).await,
            asked,
            _server: server,
            _tasks: tasks,
        }
    }

    /// What a name was asked since the last time.
    fn asked(&self, host: &str) -> Vec<Asked> {
        self.asked.lock().unwrap().extract_if(.., |asked| asked.host == host).collect()
    }
}

impl Asked {
    fn read(request: &Request<Bytes>) -> Self {
        let header = |name: &str| {
            request.headers().get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
        };
        Self {
            host: header("host"),
            path: request.uri().path().to_owned(),
            bearer: header("authorization").trim_start_matches("Bearer ").to_owned(),
            body: request.body().clone(),
        }
    }

    fn answer(&self) -> (u16, Value) {
        let path = self.path.as_str();
        let acts =
            |account: &str| path == format!("/v1/projects/-/serviceAccounts/{account}:generateAccessToken");
        match self.host.as_str() {
            "oauth2.googleapis.com" if path == "/token" => {
                (200, json!({"access_token": PERSON, "token_type": "Bearer", "expires_in": 3599}))
            }
            "sts.googleapis.com" if path == "/v1/token" => {
                let kind = "urn:ietf:params:oauth:token-type:access_token";
                (
                    200,
                    json!({
                        "access_token": WORKLOAD, "issued_token_type": kind, "token_type": "Bearer",
                        "expires_in": 3599,
                    }),
                )
            }
            "iamcredentials.googleapis.com" if acts(ACCOUNT) => {
                let end = later(SystemClock.now(), Duration::from_hours(1));
                (200, json!({"accessToken": ACTING, "expireTime": end.to_string()}))
            }
            "iamcredentials.googleapis.com" if acts(CLOSED) => {
                let message = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource.";
                (403, json!({"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED"}}))
            }
            "compute.googleapis.com" if path.contains("/images/") => (200, json!({"status": "READY"})),
            "compute.googleapis.com" => (200, json!({"status": "UP"})),
            _ => (404, json!({})),
        }
    }
}

fn answer(status: u16, body: &Value) -> Reply {
    let answer = Response::builder().status(status).header("content-type", "application/json");
    Reply::Answer(answer.body(Bytes::from(body.to_string())).unwrap())
}

/// A machine's metadata server, which wants to be meant.
fn metadata(request: &Request<Bytes>) -> Reply {
    let is_meant = request.headers().get("metadata-flavor").is_some_and(|value| value == "Google");
    let token = "/computeMetadata/v1/instance/service-accounts/default/token";
    if is_meant && request.uri().path() == token {
        return answer(200, &json!({"access_token": MACHINE, "token_type": "Bearer", "expires_in": 3599}));
    }
    answer(404, &json!({}))
}

/// A proxy that leads each name of Google's to one server.
async fn lead_all(listener: TcpListener, server: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(lead(stream, server));
    }
}

async fn lead(mut stream: TcpStream, server: SocketAddr) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let place = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    if place.is_some_and(|place| place.ends_with(".googleapis.com:443")) {
        let mut onward = TcpStream::connect(server).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        let _ = copy_bidirectional(&mut stream, &mut onward).await;
    }
}

/// Whether a token is one that the account of a key signed for itself.
fn is_signed_by(pem: &str, token: &str) -> bool {
    let text: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
    let pair = RsaKeyPair::from_pkcs8(&BASE64_STANDARD.decode(text).unwrap()).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
    let Some((signed, signature)) = token.rsplit_once('.') else { return false };
    let read = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
    let claims: Value = serde_json::from_slice(&read(signed.split_once('.').unwrap().1)).unwrap();
    claims["scope"] == SCOPE && public.verify(signed.as_bytes(), &read(signature)).is_ok()
}

/// What `check --online` misses for a placement, with all that the program says and logs.
fn checked(command: &mut Command) -> (Value, String) {
    let output = command.output().unwrap();
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    let mut findings = report["online"].as_array().unwrap().iter();
    let finding = findings.find(|finding| finding["subject"].as_str().unwrap().contains("small on eu"));
    (finding.unwrap_or_else(|| panic!("{said:?}"))["missing"].clone(), said.concat())
}

fn configuration(github: &str, settings: &str) -> String {
    format!(
        "
name: credentials
secret_key: a-secret-key-of-the-tests-0123456789
server: {{listen: '127.0.0.1:0', webhook_secret: {WEBHOOK_SECRET}}}
github: {{api_url: '{github}', token: {DEFAULT_TOKEN}}}
backends:
  eu: {{kind: gcp, project: acme, timeout: 20s{settings}}}
runner_groups:
  - name: small
    organization: acme
    labels: [build]
    placements: [{{backend: eu, machine_types: e2-standard-2, image: family/runner, zones: europe-west1-b}}]
"
    )
}

/// The files of each kind of credentials that has one.
fn files(folder: &Path, pem: &str) -> [(&'static str, Value); 3] {
    let subject = folder.join("subject");
    std::fs::write(&subject, SUBJECT).unwrap();
    [
        (
            "key",
            json!({
                "type": "service_account", "project_id": "acme", "private_key_id": "1", "private_key": pem,
                "client_email": "manager@acme.iam.gserviceaccount.com",
                "token_uri": "https://oauth2.googleapis.com/token",
            }),
        ),
        (
            "workload",
            json!({
                "type": "external_account", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/ci/providers/a",
                "token_url": "https://sts.googleapis.com/v1/token", "credential_source": {"file": subject},
            }),
        ),
        (
            "person",
            json!({
                "type": "authorized_user", "client_id": "id", "client_secret": "Hu5hHu5hHu5hHu5h",
                "refresh_token": "1//Rf8Gt7Hy6Ju5Ki4Lo3",
            }),
        ),
    ]
}

/// Everything that the program meets.
struct World {
    folder: TempDir,
    google: Google,
    github: Listening,
    pem: String,
}

impl World {
    /// `None` where there are no certificates.
    async fn start() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        if !make_certificates_for(folder.path(), NAMES) {
            return None;
        }
        let google = Google::play(folder.path()).await;
        let github = Listening::start(&folder, "github", &["github-simulator"]);
        Some(Self { folder, google, github, pem: private_key() })
    }

    /// Writes credentials, and gives the path of their file.
    fn file(&self, name: &str, credentials: &Value) -> String {
        let path = self.folder.path().join(format!("{name}.json"));
        std::fs::write(&path, credentials.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What `check --online` misses with settings and a variable, and all that it said, which has no secret in it.
    fn check(&self, settings: &str, (name, value): (&str, &str)) -> (Value, String) {
        let config = write(&self.folder, &configuration(&self.github.url, settings));
        let mut command =
            program(&["check", "--config", &config, "--online", "--json", "--log-level", "trace"]);
        // A home where nobody has signed in.
        command.env_remove("GOOGLE_APPLICATION_CREDENTIALS").env("HOME", self.folder.path());
        command.env("HTTPS_PROXY", &self.google.proxy);
        command.env("SSL_CERT_FILE", self.folder.path().join("ca.pem"));
        let (missing, said) = checked(command.env(name, value));
        assert!(said.contains("TRACE"), "it logs too little: {said}");
        let key = self.pem.lines().nth(3).unwrap();
        for secret in ["ya29.", key, "Hu5h", "Rf8Gt7", SUBJECT.split('.').nth(1).unwrap()] {
            assert!(!said.contains(secret), "{secret} is in {said}");
        }
        (missing, said)
    }

    /// What a name was asked since the last time, which was something.
    fn asked(&self, host: &str) -> Vec<Asked> {
        let asked = self.google.asked(host);
        assert!(!asked.is_empty(), "{host} was asked nothing");
        asked
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_credentials_reaches_google_by_its_own_names() {
    let Some(world) = World::start().await else { return };
    let metadata = world.google.metadata.url.replace("http://", "");
    let mut kinds = vec![("machine", String::new(), ("GCE_METADATA_HOST", metadata))];
    for (kind, json) in files(world.folder.path(), &world.pem) {
        let file = world.file(kind, &json);
        kinds.push((kind, format!(", credentials: {{file: '{file}'}}"), ("NOTHING", String::new())));
        kinds.push((kind, String::new(), ("GOOGLE_APPLICATION_CREDENTIALS", file)));
    }
    for (kind, settings, (name, value)) in kinds {
        let is_own = |token: &str| match kind {
            "machine" => token == MACHINE,
            "workload" => token == WORKLOAD,
            "person" => token == PERSON,
            _ => is_signed_by(&world.pem, token),
        };
        let variable = (name, value.as_str());
        let (missing, said) = world.check(&settings, variable);
        assert_eq!(missing, json!([]), "{kind}, {name}: {said}");
        for asked in world.asked("compute.googleapis.com") {
            assert!(is_own(&asked.bearer) && !said.contains(&asked.bearer), "{kind}, {name}");
        }
        assert_eq!(world.google.asked("iamcredentials.googleapis.com").len(), 0);

        let (missing, said) = world.check(&format!("{settings}, impersonate: {ACCOUNT}"), variable);
        assert_eq!(missing, json!([]), "{kind}, {name}: {said}");
        for asked in world.asked("iamcredentials.googleapis.com") {
            assert!(is_own(&asked.bearer) && !said.contains(&asked.bearer), "{kind}, {name}");
            let body: Value = serde_json::from_slice(&asked.body).unwrap();
            assert_eq!(body, json!({"scope": [SCOPE], "lifetime": "3600s"}));
        }
        let asked = world.asked("compute.googleapis.com");
        assert!(asked.iter().all(|asked| asked.bearer == ACTING), "{kind}, {name}");

        let (missing, _) = world.check(&format!("{settings}, impersonate: {CLOSED}"), variable);
        let reason = "iam.serviceAccounts.getAccessToken";
        assert!(missing.to_string().contains(reason), "{kind}, {name}: {missing}");
        assert!(world.asked("iamcredentials.googleapis.com").iter().all(|asked| is_own(&asked.bearer)));
        assert_eq!(world.google.asked("compute.googleapis.com").len(), 0);
    }
}

/// A key whose line ends became blanks, and a workload whose token has another name in its file.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_told_without_its_secrets() {
    let Some(world) = World::start().await else { return };
    let [(_, mut key), (_, mut workload), _] = files(world.folder.path(), &world.pem);
    key["private_key"] = json!(world.pem.replace('\n', " "));
    let subject = world.file("subject", &json!({"id_token": SUBJECT}));
    let format = json!({"type": "json", "subject_token_field_name": "token"});
    workload["credential_source"] = json!({"file": subject, "format": format});
    for (name, credentials, told) in
        [("key", key, "private key"), ("workload", workload, "subject token field `token`")]
    {
        let file = world.file(name, &credentials);
        for settings in ["", ", impersonate: runners@acme.iam.gserviceaccount.com"] {
            let (missing, said) = world.check(settings, ("GOOGLE_APPLICATION_CREDENTIALS", &file));
            assert!(missing.to_string().contains(told), "{name}: {missing}");
            // The bytes of a key, too.
            assert!(!said.contains("77, 73, 73, 69"), "{name}: {said}");
        }
    }
    assert_eq!(world.google.asked("compute.googleapis.com").len(), 0);
}
