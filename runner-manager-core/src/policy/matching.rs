//! Which group serves a job.
//!
//! Those whose labels contain all that the job asks for, in whose scope the job's repository is. Of these
//! the most specific one (the fewest labels beyond the job's), then the higher `priority`, then by
//! [`Balance`].

use std::cmp::Reverse;

use crate::domain::{Balance, JobId, Label, Labels, Repository, RunnerGroup};

/// What a job asks for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its number, by which [`Balance::Spread`] takes turns.
    pub job: JobId,
    /// Its repository.
    pub repository: &'a Repository,
    /// The enterprise that the repository belongs to, where GitHub said so.
    pub enterprise: Option<&'a str>,
    /// Its labels.
    pub labels: &'a Labels,
}

/// Whether a group's runners can take a job.
pub fn serves(group: &RunnerGroup, asked: Asked<'_>) -> bool {
    !asked.labels.is_empty() && group.covers(asked.repository, asked.enterprise) && group.offers(asked.labels)
}

/// All groups that serve a job, the one that should take it first.
pub fn candidates<'g>(
    groups: impl IntoIterator<Item = &'g RunnerGroup>,
    asked: Asked<'_>,
    balance: Balance,
) -> Vec<&'g RunnerGroup> {
    let rank = |group: &RunnerGroup| (group.offered_labels().len(), Reverse(group.priority));
    let mut fitting: Vec<_> = groups.into_iter().filter(|group| serves(group, asked)).collect();
    fitting.sort_by_key(|group| (rank(group), group.order));
    if balance == Balance::Spread && !fitting.is_empty() {
        let best = rank(fitting[0]);
        let equal = fitting.iter().take_while(|group| rank(group) == best).count();
        let turn = usize::try_from(asked.job.0 % equal as u64).expect("less than a length");
        fitting[..equal].rotate_left(turn);
    }
    fitting
}

/// Why no group serves a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// No group covers the repository.
    Repository,
    /// Of the groups that cover it, none offers this label.
    Label(Label),
    /// Each label is offered by some group, but no one group offers all.
    Combination,
}

/// Why no group serves a job that none serves.
pub fn mismatch<'g>(groups: impl IntoIterator<Item = &'g RunnerGroup>, asked: Asked<'_>) -> Mismatch {
    let covering: Vec<Labels> = groups
        .into_iter()
        .filter(|group| group.covers(asked.repository, asked.enterprise))
        .map(RunnerGroup::offered_labels)
        .collect();
    if covering.is_empty() {
        return Mismatch::Repository;
    }
    let all_offered: Labels = covering.iter().flat_map(Labels::iter).cloned().collect();
    let lacking = all_offered.lacking(asked.labels).next().cloned();
    lacking.map_or(Mismatch::Combination, Mismatch::Label)
}

#[cfg(test)]
mod tests {
    use super::{Asked, Mismatch, candidates, mismatch};
    use crate::domain::{Balance, JobId, Labels, Repository, RunnerGroup};
    use crate::policy::samples::group;

    fn names(groups: &[RunnerGroup], labels: &[&str], balance: Balance, job: u64) -> Vec<String> {
        let repository: Repository = "Acme/app".parse().unwrap();
        let labels = Labels::parse(labels).unwrap();
        let asked = Asked { job: JobId(job), repository: &repository, enterprise: None, labels: &labels };
        candidates(groups, asked, balance).iter().map(|group| group.name.to_string()).collect()
    }

    fn why(groups: &[RunnerGroup], repository: &str, labels: &[&str]) -> Mismatch {
        let repository: Repository = repository.parse().unwrap();
        let labels = Labels::parse(labels).unwrap();
        mismatch(groups, Asked { job: JobId(1), repository: &repository, enterprise: None, labels: &labels })
    }

    fn groups() -> Vec<RunnerGroup> {
        let mut groups = vec![
            group("gpu", &["large", "gpu"], 0, 1),
            group("large", &["large"], 0, 1),
            group("small", &["small"], 0, 1),
            group("large-two", &["large"], 0, 1),
        ];
        for (order, group) in groups.iter_mut().enumerate() {
            group.order = u32::try_from(order).unwrap();
        }
        groups
    }

    #[test]
    fn the_most_specific_group_comes_first() {
        let groups = groups();
        assert_eq!(
            names(&groups, &["self-hosted", "LARGE"], Balance::Pack, 1),
            ["large", "large-two", "gpu"]
        );
        assert_eq!(names(&groups, &["linux", "x64", "gpu"], Balance::Pack, 1), ["gpu"]);
        assert_eq!(
            names(&groups, &["self-hosted"], Balance::Pack, 1),
            ["large", "small", "large-two", "gpu"]
        );
        assert!(names(&groups, &["windows"], Balance::Pack, 1).is_empty());
    }

    #[test]
    fn priority_comes_before_order_but_after_fit() {
        let mut groups = groups();
        groups[3].priority = 5;
        groups[0].priority = 9;
        assert_eq!(names(&groups, &["large"], Balance::Pack, 1), ["large-two", "large", "gpu"]);
    }

    #[test]
    fn spreading_takes_turns_among_equals_only() {
        let groups = groups();
        assert_eq!(names(&groups, &["large"], Balance::Spread, 2), ["large", "large-two", "gpu"]);
        assert_eq!(names(&groups, &["large"], Balance::Spread, 3), ["large-two", "large", "gpu"]);
    }

    #[test]
    fn a_group_offers_what_it_says() {
        let group = group("large", &["large", "x64"], 0, 1);
        for asked in [&["self-hosted"][..], &["Linux", "X64", "large"], &["large", "gpu"], &["arm64"], &[]] {
            let asked = Labels::parse(asked).unwrap();
            assert_eq!(group.offers(&asked), group.offered_labels().contains_all(&asked), "{asked}");
        }
    }

    #[test]
    fn a_job_that_asks_for_nothing_is_served_by_nobody() {
        assert!(names(&groups(), &[], Balance::Pack, 1).is_empty());
    }

    #[test]
    fn says_what_is_missing() {
        let groups = groups();
        assert_eq!(why(&groups, "other/app", &["large"]), Mismatch::Repository);
        assert!(
            matches!(why(&groups, "acme/app", &["large", "tpu"]), Mismatch::Label(label) if label.as_str() == "tpu")
        );
        assert_eq!(why(&groups, "acme/app", &["small", "gpu"]), Mismatch::Combination);
    }
}
