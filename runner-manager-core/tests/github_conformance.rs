//! The conformance suite of the trait `GitHub`, over the simulator: in this process, and over a socket through
//! octocrab, with a token and as an App. Each request that the adapter sends is checked against GitHub's
//! published description.
#![expect(clippy::unwrap_used, reason = "what goes wrong in a test's own helpers fails the test")]

mod github_openapi;
mod http_server;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use jiff::Timestamp;
use runner_manager_core::clock::{Clock, SimulatedClock, SystemClock};
use runner_manager_core::domain::{Repository, Scope, Secret};
use runner_manager_core::github::{GitHub, Intent};
use runner_manager_core::octocrab::{Credentials, OctocrabSettings, OctocrabTransport};
use runner_manager_core::rest::{As, CallName, RestGitHub, Transport, TransportError};
use runner_manager_core::testing::conformance::github::{SimulatedWorld, Subject, cases};
use runner_manager_core::testing::conformance::run;
use runner_manager_core::testing::simulated::{SharedSimulator, SimulatorTransport};
use runner_manager_core::testing::simulator::{
    AppSettings, DEFAULT_TOKEN, DurationRange, Effect, RequestFault, Settings, Simulator,
};

use self::github_openapi::OpenApi;
use self::http_server::{Reply, Server, keys::private_key};

const APP: u64 = 12345;

/// One request and what came back.
#[derive(Debug, Clone)]
struct Exchange {
    /// The call of the adapter that it belongs to; none where the transport asked for itself.
    call: Option<&'static str>,
    method: String,
    /// With its query.
    path: String,
    body: Bytes,
    answer: Option<(u16, Bytes)>,
}

type Sent = Arc<Mutex<Vec<Exchange>>>;

impl Exchange {
    fn of(request: &Request<Bytes>, root: &str) -> Self {
        let path = request.uri().to_string();
        Self {
            call: request.extensions().get::<CallName>().map(|name| name.0),
            method: request.method().to_string(),
            path: path.strip_prefix(root).unwrap_or(&path).to_owned(),
            body: request.body().clone(),
            answer: None,
        }
    }

    fn answered(self, answer: &Response<Bytes>) -> Self {
        Self { answer: Some((answer.status().as_u16(), answer.body().clone())), ..self }
    }
}

/// Keeps what goes through it.
#[derive(Debug)]
struct Recorder<T> {
    inner: T,
    sent: Sent,
}

#[async_trait]
impl<T: Transport> Transport for Recorder<T> {
    async fn send(&self, who: As<'_>, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let exchange = Exchange::of(&request, "");
        let answer = self.inner.send(who, request).await;
        let exchange = match &answer {
            Ok(answer) => exchange.answered(answer),
            Err(_) => exchange,
        };
        self.sent.lock().unwrap().push(exchange);
        answer
    }

    fn app(&self) -> Option<u64> {
        self.inner.app()
    }

    fn account(&self, who: As<'_>) -> String {
        self.inner.account(who)
    }
}

fn simulator() -> SharedSimulator {
    let settings = Settings {
        seed: 7,
        app: Some(AppSettings { id: APP, ..AppSettings::default() }),
        enterprise: Some("inc".to_owned()),
        ..Settings::default()
    };
    Arc::new(Mutex::new(Simulator::new(settings)))
}

/// All kinds of scopes; an App is not let into an enterprise's runners.
fn scopes(app: bool) -> Vec<Scope> {
    let mut scopes = vec![Scope::organization("acme").unwrap(), Scope::Repository(repository())];
    scopes.extend(Scope::enterprise("inc").filter(|_| !app));
    scopes
}

fn repository() -> Repository {
    "acme/app".parse().unwrap()
}

fn subject<T: Transport>(
    scope: Scope,
    transport: T,
    simulator: SharedSimulator,
    clock: Arc<dyn Clock>,
    sent: &Sent,
) -> Subject {
    let transport = Arc::new(Recorder { inner: transport, sent: Arc::clone(sent) });
    Subject {
        github: Arc::new(RestGitHub::new(transport, Arc::clone(&clock))),
        scope,
        repository: repository(),
        world: Arc::new(SimulatedWorld::new(simulator, clock)),
    }
}

/// What was checked: the adapter's calls, and GitHub's operations.
#[derive(Debug, Default)]
struct Checked {
    calls: BTreeSet<&'static str>,
    operations: BTreeSet<String>,
}

/// Checks what was sent and what was answered against GitHub's description.
fn check(sent: &Sent) -> Checked {
    let mut description = OpenApi::load();
    let mut checked = Checked::default();
    for Exchange { call, method, path, body, answer } in sent.lock().unwrap().iter() {
        let faults = description.check_request(method, path, body);
        assert!(faults.is_empty(), "{method} {path}: {faults:?}");
        if let Some((status, body)) = answer {
            let faults = description.check_answer(method, path, *status, body);
            assert!(faults.is_empty(), "{status} for {method} {path}: {faults:?}");
        }
        let path = path.split('?').next().unwrap();
        checked.operations.extend(description.operation(method, path));
        checked.calls.extend(call);
    }
    checked
}

