//! The fake backend: what the manager talks to. It sends the same requests to a cloud of its own process or
//! to one behind a URL.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use runner_manager_core::backend::{
    Activity, Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec,
};
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{
    Arch, Instance, InstanceId, InstanceState, Limits, Os, Owner, Placement, RunnerName, Secret,
};
use runner_manager_core::retry::Retry;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::behaviour::Script;
use super::books::Books;
use super::cloud::{FakeCloud, StartedInstance};
use super::config::Place;
use super::wire::{CreateBody, ErrorBody, Page, StartedBody, TagsBody, to_wire};
use crate::bootstrap::{self, Scripts, StartConfig};

/// A list of more pages than this is not followed: it would be the cloud's mistake.
const MOST_PAGES: usize = 10_000;

/// An answer with a longer body than this (64 MiB: the books of some 100,000 instances) is not read.
const LONGEST_BODY: usize = 64 << 20;

/// The backend of kind `fake`.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use runner_manager_backends::fake::{Behaviour, FakeBackend, FakeCloud};
/// use runner_manager_core::backend::Backend;
/// use runner_manager_core::clock::SystemClock;
///
/// let cloud = Arc::new(Mutex::new(FakeCloud::new(Behaviour::default())));
/// let backend = FakeBackend::in_process(cloud, Arc::new(SystemClock));
/// assert!(backend.capabilities().unique_names);
/// ```
pub struct FakeBackend {
    way: Way,
    capabilities: Capabilities,
}

enum Way {
    InProcess { cloud: Arc<Mutex<FakeCloud>>, clock: Arc<dyn Clock> },
    Http { url: String, client: reqwest::Client },
}

impl fmt::Debug for FakeBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match &self.way {
            Way::InProcess { .. } => "a cloud in this process",
            Way::Http { url, .. } => url,
        };
        f.debug_tuple("FakeBackend").field(&way).finish()
    }
}

impl FakeBackend {
    /// The backend of a cloud in this process. What the cloud delays waits by `clock`.
    pub fn in_process(cloud: Arc<Mutex<FakeCloud>>, clock: Arc<dyn Clock>) -> Self {
        let capabilities = {
            let cloud = cloud.lock().unwrap_or_else(PoisonError::into_inner);
            let behaviour = cloud.behaviour();
            behaviour.capabilities()
        };
        Self { way: Way::InProcess { cloud, clock }, capabilities }
    }

    /// The backend of a cloud behind a URL, which is told to have these capabilities. Waits for each answer
    /// no longer than `timeout`.
    ///
    /// # Errors
    /// `InvalidConfig` when no HTTP client can be made.
    pub fn http(url: &str, timeout: Duration, capabilities: Capabilities) -> Result<Self, BackendError> {
        let builder = reqwest::Client::builder().timeout(timeout).no_proxy();
        // Plain HTTP must work on systems without any certificates, such as a bare container.
        let builder = if url.starts_with("http:") { builder.tls_certs_only([]) } else { builder };
        let client = builder.build().map_err(|error| {
            let detail = "no HTTP client could be made";
            BackendError::new(BackendErrorKind::InvalidConfig, "connect", detail).because(error)
        })?;
        Ok(Self { way: Way::Http { url: url.trim_end_matches('/').to_owned(), client }, capabilities })
    }

    /// The cloud's own books.
    ///
    /// # Errors
    /// When the cloud did not answer.
    pub async fn books(&self) -> Result<Books, BackendError> {
        self.read("books", Method::GET, "/books").await
    }

    /// Changes the cloud's behaviour.
    ///
    /// # Errors
    /// `InvalidConfig` for a script that makes no sense; or the cloud did not answer.
    pub async fn script(&self, script: &Script) -> Result<(), BackendError> {
        self.call("script", Method::POST, "/script", Some(script)).await.map(drop)
    }

    /// The instances that began to run after the one of a sequence number (0 for all), and still run.
    ///
    /// # Errors
    /// When the cloud did not answer.
    pub async fn started_after(&self, sequence: u64) -> Result<Vec<StartedInstance>, BackendError> {
        let path = format!("/started?after={sequence}");
        let body: StartedBody = self.read("started", Method::GET, &path).await?;
        Ok(body.started.into_iter().map(StartedInstance::from).collect())
    }

