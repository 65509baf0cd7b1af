//! The embedded storage, in memory and in a file.

mod conformance;
