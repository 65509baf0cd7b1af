//! Looks after GitHub's runner groups: finds those that groups of ours register into, makes the managed ones that
//! are missing, and has them be as configured.
//!
//! A group that is not managed is looked at and never changed, and neither is a default group. What was found
//! stands on the records of the groups that share it, so that all replicas can say why a job waits. Nothing here
//! rests on the store's word but the configuration itself.

use std::collections::BTreeMap;

use super::Manager;
use super::advance::MOST_CONFLICTS;
use super::calls::{CallError, Purpose};
use super::worker::{TaskError, Work};
use crate::domain::{
    Failure, FoundGroup, GitHubGroup, GroupAccess, GroupFinding, GroupRules, GroupVisibility, Mended,
    RegisteredGroup, Scope, later,
};
use crate::github::{GitHubError, GitHubErrorKind};
use crate::policy::github_groups::{MOST_MEMBERS, Plan, Step, plan};
use crate::queue::{ClaimToken, NewTask, Task};
use crate::retry::Retry;
use crate::store::{Change, Draining, Expected, GroupRecord, GroupView, StoreError, Versioned, Write};

/// What one look at a group came to.
enum Looked {
    /// What is known of it now.
    Finding(GroupFinding),
    /// GitHub refuses to tell: what was known of it stays.
    Untold(Failure),
    /// GitHub did not say, and is asked again.
    Unknown(TaskError),
}

/// Why a group is not looked after to the end.
enum Stop {
    /// GitHub refuses it, and will again.
    Refused(GitHubError),
    /// It may go another time.
    Later(TaskError),
}

impl From<CallError<GitHubError>> for Stop {
    fn from(error: CallError<GitHubError>) -> Self {
        match error {
            CallError::Failed(error) if is_refusal(&error) => Self::Refused(error),
            other => Self::Later(other.into()),
        }
    }
}

/// Whether GitHub would say the same again, so that people have to do something about it.
fn is_refusal(error: &GitHubError) -> bool {
    match error.kind {
        GitHubErrorKind::NotFound
        | GitHubErrorKind::PermissionDenied
        | GitHubErrorKind::Unauthenticated
        | GitHubErrorKind::Invalid => error.retry == Retry::Never,
        GitHubErrorKind::NoInstallation => true,
        // A group of that name was made a moment ago: the next look finds it.
        GitHubErrorKind::NameTaken
        | GitHubErrorKind::Busy
        | GitHubErrorKind::RateLimited
        | GitHubErrorKind::Unavailable
        | GitHubErrorKind::Unclear
        | GitHubErrorKind::Unexpected => false,
    }
}

impl Manager {
    /// The scopes that have runner groups at GitHub.
    pub(super) async fn scopes_with_groups(&self) -> Result<Vec<Scope>, StoreError> {
        let scopes = self.scopes().await?;
        Ok(scopes.into_iter().filter(|scope| !matches!(scope, Scope::Repository(_))).collect())
    }

    /// Looks after all groups of a scope. One that GitHub refuses keeps no other one waiting.
    pub(super) async fn sync_github_groups(
        &self,
        claim: &ClaimToken,
        scope: &Scope,
    ) -> Result<Work, TaskError> {
        self.inner.catalogue.forget();
        let wanted = self.github_groups_of(scope).await?;
        if wanted.is_empty() {
            return Ok(Work::Done);
        }
        let listed =
            self.list_github(Purpose::Sweep, scope, "runner_groups", |github| github.runner_groups(scope));
        let listed = match listed.await.map_err(Stop::from) {
            Ok(listed) => Ok(listed),
            Err(Stop::Refused(error)) => Err(self.failure(&error.about_groups(scope)).await?),
            Err(Stop::Later(error)) => return Err(error),
        };
        let records = self.store().groups().await?;
        let mut unknown = None;
        for group in wanted.values() {
            let looked = match &listed {
                Ok(listed) => self.look_after(scope, group, listed).await?,
                Err(trouble) => Looked::Untold(trouble.clone()),
            };
            match looked {
                Looked::Unknown(error) => unknown = Some(error),
                looked => self.note(claim, scope, group, &looked, &records).await?,
            }
        }
        match unknown {
            Some(error) => Err(error),
            None => Ok(Work::AgainAt(later(self.now().await?, self.parts().settings.sweep_interval))),
        }
    }

    /// GitHub's groups that groups of a scope register into, by their names. Those that share one say the same of it.
    async fn github_groups_of(&self, scope: &Scope) -> Result<BTreeMap<String, GitHubGroup>, StoreError> {
        let groups = self.listed_groups().await?;
        let own = groups
            .iter()
            .filter(|group| group.spec.scope == *scope && group.draining != Some(Draining::Removed))
            .map(|group| &group.spec.github_group);
        Ok(own.map(|group| (group.name.to_lowercase(), group.clone())).collect())
    }

