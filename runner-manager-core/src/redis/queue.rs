//! The storage's [`TaskQueue`].

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::args::Args;
use super::convoy::{self, Waiting};
use super::data::Data;
use super::reply::{self, Reply, not_understood};
use super::storage::RedisStorage;
use super::wake::{LookAnswer, Parked, Present, Woken};
use super::{scripts, write};
use crate::baton::Baton;
use crate::domain::later;
use crate::queue::{
    Claim, ClaimToken, DeadTask, Lane, LaneStatistics, NewTask, QueueStatistics, Task, TaskQueue,
};
use crate::store::StoreError;

/// The most tasks that one claim takes: its script holds up everybody else meanwhile.
const MOST_AT_A_TIME: usize = 1000;

/// What a claim asks for.
#[derive(Debug)]
struct Wanted<'l> {
    lane: &'l Lane,
    most: usize,
    bound: usize,
    lease: Duration,
}

impl Wanted<'_> {
    /// As the script is asked: `alone` where nobody else of this process waits on the lane.
    fn args(&self, only_if_woken: bool, alone: bool) -> Args {
        let args = Args::default().flag(only_if_woken).text(self.lane.as_str());
        let args = args.number(self.most.min(MOST_AT_A_TIME));
        let args = if self.bound == usize::MAX { args.nothing() } else { args.number(self.bound) };
        args.duration(self.lease).flag(alone)
    }
}

/// What a look at a lane brought.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) claims: Vec<Claim>,
    /// How long until something happens next on the lane by itself; none where nothing is known to. For what
    /// is due already there is a token.
    pub(super) next: Option<Duration>,
    /// Whether nothing else is due that may be claimed.
    pub(super) quiet: bool,
}

/// What a claim was told; nothing where it did not look.
fn read_look(data: &Data, answer: convoy::Answer) -> Result<Option<Look>, StoreError> {
    let (tag, mut reply) = answer.and_then(Reply::read).map_err(|error| match error {
        // What was claimed comes back at the end of its lease.
        StoreError::Unclear(text, source) => StoreError::Unavailable(text, source),
        other => other,
    })?;
    if tag == "asleep" {
        return Ok(None);
    }
    let (next, full) = (reply.maybe_number()?.map(Duration::from_micros), reply.maybe_number()?.is_some());
    let quiet = !full && next.is_none_or(|next| !next.is_zero());
    let mut claims = Vec::new();
    while !reply.is_empty() {
        claims.push(read_claim(data, &mut reply)?);
    }
    Ok(Some(Look { claims, next: next.filter(|next| !next.is_zero()), quiet }))
}

/// Hands a claim's answer over. Where nobody waits for it any more, what was claimed is put back.
async fn hand_over(data: &Data, sender: oneshot::Sender<LookAnswer>, answer: LookAnswer) {
    let Err(Ok(Some(look))) = sender.send(answer) else { return };
    for claim in look.claims {
        let args = held("release", &claim.token);
        if let Err(error) = data.write(scripts::HOLD, args).await {
            tracing::debug!(task = claim.token.key, %error, "a task comes back after its lease");
        }
    }
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
    /// Looks once. Where the caller goes away meanwhile, what it would have got is put back.
    async fn look(&self, args: Args) -> Result<Look, StoreError> {
        let (sender, answer) = oneshot::channel();
        let data = self.data.clone();
        self.claiming.spawn(async move {
            let answer = data.answer(scripts::CLAIM, args, Vec::new()).await;
            hand_over(&data, sender, read_look(&data, answer)).await;
        });
        let stops = || StoreError::Unavailable("the process stops while it claims a task".to_owned(), None);
        answer.await.unwrap_or_else(|_| Err(stops()))?.ok_or_else(not_understood)
    }

    /// Claims that go right behind a write that queues these tasks: of those of this process who wait for such.
    pub(super) fn claims_behind(&self, tasks: &[NewTask]) -> Vec<Waiting> {
        let now = self.time.told(self.clock.now()).unwrap_or_else(|| self.clock.now());
        let due = tasks.iter().filter(|new| new.not_before.is_none_or(|time| time <= now));
        let lanes: BTreeSet<Lane> = due.map(|new| new.task.lane()).collect();
        let parked = lanes.iter().filter_map(|lane| self.lanes.of(lane.as_str()).take_parked());
        parked.map(|parked| self.send_along(parked)).collect()
    }

    fn send_along(&self, Parked { args, sender }: Parked) -> Waiting {
        let (waiting, answer) = Waiting::new(scripts::CLAIM, args);
        let data = self.data.clone();
        self.claiming.spawn(async move {
            let answer = convoy::heard(answer).await;
            hand_over(&data, sender, read_look(&data, answer)).await;
        });
        waiting
    }

    async fn end(&self, args: Args) -> Result<(), StoreError> {
        self.data.write(scripts::HOLD, args).await.map(|_| ())
    }
}

#[async_trait]
impl TaskQueue for RedisStorage {
    async fn push(&self, tasks: Vec<NewTask>) -> Result<(), StoreError> {
        let args = write::tasks(Args::default(), &tasks);
        let behind = self.claims_behind(&tasks);
        self.data.write_before(scripts::PUSH, args, behind).await.map(|_| ())
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
        let wanted = Wanted { lane, most, bound, lease };
        let begin = self.clock.now();
        let end = later(begin, wait);
        let must_look = wait.is_zero() || !waiters.is_quiet(begin);
        let mut look =
            if must_look { Some(self.look(wanted.args(false, present.is_alone())).await?) } else { None };
        loop {
            let now = self.clock.now();
            if let Some(look) = look {
                waiters.note(&look, now);
                if !look.claims.is_empty() {
                    return Ok(look.claims);
                }
            }
            if most == 0 || now >= end {
                return Ok(Vec::new());
            }
            let args = || wanted.args(true, present.is_alone());
            look = match waiters.wait(&self.data, &*self.clock, lane, args, end).await? {
                Woken::Told(look) => look,
                Woken::Unseen(baton) => {
                    let look = self.look(wanted.args(false, present.is_alone())).await?;
                    Baton::done(baton);
                    Some(look)
                }
            };
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
