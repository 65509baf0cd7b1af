//! Webhooks of organizations, repositories and the App, and their delivery logs.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    DeliveryId, HookId, Scope, Simulator,
    reply::{Call, Page, Reply, time},
    webhooks::Outcome,
    world::ScopeId,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HookTarget {
    Organization(u64),
    Repository(u64),
    /// That of an App, by its id.
    App(u64),
}

#[derive(Debug, Clone)]
pub(super) struct Hook {
    pub(super) id: HookId,
    pub(super) target: HookTarget,
    pub(super) url: String,
    pub(super) secret: Option<String>,
    content_type: String,
    insecure_ssl: String,
    events: Vec<String>,
    active: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
    pub(super) last_outcome: Option<Outcome>,
    /// Attempts that have been made, answered or not reached.
    pub(super) log: BTreeSet<DeliveryId>,
    /// The delivery that the next one is to overtake.
    pub(super) held: Option<(Timestamp, u64)>,
}

impl Hook {
    pub(super) fn is_form(&self) -> bool {
        self.content_type == "form"
    }

    fn listens(&self, event: &str) -> bool {
        self.active && self.events.iter().any(|wanted| wanted == event || wanted == "*")
    }
}

#[derive(Debug, Default)]
pub(super) struct Hooks {
    pub(super) by_id: BTreeMap<HookId, Hook>,
    by_target: BTreeMap<HookTarget, BTreeSet<HookId>>,
    last_id: u64,
}