async fn in_process(app: bool, sent: &Sent) {
    for scope in scopes(app) {
        let report = run(cases(), &[], || async {
            let clock: Arc<dyn Clock> =
                Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
            let simulator = simulator();
            let (shared, timer) = (Arc::clone(&simulator), Arc::clone(&clock));
            let transport = if app {
                SimulatorTransport::app(shared, timer, APP)
            } else {
                SimulatorTransport::new(shared, timer)
            };
            subject(scope.clone(), transport, simulator, clock, sent)
        })
        .await;
        assert_eq!(report.passed.len(), cases().len());
    }
}

/// The names of all calls that the adapter makes, by its source.
fn calls_of_the_adapter() -> BTreeSet<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rest");
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.ends_with("tests.rs") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for before in ["Operation::read(\"", "Operation { name: \""] {
            let found = source.split(before).skip(1).filter_map(|rest| rest.split('"').next());
            names.extend(found.map(str::to_owned));
        }
    }
    names
}

/// The operations at GitHub that the adapter's calls come to for each kind of scope: `{}` is the scope.
const FOR_EACH_SCOPE: [&str; 5] = [
    "GET {}/actions/runners",
    "GET {}/actions/runners/{runner_id}",
    "POST {}/actions/runners/generate-jitconfig",
    "DELETE {}/actions/runners/{runner_id}",
    "GET {}/actions/permissions",
];
const FOR_EACH_WITH_HOOKS: [&str; 6] = [
    "GET {}/hooks",
    "POST {}/hooks",
    "PATCH {}/hooks/{hook_id}",
    "DELETE {}/hooks/{hook_id}",
    "GET {}/hooks/{hook_id}/deliveries",
    "POST {}/hooks/{hook_id}/deliveries/{delivery_id}/attempts",
];

#[tokio::test]
async fn every_call_of_the_adapter_is_made_and_checked() {
    let sent = Sent::default();
    in_process(false, &sent).await;
    in_process(true, &sent).await;
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    for app in [false, true] {
        let (shared, timer) = (simulator(), Arc::clone(&clock));
        let transport = if app {
            SimulatorTransport::app(shared, timer, APP)
        } else {
            SimulatorTransport::new(shared, timer)
        };
        let recorder = Recorder { inner: transport, sent: Arc::clone(&sent) };
        let github = RestGitHub::new(Arc::new(recorder), Arc::clone(&clock));
        for scope in scopes(app) {
            github.check(&scope, Intent::SupplyAndRerun).await.unwrap();
            let _ = github.repositories(&scope).await;
        }
    }
    let Checked { calls, operations } = check(&sent);
    let calls: BTreeSet<String> = calls.into_iter().map(str::to_owned).collect();
    assert_eq!(calls, calls_of_the_adapter(), "what the source names, and what was made");
    let (organization, repository) = ("/orgs/{org}", "/repos/{owner}/{repo}");
    let expected = |templates: &[&str], scope: &str| -> Vec<String> {
        templates.iter().map(|template| template.replacen("{}", scope, 1)).collect()
    };
    let mut wanted = expected(&FOR_EACH_SCOPE[..4], "/enterprises/{enterprise}");
    for scope in [organization, repository] {
        wanted.extend(expected(&FOR_EACH_SCOPE, scope));
    }
    wanted.extend(expected(&FOR_EACH_WITH_HOOKS, repository));
    let missing: Vec<_> = wanted.iter().filter(|operation| !operations.contains(*operation)).collect();
    assert!(missing.is_empty(), "{missing:?} of {operations:?}");
}

async fn over_a_socket(root: &'static str, credentials: impl Fn() -> Credentials) -> Checked {
    // Another test of this process may have installed it already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let sent = Sent::default();
    // What the transport asks for itself is seen at the other end alone.
    let seen = Sent::default();
    let servers: Arc<Mutex<Vec<Server>>> = Arc::default();
    let app = matches!(credentials(), Credentials::App { .. });
    for scope in scopes(app) {
        let report = run(cases(), &[], || async {
            let clock: Arc<dyn Clock> = Arc::new(SystemClock);
            let simulator = simulator();
            let server = serve(Arc::clone(&simulator), root, Arc::clone(&seen)).await;
            let settings = OctocrabSettings::new(format!("{}{root}", server.url), credentials());
            servers.lock().unwrap().push(server);
            let transport = OctocrabTransport::new(settings, Arc::clone(&clock)).unwrap();
            subject(scope.clone(), transport, simulator, clock, &sent)
        })
        .await;
        assert_eq!(report.passed.len(), cases().len());
    }
    check(&sent);
    check(&seen)
}

async fn serve(simulator: SharedSimulator, root: &'static str, seen: Sent) -> Server {
    Server::start(move |request| {
        let answer = simulator.lock().unwrap().handle(&request, SystemClock.now());
        seen.lock().unwrap().push(Exchange::of(&request, root).answered(&answer.response));
        Reply::Answer(answer.response)
    })
    .await
}

#[tokio::test]
async fn over_a_socket_with_a_token() {
    over_a_socket("", || Credentials::Token(Secret::new(DEFAULT_TOKEN))).await;
}

