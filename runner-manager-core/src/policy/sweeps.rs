//! What a sweep does of what it found: all of it, only what an operator named, or nothing.
//!
//! Promise 4: a sweep that would condemn too much stops and asks the operator. The operator's word holds for
//! the findings that it names and for no others, as long as every sweep finds them again: whatever is condemned
//! later needs a word of its own.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::orphans::most_condemned;
use crate::domain::{Deployment, Finding, GoOn, Source, Withheld, WithheldBecause};

/// What a sweep found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What was listed.
    pub source: Source,
    /// What it would do something about.
    pub findings: BTreeSet<Finding>,
    /// How many it looked at.
    pub looked_at: usize,
    /// Whether it only says what it would do.
    pub dry_run: bool,
}

/// What becomes of what a sweep found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is dealt with.
    pub done: BTreeSet<Finding>,
    /// What is left as it is, and why; none where nothing is.
    pub withheld: Option<(WithheldBecause, BTreeSet<Finding>)>,
}

/// What becomes of what a sweep found, given what the deployment's record says.
pub fn judge(deployment: &Deployment, found: &Found) -> Verdict {
    if found.dry_run {
        let withheld =
            (!found.findings.is_empty()).then(|| (WithheldBecause::DryRun, found.findings.clone()));
        return Verdict { done: BTreeSet::new(), withheld };
    }
    let named: BTreeSet<&Finding> = go_ons(deployment, &found.source).flat_map(|go_on| &go_on.left).collect();
    let (done, rest): (BTreeSet<Finding>, BTreeSet<Finding>) =
        found.findings.iter().cloned().partition(|finding| named.contains(finding));
    if rest.len() <= most_condemned(found.looked_at) {
        return Verdict { done: found.findings.clone(), withheld: None };
    }
    Verdict { done, withheld: Some((WithheldBecause::TooMuch, rest)) }
}

fn go_ons<'d>(deployment: &'d Deployment, source: &'d Source) -> impl Iterator<Item = &'d GoOn> {
    deployment.go_ons.iter().filter(move |go_on| go_on.source == *source)
}

/// The deployment's record once a sweep has been judged.
pub fn noted(mut deployment: Deployment, found: &Found, verdict: &Verdict, now: Timestamp) -> Deployment {
    for go_on in deployment.go_ons.iter_mut().filter(|go_on| go_on.source == found.source) {
        go_on.left.retain(|finding| found.findings.contains(finding));
    }
    let before = deployment.withheld.iter().position(|withheld| withheld.source == found.source);
    let before = before.map(|at| deployment.withheld.remove(at));
    if let Some((because, findings)) = &verdict.withheld {
        let since = before.filter(|before| before.because == *because).map_or(now, |before| before.since);
        deployment.withheld.push(Withheld {
            source: found.source.clone(),
            because: *because,
            since,
            count: findings.len(),
            looked_at: found.looked_at,
            findings: findings.iter().take(Withheld::MOST_NAMED).cloned().collect(),
        });
        deployment.withheld.sort_by(|one, other| one.source.cmp(&other.source));
    }
    deployment
}

/// Why a sweep does not go on at an operator's word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoOnRefusal {
    /// No sweep of that has stopped, or it is over.
    #[error("no sweep of the {0} has stopped")]
    NotStopped(Source),
    /// It found something else by now.
    #[error(
        "the sweep of the {} found something else meanwhile: {} of {}; look at them, then name {}",
        now.source, now.count, now.looked_at, now.mark()
    )]
    Changed {
        /// What it found last.
        now: Box<Withheld>,
    },
    /// It is a dry run.
    #[error("the sweep of the {0} only said what it would do: take sweep_dry_run out of the configuration")]
    DryRun(Source),
}

