//! Why a job still waits: promise 3, the visible reason.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use super::doubt::Progress;
use super::github_groups::{keeps_out, missing, restriction};
use super::matching::{Asked, Mismatch, mismatch};
use super::placement::{Choice, Health, choose};
use crate::domain::{ConnectionName, Failure, GroupName, JobState, Label, Repository, Scope, WorkflowJob};
use crate::store::{Draining, GroupRecord, GroupView};

/// Why a job waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// A deployment protection rule has yet to let it go.
    Protection,
    /// No group covers its repository.
    NoScope(Repository),
    /// No group that covers its repository offers this label.
    NoLabel(Label),
    /// No one group offers all that it asks for.
    NoCombination,
    /// Its group is being drained.
    Draining(GroupName),
    /// Its group has as many runners as it may have.
    AtMax {
        /// The group.
        group: GroupName,
        /// How many runners it may have.
        max: u32,
    },
    /// Its group cannot make runners now.
    Blocked {
        /// The group.
        group: GroupName,
        /// What is tried again then.
        what: String,
        /// What was said last.
        last: Failure,
        /// When the next try is due.
        until: Timestamp,
    },
    /// The store may have lost what it acknowledged: nothing is made until all outside was listed.
    Doubt {
        /// How many listings were taken in.
        taken_in: usize,
        /// How many are needed.
        required: usize,
        /// When the doubt began.
        since: Timestamp,
    },
    /// GitHub is not asked for anything before a time, so no runner of its group can register.
    Paused {
        /// The group.
        group: GroupName,
        /// The connection that its runners register by.
        github: ConnectionName,
        /// When GitHub is asked again.
        until: Timestamp,
    },
    /// GitHub's runner group does not exist, or cannot be used.
    NoGitHubGroup {
        /// The group.
        group: GroupName,
        /// What is missing, in words.
        what: String,
    },
    /// GitHub's runner group keeps it out.
    KeptOut {
        /// The group.
        group: GroupName,
        /// GitHub's group.
        github_group: String,
        /// Why, in words.
        why: String,
    },
    /// A runner of its group is idle, but GitHub's runner group is for certain workflows alone.
    Restricted {
        /// The group.
        group: GroupName,
        /// GitHub's group.
        github_group: String,
        /// For which, in words.
        what: String,
    },
    /// Runners of its group are starting.
    Starting {
        /// The group.
        group: GroupName,
        /// How many.
        runners: u32,
    },
    /// A runner of its group is idle: GitHub is about to give it the job.
    Assigning(GroupName),
    /// A runner for it is about to be requested.
    Requesting(GroupName),
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protection => f.write_str("a deployment protection rule has yet to let it go"),
            Self::NoScope(repository) => write!(f, "no group covers repository {repository}"),
            Self::NoLabel(label) => write!(f, "no group offers label {label}"),
            Self::NoCombination => f.write_str("no one group offers all the labels that it asks for"),
            Self::Draining(group) => write!(f, "group {group} is draining"),
            Self::AtMax { group, max } => write!(f, "group {group} is at max ({max} runners)"),
            Self::Blocked { group, what, last, until } => {
                write!(f, "group {group} is blocked: {what}: {}; next try at {until:.0}", last.detail)
            }
            Self::Doubt { taken_in, required, since } => write!(
                f,
                "the store was started anew: {taken_in} of {required} listings taken in since {since:.0}"
            ),
            Self::Paused { group, github, until } => write!(
                f,
                "{} had too many calls: no runner of group {group} can register before {until:.0}",
                github.of_github()
            ),
            Self::NoGitHubGroup { group, what } => write!(f, "group {group} can register no runner: {what}"),
            Self::KeptOut { group, github_group, why } => write!(
                f,
                "group {group} registers into GitHub's runner group `{github_group}`, which keeps it out: {why}"
            ),
            Self::Restricted { group, github_group, what } => write!(
                f,
                "group {group} has an idle runner; should GitHub not give it the job, see its runner group \
                 `{github_group}`: {what}"
            ),
            Self::Starting { group, runners: 1 } => write!(f, "a runner of group {group} is starting"),
            Self::Starting { group, runners } => write!(f, "{runners} runners of group {group} are starting"),
            Self::Assigning(group) => {
                write!(f, "group {group} has an idle runner, GitHub is about to give it the job")
            }
            Self::Requesting(group) => write!(f, "group {group} is about to request a runner"),
        }
    }
}

