//! The Redis under load: our own or somebody's, and what it counts.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, bail};

use crate::args::{Fsync, Load};
use crate::process::Usage;
use crate::redis_server::{RedisServer, ask};

/// What our asking costs between two looks, in commands: `INFO` and `QUIT`.
const OWN: u64 = 2;
const BYTES_IN_MIB: f64 = 1024.0 * 1024.0;

/// A Redis.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) url: String,
    address: SocketAddr,
    // Ends with this value.
    _own: Option<RedisServer>,
}

/// What a Redis counted since it began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Counted {
    /// Commands, those within scripts among them.
    pub(crate) commands: u64,
    /// Runs of scripts.
    pub(crate) scripts: u64,
    pub(crate) usage: Usage,
}

impl Redis {
    /// The one that is named, or one of our own.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(crate) fn start(load: &Load) -> anyhow::Result<Self> {
        if let Some(url) = &load.redis_url {
            let address = address(url)?;
            return Ok(Self { url: url.clone(), address, _own: None });
        }
        let fsync = match load.appendfsync {
            Fsync::Everysec => "everysec",
            Fsync::Always => "always",
        };
        let server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", fsync])
            .context("there is no redis-server: install it, or name a Redis with --redis-url")?;
        let url = server.url();
        Ok(Self { address: address(&url)?, url, _own: Some(server) })
    }

    /// What it counted until now.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn counted(&self) -> anyhow::Result<Counted> {
        let answer = ask(self.address, &["INFO", "all"]).context("Redis does not answer")?;
        read(&answer).with_context(|| format!("Redis does not count what is needed: {answer:.200}"))
    }
}

impl Counted {
    /// What came on top of what was counted before.
    pub(crate) fn since(self, before: Self) -> Self {
        let usage = Usage { cpu_s: self.usage.cpu_s - before.usage.cpu_s, ..self.usage };
        let commands = (self.commands - before.commands).saturating_sub(OWN);
        Self { commands, scripts: self.scripts - before.scripts, usage }
    }
}

fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let server = url.strip_prefix("redis://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    if server.is_empty() || server.contains('@') {
        bail!("--redis-url is redis://HOST:PORT[/DATABASE], without a password");
    }
    let mut found = server.to_socket_addrs().context("--redis-url leads nowhere")?;
    found.next().context("--redis-url leads nowhere")
}

fn read(info: &str) -> Option<Counted> {
    let value = |key: &str| info.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'));
    let number = |key: &str| value(key)?.parse::<f64>().ok();
    let calls = |command: &str| {
        let told = value(&format!("cmdstat_{command}"))?.strip_prefix("calls=")?;
        told.split(',').next()?.parse::<u64>().ok()
    };
    Some(Counted {
        commands: value("total_commands_processed")?.parse().ok()?,
        scripts: ["eval", "evalsha"].into_iter().filter_map(calls).sum(),
        usage: Usage {
            cpu_s: number("used_cpu_sys")? + number("used_cpu_user")?,
            rss_mib: number("used_memory_peak")? / BYTES_IN_MIB,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::{Counted, address, read};
    use crate::process::Usage;

    #[test]
    fn what_redis_counts_is_read() {
        let info = "$1\r\n# Stats\r\ntotal_commands_processed:70\r\nused_cpu_sys:1.5\r\nused_cpu_user:2.5\r\n\
                    used_memory_peak:1048576\r\ncmdstat_evalsha:calls=9,usec=1\r\ncmdstat_eval:calls=1,usec=1\r\n";
        let counted = read(info).unwrap();
        let usage = Usage { cpu_s: 4.0, rss_mib: 1.0 };
        assert_eq!(counted, Counted { commands: 70, scripts: 10, usage });
        let before = Counted { commands: 8, scripts: 3, usage: Usage { cpu_s: 1.0, rss_mib: 0.5 } };
        let usage = Usage { cpu_s: 3.0, rss_mib: 1.0 };
        assert_eq!(counted.since(before), Counted { commands: 60, scripts: 7, usage });
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        assert_eq!(address("redis://127.0.0.1:6379/0").unwrap(), "127.0.0.1:6379".parse().unwrap());
        for wrong in ["127.0.0.1:6379", "rediss://127.0.0.1:6379", "redis://user:word@127.0.0.1:6379"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
