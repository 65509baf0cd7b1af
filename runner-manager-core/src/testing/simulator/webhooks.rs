//! Events on their way: from a change to signed deliveries, through the faults that befall them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{
    DeliveryId, FaultKind, HookId, Job, JobId, Simulator,
    hooks::{Hook, HookTarget},
    reply::encode,
    shapes,
};

/// How long a delivery that is to be overtaken waits for one that overtakes it.
const OVERTAKEN_AT_LATEST: SignedDuration = SignedDuration::from_secs(10);
/// Above 2^53: see [`DeliveryId`].
const FIRST_DELIVERY: u64 = 9_007_199_254_740_993;

/// One webhook delivery, ready to be sent as a POST. Tell what came of it to
/// [`delivered`](super::Simulator::delivered).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// This attempt.
    pub id: DeliveryId,
    /// The hook that it is of.
    pub hook: HookId,
    /// The event's id, also in `X-GitHub-Delivery`: the same for all attempts.
    pub guid: String,
    /// `workflow_job` or `ping`.
    pub event: &'static str,
    /// `queued`, `waiting`, `in_progress` or `completed`; none for a ping.
    pub action: Option<&'static str>,
    /// The job that it is about; none for a ping.
    pub job: Option<JobId>,
    /// Where to.
    pub url: String,
    /// All headers, `X-Hub-Signature-256` among them if the hook has a secret.
    pub headers: HeaderMap,
    /// The raw body that the signature is of.
    pub body: Bytes,
}

/// What happened, small enough to keep: bodies are made of it when they are needed.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Job(Box<Job>),
    Ping,
}

impl Event {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Job(_) => "workflow_job",
            Self::Ping => "ping",
        }
    }

    pub(super) fn action(&self) -> Option<&'static str> {
        match self {
            Self::Job(job) => Some(job.status.word()),
            Self::Ping => None,
        }
    }

    fn job(&self) -> Option<JobId> {
        match self {
            Self::Job(job) => Some(job.id),
            Self::Ping => None,
        }
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered(u16),
    /// The receiver could not be reached, or was too slow.
    Unreached,
}

impl Outcome {
    fn of(status: Option<u16>) -> Self {
        status.map_or(Self::Unreached, Self::Answered)
    }

    /// As in delivery logs, where 0 stands for no answer.
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Answered(status) => status,
            Self::Unreached => 0,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) hook: HookId,
    pub(super) guid: String,
    pub(super) event: Arc<Event>,
    pub(super) redelivery: bool,
    pub(super) sent_at: Option<Timestamp>,
    pub(super) outcome: Option<Outcome>,
    pub(super) seconds: f64,
}

/// All deliveries, and those that wait, in their order.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    pub(super) by_id: BTreeMap<DeliveryId, Record>,
    due: BTreeMap<(Timestamp, u64), DeliveryId>,
    count: u64,
    order: u64,
    /// The part of a payload that is the same for all events of a repository.
    fragments: BTreeMap<u64, Arc<str>>,
}

impl Deliveries {
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    pub(super) fn forget_fragments(&mut self) {
        self.fragments.clear();
    }

    fn add(&mut self, record: Record) -> DeliveryId {
        let id = DeliveryId(FIRST_DELIVERY + self.count);
        self.count += 1;
        self.by_id.insert(id, record);
        id
    }

    fn enqueue(&mut self, id: DeliveryId, at: Timestamp) -> (Timestamp, u64) {
        self.order += 1;
        self.due.insert((at, self.order), id);
        (at, self.order)
    }

    fn pop(&mut self, now: Timestamp) -> Option<DeliveryId> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

impl Simulator {
    /// Webhook deliveries due at or before `now`, in order. Each is given once.
    pub fn deliveries_due(&mut self, now: Timestamp) -> Vec<Delivery> {
        std::iter::from_fn(|| self.next_delivery(now)).collect()
    }

