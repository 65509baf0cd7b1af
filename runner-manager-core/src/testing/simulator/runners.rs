//! Registrations: making them with a JIT config, listing them, taking them away.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    FaultKind, JobId, Removal, RunnerId, SessionId, Simulator, Violation,
    jobs::Conclusion,
    reply::{Call, Page, Reply, time},
    timers::Timer,
    world::ScopeId,
};

/// Labels that GitHub shows as `read-only`: those that a runner used to give itself.
const OWN_LABELS: [&str; 7] = ["self-hosted", "linux", "windows", "macos", "x64", "arm64", "arm"];

/// A registration that is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Its id.
    pub id: RunnerId,
    /// Its name, one of a kind in its scope.
    pub name: String,
    /// Its labels as they were sent: the complete set.
    pub labels: Vec<String>,
    /// `unknown` until its agent says.
    pub os: String,
    /// When the JIT config was made.
    pub registered_at: Timestamp,
    /// Its agent's connection. None: offline.
    pub session: Option<SessionId>,
    /// The job that it truly has, whatever `busy` says.
    pub job: Option<JobId>,
    /// The id of its group at GitHub.
    pub group_id: u64,
}

/// A runner with what only the simulator needs to know of it.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) runner: Runner,
    pub(super) scope: ScopeId,
    pub(super) label_set: BTreeSet<String>,
    /// Whether its JIT config is used up.
    pub(super) used: bool,
    /// Until when `busy` reads false although there is a job, and whether a DELETE spares the job then.
    pub(super) lie: Option<(Timestamp, bool)>,
    /// Whether it is in no list any more, and there only for its agent to end the job.
    delisted: bool,
}

impl Registration {
    fn lies(&self, now: Timestamp) -> bool {
        self.runner.job.is_some() && self.lie.is_some_and(|(until, _)| now < until)
    }
}

/// All registrations, found by id, name, scope and group.
#[derive(Debug, Default)]
pub(super) struct Runners {
    by_id: BTreeMap<RunnerId, Registration>,
    by_name: BTreeMap<(ScopeId, String), RunnerId>,
    by_scope: BTreeMap<ScopeId, BTreeSet<RunnerId>>,
    by_group: BTreeMap<(ScopeId, u64), BTreeSet<RunnerId>>,
    /// Also of those that are no more, so that their agents can be told apart from strangers.
    by_secret: BTreeMap<String, RunnerId>,
    last_id: u64,
}

impl Runners {
    pub(super) fn get(&self, id: RunnerId) -> Option<&Registration> {
        self.by_id.get(&id)
    }

    /// One that is in the lists.
    pub(super) fn listed(&self, id: RunnerId) -> Option<&Registration> {
        self.by_id.get(&id).filter(|registration| !registration.delisted)
    }

    pub(super) fn get_mut(&mut self, id: RunnerId) -> Option<&mut Registration> {
        self.by_id.get_mut(&id)
    }