/// The deployment's record once an operator has said that a sweep may go on with the findings of a mark.
///
/// # Errors
/// [`GoOnRefusal`] where these are not what the last sweep stopped at.
pub fn went_on(
    mut deployment: Deployment,
    source: &Source,
    mark: &str,
    by: &str,
    now: Timestamp,
) -> Result<Deployment, GoOnRefusal> {
    let stopped = deployment.withheld.iter().position(|withheld| withheld.source == *source);
    let Some(at) = stopped else { return Err(GoOnRefusal::NotStopped(source.clone())) };
    let found = &deployment.withheld[at];
    if found.because == WithheldBecause::DryRun {
        return Err(GoOnRefusal::DryRun(source.clone()));
    }
    if found.mark() != mark {
        return Err(GoOnRefusal::Changed { now: Box::new(found.clone()) });
    }
    let Withheld { source, findings, .. } = deployment.withheld.remove(at);
    let go_on = GoOn { source, by: by.to_owned(), at: now, count: findings.len(), left: findings };
    deployment.go_ons.insert(0, go_on);
    deployment.go_ons.truncate(Deployment::MOST_GO_ONS);
    Ok(deployment)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Found, GoOnRefusal, judge, noted, went_on};
    use crate::domain::{BackendName, Deployment, Finding, RunnerName, Source, Withheld, WithheldBecause};
    use crate::policy::samples::at;

    fn source() -> Source {
        Source::Instances(BackendName::new("cloud").unwrap())
    }

    fn missing(runners: std::ops::Range<usize>) -> BTreeSet<Finding> {
        runners.map(|n| Finding::Missing(RunnerName::new(format!("acme-linux-{n}")).unwrap())).collect()
    }

    fn found(runners: std::ops::Range<usize>) -> Found {
        Found { source: source(), findings: missing(runners), looked_at: 40, dry_run: false }
    }

    /// A sweep at a second, and what it does.
    fn sweep(deployment: &mut Deployment, found: &Found, second: i64) -> BTreeSet<Finding> {
        let verdict = judge(deployment, found);
        *deployment = noted(deployment.clone(), found, &verdict, at(second));
        verdict.done
    }

    fn mark(deployment: &Deployment) -> String {
        deployment.withheld[0].mark()
    }

    #[test]
    fn what_is_within_reason_is_done_and_nothing_is_noted() {
        let mut deployment = Deployment::new();
        assert_eq!(sweep(&mut deployment, &found(0..8), 0), missing(0..8));
        assert_eq!(deployment, Deployment::new());
    }

    #[test]
    fn too_much_is_left_and_noted_until_it_is_over() {
        let mut deployment = Deployment::new();
        for second in [0, 300] {
            assert!(sweep(&mut deployment, &found(0..9), second).is_empty());
            let [withheld] = &*deployment.withheld else { panic!("{deployment:?}") };
            assert_eq!((withheld.because, withheld.since), (WithheldBecause::TooMuch, at(0)));
            assert_eq!((withheld.count, withheld.looked_at, &withheld.findings), (9, 40, &missing(0..9)));
        }
        assert_eq!(sweep(&mut deployment, &found(0..2), 600), missing(0..2));
        assert!(deployment.withheld.is_empty());
    }

    #[test]
    fn a_word_holds_for_what_it_names_as_long_as_that_is_found_again() {
        let mut deployment = Deployment::new();
        sweep(&mut deployment, &found(0..20), 0);
        let named = mark(&deployment);
        let mut deployment = went_on(deployment, &source(), &named, "ops", at(60)).unwrap();
        assert!(deployment.withheld.is_empty());
        assert_eq!((&*deployment.go_ons[0].by, deployment.go_ons[0].count), ("ops", 20));
        // Twenty others came to it meanwhile: they need a word of their own.
        assert_eq!(sweep(&mut deployment, &found(0..40), 61), missing(0..20));
        assert_eq!(deployment.withheld[0].findings, missing(20..40));
        // Five are left to be seen once more; one that was well again and is not any more is not among them.
        assert_eq!(sweep(&mut deployment, &found(15..20), 300), missing(15..20));
        assert!(sweep(&mut deployment, &found(0..15), 600).is_empty());
        assert!(deployment.go_ons[0].left.is_empty());
        assert_eq!(deployment.go_ons.len(), 1, "who said it is remembered");
    }

    #[test]
    fn beside_what_was_named_the_usual_may_be_condemned() {
        let mut deployment = Deployment::new();
        sweep(&mut deployment, &found(0..20), 0);
        let named = mark(&deployment);
        let mut deployment = went_on(deployment, &source(), &named, "ops", at(60)).unwrap();
        assert_eq!(sweep(&mut deployment, &found(0..28), 61), missing(0..28));
        assert!(deployment.withheld.is_empty());
    }

    #[test]
    fn a_word_about_something_else_is_refused() {
        let mut deployment = Deployment::new();
        let refused = |deployment: &Deployment, mark: &str| {
            went_on(deployment.clone(), &source(), mark, "ops", at(60)).unwrap_err()
        };
        assert_eq!(refused(&deployment, "00000000"), GoOnRefusal::NotStopped(source()));
        sweep(&mut deployment, &found(0..20), 0);
        let seen = mark(&deployment);
        sweep(&mut deployment, &found(0..21), 300);
        let now = Box::new(deployment.withheld[0].clone());
        assert_eq!(refused(&deployment, &seen), GoOnRefusal::Changed { now });
        sweep(&mut deployment, &Found { dry_run: true, ..found(0..20) }, 600);
        let dry = mark(&deployment);
        assert_eq!(refused(&deployment, &dry), GoOnRefusal::DryRun(source()));
    }

    #[test]
    fn a_dry_run_does_nothing_even_at_an_operators_word() {
        let mut deployment = Deployment::new();
        sweep(&mut deployment, &found(0..20), 0);
        let named = mark(&deployment);
        let mut deployment = went_on(deployment, &source(), &named, "ops", at(60)).unwrap();
        for some in [0..20, 0..1] {
            let dry = Found { dry_run: true, ..found(some.clone()) };
            assert!(sweep(&mut deployment, &dry, 61).is_empty());
            assert_eq!(deployment.withheld[0].because, WithheldBecause::DryRun);
            assert_eq!(deployment.withheld[0].findings, missing(some));
        }
        assert!(sweep(&mut deployment, &Found { dry_run: true, ..found(0..0) }, 300).is_empty());
        assert!(deployment.withheld.is_empty());
    }

    #[test]
    fn records_stay_small() {
        let mut deployment = Deployment::new();
        for round in 0..30 {
            let first = usize::try_from(round).unwrap() * 2_000;
            sweep(&mut deployment, &Found { looked_at: 2_000, ..found(first..first + 2_000) }, round);
            assert!(deployment.go_ons.iter().all(|go_on| go_on.left.is_empty()));
            assert_eq!(deployment.withheld[0].findings.len(), Withheld::MOST_NAMED);
            let named = mark(&deployment);
            deployment = went_on(deployment, &source(), &named, "ops", at(round)).unwrap();
        }
        assert_eq!(deployment.go_ons.len(), Deployment::MOST_GO_ONS);
    }
}
