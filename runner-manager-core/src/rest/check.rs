//! Whether GitHub would let us work on a scope, and whether there would be anything to work on.

use jiff::SignedDuration;
use serde::Deserialize;

use super::models::Installation;
use super::operation::{CLASSIC_TOKEN, Operation, not_installed, suspended, unknown_app};
use super::transport::As;
use super::{RestGitHub, scope_path};
use crate::domain::Scope;
use crate::github::{GitHubError, GitHubErrorKind, Intent};

/// How far clocks may be apart without a word.
const CLOCKS_MAY_DIFFER: SignedDuration = SignedDuration::from_mins(1);

const OPERATION: Operation = Operation::read("check");

impl RestGitHub {
    /// What is missing, one sentence each: first of the App's installation, then of what the credentials may.
    pub(super) async fn what_is_missing(
        &self,
        scope: &Scope,
        intent: Intent,
    ) -> Result<Vec<String>, GitHubError> {
        let mut missing = self.what_is_not_allowed(scope, intent).await?;
        if missing.is_empty() {
            missing = self.what_is_switched_off(scope).await?;
        }
        missing.extend(clock_complaint(self.books.clocks_apart()));
        Ok(missing)
    }

    async fn what_is_not_allowed(&self, scope: &Scope, intent: Intent) -> Result<Vec<String>, GitHubError> {
        let Some(app) = self.transport.app() else { return self.what_is_refused(scope).await };
        let installation = match self.installation(app, scope).await? {
            Found::Missing(sentence) => return Ok(vec![sentence]),
            Found::Installation(installation) => installation,
        };
        let mut missing = permissions_missing(scope, intent, &installation);
        if installation.suspended_at.is_some() {
            missing.push(suspended(app, &owner(scope)));
        }
        if missing.is_empty() { self.what_is_refused(scope).await } else { Ok(missing) }
    }

    async fn installation(&self, app: u64, scope: &Scope) -> Result<Found, GitHubError> {
        let refusal = match self.get(OPERATION, As::App, &installation_path(scope)).await {
            Ok(answer) => return OPERATION.read_json(&answer).map(Found::Installation),
            Err(refusal) => refusal,
        };
        match refusal.kind {
            GitHubErrorKind::NotFound => Ok(Found::Missing(not_installed(app, &owner(scope)))),
            GitHubErrorKind::Unauthenticated => Ok(Found::Missing(unknown_app(app, &refusal.detail))),
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
            GitHubErrorKind::NoInstallation => "the App cannot work there",
            _ => return Err(error),
        };
        let hint = match scope {
            Scope::Enterprise(_) if self.transport.app().is_some() => CLASSIC_TOKEN,
            Scope::Organization(_) | Scope::Repository(_) | Scope::Enterprise(_) => "",
        };
        Ok(vec![format!("{scope}: {sentence} ({}){hint}", error.detail)])
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

/// What there is to be said of how far GitHub's clock is ahead of ours.
fn clock_complaint(apart: SignedDuration) -> Option<String> {
    let side = if apart.is_positive() { "behind" } else { "ahead of" };
    (apart.abs() > CLOCKS_MAY_DIFFER).then(|| {
        let by = SignedDuration::from_secs(apart.as_secs()).abs();
        format!("this machine's clock is {by:#} {side} GitHub's: set it")
    })
}

fn is_not_ours_to_know(error: &GitHubError) -> bool {
    matches!(error.kind, GitHubErrorKind::PermissionDenied | GitHubErrorKind::NotFound)
}

enum Found {
    Missing(String),
    Installation(Installation),
}

/// The account whose installation serves a scope.
pub(crate) fn owner(scope: &Scope) -> String {
    match scope {
        Scope::Organization(name) => name.clone(),
        Scope::Repository(repository) => repository.owner().to_ascii_lowercase(),
        Scope::Enterprise(slug) => format!("enterprise {slug}"),
    }
}

/// Where the App's installation for a scope is looked up.
pub(crate) fn installation_path(scope: &Scope) -> String {
    format!("{}/installation", scope_path(scope))
}

fn permissions_missing(scope: &Scope, intent: Intent, installation: &Installation) -> Vec<String> {
    let actions: &[&str] = match intent {
        Intent::Supply => &["read", "write"],
        Intent::SupplyAndRerun => &["write"],
    };
    // What an enterprise's runners need is not among the permissions that GitHub documents for an
    // installation, so that only the attempt tells.
    let needed: &[(&str, &[&str])] = match scope {
        Scope::Organization(_) => &[("organization_self_hosted_runners", &["write"]), ("actions", actions)],
        Scope::Repository(_) => &[("administration", &["write"]), ("actions", actions)],
        Scope::Enterprise(_) => &[],
    };
    let lacks = |name: &str, enough: &[&str]| {
        !installation.permissions.get(name).is_some_and(|given| enough.contains(&given.as_str()))
    };
    let lacking = needed.iter().filter(|(name, enough)| lacks(name, enough));
    lacking.map(|(name, enough)| format!("the App lacks the permission `{name}: {}`", enough[0])).collect()
}
