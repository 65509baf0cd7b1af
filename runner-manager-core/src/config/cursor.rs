//! Cursors: a value of the file, the path that leads to it, and where its faults go.
//!
//! Every reading method answers `None` exactly when it told a fault, so that a reader collects what it can
//! with all parts read first, and only then gives up.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::fault::{Place, Sink};
use super::node::{Entry, Node, Value};
use super::withheld::is_word;
use crate::backend::SettingsFault;

/// One value of the file.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    node: &'a Node,
    path: String,
    sink: &'a Sink,
}

impl<'a> Cursor<'a> {
    /// The whole file. Tells at once of every key that stands twice in a map, wherever the map is.
    pub(super) fn root(node: &'a Node, sink: &'a Sink) -> Self {
        let root = Self { node, path: String::new(), sink };
        root.tell_doubles();
        root
    }

    /// Tells a fault of this value.
    pub(super) fn fault(&self, message: impl Into<String>) {
        self.sink.push(self.node.place, &*self.path, message);
    }

    /// The line of the value, for faults of another that refer to this one.
    pub(super) const fn line(&self) -> u64 {
        self.node.place.line
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match self.node.value {
            Value::Number(_) | Value::Flag(_) => self.text_as("a text (put it in quotes)"),
            _ => self.text_as("a text"),
        }
    }

    /// A text with a meaning of its own, such as a duration.
    pub(super) fn text_as(&self, expected: &str) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => self.mismatch(expected),
        }
    }

    /// A text that `parse` takes; its refusal is the fault.
    pub(super) fn parsed<T, E: Display>(&self, parse: impl FnOnce(&'a str) -> Result<T, E>) -> Option<T> {
        self.text().and_then(|text| self.checked(parse(text)))
    }

    /// A result whose refusal is the fault.
    pub(super) fn checked<T, E: Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.fault(error.to_string())).ok()
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match self.node.value {
            Value::Flag(flag) => Some(flag),
            _ => self.mismatch("true or false"),
        }
    }

    /// A whole number between two bounds, both included.
    pub(super) fn whole<T>(&self, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let expected = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        let Value::Number(number) = &self.node.value else { return self.mismatch(&expected) };
        let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        let read = whole.and_then(|whole| T::try_from(whole).ok()).filter(|read| bounds.contains(read));
        if read.is_none() {
            self.fault(format!("expected {expected}, found {number}"));
        }
        read
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.fault(format!("expected {}, found `{text}`", list(&known, "or")));
        }
        found
    }

    pub(super) fn items(&self) -> Option<Vec<Cursor<'a>>> {
        let Value::List(items) = &self.node.value else { return self.mismatch("a list") };
        Some(items.iter().enumerate().map(|(at, item)| self.child(&format!("[{at}]"), item)).collect())
    }

    /// A map whose keys are anybody's; of a doubled key the first.
    pub(super) fn fields(&self) -> Option<Fields<'a>> {
        let Value::Map(entries) = &self.node.value else { return self.mismatch("a map") };
        let mut fields = Fields { at: self.clone(), entries: BTreeMap::new() };
        for Entry { key, place, node } in entries {
            fields.entries.entry(key).or_insert_with(|| (*place, self.child(key, node)));
        }
        Some(fields)
    }

    /// A map that may have these keys alone.
    pub(super) fn known_fields(&self, known: &[&str]) -> Option<Fields<'a>> {
        let fields = self.fields()?;
        for (key, (place, cursor)) in fields.entries.iter().filter(|(key, _)| !known.contains(key)) {
            if is_word(key) {
                let message = format!("unknown key `{key}`{}", hint(key, known.iter().copied()));
                self.sink.push(*place, &*cursor.path, message);
            } else {
                self.sink.push(*place, &*self.path, UNTOLD_KEY.to_owned());
            }
        }
        Some(fields)
    }

    /// Whether a map (and not, say, a plain text) stands here.
    pub(super) const fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether a list stands here.
    pub(super) const fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// A map without some of its keys, as JSON: what the kinds of backends check.
    pub(super) fn settings(&self, without: &[&str]) -> serde_json::Value {
        let mut json = self.node.to_json();
        if let Some(map) = json.as_object_mut() {
            map.retain(|key, _| !without.contains(&key.as_str()));
        }
        json
    }

    /// Tells the faults that the kind of a backend found in [`settings`](Self::settings), each at the place
    /// that its path leads to, or as near as the file has it.
    pub(super) fn tell(&self, faults: Vec<SettingsFault>) {
        if faults.is_empty() {
            self.fault("the backend's kind refuses these settings, and does not say why");
        }
        for SettingsFault { path, message } in faults {
            self.descend(&path).fault(message);
        }
    }

    fn descend(&self, path: &[String]) -> Self {
        let mut cursor = self.clone();
        for part in path {
            let (next, suffix) = match &cursor.node.value {
                Value::List(items) => {
                    (part.parse().ok().and_then(|at: usize| items.get(at)), format!("[{part}]"))
                }
                Value::Map(entries) => {
                    (entries.iter().find(|entry| entry.key == *part).map(|entry| &entry.node), part.clone())
                }
                _ => (None, part.clone()),
            };
            cursor = cursor.child(&suffix, next.unwrap_or(cursor.node));
        }
        cursor
    }

    fn child(&self, suffix: &str, node: &'a Node) -> Self {
        let dot = if self.path.is_empty() || suffix.starts_with('[') { "" } else { "." };
        Self { node, path: format!("{}{dot}{suffix}", self.path), sink: self.sink }
    }

    fn mismatch<T>(&self, expected: &str) -> Option<T> {
        self.fault(format!("expected {expected}, found {}", self.node.value.kind()));
        None
    }

    fn tell_doubles(&self) {
        match &self.node.value {
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.child(&format!("[{at}]"), item).tell_doubles();
                }
            }
            Value::Map(entries) => self.tell_doubles_of(entries),
            _ => {}
        }
    }

    fn tell_doubles_of(&self, entries: &'a [Entry]) {
        let mut lines = BTreeMap::new();
        for entry in entries {
            let child = self.child(&entry.key, &entry.node);
            if let Some(line) = lines.get(&entry.key) {
                let message = format!("key `{}` stands twice, first in line {line}", entry.key);
                self.sink.push(entry.place, &*child.path, message);
            } else {
                lines.insert(&entry.key, entry.place.line);
            }
            child.tell_doubles();
        }
    }
}

