//! Templates of scripts: texts with `{{placeholders}}`, each of which becomes one quoted literal.

use runner_manager_core::domain::Os;

use super::quote::quote;

/// What is put into the templates of one runner's scripts. Secrets among it: it does not print.
pub(super) struct Values<'a> {
    pub(super) runner: &'a str,
    pub(super) url: &'a str,
    pub(super) token: &'a str,
    pub(super) ca: &'a str,
    pub(super) jit_config: &'a str,
    pub(super) runner_folder: &'a str,
    pub(super) runner_user: &'a str,
    pub(super) download_url: &'a str,
    pub(super) download_sha256: &'a str,
    pub(super) start_timeout: String,
    pub(super) heartbeat: String,
    pub(super) job_started: &'a str,
    pub(super) job_completed: &'a str,
    pub(super) proxy: &'a str,
    pub(super) no_proxy: &'a str,
}

/// A placeholder: its name, and what comes to stand in its place.
#[derive(Debug)]
struct Placeholder(&'static str, for<'a> fn(&'a Values<'a>) -> &'a str);

/// All placeholders that there are. What each holds is told in docs/bootstrap.md.
static PLACEHOLDERS: [Placeholder; 15] = [
    Placeholder("runner", |values| values.runner),
    Placeholder("url", |values| values.url),
    Placeholder("token", |values| values.token),
    Placeholder("ca", |values| values.ca),
    Placeholder("jit_config", |values| values.jit_config),
    Placeholder("runner_folder", |values| values.runner_folder),
    Placeholder("runner_user", |values| values.runner_user),
    Placeholder("download_url", |values| values.download_url),
    Placeholder("download_sha256", |values| values.download_sha256),
    Placeholder("start_timeout", |values| &values.start_timeout),
    Placeholder("heartbeat", |values| &values.heartbeat),
    Placeholder("job_started", |values| values.job_started),
    Placeholder("job_completed", |values| values.job_completed),
    Placeholder("proxy", |values| values.proxy),
    Placeholder("no_proxy", |values| values.no_proxy),
];

/// The names of all placeholders.
pub fn placeholders() -> impl Iterator<Item = &'static str> {
    PLACEHOLDERS.iter().map(|placeholder| placeholder.0)
}

/// A template that can be rendered: all its placeholders are known, and those that it cannot do without are there.
#[derive(Debug, Clone)]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Value(&'static Placeholder),
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
            if let Some(known) = PLACEHOLDERS.iter().find(|known| known.0 == name) {
                pieces.push(Piece::Value(known));
            } else {
                let known: Vec<_> = placeholders().collect();
                faults.push(format!("there is no placeholder `{name}`: {}", known.join(", ")));
            }
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        for name in required {
            if !pieces.iter().any(|piece| matches!(piece, Piece::Value(value) if value.0 == *name)) {
                faults.push(format!("the placeholder `{{{{{name}}}}}` is missing"));
            }
        }
        if faults.is_empty() { Ok(Self(pieces)) } else { Err(faults) }
    }

    /// The script, with every placeholder replaced once: what a value holds is not looked into.
    pub(super) fn render(&self, os: Os, values: &Values<'_>) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Value(placeholder) => quote(os, placeholder.1(values)),
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
