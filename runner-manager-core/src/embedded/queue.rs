//! The queue at work on its tables: what waits, what is held, what was given up.
//!
//! A key has one entry. What waits stands in an index by lane, priority and time, so the first that is due
//! is found in three look-ups; what is held stands in an index by the end of its hold. A task that was
//! pushed while its key is held stands in the entry alone, until the hold ends.

use std::time::Duration;

use jiff::Timestamp;

use super::key::{Key, Span};
use super::prune;
use super::schema::{Entry, Held, Table, Waiting, held_key, tasks_held, tasks_waiting, waiting_key};
use super::step::{Step, Wake};
use super::tables::{Direction, Read, collect, first, load};
use crate::domain::later;
use crate::flaws::{Flaw, is_on};
use crate::queue::{Claim, ClaimToken, DeadTask, Lane, NewTask, Priority, Task};
use crate::store::{Retention, StoreError};

const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// Queues a task.
pub(super) fn push(step: &mut Step<'_>, new: NewTask) -> Result<(), StoreError> {
    let key = new.task.key();
    let due = new.not_before.map_or(step.now, |time| time.max(step.now));
    let wait = |sequence| Waiting { due, floor: None, priority: new.priority, sequence, attempts: 0 };
    let Some(entry) = load::<Entry>(step, Table::Tasks, key.as_bytes())? else {
        forget_dead(step, &key)?;
        let waiting = Some(wait(step.number()?));
        return write(step, &key, None, &Entry { task: new.task, waiting, held: None });
    };
    let waiting = match &entry.waiting {
        Some(waiting) if is_on(Flaw::CollapseToTheLater) => Waiting { due: due.max(waiting.due), ..*waiting },
        Some(waiting) => waiting.merge(wait(waiting.sequence)),
        None => wait(step.number()?),
    };
    if entry.waiting.as_ref() == Some(&waiting) {
        return Ok(());
    }
    write(step, &key, Some(&entry), &Entry { waiting: Some(waiting), ..entry.clone() })
}

/// Writes an entry in the place of another and keeps the indexes.
fn write(step: &mut Step<'_>, key: &str, before: Option<&Entry>, after: &Entry) -> Result<(), StoreError> {
    let lane = after.task.lane();
    let from = before.map(|entry| index_keys(lane.as_str(), entry)).unwrap_or_default();
    step.move_entries(Table::TasksBy, &from, &index_keys(lane.as_str(), after), key.as_bytes())?;
    if after.held.is_none() && before.is_some_and(|before| before.held.is_some()) {
        step.freed(lane.as_str());
    }
    match (&after.held, &after.waiting) {
        (None, None) => return step.remove(Table::Tasks, key.as_bytes()),
        (None, Some(waiting)) => step.wake(lane.as_str(), waiting.due),
        (Some(held), _) => step.wake(lane.as_str(), held.until),
    }
    step.put(Table::Tasks, key.as_bytes(), after)
}

fn index_keys(lane: &str, entry: &Entry) -> Vec<Key> {
    match (&entry.held, &entry.waiting) {
        (Some(held), _) => vec![held_key(lane, held)],
        (None, Some(waiting)) => vec![waiting_key(lane, waiting)],
        (None, None) => Vec::new(),
    }
}

/// Claims up to `most` tasks that are due.
pub(super) fn claim(
    step: &mut Step<'_>,
    lane: &Lane,
    most: usize,
    bound: usize,
    lease: Duration,
) -> Result<Vec<Claim>, StoreError> {
    end_leases(step, lane.as_str())?;
    let room = room(step, lane.as_str(), bound)?;
    let most = most.min(room);
    let mut claims = Vec::new();
    for priority in PRIORITIES {
        let list = tasks_waiting(lane.as_str(), priority);
        let due = list.clone().span().through(list.time(step.now));
        let left = most - claims.len();
        for (_, key) in collect(step, Table::TasksBy, &due, Direction::Forward, left)? {
            claims.push(take(step, &key, lease)?);
        }
    }
    note_next(step, lane.as_str(), claims.len() >= room)?;
    Ok(claims)
}

