//! Labels: what a job asks for in `runs-on`, and what a runner offers.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One label, kept in lower case because GitHub compares labels without case.
///
/// GitHub's own labels for the operating system and the processor (`Linux`, `X64`) are ordinary labels in
/// this respect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// Why a text is not a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The text is empty, or only white space.
    #[error("a label cannot be empty")]
    Empty,
    /// The text is longer than GitHub takes.
    #[error("label `{0}` has more than {max} characters, GitHub takes no more", max = Label::MAX_LENGTH)]
    TooLong(String),
    /// A comma (it separates labels in the runner's own tools) or a control character.
    #[error("label `{0}` has a comma or a control character, which GitHub does not take")]
    Character(String),
}

impl Label {
    /// The longest label that GitHub takes, in characters.
    pub const MAX_LENGTH: usize = 256;

    /// Checks a text and takes it as a label: trimmed, in lower case.
    ///
    /// # Errors
    /// [`LabelError`] when the text is empty, too long, or has a character that GitHub refuses.
    pub fn new(text: impl AsRef<str>) -> Result<Self, LabelError> {
        let text = text.as_ref().trim();
        if text.is_empty() {
            return Err(LabelError::Empty);
        }
        if text.chars().count() > Self::MAX_LENGTH {
            return Err(LabelError::TooLong(text.to_owned()));
        }
        if text.chars().any(|c| c == ',' || c.is_control()) {
            return Err(LabelError::Character(text.to_owned()));
        }
        Ok(Self(text.to_lowercase()))
    }

    /// The label as text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        Self::new(text)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of labels.
///
/// ```
/// use runner_manager_core::domain::Labels;
///
/// let offered = Labels::parse(["self-hosted", "Linux", "X64", "gpu"])?;
/// let asked = Labels::parse(["GPU", "linux"])?;
/// assert!(offered.contains_all(&asked));
/// assert!(!asked.contains_all(&offered));
/// # Ok::<(), runner_manager_core::domain::LabelError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeSet<Label>);

impl Labels {
    /// Checks each text and takes them as a set.
    ///
    /// # Errors
    /// The [`LabelError`] of the first text that is not a label.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, LabelError> {
        texts.into_iter().map(Label::new).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a label is in this set.
    pub fn contains(&self, label: &Label) -> bool {
        self.0.contains(label)
    }

    /// Whether every label of `asked` is in this set.
    pub fn contains_all(&self, asked: &Self) -> bool {
        asked.0.is_subset(&self.0)
    }

    /// The labels of `asked` that this set lacks.
    pub fn lacking<'a>(&'a self, asked: &'a Self) -> impl Iterator<Item = &'a Label> {
        asked.0.difference(&self.0)
    }

    /// Adds a label.
    pub fn insert(&mut self, label: Label) {
        self.0.insert(label);
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &Label> {
        self.0.iter()
    }
}

impl FromIterator<Label> for Labels {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        Self(labels.into_iter().collect())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, label) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{label}")?;
        }
        Ok(())
    }
}
