//! What an installation's tokens may do. Permissions as GitHub's documentation names them for each route;
//! that no installation reaches the routes of enterprises is in its `OpenAPI` description
//! (`enabledForGitHubApps`).

use std::collections::BTreeMap;

use http::StatusCode;

use super::{reply::Reply, world::ScopeId};

/// By the permission's name: `read` or `write`.
pub(super) type Permissions = BTreeMap<String, String>;

/// What an App for runners asks for, with nothing missing.
pub(super) fn all() -> Permissions {
    let names = [
        ("actions", "write"),
        ("administration", "write"),
        ("metadata", "read"),
        ("organization_hooks", "write"),
        ("organization_self_hosted_runners", "write"),
        ("repository_hooks", "write"),
    ];
    names.into_iter().map(|(name, level)| (name.to_owned(), level.to_owned())).collect()
}

fn suffices(granted: &Permissions, name: &str, level: &str) -> bool {
    granted.get(name).is_some_and(|granted| granted == level || granted == "write")
}

/// What a token may do: all that the App may, or what was asked for. None if the App may not do that.
pub(super) fn narrowed(granted: &Permissions, asked: Option<Permissions>) -> Option<Permissions> {
    let Some(asked) = asked else { return Some(granted.clone()) };
    asked.iter().all(|(name, level)| suffices(granted, name, level)).then_some(asked)
}

/// Refuses what a token with these permissions may not do.
pub(super) fn check(granted: &Permissions, scope: ScopeId, rest: &[&str], method: &str) -> Result<(), Reply> {
    let refused = || Reply::error(StatusCode::FORBIDDEN, "Resource not accessible by integration");
    let name = match (scope, rest) {
        (ScopeId::Enterprise(_), _) => return Err(refused()),
        (ScopeId::Organization(_), ["actions", "permissions"]) => "organization_administration",
        (ScopeId::Organization(_), ["actions", ..]) => "organization_self_hosted_runners",
        (ScopeId::Organization(_), ["hooks", ..]) => "organization_hooks",
        (ScopeId::Repository(_), ["actions", "permissions"] | ["actions", "runners", ..]) => "administration",
        (ScopeId::Repository(_), ["actions", ..]) => "actions",
        (ScopeId::Repository(_), ["hooks", ..]) => "repository_hooks",
        _ => return Ok(()),
    };
    let level = if method == "GET" { "read" } else { "write" };
    if suffices(granted, name, level) {
        return Ok(());
    }
    Err(refused().with_header("x-accepted-github-permissions", format!("{name}={level}")))
}
