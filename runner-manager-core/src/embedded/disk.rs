//! Tables in a file: those of redb.

use std::cell::OnceCell;
use std::fmt;
use std::ops::{Bound, ControlFlow};

use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageError, TableDefinition, TableError, WriteTransaction,
};

use super::key::Span;
use super::schema::Table;
use super::tables::{Change, Direction, Read, Visit};
use crate::store::StoreError;

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

const fn definition(table: Table) -> Definition {
    TableDefinition::new(table.name())
}

/// What redb says, as the store's error.
pub(super) fn failure(doing: &str, source: impl Into<redb::Error>) -> StoreError {
    let source: redb::Error = source.into();
    match source {
        redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableDoesNotExist(_) => StoreError::Corrupt(doing.to_owned(), Some(Box::new(source))),
        _ => StoreError::Unavailable(doing.to_owned(), Some(Box::new(source))),
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn get(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let found = table.get(key).map_err(|source| failure("cannot read a record", source))?;
    Ok(found.map(|value| value.value().to_vec()))
}

fn scan(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    span: &Span,
    direction: Direction,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    let failed = |source: StorageError| failure("cannot read a list", source);
    let range = (as_slice(&span.begin), as_slice(&span.end));
    let mut entries = table.range::<&[u8]>(range).map_err(failed)?;
    let mut next = || match direction {
        Direction::Forward => entries.next(),
        Direction::Backward => entries.next_back(),
    };
    while let Some(entry) = next() {
        let (key, value) = entry.map_err(failed)?;
        if let ControlFlow::Break(()) = visit(key.value(), value.value())? {
            break;
        }
    }
    Ok(())
}

fn len(table: &impl ReadableTableMetadata) -> Result<u64, StoreError> {
    table.len().map_err(|source| failure("cannot count a table", source))
}

/// Tables that are opened when they are first asked for, since most operations need a few of them.
struct Opened<T>([OnceCell<T>; Table::ALL.len()]);

impl<T> Opened<T> {
    fn new() -> Self {
        Self(std::array::from_fn(|_| OnceCell::new()))
    }

    fn get(&self, table: Table, open: impl FnOnce() -> Result<T, TableError>) -> Result<&T, StoreError> {
        let cell = &self.0[table.place()];
        if let Some(opened) = cell.get() {
            return Ok(opened);
        }
        let opened = open().map_err(|source| failure("cannot open a table", source))?;
        Ok(cell.get_or_init(|| opened))
    }
}

/// The tables as the last commit left them.
pub(super) struct Committed {
    transaction: ReadTransaction,
    opened: Opened<ReadOnlyTable<&'static [u8], &'static [u8]>>,
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed").finish_non_exhaustive()
    }
}

impl Committed {
    /// The tables as they are now.
    pub(super) fn of(database: &Database) -> Result<Self, StoreError> {
        let transaction = database.begin_read().map_err(|source| failure("cannot begin to read", source))?;
        Ok(Self { transaction, opened: Opened::new() })
    }

    fn table(&self, table: Table) -> Result<&ReadOnlyTable<&'static [u8], &'static [u8]>, StoreError> {
        self.opened.get(table, || self.transaction.open_table(definition(table)))
    }
}

impl Read for Committed {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(self.table(table)?, key)
    }

    fn scan(
        &self,
        table: Table,
        span: &Span,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        scan(self.table(table)?, span, direction, visit)
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        len(self.table(table)?)
    }
}

/// The tables within a transaction that is not committed.
pub(super) struct Uncommitted<'t> {
    transaction: &'t WriteTransaction,
    opened: Opened<redb::Table<'t, &'static [u8], &'static [u8]>>,
}

impl fmt::Debug for Uncommitted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uncommitted").finish_non_exhaustive()
    }
}

/// Begins a transaction whose commit waits for the disk.
pub(super) fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction =
        database.begin_write().map_err(|source| failure("cannot begin to write", source))?;
    let durable = transaction.set_durability(Durability::Immediate);
    durable.map_err(|source| failure("cannot write durably", source))?;
    Ok(transaction)
}

impl<'t> Uncommitted<'t> {
    /// The tables within a transaction.
    pub(super) fn of(transaction: &'t WriteTransaction) -> Self {
        Self { transaction, opened: Opened::new() }
    }

    /// Makes all tables, as a new file needs.
    pub(super) fn make_all(&self) -> Result<(), StoreError> {
        Table::ALL.into_iter().try_for_each(|table| self.table(table).map(drop))
    }

    fn table(&self, table: Table) -> Result<&redb::Table<'t, &'static [u8], &'static [u8]>, StoreError> {
        self.opened.get(table, || self.transaction.open_table(definition(table)))
    }

    fn table_mut(
        &mut self,
        table: Table,
    ) -> Result<&mut redb::Table<'t, &'static [u8], &'static [u8]>, StoreError> {
        self.table(table)?;
        Ok(self.opened.0[table.place()].get_mut().expect("the table was just opened"))
    }
}

impl Read for Uncommitted<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(self.table(table)?, key)
    }

    fn scan(
        &self,
        table: Table,
        span: &Span,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        scan(self.table(table)?, span, direction, visit)
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        len(self.table(table)?)
    }
}

impl Change for Uncommitted<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let put = self.table_mut(table)?.insert(key, value).map(drop);
        put.map_err(|source| failure("cannot write a record", source))
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let removed = self.table_mut(table)?.remove(key).map(drop);
        removed.map_err(|source| failure("cannot remove a record", source))
    }
}
