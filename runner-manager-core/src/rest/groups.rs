//! GitHub's runner groups: listing and changing them, and the numbers of what they are given to.

use std::collections::BTreeSet;

use http::Method;
use serde::{Deserialize, Serialize};

use super::models::Entry;
use super::operation::{Effect, Operation};
use super::pages::Listing;
use super::transport::As;
use super::{RestGitHub, scope_path};
use crate::domain::{
    GitHubGroup, GitHubGroupId, GroupAccess, GroupRules, GroupVisibility, RegisteredGroup, Repository, Scope,
};
use crate::github::{GitHubError, GitHubErrorKind};

/// The body of a request that makes or changes a group.
#[derive(Debug, Serialize)]
struct GroupBody<'a> {
    name: &'a str,
    visibility: GroupVisibility,
    allows_public_repositories: bool,
    restricted_to_workflows: bool,
    selected_workflows: Vec<&'a str>,
    #[serde(flatten)]
    members: Option<MembersBody>,
}

impl<'a> GroupBody<'a> {
    fn new(name: &'a str, rules: &'a GroupRules, members: Option<MembersBody>) -> Self {
        Self {
            name,
            visibility: rules.access.visibility(),
            allows_public_repositories: rules.allows_public_repositories,
            restricted_to_workflows: rules.workflows.is_some(),
            selected_workflows: rules.workflows.iter().flatten().map(String::as_str).collect(),
            members,
        }
    }
}

/// What a group is given to, by GitHub's numbers.
#[derive(Debug, Serialize)]
enum MembersBody {
    #[serde(rename = "selected_repository_ids")]
    Repositories(Vec<u64>),
    #[serde(rename = "selected_organization_ids")]
    Organizations(Vec<u64>),
}

#[expect(clippy::struct_excessive_bools, reason = "GitHub's own flags, each by itself")]
#[derive(Debug, Deserialize)]
struct Group {
    id: u64,
    name: String,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    inherited: bool,
    visibility: String,
    #[serde(default)]
    allows_public_repositories: bool,
    #[serde(default)]
    restricted_to_workflows: bool,
    #[serde(default)]
    selected_workflows: BTreeSet<String>,
    #[serde(default)]
    workflow_restrictions_read_only: bool,
}

impl Entry for Group {
    const ARRAY: &'static str = "runner_groups";

    fn id(&self) -> u64 {
        self.id
    }
}

impl From<Group> for RegisteredGroup {
    fn from(group: Group) -> Self {
        Self {
            id: GitHubGroupId(group.id),
            name: group.name,
            default: group.default,
            inherited: group.inherited,
            visibility: match group.visibility.as_str() {
                "selected" => GroupVisibility::Selected,
                "private" => GroupVisibility::Private,
                _ => GroupVisibility::All,
            },
            allows_public_repositories: group.allows_public_repositories,
            workflows: group.restricted_to_workflows.then_some(group.selected_workflows),
            workflows_fixed: group.workflow_restrictions_read_only,
        }
    }
}

/// A repository that a group was given to.
#[derive(Debug, Deserialize)]
struct RepositoryMember {
    id: u64,
    full_name: String,
}

impl Entry for RepositoryMember {
    const ARRAY: &'static str = "repositories";

    fn id(&self) -> u64 {
        self.id
    }
}

/// An organization that a group was given to.
#[derive(Debug, Deserialize)]
struct OrganizationMember {
    id: u64,
    login: String,
}

impl Entry for OrganizationMember {
    const ARRAY: &'static str = "organizations";

    fn id(&self) -> u64 {
        self.id
    }
}

#[derive(Deserialize)]
struct Numbered {
    id: u64,
}

impl RestGitHub {
    pub(super) async fn list_groups(&self, scope: &Scope) -> Result<Vec<RegisteredGroup>, GitHubError> {
        if let Scope::Repository(_) = scope {
            return Ok(vec![group_of_a_repository()]);
        }
        let operation = Operation::read("runner_groups");
        let path = groups_path(operation, scope)?;
        let groups: Vec<Group> =
            self.list(Listing { operation, who: As::Scope(scope), path: &path }, "").await?;
        Ok(groups.into_iter().map(RegisteredGroup::from).collect())
    }

    pub(super) async fn make_group(
        &self,
        scope: &Scope,
        name: &str,
        rules: &GroupRules,
    ) -> Result<RegisteredGroup, GitHubError> {
        let operation = Operation { name: "create_runner_group", effect: Effect::Register };
        let path = groups_path(operation, scope)?;
        let members = self.numbers(operation, scope, &rules.access).await?;
        let body = GroupBody::new(name, rules, members);
        let answer = self.call(operation, As::Scope(scope), operation.post(&path, &body)?).await?;
        operation.read_json::<Group>(&answer).map(RegisteredGroup::from)
    }

