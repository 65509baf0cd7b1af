//! Which connection to GitHub a group works by, and whether all groups go together.

use std::collections::BTreeMap;

use super::cursor::{Cursor, Fields, hint};
use super::github::Declared;
use crate::domain::{ConnectionName, RunnerGroup, Scope};

/// The connection that a group names. Without a word it is the only one there is, or the one that is called
/// `default`.
pub(super) fn connection(
    group: &Cursor<'_>,
    fields: &Fields<'_>,
    declared: &Declared,
) -> Option<ConnectionName> {
    let Some(at) = fields.optional("github") else {
        let only = declared.keys().next().filter(|_| declared.len() == 1);
        let default = ConnectionName::default();
        let found = only.or_else(|| declared.keys().find(|name| **name == default.as_str()));
        if found.is_none() {
            let names: Vec<_> = declared.keys().map(String::as_str).collect();
            group.fault(format!("expected the key github with one of the connections: {}", names.join(", ")));
        }
        return found.and_then(|name| ConnectionName::new(name.as_str()).ok());
    };
    let name = at.text()?;
    if !declared.contains_key(name) {
        at.fault(format!("unknown connection `{name}`{}", hint(name, declared.keys().map(String::as_str))));
        return None;
    }
    // Where the name is none, that was told at the connection.
    ConnectionName::new(name).ok()
}

/// What groups of one scope, or of one owner, must have in common: a scope is worked on by one connection, and a
/// webhook does not tell which of two servers it comes from.
#[derive(Debug)]
pub(super) struct Connected<'a> {
    declared: Option<&'a Declared>,
    scopes: BTreeMap<Scope, (ConnectionName, u64)>,
    owners: BTreeMap<String, (String, u64)>,
}

impl<'a> Connected<'a> {
    pub(super) const fn new(declared: Option<&'a Declared>) -> Self {
        Self { declared, scopes: BTreeMap::new(), owners: BTreeMap::new() }
    }

    /// Tells where a group names another connection than one before it that it goes together with.
    pub(super) fn agrees(&mut self, at: &Cursor<'_>, group: &RunnerGroup) {
        let (scope, name) = (&group.scope, &group.github);
        let first = self.scopes.entry(scope.clone()).or_insert_with(|| (name.clone(), at.line()));
        if first.0 != *name {
            let (other, line) = first;
            return at.fault(format!(
                "{scope} is worked on by connection `{other}` since line {line}: its groups name one connection"
            ));
        }
        let api_url = self.declared.and_then(|declared| declared.get(name.as_str())?.as_ref());
        let (Some(owner), Some(api_url)) = (owner(scope), api_url) else { return };
        let server = api_url.authority();
        let first = self.owners.entry(owner).or_insert_with_key(|_| (server.clone(), at.line()));
        if first.0 != server {
            let (other, line) = first;
            at.fault(format!(
                "there is a group for {scope} at {other} in line {line} already: a webhook does not tell the same \
                 names at two servers apart"
            ));
        }
    }
}

fn owner(scope: &Scope) -> Option<String> {
    match scope {
        Scope::Organization(name) => Some(name.clone()),
        Scope::Repository(repository) => Some(repository.owner().to_ascii_lowercase()),
        Scope::Enterprise(_) => None,
    }
}