#[tokio::test]
async fn over_a_socket_as_an_app_of_an_enterprise_server() {
    let key = private_key();
    let credentials =
        || Credentials::App { id: APP, private_key: Secret::new(key.clone()), installation: None };
    let operations = over_a_socket("/api/v3", credentials).await.operations;
    for of_the_transport in [
        "GET /repos/{owner}/{repo}/installation",
        "GET /orgs/{org}/installation",
        "POST /app/installations/{installation_id}/access_tokens",
    ] {
        assert!(operations.contains(of_the_transport), "{of_the_transport}: {operations:?}");
    }
}

#[tokio::test]
async fn repositories_are_listed_with_a_token_and_as_an_app() {
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
    let simulator = simulator();
    for at in 0..120 {
        simulator.lock().unwrap().add_repository("acme", &format!("app{at}"), true);
    }
    let token = SimulatorTransport::new(Arc::clone(&simulator), Arc::clone(&clock));
    let app = SimulatorTransport::app(simulator, Arc::clone(&clock), APP);
    for transport in [token, app] {
        let github = RestGitHub::new(Arc::new(transport), Arc::clone(&clock));
        let scope = Scope::organization("acme").unwrap();
        let found: BTreeSet<Repository> = github.repositories(&scope).await.unwrap().into_iter().collect();
        assert_eq!(found.len(), 120);
    }
}

#[tokio::test]
async fn a_check_of_an_app_finds_it_installed() {
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
    let (sent, simulator) = (Sent::default(), simulator());
    let transport = SimulatorTransport::app(simulator, Arc::clone(&clock), APP);
    let github = RestGitHub::new(Arc::new(Recorder { inner: transport, sent: Arc::clone(&sent) }), clock);
    for scope in scopes(true) {
        assert_eq!(github.check(&scope, Intent::SupplyAndRerun).await.unwrap(), Vec::<String>::new());
        assert!(github.budget(&scope).unwrap().remaining > 0);
    }
    let enterprise = Scope::enterprise("inc").unwrap();
    let missing = github.check(&enterprise, Intent::Supply).await.unwrap();
    assert!(missing[0].contains("may not manage self-hosted runners"), "{missing:?}");
    check(&sent);
}

/// The suite and the trait's documentation name the same points.
#[test]
fn each_point_of_behaviour_has_a_case() {
    let source = include_str!("../src/github.rs");
    let (_, behaviour) = source.split_once("/// # Behaviour\n").unwrap();
    let (behaviour, _) = behaviour.split_once("/// # Errors\n").unwrap();
    let quoted = behaviour.split('`').skip(1).step_by(2);
    let points: BTreeSet<&str> =
        quoted.filter(|word| word.contains('_') && !word.contains("::") && !CALLS.contains(word)).collect();
    let names: BTreeSet<&str> = cases().iter().map(|case| case.name).collect();
    assert_eq!(points, names);
}

/// What the section names that is no point of it.
const CALLS: [&str; 9] = [
    "create_hook",
    "create_jit_config",
    "create_runner_group",
    "remove_runner",
    "rerun_job",
    "runner_groups",
    "set_group_members",
    "update_hook",
    "update_runner_group",
];

#[tokio::test]
async fn a_lost_reply_is_unclear_and_a_slow_one_takes_its_time() {
    use runner_manager_core::domain::{GitHubGroupId, Labels, RunnerName};
    use runner_manager_core::github::{GitHubErrorKind, JitRequest};
    use std::time::Duration;

    let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
    let simulator = simulator();
    let transport = SimulatorTransport::new(Arc::clone(&simulator), Arc::<SimulatedClock>::clone(&clock));
    let github = RestGitHub::new(Arc::new(transport), Arc::<SimulatedClock>::clone(&clock));
    let scope = Scope::organization("acme").unwrap();
    let set = |effect| simulator.lock().unwrap().faults_mut().requests = vec![RequestFault::always(effect)];

    set(Effect::LoseReply);
    let request = JitRequest {
        scope: scope.clone(),
        name: RunnerName::new("rm-1").unwrap(),
        group: GitHubGroupId::DEFAULT,
        labels: Labels::parse(["linux"]).unwrap(),
    };
    assert_eq!(github.create_jit_config(&request).await.unwrap_err().kind, GitHubErrorKind::Unclear);
    assert_eq!(github.runners(&scope).await.unwrap_err().kind, GitHubErrorKind::Unavailable);
    simulator.lock().unwrap().faults_mut().requests.clear();
    assert_eq!(github.runners(&scope).await.unwrap().len(), 1, "what was asked was done");

    for (seconds, answered) in [(5, true), (500, false)] {
        let latency = jiff::SignedDuration::from_secs(seconds);
        set(Effect::Delay(DurationRange { min: latency, max: latency }));
        let call = github.runners(&scope);
        let time = async {
            assert!(clock.next_wake().is_some(), "the answer is held back");
            clock.advance(Duration::from_mins(1));
        };
        let (result, ()) = futures_util::join!(call, time);
        assert_eq!(result.is_ok(), answered, "{seconds}");
    }
}
