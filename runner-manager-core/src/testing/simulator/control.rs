//! The simulator over HTTP, for other processes: requests under `/_simulator/` of
//! [`Simulator::handle`]. The types in here are the bodies, JSON both ways, for clients to reuse.
//!
//! | request | body | answer |
//! | --- | --- | --- |
//! | `POST jobs` | [`QueueJobs`] | [`QueuedJobs`] |
//! | `GET jobs` | | array of [`Job`] |
//! | `POST jobs/{id}/release`, `POST jobs/{id}/skip`, `POST jobs/{id}/rerun`, `POST runs/{id}/cancel` | | `{}` |
//! | `GET runners` | | array of [`Runner`](super::Runner) |
//! | `GET books` | | [`Books`](super::Books) |
//! | `GET deliveries` | | array of [`SentWebhook`], from whoever sends the webhooks: not from [`Simulator::handle`] |
//! | `GET faults`, `POST faults` (all of them anew) | [`Faults`] | [`Faults`] |
//! | `POST hooks` | [`AddHook`] | [`AddedHook`] |
//! | `POST agents/connect` | [`Connect`] | [`Connected`] |
//! | `POST agents/{session}/poll` | | [`Polled`] |
//! | `POST agents/{session}/heartbeat` | | [`Heartbeat`] |
//! | `POST agents/{session}/finish` | [`Finish`] | `{}` |
//! | `POST agents/{session}/disconnect`, `POST agents/{session}/die` | | `{}` |
//!
//! ```sh
//! curl $GITHUB/_simulator/jobs -d '{"repository": "acme/widgets", "labels": ["self-hosted", "linux"], "count": 20}'
//! curl $GITHUB/_simulator/faults -d '{"webhooks": {"lost": 0.1}}'
//! curl $GITHUB/_simulator/books
//! ```
//!
//! What is refused has a body of [`Refused`]: 400 for a body that cannot be read, 404 for what is not there,
//! 409 for what is not possible, 410 for a session that has ended.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    AgentJob, Conclusion, ConnectRefusal, Faults, HookId, Job, JobId, JobSpec, NotPossible, RunId, RunnerId,
    Scope, SessionEnded, SessionId, Simulator,
};

/// The most jobs that one request may queue.
const MOST_JOBS: usize = 100_000;

/// Queues jobs: the fields of [`JobSpec`], and how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Map<String, Value>")]
pub struct QueueJobs {
    /// What kind.
    #[serde(flatten)]
    pub job: JobSpec,
    /// How many. Default 1.
    pub count: usize,
}

/// Not `flatten`, which would let unknown fields pass.
impl TryFrom<serde_json::Map<String, Value>> for QueueJobs {
    type Error = serde_json::Error;

    fn try_from(mut fields: serde_json::Map<String, Value>) -> Result<Self, Self::Error> {
        let count = fields.remove("count").map_or(Ok(1), serde_json::from_value)?;
        let job = serde_json::from_value(Value::Object(fields))?;
        Ok(Self { job, count })
    }
}

/// The jobs that were queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedJobs {
    /// Their ids.
    pub jobs: Vec<JobId>,
}

/// Adds a webhook for `workflow_job`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddHook {
    /// An organization or a repository.
    pub scope: Scope,
    /// The receiver.
    pub url: String,
    /// What deliveries are signed with.
    pub secret: String,
}

/// A webhook that was sent, as its sender saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SentWebhook {
    /// The job that it was about; none for a ping.
    pub job: Option<JobId>,
    /// `queued`, `waiting`, `in_progress` or `completed`; none for a ping.
    pub action: Option<String>,
    /// When the request was begun.
    pub sent_at: Timestamp,
    /// How long it took until the answer was there, or none would come.
    pub seconds: f64,
    /// The answer's status; none where there was no answer.
    pub status: Option<u16>,
}

/// The hook that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedHook {
    /// Its id.
    pub id: HookId,
}

/// An agent connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// `encoded_jit_config`, as it came.
    pub jit_config: String,
    /// The agent's system. Default `linux`.
    #[serde(default)]
    pub os: Option<String>,
}

/// The agent is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// For the paths of all that follows.
    pub session: SessionId,
    /// Its registration.
    pub runner: RunnerId,
}

/// What a poll brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Polled {
    /// The job, if there was one.
    pub job: Option<AgentJob>,
}

/// What a heartbeat brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Whether the job is to be cancelled.
    pub cancel: bool,
}

/// An agent ends its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finish {
    /// How it ended.
    pub conclusion: Conclusion,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// For programs: `malformed`, `unknown`, `already_used`, `deleted` (of agents that connect), `ended` (of
    /// sessions), `unknown`, `wrong_state` (of jobs and runs), `bad_request`, `not_found`.
    pub error: String,
    /// For people.
    pub message: String,
}

type Outcome = Result<Value, (StatusCode, Refused)>;

