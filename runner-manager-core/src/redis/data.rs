//! The data of one deployment in a Redis: scripts run over its keys.

use super::args::Args;
use super::link::{Link, Script};
use super::reply::Reply;
use crate::store::StoreError;

/// The data of one deployment.
#[derive(Debug, Clone)]
pub(super) struct Data {
    pub(super) link: Link,
    prefix: String,
}

impl Data {
    /// The data under a prefix, which has a hash tag.
    pub(super) fn new(link: Link, prefix: &str) -> Self {
        Self { link, prefix: format!("{prefix}:") }
    }

    /// The full name of a key.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Runs a script that may write: the first word of its answer, and the rest.
    pub(super) async fn write(&self, script: &Script, args: &Args) -> Result<(String, Reply), StoreError> {
        Reply::read(self.link.run(script, &[&self.prefix], &args.bytes()).await?)
    }

    /// Runs a script that only reads.
    pub(super) async fn read(&self, script: &Script, args: &Args) -> Result<Reply, StoreError> {
        Ok(Reply::read(self.link.read(script, &[&self.prefix], &args.bytes()).await?)?.1)
    }
}
