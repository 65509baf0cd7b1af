//! The connections to GitHub, and which of their accounts makes a call.
//!
//! A group names its connection, and a scope is worked on by the connection of its groups. A connection has one
//! account, or several that share the work: GitHub counts the calls of each by itself. What bounds an account's
//! calls is asked for where all replicas meet ([`Budgets`](crate::budget::Budgets)), by the word that its
//! [`GitHub`] has for whom GitHub counts them for: not by its place in a configuration, which may be another one
//! elsewhere. How an account reaches GitHub is the affair of its [`GitHub`], too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::Manager;
use crate::budget::{BudgetKey, Quota, Rate};
use crate::domain::{ConnectionName, HookPlace, Scope, later};
use crate::github::{Budget, GitHub, GitHubError};
use crate::store::StoreError;

/// How long an account is passed over that GitHub did not let do a call.
const PASSED_OVER: Duration = Duration::from_mins(1);

/// One account at GitHub, with how hard it may be worked.
#[derive(Debug, Clone)]
pub struct Account {
    /// GitHub, with the credentials of the account.
    pub github: Arc<dyn GitHub>,
    /// What bounds its calls, over all replicas. Default 60 at a time: GitHub allows 100, and others may work
    /// with the same credentials.
    pub quota: Quota,
    /// How many runners it may register in a period, over all replicas. Default
    /// [`Rate::GITHUB_REGISTRATIONS`]; none for no bound.
    pub registrations: Option<Rate>,
    /// How long one of its calls may take. Default none: as long as
    /// [`Settings::call_timeout`](super::Settings::call_timeout) says.
    pub call_timeout: Option<Duration>,
}

impl Account {
    /// An account within the usual bounds.
    pub fn new(github: Arc<dyn GitHub>) -> Self {
        let quota = Quota { concurrent: Some(60), rate: None };
        Self { github, quota, registrations: Some(Rate::GITHUB_REGISTRATIONS), call_timeout: None }
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

/// The accounts that GitHub did not let do a call, and until when they come last.
#[derive(Debug, Default)]
pub(super) struct PassedOver(Mutex<BTreeMap<BudgetKey, Timestamp>>);

impl PassedOver {
    fn note(&self, key: &BudgetKey, until: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), until);
    }

    fn holds(&self, key: &BudgetKey, now: Timestamp) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).is_some_and(|until| *until > now)
    }
}

impl Manager {
    /// The accounts that work on a scope, in another order each time, so that they share the work. None where
    /// the connection of its groups is another replica's.
    pub(super) async fn accounts_for(&self, scope: &Scope) -> Result<Vec<Candidate<'_>>, StoreError> {
        let name = self.connection_of(scope).await?;
        let accounts = self.parts().github.accounts(&name);
        let key = |account: &Account| BudgetKey::github(&account.github.account(scope));
        let mut candidates: Vec<Candidate<'_>> =
            accounts.iter().map(|account| Candidate { account, key: key(account) }).collect();
        if candidates.len() > 1 {
            self.turn(&mut candidates);
            let now = self.parts().clock.now();
            candidates.sort_by_key(|candidate| self.inner.passed_over.holds(&candidate.key, now));
        }
        Ok(candidates)
    }

    /// Has an account come last for a while, since GitHub does not let it do what others may be let.
    pub(super) fn pass_over(&self, candidate: &Candidate<'_>, refusal: &GitHubError) {
        let account = &candidate.key;
        tracing::warn!(%account, %refusal, "an account is passed over, another one does the call");
        self.inner.passed_over.note(account, later(self.parts().clock.now(), PASSED_OVER));
    }

    /// How long a call with any of some accounts may take.
    pub(super) fn call_timeout_of<'c, 'a: 'c>(
        &self,
        accounts: impl IntoIterator<Item = &'c Candidate<'a>>,
    ) -> Duration {
        let own = accounts.into_iter().filter_map(|candidate| candidate.account.call_timeout).max();
        own.unwrap_or(self.parts().settings.call_timeout)
    }

    /// How long a call to GitHub may take, whoever makes it.
    pub(super) fn longest_call_to_github(&self) -> Duration {
        let accounts = self.parts().github.iter().flat_map(|(_, accounts)| accounts);
        let own = accounts.filter_map(|account| account.call_timeout).max().unwrap_or_default();
        own.max(self.parts().settings.call_timeout)
    }

    /// The accounts that may ask about a place's hook: an App's own is shown to that App alone, and its calls for that
    /// are counted by themselves.
    pub(super) async fn accounts_for_hook(
        &self,
        place: &HookPlace,
    ) -> Result<Vec<Candidate<'_>>, StoreError> {
        let (connection, number) = match place {
            HookPlace::Scope(scope) => return self.accounts_for(scope).await,
            HookPlace::App { connection, account } => (connection, *account),
        };
        let Some(account) = self.parts().github.accounts(connection).get(number) else {
            return Ok(Vec::new());
        };
        let mut candidates = Vec::new();
        for scope in self.scopes().await? {
            if candidates.is_empty() && self.connection_of(&scope).await? == *connection {
                let key = BudgetKey::github(&account.github.account(&scope)).part("app");
                candidates.push(Candidate { account, key });
            }
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
            for account in self.parts().github.accounts(&name) {
                if let Some(budget) = account.github.budget(&scope) {
                    budgets.insert((name.to_string(), account.github.account(&scope)), budget);
                }
            }
        }
        Ok(budgets)
    }

    /// The connection of a scope's groups. A repository by itself is worked on by that of the groups that serve
    /// it; what no group names any more, by the first there is.
    pub(super) async fn connection_of(&self, scope: &Scope) -> Result<ConnectionName, StoreError> {
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
