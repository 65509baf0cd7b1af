//! What is to be done about GitHub's runner groups, and which jobs one keeps out.
//!
//! A group that is managed is kept as it is configured; one that is not is only looked at, and so is the default
//! group of a scope. How GitHub is asked is left to the driver.

use std::collections::BTreeSet;

use crate::domain::{
    FoundGroup, GitHubGroup, GroupAccess, GroupFinding, GroupRules, GroupVisibility, RegisteredGroup,
    Repository, Scope,
};
use crate::flaws::{Flaw, is_on};

/// The most repositories or organizations of a group that are kept on record.
pub const MOST_MEMBERS: usize = 100;

/// What is to be done at GitHub for a group to be as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make it, with its members.
    Create,
    /// Change its rules, but for its members.
    Update,
    /// Give it to those that are configured.
    SetMembers,
}

/// How a group at GitHub becomes what is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What differs, in words.
    pub differences: Vec<String>,
    /// What is done about it, in this order.
    pub steps: Vec<Step>,
    /// Why nothing can be done, where that is so.
    pub obstacle: Option<&'static str>,
}

/// What is to be done for a group to be as `rules` have it.
pub fn plan(rules: &GroupRules, found: Option<&FoundGroup>) -> Plan {
    let Some(found) = found else {
        let differences = vec!["it is missing".to_owned()];
        return Plan { differences, steps: vec![Step::Create], obstacle: None };
    };
    let FoundGroup { group, members } = found;
    let mut plan = Plan::default();
    plan.differences.extend(visibility_differs(rules, group));
    plan.differences.extend(public_differs(rules, group));
    plan.differences.extend(workflows_differ(rules, group));
    if !plan.differences.is_empty() || is_on(Flaw::MendWhatIsWell) {
        plan.steps.push(Step::Update);
    }
    let others = members_differ(&rules.access, group.visibility, members.as_ref());
    if others.is_some() {
        plan.steps.push(Step::SetMembers);
        plan.differences.extend(others);
    }
    plan.obstacle = if plan.steps.is_empty() { None } else { obstacle(rules, group) };
    if plan.obstacle.is_some() {
        plan.steps.clear();
    }
    plan
}

fn obstacle(rules: &GroupRules, group: &RegisteredGroup) -> Option<&'static str> {
    if group.default {
        Some("it is GitHub's default group, which is never changed")
    } else if group.inherited {
        Some("it is the enterprise's, and is managed there")
    } else if group.workflows_fixed && workflows_differ(rules, group).is_some() {
        Some("the enterprise says which workflows may use it")
    } else {
        None
    }
}

fn visibility_differs(rules: &GroupRules, group: &RegisteredGroup) -> Option<String> {
    let wanted = rules.access.visibility();
    // Where no public repository may use it, all that are left are the private ones.
    let same = wanted == group.visibility
        || (wanted, group.visibility) == (GroupVisibility::All, GroupVisibility::Private)
            && !rules.allows_public_repositories;
    let word = match group.visibility {
        GroupVisibility::All => "all",
        GroupVisibility::Private => "all private ones",
        GroupVisibility::Selected => "some",
    };
    (!same).then(|| format!("it is for {word}"))
}

fn public_differs(rules: &GroupRules, group: &RegisteredGroup) -> Option<String> {
    let may = if group.allows_public_repositories { "may" } else { "may not" };
    (rules.allows_public_repositories != group.allows_public_repositories)
        .then(|| format!("public repositories {may} use it"))
}

fn workflows_differ(rules: &GroupRules, group: &RegisteredGroup) -> Option<String> {
    (rules.workflows != group.workflows)
        .then(|| format!("it is for {}", workflows_in_words(group.workflows.as_ref())))
}

fn workflows_in_words(workflows: Option<&BTreeSet<String>>) -> String {
    match workflows {
        None => "all workflows".to_owned(),
        Some(none) if none.is_empty() => "no workflow".to_owned(),
        Some(some) => {
            let named: Vec<&str> = some.iter().map(String::as_str).collect();
            format!("these workflows alone: {}", named.join(", "))
        }
    }
}