/// How many more tasks of a lane may be held.
fn room(step: &Step<'_>, lane: &str, bound: usize) -> Result<usize, StoreError> {
    if bound == usize::MAX {
        return Ok(bound);
    }
    let held = collect(step, Table::TasksBy, &tasks_held(lane).span(), Direction::Forward, bound)?;
    Ok(bound - held.len())
}

/// Puts the tasks back whose hold has ended.
fn end_leases(step: &mut Step<'_>, lane: &str) -> Result<(), StoreError> {
    // What is more than this comes with the next claim: a claim stays short.
    const MOST: usize = 1000;
    let ended = tasks_held(lane).span().through(tasks_held(lane).time(step.now));
    put_back(step, &ended, MOST)
}

/// Puts all tasks of a lane back that are held, whenever their hold would end: whoever held them is gone.
pub(super) fn end_holds(step: &mut Step<'_>, lane: &str) -> Result<(), StoreError> {
    put_back(step, &tasks_held(lane).span(), usize::MAX)
}

fn put_back(step: &mut Step<'_>, holds: &Span, most: usize) -> Result<(), StoreError> {
    for (_, key) in collect(step, Table::TasksBy, holds, Direction::Forward, most)? {
        let entry = indexed(step, &key)?;
        let back = entry.held.as_ref().map(|held| Waiting {
            due: held.until.min(step.now),
            floor: None,
            attempts: held.from.attempts + 1,
            ..held.from
        });
        end(step, &entry, back)?;
    }
    Ok(())
}

/// The entry that an index names.
pub(super) fn indexed(tables: &dyn Read, key: &[u8]) -> Result<Entry, StoreError> {
    load(tables, Table::Tasks, key)?.ok_or_else(|| {
        let key = key.escape_ascii();
        StoreError::Corrupt(format!("an index names task `{key}`, which there is not"), None)
    })
}

/// Ends a hold. What goes `back` joins what was pushed meanwhile.
fn end(step: &mut Step<'_>, entry: &Entry, back: Option<Waiting>) -> Result<(), StoreError> {
    let waiting = match (back, entry.waiting) {
        (Some(back), Some(pushed)) => Some(back.merge(pushed)),
        (back, pushed) => back.or(pushed),
    };
    let after = Entry { task: entry.task.clone(), waiting, held: None };
    write(step, &entry.task.key(), Some(entry), &after)
}

/// Claims the task of an index entry.
fn take(step: &mut Step<'_>, key: &[u8], lease: Duration) -> Result<Claim, StoreError> {
    let entry = indexed(step, key)?;
    let from = entry.waiting.ok_or_else(|| {
        StoreError::Corrupt(format!("task {} is indexed as waiting, but does not wait", entry.task), None)
    })?;
    let number = step.number()?;
    let until = later(step.now, lease);
    let claim = Claim {
        token: ClaimToken { key: entry.task.key(), number },
        task: entry.task.clone(),
        attempt: from.attempts + 1,
        until,
        waited: since(from.due, step.now),
    };
    let held = Some(Held { number, until, from });
    let after = Entry { task: entry.task.clone(), waiting: None, held };
    write(step, &claim.token.key, Some(&entry), &after)?;
    Ok(claim)
}