/// What holds groups up from outside of them.
#[derive(Debug, Clone, Default)]
pub struct Hindrances {
    /// Until when GitHub is not asked for a scope, where it is not.
    pub pauses: BTreeMap<Scope, Timestamp>,
    /// How far the listings have come, where the store is not trusted.
    pub doubt: Option<Progress>,
}

/// Why a job waits; `None` where it does not.
pub fn reason(
    job: &WorkflowJob,
    groups: &[GroupView],
    hindrances: &Hindrances,
    now: Timestamp,
) -> Option<WaitReason> {
    match &job.state {
        JobState::Waiting => Some(WaitReason::Protection),
        JobState::Presumed { .. } | JobState::InProgress { .. } | JobState::Completed { .. } => None,
        JobState::Queued { group: None } => Some(unserved(job, groups)),
        JobState::Queued { group: Some(name) } => {
            let view = groups.iter().find(|view| view.record.value.spec.name == *name);
            Some(view.map_or_else(|| unserved(job, groups), |view| in_group(job, view, hindrances, now)))
        }
    }
}

/// The newest thing that went wrong for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// What went wrong, in words.
    pub what: String,
    /// What was said, and when.
    pub last: Failure,
}

/// What last went wrong for the group that a waiting job counts for, and has not gone well since: whether or not
/// that is what the job waits for at this moment.
pub fn last_error(job: &WorkflowJob, groups: &[GroupView]) -> Option<LastError> {
    let name = job.demand()?;
    let record = &groups.iter().find(|view| view.record.value.spec.name == *name)?.record.value;
    let failing = of_registration(record).into_iter().chain(of_placements(record));
    let errors = failing.map(|(what, health)| LastError { what, last: health.last.clone() });
    errors.chain(of_github_group(record)).max_by_key(|error| error.last.at)
}

fn of_registration(record: &GroupRecord) -> Option<(String, &Health)> {
    let health = record.registration.as_ref()?;
    Some((format!("registering at {} fails", record.spec.github.of_github()), health))
}

/// The placements of a group that fail, in its order.
fn of_placements(record: &GroupRecord) -> impl Iterator<Item = (String, &Health)> {
    record.spec.placements.iter().filter_map(|placement| {
        let health = record.placements.get(&placement.key)?;
        let state = if health.is_open() { "open" } else { "set back" };
        Some((format!("placement {} of {} {state}", placement.description, placement.backend), health))
    })
}

fn of_github_group(record: &GroupRecord) -> Option<LastError> {
    let last = record.github.as_deref()?.trouble.clone()?;
    Some(LastError { what: format!("GitHub's runner group `{}`", record.spec.github_group.name), last })
}

fn unserved(job: &WorkflowJob, groups: &[GroupView]) -> WaitReason {
    let asked = Asked {
        job: job.id,
        repository: &job.repository,
        enterprise: job.enterprise.as_deref(),
        labels: &job.labels,
    };
    let configured = || {
        groups
            .iter()
            .filter(|view| view.record.value.draining != Some(Draining::Removed))
            .map(|view| &view.record.value.spec)
    };
    if let Some(fitting) = configured().find(|spec| super::matching::serves(spec, asked)) {
        return WaitReason::Draining(fitting.name.clone());
    }
    match mismatch(configured(), asked) {
        Mismatch::Repository => WaitReason::NoScope(job.repository.clone()),
        Mismatch::Label(label) => WaitReason::NoLabel(label),
        Mismatch::Combination => WaitReason::NoCombination,
    }
}

fn in_group(job: &WorkflowJob, view: &GroupView, hindrances: &Hindrances, now: Timestamp) -> WaitReason {
    let (record, counts) = (&view.record.value, &view.counts);
    let group = record.spec.name.clone();
    // One that was only requested does not start while the store is doubted.
    let requested = if hindrances.doubt.is_some() { 0 } else { counts.requested };
    let starting = counts.creating + counts.booting + requested;
    let all_served = counts.queued <= counts.free();
    let until = hindrances.pauses.get(&record.spec.scope).filter(|_| counts.booting == 0);
    if record.draining.is_some() {
        WaitReason::Draining(group)
    } else if let Some(why) = kept_out(job, record) {
        why
    } else if counts.idle > 0 && all_served {
        restricted(record).unwrap_or(WaitReason::Assigning(group))
    } else if let (Some(until), true) = (until, starting > 0 && all_served) {
        WaitReason::Paused { group, github: record.spec.github.clone(), until: *until }
    } else if starting > 0 && all_served {
        WaitReason::Starting { group, runners: starting }
    } else if counts.alive() >= record.spec.bounds.max() {
        WaitReason::AtMax { group, max: record.spec.bounds.max() }
    } else if let Some(doubt) = &hindrances.doubt {
        WaitReason::Doubt { taken_in: doubt.taken_in(), required: doubt.required, since: doubt.since }
    } else if let Some(why) = without_github_group(record) {
        why
    } else {
        match choose(record, now) {
            Choice::Use(_) | Choice::Probe(_) => WaitReason::Requesting(group),
            Choice::Blocked { until } => blocked(view, until).unwrap_or(WaitReason::Requesting(group)),
        }
    }
}

