//! The storage's [`Budgets`].

use std::time::Duration;

use ::redis::Value;
use async_trait::async_trait;
use jiff::Timestamp;

use super::args::Args;
use super::connection::text_of;
use super::reply::{list, not_understood};
use super::scripts;
use super::storage::RedisStorage;
use crate::budget::{Bound, BudgetKey, Budgets, CONCURRENCY_PAUSE, Permission, Permit, Quota};
use crate::store::{Store, StoreError};

/// Calls of nobody's number: nothing counts them.
const UNCOUNTED: u64 = 0;

impl RedisStorage {
    /// Leave for a call that nothing bounds, which only a pause keeps. That goes by itself at its end, so that one
    /// command tells, and nothing is written.
    async fn unless_paused(&self, bounds: &[Bound]) -> Result<Permission, StoreError> {
        let pauses: Vec<String> = bounds.iter().map(|bound| self.pause_key(&bound.key)).collect();
        let Some((first, others)) = pauses.split_first() else { return Ok(granted(bounds)) };
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let found = list(self.data.command("MGET", first, &others).await?)?;
        let mut ends = Vec::new();
        for (at, pause) in found.iter().enumerate() {
            ends.extend(time(pause)?.map(|end| (end, at)));
        }
        let now = self.now().await?;
        Ok(match ends.into_iter().max().filter(|(until, _)| *until > now) {
            Some((until, bound)) => Permission::Wait { until, bound },
            None => granted(bounds),
        })
    }

    fn pause_key(&self, key: &BudgetKey) -> String {
        self.data.key(&format!("bp:{key}"))
    }
}

fn granted(bounds: &[Bound]) -> Permission {
    Permission::Granted(Permit::new(bounds, UNCOUNTED))
}

/// The time that a key has; none where there is no such key.
fn time(value: &Value) -> Result<Option<Timestamp>, StoreError> {
    if *value == Value::Nil {
        return Ok(None);
    }
    let microseconds = text_of(value).parse().map_err(|_| not_understood())?;
    Timestamp::from_microsecond(microseconds).map(Some).map_err(|_| not_understood())
}

fn is_unbounded(quota: &Quota) -> bool {
    quota.concurrent.is_none() && quota.rate.is_none()
}

fn bound_args(args: Args, bound: &Bound) -> Args {
    let args = args.text(bound.key.as_str());
    let args = match bound.quota.concurrent {
        Some(calls) => args.number(calls),
        None => args.nothing(),
    };
    match bound.quota.rate {
        Some(rate) => args.number(rate.calls).duration(rate.per),
        None => args.nothing().nothing(),
    }
}

#[async_trait]
impl Budgets for RedisStorage {
    async fn take(&self, bounds: &[Bound], lease: Duration) -> Result<Permission, StoreError> {
        if bounds.iter().all(|bound| is_unbounded(&bound.quota)) {
            return self.unless_paused(bounds).await;
        }
        let args = Args::of("take").duration(lease).duration(CONCURRENCY_PAUSE);
        let args = bounds.iter().fold(args, bound_args);
        let mut reply = self.data.write(scripts::BUDGET, args).await?.1;
        match reply.text()?.as_str() {
            "granted" => Ok(Permission::Granted(Permit::new(bounds, reply.number()?))),
            "wait" => {
                let (until, bound) = (reply.time()?, reply.number()?);
                Ok(Permission::Wait { until, bound: usize::try_from(bound).map_err(|_| not_understood())? })
            }
            _ => Err(not_understood()),
        }
    }

    async fn give_back(&self, permit: &Permit) -> Result<(), StoreError> {
        let number = permit.number.to_string();
        for key in &permit.keys {
            self.data.command("ZREM", &self.data.key(&format!("bu:{key}")), &[&number]).await?;
        }
        Ok(())
    }

    async fn pause(&self, key: &BudgetKey, until: Timestamp) -> Result<(), StoreError> {
        let args = Args::of("pause").text(key.as_str()).not_before(until);
        self.data.write(scripts::BUDGET, args).await.map(drop)
    }
}
