//! `runner_groups`: the specifications that runners are made from.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::connected::{Connected, connection};
use super::cursor::{Cursor, Fields, all, hint};
use super::duration::{limit_keys, limits};
use super::github;
use super::github_groups::{self, Shared};
use super::services::Declared;
use crate::backend::BackendKind;
use crate::domain::{
    Arch, BackendName, Bounds, DeploymentName, GitHubGroup, GroupName, Label, Labels, Os, Placement,
    Repository, RunnerGroup, RunnerName, Scope,
};

/// The keys of a group beside its [`limits`](limit_keys).
pub(super) const KEYS: [&str; 15] = [
    "name",
    "organization",
    "repository",
    "enterprise",
    "github",
    "github_group",
    "os",
    "arch",
    "labels",
    "min_idle",
    "max",
    "priority",
    "tags",
    "rerun_on_loss",
    "placements",
];
pub(super) const SYSTEMS: [(&str, Os); 3] =
    [("linux", Os::Linux), ("windows", Os::Windows), ("macos", Os::MacOs)];
pub(super) const PROCESSORS: [(&str, Arch); 3] =
    [("x64", Arch::X64), ("arm64", Arch::Arm64), ("arm", Arch::Arm)];
/// What our own tags and labels begin with.
pub(super) const RESERVED_PREFIX: &str = "runner-manager-";
/// GitHub takes 100 labels with a JIT config. `self-hosted`, the operating system's, the processor's and the
/// owner's are added to the user's.
pub(super) const MAX_LABELS: usize = 96;
/// Of the 50 tags that an instance may have at AWS, the narrowest cloud, ten are kept for ours.
pub(super) const MAX_TAGS: usize = 40;
/// The longest key and value of a tag at AWS, in characters.
const MAX_TAG_KEY: usize = 128;
const MAX_TAG_VALUE: usize = 256;
/// The most placements of a group, after their lists were expanded.
pub(super) const MAX_PLACEMENTS: usize = 256;

/// What the rest of the file says that groups refer to; none where it could not be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) deployment: Option<&'a DeploymentName>,
    pub(super) connections: Option<&'a github::Declared>,
    pub(super) backends: Option<&'a Declared<'a>>,
}

/// Reads all groups.
pub(super) fn read(at: &Cursor<'_>, known: Known<'_>) -> Option<Vec<RunnerGroup>> {
    let items = at.items()?;
    let (mut lines, mut shared) = (BTreeMap::new(), Shared::default());
    let mut connected = Connected::new(known.connections);
    let read = items.iter().zip(0..).map(|(item, order)| {
        let fields = item.known_fields(&all_keys())?;
        let name = fields.required("name").and_then(|at| {
            let name = group_name(at, known.deployment)?;
            if let Some(line) = lines.insert(name.clone(), at.line()) {
                at.fault(format!("a group `{name}` stands in line {line} already"));
            }
            Some(name)
        });
        let group = group(item, &fields, name, order, known)?;
        connected.agrees(fields.optional("github").unwrap_or(item), &group);
        shared.agrees(fields.optional("github_group").unwrap_or(item), &group);
        Some(group)
    });
    all(read)
}

/// All keys that a group may have.
pub(super) fn all_keys() -> Vec<&'static str> {
    KEYS.into_iter().chain(limit_keys().map(|key| key.name)).collect()
}

fn group(
    at: &Cursor<'_>,
    fields: &Fields<'_>,
    name: Option<GroupName>,
    order: u32,
    known: Known<'_>,
) -> Option<RunnerGroup> {
    let scope = scope(at, fields);
    let connection = known.connections.and_then(|declared| connection(at, fields, declared));
    let github_group =
        fields.or("github_group", GitHubGroup::default(), |at| github_groups::read(at, scope.as_ref()));
    let os = fields.or("os", Os::default(), |at| at.word(&SYSTEMS));
    let arch = fields.or("arch", Arch::default(), |at| at.word(&PROCESSORS));
    let labels = fields.or("labels", Labels::default(), labels);
    let bounds = bounds(fields);
    let priority = fields.or("priority", 0, |at| at.whole(i32::MIN..=i32::MAX));
    let tags = fields.or("tags", BTreeMap::new(), tags);
    let limits = limits(fields);
    let rerun_on_loss = fields.or("rerun_on_loss", false, Cursor::flag);
    let placements = fields.required("placements").and_then(|at| placements(at, known.backends));
    Some(RunnerGroup {
        name: name?,
        scope: scope?,
        github: connection?,
        github_group: github_group?,
        os: os?,
        arch: arch?,
        labels: labels?,
        bounds: bounds?,
        priority: priority?,
        order,
        tags: tags?,
        limits: limits?,
        rerun_on_loss: rerun_on_loss?,
        placements: placements?,
    })
}

fn group_name(at: &Cursor<'_>, deployment: Option<&DeploymentName>) -> Option<GroupName> {
    let name = at.parsed(GroupName::new)?;
    if let Some(deployment) = deployment
        && RunnerName::compose(deployment, &name, 0).is_err()
    {
        // Two hyphens and the suffix are added.
        let room = RunnerName::MAX_LENGTH - RunnerName::SUFFIX_LENGTH - 2;
        let length = deployment.as_str().len() + name.as_str().len();
        at.fault(format!(
            "the deployment's name `{deployment}` and this one have {length} characters together, at most \
             {room} are allowed: runner names are made of them"
        ));
    }
    Some(name)
}

