//! From one request to one answer: the order of GitHub's gates, the faults at them, and which handler a
//! path belongs to.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimePrinter};
use serde_json::json;

use super::{
    Answer, FaultKind, Simulator,
    faults::Effect,
    limits::{Caller, Resource, refusal},
    permissions,
    reply::{Call, Reply, parse_query},
    world::ScopeId,
};

/// What the request faults do to one request.
#[derive(Debug, Default)]
struct Strike {
    latency: SignedDuration,
    answer: Option<(u16, Option<u32>)>,
    reply_lost: bool,
    holes: f64,
}

impl Simulator {
    /// One request, one answer.
    ///
    /// Paths are taken with and without `/api/v3` (GitHub Enterprise Server's). Those under `/_simulator/` are the
    /// [control face](super::control) and know no credentials, limits or faults.
    pub fn handle(&mut self, request: &Request<Bytes>, now: Timestamp) -> Answer {
        let now = self.advance(now);
        let path = request.uri().path();
        let decoded: Vec<Cow<'_, str>> =
            path.split('/').filter(|segment| !segment.is_empty()).map(decode_segment).collect();
        let all: Vec<&str> = decoded.iter().map(AsRef::as_ref).collect();
        let segments = match all.as_slice() {
            ["_simulator", rest @ ..] => {
                let response = self.control(request.method().as_str(), rest, request.body(), now);
                return Answer { response, latency: Duration::ZERO, reply_lost: false };
            }
            ["api", "v3", rest @ ..] => rest,
            other => other,
        };
        let method = request.method().as_str();
        let route = template(method, segments);
        *self.books.requests.entry(route.clone()).or_default() += 1;
        let strike = self.strike(method, segments, now);
        let call = Call {
            method,
            path,
            segments,
            query: parse_query(request.uri().query().unwrap_or_default()),
            body: request.body(),
            now,
            holes: strike.holes,
        };
        let response = self.pass_gates(&call, request.headers(), &strike);
        *self.books.statuses.entry(response.status().as_u16()).or_default() += 1;
        if response.status() == StatusCode::NOT_MODIFIED {
            *self.books.unchanged.entry(route).or_default() += 1;
        }
        let latency = Duration::try_from(strike.latency).unwrap_or_default();
        Answer { response, latency, reply_lost: strike.reply_lost }
    }

    fn pass_gates(&mut self, call: &Call<'_>, headers: &HeaderMap, strike: &Strike) -> Response<Bytes> {
        let resource = Resource::of(call.method, call.segments);
        if headers.get(header::USER_AGENT).is_none_or(HeaderValue::is_empty) {
            let reply = Reply::error(
                StatusCode::FORBIDDEN,
                "Request forbidden by administrative rules. Please make sure your request has a User-Agent header",
            );
            return self.respond(reply, &Caller::Anonymous, resource, call.now);
        }
        let (caller, refused) = match self.authenticate(headers, call.segments, call.now) {
            Ok(caller) => (caller, None),
            Err(reply) => (Caller::Anonymous, Some(reply)),
        };
        let injected = strike.answer.map(|(status, retry_after)| injected(status, retry_after));
        if let Some(reply) = injected.or(refused) {
            return self.respond(reply, &caller, resource, call.now);
        }
        let reply = self.charged(call, &caller, resource);
        let reply = self.unless_known(reply, call, headers, &caller, resource);
        self.respond(reply, &caller, resource, call.now)
    }

    fn charged(&mut self, call: &Call<'_>, caller: &Caller, resource: Resource) -> Reply {
        if call.segments == ["rate_limit"] && call.method == "GET" {
            return self.rate_limit(caller, call.now);
        }
        if let Err((_, reply)) = self.charge(caller, resource, call.now) {
            return reply;
        }
        let makes_jit_config = call.method == "POST" && call.segments.last() == Some(&"generate-jitconfig");
        if makes_jit_config && let Err(reply) = self.check_jit_limit(caller, call.now) {
            return reply;
        }
        self.dispatch(call, caller)
    }

