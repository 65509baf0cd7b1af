//! Where Runner Manager's instances live: one module a backend, each behind the feature of its name.
//!
//! [`registry`] gives all that were compiled in. What a backend must do is written at
//! [`Backend`](runner_manager_core::backend::Backend); nothing in here decides anything.
//!
//! To add one: a module with a [`BackendKind`], a feature, and one line in [`registry`].

use std::sync::Arc;

use runner_manager_core::backend::{BackendKind, BackendRegistry};

#[cfg(feature = "aws")]
pub mod aws;
pub mod bootstrap;
#[cfg(feature = "docker")]
pub mod docker;
#[cfg(feature = "fake")]
pub mod fake;
#[cfg(feature = "gcp")]
pub mod gcp;
#[cfg(feature = "openstack")]
pub mod openstack;
#[cfg(any(feature = "gcp", feature = "openstack", feature = "vsphere"))]
mod outgoing;
pub mod settings;
#[cfg(test)]
mod testing;
#[cfg(test)]
#[cfg(all(
    feature = "aws",
    feature = "docker",
    feature = "fake",
    feature = "gcp",
    feature = "openstack",
    feature = "vsphere"
))]
mod tests;
#[cfg(feature = "vsphere")]
pub mod vsphere;

/// All kinds of backends that were compiled in.
///
/// ```
/// let registry = runner_manager_backends::registry();
/// assert!(registry.get("fake").is_some());
/// ```
pub fn registry() -> BackendRegistry {
    let kinds: Vec<Arc<dyn BackendKind>> = vec![
        #[cfg(feature = "aws")]
        Arc::new(aws::AwsKind::new()),
        #[cfg(feature = "docker")]
        Arc::new(docker::DockerKind::new()),
        #[cfg(feature = "fake")]
        Arc::new(fake::FakeKind::new()),
        #[cfg(feature = "gcp")]
        Arc::new(gcp::GcpKind::new()),
        #[cfg(feature = "openstack")]
        Arc::new(openstack::OpenStackKind::new()),
        #[cfg(feature = "vsphere")]
        Arc::new(vsphere::VsphereKind::new()),
    ];
    kinds.into_iter().fold(BackendRegistry::new(), BackendRegistry::register)
}
