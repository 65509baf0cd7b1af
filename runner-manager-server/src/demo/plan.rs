//! What the demo asks for: three runner groups that can take fewer runners than there are jobs, and the jobs.

use std::collections::BTreeMap;

use anyhow::Context;
use runner_manager_core::domain::{
    Arch, Bounds, ConnectionName, GitHubGroup, GroupName, Labels, Limits, Os, Placement, Repository,
    RunnerGroup, Scope,
};
use runner_manager_core::testing::simulator::JobSpec;

/// The organization of the demo.
pub(super) const ORGANIZATION: &str = "acme";

/// A group of the demo, and what jobs it is for.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// The group's name, and its label.
    name: &'static str,
    /// Whose jobs ask for the label.
    repositories: &'static [&'static str],
    /// Whether the runners register in the one repository, and not in the organization.
    in_repository: bool,
    /// Of so many jobs in a row, how many are of this kind.
    share: usize,
    /// One runner at most for so many jobs of the demo, all kinds together.
    jobs_per_runner: usize,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "small",
        repositories: &["acme/shop", "acme/api"],
        in_repository: false,
        share: 5,
        jobs_per_runner: 5,
    },
    Kind {
        name: "large",
        repositories: &["acme/api", "acme/engine"],
        in_repository: false,
        share: 3,
        jobs_per_runner: 7,
    },
    Kind { name: "docs", repositories: &["acme/docs"], in_repository: true, share: 2, jobs_per_runner: 10 },
];

/// The groups, each with this placement and no more than `ceiling` runners.
///
/// # Errors
/// Never for the names above; a mistake in them is told.
pub(super) fn groups(jobs: usize, ceiling: u32, placement: &Placement) -> anyhow::Result<Vec<RunnerGroup>> {
    let group = |(order, kind): (u32, &Kind)| {
        let repository: Repository = kind.repositories[0].parse()?;
        let scope = if kind.in_repository {
            Scope::Repository(repository)
        } else {
            Scope::organization(ORGANIZATION).context("the organization has a name")?
        };
        let max = u32::try_from(jobs / kind.jobs_per_runner).unwrap_or(u32::MAX).clamp(1, ceiling);
        Ok(RunnerGroup {
            name: GroupName::new(kind.name)?,
            scope,
            github: ConnectionName::default(),
            github_group: GitHubGroup::default(),
            os: Os::Linux,
            arch: Arch::X64,
            labels: Labels::parse([kind.name])?,
            bounds: Bounds::new(0, max)?,
            priority: 0,
            order,
            tags: BTreeMap::new(),
            limits: Limits::default(),
            rerun_on_loss: false,
            placements: vec![placement.clone()],
        })
    };
    (0..).zip(&KINDS).map(group).collect()
}

/// The jobs, of all kinds in turn.
pub(super) fn jobs(count: usize, seconds: u64) -> Vec<JobSpec> {
    let turn: Vec<&Kind> = KINDS.iter().flat_map(|kind| std::iter::repeat_n(kind, kind.share)).collect();
    // 3 and 10 have no common divisor: a step of 3 goes through the whole turn, and mixes the kinds.
    let kind_at = |at: usize| turn[at * 3 % turn.len()];
    (0..count)
        .map(|at| {
            let kind = kind_at(at);
            let repository = kind.repositories[at % kind.repositories.len()];
            let mut job = JobSpec::new(repository, ["self-hosted", "linux", kind.name]).seconds(seconds);
            job.name = format!("{} {}", kind.name, at + 1);
            job
        })
        .collect()
}

/// The group that a job of the demo is for.
pub(super) fn group_of(labels: &[String]) -> Option<&'static str> {
    KINDS.iter().map(|kind| kind.name).find(|name| labels.iter().any(|label| label == name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use runner_manager_core::domain::{BackendName, Placement};

    use super::{group_of, groups, jobs};

    #[test]
    fn every_job_has_a_group_that_can_take_it() {
        let placement = Placement::new(BackendName::new("fake").unwrap(), "", serde_json::json!({}));
        let groups = groups(20, 100, &placement).unwrap();
        let mut counts = BTreeMap::new();
        for job in jobs(20, 1) {
            let group = group_of(&job.labels).unwrap();
            *counts.entry(group).or_insert(0_u32) += 1;
            let group = groups.iter().find(|found| found.name.as_str() == group).unwrap();
            let asked = runner_manager_core::domain::Labels::parse(&job.labels).unwrap();
            assert!(group.offered_labels().contains_all(&asked));
            assert!(group.covers(&job.repository.parse().unwrap(), None));
        }
        assert_eq!(counts, BTreeMap::from([("docs", 4), ("large", 6), ("small", 10)]));
        for group in &groups {
            assert!(
                group.bounds.max() < counts[group.name.as_str()],
                "the bound of {} would not be seen",
                group.name
            );
        }
    }
}
