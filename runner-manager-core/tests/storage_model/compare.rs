//! Holds all that a storage tells of itself against the reference.

use std::collections::BTreeSet;

use jiff::Timestamp;
use runner_manager_core::domain::EndedRunner;
use runner_manager_core::manager::Storage;
use runner_manager_core::queue::{DeadTask, QueueStatistics};
use runner_manager_core::store::{DeploymentView, GroupRecord, GroupView, Page, Version};

use crate::model::Model;
use crate::names::{Difference, Names, same};
use crate::records;

/// More than there ever are.
const ALL: usize = 1000;

/// Compares everything.
pub(crate) async fn everything(storage: &Storage, model: &Model, names: &Names) -> Result<(), Difference> {
    deployment(storage, model, names).await?;
    groups(storage, model, names).await?;
    runners(storage, model, names).await?;
    jobs(storage, model, names).await?;
    hooks(storage, model, names).await?;
    history(storage, model, names).await?;
    statistics(storage, model, names).await
}

async fn deployment(storage: &Storage, model: &Model, names: &Names) -> Result<(), Difference> {
    let record = model.held.records.deployment.clone();
    let expected = DeploymentView {
        record: record.map(|record| names.versioned(record)),
        incarnation: names.lives.last().unwrap().clone(),
        trusted: model.is_trusted(),
    };
    same("the deployment", &expected, &storage.store.deployment().await.unwrap())
}

async fn groups(storage: &Storage, model: &Model, names: &Names) -> Result<(), Difference> {
    let records = &model.held.records;
    let view = |named: &(GroupRecord, Version)| {
        let record = names.versioned(named.clone());
        GroupView { counts: records.counts(&record.value.spec.name), record }
    };
    let expected: Vec<GroupView> = records.groups.values().map(view).collect();
    same("the groups", &expected, &storage.store.groups().await.unwrap())?;
    for name in (0..records::GROUPS).map(records::group_name) {
        let expected = records.groups.get(&name).map(view);
        same(&format!("group {name}"), &expected, &storage.store.group(&name).await.unwrap())?;
    }
    Ok(())
}

async fn runners(storage: &Storage, model: &Model, names: &Names) -> Result<(), Difference> {
    let records = &model.held.records;
    for name in (0..records::RUNNERS).map(records::runner_name) {
        let expected = records.runners.get(&name).map(|named| names.versioned(named.clone()));
        same(&format!("runner {name}"), &expected, &storage.store.runner(&name).await.unwrap())?;
    }
    for filter in records::runner_filters() {
        let page = Page::first(ALL);
        let listed = records.runners(&filter, &page);
        let expected: Vec<_> = listed.into_iter().map(|named| names.versioned(named)).collect();
        let found = storage.store.runners(&filter, &page).await.unwrap();
        same(&format!("the runners by {filter:?}"), &expected, &found)?;
    }
    Ok(())
}

async fn jobs(storage: &Storage, model: &Model, names: &Names) -> Result<(), Difference> {
    let records = &model.held.records;
    for id in (0..records::JOBS).map(records::job_id) {
        let expected = records.jobs.get(&id).map(|named| names.versioned(named.clone()));
        same(&format!("job {id}"), &expected, &storage.store.job(id).await.unwrap())?;
    }
    for filter in records::job_filters() {
        let page = Page::first(ALL);
        let listed = records.jobs(&filter, &page);
        let expected: Vec<_> = listed.into_iter().map(|named| names.versioned(named)).collect();
        let found = storage.store.jobs(&filter, &page).await.unwrap();
        same(&format!("the jobs by {filter:?}"), &expected, &found)?;
    }
    Ok(())
}

async fn hooks(storage: &Storage, model: &Model, names: &Names) -> Result<(), Difference> {
    let records = &model.held.records.hooks;
    for place in (0..records::HOOKS).map(records::hook_place) {
        let expected = records.get(&place.key()).map(|named| names.versioned(named.clone()));
        same(&format!("the hook of {place}"), &expected, &storage.store.hook(&place).await.unwrap())?;
    }
    let expected: Vec<_> = records.values().map(|named| names.versioned(named.clone())).collect();
    same("the hooks", &expected, &storage.store.hooks().await.unwrap())
}

/// A list of what is over, the last first. In which order equal times stand is open.
fn in_order<T>(what: &str, list: &mut [T], at: impl Fn(&T) -> (Timestamp, String)) -> Result<(), Difference> {
    if !list.is_sorted_by(|one, two| at(one).0 >= at(two).0) {
        return Err(format!("{what} are not listed with the last first"));
    }
    list.sort_by_key(|entry| std::cmp::Reverse(at(entry)));
    Ok(())
}

async fn history(storage: &Storage, model: &Model, names: &Names) -> Result<(), Difference> {
    let found = storage.store.ended_runners(ALL).await.unwrap();
    let first = storage.store.ended_runners(2).await.unwrap();
    same("the first of the ended runners", &found[..found.len().min(2)].to_vec(), &first)?;
    same("the ended runners", &last_ends(&model.held.records.ended)?, &last_ends(&found)?)?;

    let mut found = storage.queue.dead(ALL).await.unwrap();
    let first = storage.queue.dead(2).await.unwrap();
    same("the first of the dead tasks", &found[..found.len().min(2)].to_vec(), &first)?;
    let mut expected: Vec<DeadTask> = model.held.queue.dead.iter().rev().cloned().collect();
    for (expected, found) in expected.iter().zip(&mut found) {
        found.at = names.time(expected.at, found.at);
    }
    for dead in [&mut expected, &mut found] {
        in_order("the dead tasks", dead, |dead| (dead.at, dead.task.key()))?;
    }
    same("the dead tasks", &expected, &found)
}

/// The last end of each runner. A name is not used twice, so what else is kept of it is open.
fn last_ends(ended: &[EndedRunner]) -> Result<Vec<EndedRunner>, Difference> {
    let mut seen = BTreeSet::new();
    let mut list = ended.to_vec();
    list.sort_by_key(|ended| std::cmp::Reverse(ended.ended_at));
    list.retain(|ended| seen.insert(ended.name.clone()));
    in_order("the ended runners", &mut list, |ended| (ended.ended_at, ended.name.to_string()))?;
    Ok(list)
}

async fn statistics(storage: &Storage, model: &Model, names: &Names) -> Result<(), Difference> {
    let expected: QueueStatistics = model.held.queue.statistics(model.now);
    let mut found = storage.queue.statistics().await.unwrap();
    for (expected, found) in expected.lanes.iter().zip(&mut found.lanes) {
        if let (Some(expected), Some(oldest)) = (expected.oldest_due, &mut found.oldest_due) {
            *oldest = names.time(expected, *oldest);
        }
    }
    same("the statistics", &expected, &found)
}
