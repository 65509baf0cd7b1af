//! Files that cannot be used, and files that can.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, TableDefinition};
use runner_manager_core::clock::SystemClock;
use runner_manager_core::domain::JobId;
use runner_manager_core::embedded::{EmbeddedStorage, OpenError};
use runner_manager_core::queue::TaskQueue;
use runner_manager_core::store::{Change, Store};
use tempfile::TempDir;

use crate::records::{put_job, reconcile, write};

fn open(path: &Path) -> Result<EmbeddedStorage, OpenError> {
    EmbeddedStorage::open(path, Arc::new(SystemClock))
}

/// What opening a file is refused with. The file, and its directory, must be as before.
fn refused(path: &Path) -> OpenError {
    let directory = path.parent().unwrap();
    let listing = || fs::read_dir(directory).into_iter().flatten().count();
    let (before, files) = (fs::read(path).ok(), listing());
    let error = open(path).expect_err("the file cannot be used");
    assert!(before == fs::read(path).ok(), "the file was changed: {error}");
    assert_eq!(files, listing(), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    error
}

async fn fill(storage: &EmbeddedStorage) {
    for id in 0..100 {
        let mut write = write(&format!("operation-{id}"), vec![put_job(id)]);
        write.tasks = vec![reconcile(&format!("g{id}"))];
        storage.apply(write).await.unwrap();
    }
}

/// How many of the writes are there, each with its task.
async fn kept(storage: &EmbeddedStorage) -> u64 {
    let mut jobs = 0;
    for id in 0..100 {
        jobs += u64::from(storage.job(JobId(id)).await.unwrap().is_some());
    }
    assert_eq!(storage.statistics().await.unwrap().lanes[0].due, jobs);
    jobs
}

async fn is_full(storage: &EmbeddedStorage) -> bool {
    kept(storage).await == 100
}

#[tokio::test]
async fn a_file_that_was_brought_back_gives_no_number_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = a_file(&directory, true).await;
    let copy = directory.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    let versions = async |path: &Path| {
        let storage = open(path).unwrap();
        let mut versions = Vec::new();
        for id in 100..110 {
            let answer = storage.apply(write(&format!("operation-{id}"), vec![put_job(id)])).await.unwrap();
            versions.extend(answer.versions);
        }
        versions
    };
    let lost = versions(&path).await;
    assert!(versions(&copy).await.iter().all(|version| !lost.contains(version)));
}

#[tokio::test]
async fn a_file_has_one_life() {
    let directory = tempfile::tempdir().unwrap();
    let path = a_file(&directory, false).await;
    let before = open(&path).unwrap().deployment().await.unwrap();
    assert!(before.trusted);
    let trust = Change::Trust { incarnation: before.incarnation.clone() };
    open(&path).unwrap().apply(write("trust", vec![trust])).await.unwrap();
    assert_eq!(open(&path).unwrap().deployment().await.unwrap(), before);
}

/// A file with a hundred records. Where it is `crashed`, it is as a process left it that was killed.
async fn a_file(directory: &TempDir, crashed: bool) -> PathBuf {
    let path = directory.path().join("storage");
    let storage = open(&path).unwrap();
    fill(&storage).await;
    if !crashed {
        return path;
    }
    let copy = directory.path().join("crashed");
    fs::copy(&path, &copy).unwrap();
    copy
}

#[tokio::test]
async fn what_was_written_is_there_again() {
    for crashed in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = a_file(&directory, crashed).await;
        for _ in 0..3 {
            let storage = open(&path).unwrap();
            assert!(is_full(&storage).await);
            assert!(storage.apply(write("operation-7", vec![put_job(7)])).await.unwrap().repeated);
        }
    }
}

#[tokio::test]
async fn an_empty_file_is_a_new_storage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("storage");
    fs::write(&path, "").unwrap();
    fill(&open(&path).unwrap()).await;
    assert!(is_full(&open(&path).unwrap()).await);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_file_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("storage");
    let storage = open(&path).unwrap();
    fill(&storage).await;
    assert!(matches!(refused(&path), OpenError::InUse { .. }));
    assert!(is_full(&storage).await);
    drop(storage);
    assert!(is_full(&open(&path).unwrap()).await);
}

#[tokio::test]
async fn a_file_of_a_later_release_is_refused() {
    const META: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("meta");
    let directory = tempfile::tempdir().unwrap();
    let path = a_file(&directory, false).await;
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let later = 2_u64.to_be_bytes();
    transaction.open_table(META).unwrap().insert(b"schema".as_slice(), later.as_slice()).unwrap();
    transaction.commit().unwrap();
    let crashed = directory.path().join("crashed");
    fs::copy(&path, &crashed).unwrap();
    drop(database);
    for path in [path, crashed] {
        assert!(matches!(refused(&path), OpenError::Newer { found: 2, known: 1, .. }));
    }
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in [("text", "name: acme\n".repeat(5000)), ("short", "x".to_owned())] {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        assert!(matches!(refused(&path), OpenError::NotAStorage { .. }));
    }
    let path = directory.path().join("redb");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let table: TableDefinition<'_, u64, u64> = TableDefinition::new("meta");
    transaction.open_table(table).unwrap().insert(1, 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(refused(&path), OpenError::NotAStorage { .. }));
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    for crashed in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = a_file(&directory, crashed).await;
        let sound = fs::read(&path).unwrap();
        fs::write(&path, &sound[..sound.len() / 2]).unwrap();
        assert!(matches!(refused(&path), OpenError::Damaged { .. }));
        let mut refusals = 0;
        for page in (0..sound.len()).step_by(4096) {
            let mut damaged = sound.clone();
            damaged[page..].iter_mut().take(64).for_each(|byte| *byte ^= 0x55);
            fs::write(&path, &damaged).unwrap();
            if let Ok(storage) = open(&path) {
                // Where the last commit before a crash is damaged, it looks like one that the crash cut short.
                let all = if crashed { 99..=100 } else { 100..=100 };
                assert!(all.contains(&kept(&storage).await), "the page at {page} was in use");
            } else {
                refusals += 1;
                fs::write(&path, &damaged).unwrap();
                refused(&path);
            }
        }
        assert!(refusals >= 5, "only {refusals} pages mattered");
    }
}

#[test]
fn a_path_that_cannot_be_a_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(refused(&directory.path().join("none/storage")), OpenError::NoDirectory { .. }));
    let path = directory.path().join("directory");
    fs::create_dir(&path).unwrap();
    assert!(matches!(refused(&path), OpenError::NotAFile { .. }));
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_may_not_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = a_file(&directory, false).await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
        println!("skipped: this user may write everything");
        return;
    }
    assert!(matches!(refused(&path), OpenError::Permission { .. }));
}
