//! The way of a webhook from GitHub to some replica, and what GitHub is told of it.

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use runner_manager_core::domain::{DeliveryId, JobObservation, JobReport, Secret};
use runner_manager_core::testing::simulator::{self, Delivery};
use runner_manager_core::webhook::{Webhook, parse, verify};

use super::dice::Dice;
use super::plan::QUEUED_IS_LOST;
use super::replica::Replica;
use super::shared::Shared;
use super::trace::Who;

/// What webhooks are signed with.
pub(crate) const SECRET: &str = "a webhook secret";

/// Where they go.
pub(crate) const WEBHOOK_URL: &str = "http://manager/webhook";

/// How long GitHub waits for an answer.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// How far a job had come, by what was said of it.
pub(crate) const fn rank(report: &JobReport) -> u8 {
    match report {
        JobReport::Waiting => 0,
        JobReport::Queued => 1,
        JobReport::InProgress { .. } => 2,
        JobReport::Completed { .. } => 3,
    }
}

#[derive(Debug)]
struct Sent {
    delivery: Delivery,
    replica: usize,
    at: Timestamp,
}

#[derive(Debug)]
struct Answer {
    id: simulator::DeliveryId,
    taken: bool,
    seen: JobObservation,
}

#[derive(Debug)]
pub(crate) struct Webhooks {
    dice: Dice,
    /// How many in a hundred never arrive.
    pub(crate) lost: u32,
    sent: Vec<Sent>,
    again: Vec<(Timestamp, Delivery)>,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Webhooks {
    pub(crate) fn new(dice: Dice, lost: u32) -> Self {
        Self { dice, lost, sent: Vec::new(), again: Vec::new(), answers: Arc::default() }
    }

    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let again = self.again.iter().map(|(at, _)| *at);
        self.sent.iter().map(|sent| sent.at + PATIENCE).chain(again).min()
    }

    /// Sends what is due, and tells GitHub what was answered; says whether anything happened.
    pub(crate) fn deliver(&mut self, shared: &Arc<Shared>, replicas: &mut [Replica]) -> bool {
        let now = shared.now();
        let mut any = self.take_answers(shared);
        any |= self.give_up(shared, |sent| sent.at + PATIENCE <= now);
        let mut due = shared.github().deliveries_due(now);
        let (ready, later) = std::mem::take(&mut self.again).into_iter().partition(|(at, _)| *at <= now);
        self.again = later;
        due.extend(Vec::into_iter(ready).map(|(_, delivery)| delivery));
        any |= !due.is_empty();
        for delivery in due {
            self.send(shared, replicas, delivery);
        }
        any
    }

    /// A replica's process ended: it answers nothing any more.
    pub(crate) fn replica_ended(&mut self, shared: &Shared, replica: usize) {
        self.give_up(shared, |sent| sent.replica == replica);
    }

    fn send(&mut self, shared: &Arc<Shared>, replicas: &mut [Replica], delivery: Delivery) {
        let now = shared.now();
        let signature = delivery.headers.get("x-hub-signature-256").and_then(|value| value.to_str().ok());
        verify(&[Secret::new(SECRET)], &delivery.body, signature).unwrap();
        let Webhook::WorkflowJob(seen) = parse(delivery.event, &delivery.body).unwrap() else {
            shared.github().delivered(delivery.id, Some(202), now);
            return;
        };
        let detail = || format!("{} {} {:?}", delivery.action.unwrap_or_default(), seen.id, seen.report);
        let may_be_lost = QUEUED_IS_LOST || delivery.action != Some("queued");
        if may_be_lost && self.dice.percent(self.lost) {
            shared.note(Who::World, "webhook", "lost", detail);
            shared.state().strike("webhook: lost");
            shared.github().delivered(delivery.id, None, now);
            return;
        }
        let first = self.dice.count(0, replicas.len() - 1);
        let mut order = (0..replicas.len()).map(|place| (first + place) % replicas.len());
        let reached = order.find_map(|at| Some((at, replicas[at].manager()?)));
        let Some((at, manager)) = reached else {
            shared.note(Who::World, "webhook", "nobody answers", detail);
            self.not_taken(shared, delivery);
            return;
        };
        shared.note(Who::World, "webhook", "sent", || format!("{} to replica {at}", detail()));
        let (id, guid, answers) = (delivery.id, DeliveryId::new(&*delivery.guid), self.answers.clone());
        replicas[at].spawn(async move {
            let taken = manager.observe(&guid, &seen).await.is_ok();
            answers.lock().unwrap().push(Answer { id, taken, seen: *seen });
        });
        self.sent.push(Sent { delivery, replica: at, at: now });
    }

    fn take_answers(&mut self, shared: &Shared) -> bool {
        let answers = std::mem::take(&mut *self.answers.lock().unwrap());
        let any = !answers.is_empty();
        for answer in answers {
            let Some(at) = self.sent.iter().position(|sent| sent.delivery.id == answer.id) else { continue };
            let sent = self.sent.remove(at);
            if !answer.taken {
                self.not_taken(shared, sent.delivery);
                continue;
            }
            shared.github().delivered(answer.id, Some(202), shared.now());
            let mut state = shared.state();
            // What was written down before the store lost something may be part of that.
            if state.lost_at.is_none_or(|lost| lost < sent.at) {
                state.checker.acknowledged(answer.seen.id, rank(&answer.seen.report));
            }
            if let JobReport::InProgress { runner, .. } = &answer.seen.report {
                state.checker.heard_of_start(runner);
            }
        }
        any
    }

    fn give_up(&mut self, shared: &Shared, which: impl Fn(&Sent) -> bool) -> bool {
        let (over, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sent).into_iter().partition(which);
        self.sent = waiting;
        let any = !over.is_empty();
        for sent in over {
            self.not_taken(shared, sent.delivery);
        }
        any
    }

    /// GitHub delivers nothing again by itself; where nothing else would find the job, somebody asks it to.
    fn not_taken(&mut self, shared: &Shared, delivery: Delivery) {
        let now = shared.now();
        shared.state().strike("webhook: not taken");
        shared.github().delivered(delivery.id, None, now);
        if !QUEUED_IS_LOST && delivery.action == Some("queued") {
            self.again.push((now + SignedDuration::from_secs(20), delivery));
        }
    }
}
