//! What the adapter remembers of GitHub's answers: budgets, and which places it has lately seen.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};

use super::operation::{answered_at, number};
use crate::domain::later;
use crate::github::Budget;

/// How long after an answer of success a place counts as visible.
const VISIBLE: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Books(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By account and GitHub's name of the resource.
    budgets: BTreeMap<(String, String), Budget>,
    seen: BTreeMap<String, Timestamp>,
    /// How far GitHub's clock was ahead of ours by the last answer that said so.
    clocks_apart: SignedDuration,
}

impl Books {
    /// Notes what an answer says of the calls that are left.
    pub(super) fn note_budget(&self, account: &str, headers: &HeaderMap, now: Timestamp) {
        let resource = headers.get("x-ratelimit-resource").and_then(|name| name.to_str().ok());
        if let Some(budget) = budget(headers, now) {
            let key = (account.to_owned(), resource.unwrap_or("core").to_owned());
            self.lock().budgets.insert(key, budget);
        }
    }

    /// The scarcest of an account's budgets: registering has one of its own.
    pub(super) fn budget(&self, account: &str, now: Timestamp) -> Option<Budget> {
        let left = |budget: &Budget| if budget.reset_at <= now { budget.limit } else { budget.remaining };
        let books = self.lock();
        let own = books.budgets.iter().filter(|((owner, _), _)| owner == account);
        own.map(|(_, budget)| *budget).min_by_key(left)
    }

    /// Notes how far GitHub's clock is ahead of ours, where an answer says so.
    pub(super) fn note_clocks(&self, apart: Option<SignedDuration>) {
        if let Some(apart) = apart {
            self.lock().clocks_apart = apart;
        }
    }

    /// How far GitHub's clock is ahead of ours.
    pub(super) fn clocks_apart(&self) -> SignedDuration {
        self.lock().clocks_apart
    }

    /// Notes that a place gave an answer of success.
    pub(super) fn note_visible(&self, place: &str, now: Timestamp) {
        let mut books = self.lock();
        books.seen.retain(|_, at| later(*at, VISIBLE) > now);
        books.seen.insert(place.to_owned(), now);
    }

    /// Whether a place gave an answer of success just now.
    pub(super) fn is_visible(&self, place: &str, now: Timestamp) -> bool {
        self.lock().seen.get(place).is_some_and(|at| later(*at, VISIBLE) > now)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The budget that an answer tells of, with the reset by our own clock.
fn budget(headers: &HeaderMap, now: Timestamp) -> Option<Budget> {
    let reset = i64::try_from(number(headers, "x-ratelimit-reset")?).ok()?;
    let left = Timestamp::from_second(reset).ok()?.duration_since(answered_at(headers, now));
    Some(Budget {
        limit: number(headers, "x-ratelimit-limit")?,
        remaining: number(headers, "x-ratelimit-remaining")?,
        reset_at: now.checked_add(left).ok()?,
    })
}
