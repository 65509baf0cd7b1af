//! The embedded storage: [`Store`](crate::store::Store) and [`TaskQueue`](crate::queue::TaskQueue) in one
//! process, in memory or in a file.
//!
//! Every operation is a step on a handful of tables ([`schema`]): it checks all that it has to, and then makes
//! all its changes ([`apply`], [`queue`]). In memory a step runs at once, and the tables are sorted maps. In a
//! file they are those of redb, and one thread runs the steps that have come together in one transaction and
//! answers them once it is on the disk ([`writer`]).
//!
//! It holds no opinion on what is written: that is the manager's.

mod apply;
mod budgets;
mod disk;
mod engine;
mod file;
mod key;
mod memory;
mod open;
mod prune;
mod queue;
mod read;
mod schema;
mod statistics;
mod step;
mod storage;
mod tables;
mod tally;
#[cfg(test)]
mod tests;
mod trial;
mod wake;
mod writer;

pub use open::OpenError;
pub use storage::EmbeddedStorage;
#[cfg(feature = "testing")]
pub use storage::Snapshot;
pub use tally::StorageStatistics;
