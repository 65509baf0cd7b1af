//! What of a file its faults do not repeat, since it may be a secret in the wrong place.
//!
//! A reader that tells a fault need not think of it: whatever it repeats of the file goes through here. The place, the
//! keys that lead there, and what was expected are told in any case.

use super::MIN_SECRET_LENGTH;
use super::fault::Faults;
use super::node::{Entry, Node, Value};

/// What stands for a text that is not repeated.
const WITHHELD: &str = "…";

/// The longest of our own keys, and of the words that people make up for their own.
const LONGEST_WORD: usize = 32;

/// The texts and keys of a file that may be secrets.
#[derive(Debug, Default)]
pub(super) struct Withheld(Vec<String>);

impl Withheld {
    pub(super) fn of(root: &Node) -> Self {
        let mut withheld = Self::default();
        withheld.take("", root);
        // The longest first, so that none is left of which another is a part.
        withheld.0.sort_by(|one, two| two.len().cmp(&one.len()).then_with(|| one.cmp(two)));
        withheld.0.dedup();
        withheld
    }

    /// The same faults, without those texts.
    pub(super) fn from(&self, faults: Faults) -> Faults {
        faults.map(|told| self.0.iter().fold(told, |told, text| told.replace(text.as_str(), WITHHELD)))
    }

    /// Takes in a value that stands under a key.
    fn take(&mut self, key: &str, node: &Node) {
        match &node.value {
            Value::Null | Value::Flag(_) => {}
            Value::Number(number) => self.note(&number.to_string(), key),
            Value::Text(text) => self.note(text, key),
            Value::List(items) => items.iter().for_each(|item| self.take(key, item)),
            Value::Map(entries) => {
                for Entry { key, node, .. } in entries {
                    if !is_key(key) {
                        self.push(key);
                    }
                    self.take(key, node);
                }
            }
        }
    }

    fn note(&mut self, text: &str, key: &str) {
        let has_login = text.contains("://") && text.contains('@');
        let leads_to_it = match key {
            "env" => is_variable(text),
            "file" => text.contains(['/', '.']),
            _ => is_address(text),
        };
        if has_login || !(leads_to_it || is_short(text)) {
            self.push(text);
        }
    }

    /// Withholds a text, also as parsers quote it.
    fn push(&mut self, text: &str) {
        let escaped = text.escape_debug().to_string();
        let forms = [text, text.trim(), &escaped];
        self.0.extend(forms.into_iter().filter(|form| !form.is_empty()).map(str::to_owned));
    }
}

/// Whether a text is shorter than the shortest secret.
fn is_short(text: &str) -> bool {
    text.chars().count() < MIN_SECRET_LENGTH
}

/// Whether a key looks like one that somebody made up: a long one has parts.
fn is_key(key: &str) -> bool {
    is_short(key) || is_word(key) && key.contains(['-', '_'])
}

/// Whether a key looks like one of ours, well spelt or not.
pub(super) fn is_word(key: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_');
    key.len() <= LONGEST_WORD && key.bytes().all(is_sign)
}

/// Whether a text is the address of a server, without a login or a long path.
fn is_address(text: &str) -> bool {
    let Ok(address) = text.parse::<http::Uri>() else { return false };
    let is_http = matches!(address.scheme_str(), Some("http" | "https"));
    let is_server = address.authority().is_some_and(|server| {
        let has_rest = server.as_str() != server.host();
        (!has_rest || server.port_u16().is_some()) && (is_short(server.host()) || server.host().contains('.'))
    });
    is_http && is_server && address.path_and_query().is_none_or(|path| is_short(path.as_str()))
}

/// Whether a text looks like the name of an environment variable.
fn is_variable(name: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    name.contains('_') && name.bytes().all(is_sign)
}
