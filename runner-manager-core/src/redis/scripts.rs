//! The scripts that Redis runs. What they do stands in `scripts/*.lua`, each with its arguments and its reply.

use std::sync::LazyLock;

use super::link::Script;

const PRELUDE: &str = include_str!("scripts/prelude.lua");
const QUEUE: &str = include_str!("scripts/queue.lua");

macro_rules! script {
    ($name:ident, $file:literal, [$($part:expr),*]) => {
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new($file, &[$($part,)* include_str!(concat!("scripts/", $file, ".lua"))])
        });
    };
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
