//! What a server's refusal of a script or a command means, and what to do about it.

use redis::ServerError;

use super::connection::said;
use crate::store::StoreError;

/// A refusal that the server gave before it did anything.
struct Untouched {
    /// The first word of the answer.
    code: &'static str,
    /// What it is, and what to do.
    meaning: &'static str,
    /// Whether another connection may fare better: this server is not the one that takes writes, or lets us
    /// in no more.
    elsewhere: bool,
}

const fn stays(code: &'static str, meaning: &'static str) -> Untouched {
    Untouched { code, meaning, elsewhere: false }
}

const fn elsewhere(code: &'static str, meaning: &'static str) -> Untouched {
    Untouched { code, meaning, elsewhere: true }
}

/// A script is refused whole: the server looks at all of these before the first write that it makes.
const UNTOUCHED: [Untouched; 18] = [
    stays("LOADING", "it reads its data after a start: wait"),
    stays("OOM", "it is at its maxmemory: raise that, or find what else fills it"),
    stays("MISCONF", "it cannot save its data and takes no writes: see its disk and its log"),
    stays("NOREPLICAS", "fewer replicas follow it than min-replicas-to-write asks for: see its replicas"),
    stays("BUSY", "a script runs there that does not end: end it with SCRIPT KILL"),
    stays("TRYAGAIN", "the cluster is moving the keys: wait"),
    stays("NOPERM", "its user may not do this: see docs/operations.md for what it needs"),
    stays("CROSSSLOT", "the keys stand on several nodes of a cluster: the prefix needs its part in braces"),
    stays("ASK", "the cluster is moving the keys: wait"),
    elsewhere("READONLY", "it is a replica: the master is looked for anew"),
    elsewhere("MASTERDOWN", "it is a replica without its master: the master is looked for anew"),
    elsewhere("UNBLOCKED", "it became a replica: the master is looked for anew"),
    elsewhere("MOVED", "the keys stand on another node of the cluster: name that node in the URL"),
    elsewhere("CLUSTERDOWN", "the cluster does not work: see its nodes"),
    elsewhere("NOAUTH", "it wants a password: put it into the configuration"),
    elsewhere("WRONGPASS", "it wants another password: put it into the configuration"),
    elsewhere("DENIED", "it is in protected mode: give it a password (requirepass)"),
    elsewhere("NOPROTO", "it does not speak this protocol"),
];

/// What a refusal means to whoever asked for `what`, and whether the connection is to be given up.
pub(super) fn meaning(server: &str, what: &str, error: &ServerError) -> (StoreError, bool) {
    let answer = said(error);
    if let Some(known) = UNTOUCHED.iter().find(|known| known.code == error.code()) {
        let text = format!("redis {server}: {} ({answer})", known.meaning);
        return (StoreError::Unavailable(text, None), known.elsewhere);
    }
    // Only a script that wrote nothing yet can be killed.
    if answer.contains("Script killed by user") {
        let text = format!("redis {server}: {what} was ended by an operator ({answer})");
        return (StoreError::Unavailable(text, None), false);
    }
    if answer.contains("WRONGTYPE") {
        let text = format!(
            "redis {server}: {what} found a key under our prefix that is not ours, of another type: use another \
             prefix, or remove that key ({answer})"
        );
        return (StoreError::Corrupt(text, None), false);
    }
    (StoreError::Corrupt(format!("redis {server}: {what} failed ({answer})"), None), false)
}
