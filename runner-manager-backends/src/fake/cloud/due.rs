//! What happens in the cloud by itself, each at its time: instances appear, run, end, and are gone.

use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::domain::{InstanceId, InstanceState, later};

use super::{FakeCloud, MEMORY, StartedInstance};
use crate::fake::behaviour::Ending;

/// What is due for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Appears,
    Runs,
    Ends,
    IsGone,
}

impl FakeCloud {
    /// Lets everything happen that is due by `now`. A time before the last one counts as the last one.
    pub fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        while let Some(first) = self.due.first_entry().filter(|first| first.key().0 <= self.now) {
            let ((at, _), (id, due)) = first.remove_entry();
            self.happen(&id, due, at);
        }
        while let Some(first) = self.remembered.first_entry().filter(|first| first.key().0 <= self.now) {
            let id = first.remove();
            self.forget(&id);
        }
    }

    pub(super) fn plan(&mut self, id: InstanceId, at: Timestamp, due: Due) {
        self.sequence += 1;
        self.due.insert((at, self.sequence), (id, due));
    }

    fn happen(&mut self, id: &InstanceId, due: Due, at: Timestamp) {
        match due {
            Due::Appears => {
                if let Some(record) = self.records.get(id) {
                    self.books.appeared(record.life, at);
                }
            }
            Due::Runs => self.run(id, at),
            Due::Ends => self.end_now(id, at),
            Due::IsGone => self.be_gone(id, at),
        }
    }

    /// Begins to run an instance, unless it ended or was deleted before it could.
    fn run(&mut self, id: &InstanceId, at: Timestamp) {
        let Some(record) = self.records.get_mut(id) else { return };
        if record.state_at(at, Duration::ZERO) != Some(InstanceState::Running) {
            return;
        }
        self.starts += 1;
        record.start = self.starts;
        self.books.lives[record.life].ran_at = Some(at);
        let started = StartedInstance {
            sequence: self.starts,
            id: record.id.clone(),
            runner: record.runner.clone(),
            group: record.group.clone(),
            at,
            bootstrap: record.bootstrap.clone(),
        };
        self.started.insert(self.starts, started);
    }

    /// Notes an end whose time has come, unless the instance was deleted or ended before.
    fn end_now(&mut self, id: &InstanceId, at: Timestamp) {
        let Some(record) = self.records.get_mut(id) else { return };
        let Some((planned, how)) = record.ending else { return };
        if planned != at || record.deleted_at.is_some() || record.gone_at.is_some() {
            return;
        }
        let life = &mut self.books.lives[record.life];
        if life.ended.is_some() {
            return;
        }
        life.ended = Some((at, how));
        if record.start > 0 {
            self.stopped.push(id.clone());
        }
        if how == Ending::Vanished {
            record.gone_at = Some(at);
            self.be_gone(id, at);
        }
    }

    fn be_gone(&mut self, id: &InstanceId, at: Timestamp) {
        let Some(record) = self.records.get(id).filter(|record| record.gone_at == Some(at)) else { return };
        let started = record.start;
        self.books.gone(record.life, at);
        if let Some(room) = self.room.get_mut(&record.zone) {
            *room = room.saturating_sub(1);
        }
        let forgotten_at = later(at, MEMORY.saturating_add(self.behaviour.tell_gone));
        self.sequence += 1;
        self.remembered.insert((forgotten_at, self.sequence), id.clone());
        self.started.remove(&started);
    }

    fn forget(&mut self, id: &InstanceId) {
        let Some(record) = self.records.remove(id) else { return };
        if let Some(ids) = self.names.get_mut(&record.runner) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.names.remove(&record.runner);
            }
        }
    }
}