    /// The first of the [deliveries that are due](Self::deliveries_due), for a sender that takes them one by one.
    pub fn next_delivery(&mut self, now: Timestamp) -> Option<Delivery> {
        let now = self.advance(now);
        while let Some(id) = self.deliveries.pop(now) {
            if let Some(delivery) = self.send(id, now) {
                return Some(delivery);
            }
        }
        None
    }

    /// What the receiver answered (its status, or none if it could not be reached or was too slow), for the
    /// hook's delivery log. A delivery that is not known, or answered already, is passed over.
    pub fn delivered(&mut self, delivery: DeliveryId, status: Option<u16>, now: Timestamp) {
        let now = self.advance(now);
        let Some(record) = self.deliveries.by_id.get_mut(&delivery) else { return };
        let (None, Some(sent_at)) = (record.outcome, record.sent_at) else { return };
        record.seconds = now.duration_since(sent_at).as_secs_f64();
        self.log(delivery, Outcome::of(status), sent_at);
        match status {
            Some(200..=299) => self.books.webhooks.accepted += 1,
            _ => self.books.webhooks.refused += 1,
        }
    }

    /// The event's id of an attempt, where it stands in a log or is on its way.
    pub fn delivery_guid(&self, delivery: DeliveryId) -> Option<&str> {
        self.deliveries.by_id.get(&delivery).map(|record| record.guid.as_str())
    }

    /// The events since a time of which every attempt in the logs failed, and that nobody asked for again, by their ids.
    pub fn neglected(&self, since: Timestamp) -> BTreeSet<&str> {
        let logged = || self.deliveries.by_id.values().filter(|record| record.outcome.is_some());
        let is_taken = |record: &&Record| matches!(record.outcome, Some(Outcome::Answered(200..=299)));
        let taken: BTreeSet<&str> = logged().filter(is_taken).map(|record| record.guid.as_str()).collect();
        let is_left = |guid: &&str| !taken.contains(guid) && !self.books.redeliveries.contains_key(*guid);
        let sent = logged().filter(|record| record.sent_at.is_some_and(|at| at >= since));
        sent.map(|record| record.guid.as_str()).filter(is_left).collect()
    }

    /// Somebody clicks: every attempt that stands in a log as failed, and was no redelivery, is redelivered. Tells how
    /// many those were.
    pub fn redeliver_failed(&mut self, now: Timestamp) -> usize {
        let now = self.advance(now);
        let is_failed = |record: &Record| {
            let taken = matches!(record.outcome, None | Some(Outcome::Answered(200..=299)));
            !record.redelivery && !taken
        };
        let failed = self.deliveries.by_id.iter().filter(|(_, record)| is_failed(record));
        let failed: Vec<DeliveryId> = failed.map(|(id, _)| *id).collect();
        for id in &failed {
            self.redeliver(*id, now);
        }
        failed.len()
    }

    /// Tells all hooks that listen about an event.
    pub(super) fn emit(&mut self, event: &Event, at: Timestamp) {
        let Event::Job(job) = event else { return };
        let (repository, owner) = (job.repository_id, self.world.repository(job.repository_id).owner);
        let mut targets = vec![HookTarget::Repository(repository), HookTarget::Organization(owner)];
        targets.extend(self.apps_told_of(owner, event.name()).map(HookTarget::App));
        let hooks: Vec<HookId> =
            targets.into_iter().flat_map(|target| self.hooks.listening(target, event.name())).collect();
        if hooks.is_empty() {
            return;
        }
        let event = Arc::new(event.clone());
        for hook in hooks {
            let guid = self.names.guid();
            self.schedule(hook, guid, Arc::clone(&event), false, at);
        }
    }

    pub(super) fn ping(&mut self, hook: HookId, at: Timestamp) {
        let guid = self.names.guid();
        self.schedule(hook, guid, Arc::new(Event::Ping), false, at);
    }

    /// Sends what an earlier delivery sent, under the same guid.
    pub(super) fn redeliver(&mut self, delivery: DeliveryId, at: Timestamp) {
        let record = &self.deliveries.by_id[&delivery];
        let (hook, guid, event) = (record.hook, record.guid.clone(), Arc::clone(&record.event));
        self.books.webhooks.redelivered += 1;
        *self.books.redeliveries.entry(guid.clone()).or_default() += 1;
        self.schedule(hook, guid, event, true, at);
    }

