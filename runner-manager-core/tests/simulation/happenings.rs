//! What happens by itself: work that comes and goes, machines that end, and what operators do.

use runner_manager_backends::fake::{Behaviour, Ending};
use runner_manager_core::clock::Clock;
use runner_manager_core::domain::{Owner, RunnerGroup};
use runner_manager_core::manager::GoOnError;
use runner_manager_core::store::{Page, RunnerFilter, Store};
use runner_manager_core::testing::simulator::{Job, JobId, JobSpec, JobStatus};

use super::github_groups;
use super::plan::Happening;
use super::trace::Who;
use super::world::World;

impl World {
    pub(crate) fn let_happen(&mut self, happening: Happening) {
        match happening {
            Happening::Jobs { spec, count, matrix } => {
                self.queue(&spec, count, matrix);
            }
            Happening::Cancel => self.cancel_some(),
            Happening::Rerun => self.rerun_some(),
            Happening::MachineEnds(how) => self.end_some_machine("machine ends", how, |_| true),
            Happening::BusyMachineEnds(how) => {
                let busy: Vec<String> = {
                    let github = self.shared.github();
                    let running = github.jobs().filter(|job| job.status == JobStatus::InProgress);
                    running.filter_map(|job| Some(job.runner.as_ref()?.name.clone())).collect()
                };
                self.end_some_machine("busy machine ends", how, |runner| {
                    busy.iter().any(|name| name == runner)
                });
            }
            Happening::AllMachinesVanish => self.end_all_machines(),
            Happening::Drift(drift) => {
                if github_groups::drift(&self.shared, drift) {
                    self.tell(drift.word(), String::new);
                }
            }
            Happening::GoOn => self.go_on(),
            Happening::Drain(group) => {
                let name = self.plan.groups[group].name.clone();
                self.tell("drain", || name.to_string());
                self.operate(move |operator| async move {
                    operator.drain(&name).await.unwrap();
                });
            }
            Happening::Resume(group) => {
                let name = self.plan.groups[group].name.clone();
                self.tell("resume", || name.to_string());
                self.operate(move |operator| async move {
                    operator.resume(&name).await.unwrap();
                });
            }
            Happening::Configure(groups) => {
                self.tell("configure", || format!("{} groups", groups.len()));
                self.reconfigure(groups);
            }
            Happening::Retire => self.retire_some(),
            Happening::Restart(replica) => {
                self.tell("restart", || replica.to_string());
                self.replicas[replica].stop();
            }
            Happening::Freeze(replica, pause) => {
                self.tell("freeze", || format!("{replica} for {pause:?}"));
                self.replicas[replica].freeze(pause);
            }
            Happening::Crash(replica) => {
                self.tell("crash", || replica.to_string());
                self.replicas[replica].kill();
            }
            Happening::KeepStore => self.kept = Some(self.shared.keep_store()),
            Happening::LoseStore { everything } => {
                let kept = self.kept.take().filter(|_| !everything);
                self.tell(if everything { "store emptied" } else { "store rolled back" }, String::new);
                self.shared.lose_store(kept);
            }
            Happening::Room(room) => {
                self.tell("room", || format!("{room:?}"));
                self.change_cloud(|cloud| cloud.zones.values_mut().for_each(|zone| *zone = room));
            }
            Happening::Quota(quota) => {
                self.tell("quota", || format!("{quota:?}"));
                self.change_cloud(|cloud| cloud.quota = quota);
            }
        }
    }

    fn tell(&self, what: &'static str, detail: impl FnOnce() -> String) {
        self.shared.note(Who::World, what, "", detail);
        self.shared.state().strike(what);
    }

    /// Queues jobs and tells which.
    pub(crate) fn queue(&mut self, spec: &JobSpec, count: usize, matrix: bool) -> Vec<JobId> {
        let now = self.now();
        self.tell("jobs", || format!("{count} for {:?} of {}", spec.labels, spec.repository));
        let mut github = self.shared.github();
        let mut spec = spec.clone();
        let mut jobs = Vec::new();
        for number in 0..count {
            let job = github.queue_job(&spec, now).unwrap();
            if matrix {
                spec.name = format!("build ({number})");
                spec.run = github.job(job).map(|job| job.run);
            }
            jobs.push(job);
        }
        jobs
    }

