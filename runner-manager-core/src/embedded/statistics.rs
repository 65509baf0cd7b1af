//! How the queue fares, counted over its indexes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use jiff::Timestamp;

use super::key::Key;
use super::queue::indexed;
use super::schema::{Table, Tag};
use super::tables::{Direction, Read};
use crate::queue::{LaneStatistics, QueueStatistics};
use crate::store::StoreError;

/// Counts what waits, what is held and what was given up. Costs as much as there are tasks, but reads only
/// the records of those that are held.
pub(super) fn statistics(tables: &dyn Read, now: Timestamp) -> Result<QueueStatistics, StoreError> {
    let mut count = Count { tables, now, lanes: BTreeMap::new() };
    tables.scan(Table::TasksBy, &Key::of(Tag::WAITING).span(), Direction::Forward, &mut |key, task| {
        count.waiting(key, task).map(ControlFlow::Continue)
    })?;
    tables.scan(Table::TasksBy, &Key::of(Tag::HELD).span(), Direction::Forward, &mut |key, task| {
        count.held(key, task).map(ControlFlow::Continue)
    })?;
    Ok(QueueStatistics { lanes: count.lanes.into_values().collect(), dead: tables.len(Table::Dead)? })
}

struct Count<'t> {
    tables: &'t dyn Read,
    now: Timestamp,
    lanes: BTreeMap<Vec<u8>, LaneStatistics>,
}

impl Count<'_> {
    /// The statistics of the lane of an index entry, and what follows the lane's name in its key.
    fn lane<'k>(
        &mut self,
        key: &'k [u8],
        task: &[u8],
    ) -> Result<(&mut LaneStatistics, &'k [u8]), StoreError> {
        let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len() - 1);
        let (name, rest) = (&key[1..end], &key[end + 1..]);
        if !self.lanes.contains_key(name) {
            let lane = indexed(self.tables, task)?.task.lane();
            let empty = LaneStatistics { lane, due: 0, delayed: 0, claimed: 0, oldest_due: None };
            self.lanes.insert(name.to_vec(), empty);
        }
        Ok((self.lanes.get_mut(name).expect("the entry was just made"), rest))
    }

    fn waiting(&mut self, key: &[u8], task: &[u8]) -> Result<(), StoreError> {
        let now = self.now;
        let (lane, rest) = self.lane(key, task)?;
        add(lane, Key::time_at(rest, 1).unwrap_or(now), now);
        Ok(())
    }

    /// A hold whose time is over is a task that is due, even if nobody has claimed it yet: since then, or since
    /// what was pushed behind it is.
    fn held(&mut self, key: &[u8], task: &[u8]) -> Result<(), StoreError> {
        let now = self.now;
        let pushed = indexed(self.tables, task)?.waiting;
        let (lane, rest) = self.lane(key, task)?;
        match Key::time_at(rest, 0) {
            Some(until) if until <= now => {
                add(lane, pushed.map_or(until, |pushed| pushed.due.min(until)), now);
            }
            Some(_) | None => {
                lane.claimed += 1;
                lane.delayed += u64::from(pushed.is_some());
            }
        }
        Ok(())
    }
}

fn add(lane: &mut LaneStatistics, due: Timestamp, now: Timestamp) {
    if due > now {
        lane.delayed += 1;
        return;
    }
    lane.due += 1;
    lane.oldest_due = Some(lane.oldest_due.map_or(due, |oldest| oldest.min(due)));
}
