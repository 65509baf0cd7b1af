//! The storage on Redis: [`Store`](crate::store::Store), [`TaskQueue`](crate::queue::TaskQueue) and
//! [`Budgets`](crate::budget::Budgets) for any number of replicas.

#![expect(dead_code, reason = "the storage comes next")]

mod connection;
mod link;
mod open_error;
mod refusal;
mod sentinel;
mod settings;
mod tls;

pub use open_error::RedisOpenError;
pub use settings::{RedisAddress, RedisServers, RedisSettings, RedisUrlError};
