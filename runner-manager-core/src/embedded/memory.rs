//! Tables in memory: sorted maps, and nothing else.
//!
//! There is no transaction to be rolled back, because a step changes nothing before it has checked
//! everything. That makes a step in memory many times cheaper than a commit of a page store, which is what
//! simulations live on.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use super::key::Span;
use super::schema::Table;
use super::tables::{Change, Direction, Read, Visit};
use crate::store::StoreError;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Tables in memory.
#[derive(Debug, Clone)]
pub(super) struct Memory(Vec<Entries>);

impl Memory {
    /// Empty tables.
    pub(super) fn new() -> Self {
        Self(Table::ALL.map(|_| Entries::new()).into())
    }

    /// Takes a value over from other tables, where they have it.
    #[cfg(feature = "testing")]
    pub(super) fn take_over(&mut self, table: Table, key: &[u8], other: &Self) {
        if let Some(value) = other.0[table.place()].get(key) {
            self.0[table.place()].insert(key.to_vec(), value.clone());
        }
    }

    /// Whether some bytes stand in any key or value.
    #[cfg(feature = "testing")]
    pub(super) fn contains(&self, bytes: &[u8]) -> bool {
        let stands_in = |text: &Vec<u8>| text.windows(bytes.len()).any(|part| part == bytes);
        self.0.iter().flatten().any(|(key, value)| stands_in(key) || stands_in(value))
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// Whether a span cannot have any entry: sorted maps panic where the begin is behind the end.
fn is_empty(span: &Span) -> bool {
    match (&span.begin, &span.end) {
        (Bound::Included(begin), Bound::Excluded(end)) | (Bound::Excluded(begin), Bound::Included(end)) => {
            begin >= end
        }
        (Bound::Included(begin), Bound::Included(end)) => begin > end,
        (Bound::Excluded(begin), Bound::Excluded(end)) => begin >= end,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

impl Read for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0[table.place()].get(key).cloned())
    }

    fn scan(
        &self,
        table: Table,
        span: &Span,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        if is_empty(span) {
            return Ok(());
        }
        let range = (as_slice(&span.begin), as_slice(&span.end));
        let mut entries = self.0[table.place()].range::<[u8], _>(range);
        let mut next = || match direction {
            Direction::Forward => entries.next(),
            Direction::Backward => entries.next_back(),
        };
        while let Some((key, value)) = next() {
            if let ControlFlow::Break(()) = visit(key, value)? {
                break;
            }
        }
        Ok(())
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        Ok(self.0[table.place()].len() as u64)
    }
}

impl Change for Memory {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.0[table.place()].insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.0[table.place()].remove(key);
        Ok(())
    }
}
