//! The storage on Redis: [`Store`](crate::store::Store), [`TaskQueue`](crate::queue::TaskQueue) and
//! [`Budgets`](crate::budget::Budgets) for any number of replicas.
//!
//! Every operation is one step of a Lua script ([`scripts`]), or one command where it reads a single field, so it is one
//! round trip and atomic. What many do at the same time shares a script ([`convoy`]). A script is given records as JSON
//! that it does not read, and beside each what it counts and orders by ([`write`](mod@write), [`job`]). It checks everything
//! before it writes anything, and its answer is a result or a refusal ([`reply`]). One who waits for a task blocks on a
//! list into which scripts put a token ([`wake`]).
//!
//! Time is the server's ([`time`]). What the server loses when it stops is settled by its own settings, so every life of
//! it is distrusted until somebody has said otherwise.
//!
//! It holds no opinion on what is written: that is the manager's.

mod args;
mod budgets;
mod connection;
mod convoy;
mod data;
mod examine;
mod job;
mod link;
mod open_error;
mod queue;
mod refusal;
mod reply;
mod scripts;
mod sentinel;
mod settings;
mod storage;
#[cfg(test)]
mod tests;
mod time;
mod wake;
mod write;

pub use examine::{RedisExamination, examine};
pub use open_error::RedisOpenError;
pub use settings::{RedisAddress, RedisServers, RedisSettings, RedisUrlError};
pub use storage::RedisStorage;
