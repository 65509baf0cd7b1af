//! The conformance suite of [`Backend`].
//!
//! Run it over an implementation of your own with [`run`](super::run): make a fresh [`Subject`] for each
//! case. A hook that cannot be had makes its case fail, so the case must be in the list of skips with what
//! covers it elsewhere. Every case removes what it made.
//!
//! ```
//! use std::sync::Arc;
//! use runner_manager_core::random::SystemRandom;
//! use runner_manager_core::backend::Backend;
//! use runner_manager_core::domain::{DeploymentName, Owner, Placement, Secret};
//! use runner_manager_core::testing::conformance::backend::{Hooks, Subject, cases};
//! use runner_manager_core::testing::conformance::run;
//!
//! async fn conforms(backend: Arc<dyn Backend>, good: Placement, bad: Placement, hooks: Arc<dyn Hooks>) {
//!     let owner = |key| Owner::new(DeploymentName::new("conformance").unwrap(), &Secret::new(key));
//!     let report = run(cases(), &[], || async {
//!         Subject {
//!             backend: backend.clone(),
//!             good: good.clone(),
//!             bad: bad.clone(),
//!             owner: owner("one"),
//!             stranger: owner("another"),
//!             random: Arc::new(SystemRandom),
//!             hooks: hooks.clone(),
//!         }
//!     })
//!     .await;
//!     assert!(report.skipped.is_empty());
//! }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::join;

use super::Case;
use crate::backend::{Backend, BackendErrorKind, Bootstrap, InstanceSpec};
use crate::domain::{GroupName, Instance, InstanceId, InstanceState, Owner, Placement, RunnerName, Secret};
use crate::random::Random;

/// How long the cases wait for what takes its time, beyond [`Capabilities::settle`]: an instance to run, to
/// end, to be gone.
///
/// [`Capabilities::settle`]: crate::backend::Capabilities::settle
const PATIENCE: Duration = Duration::from_mins(5);

/// How long they wait between two looks.
const STEP: Duration = Duration::from_millis(250);

/// What an implementation lends to the cases.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// A placement where instances can be created: room for five at a time is needed. An instance there
    /// must run until it is told to end.
    pub good: Placement,
    /// A placement that the backend cannot serve: an image or a zone that does not exist.
    pub bad: Placement,
    /// Whose the instances are.
    pub owner: Owner,
    /// Another owner at the same backend.
    pub stranger: Owner,
    /// What makes the runners' names unique. Where earlier runs can have left something, this must not
    /// repeat what it gave them.
    pub random: Arc<dyn Random>,
    /// What the cases ask of the outside.
    pub hooks: Arc<dyn Hooks>,
}

/// The implementation cannot do what a hook asks. The case fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSuchHook;

/// What the cases ask of the outside.
#[async_trait]
pub trait Hooks: Debug + Send + Sync + 'static {
    /// Lets time pass: sleeps, or moves a simulated clock.
    async fn pass(&self, time: Duration);

    /// Makes an instance that runs end by itself, as if its agent had powered it off.
    ///
    /// # Errors
    /// Where this cannot be done.
    async fn end_by_itself(&self, instance: &Instance) -> Result<(), NoSuchHook> {
        let _ = instance;
        Err(NoSuchHook)
    }

    /// Makes the last part of the next list fail: a page that is missing, a reply that breaks off.
    ///
    /// # Errors
    /// Where this cannot be done.
    async fn break_the_next_list(&self) -> Result<(), NoSuchHook> {
        Err(NoSuchHook)
    }
}

/// The cases, by the names of [`Backend`]'s *Behaviour*.
pub fn cases() -> Vec<Case<Subject>> {
    vec![
        case("create_is_seen", create_is_seen),
        case("create_bears_the_owner", create_bears_the_owner),
        case("create_again_is_found", create_again_is_found),
        case("delete_removes", delete_removes),
        case("delete_absent_succeeds", delete_absent_succeeds),
        case("delete_twice_succeeds", delete_twice_succeeds),
        case("get_absent_is_none", get_absent_is_none),
        case("find_absent_is_none", find_absent_is_none),
        case("list_is_the_owners_alone", list_is_the_owners_alone),
        case("list_is_complete", list_is_complete),
        case("ids_are_stable", ids_are_stable),
        case("a_stopped_instance_is_told", a_stopped_instance_is_told),
        case("a_bad_placement_is_refused", a_bad_placement_is_refused),
    ]
}