/// A map of the file, its values by their keys.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    at: Cursor<'a>,
    entries: BTreeMap<&'a str, (Place, Cursor<'a>)>,
}

impl<'a> Fields<'a> {
    /// The value of a key, if the map has it.
    pub(super) fn optional(&self, key: &str) -> Option<&Cursor<'a>> {
        self.entries.get(key).map(|(_, cursor)| cursor)
    }

    /// The value of a key; its absence is a fault.
    pub(super) fn required(&self, key: &str) -> Option<&Cursor<'a>> {
        let found = self.optional(key);
        if found.is_none() {
            self.missing(key, "is required, but missing");
        }
        found
    }

    /// What `read` makes of the value of a key, and `default` where the map does not have it.
    pub(super) fn or<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(&Cursor<'a>) -> Option<T>,
    ) -> Option<T> {
        self.optional(key).map_or(Some(default), read)
    }

    /// Tells a fault of a key that the map does not have.
    pub(super) fn missing(&self, key: &str, message: impl Into<String>) {
        self.at.child(key, self.at.node).fault(message);
    }

    /// All keys and values, in alphabetical order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, &Cursor<'a>)> {
        self.entries.iter().map(|(key, (_, cursor))| (*key, cursor))
    }
}

/// All or nothing, but only after every item was read, so that each could tell its faults.
pub(super) fn all<T>(items: impl IntoIterator<Item = Option<T>>) -> Option<Vec<T>> {
    let read: Vec<_> = items.into_iter().collect();
    read.into_iter().collect()
}

/// What is said of an unknown key that may be a value, as `token:ghp_123` is.
const UNTOLD_KEY: &str =
    "unknown key, which is not repeated since it may be a secret: a key ends with a colon and a space";

/// What a word that is not known may have been meant to be: the nearest known one, or all of them.
pub(super) fn hint<'k>(word: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    let near = known
        .clone()
        .map(|other| (strsim::damerau_levenshtein(word, other), other))
        .filter(|(distance, other)| *distance <= 1 + other.len() / 4)
        .min();
    if let Some((_, other)) = near {
        return format!("; did you mean `{other}`?");
    }
    let known: Vec<_> = known.collect();
    if known.is_empty() { "; none is known".into() } else { format!("; known: {}", known.join(", ")) }
}

fn list(words: &[&str], before_last: &str) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} {before_last} {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}
