//! The storage itself, and its [`Store`].

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_util::task::TaskTracker;

use super::args::Args;
use super::data::Data;
use super::link::Link;
use super::open_error::RedisOpenError;
use super::reply::{self, Reply, not_understood};
use super::settings::RedisSettings;
use super::time::ServerTime;
use super::wake::Lanes;
use super::{job, scripts, write};
use crate::clock::Clock;
use crate::domain::{
    EndedRunner, GroupName, HookPlace, HookRecord, Incarnation, JobId, Phase, Runner, RunnerName, WorkflowJob,
};
use crate::random::Random;
use crate::store::{
    Applied, DeploymentView, GroupCounts, GroupView, JobFilter, Page, Retention, RunnerFilter, Store,
    StoreError, Version, Versioned, Write,
};

/// The most records that one script reads: it holds up everybody else meanwhile.
const MOST_AT_A_TIME: usize = 1000;

/// A storage on a Redis, which any number of replicas share.
///
/// How much it loses when the server stops depends on that server's settings. What it acknowledged before the
/// server's present life is not relied on, until [`Change::Trust`](crate::store::Change::Trust) was said of it.
#[derive(Debug)]
pub struct RedisStorage {
    pub(super) data: Data,
    pub(super) retention: Retention,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) lanes: Lanes,
    pub(super) time: ServerTime,
    /// Claims under way, which go on where nobody waits for them any more, to put back what they got.
    pub(super) claiming: TaskTracker,
}