/// A case that removes what is left, also when it fails.
fn case<F>(name: &'static str, body: impl Fn(Subject) -> F + Copy + Send + Sync + 'static) -> Case<Subject>
where
    F: Future<Output = ()> + Send + 'static,
{
    Case::new(name, move |subject: Subject| async move {
        let outcome = AssertUnwindSafe(body(subject.clone())).catch_unwind().await;
        let cleared = AssertUnwindSafe(subject.clear()).catch_unwind().await;
        if let Err(panic) = outcome.and(cleared) {
            resume_unwind(panic);
        }
    })
}

impl Subject {
    fn name(&self) -> RunnerName {
        let group = Self::group();
        RunnerName::compose(&self.owner.deployment, &group, self.random.next_u64())
            .expect("a short group leaves room for the suffix")
    }

    fn group() -> GroupName {
        GroupName::new("conformance").expect("this is a name")
    }

    fn spec(&self, owner: &Owner, name: &RunnerName) -> InstanceSpec {
        InstanceSpec {
            runner: name.clone(),
            group: Self::group(),
            owner: owner.clone(),
            placement: self.good.clone(),
            tags: BTreeMap::from([("purpose".to_owned(), "conformance".to_owned())]),
            bootstrap: Bootstrap::Direct { jit_config: Secret::new("bm90IGEgcmVhbCBvbmU=") },
        }
    }

    async fn create(&self, name: &RunnerName) -> Instance {
        let spec = self.spec(&self.owner, name);
        self.backend.create(&spec).await.expect("create at the good placement succeeds")
    }

    async fn get(&self, id: &InstanceId) -> Option<Instance> {
        self.backend.get(id).await.expect("get succeeds")
    }

    async fn find(&self, name: &RunnerName) -> Option<Instance> {
        self.backend.find(name).await.expect("find succeeds")
    }

    async fn list(&self, owner: &Owner) -> Vec<Instance> {
        let all = self.backend.list(owner).await.expect("list succeeds");
        all.into_iter().filter(is_there).collect()
    }

    /// Waits until `look` finds something; panics with `what` when it does not in time.
    async fn until<T, F>(&self, what: &str, look: impl Fn() -> F) -> T
    where
        F: Future<Output = Option<T>>,
    {
        let mut waited = Duration::ZERO;
        let most = self.backend.capabilities().settle + PATIENCE;
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(waited <= most, "waited {waited:?} in vain: {what}");
            self.hooks.pass(STEP).await;
            waited += STEP;
        }
    }

    /// Waits until the backend tells of an instance and all its ways of telling agree.
    async fn seen(&self, instance: &Instance) {
        let what = "a created instance is not told of by get, find and list";
        self.until(what, || async {
            let (id, name) = (&instance.id, &instance.runner);
            let told = self.get(id).await.is_some() && self.find(name).await.is_some();
            let listed = self.list(&self.owner).await.iter().any(|listed| listed.id == *id);
            (told && listed).then_some(())
        })
        .await;
    }

    async fn gone(&self, id: &InstanceId) {
        let what = "a deleted instance is neither None nor Gone";
        self.until(what, || async { (!self.get(id).await.as_ref().is_some_and(is_there)).then_some(()) })
            .await;
    }

    /// Removes everything of both owners, and waits until the backend tells of nothing more.
    async fn clear(&self) {
        for owner in [&self.owner, &self.stranger] {
            for instance in self.list(owner).await {
                self.backend.delete(&instance.id).await.expect("delete succeeds");
            }
            let what = "deleted instances are still listed";
            self.until(what, || async { self.list(owner).await.is_empty().then_some(()) }).await;
        }
    }
}

