//! Which failed webhook deliveries GitHub is asked to deliver again, and when a hook's log is read.
//!
//! GitHub delivers nothing again by itself. It redelivers what it delivered in the past three days, and names an
//! attempt that somebody asked for as such in the log. A delivery is asked for again once, whoever asks: what the log
//! shows as redelivered, or as taken by any attempt, is left alone. Where nobody knows whether GitHub was asked (the
//! answer was lost, the process died), the log has the answer a short time later; if it does not show the attempt,
//! GitHub is asked once more, and no third time.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::domain::{
    DeliveryId, FailedDelivery, FoundHook, HookRecord, JOB_EVENT, Redelivery, WebhookDelivery, later,
};
use crate::flaws::{Flaw, is_on};

/// For how long GitHub redelivers: three days at github.com, seven on a server. Source:
/// <https://docs.github.com/webhooks/testing-and-troubleshooting-webhooks/redelivering-webhooks>.
pub const REDELIVERABLE_FOR: Duration = Duration::from_hours(72);

/// How far back the log is read of which nothing is known yet. Jobs that wait for longer are found by the listing that
/// comes with every start.
pub const FIRST_LOOK: Duration = Duration::from_hours(1);

/// How much of the log is read again: an attempt stands in it by the time at which it was begun, and only once it was
/// answered. GitHub waits 10 s for that, a server 30 s. Source:
/// <https://docs.github.com/webhooks/using-webhooks/handling-failed-webhook-deliveries>.
pub const OVERLAP: Duration = Duration::from_secs(45);

/// How long after GitHub was asked the log shows the attempt.
pub const SHOWN_WITHIN: Duration = Duration::from_mins(1);

/// How long the outcome of a redelivery is waited for.
pub const OUTCOME_WITHIN: Duration = Duration::from_mins(10);

/// How many entries of a log one look reads. Of more the oldest are left to the listing of jobs.
pub const MOST_READ: usize = 3_000;

/// How many failed deliveries are kept of a hook. The others are taken up by later looks.
pub const MOST_FAILED: usize = 500;

/// How many redeliveries one look asks for: each is a write, which GitHub counts five times.
pub const MOST_ASKED: usize = 100;

/// How many of the last attempts show whether the receiver takes anything at all.
pub const TELLING: usize = 10;

/// How soon the next look follows one that left something to do.
pub const SOON: Duration = Duration::from_mins(1);

/// How often a hook is looked for, and how soon again after GitHub refused to tell of it.
pub const SOUGHT_EVERY: Duration = Duration::from_hours(1);

/// For how long a log has had no entry that is read less often.
pub const QUIET_AFTER: Duration = Duration::from_hours(24);

/// How much less often a quiet log is read.
pub const QUIET_FACTOR: u32 = 5;

/// How long after it failed a webhook is asked for again at the latest where a log is read as often as by default.
pub const ASKED_FOR_WITHIN: Duration = Duration::from_mins(4);

/// What a look found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// Deliveries that failed and are to be asked for.
    pub failed: u64,
    /// Redeliveries that the receiver took.
    pub taken: u64,
    /// Redeliveries that failed, too. They are left to the listing of jobs.
    pub failed_again: u64,
    /// Whether there are more failed deliveries than are kept at a time.
    pub more: bool,
    /// How many redeliveries may be asked for now. One where the receiver has taken nothing lately.
    pub allowed: usize,
}

/// What GitHub said to a redelivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It delivers again.
    Accepted,
    /// It was not asked, or said that it did nothing and may do it another time.
    NotMade,
    /// It will not.
    Refused,
    /// Nobody knows.
    Unclear,
}

/// Whether the hook that leads to a URL is to be looked for.
pub fn is_sought(record: &HookRecord, url: &str, now: Timestamp) -> bool {
    record.found.is_none()
        || record.url.as_deref() != Some(url)
        || record.sought_at.is_none_or(|at| later(at, SOUGHT_EVERY) <= now)
}

