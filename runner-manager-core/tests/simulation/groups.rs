//! Runner groups of a plan, and the jobs that ask for them.

use std::collections::BTreeMap;
use std::time::Duration;

use runner_manager_core::domain::{
    Arch, BackendName, Bounds, ConnectionName, GitHubGroup, GroupName, Labels, Limits, Os, Placement,
    RunnerGroup, Scope,
};
use runner_manager_core::testing::simulator::JobSpec;

use super::dice::Dice;

const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-c"];

pub(crate) fn backend() -> BackendName {
    BackendName::new("cloud").unwrap()
}

pub(crate) fn name(text: &str) -> GroupName {
    GroupName::new(text).unwrap()
}

/// A group of `acme` with one placement in each zone named.
pub(crate) fn group(text: &str, labels: &[&str], min_idle: u32, max: u32, zones: &[&str]) -> RunnerGroup {
    let place = |zone: &&str| {
        let settings = serde_json::json!({"zones": zone, "instance_types": "small", "image": "image-1"});
        Placement::new(backend(), format!("small in {zone}"), settings)
    };
    RunnerGroup {
        name: name(text),
        scope: Scope::organization("acme").unwrap(),
        github: ConnectionName::default(),
        github_group: GitHubGroup::default(),
        os: Os::Linux,
        arch: Arch::X64,
        labels: Labels::parse(labels).unwrap(),
        bounds: Bounds::new(min_idle, max).unwrap(),
        priority: 0,
        order: 0,
        tags: BTreeMap::new(),
        limits: Limits::default(),
        rerun_on_loss: false,
        placements: zones.iter().map(place).collect(),
    }
}

/// One to four groups: some that overlap in what they serve, and one of a repository of its own.
pub(crate) fn drawn(dice: &mut Dice) -> Vec<RunnerGroup> {
    let limits = Limits {
        start_timeout: dice.seconds(120, 300),
        idle_timeout: dice.seconds(20, 150),
        removal_grace: dice.seconds(5, 30),
        max_idle_age: dice.seconds(600, 7_200),
        ..Limits::default()
    };
    let palette: [(&str, &[&str]); 4] =
        [("linux", &["large"]), ("gpu", &["large", "gpu"]), ("spare", &["large"]), ("tool", &["tool"])];
    let count = dice.count(1, palette.len());
    let mut groups = Vec::new();
    for (order, (text, labels)) in (0..).zip(&palette[..count]) {
        let max = u32::try_from(dice.between(1, 8)).expect("it is small");
        let min_idle = if dice.percent(60) { 0 } else { max.min(2) };
        let zones = dice.count(1, ZONES.len());
        let mut group = group(text, labels, min_idle, max, &ZONES[..zones]);
        group.order = order;
        group.limits = limits;
        if *text == "tool" {
            group.scope = Scope::Repository("beta/tool".parse().unwrap());
        }
        groups.push(group);
    }
    groups
}

/// A job that one of the groups serves.
pub(crate) fn job(dice: &mut Dice, groups: &[RunnerGroup]) -> JobSpec {
    let group = dice.pick(groups);
    let repository = match &group.scope {
        Scope::Repository(repository) => repository.to_string(),
        Scope::Organization(_) | Scope::Enterprise(_) => {
            format!("acme/{}", *dice.pick(&["app", "site", "infra"]))
        }
    };
    let labels: Vec<String> = group.labels.iter().map(|label| label.as_str().to_uppercase()).collect();
    let seconds = if dice.percent(70) { dice.between(1, 120) } else { dice.between(120, 600) };
    JobSpec::new(&repository, labels).seconds(seconds)
}

/// The groups with other bounds, or without one of them.
pub(crate) fn varied(dice: &mut Dice, groups: &[RunnerGroup]) -> Vec<RunnerGroup> {
    let mut varied = groups.to_vec();
    for group in &mut varied {
        let max = u32::try_from(dice.between(1, 8)).expect("it is small");
        group.bounds = Bounds::new(u32::from(dice.percent(30)), max).unwrap();
    }
    if varied.len() > 1 && dice.percent(20) {
        varied.remove(dice.count(0, groups.len() - 1));
    }
    varied
}

/// Gives groups room for so many machines that a sweep may condemn too many.
pub(crate) fn widen(groups: &mut [RunnerGroup]) {
    for group in groups {
        group.bounds = Bounds::new(group.bounds.min_idle(), 8).unwrap();
    }
}

/// The groups without any runner that waits for nothing.
pub(crate) fn without_idle(groups: &[RunnerGroup]) -> Vec<RunnerGroup> {
    let mut bare = groups.to_vec();
    for group in &mut bare {
        group.bounds = Bounds::new(0, group.bounds.max()).unwrap();
        group.limits.idle_timeout = Duration::from_secs(30);
    }
    bare
}

/// The groups with room for one runner each.
pub(crate) fn smallest(groups: &[RunnerGroup]) -> Vec<RunnerGroup> {
    let mut small = groups.to_vec();
    for group in &mut small {
        group.bounds = Bounds::new(0, 1).unwrap();
    }
    small
}
