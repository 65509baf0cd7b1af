//! The scripts that Redis runs. What they do stands in `scripts/*.lua`, each with its arguments and its reply.
//!
//! Redis makes all functions of a script anew whenever it runs. Lua finds what a new function shares with those before
//! it by going through all that is shared so far, in the function that is running. So each part of a script is within a
//! function of its own: that takes a third off the time before the first command.
//!
//! What writes is an [`Operation`] of one script, [`RUN`], which does any number of them.

use std::sync::LazyLock;

use super::link::Script;

const PRELUDE: &str = include_str!("scripts/prelude.lua");
const QUEUE: &str = include_str!("scripts/queue.lua");
const HEARD: &str = include_str!("scripts/heard.lua");

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
script!(LIST, "list", [PRELUDE, HEARD]);
script!(DEAD, "dead", [PRELUDE]);
script!(STATISTICS, "statistics", [PRELUDE, QUEUE]);
script!(RUN, "run", [PRELUDE, QUEUE, &makers()]);

/// Something that a script does in one step, and that writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    /// What [`RUN`] knows it by.
    pub(super) name: &'static str,
    /// The text of the function that does it.
    text: &'static str,
}

macro_rules! operations {
    ($($name:ident $file:literal),*) => {
        $(pub(super) const $name: Operation =
            Operation { name: $file, text: include_str!(concat!("scripts/", $file, ".lua")) };)*
        const OPERATIONS: &[Operation] = &[$($name),*];
    };
}

operations!(APPLY "apply", PUSH "push", CLAIM "claim", HOLD "hold", REVIVE "revive", BUDGET "budget");

/// A table of functions by the names of operations, each of which makes what does that operation.
fn makers() -> String {
    OPERATIONS.iter().fold("local makers = {}\n".to_owned(), |text, Operation { name, text: made }| {
        // Only who writes jobs needs their order.
        let made = if *name == APPLY.name { nested(&[HEARD, made]) } else { (*made).to_owned() };
        text + &format!("function makers.{name}()\n{made}\nend\n")
    })
}