fn members_differ(
    wanted: &GroupAccess,
    visibility: GroupVisibility,
    found: Option<&GroupAccess>,
) -> Option<String> {
    let listed = found.filter(|_| visibility == GroupVisibility::Selected);
    match (wanted, listed) {
        (GroupAccess::All, _) => None,
        (GroupAccess::Repositories(wanted), Some(GroupAccess::Repositories(found))) => changes(wanted, found),
        (GroupAccess::Organizations(wanted), Some(GroupAccess::Organizations(found))) => {
            changes(wanted, found)
        }
        (GroupAccess::Repositories(_) | GroupAccess::Organizations(_), _) => {
            Some("it was given to others".to_owned())
        }
    }
}

fn changes<T: Ord + ToString>(wanted: &BTreeSet<T>, found: &BTreeSet<T>) -> Option<String> {
    let names = |from: &BTreeSet<T>, but: &BTreeSet<T>| {
        from.difference(but).map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let (lacking, surplus) = (names(wanted, found), names(found, wanted));
    match (lacking.is_empty(), surplus.is_empty()) {
        (true, true) => None,
        (false, true) => Some(format!("it was not given to {lacking}")),
        (true, false) => Some(format!("it was given to {surplus}, too")),
        (false, false) => Some(format!("it was given to {surplus}, and not to {lacking}")),
    }
}

/// Why a group's runners take no job of a repository, in words; none where they may.
pub fn keeps_out(found: &FoundGroup, repository: &Repository, public: bool) -> Option<String> {
    let FoundGroup { group, members } = found;
    if group.workflows.as_ref().is_some_and(BTreeSet::is_empty) {
        return Some("it is for no workflow".to_owned());
    }
    let given = match (group.visibility, members) {
        (GroupVisibility::All, _) | (GroupVisibility::Selected, None | Some(GroupAccess::All)) => true,
        (GroupVisibility::Private, _) => !public,
        (GroupVisibility::Selected, Some(GroupAccess::Repositories(names))) => names.contains(repository),
        (GroupVisibility::Selected, Some(GroupAccess::Organizations(names))) => {
            names.contains(&repository.owner().to_ascii_lowercase())
        }
    };
    if public && (!group.allows_public_repositories || group.visibility == GroupVisibility::Private) {
        Some(format!("{repository} is public, and public repositories may not use it"))
    } else if given {
        None
    } else {
        Some(format!("it was not given to {repository}"))
    }
}

/// Which workflows alone a group takes jobs of, in words; none where it takes those of all.
///
/// GitHub does not tell with a job which workflow's file it is of, so that this may be why it waits, or not.
pub fn restriction(found: &FoundGroup) -> Option<String> {
    found
        .group
        .workflows
        .as_ref()
        .map(|workflows| format!("it is for {}", workflows_in_words(Some(workflows))))
}

/// That GitHub has no such group, and what to do about it.
pub fn missing(group: &GitHubGroup, scope: &Scope, finding: Option<&GroupFinding>) -> String {
    let name = &group.name;
    let trouble = finding.and_then(|finding| finding.trouble.as_ref());
    match (trouble, &group.managed) {
        (Some(trouble), _) => {
            format!("GitHub's runner group `{name}` is not to be had in {scope}: {}", trouble.detail)
        }
        (None, Some(_)) => {
            format!("GitHub's runner group `{name}` does not exist in {scope}: it is about to be made")
        }
        (None, None) => {
            format!(
                "GitHub's runner group `{name}` does not exist in {scope}: create it, or set `manage: true`"
            )
        }
    }
}

/// What people should know of a group at GitHub, in sentences.
pub fn remarks(group: &GitHubGroup, scope: &Scope, finding: &GroupFinding) -> Vec<String> {
    let mut remarks = Vec::new();
    if finding.found.is_none() {
        remarks.push(missing(group, scope, Some(finding)));
    } else if let Some(trouble) = &finding.trouble {
        let detail = &trouble.detail;
        remarks.push(format!("GitHub's runner group `{}` is not as configured: {detail}", group.name));
    }
    if let Some(mended) = &finding.mended {
        remarks.push(format!("changed at GitHub at {:.0}: {}", mended.at, mended.what));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::{Plan, Step, keeps_out, missing, plan, remarks, restriction};
    use crate::domain::{
        Failure, FoundGroup, GitHubGroup, GroupAccess, GroupFinding, GroupRules, GroupVisibility, Mended,
        RegisteredGroup, Scope,
    };
    use crate::policy::samples::{at, registered_group};

    /// What is different about a group that was found.
    type Change = fn(&mut FoundGroup);

    fn repositories(names: &[&str]) -> GroupAccess {
        GroupAccess::Repositories(names.iter().map(|name| name.parse().unwrap()).collect())
    }

    fn rules(access: GroupAccess) -> GroupRules {
        GroupRules { access, allows_public_repositories: false, workflows: None }
    }

    /// A group that is as the rules have it.
    fn found(rules: &GroupRules) -> FoundGroup {
        let group = RegisteredGroup {
            visibility: rules.access.visibility(),
            allows_public_repositories: rules.allows_public_repositories,
            workflows: rules.workflows.clone(),
            ..registered_group("Large")
        };
        FoundGroup { group, members: Some(rules.access.clone()).filter(|access| *access != GroupAccess::All) }
    }

    fn told(rules: &GroupRules, change: impl FnOnce(&mut FoundGroup)) -> (String, Vec<Step>) {
        let mut found = found(rules);
        change(&mut found);
        let Plan { differences, steps, obstacle } = plan(rules, Some(&found));
        let obstacle = obstacle.map(|why| format!("but {why}"));
        (differences.into_iter().chain(obstacle).collect::<Vec<_>>().join("; "), steps)
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_as_configured_is_left() {
        let some = rules(repositories(&["acme/app"]));
        assert_eq!(plan(&some, None).steps, [Step::Create]);
        let inc = rules(GroupAccess::Organizations(["acme".to_owned()].into()));
        let workflow = GroupRules { workflows: Some(["w".to_owned()].into()), ..rules(GroupAccess::All) };
        for rules in [some, inc, workflow, rules(GroupAccess::All)] {
            assert_eq!(plan(&rules, Some(&found(&rules))), Plan::default());
        }
        let private = |found: &mut FoundGroup| found.group.visibility = GroupVisibility::Private;
        assert_eq!(
            told(&rules(GroupAccess::All), private),
            (String::new(), vec![]),
            "the same in other words"
        );
    }

    #[test]
    fn each_difference_is_told_and_mended() {
        use Step::{SetMembers, Update};
        let (all, some) = (rules(GroupAccess::All), rules(repositories(&["acme/app", "acme/lib"])));
        let open = GroupRules { allows_public_repositories: true, ..all.clone() };
        let one = GroupRules { workflows: Some(["w@main".to_owned()].into()), ..all.clone() };
        let cases: [(&GroupRules, Change, &str, &[Step]); 10] = [
            (&all, |found| found.group.visibility = GroupVisibility::Selected, "it is for some", &[Update]),
            (
                &open,
                |found| found.group.visibility = GroupVisibility::Private,
                "it is for all private ones",
                &[Update],
            ),
            (
                &all,
                |found| found.group.allows_public_repositories = true,
                "public repositories may use it",
                &[Update],
            ),
            (
                &open,
                |found| found.group.allows_public_repositories = false,
                "public repositories may not use it",
                &[Update],
            ),
            (&one, |found| found.group.workflows = None, "it is for all workflows", &[Update]),
            (&all, |found| found.group.workflows = Some([].into()), "it is for no workflow", &[Update]),
            (
                &some,
                |found| found.members = Some(repositories(&["acme/app"])),
                "it was not given to acme/lib",
                &[SetMembers],
            ),
            (
                &some,
                |found| found.members = Some(repositories(&["acme/app", "acme/lib", "acme/old"])),
                "it was given to acme/old, too",
                &[SetMembers],
            ),
            (&some, |found| found.members = None, "it was given to others", &[SetMembers]),
            (
                &some,
                |found| *found = self::found(&rules(GroupAccess::All)),
                "it is for all; it was given to others",
                &[Update, SetMembers],
            ),
        ];
        for (rules, change, words, steps) in cases {
            assert_eq!(told(rules, change), (words.to_owned(), steps.to_vec()));
        }
    }

    #[test]
    fn what_is_not_ours_to_change_is_left() {
        let all = rules(GroupAccess::All);
        let cases: [(Change, &str); 3] = [
            (|found| found.group.default = true, "default group, which is never changed"),
            (|found| found.group.inherited = true, "managed there"),
            (|found| found.group.workflows_fixed = true, "says which workflows"),
        ];
        for (change, why) in cases {
            let (words, steps) = told(&all, |found| {
                found.group.workflows = Some(["w".to_owned()].into());
                change(found);
            });
            assert!(words.contains(why) && steps.is_empty(), "{words}: {steps:?}");
        }
        let (words, steps) = told(&all, |found| {
            found.group.workflows_fixed = true;
            found.group.allows_public_repositories = true;
        });
        assert_eq!((words.as_str(), steps), ("public repositories may use it", vec![Step::Update]));
    }

    #[test]
    fn a_group_keeps_out_what_it_was_not_given_to() {
        let (app, lib) = ("acme/app".parse().unwrap(), "acme/lib".parse().unwrap());
        let some = found(&rules(repositories(&["Acme/App"])));
        assert_eq!(keeps_out(&some, &app, false), None);
        assert_eq!(keeps_out(&some, &lib, false).unwrap(), "it was not given to acme/lib");
        assert!(keeps_out(&some, &app, true).unwrap().starts_with("acme/app is public"));
        assert_eq!(keeps_out(&FoundGroup { members: None, ..some }, &lib, false), None, "nobody knows");
        let inc = found(&rules(GroupAccess::Organizations(["acme".to_owned()].into())));
        assert_eq!(keeps_out(&inc, &app, false), None);
        assert!(keeps_out(&inc, &"other/app".parse().unwrap(), false).is_some());
        let open = GroupRules { allows_public_repositories: true, ..rules(GroupAccess::All) };
        assert_eq!(keeps_out(&found(&open), &app, true), None);
        let mut private = found(&open);
        private.group.visibility = GroupVisibility::Private;
        assert!(keeps_out(&private, &app, true).is_some());
        assert_eq!(keeps_out(&private, &app, false), None);
        let none = GroupRules { workflows: Some([].into()), ..open };
        assert!(keeps_out(&found(&none), &app, false).is_some());
        let one = GroupRules { workflows: Some(["w@main".to_owned()].into()), ..none };
        assert_eq!(restriction(&found(&one)).unwrap(), "it is for these workflows alone: w@main");
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let acme = Scope::organization("acme").unwrap();
        let theirs = GitHubGroup { name: "Large".to_owned(), managed: None };
        let ours = GitHubGroup { managed: Some(rules(GroupAccess::All)), ..theirs.clone() };
        let start = "GitHub's runner group `Large` does not exist in organization:acme: ";
        assert_eq!(missing(&theirs, &acme, None), format!("{start}create it, or set `manage: true`"));
        assert_eq!(missing(&ours, &acme, None), format!("{start}it is about to be made"));
        let mended = Some(Mended { at: at(0), what: "it is missing".to_owned() });
        let trouble = Some(Failure::new("forbidden", at(0)));
        let finding = GroupFinding { found: None, trouble, mended };
        assert_eq!(
            remarks(&ours, &acme, &finding),
            [
                "GitHub's runner group `Large` is not to be had in organization:acme: forbidden",
                "changed at GitHub at 1970-01-12T13:46:40Z: it is missing"
            ]
        );
    }
}
