//! GitHub's runner groups: which repositories may use the runners of a scope.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Simulator,
    reply::{Call, Page, Reply},
    shapes,
    world::{ScopeId, World},
};

/// The group that every scope has.
pub(super) const DEFAULT_GROUP: u64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Visibility {
    All,
    Private,
    Selected,
}

impl Visibility {
    fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Private => "private",
            Self::Selected => "selected",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    id: u64,
    name: String,
    visibility: Visibility,
    /// Repositories of an organization's group, organizations of an enterprise's.
    selected: BTreeSet<u64>,
    allows_public_repositories: bool,
    restricted_to_workflows: bool,
    selected_workflows: Vec<String>,
}

impl Group {
    fn new(id: u64, name: &str) -> Self {
        Self {
            id,
            name: name.to_owned(),
            visibility: Visibility::All,
            selected: BTreeSet::new(),
            allows_public_repositories: false,
            restricted_to_workflows: false,
            selected_workflows: Vec::new(),
        }
    }

    /// Whether its runners take jobs of this workflow of this repository.
    pub(super) fn allows(&self, world: &World, scope: ScopeId, repository: u64, workflow: &str) -> bool {
        let repository = world.repository(repository);
        let chosen = match scope {
            ScopeId::Enterprise(_) => repository.owner,
            ScopeId::Organization(_) | ScopeId::Repository(_) => repository.id,
        };
        let workflow_fits = !self.restricted_to_workflows
            || self.selected_workflows.iter().any(|selected| selected == workflow);
        self.is_visible_to(chosen, repository.private)
            && workflow_fits
            && (repository.private || self.allows_public_repositories)
    }

    fn is_visible_to(&self, chosen: u64, private: bool) -> bool {
        match self.visibility {
            Visibility::All => true,
            Visibility::Private => private,
            Visibility::Selected => self.selected.contains(&chosen),
        }
    }
}

/// All groups. The default one of a scope comes into being when it is first looked at.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_id: BTreeMap<(ScopeId, u64), Group>,
    last_id: u64,
}

impl Groups {
    /// What a repository has in place of groups: it takes its own jobs, also if it is public.
    fn of_repository() -> Group {
        Group { allows_public_repositories: true, ..Group::new(DEFAULT_GROUP, "Default") }
    }

    pub(super) fn get(&self, scope: ScopeId, id: u64) -> Option<Group> {
        let missing = || match scope {
            ScopeId::Repository(_) => Self::of_repository(),
            ScopeId::Organization(_) | ScopeId::Enterprise(_) => Group::new(DEFAULT_GROUP, "Default"),
        };
        match self.by_id.get(&(scope, id)) {
            Some(group) => Some(group.clone()),
            None => (id == DEFAULT_GROUP).then(missing),
        }
    }

    pub(super) fn name(&self, scope: ScopeId, id: u64) -> String {
        self.get(scope, id).map_or_else(String::new, |group| group.name)
    }

    fn list(&self, scope: ScopeId) -> Vec<Group> {
        let stored = self.by_id.range((scope, 0)..=(scope, u64::MAX)).map(|(_, group)| group.clone());
        let mut groups: Vec<Group> = stored.collect();
        if groups.first().is_none_or(|first| first.id != DEFAULT_GROUP) {
            groups.insert(0, Group::new(DEFAULT_GROUP, "Default"));
        }
        groups
    }

    fn name_taken(&self, scope: ScopeId, name: &str, but: u64) -> bool {
        self.list(scope).iter().any(|group| group.id != but && group.name.eq_ignore_ascii_case(name))
    }
}

/// The body of a POST or PATCH.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GroupChange {
    name: Option<String>,
    visibility: Option<Visibility>,
    selected_repository_ids: Option<BTreeSet<u64>>,
    selected_organization_ids: Option<BTreeSet<u64>>,
    allows_public_repositories: Option<bool>,
    restricted_to_workflows: Option<bool>,
    selected_workflows: Option<Vec<String>>,
}

impl GroupChange {
    fn apply(self, group: &mut Group) {
        if let Some(name) = self.name {
            group.name = name;
        }
        if let Some(visibility) = self.visibility {
            group.visibility = visibility;
        }
        if let Some(selected) = self.selected_repository_ids.or(self.selected_organization_ids) {
            group.selected = selected;
        }
        if let Some(allows) = self.allows_public_repositories {
            group.allows_public_repositories = allows;
        }
        if let Some(restricted) = self.restricted_to_workflows {
            group.restricted_to_workflows = restricted;
        }
        if let Some(workflows) = self.selected_workflows {
            group.selected_workflows = workflows;
        }
    }
}

