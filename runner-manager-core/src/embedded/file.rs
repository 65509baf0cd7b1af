//! An open file, which is closed after a failure and opened again by the next write.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use redb::Database;

use super::disk::Committed;
use super::open::OpenError;
use crate::store::StoreError;

/// How a file is opened again.
pub(super) type Open = Box<dyn Fn() -> Result<Database, OpenError> + Send + Sync>;

/// An open file.
pub(super) struct DataFile {
    open: Open,
    database: RwLock<Option<Database>>,
}

impl fmt::Debug for DataFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataFile").finish_non_exhaustive()
    }
}

/// Why a transaction failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub(super) struct Failure {
    text: &'static str,
    #[source]
    source: Option<Arc<dyn Error + Send + Sync>>,
    is_clear: bool,
}

impl Failure {
    /// Nothing was done.
    pub(super) fn clear(text: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self { text, source: Some(Arc::new(source)), is_clear: true }
    }

    /// Whether it was done is not known.
    pub(super) fn unclear(text: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self { is_clear: false, ..Self::clear(text, source) }
    }

    /// Nothing was done, because one of the operations failed half way.
    pub(super) const fn broken() -> Self {
        Self { text: "another operation of its transaction failed", source: None, is_clear: true }
    }

    /// The failure as the store's error, for each operation that it concerns.
    pub(super) fn to_error(&self) -> StoreError {
        let source: Option<Box<dyn Error + Send + Sync>> =
            self.source.clone().map(|source| Box::new(source) as _);
        if self.is_clear {
            StoreError::Unavailable(self.text.to_owned(), source)
        } else {
            StoreError::Unclear(self.text.to_owned(), source)
        }
    }
}

impl DataFile {
    /// Opens a file.
    pub(super) fn new(open: Open) -> Result<Self, OpenError> {
        let database = RwLock::new(Some(open()?));
        Ok(Self { open, database })
    }

    /// The tables as the last commit left them.
    pub(super) fn committed(&self) -> Result<Committed, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        match &*database {
            Some(database) => Committed::of(database),
            None => Err(StoreError::Unavailable("its file is closed after a failure".to_owned(), None)),
        }
    }

    /// Writes, and closes the file where that fails: redb goes on only with a file that is opened anew. One
    /// writer at a time.
    pub(super) fn write(&self, work: impl FnOnce(&Database) -> Result<(), Failure>) -> Result<(), Failure> {
        self.reopen()?;
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let written = database.as_ref().map_or(Ok(()), work);
        drop(database);
        if written.is_err() {
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        written
    }

    fn reopen(&self) -> Result<(), Failure> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let opened = (self.open)();
        let opened = opened.map_err(|source| Failure::clear("its file cannot be opened again", source))?;
        tracing::info!("the storage's file was opened again after a failure");
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        Ok(())
    }
}
