//! The cases that make and change runner groups.
#![expect(clippy::unwrap_used, reason = "a case panics where its subject does not behave")]

use super::Subject;
use crate::domain::{GitHubGroupId, GroupAccess, GroupRules, GroupVisibility, RegisteredGroup, Scope};
use crate::github::{GitHubError, GitHubErrorKind};

const NAME: &str = "conformance";

pub(super) async fn a_group_is_made(subject: Subject) {
    if subject.is_of_a_repository() {
        return;
    }
    let rules = subject.rules();
    let made = subject.make(&rules).await.unwrap();
    assert_eq!((made.name.as_str(), made.default, made.inherited), (NAME, false, false));
    let told = (made.visibility, made.allows_public_repositories, made.workflows.clone());
    assert_eq!(told, (GroupVisibility::Selected, true, rules.workflows.clone()));
    let listed = subject.github.runner_groups(&subject.scope).await.unwrap();
    assert_eq!(listed.iter().find(|group| group.id == made.id), Some(&made));
    assert_eq!(subject.members(made.id).await, rules.access);

    let open = GroupRules { access: GroupAccess::All, allows_public_repositories: false, workflows: None };
    let made = subject.github.create_runner_group(&subject.scope, "open", &open).await.unwrap();
    let told = (made.visibility, made.allows_public_repositories, made.workflows);
    assert_eq!(told, (GroupVisibility::All, false, None));
}

pub(super) async fn a_taken_group_is_told(subject: Subject) {
    if subject.is_of_a_repository() {
        return;
    }
    let rules = subject.rules();
    let made = subject.make(&rules).await.unwrap();
    let error = subject.make(&rules).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::NameTaken, "{error}");
    let listed = subject.github.runner_groups(&subject.scope).await.unwrap();
    let own: Vec<_> = listed.iter().filter(|group| !group.default).collect();
    assert_eq!(own, [&made]);
}

pub(super) async fn a_group_is_changed(subject: Subject) {
    if subject.is_of_a_repository() {
        return;
    }
    let (github, scope, rules) = (&subject.github, &subject.scope, subject.rules());
    let open = GroupRules { access: GroupAccess::All, allows_public_repositories: false, workflows: None };
    let made = subject.make(&open).await.unwrap();
    let changed = github.update_runner_group(scope, made.id, NAME, &rules).await.unwrap();
    let told = (changed.visibility, changed.allows_public_repositories, &changed.workflows);
    assert_eq!(told, (GroupVisibility::Selected, true, &rules.workflows));
    assert_eq!(github.runner_groups(scope).await.unwrap().last(), Some(&changed));
    assert_ne!(subject.members(made.id).await, rules.access, "members are set by themselves");
    github.set_group_members(scope, made.id, &rules.access).await.unwrap();
    assert_eq!(subject.members(made.id).await, rules.access);
    let changed = github.update_runner_group(scope, made.id, NAME, &open).await.unwrap();
    assert_eq!((changed.visibility, changed.workflows), (GroupVisibility::All, None));
    let absent = GitHubGroupId(999_999);
    let error = github.update_runner_group(scope, absent, NAME, &open).await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::NotFound, "{error}");
}

pub(super) async fn a_repository_has_no_groups(subject: Subject) {
    let (github, scope) = (&subject.github, Scope::Repository(subject.repository.clone()));
    let (rules, id) = (subject.rules(), GitHubGroupId::DEFAULT);
    let errors = [
        github.create_runner_group(&scope, NAME, &rules).await.unwrap_err(),
        github.update_runner_group(&scope, id, NAME, &rules).await.unwrap_err(),
        github.group_members(&scope, id).await.unwrap_err(),
        github.set_group_members(&scope, id, &rules.access).await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.kind == GitHubErrorKind::Invalid), "{errors:?}");
}

impl Subject {
    fn is_of_a_repository(&self) -> bool {
        matches!(self.scope, Scope::Repository(_))
    }

    /// Rules that differ from what a new group has in everything.
    fn rules(&self) -> GroupRules {
        let repository = &self.repository;
        let access = match &self.scope {
            Scope::Enterprise(_) => {
                GroupAccess::Organizations([repository.owner().to_ascii_lowercase()].into())
            }
            Scope::Organization(_) | Scope::Repository(_) => {
                GroupAccess::Repositories([repository.clone()].into())
            }
        };
        let workflow = format!("{repository}/.github/workflows/deploy.yaml@main");
        GroupRules { access, allows_public_repositories: true, workflows: Some([workflow].into()) }
    }

    async fn make(&self, rules: &GroupRules) -> Result<RegisteredGroup, GitHubError> {
        self.github.create_runner_group(&self.scope, NAME, rules).await
    }

    async fn members(&self, id: GitHubGroupId) -> GroupAccess {
        self.github.group_members(&self.scope, id).await.unwrap()
    }
}
