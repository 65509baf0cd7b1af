//! The trait [`Backend`]: what hosts instances, and [`BackendKind`]: what makes one pluggable.
//!
//! A backend makes, finds, lists and deletes instances. It decides nothing: which placement is tried, when,
//! and what follows from a failure is the [`policy`](crate::policy)'s affair.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemars::Schema;
use serde::{Deserialize, Serialize};

use crate::budget::Rate;
use crate::clock::Clock;
use crate::domain::{
    BackendName, GroupName, Instance, InstanceId, JobRef, Owner, Phase, Placement, RunnerName, Secret,
};
use crate::retry::Retry;

/// What an instance does when it starts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Bootstrap {
    /// It starts the actions runner with this JIT config, which the backend hands over as it can: in user
    /// data, or in the environment of a container.
    Direct {
        /// GitHub's `encoded_jit_config`.
        jit_config: Secret,
    },
    /// It calls the manager, which gives it its script and its JIT config. Handed only to a backend that
    /// [can](Capabilities::callback).
    Callback {
        /// The manager's address as the instance reaches it, without `/bootstrap`.
        url: String,
        /// The certificates in PEM that sign the manager's; none where the instance's own do.
        ca: Option<String>,
        /// By which the instance shows whose it is: good for its runner alone.
        token: Secret,
    },
}

/// All that a backend must know to make one instance.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    /// The runner, whose name the instance bears.
    pub runner: RunnerName,
    /// The runner's group.
    pub group: GroupName,
    /// Whose the instance is: stands on it from its first moment.
    pub owner: Owner,
    /// Where to make it, and from what.
    pub placement: Placement,
    /// The user's own tags.
    pub tags: BTreeMap<String, String>,
    /// What it does when it starts.
    pub bootstrap: Bootstrap,
}

/// What a runner is doing, to be written onto its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// The runner's phase.
    pub phase: Phase,
    /// Its job, where it has one.
    pub job: Option<JobRef>,
}

/// What a backend can and cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether the backend itself refuses a second instance of one name. Where it does not, the sweep looks
    /// for doubles.
    pub unique_names: bool,
    /// How long after a `create` call an instance may still appear in `find` and `list`. Absence counts only
    /// in readings begun after this.
    pub settle: Duration,
    /// How long an instance that an answer has named may still be missing from `get`, `find` and `list`, as
    /// where reads lag behind writes. Until then "not there" frees no slot. Zero where reads see every write.
    pub lag: Duration,
    /// Whether [`Backend::update`] writes onto the instance.
    pub update: bool,
    /// Whether its instances can call the manager ([`Bootstrap::Callback`]), for which [`Backend::start_script`] has what
    /// they fetch. Where not, they are given their JIT config.
    pub callback: bool,
}

/// How the cloud behind a backend bounds creates and deletes, each by itself and for a whole account.
///
/// [`create`](Backend::create) and [`delete`](Backend::delete) are paced by it over all replicas, and over all backends
/// of one account. Where one of them is refused with [`RateLimited`](BackendErrorKind::RateLimited), only calls of its
/// kind are left alone then, but for the whole account: the cloud counts the others apart. By default nothing of this is
/// so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Throttle {
    /// For whom the cloud counts: a word that all backends have in common whose calls it counts together, whatever
    /// they are called, such as `aws:123456789012:eu-west-1`. None where that is not known, or not yet: meanwhile
    /// calls are counted for the backend's name, as they always are, too.
    pub account: Option<String>,
    /// How many creates may be begun in any period. A call is counted up to a second or so before it reaches the cloud.
    /// None for no bound.
    pub creates: Option<Rate>,
    /// The same of deletes.
    pub deletes: Option<Rate>,
}