    async fn look_after(
        &self,
        scope: &Scope,
        group: &GitHubGroup,
        listed: &[RegisteredGroup],
    ) -> Result<Looked, TaskError> {
        let is_it = |listed: &&RegisteredGroup| {
            group.is_called(&listed.name) || (listed.default && group.is_default())
        };
        let found = match listed.iter().find(is_it) {
            Some(group) => match self.with_members(scope, group).await {
                Ok(found) => Some(found),
                Err(Stop::Refused(error)) => {
                    return Ok(Looked::Untold(self.failure(&error.about_groups(scope)).await?));
                }
                Err(Stop::Later(error)) => return Ok(Looked::Unknown(error)),
            },
            None => None,
        };
        let Some(rules) = &group.managed else {
            return Ok(Looked::Finding(GroupFinding { found: kept(found), trouble: None, mended: None }));
        };
        let plan = plan(rules, found.as_ref());
        if let Some(obstacle) = plan.obstacle {
            let trouble = format!("{}, but {obstacle}", plan.differences.join("; "));
            return Ok(Looked::Finding(refused(found, self.failure(&trouble).await?)));
        }
        if plan.steps.is_empty() {
            return Ok(Looked::Finding(GroupFinding { found: kept(found), trouble: None, mended: None }));
        }
        self.mend(scope, group, rules, found, &plan).await
    }

    /// A group with whom it was given to.
    async fn with_members(&self, scope: &Scope, group: &RegisteredGroup) -> Result<FoundGroup, Stop> {
        let members = if group.visibility == GroupVisibility::Selected {
            let id = group.id;
            let listed = self.list_github(Purpose::Sweep, scope, "group_members", |github| {
                github.group_members(scope, id)
            });
            Some(listed.await?)
        } else {
            None
        };
        Ok(FoundGroup { group: group.clone(), members })
    }

    /// Has a group be as configured.
    async fn mend(
        &self,
        scope: &Scope,
        group: &GitHubGroup,
        rules: &GroupRules,
        found: Option<FoundGroup>,
        plan: &Plan,
    ) -> Result<Looked, TaskError> {
        let (what, name) = (plan.differences.join("; "), group.name.as_str());
        match self.take_steps(scope, group, rules, found.as_ref(), plan).await {
            Ok(after) => {
                if found.is_none() {
                    tracing::info!(%scope, github_group = name, "a runner group was made at GitHub");
                    self.count_github_group("created");
                } else {
                    tracing::warn!(%scope, github_group = name, what, "GitHub's runner group was not as configured");
                    self.count_github_group("mended");
                }
                let mended = Some(Mended { at: self.now().await?, what });
                Ok(Looked::Finding(GroupFinding { found: kept(after), trouble: None, mended }))
            }
            Err(Stop::Refused(error)) => {
                tracing::warn!(%scope, github_group = name, what, %error, "GitHub's runner group stays as it is");
                self.count_github_group("refused");
                let trouble = format!("{what}: {}", error.about_groups(scope));
                Ok(Looked::Finding(refused(found, self.failure(&trouble).await?)))
            }
            Err(Stop::Later(error)) => Ok(Looked::Unknown(error)),
        }
    }

    async fn take_steps(
        &self,
        scope: &Scope,
        group: &GitHubGroup,
        rules: &GroupRules,
        found: Option<&FoundGroup>,
        plan: &Plan,
    ) -> Result<Option<FoundGroup>, Stop> {
        let (name, mut registered) = (group.name.as_str(), found.map(|found| found.group.clone()));
        for step in &plan.steps {
            let known = registered.as_ref().map(|group| (group.id, group.name.clone()));
            match (step, known) {
                (Step::Create, _) => {
                    let made = self.ask_github(scope, "create_runner_group", |github| {
                        github.create_runner_group(scope, name, rules)
                    });
                    registered = Some(made.await?);
                }
                (Step::Update, Some((id, name))) => {
                    let changed = self.ask_github(scope, "update_runner_group", |github| {
                        let name = name.clone();
                        Box::pin(async move { github.update_runner_group(scope, id, &name, rules).await })
                    });
                    registered = Some(changed.await?);
                }
                (Step::SetMembers, Some((id, _))) => {
                    let set = self.ask_github(scope, "set_group_members", |github| {
                        github.set_group_members(scope, id, &rules.access)
                    });
                    set.await?;
                }
                (Step::Update | Step::SetMembers, None) => {}
            }
        }
        let members = Some(rules.access.clone()).filter(|access| *access != GroupAccess::All);
        Ok(registered.map(|group| FoundGroup { group, members }))
    }

