//! Where things are in vCenter: names of the settings lead to objects.
//!
//! What a path led to is remembered, because a path is asked for with each machine; it is all forgotten after a
//! failure, which may come of an object that was replaced.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::clone::Place;
use super::config::PlacementConfig;
use super::errors::{Failure, Fault};
use super::properties::{Object, read, read_below};
use super::session::Session;
use super::xml::{Element, Reference};
use super::{api, devices};

/// The paths of a backend, which its placements give: more are not remembered.
const MOST_PATHS: usize = 1000;

/// The inventory of one datacenter.
#[derive(Debug)]
pub(super) struct Inventory {
    datacenter: Option<String>,
    folder: Option<String>,
    known: Mutex<BTreeMap<String, Reference>>,
}

impl Inventory {
    pub(super) fn new(datacenter: Option<String>, folder: Option<String>) -> Self {
        Self { datacenter, folder, known: Mutex::default() }
    }

    /// Forgets what paths led to.
    pub(super) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The folder of the machines.
    pub(super) async fn folder(&self, session: &Session) -> Result<Reference, Failure> {
        let within = self.folder.as_deref().unwrap_or_default();
        self.object(session, "folder", "vm", within, &["Folder"]).await
    }

    /// All that a clone needs, from a placement's names.
    pub(super) async fn place(
        &self,
        session: &Session,
        config: &PlacementConfig,
        name: &str,
        clone_of: impl FnOnce(&Place) -> Element + Send,
    ) -> Result<Place, Failure> {
        let template = self.template(session, config).await?;
        let told = self.looked_at(session, config, &template).await?;
        let mut place = Place {
            folder: self.folder(session).await?,
            pool: self.pool(session, config).await?,
            datastore: None,
            snapshot: snapshot(config, &told)?,
            devices: self.devices(session, config, &told).await?,
            template,
        };
        place.datastore = match self.datastore(session, config).await? {
            Some(pod) if pod.kind == "StoragePod" => {
                let spec = clone_of(&place);
                Some(recommended(session, &pod, &place, name, spec).await?)
            }
            other => other,
        };
        Ok(place)
    }

    /// What is missing for a placement, in sentences.
    ///
    /// # Errors
    /// Where vCenter could not be asked.
    pub(super) async fn missing(
        &self,
        session: &Session,
        config: &PlacementConfig,
    ) -> Result<Vec<String>, Failure> {
        let mut missing = Vec::new();
        told(&mut missing, self.folder(session).await)?;
        told(&mut missing, self.pool(session, config).await)?;
        told(&mut missing, self.datastore(session, config).await)?;
        if let Some(template) = told(&mut missing, self.template(session, config).await)? {
            let object = self.looked_at(session, config, &template).await?;
            told(&mut missing, snapshot(config, &object))?;
            told(&mut missing, self.devices(session, config, &object).await)?;
        }
        Ok(missing)
    }

    async fn template(&self, session: &Session, config: &PlacementConfig) -> Result<Reference, Failure> {
        self.object(session, "template", "vm", config.template(), &["VirtualMachine"]).await
    }

    /// The template with those of its properties that the clone is made by.
    async fn looked_at(
        &self,
        session: &Session,
        config: &PlacementConfig,
        template: &Reference,
    ) -> Result<Object, Failure> {
        let changes = config.network.is_some() || config.disk_gib.is_some();
        let snapshot = config.snapshot.as_ref().map(|_| "snapshot");
        let paths: Vec<&str> =
            changes.then_some("config.hardware.device").into_iter().chain(snapshot).chain(["name"]).collect();
        read(session, template, &paths).await
    }

    /// The resource pool: below the cluster's own, which is called `Resources`.
    async fn pool(&self, session: &Session, config: &PlacementConfig) -> Result<Reference, Failure> {
        let kinds = ["ClusterComputeResource", "ComputeResource"];
        let cluster = config.cluster();
        self.object(session, "cluster", "host", cluster, &kinds).await?;
        let below = match &config.resource_pool {
            Some(pool) => format!("{cluster}/Resources/{pool}"),
            None => format!("{cluster}/Resources"),
        };
        self.object(session, "resource pool", "host", &below, &["ResourcePool", "VirtualApp"]).await
    }

    async fn datastore(
        &self,
        session: &Session,
        config: &PlacementConfig,
    ) -> Result<Option<Reference>, Failure> {
        let Some(datastore) = config.datastore() else { return Ok(None) };
        self.object(session, "datastore", "datastore", datastore, &["Datastore", "StoragePod"])
            .await
            .map(Some)
    }