    /// Somebody changes the file and has one replica read it; the others go on with what they read.
    fn reconfigure(&mut self, groups: Vec<RunnerGroup>) {
        self.file.clone_from(&groups);
        let first = self.dice.count(0, self.replicas.len() - 1);
        if let Some(manager) = self.replicas[first].manager() {
            self.replicas[first].spawn(async move {
                let _ = manager.reconfigure(groups).await;
            });
        }
    }

    fn some_job(&mut self, which: impl Fn(&Job) -> bool) -> Option<Job> {
        let github = self.shared.github();
        let jobs: Vec<&Job> = github.jobs().filter(|job| which(job)).collect();
        (!jobs.is_empty()).then(|| (*self.dice.pick(&jobs)).clone())
    }

    fn cancel_some(&mut self) {
        let Some(job) = self.some_job(|job| job.status != JobStatus::Completed) else { return };
        self.tell("cancel", || format!("the run of job {}", job.id));
        let now = self.now();
        self.shared.github().cancel_run(job.run, now).unwrap();
    }

    fn rerun_some(&mut self) {
        let Some(job) = self.some_job(|job| job.status == JobStatus::Completed) else { return };
        let now = self.now();
        // Where its run goes on, GitHub does not run it again.
        let again = self.shared.github().rerun_job(job.id, now);
        if let Ok(again) = again {
            self.tell("rerun", || format!("job {} as {again}", job.id));
        }
    }

    fn end_some_machine(&mut self, what: &'static str, how: Ending, which: impl Fn(&str) -> bool) {
        let now = self.now();
        let owner: &Owner = &self.shared.owner;
        let lives = self.books().lives;
        let there: Vec<_> = lives
            .iter()
            .filter(|life| life.owner == *owner && life.alive_at(now) && which(life.runner.as_str()))
            .collect();
        if there.is_empty() {
            return;
        }
        let life = *self.dice.pick(&there);
        self.tell(what, || format!("that of {}: {how}", life.runner));
        self.shared.cloud().end(&life.id, how, now);
    }

    fn end_all_machines(&self) {
        let now = self.now();
        let lives = self.books().lives.into_iter();
        let there = lives.filter(|life| life.owner == self.shared.owner && life.alive_at(now));
        let there: Vec<_> = there.collect();
        self.tell("all machines vanish", || there.len().to_string());
        for life in there {
            self.shared.cloud().end(&life.id, Ending::Vanished, now);
        }
    }

    /// An operator sees what sweeps stopped at, takes some time over it, and has them go on.
    fn go_on(&mut self) {
        let shared = self.shared.clone();
        let pause = self.dice.seconds(1, 90);
        self.operate(move |operator| async move {
            let stopped = operator.deployment().await.unwrap().withheld;
            if stopped.is_empty() {
                return;
            }
            shared.clock.sleep(pause).await;
            for withheld in stopped {
                let said = operator.go_on(&withheld.source, &withheld.mark(), "ops").await;
                let what = match said {
                    Ok(_) => "go on",
                    // Sweeps found something else meanwhile, or nothing.
                    Err(GoOnError::Refused(_)) => "go on: refused",
                    Err(error) => panic!("{error}"),
                };
                shared
                    .note(Who::World, what, "", || format!("{} of the {}", withheld.count, withheld.source));
                shared.state().strike(what);
            }
        });
    }

    fn retire_some(&mut self) {
        let draw = self.dice.next();
        let storage = self.shared.storage.clone();
        self.tell("retire", String::new);
        self.operate(move |operator| async move {
            let runners = storage.runners(&RunnerFilter::All, &Page::first(100)).await.unwrap();
            if let Some(at) = usize::try_from(draw).unwrap_or(usize::MAX).checked_rem(runners.len()) {
                // While the store is doubted nobody is taken away on its word, and the operator is told so.
                let _ = operator.retire(&runners[at].value.name, false).await;
            }
        });
    }

    pub(crate) fn change_cloud(&self, change: impl FnOnce(&mut Behaviour)) {
        let mut behaviour = self.shared.cloud().behaviour().clone();
        change(&mut behaviour);
        self.shared.cloud().set_behaviour(behaviour);
    }
}
