//! The face of the fake cloud: a pure function from an HTTP request to an answer.
//!
//! No socket in here. Whoever serves it waits for [`Answer::delay`], and then sends the response or, where
//! it is [`lost`](Answer::lost), closes the connection without one.
//!
//! | route | does |
//! | --- | --- |
//! | `POST /instances` | makes an instance: 201; 200 with the one that bears the name |
//! | `GET /instances?owner=DEPLOYMENT/FINGERPRINT` | lists, with `page=` from `next` of the page before |
//! | `GET /instances?name=RUNNER` | searches by name |
//! | `GET`, `DELETE`, `PATCH /instances/{id}` | tells of one, deletes it, writes tags onto it |
//! | `POST /instances/{id}/ended` | the agent on it powered it off |
//! | `GET /started?after=N` | the instances that began to run after the `N`th, with their JIT configs |
//! | `GET /books` | the cloud's own books ([`Books`](super::Books)) |
//! | `POST /script` | changes its behaviour ([`Script`]) |
//!
//! Faults happen to the instances' routes alone, never to those by which a test looks and steers.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::domain::{InstanceId, RunnerName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::behaviour::{Behaviour, Ending, Fault, Operation, Script};
use super::cloud::{FakeCloud, Filter, Order, Refusal};
use super::wire::{CreateBody, ErrorBody, Page, StartedBody, StartedWire, TagsBody, owner};

/// What becomes of a request.
pub struct Answer {
    /// What is to be sent.
    pub response: Response<Bytes>,
    /// How long to wait before.
    pub delay: Duration,
    /// Whether nothing is to be sent after all: the connection just ends.
    pub lost: bool,
}

impl fmt::Debug for Answer {
    /// Without the body, which may bear JIT configs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.response.status())
            .field("delay", &self.delay)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// A request for an instance, read.
enum Call {
    Create(Box<Order>),
    Delete(InstanceId),
    Get(InstanceId),
    Update(InstanceId, TagsBody),
    Search(Operation, Filter, Option<Token>),
}

impl Call {
    const fn operation(&self) -> Operation {
        match self {
            Self::Create(_) => Operation::Create,
            Self::Delete(_) => Operation::Delete,
            Self::Get(_) => Operation::Get,
            Self::Update(..) => Operation::Update,
            Self::Search(operation, ..) => *operation,
        }
    }
}

/// Where a page begins, and how stale the whole list is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    After { id: InstanceId, ago: Duration },
    Missing,
}

impl Token {
    const MISSING: &str = "missing";

    fn parse(text: &str) -> Option<Self> {
        if text == Self::MISSING {
            return Some(Self::Missing);
        }
        let (ago, id) = text.split_once('.')?;
        Some(Self::After { id: InstanceId::new(id), ago: Duration::from_millis(ago.parse().ok()?) })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After { id, ago } => write!(f, "{}.{id}", ago.as_millis()),
            Self::Missing => f.write_str(Self::MISSING),
        }
    }
}

impl FakeCloud {
    /// Answers a request: see the [module](self) for the routes.
    pub fn handle(&mut self, request: &Request<Bytes>, now: Timestamp) -> Answer {
        self.advance(now);
        match self.steer(request, now) {
            Some(answer) => answer,
            None => match read_call(request) {
                Ok(call) => self.answer(call),
                Err(refusal) => at_once(refused(refusal)),
            },
        }
    }