fn since(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

/// Notes whether more is due on a lane, and when something happens next.
///
/// While no more tasks may be held, only the end of a hold is something to wait for.
fn note_next(step: &mut Step<'_>, lane: &str, full: bool) -> Result<(), StoreError> {
    let mut times = Vec::new();
    let waiting = PRIORITIES.map(|priority| tasks_waiting(lane, priority)).into_iter();
    for list in waiting.filter(|_| !full).chain([tasks_held(lane)]) {
        let at = list.len();
        if let Some((key, _)) = first(step, Table::TasksBy, &list.span())? {
            times.extend(Key::time_at(&key, at));
        }
    }
    let (due, ahead): (Vec<_>, Vec<_>) = times.into_iter().partition(|time| *time <= step.now);
    // What was noted before is in what was looked up.
    let wake = Wake {
        due: !due.is_empty(),
        at: ahead.into_iter().min(),
        looked_up: true,
        full: Some(full),
        freed: false,
    };
    step.wakes.insert(lane.to_owned(), wake);
    Ok(())
}

/// The entry that a token holds.
pub(super) fn held(step: &Step<'_>, token: &ClaimToken) -> Result<(Entry, Held), StoreError> {
    let entry: Option<Entry> = load(step, Table::Tasks, token.key.as_bytes())?;
    let entry = entry.ok_or(StoreError::LostClaim)?;
    match entry.held {
        Some(held) if held.number == token.number && held.until > step.now => Ok((entry, held)),
        Some(held) if is_on(Flaw::NoFencing) => Ok((entry, held)),
        Some(_) | None => Err(StoreError::LostClaim),
    }
}

/// Moves the end of a hold.
pub(super) fn extend(
    step: &mut Step<'_>,
    token: &ClaimToken,
    lease: Duration,
) -> Result<Timestamp, StoreError> {
    let (entry, held) = held(step, token)?;
    let until = later(step.now, lease);
    let after = Entry { held: Some(Held { until, ..held }), ..entry.clone() };
    write(step, &token.key, Some(&entry), &after)?;
    Ok(until)
}

/// Ends a task that is done.
pub(super) fn ack(step: &mut Step<'_>, token: &ClaimToken) -> Result<(), StoreError> {
    let (entry, _) = held(step, token)?;
    end(step, &entry, None)
}

/// Puts a task back for another try. Why is for the log alone.
pub(super) fn retry(
    step: &mut Step<'_>,
    token: &ClaimToken,
    when: Timestamp,
    reason: &str,
) -> Result<(), StoreError> {
    tracing::debug!(task = token.key, %when, reason, "a task waits for another try");
    let (entry, held) = held(step, token)?;
    let due = when.max(step.now);
    let back = Waiting { due, floor: Some(due), attempts: held.from.attempts + 1, ..held.from };
    end(step, &entry, Some(back))
}

/// Puts a task back as if it had not been claimed.
pub(super) fn release(step: &mut Step<'_>, token: &ClaimToken) -> Result<(), StoreError> {
    let (entry, held) = held(step, token)?;
    end(step, &entry, Some(held.from))
}

/// Gives a task up. One of its key that was pushed meanwhile goes on, as one that is pushed later would.
pub(super) fn bury(
    step: &mut Step<'_>,
    retention: &Retention,
    token: &ClaimToken,
    reason: &str,
) -> Result<(), StoreError> {
    let (entry, held) = held(step, token)?;
    if entry.waiting.is_none() {
        let attempts = held.from.attempts + 1;
        let dead = DeadTask { task: entry.task.clone(), reason: reason.to_owned(), at: step.now, attempts };
        step.put(Table::Dead, token.key.as_bytes(), &dead)?;
        step.put_bytes(Table::DeadBy, dead_key(&dead).bytes(), token.key.as_bytes())?;
    }
    end(step, &entry, None)?;
    prune::dead(step, retention)
}

fn dead_key(dead: &DeadTask) -> Key {
    Key::new().time(dead.at).last(&dead.task.key())
}

/// Takes a key out of those that were given up.
fn forget_dead(step: &mut Step<'_>, key: &str) -> Result<Option<Task>, StoreError> {
    let Some(dead) = load::<DeadTask>(step, Table::Dead, key.as_bytes())? else { return Ok(None) };
    step.remove(Table::Dead, key.as_bytes())?;
    step.remove(Table::DeadBy, dead_key(&dead).bytes())?;
    Ok(Some(dead.task))
}

/// Brings a task back that was given up.
pub(super) fn revive(step: &mut Step<'_>, key: &str) -> Result<bool, StoreError> {
    match forget_dead(step, key)? {
        Some(task) => push(step, NewTask::now(task)).map(|()| true),
        None => Ok(false),
    }
}

/// The tasks that were given up, the last first.
pub(super) fn dead(tables: &dyn Read, limit: usize) -> Result<Vec<DeadTask>, StoreError> {
    collect(tables, Table::DeadBy, &Span::all(), Direction::Backward, limit)?
        .into_iter()
        .filter_map(|(_, key)| load(tables, Table::Dead, &key).transpose())
        .collect()
}
