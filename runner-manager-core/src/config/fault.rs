//! Faults: what is wrong in a configuration, and where.

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;

/// A place in a file: both numbers begin at 1, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl Place {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// One thing that is wrong in a configuration. Never tells a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// The line, from 1.
    pub line: u64,
    /// The column in characters, from 1.
    pub column: u64,
    /// The keys that lead there, such as `runner_groups[0].placements[1].image`; empty for the whole file.
    pub path: String,
    /// What was expected and what was found.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, path, message } = self;
        if path.is_empty() {
            write!(f, "{line}:{column}: {message}")
        } else {
            write!(f, "{line}:{column}: {path}: {message}")
        }
    }
}

/// All that is wrong in a configuration, in the order of the file; never empty.
///
/// Prints one fault a line, each with the file (where it is known), line, column and path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Faults {
    faults: Vec<Fault>,
    #[serde(skip)]
    file: Option<String>,
}

impl Faults {
    /// The same faults, printed as those of a file.
    #[must_use]
    pub fn of_file(mut self, file: impl Into<String>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// The same faults with what they say of the file changed.
    pub(super) fn map(mut self, change: impl Fn(String) -> String) -> Self {
        for Fault { path, message, .. } in &mut self.faults {
            *path = change(std::mem::take(path));
            *message = change(std::mem::take(message));
        }
        self
    }

    /// The faults in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            if let Some(file) = &self.file {
                write!(f, "{file}:")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Where the readers put the faults that they find, so that reading goes on after each.
#[derive(Debug, Default)]
pub(super) struct Sink(RefCell<Vec<Fault>>);

impl Sink {
    pub(super) fn push(&self, place: Place, path: impl Into<String>, message: impl Into<String>) {
        let Place { line, column } = place;
        let fault = Fault { line, column, path: path.into(), message: message.into() };
        self.0.borrow_mut().push(fault);
    }

    /// What was read, if nothing was wrong.
    pub(super) fn finish<T>(self, read: Option<T>) -> Result<T, Faults> {
        let mut faults = self.0.into_inner();
        if faults.is_empty() {
            return Ok(read.expect("what cannot be read leaves a fault"));
        }
        faults.sort();
        faults.dedup();
        Err(Faults { faults, file: None })
    }
}
