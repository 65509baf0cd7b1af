//! A file that is read but not written: what is written stays in memory.
//!
//! Opening a redb file writes to it: a mark that it is in use, and the repair after a crash. Whether a file
//! is ours and sound is found out on a trial of it, so that one that is refused is left as it was.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

const BLOCK: usize = 4096;

/// A file with what would have been written to it.
#[derive(Debug)]
pub(super) struct Trial {
    file: FileBackend,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Trial {
    /// A trial of a file, which has to be open for reading and writing so that it can be locked.
    pub(super) fn of(file: File) -> Result<Self, DatabaseError> {
        let len = file.metadata()?.len();
        let written = Mutex::new(Written { len, blocks: BTreeMap::new() });
        Ok(Self { file: FileBackend::new(file)?, written })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block as it is in the file; zero behind its end.
    fn in_file(&self, block: u64) -> io::Result<Vec<u8>> {
        let begin = block * BLOCK as u64;
        let left = self.file.len()?.saturating_sub(begin).min(BLOCK as u64);
        let mut bytes = vec![0; BLOCK];
        let left = usize::try_from(left).expect("a block's length fits");
        if left > 0 {
            self.file.read(begin, &mut bytes[..left])?;
        }
        Ok(bytes)
    }

    /// Shows the part of each block between two offsets, with its place among the bytes from `offset` on.
    fn each(
        offset: u64,
        len: usize,
        mut part: impl FnMut(u64, std::ops::Range<usize>, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let from = usize::try_from(at % BLOCK as u64).expect("a block's length fits");
            let to = BLOCK.min(from + len - done);
            part(at / BLOCK as u64, from..to, done)?;
            done += to - from;
        }
        Ok(())
    }
}

impl StorageBackend for Trial {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset + out.len() as u64 > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::each(offset, out.len(), |block, range, at| {
            let part = &mut out[at..at + range.len()];
            match written.blocks.get(&block) {
                Some(bytes) => part.copy_from_slice(&bytes[range]),
                None => part.copy_from_slice(&self.in_file(block)?[range]),
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.written().len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        Self::each(offset, data.len(), |block, range, at| {
            let bytes = match written.blocks.entry(block) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.in_file(block)?),
            };
            let len = range.len();
            bytes[range].copy_from_slice(&data[at..at + len]);
            Ok(())
        })
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
