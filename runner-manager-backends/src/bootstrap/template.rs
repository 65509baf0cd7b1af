//! Templates of scripts: texts with `{{placeholders}}`, each of which becomes one quoted literal.

use runner_manager_core::domain::Os;

use super::quote::quote;

/// All placeholders that there are. What each holds is told in docs/bootstrap.md.
pub const PLACEHOLDERS: [&str; 15] = [
    "runner",
    "url",
    "token",
    "ca",
    "jit_config",
    "runner_folder",
    "runner_user",
    "download_url",
    "download_sha256",
    "start_timeout",
    "heartbeat",
    "job_started",
    "job_completed",
    "proxy",
    "no_proxy",
];

/// A template that can be rendered: all its placeholders are known, and those that it cannot do without are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(&'static str),
}

impl Template {
    /// Reads a template; `required` are the placeholders without which it would do nothing useful.
    ///
    /// # Errors
    /// Every placeholder that is unknown, and every one that is missing, in one sentence each.
    pub(super) fn new(text: &str, required: &[&str]) -> Result<Self, Vec<String>> {
        let (mut pieces, mut faults) = (Vec::new(), Vec::new());
        // A script with DOS line ends does not start on Linux, and Windows reads both.
        let text = text.replace("\r\n", "\n");
        let mut rest = text.as_str();
        while let Some((before, name, after)) = next_placeholder(rest) {
            pieces.push(Piece::Text(before.to_owned()));
            match PLACEHOLDERS.iter().find(|known| **known == name) {
                Some(known) => pieces.push(Piece::Value(known)),
                None => faults.push(format!("there is no placeholder `{name}`: {}", PLACEHOLDERS.join(", "))),
            }
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        for name in required {
            if !pieces.iter().any(|piece| matches!(piece, Piece::Value(value) if value == name)) {
                faults.push(format!("the placeholder `{{{{{name}}}}}` is missing"));
            }
        }
        if faults.is_empty() { Ok(Self(pieces)) } else { Err(faults) }
    }

    /// The script, with every placeholder replaced once: what a value holds is not looked into.
    pub(super) fn render<'a>(&self, os: Os, value: impl Fn(&'static str) -> &'a str) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Value(name) => quote(os, value(name)),
        };
        self.0.iter().map(piece).collect()
    }
}

/// What stands before the next `{{name}}`, the name, and what stands behind it. Two braces around anything
/// else are the script's own.
fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    text.match_indices("{{").find_map(|(start, _)| {
        let (name, after) = text[start + 2..].split_once("}}")?;
        let named = |char: char| char.is_ascii_alphanumeric() || char == '_';
        (!name.is_empty() && name.chars().all(named)).then(|| (&text[..start], name, after))
    })
}
