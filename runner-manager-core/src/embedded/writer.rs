//! The one thread that writes to a file, and group commit.
//!
//! It takes all operations that wait, runs them one after the other within one transaction, commits that
//! once, and answers them all. An operation that is refused has changed nothing, so the others are not
//! concerned. One that fails half way takes the transaction with it: then nothing of it was done.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::Database;
use tokio::sync::{mpsc, oneshot};

use super::disk::{Uncommitted, begin};
use super::engine::Shared;
use super::file::{DataFile, Failure};
use super::step::{Step, Wakes};
use crate::store::StoreError;

/// How many operations wait for the writer before those who bring more have to wait.
const QUEUE: usize = 1024;

/// How many operations share a commit.
const BATCH: usize = 256;

/// The thread that writes to a file.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(file: Arc<DataFile>, shared: Arc<Shared>) -> std::io::Result<Self> {
        let (jobs, mut waiting) = mpsc::channel::<Box<dyn Job>>(QUEUE);
        let thread = std::thread::Builder::new().name("embedded-writer".to_owned()).spawn(move || {
            while let Some(first) = waiting.blocking_recv() {
                let mut batch = vec![first];
                while let Ok(next) = waiting.try_recv() {
                    batch.push(next);
                    if batch.len() == BATCH {
                        break;
                    }
                }
                run_all(&file, &shared, batch);
            }
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs an operation, and answers it once it is on the disk.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Step<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let stopped = || StoreError::Unavailable("its writer has stopped".to_owned(), None);
        let (sender, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Box::new(Operation { operation, sender })).await.map_err(|_| stopped())?;
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Unclear("its writer stopped meanwhile".to_owned(), None)))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has said so, and there is nobody to tell.
            let _ = thread.join();
        }
    }
}

type Answer = Box<dyn FnOnce(Option<&Failure>)>;

/// An operation that waits for the writer.
trait Job: Send {
    /// Runs it. It is answered later, by what is returned; also tells whether it failed.
    fn run(self: Box<Self>, step: &mut Step<'_>) -> (Answer, bool);

    /// Answers it without running it.
    fn refuse(self: Box<Self>, failure: &Failure);
}

struct Operation<F, T> {
    operation: F,
    sender: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Operation<F, T>
where
    F: FnOnce(&mut Step<'_>) -> Result<T, StoreError> + Send,
    T: Send + 'static,
{
    fn run(self: Box<Self>, step: &mut Step<'_>) -> (Answer, bool) {
        let sender = self.sender;
        let outcome = (self.operation)(step);
        let failed = outcome.is_err();
        let answer = move |failure: Option<&Failure>| {
            // One who does not wait any more does not hear it: a write is known by its operation id, and a
            // claim comes back at the end of its lease.
            let _ = sender.send(settle(outcome, failure));
        };
        (Box::new(answer), failed)
    }

    fn refuse(self: Box<Self>, failure: &Failure) {
        let _ = self.sender.send(Err(failure.to_error()));
    }
}

/// What an operation is told after its transaction.
fn settle<T>(outcome: Result<T, StoreError>, failure: Option<&Failure>) -> Result<T, StoreError> {
    match (outcome, failure) {
        (outcome, None) => outcome,
        // Its own failure says more than that of the transaction.
        (Err(own @ (StoreError::Unavailable(..) | StoreError::Corrupt(..))), Some(_)) => Err(own),
        // A refusal too: it may be due to something that was not committed.
        (_, Some(failure)) => Err(failure.to_error()),
    }
}

fn run_all(file: &DataFile, shared: &Shared, batch: Vec<Box<dyn Job>>) {
    let mut waiting = batch.into_iter();
    while waiting.len() > 0 {
        let mut group = Group::default();
        let committed = file.write(|database| group.commit(database, shared, &mut waiting));
        if let Err(failure) = &committed {
            tracing::error!(error = failure as &dyn std::error::Error, "the storage failed");
            if group.answers.is_empty() {
                waiting.by_ref().for_each(|job| job.refuse(failure));
            }
        } else {
            group.wakes.iter().for_each(|wakes| shared.lanes.tell(wakes));
        }
        let committed = committed.as_ref().err();
        group.answers.into_iter().for_each(|answer| answer(committed));
    }
}

/// The operations of one transaction.
#[derive(Default)]
struct Group {
    answers: Vec<Answer>,
    wakes: Vec<Wakes>,
    changed: bool,
}

impl Group {
    /// Runs what waits, within one transaction.
    fn commit(
        &mut self,
        database: &Database,
        shared: &Shared,
        waiting: &mut impl Iterator<Item = Box<dyn Job>>,
    ) -> Result<(), Failure> {
        let begun = begin(database);
        let transaction = begun.map_err(|source| Failure::clear("its file cannot be written", source))?;
        let broken = self.run(shared, Uncommitted::of(&transaction), waiting);
        if broken || !self.changed {
            let aborted = transaction.abort();
            let aborted = aborted.map_err(|source| Failure::clear("its file cannot be written", source));
            return if broken { aborted.and(Err(Failure::broken())) } else { aborted };
        }
        transaction.commit().map_err(|source| Failure::unclear("its file may not be written", source))?;
        shared.tally.commit();
        Ok(())
    }

    /// Runs operations until there is none left, or one failed half way; tells whether one did.
    fn run(
        &mut self,
        shared: &Shared,
        mut tables: Uncommitted<'_>,
        waiting: &mut impl Iterator<Item = Box<dyn Job>>,
    ) -> bool {
        for job in waiting {
            let mut step = Step::new(&mut tables, shared.clock.now(), shared.incarnation());
            let (answer, failed) = job.run(&mut step);
            shared.tally.operation(step.entries());
            self.answers.push(answer);
            self.changed |= step.changed;
            if failed && step.changed {
                return true;
            }
            self.wakes.push(step.wakes);
        }
        false
    }
}
