//! Promise 7: what all replicas together ask of GitHub, by what went through the wrappers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use runner_manager_core::budget::{BudgetKey, Permission, Quota};

/// The calls that are under way, and what was asked of the budgets.
#[derive(Debug, Default)]
pub(crate) struct LimitsChecker {
    under_way: BTreeMap<usize, u64>,
    pub(crate) most_under_way: u64,
    taken: u64,
    paused: BTreeMap<BudgetKey, Timestamp>,
}

impl LimitsChecker {
    /// A call to GitHub begins.
    pub(crate) fn begins(&mut self, replica: usize, _now: Timestamp) {
        *self.under_way.entry(replica).or_default() += 1;
        self.most_under_way = self.most_under_way.max(self.under_way.values().sum());
    }

    /// A call to GitHub is over.
    pub(crate) fn ends(&mut self, replica: usize) {
        if let Some(count) = self.under_way.get_mut(&replica) {
            *count = count.saturating_sub(1);
        }
    }

    /// A process ended: its calls did, too.
    pub(crate) fn gone(&mut self, replica: usize) {
        self.under_way.remove(&replica);
    }

    /// A call was allowed, or not.
    pub(crate) fn taken(
        &mut self,
        _replica: usize,
        _key: &BudgetKey,
        _quota: &Quota,
        permission: &Permission,
        _now: Timestamp,
    ) {
        self.taken += u64::from(matches!(permission, Permission::Granted(_)));
    }

    /// Nobody is to call before a time.
    pub(crate) fn paused(&mut self, key: &BudgetKey, until: Timestamp) {
        let known = self.paused.entry(key.clone()).or_insert(until);
        *known = until.max(*known);
    }
}