fn is_there(instance: &Instance) -> bool {
    instance.state != InstanceState::Gone
}

async fn create_is_seen(subject: Subject) {
    let name = subject.name();
    let made = subject.create(&name).await;
    assert!(
        matches!(made.state, InstanceState::Pending | InstanceState::Running),
        "a new instance is {}",
        made.state
    );
    subject.seen(&made).await;
    subject
        .until("a created instance does not run", || async {
            subject.get(&made.id).await.filter(|told| told.state == InstanceState::Running)
        })
        .await;
}

async fn create_bears_the_owner(subject: Subject) {
    let name = subject.name();
    let made = subject.create(&name).await;
    assert_eq!((&made.runner, &made.group), (&name, &Subject::group()));
    subject.seen(&made).await;
    let listed = subject.list(&subject.owner).await;
    let listed = listed.iter().find(|listed| listed.id == made.id).expect("list of the owner has it");
    assert_eq!((&listed.runner, &listed.group), (&name, &Subject::group()));
}

/// Also where both calls are made at once.
async fn create_again_is_found(subject: Subject) {
    if !subject.backend.capabilities().unique_names {
        return;
    }
    let name = subject.name();
    let spec = subject.spec(&subject.owner, &name);
    let (one, other) = join(subject.backend.create(&spec), subject.backend.create(&spec)).await;
    let (one, other) =
        (one.expect("one create succeeds"), other.expect("a create at the same time succeeds"));
    assert_eq!(one.id, other.id, "two creates of one name at once made two instances");
    subject.seen(&one).await;
    assert_eq!(subject.create(&name).await.id, one.id, "a later create made a second instance");
    let bearers = subject.list(&subject.owner).await;
    assert_eq!(bearers.iter().filter(|bearer| bearer.runner == name).count(), 1);
}

async fn delete_removes(subject: Subject) {
    let name = subject.name();
    let made = subject.create(&name).await;
    subject.seen(&made).await;
    subject.backend.delete(&made.id).await.expect("delete succeeds");
    subject.gone(&made.id).await;
    let found = subject.find(&name).await;
    assert!(!found.as_ref().is_some_and(is_there), "find still tells of {found:?}");
    assert!(subject.list(&subject.owner).await.iter().all(|listed| listed.id != made.id));
}

/// Of an id that the backend once gave: others need not be readable to it.
async fn delete_absent_succeeds(subject: Subject) {
    let gone = gone_instance(&subject).await;
    subject.backend.delete(&gone.id).await.expect("deleting what does not exist is success");
}

async fn delete_twice_succeeds(subject: Subject) {
    let made = subject.create(&subject.name()).await;
    subject.seen(&made).await;
    let (one, other) = join(subject.backend.delete(&made.id), subject.backend.delete(&made.id)).await;
    one.expect("delete succeeds");
    other.expect("a delete at the same time succeeds");
    subject.backend.delete(&made.id).await.expect("a delete right after it succeeds");
    subject.gone(&made.id).await;
}

async fn get_absent_is_none(subject: Subject) {
    let gone = gone_instance(&subject).await;
    let told = subject.get(&gone.id).await;
    assert!(!told.as_ref().is_some_and(is_there), "get tells of {told:?}");
}

/// Also for a name that another one begins with, and one that begins with another.
async fn find_absent_is_none(subject: Subject) {
    assert_eq!(subject.find(&subject.name()).await, None);
    let name = subject.name();
    let made = subject.create(&name).await;
    subject.seen(&made).await;
    let (longer, shorter) = (format!("{name}x"), &name.as_str()[..name.as_str().len() - 1]);
    for near in [longer.as_str(), shorter] {
        let Ok(near) = RunnerName::new(near) else { continue };
        assert_eq!(subject.find(&near).await, None, "find of {near} matched {name}");
    }
}

