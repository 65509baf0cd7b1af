//! Forgetting what is over, a little with every write, so that no write pays for all.

use jiff::Timestamp;

use super::key::{Key, Span};
use super::schema::{Stored, Table, job_keys};
use super::step::Step;
use super::tables::{Direction, Pair, Read, collect, load};
use crate::domain::WorkflowJob;
use crate::store::{Retention, StoreError};

/// How many entries a write removes beyond as many as it can have added: so that what was more shrinks.
const SPARE: usize = 2;

/// Forgets the oldest answers, completed jobs and ended runners, where there are too many or they are too
/// old. `changes` is how many records the write changed.
pub(super) fn history(step: &mut Step<'_>, keep: &Retention, changes: usize) -> Result<(), StoreError> {
    let most = changes + SPARE;
    let forgotten = earlier(step.now, keep.operations_for);
    for (key, operation) in excess(step, Table::OperationsBy, keep.operations, forgotten, SPARE)? {
        step.remove(Table::OperationsBy, &key)?;
        step.remove(Table::Operations, &operation)?;
    }
    let forgotten = earlier(step.now, keep.completed_jobs_for);
    for (key, job) in excess(step, Table::Finished, keep.completed_jobs, forgotten, most)? {
        step.remove(Table::Finished, &key)?;
        if let Some(stored) = load::<Stored<WorkflowJob>>(step, Table::Jobs, &job)? {
            step.move_entries(Table::JobsBy, &job_keys(&stored.value), &[], &job)?;
            step.remove(Table::Jobs, &job)?;
        }
    }
    let forgotten = earlier(step.now, keep.ended_runners_for);
    for (key, _) in excess(step, Table::Ended, keep.ended_runners, forgotten, most)? {
        step.remove(Table::Ended, &key)?;
    }
    Ok(())
}

/// Forgets the oldest task that was given up, where there are too many.
pub(super) fn dead(step: &mut Step<'_>, keep: &Retention) -> Result<(), StoreError> {
    for (key, task) in excess(step, Table::DeadBy, keep.dead_tasks, Timestamp::MIN, SPARE)? {
        step.remove(Table::DeadBy, &key)?;
        step.remove(Table::Dead, &task)?;
    }
    Ok(())
}

fn earlier(now: Timestamp, by: std::time::Duration) -> Timestamp {
    now.checked_sub(by).unwrap_or(Timestamp::MIN)
}

/// The oldest entries of a table ordered by time that are beyond `keep`, or from before `forgotten`.
fn excess(
    step: &Step<'_>,
    table: Table,
    keep: u64,
    forgotten: Timestamp,
    most: usize,
) -> Result<Vec<Pair>, StoreError> {
    let beyond = usize::try_from(step.len(table)?.saturating_sub(keep)).unwrap_or(usize::MAX);
    let oldest = collect(step, table, &Span::all(), Direction::Forward, most)?;
    let is_over = |(at, (key, _)): &(usize, Pair)| {
        *at < beyond || Key::time_at(key, 0).is_some_and(|time| time < forgotten)
    };
    Ok(oldest.into_iter().enumerate().take_while(is_over).map(|(_, entry)| entry).collect())
}
