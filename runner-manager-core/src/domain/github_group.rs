//! GitHub's runner groups: which one a group of ours registers into, who may use its runners, and what was found
//! of it at GitHub.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Failure, GitHubGroupId, Repository};

/// GitHub's runner group that a group of ours registers its runners into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitHubGroup {
    /// Its name at GitHub.
    pub name: String,
    /// What it is kept like at GitHub, where it is managed. Without it GitHub's group is never changed. Never
    /// set for the default group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<GroupRules>,
}

/// Who may use the runners of one of GitHub's runner groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRules {
    /// Whose jobs its runners take.
    pub access: GroupAccess,
    /// Whether public repositories are among those.
    pub allows_public_repositories: bool,
    /// The workflows whose jobs alone its runners take, as in `acme/app/.github/workflows/deploy.yaml@main`;
    /// none for all.
    pub workflows: Option<BTreeSet<String>>,
}

/// Whose jobs the runners of one of GitHub's runner groups take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupAccess {
    /// Those of all that the scope has.
    All,
    /// Those of these repositories of an organization.
    Repositories(BTreeSet<Repository>),
    /// Those of these organizations of an enterprise, by their names in lower case.
    Organizations(BTreeSet<String>),
}

/// A runner group as GitHub tells of it.
#[expect(clippy::struct_excessive_bools, reason = "GitHub's own flags, each by itself")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredGroup {
    /// GitHub's number.
    pub id: GitHubGroupId,
    /// Its name.
    pub name: String,
    /// Whether it is the scope's default.
    pub default: bool,
    /// Whether it is an enterprise's, given to this organization: the enterprise alone changes it.
    pub inherited: bool,
    /// Whose jobs its runners take.
    pub visibility: GroupVisibility,
    /// Whether public repositories may use it.
    pub allows_public_repositories: bool,
    /// The workflows whose jobs alone its runners take; none for all.
    pub workflows: Option<BTreeSet<String>>,
    /// Whether an enterprise says which workflows these are, and nobody else.
    pub workflows_fixed: bool,
}

/// Whose jobs the runners of a runner group take, as far as GitHub says it in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupVisibility {
    /// Those of all that the scope has.
    All,
    /// Those of all private repositories of the scope.
    Private,
    /// Those of some repositories or organizations, which are listed by themselves.
    Selected,
}

/// A runner group at GitHub, with whom it was given to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundGroup {
    /// The group.
    pub group: RegisteredGroup,
    /// The repositories or organizations that it was given to, where it is for some; none also where there are more
    /// than are kept.
    pub members: Option<GroupAccess>,
}

/// What is known of GitHub's runner group of a group of ours, since it was last looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupFinding {
    /// What was found; none where GitHub has no such group, or did not say.
    pub found: Option<FoundGroup>,
    /// Why it is not found, or not as it should be, and since when; none where it is, or where it is only missing.
    pub trouble: Option<Failure>,
    /// What was last changed about it.
    pub mended: Option<Mended>,
}

/// A change that was made at GitHub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// When, by the store's time.
    pub at: Timestamp,
    /// What was not as configured, in words.
    pub what: String,
}

impl GroupAccess {
    /// The same as GitHub says it in a listing.
    pub const fn visibility(&self) -> GroupVisibility {
        match self {
            Self::All => GroupVisibility::All,
            Self::Repositories(_) | Self::Organizations(_) => GroupVisibility::Selected,
        }
    }
}

impl Default for GitHubGroup {
    fn default() -> Self {
        Self { name: Self::DEFAULT.to_owned(), managed: None }
    }
}

impl GitHubGroup {
    /// The group that every scope has, and the only one of a repository.
    pub const DEFAULT: &'static str = "Default";

    /// Whether this is GitHub's own default group.
    pub fn is_default(&self) -> bool {
        self.is_called(Self::DEFAULT)
    }

    /// Whether a group of this name is meant. GitHub compares names without case.
    pub fn is_called(&self, name: &str) -> bool {
        self.name.to_lowercase() == name.to_lowercase()
    }
}

#[cfg(test)]
mod tests {
    use super::{GitHubGroup, GroupAccess, GroupRules};

    #[test]
    fn what_is_not_managed_is_written_as_before() {
        let text = serde_json::to_string(&GitHubGroup::default()).unwrap();
        assert_eq!(text, r#"{"name":"Default"}"#);
        assert_eq!(serde_json::from_str::<GitHubGroup>(&text).unwrap(), GitHubGroup::default());
    }

    #[test]
    fn rules_read_back() {
        for access in [
            GroupAccess::All,
            GroupAccess::Repositories(["acme/app".parse().unwrap()].into()),
            GroupAccess::Organizations(["acme".to_owned()].into()),
        ] {
            let managed = Some(GroupRules { access, allows_public_repositories: true, workflows: None });
            let group = GitHubGroup { name: "Large".to_owned(), managed };
            let text = serde_json::to_string(&group).unwrap();
            assert_eq!(serde_json::from_str::<GitHubGroup>(&text).unwrap(), group);
        }
    }
}
