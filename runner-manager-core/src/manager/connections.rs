//! The connections to GitHub, and which of their accounts makes a call.
//!
//! A group names its connection, and a scope is worked on by the connection of its groups. A connection has one
//! account, or several that share the work: GitHub counts the calls of each by itself. What bounds an account's
//! calls is asked for where all replicas meet ([`Budgets`](crate::budget::Budgets)), by the keys that are made
//! here. How an account reaches GitHub is the affair of its [`GitHub`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Manager;
use crate::budget::{BudgetKey, Quota, Rate};
use crate::domain::{ConnectionName, Scope};
use crate::github::{Budget, GitHub};
use crate::store::StoreError;

/// One account at GitHub, with how hard it may be worked.
#[derive(Debug, Clone)]
pub struct Account {
    /// GitHub, with the credentials of the account.
    pub github: Arc<dyn GitHub>,
    /// What bounds its calls, over all replicas. Default 60 at a time: GitHub allows 100, and others may work
    /// with the same credentials.
    pub quota: Quota,
    /// How many runners it may register in a period, over all replicas. Default
    /// [`Account::REGISTRATIONS`]; none for no bound.
    pub registrations: Option<Rate>,
}

impl Account {
    /// How many runners may be registered in a minute: GitHub allows 900 points a minute to one endpoint, and a
    /// write costs five. Source:
    /// <https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits>.
    pub const REGISTRATIONS: Rate = Rate { calls: 180, per: Duration::from_mins(1) };

    /// An account within the usual bounds.
    pub fn new(github: Arc<dyn GitHub>) -> Self {
        let quota = Quota { concurrent: Some(60), rate: None };
        Self { github, quota, registrations: Some(Self::REGISTRATIONS) }
    }
}

/// All connections to GitHub, each with the accounts that share its work.
#[derive(Debug, Clone, Default)]
pub struct Connections(BTreeMap<ConnectionName, Vec<Account>>);

impl Connections {
    /// No connection yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same connections and this one, in the place of one of its name.
    #[must_use]
    pub fn with(mut self, name: ConnectionName, accounts: Vec<Account>) -> Self {
        self.0.insert(name, accounts);
        self
    }

    /// The accounts of a connection.
    pub fn accounts(&self, name: &ConnectionName) -> &[Account] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// All connections by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ConnectionName, &[Account])> {
        self.0.iter().map(|(name, accounts)| (name, accounts.as_slice()))
    }
}

/// One account for all groups that name no connection.
impl From<Account> for Connections {
    fn from(account: Account) -> Self {
        Self::new().with(ConnectionName::default(), vec![account])
    }
}

/// GitHub within the usual bounds, for all groups that name no connection.
impl From<Arc<dyn GitHub>> for Connections {
    fn from(github: Arc<dyn GitHub>) -> Self {
        Account::new(github).into()
    }
}

/// An account that may make a call, and the key by which its calls are counted.
#[derive(Debug, Clone)]
pub(super) struct Candidate<'a> {
    pub(super) account: &'a Account,
    pub(super) key: BudgetKey,
}

impl Manager {
    /// The accounts that work on a scope, in another order each time, so that they share the work. None where
    /// the connection of its groups is another replica's.
    pub(super) async fn accounts_for(&self, scope: &Scope) -> Result<Vec<Candidate<'_>>, StoreError> {
        let name = self.connection_of(scope).await?;
        let accounts = self.parts().github.accounts(&name);
        let mut candidates: Vec<Candidate<'_>> = accounts
            .iter()
            .enumerate()
            .map(|(number, account)| {
                let key = BudgetKey::github(&format!("{name}/{number}/{}", account.github.account(scope)));
                Candidate { account, key }
            })
            .collect();
        if candidates.len() > 1 {
            self.turn(&mut candidates);
        }
        Ok(candidates)
    }

    /// What GitHub last told this process of the calls that are left, by the names of the connection and of the
    /// account.
    ///
    /// # Errors
    /// [`StoreError`] when the groups cannot be read.
    pub async fn github_budgets(&self) -> Result<BTreeMap<(String, String), Budget>, StoreError> {
        let mut budgets = BTreeMap::new();
        for scope in self.scopes().await? {
            let name = self.connection_of(&scope).await?;
            for (number, account) in self.parts().github.accounts(&name).iter().enumerate() {
                if let Some(budget) = account.github.budget(&scope) {
                    let word = format!("{number}:{}", account.github.account(&scope));
                    budgets.insert((name.to_string(), word), budget);
                }
            }
        }
        Ok(budgets)
    }

    /// The connection of a scope's groups. A repository by itself is worked on by that of the groups that serve
    /// it; what no group names any more, by the first there is.
    async fn connection_of(&self, scope: &Scope) -> Result<ConnectionName, StoreError> {
        let groups = self.listed_groups().await?;
        let of = |serves: &dyn Fn(&Scope) -> bool| {
            let found = groups.iter().find(|group| serves(&group.spec.scope));
            found.map(|group| group.spec.github.clone())
        };
        let covers = |own: &Scope| match (scope, own) {
            (Scope::Repository(repository), own) => own.covers(repository, None),
            (Scope::Organization(_) | Scope::Enterprise(_), _) => false,
        };
        let named = of(&|own| own == scope)
            .or_else(|| of(&covers))
            .or_else(|| of(&|own| matches!(own, Scope::Enterprise(_))));
        let first = || self.parts().github.iter().next().map(|(name, _)| name.clone());
        Ok(named.or_else(first).unwrap_or_default())
    }
}