    /// The job that a runner truly has.
    pub(super) fn job_of(&self, id: RunnerId) -> Option<JobId> {
        self.by_id.get(&id)?.runner.job
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Runner> {
        self.by_id
            .values()
            .filter(|registration| !registration.delisted)
            .map(|registration| &registration.runner)
    }

    pub(super) fn find_secret(&self, secret: &str) -> Option<RunnerId> {
        self.by_secret.get(secret).copied()
    }

    pub(super) fn find_name(&self, scope: ScopeId, name: &str) -> Option<RunnerId> {
        self.by_name.get(&(scope, name.to_lowercase())).copied()
    }

    fn in_scope(&self, scope: ScopeId, id: &str) -> Option<&Registration> {
        let id = RunnerId(id.parse().ok()?);
        self.listed(id).filter(|registration| registration.scope == scope)
    }

    fn add(&mut self, registration: Registration, secret: String) {
        let (scope, runner) = (registration.scope, &registration.runner);
        let id = runner.id;
        self.by_name.insert((scope, runner.name.to_lowercase()), id);
        self.by_scope.entry(scope).or_default().insert(id);
        self.by_group.entry((scope, runner.group_id)).or_default().insert(id);
        self.by_secret.insert(secret, id);
        self.by_id.insert(id, registration);
    }

    fn remove(&mut self, id: RunnerId) -> Option<Registration> {
        self.delist(id);
        self.by_id.remove(&id)
    }

    /// Takes it out of all lists, unless that was done already.
    fn delist(&mut self, id: RunnerId) {
        let Some(found) = self.by_id.get_mut(&id).filter(|found| !found.delisted) else { return };
        found.delisted = true;
        let (scope, runner) = (found.scope, &found.runner);
        self.by_name.remove(&(scope, runner.name.to_lowercase()));
        self.by_scope.entry(scope).or_default().remove(&id);
        self.by_group.entry((scope, runner.group_id)).or_default().remove(&id);
    }

    pub(super) fn move_all(&mut self, scope: ScopeId, from: u64, to: u64) {
        for id in self.by_group.remove(&(scope, from)).unwrap_or_default() {
            self.by_group.entry((scope, to)).or_default().insert(id);
            self.by_id.get_mut(&id).expect("the index holds what is there").runner.group_id = to;
        }
    }
}

#[derive(Debug, Deserialize)]
struct JitRequest {
    name: Option<String>,
    runner_group_id: Option<u64>,
    labels: Option<Vec<String>>,
    work_folder: Option<String>,
}

impl Simulator {
    /// Routes under `{scope}/actions/runners`.
    pub(super) fn runner_route(&mut self, scope: ScopeId, rest: &[&str], call: &Call<'_>) -> Reply {
        match (call.method, rest) {
            ("GET", []) => self.list_runners(scope, None, call),
            ("GET", ["downloads"]) => Reply::ok(downloads()),
            ("POST", ["generate-jitconfig"]) => self.generate_jit_config(scope, call),
            ("POST", ["registration-token" | "remove-token"]) => self.runner_token(call.now),
            ("GET", [id]) => self.get_runner(scope, id, call),
            ("DELETE", [id]) => self.delete_runner(scope, id, call.now),
            ("GET", [id, "labels"]) => self.runner_labels(scope, id),
            _ => Reply::not_found(),
        }
    }

    /// A listing of a scope, or of one group of it.
    pub(super) fn list_runners(&mut self, scope: ScopeId, group: Option<u64>, call: &Call<'_>) -> Reply {
        let none = BTreeSet::new();
        let ids = match group {
            Some(group) => self.runners.by_group.get(&(scope, group)),
            None => self.runners.by_scope.get(&scope),
        };
        let ids = ids.unwrap_or(&none);
        let base = &self.settings.base_url;
        let page = match call.query.get("name").filter(|_| group.is_none()) {
            Some(name) => {
                let found = self.runners.find_name(scope, name);
                Page::cut(call, base, found.into_iter(), usize::from(found.is_some()))
            }
            None => Page::cut(call, base, ids.iter().copied(), ids.len()),
        };
        let page = page.with_holes(call, &mut self.chance, &mut self.books);
        page.map(|id| self.runner_json(id, call.now)).counted("runners")
    }

    fn get_runner(&mut self, scope: ScopeId, id: &str, call: &Call<'_>) -> Reply {
        match self.runners.in_scope(scope, id).map(|found| found.runner.id) {
            Some(id) => Reply::ok(self.runner_json(id, call.now)),
            None => Reply::not_found(),
        }
    }

    fn runner_labels(&self, scope: ScopeId, id: &str) -> Reply {
        match self.runners.in_scope(scope, id) {
            Some(Registration { runner, .. }) => {
                Reply::ok(json!({"total_count": runner.labels.len(), "labels": labels(&runner.labels)}))
            }
            None => Reply::not_found(),
        }
    }