/// What kind of thing went wrong at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// Something that the call needs (an image, a network) does not exist.
    NotFound,
    /// There is no room at this placement now.
    NoCapacity,
    /// A quota does not allow it.
    QuotaExceeded,
    /// Too many calls.
    RateLimited,
    /// The credentials are wrong or have ended.
    Unauthenticated,
    /// The credentials do not allow this call.
    PermissionDenied,
    /// The settings make no sense to the backend.
    InvalidConfig,
    /// The backend cannot do this at all.
    Unsupported,
    /// The backend could not be reached, or said that it cannot work now. The call had no effect.
    Unavailable,
    /// The call may or may not have had its effect: a time-out, a lost reply.
    Unclear,
    /// Anything else. The call had no effect.
    Unexpected,
}

impl BackendErrorKind {
    /// The kind's word, for messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::NoCapacity => "NoCapacity",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::RateLimited => "RateLimited",
            Self::Unauthenticated => "Unauthenticated",
            Self::PermissionDenied => "PermissionDenied",
            Self::InvalidConfig => "InvalidConfig",
            Self::Unsupported => "Unsupported",
            Self::Unavailable => "Unavailable",
            Self::Unclear => "Unclear",
            Self::Unexpected => "Unexpected",
        }
    }
}

impl fmt::Display for BackendErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed call to a backend.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {kind}: {detail}")]
pub struct BackendError {
    /// What kind of thing went wrong: callers act on this.
    pub kind: BackendErrorKind,
    /// Whether another try is worth it: retry policies look at this alone.
    pub retry: Retry,
    /// Which call it was.
    pub operation: &'static str,
    /// What the backend said, for people. No secret.
    pub detail: String,
    /// What is behind it.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl BackendError {
    /// An error of a kind, with the retry advice that is usual for the kind.
    pub fn new(kind: BackendErrorKind, operation: &'static str, detail: impl Into<String>) -> Self {
        let retry = match kind {
            BackendErrorKind::NotFound
            | BackendErrorKind::Unauthenticated
            | BackendErrorKind::PermissionDenied
            | BackendErrorKind::InvalidConfig
            | BackendErrorKind::Unsupported => Retry::Never,
            BackendErrorKind::NoCapacity
            | BackendErrorKind::QuotaExceeded
            | BackendErrorKind::RateLimited
            | BackendErrorKind::Unavailable
            | BackendErrorKind::Unclear
            | BackendErrorKind::Unexpected => Retry::Backoff,
        };
        Self { kind, retry, operation, detail: detail.into(), source: None }
    }

    /// The same error with what is behind it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with another retry advice.
    #[must_use]
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }
}

