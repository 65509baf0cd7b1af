//! Why a Redis cannot be used, in sentences that say what to do. None of them has a password in it.

use std::io;
use std::time::Duration;

use crate::store::StoreError;

/// A Redis cannot be used as a storage. Nothing was changed in it.
///
/// `server` is the address that failed, as `HOST:PORT`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisOpenError {
    /// There is no connection to it.
    #[error(
        "redis {server}: no connection ({source}): see that it runs there, and that host and port are right"
    )]
    Unreachable {
        /// Which server.
        server: String,
        /// What the system said.
        source: io::Error,
    },
    /// It did not do its part in time.
    #[error("redis {server}: {what} within {limit:?}: {hint}")]
    Silent {
        /// Which server.
        server: String,
        /// What it did not do.
        what: &'static str,
        /// How long it had.
        limit: Duration,
        /// What may be the reason.
        hint: &'static str,
    },
    /// It closed the connection.
    #[error("redis {server}: it closed the connection without an answer ({source}): {hint}")]
    Closed {
        /// Which server.
        server: String,
        /// What the system said.
        source: io::Error,
        /// What may be the reason.
        hint: &'static str,
    },
    /// What answers there does not speak Redis' language.
    #[error(
        "redis {server}: what answers there is no Redis: name another host or port (TLS wants rediss://)"
    )]
    NotRedis {
        /// Which server.
        server: String,
    },
    /// TLS did not come about.
    #[error("redis {server}: no TLS ({source}): {hint}")]
    Tls {
        /// Which server.
        server: String,
        /// What TLS said.
        source: io::Error,
        /// What may be the reason.
        hint: &'static str,
    },
    /// The certificates to check the server's with cannot be used.
    #[error("redis: its certificate cannot be checked: {reason}")]
    Certificates {
        /// What is wrong with them.
        reason: String,
    },
    /// It wants another sign-in.
    #[error("redis {server}: signing in failed ({answer}): {hint}")]
    SignIn {
        /// Which server.
        server: String,
        /// What it answered.
        answer: String,
        /// What to do.
        hint: &'static str,
    },
    /// It lets in local clients alone.
    #[error(
        "redis {server}: it is in protected mode and lets in clients of its own machine alone: give it a \
         password (requirepass) and put that into the configuration"
    )]
    Protected {
        /// Which server.
        server: String,
    },
    /// It has no database of this number.
    #[error(
        "redis {server}: it has no database {database} ({answer}): name another one (a cluster has 0 alone)"
    )]
    Database {
        /// Which server.
        server: String,
        /// The number.
        database: u32,
        /// What it answered.
        answer: String,
    },
    /// It is a replica, which takes no writes.
    #[error(
        "redis {server}: it is a read-only replica of {master}: name the master, or sentinels that know it \
         (redis+sentinel://)"
    )]
    Replica {
        /// Which server.
        server: String,
        /// Whose replica it is.
        master: String,
    },
    /// It is a sentinel, and was named as a Redis.
    #[error("redis {server}: it is a sentinel: write redis+sentinel://HOST:PORT/SERVICE")]
    IsSentinel {
        /// Which server.
        server: String,
    },
    /// No sentinel knows a master that can be used.
    #[error("redis: no sentinel led to the master of `{service}`: {}", reasons.join("; "))]
    Sentinels {
        /// What the master is called.
        service: String,
        /// What each sentinel, or the master that it named, said.
        reasons: Vec<String>,
    },
    /// It is older than what the storage needs.
    #[error("redis {server}: its version is {version}: 6.2 or later is needed (or any Valkey)")]
    TooOld {
        /// Which server.
        server: String,
        /// Its version.
        version: String,
    },
    /// It refused something else.
    #[error("redis {server}: it answered: {answer}")]
    Refused {
        /// Which server.
        server: String,
        /// What it answered.
        answer: String,
    },
    /// It did not answer a question.
    #[error("redis {server}: a question was not answered ({reason}): see that it works, and its log")]
    Lost {
        /// Which server.
        server: String,
        /// What happened.
        reason: String,
    },
    /// What is stored there cannot be used.
    #[error(transparent)]
    Data(StoreError),
    /// The last try failed a moment ago, and it is not time for the next one.
    #[error("{last} (tried a moment ago)")]
    Waiting {
        /// What was wrong then.
        last: String,
    },
}