    /// The reply with its `ETag`, or 304, which costs nothing, if the caller has the same already. As at
    /// GitHub the tag is bound to the credential.
    fn unless_known(
        &mut self,
        reply: Reply,
        call: &Call<'_>,
        headers: &HeaderMap,
        caller: &Caller,
        resource: Resource,
    ) -> Reply {
        if call.method != "GET" || reply.status != StatusCode::OK || call.segments == ["rate_limit"] {
            return reply;
        }
        let credential = headers.get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        let body = reply.body.as_ref().map(ToString::to_string).unwrap_or_default();
        let link = reply.headers.iter().map(|(_, value)| value.as_str()).collect::<String>();
        let tag = format!("W/\"{:016x}\"", digest(&[credential, link.as_bytes(), body.as_bytes()]));
        let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        if known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag || one.trim() == "*")) {
            self.refund(caller, resource, call.now);
            let reply = Reply { status: StatusCode::NOT_MODIFIED, body: None, headers: Vec::new() };
            return reply.with_header("etag", tag);
        }
        reply.with_header("etag", tag)
    }

    fn dispatch(&mut self, call: &Call<'_>, caller: &Caller) -> Reply {
        match (call.method, call.segments) {
            ("GET", ["meta"]) => Reply::ok(meta()),
            (_, ["app", rest @ ..]) => match caller {
                Caller::App(app) => self.app_route(*app, rest, call),
                Caller::Anonymous | Caller::Token(_) | Caller::Installation(_) => Reply::not_found(),
            },
            ("GET", ["installation", "repositories"]) => match caller {
                Caller::Installation(token) => self.installation_repositories(token, call),
                Caller::Anonymous | Caller::Token(_) | Caller::App(_) => {
                    let message = "You must authenticate with an installation access token";
                    Reply::error(StatusCode::FORBIDDEN, message)
                }
            },
            (_, ["orgs", login, rest @ ..]) => match self.resolve_organization(login) {
                Some(id) => self.scoped(ScopeId::Organization(id), rest, call, caller),
                None => Reply::not_found(),
            },
            (_, ["enterprises", slug, rest @ ..]) => match self.resolve_enterprise(slug) {
                Some(id) => self.scoped(ScopeId::Enterprise(id), rest, call, caller),
                None => Reply::not_found(),
            },
            (_, ["repos", owner, name, rest @ ..]) => match self.resolve_repository(owner, name) {
                Some(id) => self.scoped(ScopeId::Repository(id), rest, call, caller),
                None => Reply::not_found(),
            },
            _ => Reply::not_found(),
        }
    }

    fn scoped(&mut self, scope: ScopeId, rest: &[&str], call: &Call<'_>, caller: &Caller) -> Reply {
        if let Caller::Installation(token) = caller {
            if !self.token_covers(token, scope) {
                return Reply::not_found();
            }
            if let Err(reply) = permissions::check(&token.permissions, scope, rest, call.method) {
                return reply;
            }
        }
        match (scope, rest) {
            (_, []) if call.method == "GET" => self.scope_itself(scope),
            (_, ["installation"]) if call.method == "GET" => match caller {
                Caller::App(app) => self.scope_installation(*app, scope),
                Caller::Anonymous | Caller::Token(_) | Caller::Installation(_) => Reply::not_found(),
            },
            (_, ["actions", "permissions"]) => self.permissions_route(scope, call),
            (_, ["actions", "runners", rest @ ..]) => self.runner_route(scope, rest, call),
            (_, ["hooks", rest @ ..]) => self.hook_route(scope, rest, call),
            (ScopeId::Organization(id), ["repos"]) if call.method == "GET" => {
                self.organization_repositories(id, call)
            }
            (ScopeId::Repository(id), ["actions", "runs", rest @ ..]) => self.run_route(id, rest, call),
            (ScopeId::Repository(id), ["actions", "jobs", rest @ ..]) => self.job_route(id, rest, call),
            (ScopeId::Organization(_) | ScopeId::Enterprise(_), ["actions", "runner-groups", rest @ ..]) => {
                self.group_route(scope, rest, call)
            }
            _ => Reply::not_found(),
        }
    }

    fn strike(&mut self, method: &str, segments: &[&str], now: Timestamp) -> Strike {
        let mut strike = Strike::default();
        for index in 0..self.settings.faults.requests.len() {
            let fault = &self.settings.faults.requests[index];
            if !fault.matches(method, segments, now) {
                continue;
            }
            if fault.effect == Effect::SkipEntries {
                strike.holes = fault.probability;
                continue;
            }
            if !self.chance.chance(fault.probability) {
                continue;
            }
            let effect = self.settings.faults.requests[index].effect.clone();
            self.apply(&effect, &mut strike);
        }
        strike
    }

    fn apply(&mut self, effect: &Effect, strike: &mut Strike) {
        let kind = match effect {
            Effect::Delay(range) => {
                strike.latency += self.chance.between(range.min, range.max);
                FaultKind::Delay
            }
            Effect::Answer { .. } if strike.answer.is_some() => return,
            Effect::Answer { status, retry_after } => {
                strike.answer = Some((*status, *retry_after));
                match status {
                    403 => FaultKind::Answer403,
                    429 => FaultKind::Answer429,
                    _ => FaultKind::AnswerError,
                }
            }
            Effect::LoseReply => {
                strike.reply_lost = true;
                FaultKind::LostReply
            }
            Effect::SkipEntries => return,
        };
        self.books.count_fault(kind);
    }

    /// The reply in HTTP, with the headers that every answer has.
    fn respond(
        &mut self,
        reply: Reply,
        caller: &Caller,
        resource: Resource,
        now: Timestamp,
    ) -> Response<Bytes> {
        let budget = *self.budget(caller, resource, now);
        let request_id = self.names.hex();
        let body = reply.body.map(|body| Bytes::from(body.to_string()));
        let mut response = Response::new(body.clone().unwrap_or_default());
        *response.status_mut() = reply.status;
        let headers = response.headers_mut();
        let mut add = |name: &'static str, value: &str| {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("names have no control characters");
            headers.insert(name, value);
        };
        add("server", "github.com");
        if let Ok(date) =
            DateTimePrinter::new().timestamp_to_rfc9110_string(&(now + self.settings.clock_ahead))
        {
            add("date", &date);
        }
        add("x-github-media-type", "github.v3; format=json");
        add("x-github-api-version-selected", "2022-11-28");
        add("x-github-request-id", &request_id);
        if body.is_some() {
            add("content-type", "application/json; charset=utf-8");
        }
        for (name, value) in budget.headers(resource) {
            add(name, &value);
        }
        for (name, value) in reply.headers {
            add(name, &value);
        }
        response
    }
}

