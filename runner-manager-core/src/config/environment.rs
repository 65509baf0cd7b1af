//! Where secrets come from: environment variables and files, behind a trait so that tests touch neither.

use std::fmt::Debug;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use crate::domain::Secret;

/// The longest secret that is read from a file, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// What surrounds a configuration: variables, and files beside it.
pub trait Environment: Debug {
    /// The value of an environment variable; `None` where it is not set.
    ///
    /// # Errors
    /// `InvalidData` when the value is not UTF-8.
    fn variable(&self, name: &str) -> io::Result<Option<String>>;

    /// The text of a file, by a path that [`resolve`](Self::resolve) gave.
    ///
    /// # Errors
    /// When the file cannot be read, is not UTF-8 or far too long for a secret.
    fn file(&self, path: &Path) -> io::Result<String>;

    /// The folder of the configuration file, from which relative paths lead.
    fn folder(&self) -> &Path;

    /// The path of a file that the configuration names.
    fn resolve(&self, path: &str) -> PathBuf {
        self.folder().join(path)
    }
}

/// The environment of this process, with files read from the disk.
#[derive(Debug, Clone)]
pub struct ProcessEnvironment {
    folder: PathBuf,
}

impl ProcessEnvironment {
    /// The environment of a configuration in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> io::Result<Option<String>> {
        let Some(value) = std::env::var_os(name) else { return Ok(None) };
        // The error of a conversion would show the value, which may be a secret.
        value.into_string().map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_SECRET_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_SECRET_BYTES {
            let message = format!("longer than {MAX_SECRET_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(text)
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}

/// A secret that is at least so many characters long, from where the configuration says that it is.
pub(super) fn secret(at: &Cursor<'_>, environment: &dyn Environment, least: usize) -> Option<Secret> {
    let text = if at.is_map() { referred(at, environment)? } else { at.text()?.to_owned() };
    let length = text.chars().count();
    if length < least {
        at.fault(format!("the secret has {length} characters, at least {least} are needed"));
        return None;
    }
    Some(Secret::new(text))
}

/// Certificates in PEM, from the file that the configuration names.
pub(super) fn certificates(at: &Cursor<'_>, environment: &dyn Environment) -> Option<String> {
    at.known_fields(&["file"])?.required("file")?.parsed(|path| {
        let path = environment.resolve(path);
        match environment.file(&path) {
            Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => Ok(text),
            Ok(_) => Err(format!("file `{}` has no certificate in PEM in it", path.display())),
            Err(error) => Err(format!("file `{}` cannot be read: {error}", path.display())),
        }
    })
}

fn referred(at: &Cursor<'_>, environment: &dyn Environment) -> Option<String> {
    let fields = at.fields()?;
    match fields.iter().collect::<Vec<_>>()[..] {
        [("env", name)] => from_variable(name, environment),
        [("file", path)] => from_file(path, environment),
        // Other keys are not told: a secret such as `{x7` without its quotes is a map to YAML.
        _ => {
            at.fault("expected a text, {env: NAME} or {file: PATH}");
            None
        }
    }
}

fn from_variable(at: &Cursor<'_>, environment: &dyn Environment) -> Option<String> {
    at.parsed(|name| match environment.variable(name) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(format!("environment variable `{name}` is not set")),
        Err(error) => Err(format!("environment variable `{name}` cannot be read: {error}")),
    })
}

fn from_file(at: &Cursor<'_>, environment: &dyn Environment) -> Option<String> {
    at.parsed(|path| {
        let path = environment.resolve(path);
        match environment.file(&path) {
            Ok(text) => Ok(without_last_newline(text)),
            Err(error) => Err(format!("file `{}` cannot be read: {error}", path.display())),
        }
    })
}

fn without_last_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}