    pub(super) async fn change_group(
        &self,
        scope: &Scope,
        id: GitHubGroupId,
        name: &str,
        rules: &GroupRules,
    ) -> Result<RegisteredGroup, GitHubError> {
        let operation = Operation { name: "update_runner_group", effect: Effect::Write };
        let path = format!("{}/{id}", groups_path(operation, scope)?);
        let body = GroupBody::new(name, rules, None);
        let request = operation.send(Method::PATCH, &path, &body)?;
        let answer = self.call(operation, As::Scope(scope), request).await?;
        operation.read_json::<Group>(&answer).map(RegisteredGroup::from)
    }

    pub(super) async fn list_members(
        &self,
        scope: &Scope,
        id: GitHubGroupId,
    ) -> Result<GroupAccess, GitHubError> {
        let operation = Operation::read("group_members");
        let path = members_path(operation, scope, id)?;
        let listing = Listing { operation, who: As::Scope(scope), path: &path };
        if let Scope::Enterprise(_) = scope {
            let found: Vec<OrganizationMember> = self.list(listing, "").await?;
            let names = found.into_iter().map(|one| one.login.to_ascii_lowercase());
            return Ok(GroupAccess::Organizations(names.collect()));
        }
        let found: Vec<RepositoryMember> = self.list(listing, "").await?;
        let names = found.into_iter().map(|one| one.full_name.parse::<Repository>());
        let names = names.collect::<Result<_, _>>().map_err(|why| {
            operation.error(GitHubErrorKind::Unexpected, "GitHub named no repository").because(why)
        })?;
        Ok(GroupAccess::Repositories(names))
    }

    pub(super) async fn put_members(
        &self,
        scope: &Scope,
        id: GitHubGroupId,
        members: &GroupAccess,
    ) -> Result<(), GitHubError> {
        let operation = Operation { name: "set_group_members", effect: Effect::Write };
        let path = members_path(operation, scope, id)?;
        let Some(body) = self.numbers(operation, scope, members).await? else { return Ok(()) };
        let request = operation.send(Method::PUT, &path, &body)?;
        self.call(operation, As::Scope(scope), request).await.map(drop)
    }

    /// GitHub's numbers of what a group is given to. They are read one by one: there are few, and they are needed
    /// only where something changes.
    async fn numbers(
        &self,
        operation: Operation,
        scope: &Scope,
        access: &GroupAccess,
    ) -> Result<Option<MembersBody>, GitHubError> {
        let mut ids = Vec::new();
        match access {
            GroupAccess::All => Ok(None),
            GroupAccess::Repositories(repositories) => {
                for repository in repositories {
                    let path = scope_path(&Scope::Repository(repository.clone()));
                    ids.push(self.number(operation, scope, &path, &repository.to_string()).await?);
                }
                Ok(Some(MembersBody::Repositories(ids)))
            }
            GroupAccess::Organizations(organizations) => {
                for name in organizations {
                    ids.push(self.number(operation, scope, &format!("/orgs/{name}"), name).await?);
                }
                Ok(Some(MembersBody::Organizations(ids)))
            }
        }
    }

    async fn number(
        &self,
        operation: Operation,
        scope: &Scope,
        path: &str,
        name: &str,
    ) -> Result<u64, GitHubError> {
        let reading = Operation::read(operation.name);
        let answer = self.get_again(reading, As::Scope(scope), path).await.map_err(|mut error| {
            if error.kind == GitHubErrorKind::NotFound {
                error.detail =
                    format!("`{name}` does not exist, or the credentials may not see it ({})", error.detail);
            }
            error
        })?;
        reading.read_json::<Numbered>(&answer).map(|found| found.id)
    }
}

fn groups_path(operation: Operation, scope: &Scope) -> Result<String, GitHubError> {
    match scope {
        Scope::Repository(_) => {
            Err(operation.error(GitHubErrorKind::Invalid, "a repository has no runner groups of its own"))
        }
        Scope::Organization(_) | Scope::Enterprise(_) => {
            Ok(format!("{}/actions/runner-groups", scope_path(scope)))
        }
    }
}

fn members_path(operation: Operation, scope: &Scope, id: GitHubGroupId) -> Result<String, GitHubError> {
    let members = if let Scope::Enterprise(_) = scope { "organizations" } else { "repositories" };
    Ok(format!("{}/{id}/{members}", groups_path(operation, scope)?))
}

/// A repository has no groups: its runners serve it alone, public or not.
fn group_of_a_repository() -> RegisteredGroup {
    RegisteredGroup {
        id: GitHubGroupId::DEFAULT,
        name: GitHubGroup::DEFAULT.to_owned(),
        default: true,
        inherited: false,
        visibility: GroupVisibility::All,
        allows_public_repositories: true,
        workflows: None,
        workflows_fixed: false,
    }
}
