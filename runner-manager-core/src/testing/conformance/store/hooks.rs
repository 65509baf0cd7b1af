//! Cases of what is known of hooks.

use super::super::storage::StorageSubject;
use super::writes::is_conflict;
use crate::domain::{
    ConnectionName, DeliveryId, FailedDelivery, FoundHook, HookPlace, HookRecord, Redelivery, Scope,
};
use crate::store::{Change, Expected, Version};

fn repository(name: &str) -> HookPlace {
    HookPlace::Scope(Scope::Repository(name.parse().unwrap()))
}

fn app() -> HookPlace {
    HookPlace::App { connection: ConnectionName::default(), account: 0 }
}

/// A record with something in each of its parts.
async fn record(on: &StorageSubject, place: HookPlace) -> HookRecord {
    let now = on.now().await;
    let failed = |redelivery| FailedDelivery { attempt: u64::MAX, failed_at: now, redelivery };
    let redeliveries = [
        Redelivery::Due,
        Redelivery::Asking { since: now, again: true },
        Redelivery::Asked { at: now },
        Redelivery::Over,
    ];
    let named = redeliveries.into_iter().enumerate();
    HookRecord {
        given_up_at: Some(now),
        place,
        found: Some(FoundHook::Numbered(7)),
        url: Some("https://rm.example.com/webhook".to_owned()),
        sought_at: Some(now),
        read_at: Some(now),
        read_to: Some(now),
        failed: named
            .map(|(at, redelivery)| (DeliveryId::new(format!("delivery-{at}")), failed(redelivery)))
            .collect(),
        trouble: Some("PermissionDenied".to_owned()),
    }
}

pub(super) async fn hooks_are_known_by_their_place(on: StorageSubject) {
    let put = |record: &HookRecord, expected| Change::PutHook { record: record.clone(), expected };
    assert!(on.store.hooks().await.unwrap().is_empty());
    assert!(on.store.hook(&app()).await.unwrap().is_none());
    let (web, of_app) = (record(&on, repository("acme/web")).await, HookRecord::new(app()));
    assert!(is_conflict(&on.try_apply(put(&web, Expected::Version(Version(u64::MAX)))).await));
    let old = on.apply(put(&web, Expected::Absent)).await;
    on.apply(put(&of_app, Expected::Absent)).await;
    assert!(is_conflict(&on.try_apply(put(&web, Expected::Absent)).await));
    let found = on.store.hook(&web.place).await.unwrap().unwrap();
    assert_eq!((found.value, found.version), (web, old));

    let renamed = record(&on, repository("Acme/Web")).await;
    let new = on.apply(put(&renamed, Expected::Version(old))).await;
    assert!(new > old);
    assert!(is_conflict(&on.try_apply(put(&renamed, Expected::Version(old))).await));
    let listed = on.store.hooks().await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|hook| hook.value).collect();
    assert_eq!(listed, [of_app, renamed.clone()], "one record of a place, however it is written");
    let twice = vec![put(&renamed, Expected::Version(new)), put(&renamed, Expected::Version(new))];
    assert!(is_conflict(&on.store.apply(on.write(twice)).await), "a record is named once");

    let remove = |expected| Change::RemoveHook { place: repository("acme/WEB"), expected };
    assert!(is_conflict(&on.try_apply(remove(old)).await));
    assert_eq!(on.try_apply(remove(new)).await.unwrap().versions, [None]);
    assert!(on.store.hook(&renamed.place).await.unwrap().is_none());
    assert!(is_conflict(&on.try_apply(remove(new)).await));
    assert!(on.apply(put(&renamed, Expected::Absent)).await > new, "a version never returns");
    assert_eq!(on.store.hooks().await.unwrap().len(), 2);
}