fn scope(at: &Cursor<'_>, fields: &Fields<'_>) -> Option<Scope> {
    let organization = fields.optional("organization").map(|at| {
        at.parsed(|text| Scope::organization(text).ok_or("expected the name of an organization at GitHub"))
    });
    let repository =
        fields.optional("repository").map(|at| at.parsed(str::parse::<Repository>).map(Scope::Repository));
    let enterprise = fields.optional("enterprise").map(|at| {
        at.parsed(|text| Scope::enterprise(text).ok_or("expected the slug of an enterprise at GitHub"))
    });
    let mut given = [organization, repository, enterprise].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(scope), None) => scope,
        (first, _) => {
            let found = if first.is_none() { "none" } else { "more than one" };
            at.fault(format!("expected one of organization, repository and enterprise, found {found}"));
            None
        }
    }
}

fn labels(at: &Cursor<'_>) -> Option<Labels> {
    let read = all(at.items()?.iter().map(|item| {
        let label = item.parsed(Label::new)?;
        if label.as_str().starts_with(RESERVED_PREFIX) {
            item.fault(format!("labels that begin with {RESERVED_PREFIX} are Runner Manager's own"));
        }
        Some(label)
    }))?;
    let labels: Labels = read.into_iter().collect();
    if labels.len() > MAX_LABELS {
        at.fault(format!("expected at most {MAX_LABELS} labels, found {}", labels.len()));
    }
    Some(labels)
}

fn bounds(fields: &Fields<'_>) -> Option<Bounds> {
    let min_idle = fields.or("min_idle", 0, |at| at.whole(0..=u32::MAX));
    let max = fields.or("max", Bounds::DEFAULT_MAX, |at| at.whole(0..=u32::MAX));
    let (min_idle, max) = min_idle.zip(max)?;
    let bounds = Bounds::new(min_idle, max);
    if let Err(error) = &bounds {
        let by_default = if fields.optional("max").is_none() { " (its default)" } else { "" };
        let culprit = if max == 0 { "max" } else { "min_idle" };
        // `min_idle` is 0 and `max` is not, unless they were given: the key that is to blame is there.
        if let Some(at) = fields.optional(culprit) {
            at.fault(format!("{error}{by_default}"));
        }
    }
    bounds.ok()
}

fn tags(at: &Cursor<'_>) -> Option<BTreeMap<String, String>> {
    let fields = at.fields()?;
    let read = all(fields.iter().map(|(key, at)| {
        let value = at.text()?;
        let (key_length, value_length) = (key.chars().count(), value.chars().count());
        if key.to_lowercase().starts_with(RESERVED_PREFIX) {
            at.fault(format!("tags that begin with {RESERVED_PREFIX} are Runner Manager's own"));
        }
        if key_length == 0 || key_length > MAX_TAG_KEY || value_length > MAX_TAG_VALUE {
            at.fault(format!(
                "expected a tag with 1 to {MAX_TAG_KEY} characters and a value with at most {MAX_TAG_VALUE}, \
                 found {key_length} and {value_length}"
            ));
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            at.fault("expected a tag without control characters");
        }
        Some((key.to_owned(), value.to_owned()))
    }))?;
    if read.len() > MAX_TAGS {
        at.fault(format!("expected at most {MAX_TAGS} tags, found {}", read.len()));
    }
    Some(read.into_iter().collect())
}

fn placements(at: &Cursor<'_>, backends: Option<&Declared<'_>>) -> Option<Vec<Placement>> {
    let items = at.items()?;
    if items.is_empty() {
        at.fault("expected at least one placement, found none");
    }
    let mut lines = BTreeMap::new();
    let read = items.iter().map(|item| {
        let expanded = placement(item, backends)?;
        for placement in &expanded {
            if let Some(line) = lines.insert(placement.key.clone(), item.line()) {
                let what = &placement.description;
                item.fault(format!("placement `{what}` stands twice in this group, first in line {line}"));
            }
        }
        Some(expanded)
    });
    let placements = all(read)?.concat();
    if placements.len() > MAX_PLACEMENTS {
        let count = placements.len();
        at.fault(format!("expected at most {MAX_PLACEMENTS} placements after expansion, found {count}"));
    }
    Some(placements)
}

fn placement(at: &Cursor<'_>, backends: Option<&Declared<'_>>) -> Option<Vec<Placement>> {
    let fields = at.fields()?;
    let (name, kind) = backend(fields.required("backend")?, backends)?;
    let expanded = kind.placements(&at.settings(&["backend"])).map_err(|faults| at.tell(faults)).ok()?;
    if expanded.is_empty() {
        at.fault("these settings name no placement: one of their lists is empty");
        return None;
    }
    let make =
        |one: crate::backend::PlacementSettings| Placement::new(name.clone(), one.description, one.settings);
    Some(expanded.into_iter().map(make).collect())
}

/// The backend that a placement names; none also where the fault is the backend's own and told there.
fn backend<'r>(
    at: &Cursor<'_>,
    backends: Option<&Declared<'r>>,
) -> Option<(BackendName, &'r Arc<dyn BackendKind>)> {
    let name = at.text()?;
    let declared = backends?;
    let Some(kind) = declared.get(name) else {
        let hint = hint(name, declared.keys().map(String::as_str));
        at.fault(format!("unknown backend `{name}`{hint}"));
        return None;
    };
    BackendName::new(name).ok().zip(*kind)
}
