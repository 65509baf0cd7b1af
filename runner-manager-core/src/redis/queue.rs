//! The storage's [`TaskQueue`].

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::args::Args;
use super::data::Data;
use super::reply::{self, Reply, not_understood};
use super::storage::RedisStorage;
use super::wake::Present;
use super::{scripts, write};
use crate::baton::Baton;
use crate::domain::later;
use crate::queue::{
    Claim, ClaimToken, DeadTask, Lane, LaneStatistics, NewTask, QueueStatistics, Task, TaskQueue,
};
use crate::store::StoreError;

/// The most tasks that one claim takes: its script holds up everybody else meanwhile.
const MOST_AT_A_TIME: usize = 1000;

/// What a claim was told.
#[derive(Debug)]
struct Claimed {
    claims: Vec<Claim>,
    /// How long until something happens next on the lane by itself; none where nothing is known to. For what
    /// is due already there is a token.
    next: Option<Duration>,
}

async fn claim(data: &Data, args: Args) -> Result<Claimed, StoreError> {
    let (_, mut reply) = data.write(scripts::CLAIM, args).await.map_err(|error| match error {
        // What was claimed comes back at the end of its lease.
        StoreError::Unclear(text, source) => StoreError::Unavailable(text, source),
        other => other,
    })?;
    let next = reply.maybe_number()?.map(Duration::from_micros).filter(|next| !next.is_zero());
    let mut claims = Vec::new();
    while !reply.is_empty() {
        claims.push(read_claim(data, &mut reply)?);
    }
    Ok(Claimed { claims, next })
}

fn read_claim(data: &Data, reply: &mut Reply) -> Result<Claim, StoreError> {
    let token = ClaimToken { key: reply.text()?, number: reply.number()? };
    let attempt = u32::try_from(reply.number()?).map_err(|_| not_understood())?;
    let (until, waited) = (reply.time()?, Duration::from_micros(reply.number()?));
    let task = reply::decode(&data.key("t"), &token.key, &reply.bytes()?)?;
    Ok(Claim { token, task, attempt, until, waited })
}

fn held(verb: &str, token: &ClaimToken) -> Args {
    Args::of(verb).text(&token.key).exactly(token.number)
}

impl RedisStorage {
    /// Claims once. Where the caller goes away meanwhile, what it would have got is put back.
    async fn claim_once(&self, args: Args) -> Result<Claimed, StoreError> {
        let (sender, answer) = oneshot::channel();
        let data = self.data.clone();
        self.claiming.spawn(async move {
            if let Err(Ok(claimed)) = sender.send(claim(&data, args).await) {
                for claim in claimed.claims {
                    let args = held("release", &claim.token);
                    if let Err(error) = data.write(scripts::HOLD, args).await {
                        tracing::debug!(task = claim.token.key, %error, "a task comes back after its lease");
                    }
                }
            }
        });
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable("the process stops while it claims a task".to_owned(), None))
        })
    }

    async fn end(&self, args: Args) -> Result<(), StoreError> {
        self.data.write(scripts::HOLD, args).await.map(|_| ())
    }
}

#[async_trait]
impl TaskQueue for RedisStorage {
    async fn push(&self, tasks: Vec<NewTask>) -> Result<(), StoreError> {
        let args = write::tasks(Args::default(), &tasks);
        self.data.write(scripts::PUSH, args).await.map(|_| ())
    }

    async fn claim(
        &self,
        lane: &Lane,
        most: usize,
        bound: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        let waiters = self.lanes.of(lane.as_str());
        let present = Present::on(&waiters);
        let tokens = self.data.key(&format!("k:{}", lane.as_str()));
        let end = later(self.clock.now(), wait);
        let mut baton = None;
        loop {
            let args = Args::of(lane.as_str()).number(most.min(MOST_AT_A_TIME));
            let args = if bound == usize::MAX { args.nothing() } else { args.number(bound) };
            let args = args.duration(lease).flag(present.is_alone());
            let claimed = self.claim_once(args).await?;
            if let Some(baton) = baton.take() {
                Baton::done(baton);
            }
            let now = self.clock.now();
            waiters.note_next(claimed.next.map(|next| later(now, next)));
            if !claimed.claims.is_empty() || most == 0 || now >= end {
                return Ok(claimed.claims);
            }
            if !waiters.wait(&self.data.link, &*self.clock, &tokens, end).await? {
                return Ok(Vec::new());
            }
            baton = Some(waiters.baton());
        }
    }

    async fn extend(&self, token: &ClaimToken, lease: Duration) -> Result<Timestamp, StoreError> {
        let args = held("extend", token).duration(lease);
        self.data.write(scripts::HOLD, args).await?.1.time()
    }

    async fn ack(&self, token: &ClaimToken) -> Result<(), StoreError> {
        self.end(held("ack", token)).await
    }

    async fn retry(&self, token: &ClaimToken, when: Timestamp, reason: &str) -> Result<(), StoreError> {
        tracing::debug!(task = token.key, %when, reason, "a task waits for another try");
        self.end(held("retry", token).not_before(when)).await
    }

    async fn release(&self, token: &ClaimToken) -> Result<(), StoreError> {
        self.end(held("release", token)).await
    }

    async fn bury(&self, token: &ClaimToken, reason: &str) -> Result<(), StoreError> {
        self.end(held("bury", token).number(self.retention.dead_tasks).text(reason)).await
    }

    async fn dead(&self, limit: usize) -> Result<Vec<DeadTask>, StoreError> {
        let mut reply = self.data.read(&scripts::DEAD, &Args::default().number(limit)).await?;
        let (table, mut dead) = (self.data.key("d"), Vec::new());
        while !reply.is_empty() {
            dead.push(read_dead(&table, &reply.text()?, &reply.bytes()?)?);
        }
        Ok(dead)
    }

    async fn revive(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.data.write(scripts::REVIVE, Args::of(key)).await?.1.number()? == 1)
    }

    async fn statistics(&self) -> Result<QueueStatistics, StoreError> {
        let mut reply = self.data.read(&scripts::STATISTICS, &Args::default()).await?;
        let (dead, mut lanes) = (reply.number()?, Vec::new());
        while !reply.is_empty() {
            lanes.push(LaneStatistics {
                lane: reply.lane()?,
                due: reply.number()?,
                delayed: reply.number()?,
                claimed: reply.number()?,
                oldest_due: reply.maybe_time()?,
            });
        }
        lanes.sort_by(|one, two| one.lane.cmp(&two.lane));
        Ok(QueueStatistics { lanes, dead })
    }
}

impl Reply {
    fn lane(&mut self) -> Result<Lane, StoreError> {
        serde_json::from_value(self.text()?.into()).map_err(|_| not_understood())
    }
}

/// A task that was given up: its lane, time and attempts, then the task on a line and the reason.
fn read_dead(table: &str, key: &str, record: &[u8]) -> Result<DeadTask, StoreError> {
    let (fields, body) = reply::open(table, key, record)?;
    let numbers: Vec<i64> = fields.skip(1).map_while(|field| field.parse().ok()).collect();
    let line = body.iter().position(|byte| *byte == b'\n');
    let ([at, attempts], Some(line)) = (&numbers[..], line) else { return Err(not_understood()) };
    let task: Task = reply::decode(table, key, &body[..line])?;
    Ok(DeadTask {
        task,
        reason: String::from_utf8_lossy(&body[line + 1..]).into_owned(),
        at: Timestamp::from_microsecond(*at).map_err(|_| not_understood())?,
        attempts: u32::try_from(*attempts).map_err(|_| not_understood())?,
    })
}
