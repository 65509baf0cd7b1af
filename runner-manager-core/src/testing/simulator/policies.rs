//! What organizations and repositories are themselves, and whether GitHub Actions is switched on in them. Nothing
//! follows from that here: a repository without Actions has no jobs, and none is queued for it by itself.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Simulator,
    reply::{Call, Reply},
    shapes,
    world::ScopeId,
};

/// Where Actions is not as at the beginning, which is on everywhere.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// The word for the repositories of an organization that have it.
    organizations: BTreeMap<u64, Enabled>,
    repositories: BTreeMap<u64, bool>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Enabled {
    All,
    None,
    Selected,
}

impl Enabled {
    const fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::None => "none",
            Self::Selected => "selected",
        }
    }
}

#[derive(Deserialize)]
struct OrganizationPolicy {
    enabled_repositories: Enabled,
}

#[derive(Deserialize)]
struct RepositoryPolicy {
    enabled: bool,
}

impl Simulator {
    /// An organization or a repository itself, as far as anybody here needs it.
    pub(super) fn scope_itself(&self, scope: ScopeId) -> Reply {
        let base = &self.settings.base_url;
        match scope {
            ScopeId::Organization(id) => Reply::ok(shapes::organization(base, self.world.account(id))),
            ScopeId::Repository(id) => {
                let repository = self.world.repository(id);
                let owner = self.world.account(repository.owner);
                Reply::ok(shapes::full_repository(base, repository, owner))
            }
            ScopeId::Enterprise(_) => Reply::not_found(),
        }
    }

    /// The route `actions/permissions`.
    pub(super) fn permissions_route(&mut self, scope: ScopeId, call: &Call<'_>) -> Reply {
        match (call.method, scope) {
            ("GET", ScopeId::Organization(id)) => {
                let enabled = self.policies.organizations.get(&id).copied().unwrap_or(Enabled::All);
                Reply::ok(json!({"enabled_repositories": enabled.word(), "allowed_actions": "all"}))
            }
            ("GET", ScopeId::Repository(id)) => Reply::ok(self.repository_policy(id)),
            ("PUT", ScopeId::Organization(id)) => match call.json::<OrganizationPolicy>() {
                Ok(policy) => {
                    self.policies.organizations.insert(id, policy.enabled_repositories);
                    Reply::no_content()
                }
                Err(reply) => reply,
            },
            ("PUT", ScopeId::Repository(id)) => match call.json::<RepositoryPolicy>() {
                Ok(policy) => {
                    self.policies.repositories.insert(id, policy.enabled);
                    Reply::no_content()
                }
                Err(reply) => reply,
            },
            _ => Reply::not_found(),
        }
    }

    fn repository_policy(&self, id: u64) -> Value {
        if self.policies.repositories.get(&id).copied().unwrap_or(true) {
            json!({"enabled": true, "allowed_actions": "all"})
        } else {
            json!({"enabled": false})
        }
    }
}
