//! The storage's [`Budgets`].

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::args::Args;
use super::reply::{Reply, not_understood};
use super::scripts;
use super::storage::RedisStorage;
use crate::budget::{BudgetKey, Budgets, CONCURRENCY_PAUSE, Permission, Permit, Quota};
use crate::store::StoreError;

impl RedisStorage {
    async fn budget(&self, args: Args) -> Result<Reply, StoreError> {
        Ok(self.data.write(&scripts::BUDGET, &args).await?.1)
    }
}

#[async_trait]
impl Budgets for RedisStorage {
    async fn take(&self, key: &BudgetKey, quota: &Quota, lease: Duration) -> Result<Permission, StoreError> {
        let args = Args::of("take").text(key.as_str());
        let args = match quota.concurrent {
            Some(calls) => args.number(calls),
            None => args.nothing(),
        };
        let args = match quota.rate {
            Some(rate) => args.number(rate.calls).duration(rate.per),
            None => args.nothing().nothing(),
        };
        let mut reply = self.budget(args.duration(lease).duration(CONCURRENCY_PAUSE)).await?;
        match reply.text()?.as_str() {
            "granted" => Ok(Permission::Granted(Permit { key: key.clone(), number: reply.number()? })),
            "wait" => Ok(Permission::Wait(reply.time()?)),
            _ => Err(not_understood()),
        }
    }

    async fn give_back(&self, permit: &Permit) -> Result<(), StoreError> {
        let args = Args::of("give_back").text(permit.key.as_str()).exactly(permit.number);
        self.budget(args).await.map(|_| ())
    }

    async fn pause(&self, key: &BudgetKey, until: Timestamp) -> Result<(), StoreError> {
        self.budget(Args::of("pause").text(key.as_str()).not_before(until)).await.map(|_| ())
    }
}
