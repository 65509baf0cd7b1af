//! One operation at work on the tables: its time, its numbers, and whom it will wake.

use std::cell::Cell;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::key::{Key, Span};
use super::schema::{NUMBER_ROW, Table};
use super::tables::{Change, Direction, Read, Visit, encode};
use crate::store::StoreError;

/// What those who wait on a lane have to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wake {
    /// Whether a task is due.
    pub(super) due: bool,
    /// When the next task that was queued is due, or the next hold that was taken ends.
    pub(super) at: Option<Timestamp>,
    /// Whether `at` is when something happens next on the lane, whatever was known before.
    pub(super) looked_up: bool,
    /// Whether as many tasks are held as may be, where a claim has seen that.
    pub(super) full: Option<bool>,
    /// Whether a hold has ended.
    pub(super) freed: bool,
}

/// What those who wait have to know, by lane.
pub(super) type Wakes = BTreeMap<String, Wake>;

/// One operation at work.
///
/// It checks everything before it changes anything, so that one that is refused has changed nothing.
#[derive(Debug)]
pub(super) struct Step<'t> {
    /// The time of the operation.
    pub(super) now: Timestamp,
    /// The storage's life.
    pub(super) incarnation: u64,
    /// Whom to wake once it is done.
    pub(super) wakes: Wakes,
    /// Whether it has changed anything.
    pub(super) changed: bool,
    tables: &'t mut dyn Change,
    entries: Cell<u64>,
}

impl<'t> Step<'t> {
    /// An operation at a time.
    pub(super) fn new(tables: &'t mut dyn Change, now: Timestamp, incarnation: u64) -> Self {
        Self { now, incarnation, wakes: Wakes::new(), changed: false, tables, entries: Cell::new(0) }
    }

    /// How many entries it has touched.
    pub(super) const fn entries(&self) -> u64 {
        self.entries.get()
    }

    fn touch(&self) {
        self.entries.update(|entries| entries + 1);
    }

    /// A number that was never given out before and is greater than all that were.
    ///
    /// It follows the time in microseconds, so that this also holds after the storage lost the last numbers
    /// that it gave out.
    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        let next = match self.get(Table::Meta, NUMBER_ROW)? {
            Some(bytes) => number(&bytes)?,
            None => 1,
        };
        let number = next.max(u64::try_from(self.now.as_microsecond()).unwrap_or(0));
        self.put_bytes(Table::Meta, NUMBER_ROW, &(number + 1).to_be_bytes())?;
        Ok(number)
    }

    /// Writes a record.
    pub(super) fn put<T: Serialize>(
        &mut self,
        table: Table,
        key: &[u8],
        record: &T,
    ) -> Result<(), StoreError> {
        self.put_bytes(table, key, &encode(record))
    }

    /// Writes a value as it is.
    pub(super) fn put_bytes(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.changed = true;
        self.touch();
        self.tables.put(table, key, value)
    }

    /// Removes a key, if it is there.
    pub(super) fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.changed = true;
        self.touch();
        self.tables.remove(table, key)
    }

    /// Takes the index entries of a record from where it stood to where it stands.
    pub(super) fn move_entries(
        &mut self,
        index: Table,
        from: &[Key],
        to: &[Key],
        record: &[u8],
    ) -> Result<(), StoreError> {
        for key in from.iter().filter(|key| !to.contains(key)) {
            self.remove(index, key.bytes())?;
        }
        for key in to.iter().filter(|key| !from.contains(key)) {
            self.put_bytes(index, key.bytes(), record)?;
        }
        Ok(())
    }

    /// Notes that a hold on a task of a lane has ended.
    pub(super) fn freed(&mut self, lane: &str) {
        self.wakes.entry(lane.to_owned()).or_default().freed = true;
    }

    /// Notes that a task of a lane is due at a time, or that a hold ends then.
    pub(super) fn wake(&mut self, lane: &str, at: Timestamp) {
        let due = at <= self.now;
        let wake = self.wakes.entry(lane.to_owned()).or_default();
        if due {
            wake.due = true;
        } else {
            wake.at = Some(wake.at.map_or(at, |other| other.min(at)));
        }
    }
}

/// Reads a number of [`Table::Meta`].
pub(super) fn number(bytes: &[u8]) -> Result<u64, StoreError> {
    let bytes = bytes.try_into().map_err(|source| {
        StoreError::Corrupt("a number has not 8 bytes".to_owned(), Some(Box::new(source)))
    })?;
    Ok(u64::from_be_bytes(bytes))
}

impl Read for Step<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.touch();
        self.tables.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        span: &Span,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        self.touch();
        self.tables.scan(table, span, direction, &mut |key, value| {
            self.touch();
            visit(key, value)
        })
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        self.tables.len(table)
    }
}
