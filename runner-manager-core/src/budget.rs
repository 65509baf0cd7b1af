//! The trait [`Budgets`]: what all replicas together may ask of somebody outside.
//!
//! GitHub counts what comes with the same credentials, and a cloud what comes from the same account, whoever
//! of us asks. So the counting is done where all replicas meet: in the storage.

use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::BackendName;
use crate::store::StoreError;

/// Whose budget it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BudgetKey(String);

impl BudgetKey {
    /// The calls to GitHub with some credentials, by the word for the account that they are counted for.
    pub fn github(account: &str) -> Self {
        Self(format!("github:{account}"))
    }

    /// The calls to a backend.
    pub fn backend(name: &BackendName) -> Self {
        Self(format!("backend:{name}"))
    }

    /// The calls that a cloud counts for one account, by the word for it, whichever backends make them.
    pub fn cloud(account: &str) -> Self {
        Self(format!("cloud:{account}"))
    }

    /// The key of those of its calls that something else bounds, too.
    #[must_use]
    pub fn part(&self, word: &str) -> Self {
        Self(format!("{}:{word}", self.0))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BudgetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// When a call that found too many under way is worth another try: some call ends, but nobody says when.
pub const CONCURRENCY_PAUSE: Duration = Duration::from_millis(100);

/// How much may be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// How many calls may be under way at a time; none for no bound.
    pub concurrent: Option<u32>,
    /// How many calls may be begun in any period of a length; none for no bound.
    pub rate: Option<Rate>,
}

/// So many calls in any period of a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How many, at least 1 and at most [`Rate::MOST_CALLS`].
    pub calls: u32,
    /// In any period of this length.
    pub per: Duration,
}

impl Rate {
    /// The most calls that a rate may name: each is remembered for the period.
    pub const MOST_CALLS: u32 = 20_000;

    /// How many runners may be registered with one credential: GitHub allows 900 points a minute to one endpoint, a
    /// write costs five, and no header tells of it. Source:
    /// <https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits>.
    pub const GITHUB_REGISTRATIONS: Self = Self { calls: 180, per: Duration::from_mins(1) };
}

/// One of the budgets that a call counts for, and how much of that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Whose budget it is.
    pub key: BudgetKey,
    /// How much may be asked.
    pub quota: Quota,
}

/// Whether a call may be begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// It may. The permit is given back once the call is over.
    Granted(Permit),
    /// It may not, and counts for nothing.
    Wait {
        /// When it is worth another try, by the store's time.
        until: Timestamp,
        /// Which of its bounds keeps it for so long.
        bound: usize,
    },
}

/// One call that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// The budgets that count how many calls are under way: those whose quota bounds that.
    pub keys: Vec<BudgetKey>,
    /// Which of their calls it is.
    pub number: u64,
}

impl Permit {
    /// The permit of a call within these bounds.
    pub fn new(bounds: &[Bound], number: u64) -> Self {
        let counting = bounds.iter().filter(|bound| bound.quota.concurrent.is_some());
        Self { keys: counting.map(|bound| bound.key.clone()).collect(), number }
    }
}

/// What all replicas together may ask of somebody outside, implemented by the storage that they share.
///
/// # Behaviour
/// The conformance suite (`testing::conformance::budget`) tests these, by these names:
/// - `what_is_not_bounded_is_granted`: without a bound every call is granted.
/// - `calls_under_way_are_bounded`: of many concurrent calls as many are granted as may be under way, and
///   another one as soon as one was given back.
/// - `a_permit_runs_out`: a permit that nobody gives back counts no longer than its lease.
/// - `a_rate_holds_in_any_period`: in no period of the rate's length more calls are granted than it allows,
///   wherever the period begins; and as many are.
/// - `each_keeps_to_its_own_rate`: who asks for one key's calls by another rate is granted no more than that, whoever
///   made the others, from the first call on that it was granted.
/// - `a_wait_is_long_enough`: a call that has to wait for the rate or a pause is granted at the time that it
///   was told, if nobody else was faster.
/// - `a_pause_holds_for_all`: nobody is granted a call before a pause is over; a shorter pause does not cut a
///   longer one.
/// - `budgets_are_apart`: one key's calls do not count for another one.
/// - `a_call_counts_for_all_of_its_bounds_or_for_none`: a call with several bounds is granted where all of them allow it;
///   where one does not, that one is told, and the call counts for none of them.
///
/// # Errors
/// [`StoreError`]: `Unavailable`, and `Unclear` where the answer was lost: then a call may be counted that was
/// never made, which the lease and the period end.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Budgets: Debug + Send + Sync + 'static {
    /// Asks for one call within all of these bounds, of which no two have the same key. It is counted as under way
    /// until it is given back or `lease` is over.
    ///
    /// # Errors
    /// `Unavailable`, `Unclear`.
    async fn take(&self, bounds: &[Bound], lease: Duration) -> Result<Permission, StoreError>;

    /// Says that a call is over. One that ran out already is no error.
    ///
    /// # Errors
    /// `Unavailable`, `Unclear`.
    async fn give_back(&self, permit: &Permit) -> Result<(), StoreError>;

    /// Has nobody begin a call before a time: the one asked wants to be left alone until then.
    ///
    /// # Errors
    /// `Unavailable`, `Unclear`.
    async fn pause(&self, key: &BudgetKey, until: Timestamp) -> Result<(), StoreError>;
}
