//! What a Redis is and how it is set, and what can be promised with that.
//!
//! What is asked here changes nothing. Managed services forbid some of it: then it is said that it could not
//! be seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::Value;

use super::connection::text_of;
use super::link::Link;
use super::open_error::RedisOpenError;
use super::settings::RedisSettings;
use crate::clock::Clock;
use crate::random::Random;

/// The oldest version of Redis that has all that the storage needs.
const OLDEST: (u32, u32) = (6, 2);

/// What a server is and how it is set, as plain data. What could not be seen is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisExamination {
    /// Where it is, as `HOST:PORT`: with sentinels, the master that they named.
    pub server: String,
    /// What it is: `Redis`, or `Valkey`.
    pub product: String,
    /// Its version.
    pub version: Option<String>,
    /// What it calls this run of itself; another one after each restart.
    pub run_id: Option<String>,
    /// Whether it is a node of a cluster.
    pub cluster: Option<bool>,
    /// Whether it keeps a log of all writes (`appendonly`).
    pub append_only: Option<bool>,
    /// When that log reaches the disk (`appendfsync`): `always`, `everysec` or `no`.
    pub append_fsync: Option<String>,
    /// When it makes snapshots (`save`); empty for never.
    pub save: Option<String>,
    /// The most memory that it takes, in bytes (`maxmemory`); 0 for no bound.
    pub max_memory: Option<u64>,
    /// What it does at that bound (`maxmemory-policy`).
    pub max_memory_policy: Option<String>,
    /// How many replicas must follow it for it to take writes (`min-replicas-to-write`).
    pub min_replicas_to_write: Option<u32>,
    /// How many replicas follow it now.
    pub replicas: Option<u32>,
}

