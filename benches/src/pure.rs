//! What is decided for every webhook and every task, one case each: by criterion in time, by callgrind in instructions.

use std::fmt;
use std::hint::black_box;

use runner_manager_core::domain::{Balance, Bounds, JobId, JobRef, Limits, Repository, RunnerState, Secret};
use runner_manager_core::policy::lifecycle::{Event, step};
use runner_manager_core::policy::matching::{Asked, candidates};
use runner_manager_core::policy::scaling::{Allowance, plan};
use runner_manager_core::store::GroupCounts;
use runner_manager_core::webhook::{parse, sign, verify};

use crate::{NOW, QUEUED, group, job, labels, runner};

/// Something that is measured.
pub struct Case {
    /// Its name, such as `matching/10`.
    pub name: String,
    /// How many bytes it reads, where that is what counts.
    pub bytes: Option<u64>,
    run: Box<dyn FnMut()>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Case {
    fn new(name: impl Into<String>, run: impl FnMut() + 'static) -> Self {
        Self { name: name.into(), bytes: None, run: Box::new(run) }
    }

    fn of_bytes(self, bytes: usize) -> Self {
        Self { bytes: Some(bytes as u64), ..self }
    }

    /// Does it once.
    pub fn run(&mut self) {
        (self.run)();
    }
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let matching = [10, 100].map(matching);
    let scaling = [10, 1_000, 100_000].map(scaling);
    matching.into_iter().chain(scaling).chain([lifecycle()]).chain(webhook()).collect()
}

/// So many groups are looked at; one serves the job.
fn matching(count: u32) -> Case {
    let repository: Repository = "acme/app".parse().expect("it has an owner and a name");
    let groups: Vec<_> = (0..count).map(|number| group(number, 10)).collect();
    let wanted = labels(count / 2);
    Case::new(format!("matching/{count}"), move || {
        let asked = Asked { job: JobId(1), repository: &repository, enterprise: None, labels: &wanted };
        let found = candidates(black_box(&groups), black_box(asked), Balance::Pack);
        assert_eq!(found.len(), 1);
    })
}

/// A group with so many runners, half of which it needs no more.
fn scaling(runners: u32) -> Case {
    let bounds = Bounds::new(runners / 10, runners).expect("a tenth is below the whole");
    let counts =
        GroupCounts { queued: runners / 5, idle: runners / 2, busy: runners / 2, ..GroupCounts::default() };
    Case::new(format!("scaling/{runners}"), move || {
        black_box(plan(black_box(bounds), black_box(&counts), false, Allowance::Any));
    })
}

/// The event that most runners see: an idle one gets its job.
fn lifecycle() -> Case {
    let mut idle = runner(1);
    idle.state = RunnerState::Idle { leaving: None };
    let event = Event::JobStarted { job: JobRef { id: JobId(1), repository: job(1).repository } };
    Case::new("lifecycle", move || {
        black_box(step(black_box(&idle), black_box(&event), &Limits::default(), NOW));
    })
}

fn webhook() -> [Case; 2] {
    let secrets = [Secret::new("a secret as long as those that openssl makes")];
    let signature = sign(&secrets[0], QUEUED);
    let verify = Case::new("webhook/verify", move || {
        verify(&secrets, black_box(QUEUED), Some(&signature)).expect("it was just signed");
    });
    let parse = Case::new("webhook/parse", || {
        black_box(parse("workflow_job", black_box(QUEUED)).expect("it is GitHub's own example"));
    });
    [verify, parse].map(|case| case.of_bytes(QUEUED.len()))
}
