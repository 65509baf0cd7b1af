//! A backend all of whose instances are made in callback mode, for suites that ask for the direct one.

use std::sync::Arc;

use async_trait::async_trait;
use runner_manager_core::backend::{Activity, Backend, BackendError, Bootstrap, Capabilities, InstanceSpec};
use runner_manager_core::domain::{Instance, InstanceId, Owner, Placement, RunnerName, Secret};

/// The same instance, in callback mode.
pub(crate) fn calling(spec: &InstanceSpec) -> InstanceSpec {
    let (url, token) = ("https://runners.example.com".to_owned(), Secret::new("a-token"));
    InstanceSpec { bootstrap: Bootstrap::Callback { url, ca: None, token }, ..spec.clone() }
}

/// Hands everything on, and has each instance call.
#[derive(Debug)]
pub(crate) struct Calling(pub(crate) Arc<dyn Backend>);

#[async_trait]
impl Backend for Calling {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        self.0.create(&calling(spec)).await
    }

    async fn delete(&self, id: &InstanceId) -> Result<(), BackendError> {
        self.0.delete(id).await
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, BackendError> {
        self.0.get(id).await
    }

    async fn find(&self, name: &RunnerName) -> Result<Option<Instance>, BackendError> {
        self.0.find(name).await
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        self.0.list(owner).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn start_script(&self, spec: &InstanceSpec) -> Result<Secret, BackendError> {
        self.0.start_script(spec)
    }

    async fn update(&self, id: &InstanceId, activity: &Activity) -> Result<(), BackendError> {
        self.0.update(id, activity).await
    }

    async fn validate(&self, placement: &Placement) -> Result<Vec<String>, BackendError> {
        self.0.validate(placement).await
    }

    async fn remarks(&self, placement: &Placement, max: u32) -> Result<Vec<String>, BackendError> {
        self.0.remarks(placement, max).await
    }
}
