//! Budgets of a storage that one process has for itself: counted in the process.
//!
//! They are not written down: a process that starts anew has nothing under way, and is told by the first
//! answers what is left of the rates.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::budget::{BudgetKey, CONCURRENCY_PAUSE, Permission, Permit, Quota, Rate};
use crate::domain::later;

/// The budgets by key.
#[derive(Debug, Default)]
pub(super) struct Accounts(Mutex<BTreeMap<BudgetKey, Account>>);

/// What was asked of one.
#[derive(Debug, Default)]
struct Account {
    next: u64,
    under_way: BTreeMap<u64, Timestamp>,
    begun: VecDeque<Timestamp>,
    paused_until: Option<Timestamp>,
}

impl Accounts {
    pub(super) fn take(&self, key: &BudgetKey, quota: &Quota, lease: Duration, now: Timestamp) -> Permission {
        let mut accounts = self.lock();
        let account = accounts.entry(key.clone()).or_default();
        account.under_way.retain(|_, until| *until > now);
        match account.wait(quota, now) {
            Some(until) => Permission::Wait(until),
            None => Permission::Granted(account.grant(key, quota, later(now, lease), now)),
        }
    }

    pub(super) fn give_back(&self, permit: &Permit) {
        if let Some(account) = self.lock().get_mut(&permit.key) {
            account.under_way.remove(&permit.number);
        }
    }

    pub(super) fn pause(&self, key: &BudgetKey, until: Timestamp) {
        let mut accounts = self.lock();
        let account = accounts.entry(key.clone()).or_default();
        account.paused_until = account.paused_until.max(Some(until));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BudgetKey, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Until when the next call has to wait, where it has to.
    fn wait(&mut self, quota: &Quota, now: Timestamp) -> Option<Timestamp> {
        let paused = self.paused_until.filter(|until| *until > now);
        let rate = quota.rate.and_then(|rate| self.wait_for_rate(rate, now));
        let full = quota.concurrent.is_some_and(|most| self.under_way.len() >= most as usize);
        let crowded = full.then(|| later(now, CONCURRENCY_PAUSE));
        [paused, rate, crowded].into_iter().flatten().max()
    }

    fn wait_for_rate(&mut self, rate: Rate, now: Timestamp) -> Option<Timestamp> {
        while self.begun.front().is_some_and(|begun| later(*begun, rate.per) <= now) {
            self.begun.pop_front();
        }
        let over = (self.begun.len() + 1).checked_sub(rate.calls as usize)?;
        let frees = self.begun.get(over.checked_sub(1)?)?;
        Some(later(*frees, rate.per))
    }

    fn grant(&mut self, key: &BudgetKey, quota: &Quota, until: Timestamp, now: Timestamp) -> Permit {
        self.next += 1;
        if quota.concurrent.is_some() {
            self.under_way.insert(self.next, until);
        }
        if quota.rate.is_some() {
            self.begun.push_back(now);
        }
        Permit { key: key.clone(), number: self.next }
    }
}
