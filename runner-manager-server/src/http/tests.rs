//! All routes: that each is described, and what they do while the store is down, over a real connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager_core::clock::SystemClock;
use runner_manager_core::config::Webhooks;
use runner_manager_core::domain::{
    DeploymentName, EndedRunner, GroupName, HookPlace, HookRecord, JobId, Owner, Runner, RunnerName, Secret,
    TokenKey, WorkflowJob,
};
use runner_manager_core::embedded::EmbeddedStorage;
use runner_manager_core::github::GitHub;
use runner_manager_core::manager::{Account, Callback, Manager, Parts, Settings, Storage};
use runner_manager_core::octocrab::{Credentials, OctocrabSettings, OctocrabTransport};
use runner_manager_core::random::SystemRandom;
use runner_manager_core::rest::RestGitHub;
use runner_manager_core::store::{
    Applied, DeploymentView, GroupView, JobFilter, Page, RunnerFilter, Store, StoreError, Versioned, Write,
};
use runner_manager_core::webhook::sign;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::auth::Access;
use super::{AppParts, AppState, router, routes, server};

/// A store that cannot be reached.
#[derive(Debug)]
struct Down;

fn down<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("nobody answers".to_owned(), None))
}

#[async_trait]
impl Store for Down {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        down()
    }
    async fn apply(&self, _: Write) -> Result<Applied, StoreError> {
        down()
    }
    async fn group(&self, _: &GroupName) -> Result<Option<GroupView>, StoreError> {
        down()
    }
    async fn groups(&self) -> Result<Vec<GroupView>, StoreError> {
        down()
    }
    async fn runner(&self, _: &RunnerName) -> Result<Option<Versioned<Runner>>, StoreError> {
        down()
    }
    async fn runners(
        &self,
        _: &RunnerFilter,
        _: &Page<RunnerName>,
    ) -> Result<Vec<Versioned<Runner>>, StoreError> {
        down()
    }
    async fn deployment(&self) -> Result<DeploymentView, StoreError> {
        down()
    }
    async fn job(&self, _: JobId) -> Result<Option<Versioned<WorkflowJob>>, StoreError> {
        down()
    }
    async fn jobs(&self, _: &JobFilter, _: &Page<JobId>) -> Result<Vec<Versioned<WorkflowJob>>, StoreError> {
        down()
    }
    async fn hook(&self, _: &HookPlace) -> Result<Option<Versioned<HookRecord>>, StoreError> {
        down()
    }
    async fn hooks(&self) -> Result<Vec<Versioned<HookRecord>>, StoreError> {
        down()
    }
    async fn ended_runners(&self, _: usize) -> Result<Vec<EndedRunner>, StoreError> {
        down()
    }
}

fn state(secret: &Secret, stop: CancellationToken) -> AppState {
    let callback = Callback { key: TokenKey::new(secret.clone()), address: None };
    // Another test of this process may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let clock = Arc::new(SystemClock);
    let credentials = Credentials::Token(Secret::new("ghp_0123456789"));
    let settings = OctocrabSettings::new("https://github.invalid", credentials);
    let transport = OctocrabTransport::new(settings, clock.clone()).unwrap();
    let github: Arc<dyn GitHub> = Arc::new(RestGitHub::new(Arc::new(transport), clock.clone()));
    let other = Arc::new(EmbeddedStorage::in_memory(clock.clone()));
    let manager = Manager::new(Parts {
        owner: Owner::new(DeploymentName::new("tests").unwrap(), secret),
        storage: Storage { store: Arc::new(Down), queue: other.clone(), budgets: other },
        github: Account::new(github).into(),
        backends: BTreeMap::new(),
        clock: clock.clone(),
        random: Arc::new(SystemRandom),
        settings: Settings { callback: Some(callback), ..Settings::default() },
    });
    let webhooks = Webhooks::Signed(secret.clone().into());
    AppState::new(AppParts { manager, clock, webhooks, access: Access::Local, stop })
}

/// The paths that are no part of the API: what pages, GitHub, a balancer and Prometheus ask for.
const BESIDE_THE_API: [&str; 6] = ["/", "/assets/{name}", "/healthz", "/metrics", "/readyz", "/webhook"];