/// GitHub's runner group has the last word on which jobs its runners get.
fn kept_out(job: &WorkflowJob, record: &GroupRecord) -> Option<WaitReason> {
    let found = record.github.as_deref()?.found.as_ref()?;
    let why = keeps_out(found, &job.repository, job.public)?;
    let (group, github_group) = (record.spec.name.clone(), record.spec.github_group.name.clone());
    Some(WaitReason::KeptOut { group, github_group, why })
}

fn restricted(record: &GroupRecord) -> Option<WaitReason> {
    let what = restriction(record.github.as_deref()?.found.as_ref()?)?;
    let (group, github_group) = (record.spec.name.clone(), record.spec.github_group.name.clone());
    Some(WaitReason::Restricted { group, github_group, what })
}

fn without_github_group(record: &GroupRecord) -> Option<WaitReason> {
    // Every scope has the default group, whether or not it could be looked for.
    let needs_one = !record.spec.github_group.is_default();
    let finding = record.github.as_deref().filter(|finding| needs_one && finding.found.is_none())?;
    let what = missing(&record.spec.github_group, &record.spec.scope, Some(finding));
    Some(WaitReason::NoGitHubGroup { group: record.spec.name.clone(), what })
}

fn blocked(view: &GroupView, until: Timestamp) -> Option<WaitReason> {
    let record = &view.record.value;
    let (what, health) = of_registration(record).or_else(|| of_placements(record).next())?;
    Some(WaitReason::Blocked { group: record.spec.name.clone(), what, last: health.last.clone(), until })
}

#[cfg(test)]
mod tests {
    use super::{Hindrances, reason};
    use crate::domain::{
        BackendName, Doubt, FoundGroup, GroupFinding, Incarnation, InstanceFailure, JobId, JobState, Labels,
        RunId, Source, WorkflowJob,
    };
    use crate::policy::doubt::{Progress, required};
    use crate::policy::placement::after_failure;
    use crate::policy::samples::{at, group, registered_group, view};
    use crate::store::{Draining, GroupCounts, GroupView};

    fn job(labels: &[&str], group: Option<&str>) -> WorkflowJob {
        WorkflowJob {
            id: JobId(1),
            run: RunId(1),
            attempt: 1,
            repository: "acme/app".parse().unwrap(),
            enterprise: None,
            public: false,
            name: "build".to_owned(),
            workflow: None,
            labels: Labels::parse(labels).unwrap(),
            created_at: at(0),
            recorded_at: at(0),
            state: JobState::Queued { group: group.map(|name| name.parse().unwrap()) },
            lost: None,
        }
    }

    fn says(job: &WorkflowJob, groups: &[GroupView]) -> String {
        reason(job, groups, &Hindrances::default(), at(0)).unwrap().to_string()
    }

    #[test]
    fn every_wait_has_its_reason() {
        let counts = GroupCounts::default();
        let linux = || view(group("linux", &["large"], 0, 2), counts);
        assert_eq!(says(&job(&["gpu"], None), &[linux()]), "no group offers label gpu");
        assert_eq!(
            says(&job(&["large"], Some("linux")), &[linux()]),
            "group linux is about to request a runner"
        );
        let full = GroupCounts { queued: 1, busy: 2, ..counts };
        assert_eq!(
            says(&job(&["large"], Some("linux")), &[GroupView { counts: full, ..linux() }]),
            "group linux is at max (2 runners)"
        );
        let starting = GroupCounts { queued: 1, booting: 1, ..counts };
        assert_eq!(
            says(&job(&["large"], Some("linux")), &[GroupView { counts: starting, ..linux() }]),
            "a runner of group linux is starting"
        );
        let requested = GroupView { counts: GroupCounts { queued: 1, requested: 1, ..counts }, ..linux() };
        let waiting = job(&["large"], Some("linux"));
        assert_eq!(says(&waiting, std::slice::from_ref(&requested)), "a runner of group linux is starting");
        let pauses = [(requested.record.value.spec.scope.clone(), at(60))].into();
        let hindrances = Hindrances { pauses, ..Hindrances::default() };
        assert_eq!(
            reason(&waiting, &[requested], &hindrances, at(0)).unwrap().to_string(),
            "GitHub had too many calls: no runner of group linux can register before 1970-01-12T13:47:40Z"
        );
        let mut drained = linux();
        drained.record.value.draining = Some(Draining::Operator);
        assert_eq!(says(&job(&["large"], None), &[drained]), "group linux is draining");
    }