/// A refusal as [`Effect::Answer`] has it.
fn injected(status: u16, retry_after: Option<u32>) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == StatusCode::FORBIDDEN || status == StatusCode::TOO_MANY_REQUESTS {
        return refusal(status, retry_after);
    }
    Reply::error(status, status.canonical_reason().unwrap_or("Server Error"))
}

/// The route that a path is of, for the books: names and ids replaced by what they stand for.
fn template(method: &str, segments: &[&str]) -> String {
    let mut route = format!("{method} ");
    let replaced: &[&str] = match segments {
        ["orgs", _, ..] => &["orgs", "{org}"],
        ["repos", _, _, ..] => &["repos", "{owner}", "{repo}"],
        ["enterprises", _, ..] => &["enterprises", "{enterprise}"],
        _ => &[],
    };
    let rest = segments[replaced.len()..].iter();
    let is_id = |segment: &str| segment.bytes().all(|byte| byte.is_ascii_digit());
    let rest = rest.map(|segment| if is_id(segment) { "{id}" } else { segment });
    for segment in replaced.iter().copied().chain(rest) {
        route.push('/');
        route.push_str(segment);
    }
    route
}

fn decode_segment(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    // A plus sign in a path is a plus sign.
    Cow::Owned(super::reply::decode(&segment.replace('+', "%2B")))
}

/// FNV-1a, 64 bits: a tag needs no more.
fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.iter().copied().chain([0xff])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

fn meta() -> serde_json::Value {
    json!({
        "verifiable_password_authentication": false,
        "hooks": ["192.0.2.0/24"],
        "api": ["192.0.2.0/24"],
        "actions": ["198.51.100.0/24"],
    })
}
