//! How instances are made and deleted: names, room, quota, and what the books note of it.

use std::time::Duration;

use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::domain::{Instance, InstanceId, later};

use super::due::Due;
use super::{FakeCloud, Order, Refusal};
use crate::fake::behaviour::Ending;
use crate::fake::books::Life;
use crate::fake::record::Record;

impl FakeCloud {
    /// Makes an instance that appears after `late`, or finds the one that bears the name.
    pub(in crate::fake) fn create(
        &mut self,
        order: Order,
        late: Duration,
        dies: Option<(Duration, Ending)>,
    ) -> Result<Instance, Refusal> {
        let asked = self.asked.entry(order.runner.clone()).or_default();
        asked.0 += 1;
        if asked.0 > 1 {
            self.books.repeats.insert(order.runner.clone(), asked.0 - 1);
        }
        if let Some(record) = self.by_name(&order.runner)
            && self.behaviour.unique_names
        {
            if record.owner != order.owner {
                let message = format!("the name {} is taken by another owner", order.runner);
                return Err(Refusal::new(BackendErrorKind::InvalidConfig, message));
            }
            // One that has yet to appear is told as it will be.
            let at = self.now.max(record.appears_at);
            return Ok(record
                .instance_at(at, Duration::ZERO)
                .expect("one that appeared and is not gone is told"));
        }
        self.make_room(&order.zone)?;
        Ok(self.make(order, late, dies))
    }

    fn make_room(&self, zone: &str) -> Result<(), Refusal> {
        let Some(room) = self.behaviour.zones.get(zone) else {
            return Err(Refusal::new(BackendErrorKind::NotFound, format!("there is no zone {zone}")));
        };
        let taken = self.room.get(zone).copied().unwrap_or(0);
        if room.is_some_and(|room| taken >= room) {
            let message = format!("zone {zone} is full: it has {taken} instances");
            return Err(Refusal::new(BackendErrorKind::NoCapacity, message));
        }
        let all: u32 = self.room.values().sum();
        match self.behaviour.quota {
            Some(quota) if all >= quota => {
                let message = format!("the quota of {quota} instances is used up");
                Err(Refusal::new(BackendErrorKind::QuotaExceeded, message))
            }
            _ => Ok(()),
        }
    }

    fn make(&mut self, order: Order, late: Duration, dies: Option<(Duration, Ending)>) -> Instance {
        let now = self.now;
        let appears_at = later(now, late);
        let boot = self.behaviour.boot_time + self.behaviour.boot_jitter.mul_f64(self.draw());
        let id = self.new_id();
        let record = Record {
            id: id.clone(),
            owner: order.owner,
            runner: order.runner,
            group: order.group,
            zone: order.zone,
            tags: order.tags,
            bootstrap: order.bootstrap,
            asked_at: now,
            appears_at,
            runs_at: later(appears_at, boot),
            ending: dies.map(|(after, how)| (later(appears_at, after), how)),
            deleted_at: None,
            gone_at: None,
            start: 0,
            life: self.books.lives.len(),
        };
        self.enter(&record);
        self.plan(id.clone(), appears_at, Due::Appears);
        self.plan(id.clone(), record.runs_at, Due::Runs);
        if let Some((at, _)) = record.ending {
            self.plan(id.clone(), at, Due::Ends);
        }
        let told = record.instance_at(now.max(appears_at), Duration::ZERO);
        self.records.insert(id, record);
        self.advance(now);
        told.expect("an instance that just appeared is told")
    }

    /// Enters a new instance into the books and takes its room.
    fn enter(&mut self, record: &Record) {
        *self.room.entry(record.zone.clone()).or_default() += 1;
        self.names.entry(record.runner.clone()).or_default().push(record.id.clone());
        let asked = self.asked.entry(record.runner.clone()).or_default();
        asked.1 += 1;
        if asked.1 > 1 {
            self.books.doubles.insert(record.runner.clone(), asked.1 - 1);
        }
        self.books.lives.push(Life {
            id: record.id.clone(),
            owner: record.owner.clone(),
            runner: record.runner.clone(),
            group: record.group.clone(),
            zone: record.zone.clone(),
            asked_at: record.asked_at,
            appeared_at: None,
            ran_at: None,
            ended: None,
            deleted_at: None,
            gone_at: None,
        });
    }

    /// The time stands in it so that a cloud that was started anew gives no id twice.
    fn new_id(&self) -> InstanceId {
        InstanceId::new(format!(
            "i-{:011x}-{:06}",
            self.now.as_millisecond().max(0),
            self.books.lives.len() + 1
        ))
    }

    /// Deletes an instance; one that is not there is left as it is.
    pub(in crate::fake) fn delete(&mut self, id: &InstanceId) {
        let now = self.now;
        let Some(record) = self.records.get_mut(id) else { return };
        if now < record.appears_at || !record.is_there(now) || record.deleted_at.is_some() {
            return;
        }
        record.deleted_at = Some(now);
        let gone_at = later(now, self.behaviour.delete_time);
        record.gone_at = Some(gone_at);
        self.books.lives[record.life].deleted_at = Some(now);
        if record.start > 0 {
            self.stopped.push(id.clone());
        }
        self.plan(id.clone(), gone_at, Due::IsGone);
        self.advance(now);
    }
}