/// Whether the log of a hook vouches for what GitHub sent since a point in time: all of it got through, or was asked for
/// again, and nothing was given up.
pub fn vouches(record: &HookRecord, since: Timestamp, now: Timestamp) -> bool {
    let is_recent = |at| later(at, ASKED_FOR_WITHIN) > now;
    let leads_here = match record.found {
        Some(FoundHook::Numbered(_) | FoundHook::OfTheApp) => record.trouble.is_none(),
        Some(FoundHook::Absent) | None => false,
    };
    leads_here
        && record.read_at.is_some_and(is_recent)
        && record.failed.values().all(|failed| !is_open(failed) || is_recent(failed.failed_at))
        && record.given_up_at.is_none_or(|at| at < since)
}

/// From which point of time on the log is read.
pub fn since(record: &HookRecord, now: Timestamp) -> Timestamp {
    match record.read_to {
        Some(to) => earlier(to, OVERLAP).max(earlier(now, REDELIVERABLE_FOR)),
        None => earlier(now, FIRST_LOOK),
    }
}

/// Takes in the log since [`since`], newest entries first.
pub fn read(mut record: HookRecord, log: &[WebhookDelivery], now: Timestamp) -> (HookRecord, News) {
    let mut news = News { allowed: allowed(log), ..News::default() };
    let from = since(&record, now);
    if record.read_to.is_none_or(|to| to < from) {
        // What was sent before that is left to the listing of jobs.
        record.given_up_at = record.given_up_at.max(Some(from));
    }
    record.read_to = record.read_to.or(Some(from));
    let attempts = Attempts::of(log);
    record.failed.retain(|delivery, failed| match attempts.outcome(delivery) {
        None => true,
        Some(outcome) => {
            if failed.redelivery != Redelivery::Due && failed.redelivery != Redelivery::Over {
                *(if outcome == Outcome::Taken { &mut news.taken } else { &mut news.failed_again }) += 1;
            }
            false
        }
    });
    take_up(&mut record, log, &attempts, &mut news, now);
    let is_cut = news.more || log.len() >= MOST_READ;
    let failed_again = log.iter().any(|entry| is_of_a_job(entry) && entry.is_redelivery && !entry.is_taken());
    if forget(&mut record, now) || is_cut || failed_again {
        record.given_up_at = Some(now);
    }
    record.read_at = Some(now);
    (record, news)
}

/// Takes up the deliveries that failed, the oldest first, as many as are kept.
fn take_up(
    record: &mut HookRecord,
    log: &[WebhookDelivery],
    attempts: &Attempts<'_>,
    news: &mut News,
    now: Timestamp,
) {
    for entry in log.iter().rev() {
        let is_due = is_of_a_job(entry)
            && !entry.is_taken()
            && attempts.outcome(&entry.delivery).is_none()
            && !record.failed.contains_key(&entry.delivery)
            && is_redeliverable(entry.at, now);
        if is_due {
            if record.failed.len() >= MOST_FAILED {
                news.more = true;
                return;
            }
            let failed =
                FailedDelivery { attempt: entry.id, failed_at: entry.at, redelivery: Redelivery::Due };
            record.failed.insert(entry.delivery.clone(), failed);
            news.failed += 1;
        }
        record.read_to = record.read_to.max(Some(entry.at));
    }
}

/// Forgets what is over: what is still needed is that which the next look would take up anew. Tells whether any is over
/// that nobody is known to have taken.
fn forget(record: &mut HookRecord, now: Timestamp) -> bool {
    let (next, mut gives_up) = (since(record, now), false);
    record.failed.retain(|_, failed| {
        if let Redelivery::Asking { since, again: true } = failed.redelivery
            && later(since, SHOWN_WITHIN) <= now
        {
            failed.redelivery = Redelivery::Over;
        }
        let is_open = match failed.redelivery {
            Redelivery::Due => is_redeliverable(failed.failed_at, now),
            Redelivery::Asking { .. } => true,
            Redelivery::Asked { at } => later(at, OUTCOME_WITHIN) > now,
            Redelivery::Over => false,
        };
        gives_up |= !is_open;
        is_open || (failed.failed_at >= next && is_redeliverable(failed.failed_at, now))
    });
    gives_up
}

/// The deliveries that GitHub is to be asked for now: those that failed first, of these the latest first. So of a job
/// whose webhooks all failed nobody hears that it waits before he hears that it began.
pub fn due(record: &HookRecord, allowed: usize, now: Timestamp) -> Vec<DeliveryId> {
    let mut due: Vec<_> = record.failed.iter().filter(|(_, failed)| is_due(failed, now)).collect();
    due.sort_by_key(|(_, failed)| (failed.failed_at, failed.attempt));
    due.truncate(allowed);
    due.into_iter().rev().map(|(delivery, _)| delivery.clone()).collect()
}