async fn list_is_the_owners_alone(subject: Subject) {
    let ours = subject.create(&subject.name()).await;
    let spec = subject.spec(&subject.stranger, &subject.name());
    let theirs = subject.backend.create(&spec).await.expect("create for another owner succeeds");
    subject.seen(&ours).await;
    let what = "list of the other owner does not have its instance";
    subject
        .until(what, || async {
            subject.list(&subject.stranger).await.into_iter().find(|listed| listed.id == theirs.id)
        })
        .await;
    for (owner, own) in [(&subject.owner, &ours), (&subject.stranger, &theirs)] {
        let listed = subject.list(owner).await;
        let ids: Vec<&InstanceId> = listed.iter().map(|listed| &listed.id).collect();
        assert_eq!(ids, [&own.id], "list of {owner}");
    }
}

async fn list_is_complete(subject: Subject) {
    let mut made = BTreeSet::new();
    for _ in 0..5 {
        let instance = subject.create(&subject.name()).await;
        subject.seen(&instance).await;
        made.insert(instance.id);
    }
    let listed = subject.list(&subject.owner).await;
    assert_eq!(listed.len(), made.len(), "list tells of one instance twice, or not of all");
    assert_eq!(listed.into_iter().map(|listed| listed.id).collect::<BTreeSet<_>>(), made);
    subject.hooks.break_the_next_list().await.expect("the implementation can break a list");
    let broken = subject.backend.list(&subject.owner).await;
    assert!(broken.is_err(), "a list with a missing part was told as if it were whole: {broken:?}");
}

async fn ids_are_stable(subject: Subject) {
    let name = subject.name();
    let made = subject.create(&name).await;
    subject.seen(&made).await;
    let running = subject
        .until("a created instance does not run", || async {
            subject.get(&made.id).await.filter(|told| told.state == InstanceState::Running)
        })
        .await;
    let found = subject.find(&name).await.expect("find tells of it");
    let listed = subject.list(&subject.owner).await;
    let listed = listed.iter().find(|listed| listed.runner == name).expect("list tells of it");
    for told in [&running, &found, listed] {
        assert_eq!((&told.id, told.created_at), (&made.id, made.created_at));
    }
}

async fn a_stopped_instance_is_told(subject: Subject) {
    let made = subject.create(&subject.name()).await;
    let running = subject
        .until("a created instance does not run", || async {
            subject.get(&made.id).await.filter(|told| told.state == InstanceState::Running)
        })
        .await;
    subject.hooks.end_by_itself(&running).await.expect("the implementation can end an instance");
    subject
        .until("an instance that ended by itself is told as running", || async {
            let told = subject.get(&made.id).await.map(|told| told.state);
            let ended = matches!(
                told,
                None | Some(InstanceState::Stopped | InstanceState::Failed(..) | InstanceState::Gone)
            );
            ended.then_some(())
        })
        .await;
    let listed = subject.list(&subject.owner).await;
    assert!(
        listed.iter().all(|listed| listed.id != made.id || listed.state != InstanceState::Running),
        "list tells of an ended instance as running"
    );
}

async fn a_bad_placement_is_refused(subject: Subject) {
    let name = subject.name();
    let spec = InstanceSpec { placement: subject.bad.clone(), ..subject.spec(&subject.owner, &name) };
    let error = subject.backend.create(&spec).await.expect_err("the bad placement is refused");
    assert_ne!(error.kind, BackendErrorKind::Unclear, "the refusal is not definite: {error}");
    assert!(!error.detail.is_empty(), "the refusal does not say why");
    subject.hooks.pass(subject.backend.capabilities().settle).await;
    assert_eq!(subject.find(&name).await, None, "an instance is left");
    assert_eq!(subject.list(&subject.owner).await, [], "an instance is left");
}

/// An instance that was made and is gone.
async fn gone_instance(subject: &Subject) -> Instance {
    let made = subject.create(&subject.name()).await;
    subject.seen(&made).await;
    subject.backend.delete(&made.id).await.expect("delete succeeds");
    subject.gone(&made.id).await;
    made
}