/// Asks a server what it is and how it is set.
///
/// # Errors
/// When it cannot be used as a storage at all.
pub async fn examine(
    settings: &RedisSettings,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<RedisExamination, RedisOpenError> {
    let link = Link::open(settings.clone(), clock, random).await?;
    let info = lines(
        &link
            .ask(redis::cmd("INFO").arg("everything"))
            .await?
            .map_or_else(|_| String::new(), |of| text_of(&of)),
    );
    let mut config = BTreeMap::new();
    for name in ["appendfsync", "save", "min-replicas-to-write"] {
        if let Ok(Value::Array(pair)) = link.ask(redis::cmd("CONFIG").arg("GET").arg(name)).await?
            && let [_, value] = &pair[..]
        {
            config.insert(name, text_of(value));
        }
    }
    let text = |key: &str| info.get(key).cloned();
    let flag = |key: &str| info.get(key).map(|value| value == "1");
    Ok(RedisExamination {
        server: link.address().await.unwrap_or_else(|| settings.servers.to_string()),
        product: product(&info).to_owned(),
        version: text("valkey_version").or_else(|| text("redis_version")),
        run_id: text("run_id"),
        cluster: flag("cluster_enabled"),
        append_only: flag("aof_enabled"),
        append_fsync: config.remove("appendfsync"),
        save: config.remove("save"),
        max_memory: info.get("maxmemory").and_then(|bytes| bytes.parse().ok()),
        max_memory_policy: text("maxmemory_policy"),
        min_replicas_to_write: config.get("min-replicas-to-write").and_then(|count| count.parse().ok()),
        replicas: info.get("connected_slaves").and_then(|count| count.parse().ok()),
    })
}

/// Refuses a server that is too old. One that does not tell its version is taken.
pub(super) async fn check_version(link: &Link) -> Result<(), RedisOpenError> {
    let Ok(answer) = link.ask(redis::cmd("INFO").arg("server")).await? else { return Ok(()) };
    let info = lines(&text_of(&answer));
    let Some(version) = info.get("redis_version") else { return Ok(()) };
    if is_too_old(version) {
        let server = link.address().await.unwrap_or_default();
        return Err(RedisOpenError::TooOld { server, version: version.clone() });
    }
    Ok(())
}

impl RedisExamination {
    /// Why this server must not hold our state as it is set: each a sentence that says what to do.
    pub fn faults(&self) -> Vec<String> {
        let policy = self.max_memory_policy.iter().filter(|policy| *policy != "noeviction");
        policy
            .map(|policy| {
                format!(
                    "maxmemory-policy is {policy}: at maxmemory it would throw away our state; set it to \
                     noeviction"
                )
            })
            .collect()
    }

    /// What is promised as it is set, what it is, and what could not be seen: each a sentence.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = vec![self.identity(), self.durability()];
        remarks.extend(self.failover());
        match self.max_memory {
            Some(0) => remarks.push("no maxmemory: nothing but the machine bounds its memory".to_owned()),
            Some(bytes) => {
                remarks.push(format!("maxmemory is {} MiB: beyond it nothing is written", bytes >> 20));
            }
            None => {}
        }
        if self.cluster == Some(true) {
            remarks.push("a node of a cluster: it has to be the node that the prefix belongs to".to_owned());
        }
        if self.append_fsync.is_none() || self.max_memory_policy.is_none() {
            remarks.push(
                "some of its settings could not be seen (CONFIG or INFO is forbidden): see for yourself that \
                 maxmemory-policy is noeviction, and what appendfsync is"
                    .to_owned(),
            );
        }
        remarks
    }

    fn identity(&self) -> String {
        let version = self.version.as_deref().unwrap_or("of a version that it does not tell");
        format!("{} {version} at {}", self.product, self.server)
    }

    fn durability(&self) -> String {
        match (self.append_only, self.append_fsync.as_deref()) {
            (Some(true), Some("always")) => {
                "appendfsync is always: nothing that was acknowledged is lost when it restarts or its machine dies"
            }
            (Some(true), Some("everysec")) => {
                "appendfsync is everysec: when its machine dies, the last second or so is lost, and found again \
                 by listing GitHub and the backends"
            }
            (Some(true), Some(_)) => {
                "appendfsync is no: when its machine dies, what the system had not written yet is lost (about \
                 30 s), and found again by listing GitHub and the backends"
            }
            (Some(true), None) => "it keeps a log of all writes (appendonly); how it is flushed could not be seen",
            (Some(false), _) if self.save.as_deref() == Some("") => {
                "it keeps neither a log (appendonly) nor snapshots (save): a restart loses everything; what can \
                 be is found again by listing GitHub and the backends"
            }
            (Some(false), _) => {
                "appendonly is no: when it restarts, everything since the last snapshot is lost, and found again \
                 by listing GitHub and the backends"
            }
            (None, _) => "what is lost when it restarts could not be seen",
        }
        .to_owned()
    }

    fn failover(&self) -> Option<String> {
        let replicas = self.replicas?;
        match self.min_replicas_to_write {
            Some(0) | None if replicas > 0 => Some(format!(
                "{replicas} replicas follow it, and min-replicas-to-write is {}: what the new master had not got \
                 yet is lost at a failover, and a master that is cut off goes on taking writes that will be lost",
                self.min_replicas_to_write
                    .map_or_else(|| "not to be seen".to_owned(), |count| count.to_string()),
            )),
            Some(0) | None => None,
            Some(least) if replicas < least => Some(format!(
                "{replicas} replicas follow it, and min-replicas-to-write is {least}: it takes no writes now"
            )),
            Some(least) => Some(format!(
                "{replicas} replicas follow it, and min-replicas-to-write is {least}: at a failover what the new \
                 master had not got yet is lost, at most what min-replicas-max-lag lets it lag behind"
            )),
        }
    }
}

fn product(info: &BTreeMap<String, String>) -> &'static str {
    let valkey = info.contains_key("valkey_version")
        || info.get("server_name").is_some_and(|name| name.eq_ignore_ascii_case("valkey"));
    if valkey { "Valkey" } else { "Redis" }
}

fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else { return false };
    (major, minor) < OLDEST
}

/// The lines `KEY:VALUE` of an answer to INFO.
fn lines(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::{RedisExamination, is_too_old, lines, product};

    /// A server that has nothing to complain of.
    fn good() -> RedisExamination {
        RedisExamination {
            server: "r:6379".to_owned(),
            product: "Redis".to_owned(),
            version: Some("7.0.15".to_owned()),
            append_only: Some(true),
            append_fsync: Some("always".to_owned()),
            save: Some(String::new()),
            max_memory: Some(64 << 20),
            max_memory_policy: Some("noeviction".to_owned()),
            min_replicas_to_write: Some(0),
            replicas: Some(0),
            ..RedisExamination::default()
        }
    }

    #[track_caller]
    fn remarks(of: &RedisExamination, part: &str) {
        let remarks = of.remarks();
        assert!(remarks.iter().any(|remark| remark.contains(part)), "{part}: {remarks:#?}");
    }

    #[test]
    fn a_good_server_has_no_faults_and_says_what_it_promises() {
        let good = good();
        assert_eq!(good.faults(), [""; 0]);
        assert_eq!(good.remarks().len(), 3);
        remarks(&good, "Redis 7.0.15 at r:6379");
        remarks(&good, "nothing that was acknowledged is lost");
        remarks(&good, "maxmemory is 64 MiB");
    }

    #[test]
    fn throwing_away_is_a_fault() {
        for policy in ["allkeys-lru", "volatile-ttl", "allkeys-random"] {
            let found = RedisExamination { max_memory_policy: Some(policy.to_owned()), ..good() };
            assert!(found.faults()[0].contains(policy), "{policy}");
        }
    }

    #[test]
    fn what_is_lost_is_said() {
        let fsync = |word: &str| RedisExamination { append_fsync: Some(word.to_owned()), ..good() };
        remarks(&fsync("everysec"), "the last second or so is lost");
        remarks(&fsync("no"), "about 30 s");
        let snapshots =
            RedisExamination { append_only: Some(false), save: Some("60 1".to_owned()), ..good() };
        remarks(&snapshots, "since the last snapshot is lost");
        remarks(&RedisExamination { save: Some(String::new()), ..snapshots }, "a restart loses everything");
        remarks(&RedisExamination { append_only: None, ..good() }, "could not be seen");
    }

    #[test]
    fn what_a_failover_loses_is_said() {
        let with = |replicas, least| RedisExamination {
            replicas: Some(replicas),
            min_replicas_to_write: least,
            ..good()
        };
        assert_eq!(with(0, Some(0)).failover(), None);
        remarks(&with(2, Some(0)), "min-replicas-to-write is 0: what the new master had not got yet is lost");
        remarks(&with(2, None), "not to be seen");
        remarks(&with(2, Some(1)), "min-replicas-max-lag");
        remarks(&with(0, Some(1)), "it takes no writes now");
    }

    #[test]
    fn what_could_not_be_seen_is_said() {
        let hidden = RedisExamination { append_fsync: None, max_memory_policy: None, ..good() };
        remarks(&hidden, "some of its settings could not be seen");
        assert_eq!(hidden.faults(), [""; 0]);
    }

    #[test]
    fn versions_and_products_are_told_apart() {
        for old in ["2.8.0", "5.0.14", "6.0.16"] {
            assert!(is_too_old(old), "{old}");
        }
        for new in ["6.2.0", "7.0.15", "8.2", "10.1.0", "unstable"] {
            assert!(!is_too_old(new), "{new}");
        }
        let info = lines("# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n");
        assert_eq!(info["valkey_version"], "8.0.1");
        assert_eq!(product(&info), "Valkey");
        assert_eq!(product(&lines("redis_version:7.0.15\r\n")), "Redis");
    }
}