    fn generate_jit_config(&mut self, scope: ScopeId, call: &Call<'_>) -> Reply {
        let request: JitRequest = match call.json() {
            Ok(request) => request,
            Err(reply) => return reply,
        };
        let (name, group, labels) = match check(&request) {
            Ok(checked) => checked,
            Err(message) => return Reply::invalid_simple(&format!("Invalid request.\n\n{message}"), &[]),
        };
        if self.groups.get(scope, group).is_none() {
            return Reply::not_found();
        }
        if self.runners.find_name(scope, name).is_some() {
            let message = format!("Already exists - A runner with the name {name} already exists.");
            return Reply::error(StatusCode::CONFLICT, &message);
        }
        let (id, secret) = self.register(scope, group, name, labels, call.now);
        let work_folder = request.work_folder.as_deref().unwrap_or("_work");
        let encoded = self.jit_config(id, &secret, work_folder);
        Reply::created(json!({"runner": self.runner_json(id, call.now), "encoded_jit_config": encoded}))
    }

    fn register(
        &mut self,
        scope: ScopeId,
        group: u64,
        name: &str,
        labels: &[String],
        now: Timestamp,
    ) -> (RunnerId, String) {
        self.runners.last_id += 1;
        let id = RunnerId(self.runners.last_id);
        let secret = self.names.hex();
        let runner = Runner {
            id,
            name: name.to_owned(),
            labels: labels.to_vec(),
            os: "unknown".to_owned(),
            registered_at: now,
            session: None,
            job: None,
            group_id: group,
        };
        let registration = Registration {
            runner,
            scope,
            label_set: labels.iter().map(|label| label.to_lowercase()).collect(),
            used: false,
            lie: None,
            delisted: false,
        };
        self.runners.add(registration, secret.clone());
        let counts = &mut self.books.runners;
        counts.registered += 1;
        counts.alive += 1;
        counts.max_alive = counts.max_alive.max(counts.alive);
        self.set_timer(now + self.settings.timings.unused_registration, Timer::RegistrationUnused(id));
        (id, secret)
    }

    /// As GitHub's: base64 of JSON that maps file names to the base64 of their contents.
    fn jit_config(&self, id: RunnerId, secret: &str, work_folder: &str) -> String {
        let Registration { runner, scope, .. } = self.runners.get(id).expect("just registered");
        let base_url = &self.settings.base_url;
        let files = json!({
            ".runner": file(&json!({
                "agentId": id.0.to_string(),
                "agentName": runner.name,
                "poolId": runner.group_id.to_string(),
                "poolName": self.groups.name(*scope, runner.group_id),
                "ephemeral": "true",
                "disableUpdate": "true",
                "serverUrl": base_url,
                "gitHubUrl": format!("{base_url}{}", self.scope_path(*scope)),
                "workFolder": work_folder,
            })),
            ".credentials": file(&json!({
                "Scheme": "OAuth",
                "Data": {"ClientId": secret, "AuthorizationUrl": base_url, "RequireFipsCryptography": "True"},
            })),
            ".credentials_rsaparams": file(&json!({"d": secret})),
        });
        BASE64_STANDARD.encode(files.to_string())
    }

    fn delete_runner(&mut self, scope: ScopeId, id: &str, now: Timestamp) -> Reply {
        let Some(found) = self.runners.in_scope(scope, id) else { return Reply::not_found() };
        let (id, name, lies) = (found.runner.id, found.runner.name.clone(), found.lies(now));
        let spares = found.lie.is_some_and(|(_, spares)| spares);
        match found.runner.job {
            Some(_) if lies && spares => {
                self.books.count_fault(FaultKind::LyingBusyDelete);
                self.runners.delist(id);
                self.count_removal(Removal::Deleted);
            }
            Some(_) if !lies => {
                let message = format!("Bad request - Runner \"{name}\" is still running a job\"");
                return Reply::invalid_simple(&message, &[]);
            }
            Some(job) => {
                self.books.count_fault(FaultKind::LyingBusyDelete);
                self.books.violations.push(Violation::RunningJobKilled { job, runner: id, name, at: now });
                self.complete_job(job, Conclusion::Failure, true, Removal::Deleted, now);
            }
            None => self.remove_runner(id, Removal::Deleted),
        }
        Reply::no_content()
    }

