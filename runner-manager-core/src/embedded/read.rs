//! Reading records and lists.

use super::key::{Key, Span};
use super::schema::{
    self, DEPLOYMENT_ROW, Stored, TRUSTED_ROW, Table, hook_key, job_key, jobs_queued, jobs_recorded,
    jobs_unserved, runners_in, runners_of, runners_on, runners_under,
};
use super::step::number;
use super::tables::{Direction, Read, collect, decode, load};
use crate::domain::{
    Deployment, EndedRunner, GroupName, HookPlace, HookRecord, Incarnation, JobId, Runner, RunnerName,
    WorkflowJob,
};
use crate::store::{
    DeploymentView, GroupCounts, GroupRecord, GroupView, JobFilter, Page, RunnerFilter, StoreError, Versioned,
};

/// A group's counters.
pub(super) fn counts(tables: &dyn Read, group: &GroupName) -> Result<GroupCounts, StoreError> {
    Ok(load(tables, Table::Counts, group.as_str().as_bytes())?.unwrap_or_default())
}

/// A runner.
pub(super) fn runner(tables: &dyn Read, name: &RunnerName) -> Result<Option<Stored<Runner>>, StoreError> {
    load(tables, Table::Runners, name.as_str().as_bytes())
}

/// A job.
pub(super) fn job(tables: &dyn Read, id: JobId) -> Result<Option<Stored<WorkflowJob>>, StoreError> {
    load(tables, Table::Jobs, job_key(id).bytes())
}

/// What is known of a place's hook.
pub(super) fn hook(tables: &dyn Read, place: &HookPlace) -> Result<Option<Stored<HookRecord>>, StoreError> {
    load(tables, Table::Meta, hook_key(place).bytes())
}

/// What is known of all hooks.
pub(super) fn hooks(tables: &dyn Read) -> Result<Vec<Versioned<HookRecord>>, StoreError> {
    collect(tables, Table::Meta, &schema::hooks().span(), Direction::Forward, usize::MAX)?
        .iter()
        .map(|(key, value)| decode::<Stored<HookRecord>>(Table::Meta, key, value).map(Into::into))
        .collect()
}

/// The deployment's record.
pub(super) fn deployment(tables: &dyn Read) -> Result<Option<Stored<Deployment>>, StoreError> {
    load(tables, Table::Meta, DEPLOYMENT_ROW)
}

/// Whether a life of the storage is trusted.
pub(super) fn is_trusted(tables: &dyn Read, incarnation: u64) -> Result<bool, StoreError> {
    let trusted = tables.get(Table::Meta, TRUSTED_ROW)?;
    Ok(trusted.map_or(Ok(0), |bytes| number(&bytes))? == incarnation)
}

/// The deployment's record, and whether the storage is trusted.
pub(super) fn deployment_view(tables: &dyn Read, incarnation: u64) -> Result<DeploymentView, StoreError> {
    Ok(DeploymentView {
        record: deployment(tables)?.map(Into::into),
        incarnation: name_of(incarnation),
        trusted: is_trusted(tables, incarnation)?,
    })
}

/// What the lives of an embedded storage are called.
pub(super) fn name_of(incarnation: u64) -> Incarnation {
    Incarnation::new(format!("embedded-{incarnation}"))
}

/// A group with its counters.
pub(super) fn group(tables: &dyn Read, name: &GroupName) -> Result<Option<GroupView>, StoreError> {
    let found: Option<Stored<GroupRecord>> = load(tables, Table::Groups, name.as_str().as_bytes())?;
    found.map(|stored| view(tables, stored)).transpose()
}

/// All groups with their counters.
pub(super) fn groups(tables: &dyn Read) -> Result<Vec<GroupView>, StoreError> {
    collect(tables, Table::Groups, &Span::all(), Direction::Forward, usize::MAX)?
        .iter()
        .map(|(key, value)| view(tables, decode(Table::Groups, key, value)?))
        .collect()
}