    /// The template's devices that are to be other ones in the clone.
    async fn devices(
        &self,
        session: &Session,
        config: &PlacementConfig,
        template: &Object,
    ) -> Result<Vec<Element>, Failure> {
        let mut changed = Vec::new();
        if let Some(network) = &config.network {
            let kinds = ["Network", "DistributedVirtualPortgroup", "OpaqueNetwork"];
            let network = self.object(session, "network", "network", network, &kinds).await?;
            changed.push(devices::connected(template, devices::backing(session, &network).await?)?);
        }
        if let Some(size) = config.disk_gib {
            changed.push(devices::grown(template, size)?);
        }
        Ok(changed)
    }

    /// What is at a path in one of the four trees of the datacenter, and is of one of these types.
    async fn object(
        &self,
        session: &Session,
        what: &str,
        tree: &str,
        path: &str,
        kinds: &[&str],
    ) -> Result<Reference, Failure> {
        let datacenter = self.datacenter(session).await?;
        let path = path.trim_matches('/');
        let whole = format!("{datacenter}/{tree}/{path}");
        let found = self.at(session, whole.trim_end_matches('/')).await?;
        match found {
            Some(found) if kinds.contains(&found.kind.as_str()) => Ok(found),
            Some(found) => {
                let kind = found.kind;
                Err(Failure::Missing(format!("{path} in datacenter {datacenter} is a {kind}, and no {what}")))
            }
            None => Err(Failure::Missing(format!(
                "there is no {what} {path} in datacenter {datacenter}, or the user may not see it"
            ))),
        }
    }

    async fn at(&self, session: &Session, path: &str) -> Result<Option<Reference>, Failure> {
        if let Some(known) = self.lock().get(path) {
            return Ok(Some(known.clone()));
        }
        let found = api::find_by_path(session, path).await?;
        if let Some(found) = &found {
            let mut known = self.lock();
            if known.len() < MOST_PATHS {
                known.insert(path.to_owned(), found.clone());
            }
        }
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Reference>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of the datacenter: the configured one, or the only one.
    async fn datacenter(&self, session: &Session) -> Result<String, Failure> {
        if let Some(datacenter) = &self.datacenter {
            return match self.at(session, datacenter).await? {
                Some(found) if found.kind == "Datacenter" => Ok(datacenter.clone()),
                _ => Err(Failure::Missing(format!(
                    "there is no datacenter {datacenter}, or the user may not see it"
                ))),
            };
        }
        let root = session.service("rootFolder").await?;
        let mut names: Vec<String> = read_below(session, &root, "Datacenter", &["name"])
            .await?
            .iter()
            .filter_map(|datacenter| datacenter.text("name").map(str::to_owned))
            .collect();
        names.sort();
        match names.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Failure::Missing("the user may see no datacenter".to_owned())),
            many => {
                let many = many.join(", ");
                Err(Failure::Unfit(format!("say with `datacenter` which of these it is: {many}")))
            }
        }
    }
}

/// Notes what does not exist or fit, and goes on.
fn told<T>(missing: &mut Vec<String>, found: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Missing(why) | Failure::Unfit(why)) => {
            missing.push(why);
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// The datastore of a cluster of them which vCenter recommends for a clone.
async fn recommended(
    session: &Session,
    pod: &Reference,
    place: &Place,
    name: &str,
    spec: Element,
) -> Result<Reference, Failure> {
    let (template, folder) = (&place.template, &place.folder);
    let best = api::recommend_datastore(session, pod, template, folder, name, spec).await?;
    best.ok_or_else(|| {
        let message = "vCenter recommends no datastore of the datastore cluster for the clone".to_owned();
        let kind = "InsufficientStorageSpace".to_owned();
        Failure::Fault(Box::new(Fault { kind, message, detail: Element::default() }))
    })
}

/// The snapshot of a name in the template's tree of snapshots.
fn snapshot(config: &PlacementConfig, template: &Object) -> Result<Option<Reference>, Failure> {
    let Some(name) = &config.snapshot else { return Ok(None) };
    let mut open: Vec<&Element> =
        template.get("snapshot").map(|tree| tree.children("rootSnapshotList").collect()).unwrap_or_default();
    while let Some(node) = open.pop() {
        if node.text_of("name") == Some(name) {
            return Ok(node.child("snapshot").and_then(Reference::read));
        }
        open.extend(node.children("childSnapshotList"));
    }
    Err(Failure::Missing(format!("the template {} has no snapshot {name}", config.template())))
}
