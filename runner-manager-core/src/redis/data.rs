//! The data of one deployment in a Redis: scripts run over its keys.

use std::collections::BTreeMap;

use ::redis::{self, Value};
use jiff::Timestamp;

use super::args::Args;
use super::connection::text_of;
use super::convoy::{Answer, Convoy, Waiting};
use super::link::{Link, Script};
use super::reply::{Reply, list, not_understood};
use super::scripts::{self, Operation};
use crate::store::StoreError;

/// The data of one deployment.
#[derive(Debug, Clone)]
pub(super) struct Data {
    pub(super) link: Link,
    prefix: String,
    convoy: Convoy,
}

impl Data {
    /// The data under a prefix, which has a hash tag.
    pub(super) fn new(link: Link, prefix: &str) -> Self {
        let prefix = format!("{prefix}:");
        Self { convoy: Convoy::new(link.clone(), prefix.clone()), link, prefix }
    }

    /// The full name of a key.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Begins the use of the prefix.
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        Reply::read(self.link.run(&scripts::OPEN, &[&self.prefix], &[]).await?).map(drop)
    }

    /// Does something that may write: the first word of its answer, and the rest.
    pub(super) async fn write(
        &self,
        operation: Operation,
        args: Args,
    ) -> Result<(String, Reply), StoreError> {
        self.write_before(operation, args, Vec::new()).await
    }

    /// The same, with operations that go right behind it.
    pub(super) async fn write_before(
        &self,
        operation: Operation,
        args: Args,
        behind: Vec<Waiting>,
    ) -> Result<(String, Reply), StoreError> {
        Reply::read(self.answer(operation, args, behind).await?)
    }

    /// The answer to such an operation, as it comes.
    pub(super) async fn answer(&self, operation: Operation, args: Args, behind: Vec<Waiting>) -> Answer {
        self.convoy.run(operation, args, behind).await
    }

    /// What a hash of ours has in a field; none where there is no such field. One record is one field, so this needs
    /// no script.
    pub(super) async fn field(&self, hash: &str, field: &str) -> Result<Option<Vec<u8>>, StoreError> {
        text(self.command("HGET", &self.key(hash), &[field]).await?)
    }

    /// What a hash of ours has in some fields, of one moment.
    pub(super) async fn fields<const N: usize>(
        &self,
        hash: &str,
        fields: [&str; N],
    ) -> Result<[Option<Vec<u8>>; N], StoreError> {
        let found = list(self.command("HMGET", &self.key(hash), &fields).await?)?;
        let found: Vec<_> = found.into_iter().map(text).collect::<Result<_, _>>()?;
        found.try_into().map_err(|_| not_understood())
    }

    /// All fields of a hash of ours, with what it has in them, in the order of their names.
    pub(super) async fn all(&self, hash: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let mut parts = list(self.command("HGETALL", &self.key(hash), &[]).await?)?.into_iter();
        let mut all = BTreeMap::new();
        while let (Some(field), Some(value)) = (parts.next(), parts.next()) {
            all.insert(text_of(&field), text(value)?.ok_or_else(not_understood)?);
        }
        Ok(all)
    }

    /// Asks with one command on a key, which may be asked again without harm.
    pub(super) async fn command(&self, name: &str, key: &str, args: &[&str]) -> Result<Value, StoreError> {
        let mut question = redis::cmd(name);
        question.arg(key).arg(args);
        self.link.look_up(&format!("{name} of key `{key}`"), &question).await
    }

    /// The server's time.
    pub(super) async fn time(&self) -> Result<Timestamp, StoreError> {
        let Value::Array(parts) = self.link.look_up("TIME", &redis::cmd("TIME")).await? else {
            return Err(not_understood());
        };
        let numbers: Vec<i64> = parts.iter().map_while(|part| text_of(part).parse().ok()).collect();
        let [seconds, microseconds] = numbers[..] else { return Err(not_understood()) };
        let time = seconds.checked_mul(1_000_000).and_then(|whole| whole.checked_add(microseconds));
        time.and_then(|time| Timestamp::from_microsecond(time).ok()).ok_or_else(not_understood)
    }

    /// Runs a script that only reads.
    pub(super) async fn read(&self, script: &Script, args: &Args) -> Result<Reply, StoreError> {
        Ok(Reply::read(self.link.read(script, &[&self.prefix], &args.bytes()).await?)?.1)
    }
}

fn text(value: Value) -> Result<Option<Vec<u8>>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        _ => Err(not_understood()),
    }
}
