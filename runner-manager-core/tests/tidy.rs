//! What the source of the whole workspace keeps to, where neither the compiler nor a lint can see it.
//!
//! Each rule reads the files as text and tells every place that breaks it.

#![expect(clippy::unwrap_used, reason = "a source that cannot be read fails the test")]

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of code in a file. One that grows past it says more than one thing.
const MOST_LINES: usize = 600;

/// What each module of the core may know of the others, from the inside outwards. What is not listed may
/// know them all. Tests beside the code keep to it too.
const LAYERS: [(&str, &[&str]); 18] = [
    ("certificates", &[]),
    ("retry", &[]),
    ("flaws", &[]),
    ("domain", &[]),
    ("policy", &["domain", "flaws", "retry", "store"]),
    ("random", &[]),
    ("clock", &["domain"]),
    ("backend", &["budget", "clock", "domain", "retry"]),
    ("github", &["clock", "domain", "retry"]),
    ("store", &["domain", "policy", "queue"]),
    ("budget", &["domain", "store"]),
    ("queue", &["domain", "store"]),
    (
        "manager",
        &[
            "backend", "budget", "clock", "domain", "flaws", "github", "policy", "queue", "random", "retry",
            "store",
        ],
    ),
    ("embedded", &["baton", "budget", "clock", "domain", "flaws", "queue", "store"]),
    (
        "redis",
        &[
            "baton",
            "budget",
            "certificates",
            "clock",
            "domain",
            "policy",
            "queue",
            "random",
            "retry",
            "store",
        ],
    ),
    ("rest", &["clock", "domain", "github", "retry"]),
    ("octocrab", &["certificates", "clock", "domain", "rest"]),
    ("config", &["backend", "budget", "domain", "redis"]),
];

/// Words that nothing in `domain` and `policy` says: they neither wait, nor log, nor ask the outside.
const IMPURE: [&str; 9] = ["async", "await", "dyn", "tokio", "tracing", "rand", "net", "Store", "StoreError"];

/// Crates that only their own places know; everybody else goes through a trait of ours.
const HOMES: [(&str, &[&str]); 5] = [
    ("octocrab", &["runner-manager-core/src/octocrab"]),
    ("redis", &["runner-manager-core/src/redis", "runner-manager-core/tests"]),
    ("redb", &["runner-manager-core/src/embedded", "runner-manager-core/tests/embedded"]),
    ("bollard", &["runner-manager-backends/src/docker", "runner-manager-server/src/demo"]),
    (
        "axum",
        &[
            "runner-manager-server",
            "runner-manager-core/tests",
            "runner-manager-backends/src/bootstrap/tests",
            "runner-manager-backends/src/docker/tests",
            "runner-manager-backends/src/fake/tests",
            "runner-manager-backends/src/gcp/tests",
        ],
    ),
];

/// One file of the workspace.
struct Source {
    /// Its path from the root of the workspace, with `/` between the parts.
    path: String,
    text: String,
}

impl Source {
    fn is_within(&self, folder: &str) -> bool {
        self.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The module of the core that it belongs to.
    fn core_module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("runner-manager-core/src/")?;
        let name = inside.split('/').next()?;
        Some(name.strip_suffix(".rs").unwrap_or(name))
    }

    /// Its lines of code with their numbers: without comments and without documentation.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn at(&self, line: usize, what: impl Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All files that end so, but for build output, hidden folders, and what is not ours.
fn sources(extensions: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root(), extensions, &mut found);
    assert!(!found.is_empty(), "no file ends in {extensions:?}");
    found
}

fn collect(folder: &Path, extensions: &[&str], found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && !path.ends_with("tests/data") {
                collect(&path, extensions, found);
            }
        } else if path.extension().and_then(OsStr::to_str).is_some_and(|end| extensions.contains(&end)) {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
            found.push(Source { path, text });
        }
    }
}

/// The names and numbers in a line, in their order.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|char: char| !(char.is_alphanumeric() || char == '_')).filter(|word| !word.is_empty())
}

/// What stands right behind each `start` in a line: the next name.
fn names_behind<'a>(line: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    line.split(start).skip(1).filter_map(|rest| words(rest).next())
}

/// Whether a line names something of a crate, and not of a module of ours that has the same name.
fn uses(line: &str, library: &str) -> bool {
    line.match_indices(&format!("{library}::")).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        !before.is_some_and(|char| char.is_alphanumeric() || matches!(char, '_' | ':' | '{' | '`'))
    })
}

#[track_caller]
fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "{} places:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn every_module_says_first_what_it_is() {
    let silent = |source: &Source| !source.text.starts_with("//! ");
    let broken: Vec<_> = sources(&["rs"]).into_iter().filter(silent).map(|source| source.path).collect();
    assert_none(&broken);
}

#[test]
fn no_line_ends_in_white_space() {
    let mut broken = Vec::new();
    for source in sources(&["rs", "md", "toml", "yaml", "yml", "html", "css", "js"]) {
        for (index, line) in source.text.lines().enumerate() {
            if line.ends_with([' ', '\t']) {
                broken.push(source.at(index + 1, "white space at the end"));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn nothing_is_put_off() {
    let marks = ["TODO", "FIXME", "XXX"];
    let mut broken = Vec::new();
    for source in sources(&["rs", "md", "toml", "html", "css", "js"]) {
        // This file has to name them.
        if source.path.ends_with("tests/tidy.rs") {
            continue;
        }
        for (index, line) in source.text.lines().enumerate() {
            let put_off = words(line).filter(|word| marks.contains(word));
            broken.extend(put_off.map(|mark| source.at(index + 1, mark)));
        }
    }
    assert_none(&broken);
}

#[test]
fn files_stay_readable() {
    let mut broken = Vec::new();
    for source in sources(&["rs"]) {
        let code = source.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().count();
        if lines > MOST_LINES {
            broken.push(format!("{}: {lines} lines of code, {MOST_LINES} are the limit", source.path));
        }
    }
    assert_none(&broken);
}

#[test]
fn modules_know_only_those_further_in() {
    let sources = sources(&["rs"]);
    let mut broken = Vec::new();
    for (module, known) in LAYERS {
        let files: Vec<_> = sources.iter().filter(|source| source.core_module() == Some(module)).collect();
        assert!(!files.is_empty(), "the core has no module `{module}`");
        for source in files {
            for (number, line) in source.code() {
                let strangers =
                    names_behind(line, "crate::").filter(|name| *name != module && !known.contains(name));
                broken.extend(strangers.map(|name| source.at(number, format!("`{module}` knows `{name}`"))));
                if line.contains("crate::{") {
                    broken
                        .push(source.at(number, "a module of the core on a line of its own can be checked"));
                }
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn what_decides_is_pure() {
    let mut broken = Vec::new();
    for source in sources(&["rs"]) {
        if !matches!(source.core_module(), Some("domain" | "policy")) {
            continue;
        }
        for (number, line) in source.code() {
            let impure = words(line).filter(|word| IMPURE.contains(word));
            broken.extend(impure.map(|word| source.at(number, format!("`{word}`"))));
        }
    }
    assert_none(&broken);
}

#[test]
fn other_peoples_crates_stay_behind_our_traits() {
    let mut broken = Vec::new();
    for source in sources(&["rs"]) {
        for (library, homes) in HOMES {
            if homes.iter().any(|home| source.is_within(home)) {
                continue;
            }
            for (number, line) in source.code().filter(|(_, line)| uses(line, library)) {
                broken.push(source.at(number, format!("`{library}` is known in {homes:?} alone: {line}")));
            }
        }
    }
    assert_none(&broken);
}