    fn schedule(&mut self, hook: HookId, guid: String, event: Arc<Event>, redelivery: bool, at: Timestamp) {
        self.books.webhooks.events += u64::from(!redelivery);
        let faults = self.settings.faults.webhooks.clone();
        if self.strikes(faults.lost, FaultKind::WebhookLost) {
            return;
        }
        let record = Record { hook, guid, event, redelivery, sent_at: None, outcome: None, seconds: 0.0 };
        if self.strikes(faults.failed, FaultKind::WebhookFailed) {
            let id = self.deliveries.add(record);
            self.log(id, Outcome::Unreached, at);
            return;
        }
        let mut due = at + self.settings.timings.webhook;
        if self.strikes(faults.delayed, FaultKind::WebhookDelayed) {
            due += self.chance.between(faults.delay.min, faults.delay.max);
        }
        if self.strikes(faults.doubled, FaultKind::WebhookDoubled) {
            let twin = self.deliveries.add(record.clone());
            self.deliveries.enqueue(twin, due);
        }
        let id = self.deliveries.add(record);
        if self.strikes(faults.reordered, FaultKind::WebhookReordered) {
            let held = self.deliveries.enqueue(id, due + OVERTAKEN_AT_LATEST);
            self.hooks.get_mut(hook).expect("deliveries are of hooks that are there").held = Some(held);
        } else {
            self.deliveries.enqueue(id, due);
            self.release_held(hook, due);
        }
    }

    fn strikes(&mut self, probability: f64, kind: FaultKind) -> bool {
        let strikes = self.chance.chance(probability);
        if strikes {
            self.books.count_fault(kind);
        }
        strikes
    }

    /// Lets the delivery that was held back follow the one that just overtook it, where that goes out in time.
    fn release_held(&mut self, hook: HookId, due: Timestamp) {
        let Some(key) = self.hooks.get_mut(hook).and_then(|hook| hook.held.take()) else { return };
        if let Some(id) = self.deliveries.due.remove(&key) {
            self.deliveries.enqueue(id, due.min(key.0));
        }
    }

    fn send(&mut self, id: DeliveryId, now: Timestamp) -> Option<Delivery> {
        let record = self.deliveries.by_id.get_mut(&id)?;
        record.sent_at = Some(now);
        let record = record.clone();
        let body = self.payload(&record)?;
        let hook = self.hooks.get(record.hook)?;
        let body = Bytes::from(if hook.is_form() { format!("payload={}", encode(&body)) } else { body });
        let headers = Self::delivery_headers(hook, &record, &body);
        self.books.webhooks.sent += 1;
        Some(Delivery {
            id,
            hook: record.hook,
            guid: record.guid,
            event: record.event.name(),
            action: record.event.action(),
            job: record.event.job(),
            url: hook.url.clone(),
            headers,
            body,
        })
    }

    fn delivery_headers(hook: &Hook, record: &Record, body: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut add = |name: &'static str, value: &str| {
            headers.insert(name, HeaderValue::from_str(value).expect("ids and hex digits only"));
        };
        add("user-agent", "GitHub-Hookshot/044aadd");
        add("accept", "*/*");
        let form = hook.is_form();
        add("content-type", if form { "application/x-www-form-urlencoded" } else { "application/json" });
        add("x-github-event", record.event.name());
        add("x-github-delivery", &record.guid);
        add("x-github-hook-id", &record.hook.to_string());
        let (kind, id) = Self::target_header(hook.target);
        add("x-github-hook-installation-target-type", kind);
        add("x-github-hook-installation-target-id", &id.to_string());
        if let Some(secret) = &hook.secret {
            add("x-hub-signature-256", &sign(secret, body));
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers
    }

    const fn target_header(target: HookTarget) -> (&'static str, u64) {
        match target {
            HookTarget::Repository(id) => ("repository", id),
            HookTarget::Organization(id) => ("organization", id),
            HookTarget::App(app) => ("integration", app),
        }
    }

