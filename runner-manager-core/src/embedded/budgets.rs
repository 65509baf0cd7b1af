//! Budgets of a storage that one process has for itself: counted in the process.
//!
//! They are not written down: a process that starts anew has nothing under way, and is told by the first
//! answers what is left of the rates.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::budget::{Bound, BudgetKey, CONCURRENCY_PAUSE, Permission, Permit, Quota, Rate};
use crate::domain::later;

/// The budgets.
#[derive(Debug, Default)]
pub(super) struct Accounts(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    by_key: BTreeMap<BudgetKey, Account>,
    /// The number of the last call that was granted.
    last: u64,
}

/// What was asked of one.
#[derive(Debug, Default)]
struct Account {
    under_way: BTreeMap<u64, Timestamp>,
    begun: VecDeque<Timestamp>,
    /// How long those that were begun are remembered: the longest period that anybody has asked by.
    remembered: Duration,
    paused_until: Option<Timestamp>,
}

impl Accounts {
    pub(super) fn take(&self, bounds: &[Bound], lease: Duration, now: Timestamp) -> Permission {
        let mut books = self.lock();
        let waits = bounds.iter().enumerate().filter_map(|(at, bound)| {
            let account = books.by_key.entry(bound.key.clone()).or_default();
            account.under_way.retain(|_, until| *until > now);
            Some((account.wait(&bound.quota, now)?, at))
        });
        if let Some((until, bound)) = waits.max() {
            return Permission::Wait { until, bound };
        }
        books.last += 1;
        let number = books.last;
        for bound in bounds {
            let account = books.by_key.entry(bound.key.clone()).or_default();
            account.grant(&bound.quota, number, later(now, lease), now);
        }
        Permission::Granted(Permit::new(bounds, number))
    }

    pub(super) fn give_back(&self, permit: &Permit) {
        let mut books = self.lock();
        for key in &permit.keys {
            if let Some(account) = books.by_key.get_mut(key) {
                account.under_way.remove(&permit.number);
            }
        }
    }

    pub(super) fn pause(&self, key: &BudgetKey, until: Timestamp) {
        let mut books = self.lock();
        let account = books.by_key.entry(key.clone()).or_default();
        account.paused_until = account.paused_until.max(Some(until));
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Until when the next call has to wait, where it has to.
    fn wait(&self, quota: &Quota, now: Timestamp) -> Option<Timestamp> {
        let paused = self.paused_until.filter(|until| *until > now);
        let rate = quota.rate.and_then(|rate| self.wait_for_rate(rate, now));
        let full = quota.concurrent.is_some_and(|most| self.under_way.len() >= most as usize);
        let crowded = full.then(|| later(now, CONCURRENCY_PAUSE));
        [paused, rate, crowded].into_iter().flatten().max()
    }

    /// Until when the rate keeps the next call: of the last calls, as many as it allows, the first must be out of the
    /// period.
    fn wait_for_rate(&self, rate: Rate, now: Timestamp) -> Option<Timestamp> {
        let first = self.begun.len().checked_sub(rate.calls as usize)?;
        self.begun.get(first).map(|begun| later(*begun, rate.per)).filter(|frees| *frees > now)
    }

    fn grant(&mut self, quota: &Quota, number: u64, until: Timestamp, now: Timestamp) {
        if quota.concurrent.is_some() {
            self.under_way.insert(number, until);
        }
        if let Some(rate) = quota.rate {
            self.remembered = self.remembered.max(rate.per);
            self.begun.push_back(now);
            // More calls than a rate may name tell nobody anything.
            while self.begun.len() > Rate::MOST_CALLS as usize
                || self.begun.front().is_some_and(|begun| later(*begun, self.remembered) <= now)
            {
                self.begun.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::Account;
    use crate::budget::{Quota, Rate};

    #[test]
    fn no_more_calls_are_remembered_than_a_rate_may_name() {
        let (mut account, now) = (Account::default(), Timestamp::UNIX_EPOCH);
        let quota = |calls, per| Quota {
            concurrent: None,
            rate: Some(Rate { calls, per: Duration::from_secs(per) }),
        };
        account.grant(&quota(1, 3600), 0, now, now);
        for number in 1..=u64::from(Rate::MOST_CALLS) + 5 {
            account.grant(&quota(Rate::MOST_CALLS, 1), number, now, now);
        }
        assert_eq!(account.begun.len(), Rate::MOST_CALLS as usize);
        assert!(account.wait(&quota(1, 3600), now).is_some());
    }
}
