//! A disk that fails at every possible moment.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use redb::backends::FileBackend;
use redb::{BackendError, Database, StorageBackend};

use super::{EmbeddedStorage, OpenError, open};
use crate::clock::SimulatedClock;
use crate::domain::{JobId, JobState, Labels, OperationId, RunId, WorkflowJob};
use crate::store::{Change, Expected, Store, StoreError, Write};

/// Counts down with each access that changes something, and fails from 0 on.
type Countdown = Arc<AtomicI64>;

const NEVER: i64 = i64::MAX;

#[derive(Debug)]
struct FailingDisk {
    file: FileBackend,
    left: Countdown,
}

impl FailingDisk {
    fn access(&self) -> io::Result<()> {
        if self.left.load(Ordering::SeqCst) == NEVER || self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            Ok(())
        } else {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
}

impl StorageBackend for FailingDisk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.access()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.access()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.access()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

fn on_a_failing_disk(path: &Path, left: &Countdown) -> EmbeddedStorage {
    drop(open::open(path).unwrap());
    let (file, left) = (path.to_owned(), Arc::clone(left));
    let open = move || -> Result<Database, OpenError> {
        let failed =
            |source: redb::DatabaseError| OpenError::Damaged { path: file.clone(), source: source.into() };
        let opened: File = OpenOptions::new().read(true).write(true).open(&file).unwrap();
        let disk = FailingDisk { file: FileBackend::new(opened).map_err(failed)?, left: Arc::clone(&left) };
        Database::builder().create_with_backend(disk).map_err(failed)
    };
    let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
    EmbeddedStorage::over(Box::new(open), clock, path).unwrap()
}

fn write(id: u64) -> Write {
    let job = WorkflowJob {
        id: JobId(id),
        run: RunId(id),
        attempt: 1,
        repository: "acme/app".parse().unwrap(),
        enterprise: None,
        public: false,
        // Long enough that the file grows with it.
        name: "long".repeat(2000),
        workflow: None,
        labels: Labels::default(),
        created_at: Timestamp::UNIX_EPOCH,
        recorded_at: Timestamp::UNIX_EPOCH,
        state: JobState::Queued { group: None },
        lost: None,
    };
    let changes = vec![Change::PutJob { job, expected: Expected::Absent }];
    Write {
        operation: OperationId::new(id.to_string()),
        claim: None,
        ends_claim: false,
        on_trust: false,
        changes,
        tasks: Vec::new(),
    }
}

/// What a write was answered.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Done,
    Failed,
    Unclear,
}

async fn apply(storage: &EmbeddedStorage, id: u64) -> Told {
    match storage.apply(write(id)).await {
        Ok(_) => Told::Done,
        Err(StoreError::Unavailable(..)) => Told::Failed,
        Err(StoreError::Unclear(..)) => Told::Unclear,
        Err(other) => panic!("write {id}: {other}"),
    }
}

#[tokio::test]
async fn what_is_answered_is_true_wherever_the_disk_fails() {
    let (mut failed, mut unclear) = (0, 0);
    for accesses in 0..40 {
        let directory = tempfile::tempdir().unwrap();
        let left: Countdown = Arc::new(AtomicI64::new(NEVER));
        let storage = on_a_failing_disk(&directory.path().join("storage"), &left);
        assert_eq!(apply(&storage, 0).await, Told::Done);
        left.store(accesses, Ordering::SeqCst);
        let mut told = Vec::new();
        for id in 1.. {
            told.push((id, apply(&storage, id).await));
            // One more, to see that it says so again.
            if told.iter().filter(|(_, told)| *told != Told::Done).count() == 2 {
                break;
            }
        }
        left.store(NEVER, Ordering::SeqCst);
        assert_eq!(apply(&storage, 100).await, Told::Done, "it goes on once the disk does");
        for (id, told) in &told {
            let is_there = storage.job(JobId(*id)).await.unwrap().is_some();
            match told {
                Told::Done => assert!(is_there, "write {id} was lost after {accesses} accesses"),
                Told::Failed => assert!(!is_there, "write {id} was done after {accesses} accesses"),
                Told::Unclear => unclear += 1,
            }
            failed += u32::from(*told == Told::Failed);
            assert_eq!(apply(&storage, *id).await, Told::Done, "it can be repeated");
            assert!(storage.job(JobId(*id)).await.unwrap().is_some());
        }
    }
    assert!(failed >= 40 && unclear >= 20, "{failed} failed, {unclear} unclear");
}

#[tokio::test]
async fn reads_say_so_while_the_disk_fails() {
    let directory = tempfile::tempdir().unwrap();
    let left: Countdown = Arc::new(AtomicI64::new(NEVER));
    let storage = on_a_failing_disk(&directory.path().join("storage"), &left);
    left.store(0, Ordering::SeqCst);
    assert_ne!(apply(&storage, 1).await, Told::Done);
    assert!(matches!(storage.job(JobId(1)).await, Err(StoreError::Unavailable(..))));
    assert_eq!(apply(&storage, 2).await, Told::Failed);
    left.store(NEVER, Ordering::SeqCst);
    assert_eq!(apply(&storage, 2).await, Told::Done);
    assert!(storage.job(JobId(2)).await.unwrap().is_some());
}
