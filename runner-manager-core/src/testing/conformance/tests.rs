//! The suites have a case for each point that the traits promise.

use std::collections::BTreeSet;

use super::{Case, budget, clock, queue, store};

/// The names that the *Behaviour* section of a trait's documentation lists.
fn promised(source: &str) -> BTreeSet<&str> {
    let behaviour = source.split("/// # Behaviour").nth(1).expect("the trait documents its behaviour");
    let section = behaviour.split("/// # Errors").next().unwrap_or(behaviour);
    section
        .lines()
        .filter(|line| line.trim().starts_with("/// - `"))
        .flat_map(|line| line.split(": ").next().unwrap_or(line).split('`').skip(1).step_by(2))
        .collect()
}

fn tested<S>(cases: &[Case<S>]) -> BTreeSet<&'static str> {
    let names: BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    names
}

#[test]
fn every_point_of_behaviour_has_its_case() {
    assert_eq!(tested(&store::cases()), promised(include_str!("../../store.rs")));
    assert_eq!(tested(&queue::cases()), promised(include_str!("../../queue.rs")));
    assert_eq!(tested(&budget::cases()), promised(include_str!("../../budget.rs")));
    assert_eq!(tested(&clock::cases()), promised(include_str!("../../clock.rs")));
}