fn view(tables: &dyn Read, stored: Stored<GroupRecord>) -> Result<GroupView, StoreError> {
    let counts = counts(tables, &stored.value.spec.name)?;
    Ok(GroupView { record: stored.into(), counts })
}

/// A page of runners.
pub(super) fn runners(
    tables: &dyn Read,
    filter: &RunnerFilter,
    page: &Page<RunnerName>,
) -> Result<Vec<Versioned<Runner>>, StoreError> {
    let list = match filter {
        RunnerFilter::All => return all_runners(tables, page),
        RunnerFilter::Group(group) => runners_of(group),
        RunnerFilter::Phase(group, phase) => runners_in(group, *phase),
        RunnerFilter::Backend(backend) => runners_on(backend),
        RunnerFilter::Scope(scope) => runners_under(scope),
    };
    let after = match (filter, &page.after) {
        (_, None) => None,
        (RunnerFilter::Phase(group, phase), Some(name)) => runner(tables, name)?
            .map(|stored| stored.value)
            .filter(|last| last.group == *group && last.phase() == *phase)
            .map(|last| list.clone().time(last.since).last(name.as_str())),
        (_, Some(name)) => Some(list.clone().last(name.as_str())),
    };
    let span = after.into_iter().fold(list.span(), Span::after);
    collect(tables, Table::RunnersBy, &span, Direction::Forward, page.limit)?
        .into_iter()
        .map(|(_, key)| indexed::<Runner>(tables, Table::Runners, &key))
        .collect()
}

fn all_runners(tables: &dyn Read, page: &Page<RunnerName>) -> Result<Vec<Versioned<Runner>>, StoreError> {
    let after = page.after.iter().map(|name| Key::new().last(name.as_str()));
    let span = after.fold(Span::all(), Span::after);
    collect(tables, Table::Runners, &span, Direction::Forward, page.limit)?
        .iter()
        .map(|(key, value)| decode::<Stored<Runner>>(Table::Runners, key, value).map(Into::into))
        .collect()
}

/// A page of jobs.
pub(super) fn jobs(
    tables: &dyn Read,
    filter: &JobFilter,
    page: &Page<JobId>,
) -> Result<Vec<Versioned<WorkflowJob>>, StoreError> {
    let (list, direction) = match filter {
        JobFilter::All => (jobs_recorded(), Direction::Backward),
        JobFilter::Queued(group) => (jobs_queued(group), Direction::Forward),
        JobFilter::Unserved => (jobs_unserved(), Direction::Forward),
    };
    // A job keeps its times, so its place in a list is known even after it left the list.
    let previous = page.after.map(|id| job(tables, id)).transpose()?.flatten();
    let after = previous.map(|Stored { value, .. }| {
        let time = if *filter == JobFilter::All { value.recorded_at } else { value.created_at };
        list.clone().time(time).number(value.id.0)
    });
    let span = after.into_iter().fold(
        list.span(),
        match direction {
            Direction::Forward => Span::after,
            Direction::Backward => Span::before,
        },
    );
    collect(tables, Table::JobsBy, &span, direction, page.limit)?
        .into_iter()
        .map(|(_, key)| indexed::<WorkflowJob>(tables, Table::Jobs, &key))
        .collect()
}

/// The record that an index entry names.
fn indexed<T: serde::de::DeserializeOwned>(
    tables: &dyn Read,
    table: Table,
    key: &[u8],
) -> Result<Versioned<T>, StoreError> {
    let found: Option<Stored<T>> = load(tables, table, key)?;
    found.map(Into::into).ok_or_else(|| {
        let key = key.escape_ascii();
        StoreError::Corrupt(format!("an index names `{key}`, which table {} lacks", table.name()), None)
    })
}

/// The runners that ended last.
pub(super) fn ended_runners(tables: &dyn Read, limit: usize) -> Result<Vec<EndedRunner>, StoreError> {
    collect(tables, Table::Ended, &Span::all(), Direction::Backward, limit)?
        .iter()
        .map(|(key, value)| decode(Table::Ended, key, value))
        .collect()
}