impl Simulator {
    /// Routes under `/orgs/{org}/actions/runner-groups` and the same of enterprises.
    pub(super) fn group_route(&mut self, scope: ScopeId, rest: &[&str], call: &Call<'_>) -> Reply {
        let id = rest.first().and_then(|id| id.parse().ok());
        let name = id.map(|id| self.groups.name(scope, id));
        let reply = self.group_reply(scope, rest, call);
        if call.method != "GET" && reply.status.is_success() {
            let made = || reply.body.as_ref()?["name"].as_str().map(str::to_owned);
            *self.books.runner_groups.entry(name.or_else(made).unwrap_or_default()).or_default() += 1;
        }
        reply
    }

    fn group_reply(&mut self, scope: ScopeId, rest: &[&str], call: &Call<'_>) -> Reply {
        let id = match rest {
            [] => return self.groups_route(scope, call),
            [id, ..] => id.parse().ok().filter(|id| self.groups.get(scope, *id).is_some()),
        };
        let Some(id) = id else { return Reply::not_found() };
        match (call.method, &rest[1..], scope) {
            ("GET", [], _) => Reply::ok(self.group_json(scope, id)),
            ("PATCH", [], _) => self.change_group(scope, id, call),
            ("DELETE", [], _) => self.delete_group(scope, id),
            ("GET", ["runners"], _) => self.list_runners(scope, Some(id), call),
            ("GET", ["repositories"], ScopeId::Organization(_)) => self.group_repositories(scope, id, call),
            ("GET", ["organizations"], ScopeId::Enterprise(_)) => self.group_organizations(scope, id, call),
            ("PUT", ["repositories"], ScopeId::Organization(_)) => {
                self.select_all(scope, id, "selected_repository_ids", call)
            }
            ("PUT", ["organizations"], ScopeId::Enterprise(_)) => {
                self.select_all(scope, id, "selected_organization_ids", call)
            }
            ("PUT" | "DELETE", ["repositories", one], ScopeId::Organization(_))
            | ("PUT" | "DELETE", ["organizations", one], ScopeId::Enterprise(_)) => {
                self.select_one(scope, id, one, call.method == "PUT")
            }
            _ => Reply::not_found(),
        }
    }

    fn groups_route(&mut self, scope: ScopeId, call: &Call<'_>) -> Reply {
        match call.method {
            "GET" => self.list_groups(scope, call),
            "POST" => self.create_group(scope, call),
            _ => Reply::not_found(),
        }
    }

    fn list_groups(&mut self, scope: ScopeId, call: &Call<'_>) -> Reply {
        let visible = self.visible_to(scope, call);
        let groups = self.groups.list(scope);
        let ids: Vec<u64> = groups.iter().filter(|group| visible(group)).map(|group| group.id).collect();
        let page = Page::cut(call, &self.settings.base_url, ids.iter().copied(), ids.len());
        let page = page.with_holes(call, &mut self.chance, &mut self.books);
        page.map(|id| self.group_json(scope, id)).counted("runner_groups")
    }

    /// The filter of `visible_to_repository` or `visible_to_organization`, each a name without its owner's.
    fn visible_to(&self, scope: ScopeId, call: &Call<'_>) -> impl Fn(&Group) -> bool + use<> {
        let (parameter, found) = match scope {
            ScopeId::Enterprise(_) => {
                let name = call.query.get("visible_to_organization");
                (name, name.and_then(|login| self.world.find_account(login)).map(|id| (id, true)))
            }
            ScopeId::Organization(id) | ScopeId::Repository(id) => {
                let name = call.query.get("visible_to_repository");
                let full_name = |name| format!("{}/{name}", self.world.account(id).login);
                let found = name.and_then(|name| self.world.find_repository(&full_name(name)));
                (name, found.map(|id| (id, self.world.repository(id).private)))
            }
        };
        let unfiltered = parameter.is_none();
        move |group| unfiltered || found.is_some_and(|(id, private)| group.is_visible_to(id, private))
    }

    fn create_group(&mut self, scope: ScopeId, call: &Call<'_>) -> Reply {
        let change: GroupChange = match call.json() {
            Ok(change) => change,
            Err(reply) => return reply,
        };
        let Some(name) = change.name.clone().filter(|name| !name.is_empty()) else {
            return Reply::invalid_simple("Invalid request.\n\n\"name\" wasn't supplied.", &[]);
        };
        if self.groups.name_taken(scope, &name, 0) {
            return Reply::error(StatusCode::CONFLICT, &format!("Runner group '{name}' already exists."));
        }
        self.groups.last_id = self.groups.last_id.max(DEFAULT_GROUP) + 1;
        let id = self.groups.last_id;
        let mut group = Group::new(id, &name);
        change.apply(&mut group);
        self.groups.by_id.insert((scope, id), group);
        Reply::created(self.group_json(scope, id))
    }

