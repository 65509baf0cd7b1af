//! What is missing for a placement: asked of Compute by looks alone. Nothing is made, so that what only a request for an
//! instance needs (its permission, the right to act as its service account, quota) shows when the first one is made.

use http::Method;
use runner_manager_core::backend::BackendErrorKind;
use runner_manager_core::domain::Owner;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::config::PlacementConfig;
use super::connection::{Connection, Query};
use super::errors::{Effect, Failure};
use super::names;

/// What is missing for a placement, in sentences.
///
/// # Errors
/// Where Compute could not be asked at all.
pub(super) async fn missing(
    connection: &Connection,
    config: &PlacementConfig,
) -> Result<Vec<String>, Failure> {
    let mut check = Check { connection, config, missing: Vec::new() };
    check.instances().await?;
    check.zone().await?;
    check.machine_type().await?;
    check.image().await?;
    check.network().await?;
    check.accelerators().await?;
    check.template().await?;
    Ok(check.missing)
}

struct Check<'a> {
    connection: &'a Connection,
    config: &'a PlacementConfig,
    missing: Vec<String>,
}

/// What is looked at of a thing that instances are made from.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Part {
    status: String,
    architecture: String,
    deprecated: Deprecation,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Deprecation {
    state: String,
}

impl Check<'_> {
    fn say(&mut self, what: impl Into<String>) {
        self.missing.push(what.into());
    }

    /// Looks at a thing. Notes a missing permission, and what does not exist or fit, and goes on.
    async fn look<T: DeserializeOwned>(
        &mut self,
        permission: &str,
        what: &str,
        path: &str,
        query: Query<'_>,
    ) -> Result<Option<T>, Failure> {
        let failure = match self.connection.get(path, query).await {
            Ok(answer) => return Ok(Some(answer)),
            Err(failure) => failure,
        };
        match failure.meaning(Effect::None) {
            BackendErrorKind::PermissionDenied => {
                self.say(format!("the credentials may not do {permission}: {failure}"));
            }
            BackendErrorKind::NotFound => self.say(format!("there is no {what}: {failure}")),
            BackendErrorKind::InvalidConfig | BackendErrorKind::QuotaExceeded => {
                self.say(format!("{what}: {failure}"));
            }
            _ => return Err(failure),
        }
        Ok(None)
    }

    async fn instances(&mut self) -> Result<(), Failure> {
        let project = &self.connection.project;
        let filter = format!("labels.{}:*", Owner::FINGERPRINT_TAG);
        let path = format!("projects/{project}/aggregated/instances");
        let query = [("filter", filter.as_str()), ("maxResults", "1")];
        let what = format!("project {project}");
        self.look::<Value>("compute.instances.list", &what, &path, &query).await?;
        // One that cannot exist: the answer tells whether it may be asked for.
        let path = self.connection.in_zone(self.config.zone(), "instances/1");
        let seen =
            self.connection.call::<Value>(Method::GET, &path, &[], None, self.connection.timeout).await;
        if let Err(failure) = seen
            && failure.meaning(Effect::None) == BackendErrorKind::PermissionDenied
        {
            self.say(format!("the credentials may not do compute.instances.get: {failure}"));
        }
        Ok(())
    }

    async fn zone(&mut self) -> Result<(), Failure> {
        let zone = self.config.zone();
        let path = format!("projects/{}/zones/{zone}", self.connection.project);
        let told = self.look::<Part>("compute.zones.get", &format!("zone {zone}"), &path, &[]).await?;
        if let Some(told) = told
            && told.status != "UP"
        {
            self.say(format!("zone {zone} is {}, not UP", told.status));
        }
        let path = self.connection.in_zone(zone, "operations");
        let query = [("maxResults", "1")];
        self.look::<Value>("compute.zoneOperations.list", &format!("zone {zone}"), &path, &query)
            .await
            .map(drop)
    }

    /// Custom machine types are told of like others.
    async fn machine_type(&mut self) -> Result<(), Failure> {
        let Some(kind) = self.config.machine_type() else { return Ok(()) };
        let what = format!("machine type {kind} in zone {}", self.config.zone());
        let path = self.connection.in_zone(self.config.zone(), &format!("machineTypes/{kind}"));
        let Some(told) = self.look::<Part>("compute.machineTypes.get", &what, &path, &[]).await? else {
            return Ok(());
        };
        self.fits(&what, &told);
        Ok(())
    }

    async fn image(&mut self) -> Result<(), Failure> {
        let Some(image) = &self.config.image else { return Ok(()) };
        let path = names::image(&self.connection.project, image);
        let permission =
            if path.contains("/family/") { "compute.images.getFromFamily" } else { "compute.images.get" };
        let what = format!("image {image}");
        let Some(told) = self.look::<Part>(permission, &what, &path, &[]).await? else { return Ok(()) };
        self.fits(&what, &told);
        if !["", "READY"].contains(&told.status.as_str()) {
            self.say(format!("{what} is {}, not READY", told.status));
        }
        if ["OBSOLETE", "DELETED"].contains(&told.deprecated.state.as_str()) {
            self.say(format!("{what} is {}", told.deprecated.state));
        }
        Ok(())
    }

    /// Whether something is for the group's processor.
    fn fits(&mut self, what: &str, told: &Part) {
        let wanted = self.config.architecture();
        if !["", "ARCHITECTURE_UNSPECIFIED", wanted].contains(&told.architecture.as_str()) {
            self.say(format!("{what} is for {}, and the group is for {wanted}", told.architecture));
        }
    }

    async fn network(&mut self) -> Result<(), Failure> {
        let project = self.connection.network_project.clone();
        if let Some(subnet) = &self.config.subnet {
            let path = names::subnet(&project, self.config.zone(), subnet);
            let what = format!("subnet {subnet} in region {}", names::region(self.config.zone()));
            self.look::<Value>("compute.subnetworks.get", &what, &path, &[]).await?;
        }
        if let Some(network) = &self.config.network {
            let path = names::network(&project, network);
            self.look::<Value>("compute.networks.get", &format!("network {network}"), &path, &[]).await?;
        }
        Ok(())
    }

    async fn accelerators(&mut self) -> Result<(), Failure> {
        for one in &self.config.accelerators {
            let what = format!("accelerator {} in zone {}", one.kind, self.config.zone());
            let path = self.connection.in_zone(self.config.zone(), &format!("acceleratorTypes/{}", one.kind));
            self.look::<Value>("compute.acceleratorTypes.get", &what, &path, &[]).await?;
        }
        Ok(())
    }

    async fn template(&mut self) -> Result<(), Failure> {
        let Some(template) = &self.config.instance_template else { return Ok(()) };
        let path = names::template(&self.connection.project, template);
        let what = format!("instance template {template}");
        self.look::<Value>("compute.instanceTemplates.get", &what, &path, &[]).await.map(drop)
    }
}
