//! What a storage has done, counted: commits, and how many entries its operations touched.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use super::key::Span;
use super::schema::Table;
use super::tables::{Direction, Read, Visit};
use crate::store::StoreError;

/// What a storage has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StorageStatistics {
    /// Operations that may write: those of the store, and of the queue.
    pub operations: u64,
    /// Commits. In a file each is one wait for the disk, for however many operations came together.
    pub commits: u64,
    /// Entries that operations and reads looked up, stepped over or wrote.
    pub entries: u64,
}

/// The running count.
#[derive(Debug, Default)]
pub(super) struct Tally {
    operations: AtomicU64,
    commits: AtomicU64,
    entries: AtomicU64,
}

impl Tally {
    /// Counts one operation and the entries that it touched.
    pub(super) fn operation(&self, entries: u64) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
    }

    /// Counts one commit.
    pub(super) fn commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the entries that a read touched.
    pub(super) fn read(&self, entries: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
    }

    /// The count now.
    pub(super) fn statistics(&self) -> StorageStatistics {
        StorageStatistics {
            operations: self.operations.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
            entries: self.entries.load(Ordering::Relaxed),
        }
    }
}

/// Tables whose reads are counted.
#[derive(Debug)]
pub(super) struct Counted<'t> {
    tables: &'t dyn Read,
    entries: Cell<u64>,
}

impl<'t> Counted<'t> {
    /// Counts from 0.
    pub(super) fn new(tables: &'t dyn Read) -> Self {
        Self { tables, entries: Cell::new(0) }
    }

    /// How many entries were touched.
    pub(super) const fn entries(&self) -> u64 {
        self.entries.get()
    }
}

impl Read for Counted<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.entries.update(|entries| entries + 1);
        self.tables.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        span: &Span,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        self.entries.update(|entries| entries + 1);
        self.tables.scan(table, span, direction, &mut |key, value| {
            self.entries.update(|entries| entries + 1);
            visit(key, value)
        })
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        self.tables.len(table)
    }
}
