//! What goes with a server beside itself: a port of ours with its floating IP, a volume to boot from, and the ports that
//! Nova made; and how it is found and removed where it was left behind.
//!
//! A port and a floating IP of ours bear the runner's name and, in their description, whose they are. A volume bears
//! our marks as metadata before the server is deleted. The ports that Nova made are known by the server that they were
//! made for. Nothing else is touched.

use std::collections::BTreeMap;

use jiff::Timestamp;
use runner_manager_core::backend::InstanceSpec;
use runner_manager_core::domain::{GroupName, Instance, InstanceState, Owner, OwnerTags, RunnerName};
use serde_json::{Value, json};

use super::api::{absent_is_success, pages};
use super::catalog::Service;
use super::config::PlacementConfig;
use super::errors::Failure;
use super::names::{Kind, Names};
use super::request::Place;
use super::server::{Reference, Server, With};
use super::session::{Call, Session};

/// How the description of what is ours begins.
const OURS: &str = "runner-manager";

/// What is read of ports and floating IPs.
const FIELDS: [&str; 4] = ["id", "name", "description", "created_at"];

/// Makes the port and the floating IP of a server that is about to be asked for: the port's id.
pub(super) async fn prepare_address(
    session: &Session,
    names: &Names,
    config: &PlacementConfig,
    place: &Place,
    spec: &InstanceSpec,
) -> Result<Option<String>, Failure> {
    let (Some(outside), Some(network)) = (&config.floating_network, place.networks.first()) else {
        return Ok(None);
    };
    let outside = names.id(session, Kind::Network, outside).await?;
    let mut groups = Vec::new();
    for group in &config.security_groups {
        groups.push(names.id(session, Kind::SecurityGroup, group).await?);
    }
    let port = made(session, "ports", port_request(spec, network, &groups)).await?;
    match made(session, "floatingips", floating_ip_request(spec, &outside, &port)).await {
        Ok(_) => Ok(Some(port)),
        Err(failure) => {
            if let Err(left) = remove_address(session, &spec.owner, &spec.runner).await {
                tracing::warn!(runner = %spec.runner, %left, "the port of a server is still there; a sweep removes it");
            }
            Err(failure)
        }
    }
}

/// <https://docs.openstack.org/api-ref/network/v2/#create-port>
pub(super) fn port_request(spec: &InstanceSpec, network: &str, groups: &[String]) -> Value {
    let description = description(&spec.owner, &spec.group);
    let mut port = json!({"network_id": network, "name": spec.runner.as_str(), "description": description});
    if !groups.is_empty() {
        port["security_groups"] = json!(groups);
    }
    json!({"port": port})
}

/// <https://docs.openstack.org/api-ref/network/v2/#create-floating-ip>. A floating IP has no name.
pub(super) fn floating_ip_request(spec: &InstanceSpec, network: &str, port: &str) -> Value {
    let description = format!("{} {}", description(&spec.owner, &spec.group), spec.runner);
    json!({"floatingip": {"floating_network_id": network, "port_id": port, "description": description}})
}

async fn made(session: &Session, what: &str, body: Value) -> Result<String, Failure> {
    let made: Value = session.read(&Call::post(Service::Network, &[what], body)).await?;
    let id =
        made.as_object().and_then(|object| object.values().next()).and_then(|inner| inner["id"].as_str());
    id.map(str::to_owned).ok_or_else(|| Failure::Broken("it names nothing that was made".to_owned()))
}

fn description(owner: &Owner, group: &GroupName) -> String {
    format!("{OURS} {} {} {group}", owner.deployment, owner.fingerprint.as_str())
}

/// Reads the description of a port, with the runner's name from elsewhere, or of a floating IP, which has it itself.
fn marks(description: &str, name: Option<&str>) -> Option<OwnerTags> {
    let mut words = description.split(' ');
    let parts = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (OURS, deployment, fingerprint, group) = parts else { return None };
    let runner = words.next().or(name)?;
    let tags = BTreeMap::from([
        (Owner::DEPLOYMENT_TAG, deployment),
        (Owner::FINGERPRINT_TAG, fingerprint),
        (Owner::RUNNER_TAG, runner),
        (Owner::GROUP_TAG, group),
    ]);
    Owner::read_tags(|key| tags.get(key).copied())
}

