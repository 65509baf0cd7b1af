//! What every kind of table can do, in memory or in a file, and how records are written into them.

use std::fmt::Debug;
use std::ops::ControlFlow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::key::Span;
use super::schema::Table;
use crate::store::StoreError;

/// What a scan does with an entry.
pub(super) type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + 'v;

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// In which direction a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Smallest key first.
    Forward,
    /// Greatest key first.
    Backward,
}

/// Tables that can be read.
pub(super) trait Read: Debug {
    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Shows the entries of a span one by one, until `visit` has seen enough.
    fn scan(
        &self,
        table: Table,
        span: &Span,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError>;

    /// How many entries a table has, at a cost that does not depend on it.
    fn len(&self, table: Table) -> Result<u64, StoreError>;
}

/// Tables that can be changed.
pub(super) trait Change: Read {
    /// Writes a value.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Removes a key, if it is there.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError>;
}

/// Reads a record.
pub(super) fn load<T: DeserializeOwned>(
    tables: &dyn Read,
    table: Table,
    key: &[u8],
) -> Result<Option<T>, StoreError> {
    tables.get(table, key)?.map(|bytes| decode(table, key, &bytes)).transpose()
}

/// Writes a record as the bytes that [`decode`] reads.
pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records are plain data, which always serializes")
}

/// Reads a record's bytes.
pub(super) fn decode<T: DeserializeOwned>(table: Table, key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| {
        let key = key.escape_ascii();
        StoreError::Corrupt(format!("cannot read `{key}` of table {}", table.name()), Some(Box::new(source)))
    })
}

/// At most `limit` entries of a span.
pub(super) fn collect(
    tables: &dyn Read,
    table: Table,
    span: &Span,
    direction: Direction,
    limit: usize,
) -> Result<Vec<Pair>, StoreError> {
    let mut entries = Vec::new();
    if limit > 0 {
        tables.scan(table, span, direction, &mut |key, value| {
            entries.push((key.to_vec(), value.to_vec()));
            Ok(if entries.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
    }
    Ok(entries)
}

/// The first entry of a span.
pub(super) fn first(tables: &dyn Read, table: Table, span: &Span) -> Result<Option<Pair>, StoreError> {
    Ok(collect(tables, table, span, Direction::Forward, 1)?.pop())
}
