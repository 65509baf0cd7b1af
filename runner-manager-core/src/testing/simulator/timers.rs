//! What GitHub does by itself when its time has come. Time never goes back: a call with an earlier `now`
//! than the last counts as made at the last.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{JobId, Removal, RunnerId, SessionId, Simulator, jobs::Conclusion};

#[derive(Debug, Clone, Copy)]
pub(super) enum Timer {
    /// The agent of a busy runner died this long ago.
    RunnerLost(RunnerId, JobId),
    /// A registration may have been without an agent for too long.
    RegistrationUnused(RunnerId),
    /// A job has been queued for too long.
    JobQueuedTooLong(JobId),
    /// An agent did not end a cancelled job.
    CancelOverdue(JobId),
    /// An agent may have been silent for too long.
    Silence(SessionId),
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeMap<(Timestamp, u64), Timer>,
    last: u64,
}

impl Timers {
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.by_time.keys().next().map(|(at, _)| *at)
    }
}

impl Simulator {
    pub(super) fn set_timer(&mut self, at: Timestamp, timer: Timer) {
        self.timers.last += 1;
        self.timers.by_time.insert((at, self.timers.last), timer);
    }

    /// Lets everything happen that was due by `now`, in order.
    pub(super) fn advance(&mut self, now: Timestamp) -> Timestamp {
        self.now = self.now.max(now);
        while let Some(entry) = self.timers.by_time.first_entry() {
            let at = entry.key().0;
            if at > self.now {
                break;
            }
            let timer = entry.remove();
            self.fire(timer, at);
        }
        self.now
    }

    fn fire(&mut self, timer: Timer, at: Timestamp) {
        match timer {
            Timer::RunnerLost(runner, job) => self.lose_runner(runner, job, at),
            Timer::RegistrationUnused(runner) => self.expire_registration(runner, at),
            Timer::JobQueuedTooLong(job) => self.cancel_if_queued(job, at),
            Timer::CancelOverdue(job) => self.force_cancel_job(job, at),
            Timer::Silence(session) => self.check_silence(session, at),
        }
    }

    fn lose_runner(&mut self, runner: RunnerId, job: JobId, at: Timestamp) {
        if self.runners.job_of(runner) == Some(job) {
            self.complete_job(job, Conclusion::Failure, true, Removal::Lost, at);
        }
    }

    fn expire_registration(&mut self, runner: RunnerId, at: Timestamp) {
        let unused = self.settings.timings.unused_registration;
        let Some(found) = self.runners.get(runner).map(|found| &found.runner) else { return };
        if found.session.is_some() || found.job.is_some() {
            self.set_timer(at + unused, Timer::RegistrationUnused(runner));
        } else {
            self.remove_runner(runner, Removal::Expired);
        }
    }
}
