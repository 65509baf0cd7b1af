//! `github_group`: GitHub's runner group that a group registers into, and what it is kept like there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::cursor::{Cursor, Fields, all};
use super::schema::{object, text, with_default};
use crate::domain::{ConnectionName, GitHubGroup, GroupAccess, GroupRules, Repository, RunnerGroup, Scope};

pub(super) const KEYS: [&str; 6] =
    ["name", "manage", "repositories", "organizations", "allows_public_repositories", "workflows"];
/// The keys that say what a managed group is kept like.
pub(super) const RULES: [&str; 4] =
    ["repositories", "organizations", "allows_public_repositories", "workflows"];
/// The word for all repositories, or all organizations.
pub(super) const ALL: &str = "all";
/// The most repositories, organizations or workflows that may be named.
pub(super) const MOST_NAMED: usize = 100;

/// Reads the key. `scope` is none where it could not be read.
pub(super) fn read(at: &Cursor<'_>, scope: Option<&Scope>) -> Option<GitHubGroup> {
    let fields = at.known_fields(&KEYS)?;
    let name = fields.required("name").and_then(|at| name(at, scope));
    let manage = fields.or("manage", false, Cursor::flag);
    let rules = rules(&fields, scope);
    if manage == Some(false) {
        tell_idle_rules(&fields);
    }
    let (group, rules) = (GitHubGroup { name: name?, managed: None }, rules?);
    if !manage? {
        return Some(group);
    }
    if group.is_default() {
        // It was given, since without it nothing is managed.
        if let Some(at) = fields.optional("manage") {
            at.fault(format!("GitHub's group {} is never changed: name another one", GitHubGroup::DEFAULT));
        }
    }
    Some(GitHubGroup { managed: Some(rules), ..group })
}

fn name(at: &Cursor<'_>, scope: Option<&Scope>) -> Option<String> {
    let group = GitHubGroup { name: at.text()?.to_owned(), managed: None };
    if group.name.trim().is_empty() {
        at.fault("expected the name of a runner group at GitHub, found an empty text");
    } else if matches!(scope, Some(Scope::Repository(_))) && !group.is_default() {
        at.fault(format!("a repository has no runner group but {}", GitHubGroup::DEFAULT));
    }
    Some(group.name)
}

/// Tells of rules that nobody would keep to.
fn tell_idle_rules(fields: &Fields<'_>) {
    for at in RULES.iter().filter_map(|key| fields.optional(key)) {
        at.fault("it is kept with `manage: true` alone: without, GitHub's group is never changed");
    }
}

fn rules(fields: &Fields<'_>, scope: Option<&Scope>) -> Option<GroupRules> {
    let access = access(fields, scope);
    let public = fields.or("allows_public_repositories", false, Cursor::flag);
    let workflows = fields.or("workflows", None, |at| named(at, "workflow", workflow).map(Some));
    Some(GroupRules { access: access?, allows_public_repositories: public?, workflows: workflows? })
}

fn access(fields: &Fields<'_>, scope: Option<&Scope>) -> Option<GroupAccess> {
    let repositories = fields.or("repositories", GroupAccess::All, |at| {
        if matches!(scope, Some(Scope::Enterprise(_))) {
            at.fault("an enterprise's runner group is given to organizations: use `organizations`");
        }
        selected(at, "repository", |item| repository(item, scope), GroupAccess::Repositories)
    });
    let organizations = fields.or("organizations", GroupAccess::All, |at| {
        if matches!(scope, Some(Scope::Organization(_) | Scope::Repository(_))) {
            at.fault("only an enterprise's runner group is given to organizations: use `repositories`");
        }
        selected(at, "organization", organization, GroupAccess::Organizations)
    });
    match (repositories?, organizations?) {
        (GroupAccess::All, access) | (access, _) => Some(access),
    }
}

