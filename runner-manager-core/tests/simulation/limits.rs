//! Promise 7: what all replicas together ask of the outside, by what went through the wrappers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::budget::{Bound, BudgetKey, Quota, Rate};
use runner_manager_core::domain::later;

use super::dice::Dice;

/// How many calls somebody may be asked for in a seed: so many of these at once.
pub(crate) fn quota(dice: &mut Dice, concurrent: &[u32]) -> Quota {
    let calls = u32::try_from(dice.between(60, 200)).expect("it is small");
    let rate = dice.percent(50).then_some(Rate { calls, per: Duration::from_mins(1) });
    Quota { concurrent: dice.percent(70).then(|| *dice.pick(concurrent)), rate }
}

/// Whom a call goes to, and as whom: those calls are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    GitHub,
    /// GitHub about the App itself, which GitHub counts apart from what is asked for those that it is installed on.
    GitHubAsApp,
    Backend,
}

impl Asked {
    const ALL: [Self; 3] = [Self::GitHub, Self::GitHubAsApp, Self::Backend];

    /// Whose calls a key bounds; none where it bounds only those of a purpose, which another key bounds too.
    fn of(key: &BudgetKey) -> Option<Self> {
        let key = key.as_str();
        if [":registrations", ":recovery", ":sweep", ":creates", ":deletes"]
            .iter()
            .any(|part| key.ends_with(part))
        {
            None
        } else if !key.starts_with("github") {
            Some(Self::Backend)
        } else if key.ends_with(":app") {
            Some(Self::GitHubAsApp)
        } else {
            Some(Self::GitHub)
        }
    }
}

/// What one of those outside was asked.
#[derive(Debug, Default)]
struct Account {
    /// When calls were allowed, as long as that matters.
    granted_at: VecDeque<Timestamp>,
    paused_until: Option<Timestamp>,
}

/// The calls that are under way, and what was allowed.
#[derive(Debug, Default)]
pub(crate) struct LimitsChecker {
    accounts: BTreeMap<BudgetKey, Account>,
    /// Calls that a replica was allowed and has not begun, by whom they go to.
    leaves: BTreeMap<(usize, Asked), u64>,
    /// Leaves for what the cloud counts by itself, by the part's word, and not used yet.
    parts: BTreeMap<(usize, String), u64>,
    under_way: BTreeMap<(usize, Asked), u64>,
    /// Calls that a process had made when it was frozen. It cannot end them, and its permits run out.
    frozen: BTreeMap<(usize, Asked), u64>,
    /// How many calls may be under way.
    pub(crate) most: BTreeMap<Asked, u32>,
}

impl LimitsChecker {
    /// A call begins. Tells what is wrong with that.
    pub(crate) fn begins(&mut self, replica: usize, asked: Asked, is_late: bool) -> Option<String> {
        *self.under_way.entry((replica, asked)).or_default() += 1;
        let leaves = self.leaves.entry((replica, asked)).or_default();
        let Some(left) = leaves.checked_sub(1) else {
            return Some(format!("replica {replica} calls {asked:?} without leave"));
        };
        *leaves = left;
        let all: u64 =
            self.under_way.iter().filter(|((_, to), _)| *to == asked).map(|(_, count)| count).sum();
        let most = self.most.get(&asked).copied().map(u64::from);
        // A process that was thawed sends what it was about to send, whatever its permit says by then.
        let is_too_much = most.is_some_and(|most| all > most) && !is_late;
        is_too_much.then(|| format!("{all} calls to {asked:?} are under way, at most {most:?}"))
    }

    /// A call that the cloud counts by itself leaves. Tells what is wrong with that: leaves keep to the rate, and each is
    /// good for one.
    pub(crate) fn uses(&mut self, replica: usize, part: &str) -> Option<String> {
        let leaves = self.parts.entry((replica, part.to_owned())).or_default();
        match leaves.checked_sub(1) {
            Some(left) => {
                *leaves = left;
                None
            }
            None => Some(format!("replica {replica} makes more {part} than it has leave for")),
        }
    }

    /// A call is over.
    pub(crate) fn ends(&mut self, replica: usize, asked: Asked) {
        let key = (replica, asked);
        let of_frozen = self.frozen.get_mut(&key).filter(|count| **count > 0);
        if let Some(count) = of_frozen.or_else(|| self.under_way.get_mut(&key)) {
            *count = count.saturating_sub(1);
        }
    }

    /// A process is frozen with its calls under way.
    pub(crate) fn freezes(&mut self, replica: usize) {
        for asked in Asked::ALL {
            let count = self.under_way.remove(&(replica, asked)).unwrap_or_default();
            *self.frozen.entry((replica, asked)).or_default() += count;
        }
    }

    /// A process ended: its calls did, too, and what it was allowed.
    pub(crate) fn gone(&mut self, replica: usize) {
        self.under_way.retain(|(of, _), _| *of != replica);
        self.leaves.retain(|(of, _), _| *of != replica);
        self.parts.retain(|(of, _), _| *of != replica);
        self.frozen.retain(|(of, _), _| *of != replica);
    }

    /// A call was allowed within a bound. Tells what is wrong with that.
    pub(crate) fn granted(
        &mut self,
        replica: usize,
        Bound { key, quota }: &Bound,
        now: Timestamp,
    ) -> Option<String> {
        if let Some(asked) = Asked::of(key) {
            *self.leaves.entry((replica, asked)).or_default() += 1;
        }
        let account = self.accounts.entry(key.clone()).or_default();
        if let Some(until) = account.paused_until.filter(|until| *until > now) {
            return Some(format!("a call to {key} was allowed, which is to be left alone until {until}"));
        }
        let rate = quota.rate?;
        // The backend's own part is a bound of every such call, whoever knows its account.
        if let Some((_, part)) = key.as_str().strip_prefix("backend:").and_then(|key| key.split_once(':')) {
            *self.parts.entry((replica, part.to_owned())).or_default() += 1;
        }
        account.granted_at.push_back(now);
        while account.granted_at.front().is_some_and(|at| later(*at, rate.per) <= now) {
            account.granted_at.pop_front();
        }
        let count = account.granted_at.len();
        (count > rate.calls as usize)
            .then(|| format!("{count} calls to {key} within {:?}, at most {}", rate.per, rate.calls))
    }

    /// Nobody is to call before a time.
    pub(crate) fn paused(&mut self, key: &BudgetKey, until: Timestamp) {
        let account = self.accounts.entry(key.clone()).or_default();
        account.paused_until = account.paused_until.max(Some(until));
    }
}