    #[test]
    fn github_has_the_last_word_on_who_may_use_a_group() {
        let mut linux = view(group("linux", &["large"], 0, 2), GroupCounts::default());
        let waiting = job(&["large"], Some("linux"));
        linux.record.value.spec.github_group.name = "Large".to_owned();
        let finding = |found| Some(Box::new(GroupFinding { found, trouble: None, mended: None }));
        linux.record.value.github = finding(None);
        assert_eq!(
            says(&waiting, std::slice::from_ref(&linux)),
            "group linux can register no runner: GitHub's runner group `Large` does not exist in \
             organization:acme: create it, or set `manage: true`"
        );
        let mut large = FoundGroup { group: registered_group("Large"), members: None };
        linux.record.value.github = finding(Some(large.clone()));
        assert_eq!(says(&waiting, std::slice::from_ref(&linux)), "group linux is about to request a runner");
        let idle = GroupCounts { queued: 1, idle: 1, ..GroupCounts::default() };
        let linux = GroupView { counts: idle, ..linux };
        assert_eq!(
            says(&WorkflowJob { public: true, ..waiting.clone() }, std::slice::from_ref(&linux)),
            "group linux registers into GitHub's runner group `Large`, which keeps it out: acme/app is public, and \
             public repositories may not use it"
        );
        assert!(says(&waiting, std::slice::from_ref(&linux)).contains("about to give it the job"));
        large.group.workflows = Some(["deploy@main".to_owned()].into());
        let mut restricted = linux;
        restricted.record.value.github = finding(Some(large));
        assert!(says(&waiting, &[restricted]).contains("workflows alone: deploy@main"));
    }

    #[test]
    fn while_the_store_is_doubted_that_is_the_reason() {
        let backend = BackendName::new("cloud").unwrap();
        let doubt = Doubt {
            incarnation: Incarnation::new("two"),
            since: at(0),
            taken_in: [Source::Instances(backend.clone())].into(),
        };
        let spec = group("linux", &["large"], 0, 2);
        let doubt = Some(Progress::of(&doubt, &required([&backend], [&spec], [])));
        let hindrances = Hindrances { doubt, ..Hindrances::default() };
        let says = |counts| {
            let groups = [view(spec.clone(), counts)];
            reason(&job(&["large"], Some("linux")), &groups, &hindrances, at(0)).unwrap().to_string()
        };
        let expected = "the store was started anew: 1 of 2 listings taken in since 1970-01-12T13:46:40Z";
        let waits = GroupCounts { queued: 1, ..GroupCounts::default() };
        assert_eq!(says(waits), expected);
        assert_eq!(says(GroupCounts { requested: 1, ..waits }), expected, "it does not start");
        assert_eq!(says(GroupCounts { booting: 1, ..waits }), "a runner of group linux is starting");
        assert_eq!(says(GroupCounts { busy: 2, ..waits }), "group linux is at max (2 runners)");
    }

    #[test]
    fn a_blocked_group_tells_what_was_said() {
        let mut linux = view(group("linux", &[], 0, 2), GroupCounts::default());
        let key = linux.record.value.spec.placements[0].key.clone();
        let health = after_failure(None, InstanceFailure::QuotaExceeded, "QuotaExceeded: 10 cores", at(0), 0);
        linux.record.value.placements.insert(key, health);
        assert_eq!(
            says(&job(&["linux"], Some("linux")), &[linux]),
            "group linux is blocked: placement zone a of cloud set back: QuotaExceeded: 10 cores; \
             next try at 1970-01-12T13:46:45Z"
        );
    }
}