/// All paths that a router has, as it prints.
fn paths_of(routes: &axum::Router) -> BTreeSet<String> {
    let printed = format!("{routes:?}");
    let quoted = printed.split('"').skip(1).step_by(2).filter(|quoted| quoted.starts_with('/'));
    // The others are how axum calls what is at no path.
    quoted.filter(|path| !path.contains("__private__")).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_path_is_described_but_those_beside_the_api() {
    let document = routes::document();
    let described = document["paths"].as_object().unwrap().keys().map(String::as_str);
    let known: BTreeSet<String> = described.chain(BESIDE_THE_API).map(str::to_owned).collect();
    let served = paths_of(&router(state(&Secret::new("0123456789abcdef"), CancellationToken::new())));
    assert_eq!(served, known);
    assert!(served.iter().filter(|path| path.starts_with("/bootstrap/v1/")).count() >= 8, "{served:?}");
}

/// Where all routes are served over a store that is down, with a client to ask them by; as long as the tasks live.
async fn serve_all(secret: &Secret) -> (String, reqwest::Client, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let routes = router(state(secret, stop.clone()));
    let mut serving = JoinSet::new();
    serving.spawn(server::serve(listener, routes, Arc::new(SystemClock), stop));
    (url, reqwest::Client::builder().no_proxy().build().unwrap(), serving)
}

/// A path answers the methods that are described, and no others: whoever may ask, as a machine whose runner has the name that
/// stands in the paths.
#[tokio::test]
async fn every_method_is_described() {
    let secret = Secret::new("0123456789abcdef");
    let token = TokenKey::new(secret.clone()).token(&RunnerName::new("runner").unwrap());
    let (url, client, _serving) = serve_all(&secret).await;
    for (path, described) in routes::document()["paths"].as_object().unwrap() {
        let asked = format!("{url}{}", path.replace(['{', '}'], ""));
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let request = client.request(method.parse().unwrap(), &asked).bearer_auth(token.expose());
            let answer = request.send().await.unwrap();
            let is_served = answer.status() != 405;
            assert_ne!(answer.status(), 401, "{method} {path}");
            assert_eq!(is_served, described.get(method.to_lowercase()).is_some(), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_told_to_everybody_who_needs_it() {
    let secret = Secret::new("0123456789abcdef");
    let (url, client, _serving) = serve_all(&secret).await;
    for path in [
        "/",
        "/readyz",
        "/metrics",
        "/api/v1/groups",
        "/api/v1/runners",
        "/api/v1/jobs",
        "/api/v1/jobs/1",
        "/api/v1/status",
        "/api/v1/sweeps",
    ] {
        let answer = client.get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 503, "{path}");
        assert!(answer.text().await.unwrap().contains("nobody answers"), "{path}");
    }
    assert_eq!(client.get(format!("{url}/healthz")).send().await.unwrap().status(), 200);

    // A machine learns that it is so, and nothing of the store.
    let token = TokenKey::new(secret.clone()).token(&RunnerName::new("runner").unwrap());
    let beat =
        client.post(format!("{url}/bootstrap/v1/runners/runner/heartbeat")).bearer_auth(token.expose());
    let beat = beat.header("content-type", "application/x-www-form-urlencoded").body("state=idle");
    let answer = beat.send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.text().await.unwrap().trim(), "the store does not answer");

    let example = "/../runner-manager-core/tests/data/github/webhook-examples/queued.payload.json";
    let payload = std::fs::read(format!("{}{example}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let post = |kind: &'static str| {
        let request = client.post(format!("{url}/webhook")).header("content-type", kind);
        let request = request.header("x-github-event", "workflow_job").header("x-github-delivery", "1");
        request.header("x-hub-signature-256", sign(&secret, &payload)).body(payload.clone()).send()
    };
    assert_eq!(post("application/json").await.unwrap().status(), 503);
    let form = post("application/x-www-form-urlencoded").await.unwrap();
    assert_eq!(form.status(), 400);
    assert!(form.text().await.unwrap().contains("set the webhook's content type"));
}
