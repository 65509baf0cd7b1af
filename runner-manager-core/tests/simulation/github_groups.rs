//! GitHub's runner groups: the one that is managed, those right beside it that are not, what somebody does to the
//! managed one behind the manager's back, and whether that is mended with no write more than it takes.

use bytes::Bytes;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{Method, Request};
use jiff::Timestamp;
use runner_manager_core::domain::{GitHubGroup, GroupAccess, GroupRules, RunnerGroup, Scope};
use runner_manager_core::testing::simulator::Simulator;
use serde_json::{Value, json};

use super::dice::Dice;
use super::shared::{Promise, Shared};

/// The one that is managed.
const MANAGED: &str = "Large";

/// How one begins that somebody gave another name.
const RENAMED: &str = "Was Large";

const GROUPS: &str = "/orgs/acme/actions/runner-groups";

/// The token of whoever works on GitHub's groups beside the manager.
pub(crate) const TOKEN: &str = "ghp_somebody";

/// What somebody does to the managed group at GitHub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drift {
    Deleted,
    Renamed,
    /// It is given to some repositories, and to none.
    ForNobody,
    ForPublic,
    ForOneWorkflow,
}

impl Drift {
    const ALL: [Self; 5] =
        [Self::Deleted, Self::Renamed, Self::ForNobody, Self::ForPublic, Self::ForOneWorkflow];

    pub(crate) fn drawn(dice: &mut Dice) -> Self {
        *dice.pick(&Self::ALL)
    }

    /// The name that it is counted by.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Deleted => "github group: deleted",
            Self::Renamed => "github group: renamed",
            Self::ForNobody => "github group: for nobody",
            Self::ForPublic => "github group: for public repositories",
            Self::ForOneWorkflow => "github group: for one workflow",
        }
    }

    pub(crate) fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(Self::word)
    }

    fn change(self, id: u64) -> Option<Value> {
        match self {
            Self::Deleted => None,
            Self::Renamed => Some(json!({"name": format!("{RENAMED} {id}")})),
            Self::ForNobody => Some(json!({"visibility": "selected", "selected_repository_ids": []})),
            Self::ForPublic => Some(json!({"allows_public_repositories": true})),
            Self::ForOneWorkflow => Some(json!({
                "restricted_to_workflows": true,
                "selected_workflows": ["acme/app/.github/workflows/release.yaml@main"],
            })),
        }
    }
}

/// Has the groups of organizations register into a group that is managed.
pub(crate) fn manage(groups: &mut [RunnerGroup]) {
    for group in groups.iter_mut().filter(|group| matches!(group.scope, Scope::Organization(_))) {
        let rules =
            GroupRules { access: GroupAccess::All, allows_public_repositories: false, workflows: None };
        group.github_group = GitHubGroup { name: MANAGED.to_owned(), managed: Some(rules) };
    }
}

pub(crate) fn is_managed(groups: &[RunnerGroup]) -> bool {
    groups.iter().any(|group| group.github_group.managed.is_some())
}

/// Makes a group that is nobody's to change, and has the default one be as no managed one is.
pub(crate) fn put_others(shared: &Shared) {
    let theirs =
        json!({"name": "Large theirs", "visibility": "selected", "allows_public_repositories": true});
    ask(shared, &Method::POST, GROUPS, &theirs);
    ask(shared, &Method::PATCH, &format!("{GROUPS}/1"), &json!({"allows_public_repositories": true}));
}

/// Does this to the managed group; tells whether there is one.
pub(crate) fn drift(shared: &Shared, drift: Drift) -> bool {
    let Some(id) = managed(shared).and_then(|group| group["id"].as_u64()) else { return false };
    let path = format!("{GROUPS}/{id}");
    match drift.change(id) {
        Some(change) => ask(shared, &Method::PATCH, &path, &change),
        None => ask(shared, &Method::DELETE, &path, &Value::Null),
    };
    shared.state().checker.groups.mended = None;
    true
}

/// What is not as configured about the managed group.
pub(crate) fn differs(shared: &Shared) -> Option<String> {
    let Some(group) = managed(shared) else { return Some("it is missing".to_owned()) };
    let is = (&group["visibility"], &group["allows_public_repositories"], &group["restricted_to_workflows"]);
    (is != (&json!("all"), &json!(false), &json!(false))).then(|| group.to_string())
}

fn managed(shared: &Shared) -> Option<Value> {
    let listed = ask(shared, &Method::GET, GROUPS, &Value::Null);
    let groups = listed["runner_groups"].as_array()?;
    groups.iter().find(|group| group["name"] == MANAGED).cloned()
}

/// Asks GitHub as somebody with whom nothing goes wrong.
fn ask(shared: &Shared, method: &Method, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).header(USER_AGENT, "somebody");
    let request = request.header(AUTHORIZATION, format!("Bearer {TOKEN}")).body(body).unwrap();
    answered(&mut shared.github(), &request, shared.now())
}

fn answered(github: &mut Simulator, request: &Request<Bytes>, now: Timestamp) -> Value {
    let faults = std::mem::take(github.faults_mut());
    let answer = github.handle(request, now);
    *github.faults_mut() = faults;
    assert!(answer.response.status().is_success(), "{:?}", answer.response);
    serde_json::from_slice(answer.response.body()).unwrap_or_default()
}

/// By whom the managed group was written to when it needed that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Holder,
    /// A process that lost its hold. Whoever holds the task by then may have looked before, and write as well.
    Other,
}

/// What replicas write to runner groups, held against what somebody did to the managed one.
#[derive(Debug, Default)]
pub(crate) struct GroupsChecker {
    /// None while the managed group is not as configured.
    mended: Option<By>,
}

impl GroupsChecker {
    /// Whether the managed group needs nothing.
    pub(crate) const fn is_as_configured(&self) -> bool {
        self.mended.is_some()
    }

    /// GitHub took a write to the group of a name, from somebody who holds the task of its scope's groups, or does no
    /// more. Tells what is allowed, and counted by itself.
    pub(crate) fn wrote(
        &mut self,
        group: &str,
        holds: bool,
    ) -> Result<Option<&'static str>, (Promise, String)> {
        let before = self.mended;
        let was_needed = before.is_none();
        if was_needed || holds {
            self.mended = Some(if holds { By::Holder } else { By::Other });
        }
        if group.starts_with(RENAMED) && was_needed {
            Ok(Some("a write to a runner group that was renamed since it was looked at"))
        } else if group != MANAGED {
            Err((Promise::NothingLeft, format!("GitHub's group {group} is not managed, and was written to")))
        } else if was_needed {
            Ok(None)
        } else if before == Some(By::Other) {
            Ok(Some("a write to a runner group that a process without a hold wrote to meanwhile"))
        } else if !holds {
            Ok(Some("a write to a runner group that came late, from a process that lost its hold"))
        } else {
            Err((Promise::Limits, format!("GitHub's group {group} was as configured, and was written to")))
        }
    }
}