    /// The routes by which a test looks and steers; `None` where it is none of them.
    fn steer(&mut self, request: &Request<Bytes>, now: Timestamp) -> Option<Answer> {
        let segments: Vec<&str> = segments(request.uri().path());
        let response = match (request.method(), segments.as_slice()) {
            (&Method::GET, ["books"]) => json(StatusCode::OK, self.books(now)),
            (&Method::GET, ["started"]) => match query(request, "after").unwrap_or("0").parse() {
                Ok(after) => {
                    let started = self.started_after(after, now);
                    let started = started.iter().filter_map(StartedWire::new).collect();
                    json(StatusCode::OK, &StartedBody { started })
                }
                Err(_) => refused(invalid("after is not a number")),
            },
            (&Method::POST, ["script"]) => match body::<Script>(request).and_then(checked) {
                Ok(script) => {
                    self.follow(script);
                    empty()
                }
                Err(refusal) => refused(refusal),
            },
            (&Method::POST, ["instances", id, "ended"]) => {
                self.instance_ended(&InstanceId::new(*id), now);
                empty()
            }
            _ => return None,
        };
        Some(at_once(response))
    }

    fn answer(&mut self, call: Call) -> Answer {
        let operation = call.operation();
        let usual = match operation {
            Operation::Create => self.behaviour().create_latency,
            _ => self.behaviour().call_latency,
        };
        // The pages of a list after its first are part of the same call: its fault has been decided.
        let fault = match &call {
            Call::Search(_, _, Some(_)) => None,
            _ => self.roll(operation),
        };
        let (mut delay, mut lost) = (usual, false);
        match &fault {
            Some(Fault::LostReply | Fault::Late(_)) => lost = true,
            Some(Fault::NoAnswer(long)) => (delay, lost) = (*long, true),
            _ => {}
        }
        let response = match &fault {
            Some(Fault::Error { kind, retry_after }) => {
                let message = format!("a fault was injected into {operation}");
                refused(Refusal { kind: *kind, retry_after: *retry_after, message })
            }
            _ => self.perform(call, fault.as_ref()).unwrap_or_else(refused),
        };
        Answer { response, delay, lost }
    }

    fn perform(&mut self, call: Call, fault: Option<&Fault>) -> Result<Response<Bytes>, Refusal> {
        let ago = match fault {
            Some(Fault::Stale(ago)) => *ago,
            _ => Duration::ZERO,
        };
        match call {
            Call::Create(order) => {
                let (late, dies) = fate(fault);
                let instance = self.create(*order, late, dies)?;
                Ok(json(StatusCode::CREATED, &instance))
            }
            Call::Delete(id) => {
                self.delete(&id);
                Ok(empty())
            }
            Call::Get(id) => match self.get(&id, ago) {
                Some(instance) => Ok(json(StatusCode::OK, &instance)),
                None => Err(absent(&id)),
            },
            Call::Update(id, body) => {
                if self.tag(&id, body.tags) {
                    Ok(empty())
                } else {
                    Err(absent(&id))
                }
            }
            Call::Search(_, filter, token) => {
                let page = self.search(&filter, token, ago, fault == Some(&Fault::MissingPage))?;
                Ok(json(StatusCode::OK, &page))
            }
        }
    }

    fn search(
        &self,
        filter: &Filter,
        token: Option<Token>,
        ago: Duration,
        missing: bool,
    ) -> Result<Page, Refusal> {
        let (after, ago) = match token {
            None => (None, ago),
            Some(Token::After { id, ago }) => (Some(id), ago),
            Some(Token::Missing) => {
                let message = "this page of the list cannot be had now";
                return Err(Refusal::new(BackendErrorKind::Unavailable, message));
            }
        };
        let (instances, more) = self.page(filter, after.as_ref(), ago);
        let next = match instances.last() {
            _ if missing => Some(Token::Missing),
            Some(last) if more => Some(Token::After { id: last.id.clone(), ago }),
            _ => None,
        };
        Ok(Page { instances, next: next.map(|token| token.to_string()) })
    }
}

/// What a fault plans for an instance: how late it appears, and how it dies.
fn fate(fault: Option<&Fault>) -> (Duration, Option<(Duration, Ending)>) {
    match fault {
        Some(Fault::Late(late)) => (*late, None),
        Some(Fault::Dies { after, how }) => (Duration::ZERO, Some((*after, *how))),
        _ => (Duration::ZERO, None),
    }
}

