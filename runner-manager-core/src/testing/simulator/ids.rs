//! The numbers by which GitHub names things, each a type of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

ids! {
    /// One workflow job. A re-run is another job with another id, as at GitHub.
    JobId,
    /// One workflow run: one or more jobs, in one or more attempts.
    RunId,
    /// One registration of a runner. Never used twice.
    RunnerId,
    /// One webhook.
    HookId,
    /// One attempt to deliver one event to one hook. Above 2^53, as GitHub's are, so that a client that
    /// reads them as floating point is found out.
    DeliveryId,
    /// One connection of an agent, from [`connect`](super::Simulator::connect) to its end.
    SessionId,
}