    /// Takes a registration away, and the agent's connection with it.
    pub(super) fn remove_runner(&mut self, id: RunnerId, why: Removal) {
        let was_delisted = self.runners.get(id).is_some_and(|found| found.delisted);
        let Some(found) = self.runners.remove(id) else { return };
        if let Some(session) = found.runner.session {
            self.sessions.remove(session);
        }
        if !was_delisted {
            self.count_removal(why);
        }
    }

    fn count_removal(&mut self, why: Removal) {
        self.books.runners.alive -= 1;
        *self.books.runners.removed.entry(why).or_default() += 1;
    }

    fn runner_token(&mut self, now: Timestamp) -> Reply {
        let token = self.names.hex()[..29].to_uppercase();
        let expires_at = time(now + SignedDuration::from_hours(1));
        Reply::created(json!({"token": token, "expires_at": expires_at}))
    }

    fn runner_json(&mut self, id: RunnerId, now: Timestamp) -> Value {
        let registration = self.runners.get(id).expect("the caller looked it up");
        let lies = registration.lies(now);
        let runner = &registration.runner;
        let json = json!({
            "id": id,
            "runner_group_id": runner.group_id,
            "name": runner.name,
            "os": runner.os,
            "status": if runner.session.is_some() { "online" } else { "offline" },
            "busy": runner.job.is_some() && !lies,
            "ephemeral": true,
            "labels": labels(&runner.labels),
        });
        if lies {
            self.books.count_fault(FaultKind::LyingBusyRead);
        }
        json
    }
}

fn file(content: &Value) -> String {
    BASE64_STANDARD.encode(content.to_string())
}

/// What GitHub insists on; each of these is a 422.
fn check(request: &JitRequest) -> Result<(&str, u64, &[String]), String> {
    let missing = |field: &str| format!("\"{field}\" wasn't supplied.");
    let name = request.name.as_deref().ok_or_else(|| missing("name"))?;
    let group = request.runner_group_id.ok_or_else(|| missing("runner_group_id"))?;
    let labels = request.labels.as_deref().ok_or_else(|| missing("labels"))?;
    if name.is_empty()
        || name.len() > 64
        || name.contains(['/', '\\', ':', '"', '\'', '<', '>', '|', '*', '?'])
    {
        return Err("Runner name must be 1 to 64 characters without any of \" / : < > \\ | * ?".to_owned());
    }
    if labels.is_empty() || labels.len() > 100 {
        return Err(format!("\"labels\" must have 1 to 100 items, not {}.", labels.len()));
    }
    match labels.iter().find(|label| label.is_empty() || label.len() > 256) {
        Some(label) => Err(format!("label {label:?} must be 1 to 256 characters.")),
        None => Ok((name, group, labels)),
    }
}

fn labels(labels: &[String]) -> Vec<Value> {
    let kind = |label: &String| {
        if OWN_LABELS.contains(&label.to_lowercase().as_str()) { "read-only" } else { "custom" }
    };
    (1_u64..).zip(labels).map(|(id, label)| json!({"id": id, "name": label, "type": kind(label)})).collect()
}

fn downloads() -> Value {
    let version = "2.330.0";
    let systems = [
        ("osx", "x64"),
        ("osx", "arm64"),
        ("linux", "x64"),
        ("linux", "arm"),
        ("linux", "arm64"),
        ("win", "x64"),
    ];
    let one = |(os, architecture): (&str, &str)| {
        let ending = if os == "win" { "zip" } else { "tar.gz" };
        let filename = format!("actions-runner-{os}-{architecture}-{version}.{ending}");
        let url = format!("https://github.com/actions/runner/releases/download/v{version}/{filename}");
        json!({"os": os, "architecture": architecture, "download_url": url, "filename": filename})
    };
    Value::Array(systems.into_iter().map(one).collect())
}