    fn count_github_group(&self, outcome: &'static str) {
        self.inner.statistics.count(|counters| *counters.github_groups.entry(outcome).or_default() += 1);
    }

    /// Writes what was found onto the records of the groups that register into it.
    async fn note(
        &self,
        claim: &ClaimToken,
        scope: &Scope,
        group: &GitHubGroup,
        looked: &Looked,
        records: &[GroupView],
    ) -> Result<(), TaskError> {
        for GroupView { record, .. } in records {
            let spec = &record.value.spec;
            if spec.scope == *scope && spec.github_group.is_called(&group.name) {
                self.note_on(claim, record.clone(), group, looked).await?;
            }
        }
        Ok(())
    }

    async fn note_on(
        &self,
        claim: &ClaimToken,
        mut record: Versioned<GroupRecord>,
        group: &GitHubGroup,
        looked: &Looked,
    ) -> Result<(), TaskError> {
        for _ in 0..MOST_CONFLICTS {
            let name = record.value.spec.name.clone();
            let Some((noted, tasks)) = noted(&record.value, group, looked) else { return Ok(()) };
            let changes =
                vec![Change::PutGroup { record: noted, expected: Expected::Version(record.version) }];
            let (operation, claim) = (self.operation(), Some(claim.clone()));
            match self
                .apply(Write { operation, claim, ends_claim: false, on_trust: false, changes, tasks })
                .await
            {
                Err(StoreError::Conflict { .. }) => match self.store().group(&name).await? {
                    Some(view) => record = view.record,
                    None => return Ok(()),
                },
                outcome => return Ok(outcome.map(drop)?),
            }
        }
        Ok(())
    }

    async fn failure(&self, detail: &str) -> Result<Failure, StoreError> {
        Ok(Failure::new(detail, self.now().await?))
    }

    /// Has a group that is missing at GitHub be looked for at once, where it is ours to make.
    pub(super) async fn miss_github_group(
        &self,
        scope: &Scope,
        group: &GitHubGroup,
    ) -> Result<(), StoreError> {
        if group.managed.is_none() {
            return Ok(());
        }
        self.queue().push(vec![NewTask::now(Task::SyncGitHubGroups { scope: scope.clone() })]).await
    }
}

/// A record with what was found; none where that stands there already, or is not about its group any more.
fn noted(before: &GroupRecord, group: &GitHubGroup, looked: &Looked) -> Option<(GroupRecord, Vec<NewTask>)> {
    let old = before.github.as_deref();
    let mut finding = match looked {
        Looked::Finding(finding) => finding.clone(),
        Looked::Untold(trouble) => refused(old.and_then(|old| old.found.clone()), trouble.clone()),
        Looked::Unknown(_) => return None,
    };
    keep_its_begin(&mut finding, old);
    finding.mended = finding.mended.or_else(|| old.and_then(|old| old.mended.clone()));
    let mut record = before.clone();
    record.github = Some(Box::new(finding));
    if record.github == before.github || record.spec.github_group != *group {
        return None;
    }
    let found = |finding: Option<&GroupFinding>| finding.is_some_and(|finding| finding.found.is_some());
    let mut tasks = Vec::new();
    if !found(old) && found(record.github.as_deref()) {
        // What failed for want of it need not wait any longer.
        record.registration = None;
        tasks.push(NewTask::now(Task::Reconcile { group: record.spec.name.clone() }));
    }
    Some((record, tasks))
}

/// Trouble that goes on keeps the time when it was first met.
fn keep_its_begin(finding: &mut GroupFinding, old: Option<&GroupFinding>) {
    let before = old.and_then(|old| old.trouble.as_ref());
    if let (Some(now), Some(before)) = (&mut finding.trouble, before)
        && now.detail == before.detail
    {
        now.at = before.at;
    }
}

/// What is kept of a group that was found: of one that was given to very many only that it was.
fn kept(found: Option<FoundGroup>) -> Option<FoundGroup> {
    let few = |members: &GroupAccess| match members {
        GroupAccess::All => true,
        GroupAccess::Repositories(names) => names.len() <= MOST_MEMBERS,
        GroupAccess::Organizations(names) => names.len() <= MOST_MEMBERS,
    };
    found.map(|found| FoundGroup { members: found.members.filter(few), ..found })
}

fn refused(found: Option<FoundGroup>, trouble: Failure) -> GroupFinding {
    GroupFinding { found: kept(found), trouble: Some(trouble), mended: None }
}
