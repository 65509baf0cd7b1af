//! The storage on a real Redis server.

#![expect(clippy::unwrap_used, reason = "tests panic where the storage does not behave")]

mod conformance;
mod counted;
mod heard;
#[path = "../support/reconcile.rs"]
mod reconcile;
mod records;
#[path = "../support/redis_server.rs"]
mod redis_server;
mod trouble;
mod woken;
mod world;
