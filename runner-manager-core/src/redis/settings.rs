//! How to reach a Redis.

use crate::domain::Secret;

/// Where a Redis is, and how to get in.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// Its URL, which may hold a password.
    pub url: Secret,
}
