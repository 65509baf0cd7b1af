//! Searches outputs for secrets: logs, answers, files, whatever a program gives away.
//!
//! It owns the forms in which a secret can be hidden in other bytes. Where the secrets and the outputs come from is
//! the test's affair, and so is to show, by planting one, that what it searched was what it meant.
//!
//! A part of a secret is a leak, too: whatever has [`WINDOW`] bytes of one in a row, in any form, is found.

mod views;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};

use self::views::views;

/// How many bytes of a form make a find. A text of so many that is no secret does not have them by chance.
pub const WINDOW: usize = 16;

/// The shortest secret that can be looked for: a shorter one is found where it is not.
const SHORTEST: usize = 8;

/// How much is told of what stands before a find.
const CONTEXT: usize = 120;

/// As many slots as a filter has, which says quickly of most windows that they are of no secret.
const FILTER_SLOTS: usize = 1 << 20; // as many as `slot` tells apart

/// Secrets by name, ready to be searched for.
///
/// ```
/// use runner_manager_core::testing::secrets::Secrets;
///
/// let secrets = Secrets::default().and("the token", "ghp_16C7e42F292c6912E7");
/// assert!(secrets.find(b"nothing of the kind").is_empty());
/// let found = secrets.find(b"authorization: Z2hwXzE2QzdlNDJGMjkyYzY5MTJFNw==");
/// assert_eq!(found[0].secret, "the token");
/// ```
#[derive(Clone)]
pub struct Secrets {
    /// Windows of [`WINDOW`] bytes, or all of a form that is shorter, with the secret and the form that they are of.
    windows: BTreeMap<Vec<u8>, (String, &'static str)>,
    lengths: BTreeSet<usize>,
    filter: Vec<bool>,
}

/// A secret that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Find {
    /// The name of the secret.
    pub secret: String,
    /// In which form.
    pub form: &'static str,
    /// What stands before it, and nothing of itself.
    pub before: String,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { windows: BTreeMap::new(), lengths: BTreeSet::new(), filter: vec![false; FILTER_SLOTS] }
    }
}

/// The windows are the secrets themselves, and do not print.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("names", &self.names()).finish()
    }
}

impl fmt::Display for Find {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) behind `{}`", self.secret, self.form, self.before)
    }
}

impl Secrets {
    /// The same with one more secret.
    ///
    /// # Panics
    /// When it is shorter than 8 bytes.
    #[must_use]
    pub fn and(mut self, name: &str, secret: impl AsRef<[u8]>) -> Self {
        self.add(name, secret.as_ref());
        self
    }

    /// Adds a secret.
    ///
    /// # Panics
    /// When it is shorter than 8 bytes.
    pub fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= SHORTEST, "{name} is too short to be looked for");
        for (form, bytes) in forms(secret) {
            let length = bytes.len().min(WINDOW);
            self.lengths.insert(length);
            for window in bytes.windows(length) {
                self.filter[slot(window)] = true;
                self.windows.entry(window.to_vec()).or_insert_with(|| (name.to_owned(), form));
            }
        }
    }

    /// The names of all.
    pub fn names(&self) -> BTreeSet<&str> {
        self.windows.values().map(|(name, _)| name.as_str()).collect()
    }

    /// Everything that is found in some bytes: each secret once a form, where it is met first.
    pub fn find(&self, bytes: &[u8]) -> Vec<Find> {
        let mut found = BTreeMap::new();
        for (view, seen) in views(bytes) {
            for &length in &self.lengths {
                for (at, window) in seen.windows(length).enumerate() {
                    if self.filter[slot(window)]
                        && let Some((secret, form)) = self.windows.get(window)
                    {
                        // A view that shows a thing as it is adds no word of its own.
                        let form = if view.is_empty() || *form != PLAIN { form } else { view };
                        found.entry((secret.clone(), form)).or_insert_with(|| before(&seen, at));
                    }
                }
            }
        }
        found.into_iter().map(|((secret, form), before)| Find { secret, form, before }).collect()
    }
}

/// A secret as it is.
const PLAIN: &str = "plain";

/// The forms in which a secret is looked for as it stands there. What is escaped is read by a view.
fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut forms = vec![
        (PLAIN, secret.to_vec()),
        ("hex", hex::encode(secret).into_bytes()),
        ("hex", hex::encode_upper(secret).into_bytes()),
    ];
    for alignment in 0..3 {
        forms.push(("base64", inner(&BASE64_STANDARD_NO_PAD, alignment, secret)));
        forms.push(("base64 for URLs", inner(&BASE64_URL_SAFE_NO_PAD, alignment, secret)));
    }
    forms
}

/// What base64 makes of a secret that stands so many bytes into a text, without what depends on its neighbours.
fn inner(alphabet: &impl base64::Engine, alignment: usize, secret: &[u8]) -> Vec<u8> {
    let whole = alphabet.encode([&[0; 2][..alignment], secret].concat()).into_bytes();
    let first = (alignment * 8).div_ceil(6);
    let end = (alignment + secret.len()) * 8 / 6;
    whole[first..end].to_vec()
}

/// A place in the filter by the first bytes, multiplied so that similar ones part (Knuth's hash).
fn slot(window: &[u8]) -> usize {
    let first = window.iter().take(SHORTEST).fold(0, |word: u64, byte| word << 8 | u64::from(*byte));
    let mixed = first.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44;
    usize::try_from(mixed).unwrap_or(0)
}

fn before(seen: &[u8], at: usize) -> String {
    String::from_utf8_lossy(&seen[at.saturating_sub(CONTEXT)..at]).into_owned()
}