impl Hooks {
    pub(super) fn get(&self, id: HookId) -> Option<&Hook> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: HookId) -> Option<&mut Hook> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn listening(&self, target: HookTarget, event: &str) -> Vec<HookId> {
        let ids = self.by_target.get(&target).into_iter().flatten();
        ids.filter(|id| self.by_id[*id].listens(event)).copied().collect()
    }

    pub(super) fn of_app(&self, app: u64) -> Option<HookId> {
        self.by_target.get(&HookTarget::App(app))?.first().copied()
    }

    fn of_target(&self, target: HookTarget) -> BTreeSet<HookId> {
        self.by_target.get(&target).cloned().unwrap_or_default()
    }

    pub(super) fn add(
        &mut self,
        target: HookTarget,
        url: &str,
        secret: Option<&str>,
        now: Timestamp,
    ) -> HookId {
        self.last_id += 1;
        let id = HookId(109_000_000 + self.last_id);
        let hook = Hook {
            id,
            target,
            url: url.to_owned(),
            secret: secret.map(str::to_owned),
            content_type: "json".to_owned(),
            insecure_ssl: "0".to_owned(),
            events: vec!["workflow_job".to_owned()],
            active: true,
            created_at: now,
            updated_at: now,
            last_outcome: None,
            log: BTreeSet::new(),
            held: None,
        };
        self.by_id.insert(id, hook);
        self.by_target.entry(target).or_default().insert(id);
        id
    }

    fn remove(&mut self, id: HookId) {
        if let Some(hook) = self.by_id.remove(&id) {
            self.by_target.entry(hook.target).or_default().remove(&id);
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HookChange {
    name: Option<String>,
    active: Option<bool>,
    events: Option<Vec<String>>,
    add_events: Vec<String>,
    remove_events: Vec<String>,
    config: Option<HookConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HookConfig {
    url: Option<String>,
    content_type: Option<String>,
    secret: Option<String>,
    insecure_ssl: Option<Value>,
}

impl HookChange {
    fn apply(self, hook: &mut Hook) {
        if let Some(active) = self.active {
            hook.active = active;
        }
        if let Some(events) = self.events {
            hook.events = events;
        }
        hook.events.retain(|event| !self.remove_events.contains(event));
        for event in self.add_events {
            if !hook.events.contains(&event) {
                hook.events.push(event);
            }
        }
        if let Some(config) = self.config {
            // As at GitHub, a whole config without a secret takes the secret away.
            hook.secret = None;
            config.apply(hook);
        }
    }
}

impl HookConfig {
    fn apply(self, hook: &mut Hook) {
        if let Some(url) = self.url {
            hook.url = url;
        }
        if let Some(content_type) = self.content_type {
            hook.content_type = content_type;
        }
        if let Some(secret) = self.secret {
            hook.secret = Some(secret).filter(|secret| !secret.is_empty());
        }
        if let Some(insecure) = self.insecure_ssl {
            hook.insecure_ssl = insecure.as_str().map_or_else(|| insecure.to_string(), str::to_owned);
        }
    }
}

impl Simulator {
    /// A hook for `workflow_job` in JSON, without the ping that GitHub sends to a new one. None if the scope
    /// is an enterprise, or is not there with [`create_on_demand`](super::Settings::create_on_demand) off.
    pub fn add_hook(&mut self, scope: &Scope, url: &str, secret: &str, now: Timestamp) -> Option<HookId> {
        let target = target_of(self.resolve(scope)?)?;
        Some(self.hooks.add(target, url, Some(secret), now))
    }

    /// Routes under `/orgs/{org}/hooks` and `/repos/{owner}/{repo}/hooks`.
    pub(super) fn hook_route(&mut self, scope: ScopeId, rest: &[&str], call: &Call<'_>) -> Reply {
        let Some(target) = target_of(scope) else { return Reply::not_found() };
        let [id, rest @ ..] = rest else {
            return match call.method {
                "GET" => self.list_hooks(target, call),
                "POST" => self.create_hook(target, call),
                _ => Reply::not_found(),
            };
        };
        let hook = id.parse().ok().and_then(|id| self.hooks.get(HookId(id)));
        let Some(id) = hook.filter(|hook| hook.target == target).map(|hook| hook.id) else {
            return Reply::not_found();
        };
        match (call.method, rest) {
            ("GET", []) => Reply::ok(self.hook_json(&self.hooks.by_id[&id])),
            ("PATCH", []) => self.change_hook(id, call),
            ("DELETE", []) => {
                self.hooks.remove(id);
                self.forget_deliveries(id);
                Reply::no_content()
            }
            ("POST", ["pings"]) => {
                self.ping(id, call.now);
                Reply::no_content()
            }
            (_, ["config"]) => self.hook_config_route(id, call),
            (_, ["deliveries", rest @ ..]) => self.delivery_route(id, rest, call),
            _ => Reply::not_found(),
        }
    }

    /// GET and PATCH of a hook's `config`.
    pub(super) fn hook_config_route(&mut self, id: HookId, call: &Call<'_>) -> Reply {
        match call.method {
            "GET" => {}
            "PATCH" => match call.json::<HookConfig>() {
                Ok(config) => {
                    let hook = self.hooks.get_mut(id).expect("looked up by the route");
                    config.apply(hook);
                    hook.updated_at = call.now;
                }
                Err(reply) => return reply,
            },
            _ => return Reply::not_found(),
        }
        Reply::ok(config_json(&self.hooks.by_id[&id]))
    }

    fn list_hooks(&self, target: HookTarget, call: &Call<'_>) -> Reply {
        let ids = self.hooks.of_target(target);
        let page = Page::cut(call, &self.settings.base_url, ids.iter(), ids.len());
        page.map(|id| self.hook_json(&self.hooks.by_id[id])).plain()
    }

    fn create_hook(&mut self, target: HookTarget, call: &Call<'_>) -> Reply {
        let change: HookChange = match call.json() {
            Ok(change) => change,
            Err(reply) => return reply,
        };
        let url = change.config.as_ref().and_then(|config| config.url.clone()).unwrap_or_default();
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Reply::invalid("Hook", "url", "missing_field", "url is missing or no http(s) URL");
        }
        if change.name.as_deref().is_some_and(|name| name != "web") {
            return Reply::invalid("Hook", "name", "custom", "name must be web");
        }
        if self.hooks.of_target(target).iter().any(|id| self.hooks.by_id[id].url == url) {
            return Reply::invalid("Hook", "url", "custom", "Hook already exists on this target");
        }
        let id = self.hooks.add(target, &url, None, call.now);
        let hook = self.hooks.get_mut(id).expect("just added");
        // What GitHub takes if nothing is said.
        "form".clone_into(&mut hook.content_type);
        hook.events = vec!["push".to_owned()];
        change.apply(hook);
        self.ping(id, call.now);
        let json = self.hook_json(&self.hooks.by_id[&id]);
        let location = json["url"].as_str().unwrap_or_default().to_owned();
        Reply::created(json).with_header("location", location)
    }

    fn change_hook(&mut self, id: HookId, call: &Call<'_>) -> Reply {
        let change: HookChange = match call.json() {
            Ok(change) => change,
            Err(reply) => return reply,
        };
        let hook = self.hooks.get_mut(id).expect("looked up by the route");
        change.apply(hook);
        hook.updated_at = call.now;
        Reply::ok(self.hook_json(&self.hooks.by_id[&id]))
    }

    pub(super) fn hook_json(&self, hook: &Hook) -> Value {
        let (id, base) = (hook.id, &self.settings.base_url);
        let mut json = json!({
            "id": id,
            "name": "web",
            "active": hook.active,
            "events": hook.events,
            "config": config_json(hook),
            "created_at": time(hook.created_at),
            "updated_at": time(hook.updated_at),
        });
        let scope = match hook.target {
            HookTarget::Organization(id) => {
                json["type"] = json!("Organization");
                ScopeId::Organization(id)
            }
            HookTarget::Repository(id) => {
                json["type"] = json!("Repository");
                json["last_response"] = last_response(hook.last_outcome);
                ScopeId::Repository(id)
            }
            HookTarget::App(app) => {
                json["type"] = json!("App");
                json["app_id"] = json!(app);
                json["deliveries_url"] = json!(format!("{base}/app/hook/deliveries"));
                return json;
            }
        };
        let url = format!("{base}{}/hooks/{id}", self.scope_path(scope));
        if let ScopeId::Repository(_) = scope {
            json["test_url"] = json!(format!("{url}/tests"));
        }
        json["ping_url"] = json!(format!("{url}/pings"));
        json["deliveries_url"] = json!(format!("{url}/deliveries"));
        json["url"] = json!(url);
        json
    }
}

fn target_of(scope: ScopeId) -> Option<HookTarget> {
    match scope {
        ScopeId::Organization(id) => Some(HookTarget::Organization(id)),
        ScopeId::Repository(id) => Some(HookTarget::Repository(id)),
        ScopeId::Enterprise(_) => None,
    }
}

fn config_json(hook: &Hook) -> Value {
    let mut json =
        json!({"url": hook.url, "content_type": hook.content_type, "insecure_ssl": hook.insecure_ssl});
    if hook.secret.is_some() {
        json["secret"] = json!("********");
    }
    json
}

fn last_response(outcome: Option<Outcome>) -> Value {
    match outcome {
        None => json!({"code": null, "status": "unused", "message": null}),
        Some(Outcome::Answered(code @ 200..=299)) => {
            json!({"code": code, "status": "active", "message": "OK"})
        }
        Some(Outcome::Answered(code)) => {
            json!({"code": code, "status": "invalid_http_response", "message": "Invalid HTTP Response"})
        }
        Some(Outcome::Unreached) => {
            json!({"code": 0, "status": "connection_error", "message": "failed to connect to host"})
        }
    }
}
