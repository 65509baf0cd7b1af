//! Who and what there is: enterprises, accounts and their repositories, each found by name or by id.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Where runners register and hooks hang. In JSON: `{"organization": "acme"}` and so on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// An organization, by its login.
    Organization(String),
    /// A repository, as `owner/name`.
    Repository(String),
    /// An enterprise, by its slug.
    Enterprise(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ScopeId {
    Enterprise(u64),
    Organization(u64),
    Repository(u64),
}

#[derive(Debug, Clone)]
pub(super) struct Enterprise {
    pub(super) id: u64,
    pub(super) slug: String,
    pub(super) organizations: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) id: u64,
    pub(super) login: String,
    pub(super) is_user: bool,
    pub(super) repositories: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Repository {
    pub(super) id: u64,
    pub(super) owner: u64,
    pub(super) name: String,
    pub(super) full_name: String,
    pub(super) private: bool,
}

#[derive(Debug, Default)]
pub(super) struct World {
    enterprises: BTreeMap<u64, Enterprise>,
    accounts: BTreeMap<u64, Account>,
    repositories: BTreeMap<u64, Repository>,
    enterprise_ids: BTreeMap<String, u64>,
    account_ids: BTreeMap<String, u64>,
    repository_ids: BTreeMap<String, u64>,
}

impl World {
    pub(super) fn enterprise(&self, id: u64) -> &Enterprise {
        &self.enterprises[&id]
    }

    pub(super) fn account(&self, id: u64) -> &Account {
        &self.accounts[&id]
    }

    pub(super) fn repository(&self, id: u64) -> &Repository {
        &self.repositories[&id]
    }

    pub(super) fn enterprises(&self) -> impl Iterator<Item = &Enterprise> {
        self.enterprises.values()
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    pub(super) fn has_account(&self, id: u64) -> bool {
        self.accounts.contains_key(&id)
    }

    pub(super) fn has_repository(&self, id: u64) -> bool {
        self.repositories.contains_key(&id)
    }

    pub(super) fn find_enterprise(&self, slug: &str) -> Option<u64> {
        self.enterprise_ids.get(&slug.to_lowercase()).copied()
    }

    pub(super) fn find_account(&self, login: &str) -> Option<u64> {
        self.account_ids.get(&login.to_lowercase()).copied()
    }

    pub(super) fn find_repository(&self, full_name: &str) -> Option<u64> {
        self.repository_ids.get(&full_name.to_lowercase()).copied()
    }

    /// The enterprise of this name, made if it is not there.
    pub(super) fn add_enterprise(&mut self, slug: &str) -> u64 {
        if let Some(id) = self.find_enterprise(slug) {
            return id;
        }
        let id = 1_001 + self.enterprises.len() as u64;
        self.enterprise_ids.insert(slug.to_lowercase(), id);
        let organizations = BTreeSet::new();
        self.enterprises.insert(id, Enterprise { id, slug: slug.to_owned(), organizations });
        id
    }

    /// The account of this name, made if it is not there.
    pub(super) fn add_account(&mut self, login: &str, is_user: bool, enterprise: Option<u64>) -> u64 {
        if let Some(id) = self.find_account(login) {
            return id;
        }
        let id = 2_000_001 + self.accounts.len() as u64;
        self.account_ids.insert(login.to_lowercase(), id);
        if let Some(enterprise) = enterprise.and_then(|id| self.enterprises.get_mut(&id)) {
            enterprise.organizations.insert(id);
        }
        let repositories = BTreeSet::new();
        self.accounts.insert(id, Account { id, login: login.to_owned(), is_user, repositories });
        id
    }

    /// The repository of this name, made if it is not there.
    pub(super) fn add_repository(&mut self, owner: u64, name: &str, private: bool) -> u64 {
        let full_name = format!("{}/{name}", self.account(owner).login);
        if let Some(id) = self.find_repository(&full_name) {
            return id;
        }
        let id = 500_000_001 + self.repositories.len() as u64;
        self.repository_ids.insert(full_name.to_lowercase(), id);
        self.accounts.get_mut(&owner).expect("looked up above").repositories.insert(id);
        self.repositories.insert(id, Repository { id, owner, name: name.to_owned(), full_name, private });
        id
    }
}
