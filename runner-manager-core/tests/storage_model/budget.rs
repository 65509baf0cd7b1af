//! The reference's budgets.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::budget::{Bound, BudgetKey, CONCURRENCY_PAUSE, Permit, Quota};
use runner_manager_core::domain::later;

#[derive(Debug, Clone)]
struct Call {
    number: u64,
    begun: Timestamp,
    /// When it counts as under way no longer.
    until: Timestamp,
}

/// What was asked of one.
#[derive(Debug, Clone, Default)]
struct Account {
    calls: Vec<Call>,
    paused_until: Option<Timestamp>,
}

/// Why a bound keeps a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wait {
    /// When the rate and the pauses allow it, where they do not now.
    pub(crate) until: Option<Timestamp>,
    /// Whether too many are under way.
    pub(crate) crowded: bool,
}

impl Wait {
    /// When it is worth another try; nothing where the bound keeps nothing.
    pub(crate) fn end(self, now: Timestamp) -> Option<Timestamp> {
        self.until.max(self.crowded.then(|| later(now, CONCURRENCY_PAUSE)))
    }
}

/// The budgets by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts(BTreeMap<BudgetKey, Account>);

impl Accounts {
    /// Grants a call under this number, or tells why it has to wait, bound by bound.
    pub(crate) fn take(
        &mut self,
        bounds: &[Bound],
        lease: Duration,
        now: Timestamp,
        number: u64,
    ) -> Result<Permit, Vec<Wait>> {
        let waits: Vec<Wait> = bounds.iter().map(|bound| self.wait(bound, now)).collect();
        if waits.iter().any(|wait| *wait != Wait::default()) {
            return Err(waits);
        }
        for bound in bounds {
            let account = self.0.entry(bound.key.clone()).or_default();
            account.calls.push(Call { number, begun: now, until: later(now, lease) });
        }
        Ok(Permit::new(bounds, number))
    }

    fn wait(&mut self, Bound { key, quota }: &Bound, now: Timestamp) -> Wait {
        let account = self.0.entry(key.clone()).or_default();
        let under_way = account.calls.iter().filter(|call| call.until > now).count();
        Wait {
            until: account.paused(now).max(account.held_up(quota, now)),
            crowded: quota.concurrent.is_some_and(|most| under_way >= most as usize),
        }
    }

    pub(crate) fn give_back(&mut self, permit: &Permit, now: Timestamp) {
        for account in self.0.values_mut() {
            for call in account.calls.iter_mut().filter(|call| call.number == permit.number) {
                call.until = call.until.min(now);
            }
        }
    }

    pub(crate) fn pause(&mut self, key: &BudgetKey, until: Timestamp) {
        let account = self.0.entry(key.clone()).or_default();
        account.paused_until = account.paused_until.max(Some(until));
    }
}

impl Account {
    fn paused(&self, now: Timestamp) -> Option<Timestamp> {
        self.paused_until.filter(|until| *until > now)
    }

    /// When the rate allows one more, where it does not now: when so few calls are left in the period that
    /// ends then.
    fn held_up(&self, quota: &Quota, now: Timestamp) -> Option<Timestamp> {
        let rate = quota.rate?;
        let left_at = |time: Timestamp| {
            self.calls.iter().filter(|call| later(call.begun, rate.per) > time).count() < rate.calls as usize
        };
        let leaves = self.calls.iter().map(|call| later(call.begun, rate.per));
        if left_at(now) { None } else { leaves.filter(|time| left_at(*time)).min() }
    }
}