    /// The payload of a delivery: of a job the same bytes at each attempt, of a ping its hook as it is now. None if
    /// the hook is gone.
    pub(super) fn payload(&mut self, record: &Record) -> Option<String> {
        match record.event.as_ref() {
            Event::Job(job) => {
                let target = self.hooks.get(record.hook)?.target;
                let fragment = self.fragment(job.repository_id);
                let installation = match target {
                    HookTarget::App(app) => self.installation_fragment(app, job.repository_id),
                    HookTarget::Repository(_) | HookTarget::Organization(_) => String::new(),
                };
                let (action, job) = (job.status.word(), self.job_json(job));
                Some(format!("{{\"action\":\"{action}\",\"workflow_job\":{job},{fragment}{installation}}}"))
            }
            Event::Ping => Some(self.ping_payload(record.hook)?.to_string()),
        }
    }

    fn fragment(&mut self, repository: u64) -> Arc<str> {
        if let Some(fragment) = self.deliveries.fragments.get(&repository) {
            return Arc::clone(fragment);
        }
        let api = &self.settings.base_url;
        let found = self.world.repository(repository);
        let owner = self.world.account(found.owner);
        let organization = if owner.is_user {
            String::new()
        } else {
            format!("\"organization\":{},", shapes::organization(api, owner))
        };
        let full = shapes::payload_repository(api, found, owner);
        let sender = shapes::sender(api);
        let fragment: Arc<str> = format!("\"repository\":{full},{organization}\"sender\":{sender}").into();
        self.deliveries.fragments.insert(repository, Arc::clone(&fragment));
        fragment
    }

    fn installation_fragment(&self, app: u64, repository: u64) -> String {
        let id = self.installation(app, self.world.repository(repository).owner);
        format!(",\"installation\":{}", json!({"id": id, "node_id": format!("I_{id}")}))
    }

    fn ping_payload(&self, id: HookId) -> Option<Value> {
        let hook = self.hooks.get(id)?;
        let api = &self.settings.base_url;
        let mut payload = json!({
            "zen": "Anything added dilutes everything else.",
            "hook_id": id,
            "hook": self.hook_json(hook),
            "sender": shapes::sender(api),
        });
        match hook.target {
            HookTarget::Repository(id) => {
                let repository = self.world.repository(id);
                let owner = self.world.account(repository.owner);
                payload["repository"] = shapes::payload_repository(api, repository, owner);
            }
            HookTarget::Organization(id) => {
                payload["organization"] = shapes::organization(api, self.world.account(id));
            }
            HookTarget::App(_) => {}
        }
        Some(payload)
    }

    /// Enters an attempt into its hook's log, and forgets the entries that are too old for it.
    fn log(&mut self, id: DeliveryId, outcome: Outcome, sent_at: Timestamp) {
        let record =
            self.deliveries.by_id.get_mut(&id).expect("the caller has just looked it up or added it");
        record.outcome = Some(outcome);
        record.sent_at = Some(sent_at);
        let keep_since = self.now - self.settings.timings.delivery_log;
        let Some(hook) = self.hooks.get_mut(record.hook) else { return };
        hook.last_outcome = Some(outcome);
        hook.log.insert(id);
        while let Some(oldest) = hook.log.first().copied() {
            if self
                .deliveries
                .by_id
                .get(&oldest)
                .and_then(|old| old.sent_at)
                .is_some_and(|at| at >= keep_since)
            {
                break;
            }
            hook.log.remove(&oldest);
            self.deliveries.by_id.remove(&oldest);
        }
    }

    /// Drops what is still to be sent to a hook that is deleted, and what was.
    pub(super) fn forget_deliveries(&mut self, hook: HookId) {
        self.deliveries.by_id.retain(|_, record| record.hook != hook);
        let known: BTreeSet<DeliveryId> = self.deliveries.by_id.keys().copied().collect();
        self.deliveries.due.retain(|_, id| known.contains(id));
    }
}

/// `X-Hub-Signature-256` of a body.
fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}
