//! Whether GitHub would let us work on a scope, and whether there would be anything to work on.

use serde::Deserialize;

use super::models::Installation;
use super::operation::Operation;
use super::transport::As;
use super::{RestGitHub, scope_path};
use crate::domain::Scope;
use crate::github::{GitHubError, GitHubErrorKind};

const OPERATION: Operation = Operation::read("check");

impl RestGitHub {
    /// What is missing, one sentence each: first of the App's installation, then of what the credentials may.
    pub(super) async fn what_is_missing(&self, scope: &Scope) -> Result<Vec<String>, GitHubError> {
        let missing = self.what_is_not_allowed(scope).await?;
        if missing.is_empty() { self.what_is_switched_off(scope).await } else { Ok(missing) }
    }

    async fn what_is_not_allowed(&self, scope: &Scope) -> Result<Vec<String>, GitHubError> {
        if !self.transport.has_app() {
            return self.what_is_refused(scope).await;
        }
        let installation = match self.installation(scope).await? {
            Found::Missing(sentence) => return Ok(vec![sentence]),
            Found::Installation(installation) => installation,
        };
        let mut missing = permissions_missing(scope, &installation);
        if installation.suspended_at.is_some() {
            missing.push(format!("the App's installation for {scope} is suspended"));
        }
        if missing.is_empty() { self.what_is_refused(scope).await } else { Ok(missing) }
    }

    async fn installation(&self, scope: &Scope) -> Result<Found, GitHubError> {
        let refusal = match self.get(OPERATION, As::App, &installation_path(scope)).await {
            Ok(answer) => return OPERATION.read_json(&answer).map(Found::Installation),
            Err(refusal) => refusal,
        };
        match refusal.kind {
            GitHubErrorKind::NotFound => {
                Ok(Found::Missing(format!("the App is not installed for {scope}: install it there")))
            }
            GitHubErrorKind::Unauthenticated => Ok(Found::Missing(format!(
                "GitHub does not know the App by its id and private key ({}): check both",
                refusal.detail
            ))),
            _ => Err(refusal),
        }
    }

    /// Asks for what a manager asks for all the time.
    async fn what_is_refused(&self, scope: &Scope) -> Result<Vec<String>, GitHubError> {
        let path = format!("{}/actions/runners?per_page=1", scope_path(scope));
        let Err(error) = self.get(OPERATION, As::Scope(scope), &path).await else {
            return Ok(Vec::new());
        };
        let sentence = match error.kind {
            GitHubErrorKind::Unauthenticated => {
                "GitHub does not take the credentials: they are wrong or have ended"
            }
            GitHubErrorKind::PermissionDenied => "the credentials may not manage self-hosted runners there",
            GitHubErrorKind::NotFound => "it does not exist, or the credentials may not see its runners",
            _ => return Err(error),
        };
        Ok(vec![format!("{scope}: {sentence} ({})", error.detail)])
    }

    /// Whether GitHub Actions is switched off in a scope, so that it has no jobs. To know that takes a permission
    /// that nothing else does: who may not know is told nothing.
    async fn what_is_switched_off(&self, scope: &Scope) -> Result<Vec<String>, GitHubError> {
        if let Scope::Enterprise(_) = scope {
            return Ok(Vec::new());
        }
        let path = format!("{}/actions/permissions", scope_path(scope));
        let policy: ActionsPolicy = match self.get(OPERATION, As::Scope(scope), &path).await {
            Ok(answer) => OPERATION.read_json(&answer)?,
            Err(error) if is_not_ours_to_know(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let off = policy.enabled == Some(false) || policy.enabled_repositories.as_deref() == Some("none");
        let sentence = || format!("{scope}: GitHub Actions is switched off there, so it has no jobs");
        Ok(off.then(sentence).into_iter().collect())
    }
}

/// Where Actions is switched on: what is told of a repository, and what of an organization.
#[derive(Deserialize)]
struct ActionsPolicy {
    enabled: Option<bool>,
    enabled_repositories: Option<String>,
}

fn is_not_ours_to_know(error: &GitHubError) -> bool {
    matches!(error.kind, GitHubErrorKind::PermissionDenied | GitHubErrorKind::NotFound)
}

enum Found {
    Missing(String),
    Installation(Installation),
}

/// Where the App's installation for a scope is looked up.
pub(crate) fn installation_path(scope: &Scope) -> String {
    format!("{}/installation", scope_path(scope))
}

fn permissions_missing(scope: &Scope, installation: &Installation) -> Vec<String> {
    // What an enterprise's runners need is not among the permissions that GitHub documents for an
    // installation, so that only the attempt tells.
    let needed: &[(&str, &[&str])] = match scope {
        Scope::Organization(_) => {
            &[("organization_self_hosted_runners", &["write"]), ("actions", &["read", "write"])]
        }
        Scope::Repository(_) => &[("administration", &["write"]), ("actions", &["read", "write"])],
        Scope::Enterprise(_) => &[],
    };
    let lacks = |name: &str, enough: &[&str]| {
        !installation.permissions.get(name).is_some_and(|given| enough.contains(&given.as_str()))
    };
    let lacking = needed.iter().filter(|(name, enough)| lacks(name, enough));
    lacking.map(|(name, enough)| format!("the App lacks the permission `{name}: {}`", enough[0])).collect()
}