impl Simulator {
    pub(super) fn control(
        &mut self,
        method: &str,
        path: &[&str],
        body: &[u8],
        now: Timestamp,
    ) -> Response<Bytes> {
        let (status, body) = match self.control_outcome(method, path, body, now) {
            Ok(value) => (StatusCode::OK, value),
            Err((status, refused)) => (status, json!(refused)),
        };
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    fn control_outcome(&mut self, method: &str, path: &[&str], body: &[u8], now: Timestamp) -> Outcome {
        match (method, path) {
            ("GET", ["books"]) => Ok(json!(self.books())),
            ("GET", ["jobs"]) => Ok(json!(self.jobs().collect::<Vec<&Job>>())),
            ("GET", ["runners"]) => Ok(json!(self.runners().collect::<Vec<_>>())),
            ("GET", ["faults"]) => Ok(json!(self.faults())),
            ("POST", ["faults"]) => {
                self.set_faults(read::<Faults>(body)?);
                Ok(json!(self.faults()))
            }
            ("POST", ["jobs"]) => self.control_queue(&read(body)?, now),
            ("POST", ["jobs", id, verb]) => self.control_job(JobId(number(id)?), verb, now),
            ("POST", ["runs", id, "cancel"]) => {
                self.cancel_run(RunId(number(id)?), now).map_err(not_possible).map(|()| json!({}))
            }
            ("POST", ["hooks"]) => self.control_hook(&read(body)?, now),
            ("POST", ["agents", "connect"]) => self.control_connect(&read(body)?, now),
            ("POST", ["agents", session, verb]) => {
                self.control_agent(SessionId(number(session)?), verb, body, now)
            }
            _ => Err(not_found()),
        }
    }

    fn control_queue(&mut self, request: &QueueJobs, now: Timestamp) -> Outcome {
        if request.count > MOST_JOBS {
            return Err(refused(
                StatusCode::BAD_REQUEST,
                "bad_request",
                &format!("at most {MOST_JOBS} jobs"),
            ));
        }
        let jobs = self.queue_jobs(&request.job, request.count, now).map_err(not_possible)?;
        Ok(json!(QueuedJobs { jobs }))
    }

    fn control_job(&mut self, job: JobId, verb: &str, now: Timestamp) -> Outcome {
        match verb {
            "release" => self.release_job(job, now),
            "skip" => self.skip_job(job, now),
            "rerun" => self.rerun_job(job, now).map(|_| ()),
            _ => return Err(not_found()),
        }
        .map_err(not_possible)?;
        Ok(json!({}))
    }

    fn control_hook(&mut self, request: &AddHook, now: Timestamp) -> Outcome {
        let id = self.add_hook(&request.scope, &request.url, &request.secret, now).ok_or_else(not_found)?;
        Ok(json!(AddedHook { id }))
    }

    fn control_connect(&mut self, request: &Connect, now: Timestamp) -> Outcome {
        let session = self.connect(&request.jit_config, now).map_err(connect_refused)?;
        if let Some(os) = &request.os {
            self.name_system(session, os);
        }
        let runner = self.session_runner(session).expect("the session was just opened");
        Ok(json!(Connected { session, runner }))
    }

    fn control_agent(&mut self, session: SessionId, verb: &str, body: &[u8], now: Timestamp) -> Outcome {
        match verb {
            "poll" => self.poll(session, now).map(|job| json!(Polled { job })),
            "heartbeat" => self.heartbeat(session, now).map(|cancel| json!(Heartbeat { cancel })),
            "finish" => {
                let Finish { conclusion } = read(body)?;
                self.finish(session, conclusion, now).map(|()| json!({}))
            }
            "disconnect" => self.disconnect(session, now).map(|()| json!({})),
            "die" => self.die(session, now).map(|()| json!({})),
            _ => return Err(not_found()),
        }
        .map_err(|SessionEnded| refused(StatusCode::GONE, "ended", &SessionEnded.to_string()))
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, (StatusCode, Refused)> {
    serde_json::from_slice(body)
        .map_err(|error| refused(StatusCode::BAD_REQUEST, "bad_request", &error.to_string()))
}

fn number(text: &str) -> Result<u64, (StatusCode, Refused)> {
    text.parse().map_err(|_| not_found())
}

fn refused(status: StatusCode, error: &str, message: &str) -> (StatusCode, Refused) {
    (status, Refused { error: error.to_owned(), message: message.to_owned() })
}

fn not_found() -> (StatusCode, Refused) {
    refused(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}

fn not_possible(why: NotPossible) -> (StatusCode, Refused) {
    match why {
        NotPossible::Unknown => refused(StatusCode::NOT_FOUND, "unknown", &why.to_string()),
        NotPossible::WrongState => refused(StatusCode::CONFLICT, "wrong_state", &why.to_string()),
    }
}

fn connect_refused(why: ConnectRefusal) -> (StatusCode, Refused) {
    let (status, word) = match why {
        ConnectRefusal::Malformed => (StatusCode::BAD_REQUEST, "malformed"),
        ConnectRefusal::Unknown => (StatusCode::NOT_FOUND, "unknown"),
        ConnectRefusal::AlreadyUsed => (StatusCode::CONFLICT, "already_used"),
        ConnectRefusal::Deleted => (StatusCode::NOT_FOUND, "deleted"),
    };
    refused(status, word, &why.to_string())
}
