//! The scripts that Redis runs. What they do stands in `scripts/*.lua`, each with its arguments and its reply.
//!
//! Redis makes all functions of a script anew whenever it runs. Lua finds what a new function shares with those before
//! it by going through all that is shared so far, in the function that is running. So each part of a script is within a
//! function of its own: that takes a third off the time before the first command.

use std::sync::LazyLock;

use super::link::Script;

const PRELUDE: &str = include_str!("scripts/prelude.lua");
const QUEUE: &str = include_str!("scripts/queue.lua");

macro_rules! script {
    ($name:ident, $file:literal, [$($part:expr),*]) => {
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new($file, &nested(&[$($part,)* include_str!(concat!("scripts/", $file, ".lua"))]))
        });
    };
}

/// The parts as one text, each seeing what those before it have.
fn nested(parts: &[&str]) -> String {
    let text = parts.join("\nreturn (function()\n");
    text + &"\nend)()".repeat(parts.len().saturating_sub(1))
}

script!(OPEN, "open", [PRELUDE]);
script!(READ, "read", [PRELUDE]);
script!(LIST, "list", [PRELUDE]);
script!(APPLY, "apply", [PRELUDE, QUEUE]);
script!(PUSH, "push", [PRELUDE, QUEUE]);
script!(CLAIM, "claim", [PRELUDE, QUEUE]);
script!(HOLD, "hold", [PRELUDE, QUEUE]);
script!(REVIVE, "revive", [PRELUDE, QUEUE]);
script!(DEAD, "dead", [PRELUDE]);
script!(STATISTICS, "statistics", [PRELUDE, QUEUE]);
script!(BUDGET, "budget", [PRELUDE]);
