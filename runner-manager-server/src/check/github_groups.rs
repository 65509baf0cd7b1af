//! `check --online`, of GitHub's runner groups: whether they are there, and whether they are as configured.
//!
//! Nothing is changed: what is managed and differs is told as what `serve` would change.

use runner_manager_core::domain::{
    FoundGroup, GitHubGroup, GroupAccess, GroupVisibility, RegisteredGroup, RunnerGroup, Scope,
};
use runner_manager_core::github::{GitHub, GitHubError};
use runner_manager_core::policy::github_groups::{missing, plan, restriction};

use super::Finding;
use crate::patience::Patience;

/// Looks for the group at GitHub that a group of ours registers into.
pub(super) async fn look(github: &dyn GitHub, group: &RunnerGroup, patience: &Patience) -> Finding {
    let mut finding = Finding {
        subject: format!("GitHub's runner group of {}", group.name),
        missing: Vec::new(),
        remarks: Vec::new(),
    };
    match find(github, group, patience).await {
        Ok(Some(found)) => compare(&group.github_group, &group.scope, &found, &mut finding),
        Ok(None) if group.github_group.managed.is_some() => finding.remarks.push(format!(
            "`{}` does not exist in {}: it is made as soon as the manager runs",
            group.github_group.name, group.scope
        )),
        Ok(None) => finding.missing.push(missing(&group.github_group, &group.scope, None)),
        Err(error) => finding.missing.push(match error.downcast_ref::<GitHubError>() {
            Some(refusal) => refusal.about_groups(&group.scope),
            None => format!("{error:#}"),
        }),
    }
    finding
}

async fn find(
    github: &dyn GitHub,
    group: &RunnerGroup,
    patience: &Patience,
) -> anyhow::Result<Option<FoundGroup>> {
    let (scope, wanted) = (&group.scope, &group.github_group);
    let is_it =
        |listed: &RegisteredGroup| wanted.is_called(&listed.name) || (listed.default && wanted.is_default());
    let listed = patience.ask(github.runner_groups(scope)).await?;
    let Some(group) = listed.into_iter().find(is_it) else { return Ok(None) };
    let members = if group.visibility == GroupVisibility::Selected {
        Some(patience.ask(github.group_members(scope, group.id)).await?)
    } else {
        None
    };
    Ok(Some(FoundGroup { group, members }))
}

fn compare(group: &GitHubGroup, scope: &Scope, found: &FoundGroup, finding: &mut Finding) {
    let Some(rules) = &group.managed else {
        return finding.remarks.extend(who_may(scope, found));
    };
    let plan = plan(rules, Some(found));
    let differences = plan.differences.join("; ");
    if let Some(obstacle) = plan.obstacle {
        finding
            .missing
            .push(format!("`{}` is not as configured ({differences}), but {obstacle}", group.name));
    } else if !plan.steps.is_empty() {
        finding.remarks.push(format!(
            "`{}` is not as configured, and is changed as soon as the manager runs: {differences}",
            group.name
        ));
    }
}

/// Whose jobs a group keeps out that is not for all: they wait, and GitHub does not say why.
fn who_may(scope: &Scope, found: &FoundGroup) -> Vec<String> {
    let FoundGroup { group, members } = found;
    let mut remarks = Vec::new();
    let closed = !group.allows_public_repositories || group.visibility == GroupVisibility::Private;
    if closed && !matches!(scope, Scope::Repository(_)) {
        remarks.push(format!("public repositories may not use `{}`", group.name));
    }
    let named = match members {
        Some(GroupAccess::Repositories(names)) => names.iter().map(ToString::to_string).collect(),
        Some(GroupAccess::Organizations(names)) => names.iter().cloned().collect(),
        Some(GroupAccess::All) | None => Vec::new(),
    };
    if group.visibility == GroupVisibility::Selected {
        let whom = if named.is_empty() { "nobody".to_owned() } else { named.join(", ") };
        remarks.push(format!("`{}` was given to {whom} alone", group.name));
    }
    remarks.extend(restriction(found).map(|what| format!("`{}`: {what}", group.name)));
    remarks
}