fn is_due(failed: &FailedDelivery, now: Timestamp) -> bool {
    is_redeliverable(failed.failed_at, now)
        && match failed.redelivery {
            Redelivery::Due => true,
            Redelivery::Asking { since, again } => !again && later(since, SHOWN_WITHIN) <= now,
            Redelivery::Asked { .. } | Redelivery::Over => false,
        }
}

/// What is written down before GitHub is asked.
pub const fn asking(before: Redelivery, now: Timestamp) -> Redelivery {
    Redelivery::Asking { since: now, again: matches!(before, Redelivery::Asking { .. }) }
}

/// What is written down of GitHub's answer. `before` is how it stood before GitHub was asked.
pub fn answered(before: Redelivery, answer: Answer, now: Timestamp) -> Redelivery {
    match answer {
        Answer::Accepted if is_on(Flaw::ForgetRedeliveries) => before,
        Answer::Accepted => Redelivery::Asked { at: now },
        Answer::NotMade => before,
        Answer::Refused => Redelivery::Over,
        Answer::Unclear => asking(before, now),
    }
}

/// How long it is until the next look. `more` tells that there is more in the log than was taken up, `is_news` that
/// the trouble is new: GitHub answers the same also where a hook was made anew a moment ago.
pub fn pause(record: &HookRecord, interval: Duration, more: bool, is_news: bool, now: Timestamp) -> Duration {
    let soon = SOON.min(interval);
    let seldom = SOUGHT_EVERY.max(interval);
    match record.found {
        _ if record.trouble.is_some() => {
            if is_news {
                soon
            } else {
                seldom
            }
        }
        None => soon,
        Some(FoundHook::Absent) => seldom,
        Some(FoundHook::Numbered(_) | FoundHook::OfTheApp) => {
            let is_quiet = record.read_to.is_some_and(|to| later(to, QUIET_AFTER) <= now);
            if more || record.failed.values().any(is_open) {
                soon
            } else if is_quiet && record.failed.is_empty() {
                (interval * QUIET_FACTOR).min(seldom)
            } else {
                interval
            }
        }
    }
}

/// Whether GitHub is yet to be asked for it.
const fn is_open(failed: &FailedDelivery) -> bool {
    match failed.redelivery {
        Redelivery::Due | Redelivery::Asking { .. } => true,
        Redelivery::Asked { .. } | Redelivery::Over => false,
    }
}

/// How many redeliveries may be asked for. A receiver that takes nothing would take those no better: one shows whether
/// it does again.
fn allowed(log: &[WebhookDelivery]) -> usize {
    if log.iter().take(TELLING).any(WebhookDelivery::is_taken) { MOST_ASKED } else { 1 }
}

fn is_of_a_job(entry: &WebhookDelivery) -> bool {
    entry.event == JOB_EVENT
}

fn is_redeliverable(at: Timestamp, now: Timestamp) -> bool {
    later(at, REDELIVERABLE_FOR) > now
}

fn earlier(from: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    from.checked_sub(by).unwrap_or(Timestamp::MIN)
}

/// What the attempts at a delivery came to, where nothing more is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The receiver took one.
    Taken,
    /// One was asked for by somebody, and failed.
    Redelivered,
}

/// The deliveries of a log that need nothing more.
struct Attempts<'l>(BTreeMap<&'l DeliveryId, Outcome>);

impl<'l> Attempts<'l> {
    fn of(log: &'l [WebhookDelivery]) -> Self {
        let mut outcomes = BTreeMap::new();
        for entry in log {
            if entry.is_taken() {
                outcomes.insert(&entry.delivery, Outcome::Taken);
            } else if entry.is_redelivery {
                outcomes.entry(&entry.delivery).or_insert(Outcome::Redelivered);
            }
        }
        Self(outcomes)
    }

    fn outcome(&self, delivery: &DeliveryId) -> Option<Outcome> {
        self.0.get(delivery).copied()
    }
}

#[cfg(test)]
mod tests;
