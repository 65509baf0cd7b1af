//! Who asks, and how much they may: credentials, hourly budgets, the secondary limit.

use std::collections::{BTreeMap, VecDeque};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{AppSettings, FaultKind, Simulator, apps::InstallationToken, reply::Reply};

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const MINUTE: SignedDuration = SignedDuration::from_secs(60);
/// Stands for no budget at all: more than any test asks.
const PLENTY: u32 = 1_000_000;

/// Who sends a request.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    Anonymous,
    Token(String),
    Installation(InstallationToken),
    App(u64),
}

impl Caller {
    /// Whose budget is spent.
    fn key(&self) -> String {
        match self {
            Self::Anonymous => String::new(),
            Self::Token(token) => format!("token {token}"),
            Self::Installation(token) => format!("installation {}", token.installation),
            Self::App(app) => format!("app {app}"),
        }
    }
}

/// What is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Core,
    /// Making registrations: JIT configs, registration and remove tokens.
    RunnerRegistration,
}

impl Resource {
    pub(super) fn of(method: &str, segments: &[&str]) -> Self {
        match (method, segments.last()) {
            ("POST", Some(&("generate-jitconfig" | "registration-token" | "remove-token"))) => {
                Self::RunnerRegistration
            }
            _ => Self::Core,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::RunnerRegistration => "actions_runner_registration",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    limit: u32,
    used: u32,
    reset: Timestamp,
}

impl Budget {
    fn remaining(self) -> u32 {
        self.limit.saturating_sub(self.used)
    }

    fn json(self) -> Value {
        let Self { limit, used, reset } = self;
        json!({"limit": limit, "used": used, "remaining": self.remaining(), "reset": reset.as_second()})
    }

    pub(super) fn headers(self, resource: Resource) -> [(&'static str, String); 5] {
        [
            ("x-ratelimit-limit", self.limit.to_string()),
            ("x-ratelimit-remaining", self.remaining().to_string()),
            ("x-ratelimit-used", self.used.to_string()),
            ("x-ratelimit-reset", self.reset.as_second().to_string()),
            ("x-ratelimit-resource", resource.word().to_owned()),
        ]
    }
}

#[derive(Debug, Default)]
pub(super) struct Limits {
    budgets: BTreeMap<(String, Resource), Budget>,
    jit_configs: BTreeMap<String, VecDeque<Timestamp>>,
}

impl Simulator {
    /// Whether the route is for the App itself rather than for those that it is installed on.
    pub(super) fn is_app_route(segments: &[&str]) -> bool {
        matches!(
            segments,
            ["app", ..] | ["orgs" | "enterprises", _, "installation"] | ["repos", _, _, "installation"]
        )
    }

    pub(super) fn authenticate(
        &self,
        headers: &HeaderMap,
        segments: &[&str],
        now: Timestamp,
    ) -> Result<Caller, Reply> {
        let credential = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(credential) = credential.and_then(|value| value.split_once(' ')) else {
            let open = matches!(segments, ["meta"]);
            return if open { Ok(Caller::Anonymous) } else { Err(unauthorized("Requires authentication")) };
        };
        let (scheme, token) = (credential.0, credential.1.trim());
        if !scheme.eq_ignore_ascii_case("bearer") && !scheme.eq_ignore_ascii_case("token") {
            return Err(unauthorized("Bad credentials"));
        }
        if Self::is_app_route(segments) {
            return self.check_web_token(token, now + self.settings.clock_ahead).map(Caller::App);
        }
        if self.settings.tokens.iter().any(|accepted| accepted == token) {
            return Ok(Caller::Token(token.to_owned()));
        }
        match self.tokens.get(token) {
            Some(found) if now < found.expires_at && self.is_suspended(found.app, found.owner) => {
                Err(suspended())
            }
            Some(found) if now < found.expires_at => Ok(Caller::Installation(found.clone())),
            _ => Err(unauthorized("Bad credentials")),
        }
    }

    /// The App that a web token is of.
    fn check_web_token(&self, token: &str, now: Timestamp) -> Result<u64, Reply> {
        let undecodable = || unauthorized("A JSON web token could not be decoded");
        let parts: Vec<&str> = token.split('.').collect();
        let [_, claims, signature] = parts.as_slice() else { return Err(undecodable()) };
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).map_err(|_| undecodable())?;
        let claims: Value = serde_json::from_slice(&claims).map_err(|_| undecodable())?;
        if signature.is_empty() {
            return Err(undecodable());
        }
        let issuer = &claims["iss"];
        let is_it = |app: &&AppSettings| {
            [json!(app.id), json!(app.id.to_string()), json!(app.client_id)].contains(issuer)
        };
        let Some(app) = self.apps().find(is_it) else {
            return Err(unauthorized("'Issuer' claim ('iss') must be an Integer or the App's client id"));
        };
        if app.check_times {
            check_times(&claims, now.as_second())?;
        }
        Ok(app.id)
    }

    /// Takes one request out of the caller's budget, or refuses it.
    pub(super) fn charge(
        &mut self,
        caller: &Caller,
        resource: Resource,
        now: Timestamp,
    ) -> Result<Budget, (Budget, Reply)> {
        let budget = self.budget(caller, resource, now);
        if budget.remaining() == 0 {
            let refused = *budget;
            self.books.count_fault(FaultKind::HourlyBudget);
            let reply = Reply::error(StatusCode::FORBIDDEN, "API rate limit exceeded for this token.");
            return Err((refused, reply));
        }
        budget.used += 1;
        Ok(*budget)
    }

    /// Gives back what a conditional request without news took.
    pub(super) fn refund(&mut self, caller: &Caller, resource: Resource, now: Timestamp) -> Budget {
        let budget = self.budget(caller, resource, now);
        budget.used = budget.used.saturating_sub(1);
        *budget
    }

    pub(super) fn budget(&mut self, caller: &Caller, resource: Resource, now: Timestamp) -> &mut Budget {
        let limit = self.settings.faults.hourly_budget.unwrap_or(PLENTY);
        let fresh = Budget { limit, used: 0, reset: now + HOUR };
        let budget = self.limits.budgets.entry((caller.key(), resource)).or_insert(fresh);
        if budget.reset <= now {
            *budget = fresh;
        }
        budget.limit = limit;
        budget
    }

    /// The secondary limit on JIT configs, in a sliding minute.
    pub(super) fn check_jit_limit(&mut self, caller: &Caller, now: Timestamp) -> Result<(), Reply> {
        let Some(limit) = self.settings.faults.jit_limit else { return Ok(()) };
        let made = self.limits.jit_configs.entry(caller.key()).or_default();
        while made.front().is_some_and(|at| *at + MINUTE <= now) {
            made.pop_front();
        }
        if made.len() < usize::try_from(limit.per_minute).unwrap_or(usize::MAX) {
            made.push_back(now);
            return Ok(());
        }
        let free_at = made.front().map_or(now + MINUTE, |at| *at + MINUTE);
        self.books.count_fault(FaultKind::JitLimit);
        let seconds = u32::try_from(free_at.duration_since(now).as_secs() + 1).unwrap_or(60);
        Err(refusal(StatusCode::FORBIDDEN, limit.announced.then_some(seconds)))
    }

    /// `/rate_limit`, which costs nothing.
    pub(super) fn rate_limit(&mut self, caller: &Caller, now: Timestamp) -> Reply {
        let core = self.budget(caller, Resource::Core, now).json();
        let registration = self.budget(caller, Resource::RunnerRegistration, now).json();
        let search = Budget { limit: 30, used: 0, reset: now + MINUTE }.json();
        Reply::ok(json!({
            "resources": {"core": core, "search": search, "actions_runner_registration": registration},
            "rate": core,
        }))
    }
}

/// A refusal in the words of the secondary limits.
pub(super) fn refusal(status: StatusCode, retry_after: Option<u32>) -> Reply {
    let reply =
        Reply::error(status, "You have exceeded a secondary rate limit. Please wait before you try again.");
    match retry_after {
        Some(seconds) => reply.with_header("retry-after", seconds.to_string()),
        None => reply,
    }
}

/// What an installation that is suspended is told.
pub(super) fn suspended() -> Reply {
    Reply::error(StatusCode::FORBIDDEN, "This installation has been suspended")
}

fn unauthorized(message: &str) -> Reply {
    Reply::error(StatusCode::UNAUTHORIZED, message)
}

fn check_times(claims: &Value, now: i64) -> Result<(), Reply> {
    let expires_at = claims["exp"].as_i64().unwrap_or(0);
    let issued_at = claims["iat"].as_i64().unwrap_or(i64::MAX);
    if expires_at <= now {
        return Err(unauthorized("'Expiration time' claim ('exp') must be a numeric value in the future"));
    }
    if expires_at > now + 660 {
        return Err(unauthorized("'Expiration time' claim ('exp') is too far in the future"));
    }
    if issued_at > now + 60 {
        return Err(unauthorized("'Issued at' claim ('iat') must be an Integer in the past"));
    }
    Ok(())
}