impl RedisStorage {
    /// A storage on the Redis that the settings name. The clock and the randomness are for waits of this
    /// process alone: records bear the server's time.
    ///
    /// # Errors
    /// [`RedisOpenError`]: the server cannot be used, or what is stored there cannot. Nothing was changed then.
    pub async fn open(
        settings: RedisSettings,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, RedisOpenError> {
        let prefix = settings.prefix.clone();
        let link = Link::open(settings, Arc::clone(&clock), random).await?;
        let data = Data::new(link, &prefix);
        data.open().await.map_err(RedisOpenError::Data)?;
        Ok(Self {
            data,
            retention: Retention::default(),
            clock,
            lanes: Lanes::default(),
            time: ServerTime::default(),
            claiming: TaskTracker::new(),
        })
    }

    /// The same storage with another memory for what is over. All replicas should have the same.
    #[must_use]
    pub fn with_retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    async fn read(&self, args: Args) -> Result<Reply, StoreError> {
        self.data.read(&scripts::READ, &args).await
    }

    /// A group as its fields tell of it.
    fn view(&self, name: &str, record: &[u8], packed: Option<&[u8]>) -> Result<GroupView, StoreError> {
        let record = reply::record(&self.data.key("g"), name, record)?;
        Ok(GroupView { record, counts: counts(packed)? })
    }

    /// A record of the hash `table`; none where there is none.
    async fn record<T>(
        &self,
        table: &str,
        field: &str,
        read: ReadRecord<T>,
    ) -> Result<Option<Versioned<T>>, StoreError> {
        let record = self.data.field(table, field).await?;
        record.map(|record| read(&self.data.key(table), field, &record)).transpose()
    }

    /// A page of a list.
    async fn list<T>(
        &self,
        list: &List<T>,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<Versioned<T>>, StoreError> {
        let (table, mut after, mut records) = (self.data.key(list.table), after, Vec::new());
        while records.len() < limit {
            let most = (limit - records.len()).min(MOST_AT_A_TIME);
            let args = Args::of(list.order).text(&list.set).text(list.table).number(most);
            let args = args.text(after.as_deref().unwrap_or_default()).flag(list.keeps_place);
            let mut page = self.data.read(&scripts::LIST, &args).await?;
            let before = records.len();
            while !page.is_empty() {
                let name = page.text()?;
                records.push((list.read)(&table, &name, &page.bytes()?)?);
                after = Some(name);
            }
            if records.len() - before < most {
                break;
            }
        }
        Ok(records)
    }
}

/// Reads a record: where it stands is for the message.
type ReadRecord<T> = fn(&str, &str, &[u8]) -> Result<Versioned<T>, StoreError>;

/// A list in Redis that is read page by page.
struct List<T> {
    /// The order in which it is: as `list.lua` calls it.
    order: &'static str,
    /// The name of the key that has it, behind the prefix.
    set: String,
    /// The hash that has the records.
    table: &'static str,
    /// Whether a record's place in it is known after it has left it.
    keeps_place: bool,
    read: ReadRecord<T>,
}

impl List<Runner> {
    fn of_runners(filter: &RunnerFilter) -> Self {
        let (set, order) = match filter {
            RunnerFilter::All => ("ra".to_owned(), "names"),
            RunnerFilter::Group(group) => (format!("rg:{group}"), "names"),
            RunnerFilter::Phase(group, phase) => (format!("rp{}:{group}", *phase as u8), "times"),
            RunnerFilter::Backend(backend) => (format!("rb:{backend}"), "names"),
            RunnerFilter::Scope(scope) => (format!("rs:{}", write::scope_key(scope)), "names"),
        };
        Self { order, set, table: "r", keeps_place: false, read: reply::record }
    }
}

impl List<WorkflowJob> {
    fn of_jobs(filter: &JobFilter) -> Self {
        let (set, order) = match filter {
            JobFilter::All => ("ja".to_owned(), "heard"),
            JobFilter::Queued(group) => (format!("jq:{group}"), "times"),
            JobFilter::Unserved => ("ju".to_owned(), "times"),
        };
        Self { order, set, table: "j", keeps_place: true, read: job::read }
    }
}

/// What stands behind a group's name in the name of the field that has its counters, as in `apply.lua`.
const COUNTS: &str = "#";

fn counts_field(group: &str) -> String {
    format!("{group}{COUNTS}")
}

/// A group's counters as `apply.lua` writes them; nothing where all are 0.
fn counts(packed: Option<&[u8]>) -> Result<GroupCounts, StoreError> {
    let mut counts = GroupCounts::default();
    let Some(packed) = packed else { return Ok(counts) };
    let text = std::str::from_utf8(packed).map_err(|_| not_understood())?;
    let numbers: Vec<u32> = text.split(' ').map_while(|number| number.parse().ok()).collect();
    let [queued, phases @ ..] = &numbers[..] else { return Err(not_understood()) };
    if phases.len() != Phase::ALL.len() {
        return Err(not_understood());
    }
    counts.queued = *queued;
    for (phase, count) in Phase::ALL.into_iter().zip(phases) {
        *counts.of_mut(phase) = *count;
    }
    Ok(counts)
}

#[async_trait]
impl Store for RedisStorage {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        if let Some(time) = self.time.told(self.clock.now()) {
            return Ok(time);
        }
        let time = self.data.time().await?;
        Ok(self.time.note(time, self.clock.now()))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.data.link.probe(&self.data.key("probe")).await
    }

    async fn deployment(&self) -> Result<DeploymentView, StoreError> {
        let mut reply = self.read(Args::of("deployment")).await?;
        let record = reply.bytes()?;
        let record = (!record.is_empty()).then(|| reply::record(&self.data.key("m"), "deployment", &record));
        Ok(DeploymentView {
            record: record.transpose()?,
            incarnation: Incarnation::new(reply.text()?),
            trusted: reply.number()? == 1,
        })
    }

    async fn apply(&self, write: Write) -> Result<Applied, StoreError> {
        let args = write::arguments(&write, &self.retention);
        let behind = self.claims_behind(&write.tasks);
        let (tag, mut reply) = self.data.write_before(scripts::APPLY, args, behind).await?;
        let mut versions: Vec<Option<Version>> = Vec::new();
        while !reply.is_empty() {
            versions.push(reply.maybe_version()?);
        }
        Ok(Applied { versions, repeated: tag == "repeated" })
    }

    async fn group(&self, name: &GroupName) -> Result<Option<GroupView>, StoreError> {
        let [record, counts] = self.data.fields("g", [name.as_str(), &counts_field(name.as_str())]).await?;
        record.map(|record| self.view(name.as_str(), &record, counts.as_deref())).transpose()
    }

    async fn groups(&self) -> Result<Vec<GroupView>, StoreError> {
        let all = self.data.all("g").await?;
        let groups = all.iter().filter(|(field, _)| !field.ends_with(COUNTS));
        groups
            .map(|(name, record)| {
                let counts = all.get(&counts_field(name)).map(Vec::as_slice);
                self.view(name, record, counts)
            })
            .collect()
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Versioned<Runner>>, StoreError> {
        self.record("r", name.as_str(), reply::record).await
    }

    async fn runners(
        &self,
        filter: &RunnerFilter,
        page: &Page<RunnerName>,
    ) -> Result<Vec<Versioned<Runner>>, StoreError> {
        let after = page.after.as_ref().map(ToString::to_string);
        self.list(&List::of_runners(filter), after, page.limit).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Versioned<WorkflowJob>>, StoreError> {
        self.record("j", &job::key(id), job::read).await
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        page: &Page<JobId>,
    ) -> Result<Vec<Versioned<WorkflowJob>>, StoreError> {
        self.list(&List::of_jobs(filter), page.after.map(job::key), page.limit).await
    }

    async fn hook(&self, place: &HookPlace) -> Result<Option<Versioned<HookRecord>>, StoreError> {
        self.record("h", &place.key(), reply::record).await
    }

    async fn hooks(&self) -> Result<Vec<Versioned<HookRecord>>, StoreError> {
        let (table, all) = (self.data.key("h"), self.data.all("h").await?);
        all.iter().map(|(place, record)| reply::record(&table, place, record)).collect()
    }

    async fn ended_runners(&self, limit: usize) -> Result<Vec<EndedRunner>, StoreError> {
        let mut reply = self.read(Args::of("ended").number(limit)).await?;
        let (key, mut ended) = (self.data.key("e"), Vec::new());
        while !reply.is_empty() {
            ended.push(reply::decode(&key, "an ended runner", &reply.bytes()?)?);
        }
        Ok(ended)
    }
}
