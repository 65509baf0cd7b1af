//! Tests of the driver on the embedded storage in memory.
