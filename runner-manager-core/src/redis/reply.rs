//! What a script answers: its result, or why it refused.

use std::vec::IntoIter;

use ::redis::Value;
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::domain::GroupName;
use crate::store::{StoreError, Version, Versioned};

/// The version of what is stored under a prefix, as in `prelude.lua`. Any other is refused.
const SCHEMA: u32 = 2;

/// The form of a record's first line that this release reads.
const FORM: &str = "1";

/// The parts of an answer, read one after the other.
#[derive(Debug)]
pub(super) struct Reply {
    parts: IntoIter<Vec<u8>>,
}

impl Reply {
    /// Reads an answer: its first part as text, and the rest. A refusal is the error that it means.
    pub(super) fn read(value: Value) -> Result<(String, Self), StoreError> {
        let parts: Vec<Vec<u8>> = list(value)?.into_iter().map(bytes).collect::<Result<_, _>>()?;
        let mut reply = Self { parts: parts.into_iter() };
        let tag = reply.text()?;
        match refusal(&tag, &mut reply)? {
            Some(error) => Err(error),
            None => Ok((tag, reply)),
        }
    }

    /// Whether there is no further part.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.len() == 0
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        self.parts.next().ok_or_else(not_understood)
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        String::from_utf8(self.bytes()?).map_err(|_| not_understood())
    }

    /// A number; none where the part is empty.
    pub(super) fn maybe_number(&mut self) -> Result<Option<u64>, StoreError> {
        let text = self.text()?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| not_understood()) }
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        self.maybe_number()?.ok_or_else(not_understood)
    }

    pub(super) fn maybe_version(&mut self) -> Result<Option<Version>, StoreError> {
        Ok(self.maybe_number()?.map(Version))
    }

    pub(super) fn maybe_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.maybe_number()?.map(time).transpose()
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, StoreError> {
        time(self.number()?)
    }
}

fn time(microseconds: u64) -> Result<Timestamp, StoreError> {
    let signed = i64::try_from(microseconds).map_err(|_| not_understood())?;
    Timestamp::from_microsecond(signed).map_err(|_| not_understood())
}

fn bytes(part: Value) -> Result<Vec<u8>, StoreError> {
    match part {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(not_understood()),
    }
}

/// The parts of an answer that has several.
pub(super) fn list(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(parts) => Ok(parts),
        _ => Err(not_understood()),
    }
}

pub(super) fn not_understood() -> StoreError {
    StoreError::Corrupt("a script's answer is not understood".to_owned(), None)
}

/// The error that a refusal means; none where it is no refusal.
fn refusal(tag: &str, reply: &mut Reply) -> Result<Option<StoreError>, StoreError> {
    let corrupt = |text: String| StoreError::Corrupt(text, None);
    Ok(Some(match tag {
        "ok" | "repeated" | "asleep" => return Ok(None),
        "conflict" => StoreError::Conflict { record: reply.text()? },
        "max" => {
            let (group, alive, max) = (group(reply)?, reply.number()?, reply.number()?);
            let count = |number| u32::try_from(number).map_err(|_| not_understood());
            StoreError::AtMax { group, alive: count(alive)?, max: count(max)? }
        }
        "closed" => StoreError::Closed { group: group(reply)? },
        "untrusted" => StoreError::Untrusted,
        "lost" => StoreError::LostClaim,
        "type" => corrupt(format!(
            "key `{}` is of another type than this storage writes: somebody else uses the name; give this \
             deployment a database of its own, or remove the key",
            reply.text()?
        )),
        "unreadable" => unreadable(&reply.text()?, &reply.text()?, None),
        "index" => corrupt(format!(
            "key `{}` names `{}`, of which there is no such record: a key was removed or written by somebody \
             else; restore the database, or empty it and let the manager find again what is outside",
            reply.text()?,
            reply.text()?
        )),
        "count" => corrupt(format!(
            "the counters of group `{}` are less than its records: a key was removed or written by somebody \
             else; restore the database, or empty it and let the manager find again what is outside",
            reply.text()?
        )),
        "schema" => corrupt(other_schema(&reply.text()?)),
        "info" => StoreError::Unavailable(
            format!(
                "a script may not ask the server which life it lives ({}): permit this user the command INFO",
                reply.text()?
            ),
            None,
        ),
        _ => return Err(not_understood()),
    }))
}

fn other_schema(found: &str) -> String {
    if found.parse().is_ok_and(|found: u32| found < SCHEMA) {
        return format!(
            "it was written by an earlier release (schema {found}, this one knows {SCHEMA} alone): use that release, or \
             empty the database and let the manager find again what is outside"
        );
    }
    format!(
        "it was written by a later release (schema {found}, this one knows {SCHEMA} alone): use that release"
    )
}

fn group(reply: &mut Reply) -> Result<GroupName, StoreError> {
    GroupName::new(reply.text()?).map_err(|_| not_understood())
}

pub(super) fn unreadable(
    key: &str,
    field: &str,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    let text = format!(
        "`{field}` of key `{key}` cannot be read by this release: use the release that wrote it, or remove the \
         entry"
    );
    StoreError::Corrupt(text, source)
}

/// The fields and the body of a record. Its place is for the message.
pub(super) fn open<'r>(
    key: &str,
    field: &str,
    record: &'r [u8],
) -> Result<(std::str::Split<'r, char>, &'r [u8]), StoreError> {
    let split = || {
        let end = record.iter().position(|byte| *byte == b'\n')?;
        let mut fields = std::str::from_utf8(&record[..end]).ok()?.split('\t');
        (fields.next()? == FORM).then_some((fields, &record[end + 1..]))
    };
    split().ok_or_else(|| unreadable(key, field, None))
}

/// Reads the body of a record or of a task.
pub(super) fn decode<T: DeserializeOwned>(key: &str, field: &str, body: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(body).map_err(|source| unreadable(key, field, Some(Box::new(source))))
}

/// Reads a record whose first field is its version.
pub(super) fn record<T: DeserializeOwned>(
    key: &str,
    field: &str,
    record: &[u8],
) -> Result<Versioned<T>, StoreError> {
    let (mut fields, body) = open(key, field, record)?;
    let version = fields.next().and_then(|version| version.parse().ok());
    let version = version.ok_or_else(|| unreadable(key, field, None))?;
    Ok(Versioned { value: decode(key, field, body)?, version: Version(version) })
}