/// What hosts instances.
///
/// # Behaviour
/// The conformance suite (`testing::conformance::backend`) tests these, by these names:
/// - `create_is_seen`: once `create` returned, `get` and `find` tell of the instance, at the latest after
///   [`Capabilities::settle`].
/// - `create_bears_the_owner`: the instance bears owner, group and runner from its first moment, and `list`
///   of that owner has it.
/// - `create_again_is_found`: where names are unique, a second `create` of one name and owner makes no second
///   instance and answers with the first, also when both calls are made at once. A name that another owner
///   has taken is an error.
/// - `delete_removes`: after `delete`, `get` ends at `None` or [`Gone`](crate::domain::InstanceState::Gone),
///   and then `find` and `list` have it no more, or as `Gone`.
/// - `delete_absent_succeeds`: deleting what does not exist any more is success. The id is one that the
///   backend gave; it need not understand others.
/// - `delete_twice_succeeds`: so is deleting twice, one after the other or at once.
/// - `get_absent_is_none`: an instance that does not exist any more is `None` or `Gone`, not an error.
/// - `find_absent_is_none`: a name that no instance bears is `None`. Names are compared whole: a longer or
///   shorter one is another.
/// - `list_is_the_owners_alone`: `list` has all instances of the owner, and none of another's, be it that of
///   a deployment of the same name with another key.
/// - `list_is_complete`: `list` follows all pages; where one is missing it is an error, never a shorter list.
/// - `ids_are_stable`: `create`, `get`, `find` and `list` give the same id and the same `created_at` for one
///   instance.
/// - `a_stopped_instance_is_told`: an instance that ended by itself is `Stopped`, `Failed` or gone, not
///   `Running`.
/// - `a_bad_placement_is_refused`: a placement that the backend cannot serve is a definite error, and no
///   instance is left.
///
/// # Errors
/// Each call ends in a [`BackendError`]. What matters most is the difference between [`Unclear`] and all
/// other kinds: any other kind *promises* that a `create` made nothing. A backend that cannot be sure must
/// say [`Unclear`]. Answers are mapped by what they say, not by their status alone. Callers bound each call
/// by a time-out, and a call that was dropped counts as unclear.
///
/// [`Unclear`]: BackendErrorKind::Unclear
///
/// # Example
/// The smallest one: a shelf with room for one instance.
///
/// ```
/// use std::sync::Mutex;
/// use std::time::Duration;
/// use async_trait::async_trait;
/// use jiff::Timestamp;
/// use runner_manager_core::backend::{Backend, BackendError, BackendErrorKind, Capabilities, InstanceSpec};
/// use runner_manager_core::domain::{Instance, InstanceId, InstanceState, Owner, RunnerName};
///
/// #[derive(Debug, Default)]
/// struct Shelf(Mutex<Option<(Owner, Instance)>>);
///
/// #[async_trait]
/// impl Backend for Shelf {
///     async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
///         let mut place = self.0.lock().expect("nobody panics with it");
///         match &*place {
///             Some((owner, there)) if *owner == spec.owner && there.runner == spec.runner => Ok(there.clone()),
///             Some(_) => Err(BackendError::new(BackendErrorKind::NoCapacity, "create", "the shelf is full")),
///             None => {
///                 let instance = Instance {
///                     id: InstanceId::new(spec.runner.as_str()),
///                     runner: spec.runner.clone(),
///                     group: spec.group.clone(),
///                     state: InstanceState::Running,
///                     created_at: Timestamp::UNIX_EPOCH,
///                 };
///                 *place = Some((spec.owner.clone(), instance.clone()));
///                 Ok(instance)
///             }
///         }
///     }
///
///     async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
///         let mut place = self.0.lock().expect("nobody panics with it");
///         if place.as_ref().is_some_and(|(_, there)| there.id == *id) {
///             *place = None;
///         }
///         Ok(())
///     }
///
///     async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
///         let place = self.0.lock().expect("nobody panics with it");
///         Ok(place.as_ref().map(|(_, there)| there.clone()).filter(|there| there.id == *id))
///     }
///
///     async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
///         self.get(&InstanceId::new(name.as_str())).await
///     }
///
///     async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
///         let place = self.0.lock().expect("nobody panics with it");
///         Ok(place.iter().filter(|(of, _)| of == owner).map(|(_, there)| there.clone()).collect())
///     }
///
///     fn capabilities(&self) -> Capabilities {
///         Capabilities { unique_names: true, settle: Duration::ZERO, lag: Duration::ZERO, update: false, callback: false }
///     }
/// }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// let shelf = Shelf::default();
/// assert_eq!(shelf.find(&RunnerName::new("acme-linux-1")?).await?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// Asks for one instance and returns once the backend accepted it (it need not run yet). Tries exactly
    /// the placement of the specification.
    ///
    /// # Errors
    /// `NoCapacity`, `QuotaExceeded`, `RateLimited`, `InvalidConfig`, `NotFound`, ...: nothing was made.
    /// `Unclear`: it may have been.
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError>;

    /// Asks for an instance's end and returns once the backend accepted it. Absent is success.
    ///
    /// # Errors
    /// When the backend did not accept it.
    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError>;

    /// Tells of one instance, following operations that run on it; `None` where it does not exist.
    ///
    /// # Errors
    /// When the backend did not say; never for an instance that does not exist.
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError>;

    /// Finds the instance of a runner by name; `None` where there is none that bears the marks of a Runner
    /// Manager. Where several bear the name, one that is there comes before one that is `Gone`.
    ///
    /// # Errors
    /// When the backend did not say.
    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError>;

    /// Lists all instances of an owner, complete.
    ///
    /// # Errors
    /// When any part of the list could not be had.
    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError>;

    /// What this backend can and cannot do.
    fn capabilities(&self) -> Capabilities;

    /// How the cloud bounds creates and deletes. Asked before each of them, which waits for the answer: what has to be
    /// asked of the cloud is remembered, and where the cloud does not tell, the answer says what is known without it.
    async fn throttle(&self) -> Throttle {
        Throttle::default()
    }

    /// The script that an instance fetches from the manager in callback mode. Asks nobody.
    ///
    /// # Errors
    /// `Unsupported` where its instances cannot call the manager, `InvalidConfig` where there is no such script.
    fn start_script(&self, spec: &InstanceSpec) -> Result<Secret, BackendError> {
        let detail = format!("there is no script for {}", spec.runner);
        Err(BackendError::new(BackendErrorKind::Unsupported, "start_script", detail))
    }

    /// Writes onto an instance what its runner is doing, so that the cloud's bill and console can be read by
    /// jobs. Does nothing where the backend cannot. The manager does not call it: it is for programs that embed a
    /// backend.
    ///
    /// # Errors
    /// When the backend did not accept it. Nothing depends on it.
    async fn update(&self, id: &InstanceId, activity: &Activity) -> Result<(), BackendError> {
        let _ = (id, activity);
        Ok(())
    }

    /// Asks the live service whether a placement would work; each sentence of the answer names something
    /// that is missing.
    ///
    /// # Errors
    /// When the service could not be asked at all.
    async fn validate(&self, placement: &Placement) -> Result<Vec<String>, BackendError> {
        let _ = placement;
        Ok(Vec::new())
    }

    /// Asks the live service what is good to know of a placement that would work, for a group of up to so many
    /// runners: a quota with less room, or something that could not be looked at. Nothing of it keeps an instance from
    /// being made.
    ///
    /// # Errors
    /// When the service could not be asked at all.
    async fn remarks(&self, placement: &Placement, max: u32) -> Result<Vec<String>, BackendError> {
        let _ = (placement, max);
        Ok(Vec::new())
    }
}