fn read_call(request: &Request<Bytes>) -> Result<Call, Refusal> {
    let segments = segments(request.uri().path());
    match (request.method(), segments.as_slice()) {
        (&Method::POST, ["instances"]) => Ok(Call::Create(Box::new(body::<CreateBody>(request)?.into()))),
        (&Method::GET, ["instances"]) => read_search(request),
        (&Method::GET, ["instances", id]) => Ok(Call::Get(InstanceId::new(*id))),
        (&Method::DELETE, ["instances", id]) => Ok(Call::Delete(InstanceId::new(*id))),
        (&Method::PATCH, ["instances", id]) => Ok(Call::Update(InstanceId::new(*id), body(request)?)),
        (method, _) => {
            let message = format!("the fake cloud has no route {method} {}", request.uri().path());
            Err(Refusal::new(BackendErrorKind::Unsupported, message))
        }
    }
}

fn read_search(request: &Request<Bytes>) -> Result<Call, Refusal> {
    let (operation, filter) = match (query(request, "owner"), query(request, "name")) {
        (Some(text), None) => {
            let owner = owner(text).ok_or_else(|| invalid("owner is not DEPLOYMENT/FINGERPRINT"))?;
            (Operation::List, Filter::Owner(owner))
        }
        (None, Some(name)) => {
            let name = RunnerName::new(name).map_err(|error| invalid(error.to_string()))?;
            (Operation::Find, Filter::Name(name))
        }
        _ => return Err(invalid("either owner or name must be given")),
    };
    let page = query(request, "page");
    let token = page.map(|text| Token::parse(text).ok_or_else(|| invalid("page is none of ours")));
    Ok(Call::Search(operation, filter, token.transpose()?))
}

fn segments(path: &str) -> Vec<&str> {
    path.split('/').filter(|segment| !segment.is_empty()).collect()
}

/// A value of the query. Ours have no characters that would be escaped.
fn query<'a>(request: &'a Request<Bytes>, key: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find_map(|(name, value)| (name == key).then_some(value))
}

fn body<T: DeserializeOwned>(request: &Request<Bytes>) -> Result<T, Refusal> {
    serde_json::from_slice(request.body()).map_err(|error| {
        // serde's message can quote the body, and the body can bear a JIT config.
        let (line, column) = (error.line(), error.column());
        invalid(format!(
            "the body cannot be read: {:?} error at line {line} column {column}",
            error.classify()
        ))
    })
}

fn checked(script: Script) -> Result<Script, Refusal> {
    let faults = script.behaviour.iter().flat_map(Behaviour::faults);
    let told: Vec<String> =
        faults.map(|fault| format!("{}: {}", fault.path.join("."), fault.message)).collect();
    if !told.is_empty() {
        return Err(invalid(told.join("; ")));
    }
    for next in &script.next {
        if let Some(fault) = next.fault.as_ref().filter(|fault| !fault.fits(next.operation)) {
            return Err(invalid(format!("{fault} cannot happen to {}", next.operation)));
        }
    }
    Ok(script)
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(BackendErrorKind::InvalidConfig, message)
}

fn absent(id: &InstanceId) -> Refusal {
    Refusal::new(BackendErrorKind::NotFound, format!("there is no instance {id}"))
}

const fn at_once(response: Response<Bytes>) -> Answer {
    Answer { response, delay: Duration::ZERO, lost: false }
}

fn refused(refusal: Refusal) -> Response<Bytes> {
    let status = match refusal.kind {
        BackendErrorKind::NotFound => StatusCode::NOT_FOUND,
        BackendErrorKind::NoCapacity | BackendErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        BackendErrorKind::QuotaExceeded | BackendErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        BackendErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        BackendErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        BackendErrorKind::InvalidConfig => StatusCode::BAD_REQUEST,
        BackendErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        BackendErrorKind::Unclear => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    json(status, &ErrorBody::from(refusal))
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Response<Bytes> {
    let body = serde_json::to_vec(body).expect("our bodies are plain data with text keys");
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn empty() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
