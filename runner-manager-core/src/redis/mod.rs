//! The storage on Redis: [`Store`](crate::store::Store), [`TaskQueue`](crate::queue::TaskQueue) and
//! [`Budgets`](crate::budget::Budgets) for any number of replicas.

#![expect(dead_code, reason = "the storage comes next")]

mod link;
mod settings;

pub use settings::RedisSettings;