/// Something wrong in the settings of a backend or a placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsFault {
    /// Where, from the settings' root: keys and indexes.
    pub path: Vec<String>,
    /// What is wrong and what was expected.
    pub message: String,
}

/// The settings of one placement as a user wrote them expand to these, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementSettings {
    /// In a few words what sets it apart from the others.
    pub description: String,
    /// One full set of instance settings, in the backend's own form.
    pub settings: serde_json::Value,
}

/// What a backend gets to connect with, beside its settings.
#[derive(Debug, Clone)]
pub struct ConnectContext {
    /// The backend's name in the configuration.
    pub name: BackendName,
    /// The clock to wait by.
    pub clock: Arc<dyn Clock>,
}

/// What makes a backend pluggable: what its settings may be, and how to connect.
///
/// # Behaviour
/// - `kind_is_a_word`: `kind` is a lower-case word.
/// - `schemas_describe_objects`: both schemas are JSON Schemas of objects that take no unknown keys and
///   describe every key.
/// - `placements_are_expanded`: a list in the settings gives one placement for each combination, in order,
///   each with its own description. What it gives is itself right, and expands to itself alone.
/// - `every_fault_is_told`: all faults of the settings are told at once, each with its path.
///
/// # Errors
/// Faults in settings are [`SettingsFault`]s, so that the configuration can show where they are; a failed
/// connection is a [`BackendError`].
///
/// # Example
/// ```
/// use std::sync::Arc;
/// use async_trait::async_trait;
/// use runner_manager_core::backend::{
///     Backend, BackendError, BackendErrorKind, BackendKind, BackendRegistry, ConnectContext, PlacementSettings,
///     SettingsFault,
/// };
/// use schemars::{Schema, json_schema};
/// use serde_json::Value;
///
/// /// Knows its settings, but is always closed.
/// #[derive(Debug)]
/// struct Closed;
///
/// #[async_trait]
/// impl BackendKind for Closed {
///     fn kind(&self) -> &'static str {
///         "closed"
///     }
///
///     fn backend_schema(&self) -> Schema {
///         json_schema!({"type": "object", "additionalProperties": false})
///     }
///
///     fn placement_schema(&self) -> Schema {
///         json_schema!({"type": "object", "properties": {"shelf": {"type": "string"}}})
///     }
///
///     fn check(&self, _settings: &Value) -> Result<(), Vec<SettingsFault>> {
///         Ok(())
///     }
///
///     fn placements(&self, placement: &Value) -> Result<Vec<PlacementSettings>, Vec<SettingsFault>> {
///         let fault = || SettingsFault { path: vec!["shelf".to_owned()], message: "is missing".to_owned() };
///         let shelf = placement["shelf"].as_str().ok_or_else(|| vec![fault()])?;
///         Ok(vec![PlacementSettings { description: format!("shelf {shelf}"), settings: placement.clone() }])
///     }
///
///     async fn connect(&self, _: &Value, _: ConnectContext) -> Result<Arc<dyn Backend>, BackendError> {
///         Err(BackendError::new(BackendErrorKind::Unsupported, "connect", "it is closed"))
///     }
/// }
///
/// let registry = BackendRegistry::new().register(Arc::new(Closed));
/// let kind = registry.get("closed").expect("it was registered");
/// let faults = kind.placements(&serde_json::json!({})).expect_err("a shelf must be named");
/// assert_eq!(faults[0].path, ["shelf"]);
/// ```
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait BackendKind: Debug + Send + Sync + 'static {
    /// The word that stands for it in the configuration, such as `docker`.
    fn kind(&self) -> &'static str;

    /// The JSON Schema of the backend's settings (all keys beside `kind`).
    fn backend_schema(&self) -> Schema;

    /// The JSON Schema of a placement's settings (all keys beside `backend`).
    fn placement_schema(&self) -> Schema;

    /// Checks the backend's settings.
    ///
    /// # Errors
    /// All faults at once.
    fn check(&self, settings: &serde_json::Value) -> Result<(), Vec<SettingsFault>>;

    /// Checks a placement's settings and expands their lists.
    ///
    /// # Errors
    /// All faults at once.
    fn placements(&self, placement: &serde_json::Value)
    -> Result<Vec<PlacementSettings>, Vec<SettingsFault>>;

    /// Connects with the backend's settings. Does not fail for a service that is down: its calls do.
    ///
    /// # Errors
    /// `InvalidConfig` and its like, where the settings cannot work.
    async fn connect(
        &self,
        settings: &serde_json::Value,
        context: ConnectContext,
    ) -> Result<Arc<dyn Backend>, BackendError>;
}

/// The kinds of backends that a program knows.
///
/// Ours come from `runner_manager_backends::registry()`; a user adds their own with
/// [`register`](Self::register). Nothing else knows the list.
#[derive(Debug, Clone, Default)]
pub struct BackendRegistry(BTreeMap<&'static str, Arc<dyn BackendKind>>);

impl BackendRegistry {
    /// A registry that knows no kind.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind; one of the same word is replaced.
    #[must_use]
    pub fn register(mut self, kind: Arc<dyn BackendKind>) -> Self {
        self.0.insert(kind.kind(), kind);
        self
    }

    /// The kind of a word.
    pub fn get(&self, kind: &str) -> Option<&Arc<dyn BackendKind>> {
        self.0.get(kind)
    }

    /// All kinds, by their words in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn BackendKind>> {
        self.0.values()
    }
}
