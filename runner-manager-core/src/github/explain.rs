//! What a refusal comes to, for people: which permission is missing, or what the plan does not have.

use super::{GitHubError, GitHubErrorKind};
use crate::domain::{HookPlace, Scope};

impl GitHubError {
    /// What it means where a runner group of `scope` was to be listed, made or changed.
    ///
    /// Additional groups of an organization are a matter of its plan (GitHub Team and above), source:
    /// <https://docs.github.com/actions/how-tos/manage-runners/self-hosted-runners/manage-access>.
    pub fn about_groups(&self, scope: &Scope) -> String {
        let detail = &self.detail;
        match self.kind {
            GitHubErrorKind::PermissionDenied => {
                format!("the credentials may not do that, they need {} ({detail})", permission(scope))
            }
            GitHubErrorKind::NotFound if self.names_what_is_absent() => detail.clone(),
            GitHubErrorKind::NotFound | GitHubErrorKind::Invalid => format!(
                "GitHub does not do that: the plan may have no runner groups beside Default (GitHub Team has), or \
                 the credentials lack {} ({detail})",
                permission(scope)
            ),
            GitHubErrorKind::NameTaken
            | GitHubErrorKind::Busy
            | GitHubErrorKind::NoInstallation
            | GitHubErrorKind::Unauthenticated
            | GitHubErrorKind::RateLimited
            | GitHubErrorKind::Unavailable
            | GitHubErrorKind::Unclear
            | GitHubErrorKind::Unexpected => self.to_string(),
        }
    }

    /// What it means where a hook, or the log of its deliveries, was to be read.
    ///
    /// Source: <https://docs.github.com/rest/orgs/webhooks#list-deliveries-for-an-organization-webhook>.
    pub fn about_hooks(&self, place: &HookPlace) -> String {
        let permission = match place {
            HookPlace::Scope(Scope::Organization(_)) => {
                "`organization_hooks: write` (of an App), or `admin:org_hook` (of a classic token)"
            }
            HookPlace::Scope(Scope::Repository(_) | Scope::Enterprise(_)) => {
                "`repository_hooks: write` (of an App), or `admin:repo_hook` (of a classic token)"
            }
            HookPlace::App { .. } => return self.to_string(),
        };
        match self.kind {
            GitHubErrorKind::PermissionDenied | GitHubErrorKind::NotFound => {
                format!("the credentials may not see it, they need {permission} ({})", self.detail)
            }
            GitHubErrorKind::Invalid
            | GitHubErrorKind::NoInstallation
            | GitHubErrorKind::NameTaken
            | GitHubErrorKind::Busy
            | GitHubErrorKind::Unauthenticated
            | GitHubErrorKind::RateLimited
            | GitHubErrorKind::Unavailable
            | GitHubErrorKind::Unclear
            | GitHubErrorKind::Unexpected => self.to_string(),
        }
    }

    /// Whether it says by name what does not exist: a repository or an organization.
    fn names_what_is_absent(&self) -> bool {
        self.detail.starts_with('`')
    }
}

/// What it takes to change the runner groups of a scope.
const fn permission(scope: &Scope) -> &'static str {
    match scope {
        Scope::Organization(_) => {
            "`organization_self_hosted_runners: write` (of an App), or `admin:org` (of a classic token)"
        }
        Scope::Repository(_) => "`administration: write` (of an App), or `repo` (of a classic token)",
        Scope::Enterprise(_) => {
            "`manage_runners:enterprise` (of a classic token; an App has no such permission)"
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::{ConnectionName, HookPlace, Scope};
    use crate::github::{GitHubError, GitHubErrorKind};

    #[test]
    fn a_refusal_names_what_is_missing() {
        let said = |kind, detail: &str, scope: &Scope| {
            GitHubError::new(kind, "create_runner_group", detail).about_groups(scope)
        };
        let acme = Scope::organization("acme").unwrap();
        let inc = Scope::enterprise("inc").unwrap();
        for (kind, detail, scope, part) in [
            (
                GitHubErrorKind::PermissionDenied,
                "status 403",
                &acme,
                "organization_self_hosted_runners: write",
            ),
            (GitHubErrorKind::PermissionDenied, "status 403", &inc, "manage_runners:enterprise"),
            (GitHubErrorKind::NotFound, "status 404", &acme, "the plan may have no runner groups"),
            (GitHubErrorKind::Invalid, "status 422", &acme, "the plan may have no runner groups"),
            (
                GitHubErrorKind::Unavailable,
                "status 503",
                &acme,
                "create_runner_group: Unavailable: status 503",
            ),
        ] {
            let said = said(kind, detail, scope);
            assert!(said.contains(part) && said.contains(detail), "{said}");
        }
        let hooks = |kind, place| GitHubError::new(kind, "hooks", "status 404").about_hooks(&place);
        let of_scope = hooks(GitHubErrorKind::NotFound, HookPlace::Scope(acme.clone()));
        assert!(of_scope.contains("`admin:org_hook`") && of_scope.contains("status 404"), "{of_scope}");
        let app = HookPlace::App { connection: ConnectionName::default(), account: 0 };
        assert_eq!(hooks(GitHubErrorKind::NotFound, app), "hooks: NotFound: status 404");
        let absent = "`acme/lib` does not exist, or the credentials may not see it (status 404)";
        assert_eq!(said(GitHubErrorKind::NotFound, absent, &acme), absent);
    }
}
