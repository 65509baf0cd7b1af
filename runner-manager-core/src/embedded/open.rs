//! Opening a file: making a new one, and refusing one that is not ours, not sound or in use.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageError};

use super::disk::{Committed, Uncommitted, begin};
use super::schema::{SCHEMA_ROW, Table, VERSION};
use super::step::number;
use super::tables::{Change, Read};
use super::trial::Trial;
use crate::store::StoreError;

/// How much of the file is kept in memory.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// A file cannot be used as a storage. It was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory of the file does not exist.
    #[error("storage {}: its directory does not exist: make it, or name another file", path.display())]
    NoDirectory {
        /// The file.
        path: PathBuf,
    },
    /// There is something at this path that is no file.
    #[error("storage {}: this is not a file: name a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// This process may not read and write the file, or not make it.
    #[error("storage {}: reading and writing is not permitted: change its owner or mode", path.display())]
    Permission {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another storage of this one, has the file open.
    #[error("storage {}: in use by another process: stop that one, or name another file", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A later release wrote the file.
    #[error(
        "storage {}: written by a later release (schema {found}, this one knows up to {known}): use that release",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of its schema.
        found: u64,
        /// The greatest version that this release knows.
        known: u64,
    },
    /// The file is something else.
    #[error("storage {}: this is not a storage of Runner Manager: name another file", path.display())]
    NotAStorage {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read as what it is.
    #[error(
        "storage {}: damaged: bring back a copy, or move it away to begin with an empty one",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system failed.
    #[error("storage {}: cannot be opened", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Opens a file, and makes it where there is none.
pub(super) fn open(path: &Path) -> Result<Database, OpenError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err(OpenError::NotAFile { path: path.to_owned() }),
        Ok(_) => {}
        Err(source) if source.kind() == io::ErrorKind::NotFound => make(path)?,
        Err(source) => return Err(io_error(path, source)),
    }
    let is_new = inspect(path)?;
    let database = builder().create(path).map_err(|source| database_error(path, source))?;
    if is_new {
        make_tables(&database).map_err(|source| store_error(path, source))?;
    }
    Ok(database)
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes a new file under another name and then gives it its own, so that a crash in between leaves no file
/// that is half made.
fn make(path: &Path) -> Result<(), OpenError> {
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(OpenError::NotAFile { path: path.to_owned() }),
    };
    if !directory.is_dir() {
        return Err(OpenError::NoDirectory { path: path.to_owned() });
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let unfinished = PathBuf::from(name);
    let made = make_as(&unfinished, path, directory);
    // It has been given its own name, or it is of no use.
    let _ = fs::remove_file(&unfinished);
    made
}

fn make_as(unfinished: &Path, path: &Path, directory: &Path) -> Result<(), OpenError> {
    let _ = fs::remove_file(unfinished);
    let database = builder().create(unfinished).map_err(|source| database_error(path, source))?;
    make_tables(&database).map_err(|source| store_error(path, source))?;
    database.close().map_err(|source| database_error(path, source))?;
    match fs::hard_link(unfinished, path) {
        Ok(()) => {}
        // Somebody else was faster: theirs is used.
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
        // Some file systems have no links.
        Err(_) => fs::rename(unfinished, path).map_err(|source| io_error(path, source))?,
    }
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|source| io_error(path, source))
}

fn make_tables(database: &Database) -> Result<(), StoreError> {
    let transaction = begin(database)?;
    let mut tables = Uncommitted::of(&transaction);
    tables.make_all()?;
    tables.put(Table::Meta, SCHEMA_ROW, &VERSION.to_be_bytes())?;
    drop(tables);
    transaction.commit().map_err(|source| super::disk::failure("cannot make the tables", source))
}

/// Looks whether a file is ours and sound, and whether it is new, without writing to it.
fn inspect(path: &Path) -> Result<bool, OpenError> {
    let file =
        OpenOptions::new().read(true).write(true).open(path).map_err(|source| io_error(path, source))?;
    // What a damaged file may lead to is not only errors.
    catch_unwind(AssertUnwindSafe(|| try_out(path, file))).unwrap_or_else(|_| {
        Err(OpenError::Damaged { path: path.to_owned(), source: "its pages contradict each other".into() })
    })
}

fn try_out(path: &Path, file: File) -> Result<bool, OpenError> {
    let open = |file| builder().set_check_integrity_on_open(true).create_with_backend(Trial::of(file)?);
    let database = open(file).map_err(|source| database_error(path, source))?;
    let has_tables = tables_of(&database).map_err(|source| store_error(path, source))?;
    if !has_tables {
        return Ok(true);
    }
    let schema = Committed::of(&database).and_then(|tables| tables.get(Table::Meta, SCHEMA_ROW));
    match schema.map(|row| row.map(|bytes| number(&bytes))) {
        Ok(Some(Ok(VERSION))) => Ok(false),
        Ok(Some(Ok(found))) if found > VERSION => {
            Err(OpenError::Newer { path: path.to_owned(), found, known: VERSION })
        }
        Ok(_) | Err(StoreError::Corrupt(..)) => Err(OpenError::NotAStorage { path: path.to_owned() }),
        Err(source) => Err(store_error(path, source)),
    }
}

/// Whether a database has any tables.
fn tables_of(database: &Database) -> Result<bool, StoreError> {
    let failed = |source: redb::Error| super::disk::failure("cannot list the tables", source);
    let transaction = database.begin_read().map_err(|source| failed(source.into()))?;
    let mut tables = transaction.list_tables().map_err(|source| failed(source.into()))?;
    Ok(tables.next().is_some())
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::Permission { path, source }
        }
        io::ErrorKind::InvalidData => OpenError::NotAStorage { path },
        // A file that ends before what it says it has.
        io::ErrorKind::UnexpectedEof => OpenError::Damaged { path, source: source.into() },
        _ => OpenError::Io { path, source },
    }
}

fn database_error(path: &Path, source: DatabaseError) -> OpenError {
    match source {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse { path: path.to_owned() }
        }
        DatabaseError::Storage(StorageError::Io(source)) => io_error(path, source),
        DatabaseError::UpgradeRequired(_) => OpenError::NotAStorage { path: path.to_owned() },
        _ => OpenError::Damaged { path: path.to_owned(), source: source.into() },
    }
}

fn store_error(path: &Path, source: StoreError) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), source: source.into() }
}
