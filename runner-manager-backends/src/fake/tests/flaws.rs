//! The conformance suite finds what it is there to find: for every case a backend that has just that flaw.

use std::sync::Arc;

use async_trait::async_trait;
use runner_manager_core::backend::{Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec};
use runner_manager_core::domain::{GroupName, Instance, InstanceId, InstanceState, Owner, RunnerName};
use runner_manager_core::testing::conformance::backend::cases;
use runner_manager_core::testing::conformance::{Skip, run};

use super::super::{Behaviour, FakeBackend};
use super::conformance::subject;
use super::{Lab, owner, placement};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    GetKnowsNothing,
    ListTellsAnotherGroup,
    NamesAreNotUniqueAfterAll,
    DeleteDoesNothing,
    DeleteOfTheAbsentFails,
    GetOfTheAbsentFails,
    FindMatchesBeginnings,
    ListIsEverybodys,
    ListSwallowsErrors,
    ListTellsTwice,
    FindGivesAnotherId,
    StoppedIsToldAsRunning,
    BadPlacementIsUnclear,
    BadPlacementLeavesAnInstance,
}

#[derive(Debug)]
struct Flawed {
    inner: FakeBackend,
    flaw: Flaw,
}

impl Flawed {
    async fn is_absent(&self, id: &InstanceId) -> Result<bool, BackendError> {
        Ok(self.inner.get(id).await?.is_none())
    }
}

fn absent(operation: &'static str) -> BackendError {
    BackendError::new(BackendErrorKind::NotFound, operation, "there is no such instance")
}

#[async_trait]
impl Backend for Flawed {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let created = self.inner.create(spec).await;
        match (created, self.flaw) {
            (Err(error), Flaw::BadPlacementIsUnclear) => {
                Err(BackendError::new(BackendErrorKind::Unclear, "create", error.detail))
            }
            (Err(error), Flaw::BadPlacementLeavesAnInstance) => {
                let elsewhere = InstanceSpec { placement: placement("zone-a"), ..spec.clone() };
                self.inner.create(&elsewhere).await?;
                Err(error)
            }
            (created, _) => created,
        }
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        match self.flaw {
            Flaw::DeleteDoesNothing => Ok(()),
            Flaw::DeleteOfTheAbsentFails if self.is_absent(id).await? => Err(absent("delete")),
            _ => self.inner.delete(id).await,
        }
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        let told = self.inner.get(id).await?;
        match (told, self.flaw) {
            (_, Flaw::GetKnowsNothing) => Ok(None),
            (None, Flaw::GetOfTheAbsentFails) => Err(absent("get")),
            (Some(told), Flaw::StoppedIsToldAsRunning) => {
                Ok(Some(Instance { state: InstanceState::Running, ..told }))
            }
            (told, _) => Ok(told),
        }
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        if self.flaw == Flaw::FindMatchesBeginnings {
            let all = self.inner.list(&owner("one")).await?;
            return Ok(all.into_iter().find(|told| told.runner.as_str().starts_with(name.as_str())));
        }
        let mut found = self.inner.find(name).await?;
        if let (Some(found), Flaw::FindGivesAnotherId) = (&mut found, self.flaw) {
            found.id = InstanceId::new(format!("found-{}", found.id));
        }
        Ok(found)
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let mut listed = match self.inner.list(owner).await {
            Err(_) if self.flaw == Flaw::ListSwallowsErrors => Vec::new(),
            listed => listed?,
        };
        match self.flaw {
            Flaw::ListIsEverybodys => {
                listed.extend(self.inner.list(&super::owner("one")).await?);
                listed.extend(self.inner.list(&super::owner("another")).await?);
            }
            Flaw::ListTellsTwice => listed.extend(listed.clone()),
            Flaw::ListTellsAnotherGroup => {
                for told in &mut listed {
                    told.group = GroupName::new("another").unwrap();
                }
            }
            _ => {}
        }
        Ok(listed)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { unique_names: true, ..self.inner.capabilities() }
    }
}

#[tokio::test]
async fn each_flaw_is_found_by_its_case() {
    let flaws = [
        ("create_is_seen", Flaw::GetKnowsNothing),
        ("create_bears_the_owner", Flaw::ListTellsAnotherGroup),
        ("create_again_is_found", Flaw::NamesAreNotUniqueAfterAll),
        ("delete_removes", Flaw::DeleteDoesNothing),
        ("delete_absent_succeeds", Flaw::DeleteOfTheAbsentFails),
        ("delete_twice_succeeds", Flaw::DeleteOfTheAbsentFails),
        ("get_absent_is_none", Flaw::GetOfTheAbsentFails),
        ("find_absent_is_none", Flaw::FindMatchesBeginnings),
        ("list_is_the_owners_alone", Flaw::ListIsEverybodys),
        ("list_is_complete", Flaw::ListSwallowsErrors),
        ("list_is_complete", Flaw::ListTellsTwice),
        ("ids_are_stable", Flaw::FindGivesAnotherId),
        ("a_stopped_instance_is_told", Flaw::StoppedIsToldAsRunning),
        ("a_bad_placement_is_refused", Flaw::BadPlacementIsUnclear),
        ("a_bad_placement_is_refused", Flaw::BadPlacementLeavesAnInstance),
    ];
    for case in cases() {
        assert!(flaws.iter().any(|(name, _)| *name == case.name), "no flaw tries {}", case.name);
    }
    for (name, flaw) in flaws {
        let case = cases().into_iter().filter(|case| case.name == name).collect();
        // A skipped case that passes would fail the run: so the case must fail.
        let skip = Skip { case: name, because: "the backend has this flaw" };
        let report = run(case, &[skip], || async {
            let unique_names = flaw != Flaw::NamesAreNotUniqueAfterAll;
            let lab = Lab::new(Behaviour { unique_names, ..Behaviour::default() });
            subject(lab, |inner| Arc::new(Flawed { inner, flaw }))
        })
        .await;
        assert_eq!(report.skipped, [name], "{flaw:?}");
    }
}
