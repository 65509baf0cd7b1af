//! The storage on a real Redis server.

#![expect(clippy::unwrap_used, reason = "tests panic where the storage does not behave")]

mod conformance;
#[path = "../support/redis_server.rs"]
mod redis_server;
mod world;