    /// Tells the cloud that the agent of an instance powered it off.
    ///
    /// # Errors
    /// When the cloud did not answer.
    pub async fn instance_ended(&self, id: &InstanceId) -> Result<(), BackendError> {
        self.call::<()>("ended", Method::POST, &format!("/instances/{id}/ended"), None).await.map(drop)
    }

    async fn read<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
    ) -> Result<T, BackendError> {
        parse(operation, &self.call::<()>(operation, method, path, None).await?)
    }

    /// All pages of a search.
    async fn search(&self, operation: &'static str, filter: &str) -> Result<Vec<Instance>, BackendError> {
        let mut found = Vec::new();
        let mut path = format!("/instances?{filter}");
        for _ in 0..MOST_PAGES {
            let page: Page = self.read(operation, Method::GET, &path).await?;
            found.extend(page.instances);
            match page.next {
                None => return Ok(found),
                Some(next) => path = format!("/instances?{filter}&page={next}"),
            }
        }
        let detail = format!("the list has no end after {MOST_PAGES} pages");
        Err(BackendError::new(BackendErrorKind::Unexpected, operation, detail))
    }

    /// Sends a request and takes the body of a success; everything else is an error.
    async fn call<T: Serialize>(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Option<&T>,
    ) -> Result<Bytes, BackendError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).expect("our bodies are plain data with text keys"),
            None => Vec::new(),
        };
        let response = match &self.way {
            Way::InProcess { cloud, clock } => {
                let mut request = Request::new(Bytes::from(body));
                *request.method_mut() = method;
                *request.uri_mut() = path.parse().map_err(|error: http::uri::InvalidUri| {
                    let detail = format!("{path} is no path");
                    BackendError::new(BackendErrorKind::InvalidConfig, operation, detail).because(error)
                })?;
                in_process(operation, cloud, clock.as_ref(), &request).await?
            }
            Way::Http { url, client } => {
                let request = client.request(method, format!("{url}{path}")).body(body);
                over_http(operation, request).await?
            }
        };
        if response.status().is_success() {
            Ok(response.into_body())
        } else {
            Err(refusal(operation, response.status(), response.body()))
        }
    }
}

async fn in_process(
    operation: &'static str,
    cloud: &Mutex<FakeCloud>,
    clock: &dyn Clock,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, BackendError> {
    let answer = cloud.lock().unwrap_or_else(PoisonError::into_inner).handle(request, clock.now());
    if !answer.delay.is_zero() {
        clock.sleep(answer.delay).await;
    }
    if answer.lost {
        return Err(BackendError::new(unanswered(operation), operation, "the answer was lost"));
    }
    Ok(answer.response)
}

async fn over_http(
    operation: &'static str,
    request: reqwest::RequestBuilder,
) -> Result<Response<Bytes>, BackendError> {
    let failed = |error: reqwest::Error| {
        // A connection that was never made carried nothing.
        let kind = if error.is_connect() { BackendErrorKind::Unavailable } else { unanswered(operation) };
        BackendError::new(kind, operation, "the fake cloud did not answer").because(error.without_url())
    };
    let mut response = request.send().await.map_err(failed)?;
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LONGEST_BODY {
            let detail = format!("the answer is longer than {LONGEST_BODY} bytes");
            return Err(BackendError::new(unanswered(operation), operation, detail));
        }
        body.extend_from_slice(&chunk);
    }
    let mut answer = Response::new(body.freeze());
    *answer.status_mut() = response.status();
    Ok(answer)
}

/// What a call without an answer is: unclear where it may have changed something.
fn unanswered(operation: &str) -> BackendErrorKind {
    match operation {
        "create" | "delete" => BackendErrorKind::Unclear,
        _ => BackendErrorKind::Unavailable,
    }
}

