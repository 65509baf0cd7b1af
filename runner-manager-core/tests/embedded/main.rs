//! The embedded storage, in memory and in a file.

#![expect(clippy::unwrap_used, reason = "tests panic where the storage does not behave")]

mod conformance;
mod counted;
mod crash;
mod files;
mod records;