/// A thing of ours, whichever of the three it is.
#[derive(Debug)]
struct Thing {
    id: String,
    marks: OwnerTags,
    created_at: Option<Timestamp>,
    with: With,
}

/// What is left of runners of an owner that have no server, as instances that have stopped: whoever removes an instance
/// that nothing explains then removes it, by the same rules. What is younger than `before` may still get its server.
pub(super) async fn instances(
    session: &Session,
    owner: &Owner,
    servers: &[Instance],
    before: Timestamp,
) -> Result<Vec<Instance>, Failure> {
    let mut things = addresses(session).await?;
    things.extend(volumes(session).await?);
    let mut found: BTreeMap<RunnerName, Instance> = BTreeMap::new();
    for Thing { marks, created_at, with, .. } in things {
        let has_server = servers.iter().any(|instance| instance.runner == marks.runner);
        let Some(created_at) = created_at.filter(|at| *at < before && marks.owner == *owner && !has_server)
        else {
            continue;
        };
        let so_far = found.get(&marks.runner).and_then(|instance| Reference::read(&instance.id));
        let so_far = so_far.map(|reference| reference.with).unwrap_or_default();
        let with = With { address: with.address || so_far.address, volume: with.volume || so_far.volume };
        let id = Reference { server: None, runner: marks.runner.clone(), with }.id();
        let instance = Instance {
            id,
            runner: marks.runner.clone(),
            group: marks.group,
            state: InstanceState::Stopped,
            created_at,
        };
        found.insert(marks.runner, instance);
    }
    Ok(found.into_values().collect())
}

/// Marks the volumes of a server that is about to be deleted, so that one which Nova leaves behind is known.
pub(super) async fn mark_volumes(
    session: &Session,
    server: &Server,
    marks: &OwnerTags,
) -> Result<(), Failure> {
    let items = marks.owner.tags(&marks.runner, &marks.group);
    for volume in &server.volumes {
        let call =
            Call::post(Service::Volume, &["volumes", &volume.id, "metadata"], json!({"metadata": items}));
        absent_is_success(session.call(&call).await.map(drop))?;
    }
    Ok(())
}

/// Removes what went with a server that is gone. Only what is gone after this counts as gone.
pub(super) async fn remove(session: &Session, reference: &Reference) -> Result<(), Failure> {
    let runner = &reference.runner;
    if let Some(server) = &reference.server {
        remove_ports_of(session, server).await?;
    }
    let mine = |thing: &Thing| thing.marks.runner == *runner;
    if reference.with.address {
        for thing in addresses(session).await?.iter().filter(|thing| mine(thing)) {
            remove_address(session, &thing.marks.owner, runner).await?;
        }
    }
    if reference.with.volume {
        let volumes = volumes(session).await?;
        for volume in volumes.iter().filter(|thing| mine(thing)) {
            let call = Call::delete(Service::Volume, &["volumes", &volume.id]);
            absent_is_success(session.call(&call).await.map(drop))?;
        }
        if let Some(volume) = self::volumes(session).await?.iter().find(|thing| mine(thing)) {
            return Err(Failure::Incomplete(format!("the volume {} of {runner} is not gone yet", volume.id)));
        }
    }
    Ok(())
}

/// Removes the ports that Nova made for a server and left behind.
async fn remove_ports_of(session: &Session, server: &str) -> Result<(), Failure> {
    if !session.has(Service::Network).await? {
        return Ok(());
    }
    let ports = Call::get(Service::Network, &["ports"])
        .with("device_id", server)
        .with("fields", "id")
        .with("fields", "name");
    for port in pages(session, ports, "ports").await? {
        // A port with a name was brought by somebody, who has it back.
        if let (Some(id), Some("")) = (port["id"].as_str(), port["name"].as_str()) {
            tracing::warn!(server, port = id, "Nova left a port of a server behind: it is removed");
            absent_is_success(session.call(&Call::delete(Service::Network, &["ports", id])).await.map(drop))?;
        }
    }
    Ok(())
}