/// The error of an answer that is no success: what its body says, and its status only where that says
/// nothing (then something else than a fake cloud answered).
fn refusal(operation: &'static str, status: StatusCode, body: &[u8]) -> BackendError {
    let Ok(ErrorBody { error }) = serde_json::from_slice(body) else {
        let kind = match status.as_u16() {
            404 | 405 => BackendErrorKind::InvalidConfig,
            500.. => unanswered(operation),
            _ => BackendErrorKind::Unexpected,
        };
        return BackendError::new(kind, operation, format!("{status}, and not in a fake cloud's words"));
    };
    let refused = BackendError::new(error.kind, operation, error.message);
    match error.retry_after {
        Some(after) => refused.retry(Retry::After(after)),
        None => refused,
    }
}

fn parse<T: DeserializeOwned>(operation: &'static str, body: &[u8]) -> Result<T, BackendError> {
    serde_json::from_slice(body).map_err(|error| {
        let detail = format!("the answer cannot be read: {:?} error", error.classify());
        BackendError::new(unanswered(operation), operation, detail)
    })
}

fn place(operation: &'static str, placement: &Placement) -> Result<Place, BackendError> {
    serde_json::from_value(placement.settings.clone()).map_err(|error| {
        let detail = format!("the placement {} is not one of a fake cloud", placement.description);
        BackendError::new(BackendErrorKind::InvalidConfig, operation, detail).because(error)
    })
}

fn create_body(spec: &InstanceSpec) -> Result<CreateBody, BackendError> {
    let place = place("create", &spec.placement)?;
    let (jit_config, callback) = to_wire(&spec.bootstrap).ok_or_else(|| {
        let detail = "a fake cloud hands over JIT configs and callbacks alone";
        BackendError::new(BackendErrorKind::Unsupported, "create", detail)
    })?;
    let mut tags = spec.tags.clone();
    tags.extend(spec.owner.tags(&spec.runner, &spec.group));
    Ok(CreateBody {
        runner: spec.runner.clone(),
        group: spec.group.clone(),
        owner: spec.owner.clone(),
        zone: place.zone,
        instance_type: place.instance_type,
        image: place.image,
        tags,
        jit_config,
        callback,
    })
}

/// The script that a machine of a placement fetches: what a machine of a real cloud would run.
fn start_script(spec: &InstanceSpec) -> Result<Secret, BackendError> {
    let refuse = |kind, detail: String| BackendError::new(kind, "start_script", detail);
    let start = place("start_script", &spec.placement)?.start.unwrap_or_else(|| serde_json::json!({}));
    let start: StartConfig = serde_json::from_value(start)
        .map_err(|error| refuse(BackendErrorKind::InvalidConfig, error.to_string()))?;
    let scripts = Scripts::new(start, Os::Linux, Arch::X64, Limits::default().start_timeout);
    bootstrap::script(scripts, spec)
}

#[async_trait]
impl Backend for FakeBackend {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let body = create_body(spec)?;
        parse("create", &self.call("create", Method::POST, "/instances", Some(&body)).await?)
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        self.call::<()>("delete", Method::DELETE, &format!("/instances/{id}"), None).await.map(drop)
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        match self.read("get", Method::GET, &format!("/instances/{id}")).await {
            Ok(instance) => Ok(Some(instance)),
            Err(error) if error.kind == BackendErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        let mut found = self.search("find", &format!("name={name}")).await?;
        // One that is there says more than one that is gone.
        found.sort_by_key(|instance| instance.state == InstanceState::Gone);
        Ok(found.into_iter().next())
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        self.search("list", &format!("owner={owner}")).await
    }

    fn start_script(&self, spec: &InstanceSpec) -> Result<Secret, BackendError> {
        start_script(spec)
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    async fn update(&self, id: &InstanceId, activity: &Activity) -> Result<(), BackendError> {
        let job = activity.job.as_ref().map(ToString::to_string).unwrap_or_default();
        let tags = BTreeMap::from([
            ("runner-manager-phase".to_owned(), activity.phase.to_string()),
            ("runner-manager-job".to_owned(), job),
        ]);
        let path = format!("/instances/{id}");
        self.call("update", Method::PATCH, &path, Some(&TagsBody { tags })).await.map(drop)
    }
}