/// Either the word for all, or a list.
fn selected<T: Ord>(
    at: &Cursor<'_>,
    what: &str,
    read: impl Fn(&Cursor<'_>) -> Option<T>,
    make: impl FnOnce(BTreeSet<T>) -> GroupAccess,
) -> Option<GroupAccess> {
    if at.is_list() {
        return named(at, what, read).map(make);
    }
    let expected = format!("`{ALL}` or a list");
    let text = at.text_as(&expected)?;
    if text != ALL {
        at.fault(format!("expected {expected}, found `{text}`"));
    }
    Some(GroupAccess::All)
}

/// A list that names something, and nothing twice.
fn named<T: Ord>(
    at: &Cursor<'_>,
    what: &str,
    read: impl Fn(&Cursor<'_>) -> Option<T>,
) -> Option<BTreeSet<T>> {
    let items = at.items()?;
    if items.is_empty() {
        at.fault(format!("expected at least one {what}, found none"));
    } else if items.len() > MOST_NAMED {
        at.fault(format!("expected at most {MOST_NAMED} of them, found {}", items.len()));
    }
    Some(all(items.iter().map(read))?.into_iter().collect())
}

/// A repository of the organization, with or without its owner.
fn repository(at: &Cursor<'_>, scope: Option<&Scope>) -> Option<Repository> {
    let Some(Scope::Organization(owner)) = scope else {
        return at.parsed(str::parse);
    };
    let repository: Repository =
        at.parsed(|text| if text.contains('/') { text.parse() } else { format!("{owner}/{text}").parse() })?;
    if !repository.owner().eq_ignore_ascii_case(owner) {
        at.fault(format!("`{repository}` is not of {owner}, whose runner group it is"));
    }
    Some(repository)
}

fn organization(at: &Cursor<'_>) -> Option<String> {
    let expected = "expected the name of an organization at GitHub";
    at.parsed(|text| match Scope::organization(text) {
        Some(Scope::Organization(name)) => Ok(name),
        _ => Err(expected),
    })
}

/// A workflow's file at a branch, tag or commit: GitHub takes none without.
fn workflow(at: &Cursor<'_>) -> Option<String> {
    let text = at.text()?;
    let is_file = |path: &str| {
        let file = path.split_once("/.github/workflows/");
        file.is_some_and(|(repository, file)| repository.parse::<Repository>().is_ok() && !file.is_empty())
    };
    if !text.split_once('@').is_some_and(|(path, at)| is_file(path) && !at.is_empty()) {
        at.fault(format!(
            "`{text}` is not a workflow: write it as owner/name/.github/workflows/FILE@BRANCH, or with a tag or \
             a commit"
        ));
    }
    Some(text.to_owned())
}

/// What the groups that were read so far say of GitHub's groups: several may share one.
#[derive(Debug, Default)]
pub(super) struct Shared(BTreeMap<(Scope, ConnectionName, String), (Option<GroupRules>, u64)>);

impl Shared {
    /// Tells where a group would have GitHub's group be otherwise than another group has it.
    pub(super) fn agrees(&mut self, at: &Cursor<'_>, group: &RunnerGroup) {
        let GitHubGroup { name, managed } = &group.github_group;
        let key = (group.scope.clone(), group.github.clone(), name.to_lowercase());
        let (rules, line) = self.0.entry(key).or_insert_with(|| (managed.clone(), at.line()));
        if rules != managed {
            at.fault(format!(
                "GitHub's group `{name}` is to be otherwise by line {line}: groups that share one say the same of it"
            ));
        }
    }
}

/// The JSON Schema of the key.
pub(super) fn schema() -> Value {
    let list = |description: &str| {
        json!({
            "description": description,
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "minItems": 1,
            "maxItems": MOST_NAMED,
        })
    };
    let all_or_list = |description: &str| {
        let all = json!({"type": "string", "enum": [ALL]});
        with_default(json!({"description": description, "anyOf": [all, list("Their names.")]}), ALL)
    };
    let flag =
        |description: &str| with_default(json!({"description": description, "type": "boolean"}), false);
    let mut schema = object(
        "GitHub's runner group that the runners register into.",
        &["name"],
        vec![
            (
                "name",
                text(
                    "Its name at GitHub. Without `github_group` it is `Default`, the only one of a repository.",
                ),
            ),
            (
                "manage",
                flag(
                    "Whether it is made at GitHub where it is missing, and kept as the other keys have it. Without, \
                     GitHub's group is never changed. `Default` never is.",
                ),
            ),
            (
                "repositories",
                all_or_list(
                    "`manage`, of an organization: the repositories whose jobs its runners take, `name` or \
                     `owner/name`.",
                ),
            ),
            (
                "organizations",
                all_or_list("`manage`, of an enterprise: the organizations whose jobs its runners take."),
            ),
            ("allows_public_repositories", flag("`manage`: whether public repositories are among those.")),
            (
                "workflows",
                list(
                    "`manage`: the workflows whose jobs alone its runners take, as in \
                     `owner/name/.github/workflows/FILE@BRANCH`. Without, those of all.",
                ),
            ),
        ],
    );
    let managed = json!({"properties": {"manage": {"const": true}}, "required": ["manage"]});
    schema["dependentSchemas"] =
        RULES.into_iter().map(|key| (key.to_owned(), managed.clone())).collect::<Map<_, _>>().into();
    schema["if"] = managed;
    schema["then"] = json!({"properties": {"name": {"not": {"pattern": "^[Dd][Ee][Ff][Aa][Uu][Ll][Tt]$"}}}});
    schema
}
