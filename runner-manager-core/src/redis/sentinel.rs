//! Where the master is, by its sentinels' word. It is asked at each connect, so a failover is followed by
//! whoever connects anew.

use redis::Value;

use super::connection::{Connection, Dialer, text_of};
use super::open_error::RedisOpenError;
use super::settings::{RedisAddress, RedisServers};

/// A connection to the server that takes writes.
///
/// A sentinel may still name a master that was replaced: a server that says it is a replica is passed over,
/// and the next sentinel asked.
pub(super) async fn dial(dialer: &Dialer) -> Result<Connection, RedisOpenError> {
    let (sentinels, service) = match &dialer.settings.servers {
        RedisServers::One(address) => return dialer.dial(address).await,
        RedisServers::Sentinels { sentinels, service } => (sentinels, service),
    };
    let mut reasons = Vec::new();
    for sentinel in sentinels {
        let found = match master(dialer, sentinel, service).await {
            Ok(Some(address)) => dialer.dial(&address).await,
            Ok(None) => {
                reasons.push(format!("sentinel {sentinel} knows no such master"));
                continue;
            }
            Err(error) => Err(error),
        };
        match found {
            Ok(connection) => return Ok(connection),
            Err(error) => {
                let reason = error.to_string();
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
        }
    }
    Err(RedisOpenError::Sentinels { service: service.clone(), reasons })
}

async fn master(
    dialer: &Dialer,
    sentinel: &RedisAddress,
    service: &str,
) -> Result<Option<RedisAddress>, RedisOpenError> {
    let mut question = redis::cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(service);
    let Value::Array(parts) = dialer.ask_once(sentinel, &question).await? else { return Ok(None) };
    let text = |at: usize| parts.get(at).map(text_of).unwrap_or_default();
    Ok(text(1).parse().ok().map(|port| RedisAddress { host: text(0), port }))
}