    fn change_group(&mut self, scope: ScopeId, id: u64, call: &Call<'_>) -> Reply {
        let change: GroupChange = match call.json() {
            Ok(change) => change,
            Err(reply) => return reply,
        };
        if change.name.as_deref().is_some_and(|name| self.groups.name_taken(scope, name, id)) {
            return Reply::error(StatusCode::CONFLICT, "A runner group with this name already exists.");
        }
        let mut group = self.groups.get(scope, id).expect("looked up by the route");
        change.apply(&mut group);
        self.groups.by_id.insert((scope, id), group);
        Reply::ok(self.group_json(scope, id))
    }

    /// As at GitHub, the runners of a deleted group move to the default one.
    fn delete_group(&mut self, scope: ScopeId, id: u64) -> Reply {
        if id == DEFAULT_GROUP {
            return Reply::invalid_simple("The default runner group cannot be deleted.", &[]);
        }
        self.groups.by_id.remove(&(scope, id));
        self.runners.move_all(scope, id, DEFAULT_GROUP);
        Reply::no_content()
    }

    fn select_all(&mut self, scope: ScopeId, id: u64, field: &str, call: &Call<'_>) -> Reply {
        let body: Value = match call.json() {
            Ok(body) => body,
            Err(reply) => return reply,
        };
        let Ok(selected) = serde_json::from_value(body[field].clone()) else {
            return Reply::invalid_simple(&format!("Invalid request.\n\n\"{field}\" wasn't supplied."), &[]);
        };
        let mut group = self.groups.get(scope, id).expect("looked up by the route");
        group.selected = selected;
        self.groups.by_id.insert((scope, id), group);
        Reply::no_content()
    }

    fn select_one(&mut self, scope: ScopeId, id: u64, one: &str, add: bool) -> Reply {
        let Ok(one) = one.parse() else { return Reply::not_found() };
        let mut group = self.groups.get(scope, id).expect("looked up by the route");
        if add {
            group.selected.insert(one);
        } else {
            group.selected.remove(&one);
        }
        self.groups.by_id.insert((scope, id), group);
        Reply::no_content()
    }

    fn group_repositories(&mut self, scope: ScopeId, id: u64, call: &Call<'_>) -> Reply {
        let selected = self.groups.get(scope, id).expect("looked up by the route").selected;
        let known: Vec<u64> = selected.into_iter().filter(|id| self.world.has_repository(*id)).collect();
        let base = &self.settings.base_url;
        let page = Page::cut(call, base, known.iter(), known.len());
        let json = |id: &u64| {
            let repository = self.world.repository(*id);
            shapes::minimal_repository(base, repository, self.world.account(repository.owner))
        };
        page.map(json).counted("repositories")
    }

    fn group_organizations(&mut self, scope: ScopeId, id: u64, call: &Call<'_>) -> Reply {
        let selected = self.groups.get(scope, id).expect("looked up by the route").selected;
        let known: Vec<u64> = selected.into_iter().filter(|id| self.world.has_account(*id)).collect();
        let base = &self.settings.base_url;
        let page = Page::cut(call, base, known.iter(), known.len());
        page.map(|id| shapes::organization(base, self.world.account(*id))).counted("organizations")
    }

    fn group_json(&self, scope: ScopeId, id: u64) -> Value {
        let group = self.groups.get(scope, id).expect("the caller took the id from the list");
        let url = format!("{}{}/actions/runner-groups/{id}", self.settings.base_url, self.scope_path(scope));
        let mut json = json!({
            "id": id,
            "name": group.name,
            "visibility": group.visibility.word(),
            "default": id == DEFAULT_GROUP,
            "runners_url": format!("{url}/runners"),
            "allows_public_repositories": group.allows_public_repositories,
            "restricted_to_workflows": group.restricted_to_workflows,
            "selected_workflows": group.selected_workflows,
            "workflow_restrictions_read_only": false,
        });
        let selected = group.visibility == Visibility::Selected;
        match scope {
            ScopeId::Enterprise(_) if selected => {
                json["selected_organizations_url"] = json!(format!("{url}/organizations"));
            }
            ScopeId::Enterprise(_) => {}
            ScopeId::Organization(_) | ScopeId::Repository(_) => {
                json["inherited"] = json!(false);
                if selected {
                    json["selected_repositories_url"] = json!(format!("{url}/repositories"));
                }
            }
        }
        json
    }
}