/// Removes the floating IP and the port of a runner.
async fn remove_address(session: &Session, owner: &Owner, runner: &RunnerName) -> Result<(), Failure> {
    for kind in ["floatingips", "ports"] {
        let things = of_kind(session, kind).await?;
        for thing in
            things.iter().filter(|thing| thing.marks.owner == *owner && thing.marks.runner == *runner)
        {
            absent_is_success(
                session.call(&Call::delete(Service::Network, &[kind, &thing.id])).await.map(drop),
            )?;
        }
    }
    Ok(())
}

/// The ports and floating IPs that are ours.
async fn addresses(session: &Session) -> Result<Vec<Thing>, Failure> {
    let mut things = of_kind(session, "ports").await?;
    things.extend(of_kind(session, "floatingips").await?);
    Ok(things)
}

async fn of_kind(session: &Session, kind: &str) -> Result<Vec<Thing>, Failure> {
    if !session.has(Service::Network).await? {
        return Ok(Vec::new());
    }
    let project = session.login(None).await?.project.clone();
    // Floating IPs have no name; Neutron leaves out the fields that it does not know.
    let call =
        FIELDS.iter().fold(Call::get(Service::Network, &[kind]), |call, field| call.with("fields", field));
    let listed = match pages(session, call.with("project_id", &project), kind).await {
        // A Neutron without routers has no floating IPs.
        Err(failure) if failure.is_absent() && kind == "floatingips" => Vec::new(),
        listed => listed?,
    };
    let with = With { address: true, volume: false };
    let things = listed.iter().filter_map(|thing| {
        let marks = marks(thing["description"].as_str()?, thing["name"].as_str())?;
        Some(Thing {
            id: thing["id"].as_str()?.to_owned(),
            marks,
            created_at: time(&thing["created_at"]),
            with,
        })
    });
    Ok(things.collect())
}

/// The volumes that bear our marks.
async fn volumes(session: &Session) -> Result<Vec<Thing>, Failure> {
    if !session.has(Service::Volume).await? {
        return Ok(Vec::new());
    }
    let listed = pages(session, Call::get(Service::Volume, &["volumes", "detail"]), "volumes").await?;
    let with = With { address: false, volume: true };
    let things = listed.iter().filter_map(|volume| {
        let marks = Owner::read_tags(|key| volume["metadata"][key].as_str())?;
        Some(Thing {
            id: volume["id"].as_str()?.to_owned(),
            marks,
            created_at: time(&volume["created_at"]),
            with,
        })
    });
    Ok(things.collect())
}

/// Neutron writes times with a `Z` and Cinder without; both mean UTC.
fn time(value: &Value) -> Option<Timestamp> {
    let text = value.as_str()?;
    text.parse().or_else(|_| format!("{text}Z").parse()).ok()
}

#[cfg(test)]
mod tests {
    use runner_manager_core::domain::{DeploymentName, GroupName, Owner, Secret};
    use serde_json::json;

    use super::{description, marks, time};

    #[test]
    fn descriptions_read_back() {
        let owner = Owner::new(DeploymentName::new("acme").unwrap(), &Secret::new("key"));
        let text = description(&owner, &GroupName::new("linux").unwrap());
        let read = marks(&text, Some("acme-linux-1")).unwrap();
        assert_eq!(
            (read.owner, read.group.as_str(), read.runner.as_str()),
            (owner.clone(), "linux", "acme-linux-1")
        );
        let read = marks(&format!("{text} acme-linux-2"), None).unwrap();
        assert_eq!((read.owner, read.runner.as_str()), (owner, "acme-linux-2"));
        for foreign in ["", "runner-manager", "made by hand", "runner-manager acme f"] {
            assert!(marks(foreign, Some("acme-linux-1")).is_none(), "{foreign}");
        }
    }

    #[test]
    fn times_are_utc() {
        let neutron = time(&json!("2026-11-26T11:55:11Z")).unwrap();
        assert_eq!(time(&json!("2026-11-26T11:55:11.000000")), Some(neutron));
        assert_eq!(time(&json!(null)), None);
    }
}
