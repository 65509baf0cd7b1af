//! From the names in a placement to ids, and what of a placement is missing in the cloud.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use runner_manager_core::domain::later;
use serde_json::Value;

use super::api::pages;
use super::catalog::Service;
use super::config::PlacementConfig;
use super::errors::Failure;
use super::request::Place;
use super::session::{Call, Session};

/// How long a name that was looked up is not looked up again: an image may be replaced by another of its name.
const KNOWN_FOR: Duration = Duration::from_mins(5);

/// How many names are remembered.
const MOST_NAMES: usize = 1000;

/// The ids of names.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<(Kind, String), (String, Timestamp)>>);

/// What is given by name or id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Flavor,
    Image,
    Network,
    SecurityGroup,
    ServerGroup,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flavor => "flavor",
            Self::Image => "image",
            Self::Network => "network",
            Self::SecurityGroup => "security group",
            Self::ServerGroup => "server group",
        })
    }
}

impl Names {
    /// Forgets what names led to.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Kind, String), (String, Timestamp)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of a name; an id is taken as it is, but for a flavor's, which may be any text.
    pub(super) async fn id(&self, session: &Session, kind: Kind, name: &str) -> Result<String, Failure> {
        if kind != Kind::Flavor && is_uuid(name) {
            return Ok(name.to_owned());
        }
        let (key, now) = ((kind, name.to_owned()), session.clock().now());
        if let Some((id, since)) = self.lock().get(&key)
            && now < later(*since, KNOWN_FOR)
        {
            return Ok(id.clone());
        }
        let found = look_up(session, kind, name).await?;
        let id = found["id"].as_str().unwrap_or_default().to_owned();
        let mut known = self.lock();
        if known.len() < MOST_NAMES || known.contains_key(&key) {
            known.insert(key, (id.clone(), now));
        }
        Ok(id)
    }

    /// All that a server needs, from a placement's names.
    pub(super) async fn place(&self, session: &Session, config: &PlacementConfig) -> Result<Place, Failure> {
        let mut networks = Vec::new();
        for network in &config.networks {
            networks.push(self.id(session, Kind::Network, network).await?);
        }
        let server_group = match &config.server_group {
            Some(group) => Some(self.id(session, Kind::ServerGroup, group).await?),
            None => None,
        };
        Ok(Place {
            flavor: self.id(session, Kind::Flavor, config.flavor()).await?,
            image: self.id(session, Kind::Image, config.image()).await?,
            networks,
            server_group,
            port: None,
        })
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.chars().all(|char| char.is_ascii_hexdigit() || char == '-')
}

/// What bears a name or an id, as its service tells of it.
async fn look_up(session: &Session, kind: Kind, name: &str) -> Result<Value, Failure> {
    let by = if is_uuid(name) { "id" } else { "name" };
    let narrowed = |path: &str| Call::get(Service::Network, &[path]).with(by, name);
    let all = match kind {
        Kind::Flavor => {
            pages(session, Call::get(Service::Compute, &["flavors", "detail"]), "flavors").await?
        }
        Kind::ServerGroup => {
            pages(session, Call::get(Service::Compute, &["os-server-groups"]), "server_groups").await?
        }
        Kind::Network => pages(session, narrowed("networks"), "networks").await?,
        Kind::SecurityGroup => pages(session, narrowed("security-groups"), "security_groups").await?,
        Kind::Image if is_uuid(name) => {
            match session.read(&Call::get(Service::Image, &["images", name])).await {
                Ok(image) => vec![image],
                Err(failure) if failure.is_absent() => Vec::new(),
                Err(failure) => return Err(failure),
            }
        }
        Kind::Image => {
            pages(session, Call::get(Service::Image, &["images"]).with("name", name), "images").await?
        }
    };
    let of_id = all.iter().find(|found| found["id"] == name);
    let named: Vec<&Value> = all.iter().filter(|found| found["name"] == name).collect();
    match (of_id, named.as_slice()) {
        (Some(found), _) => Ok(found.clone()),
        (None, [found]) => Ok((*found).clone()),
        (None, []) => Err(Failure::Missing(format!("there is no {kind} {name}, or the user may not see it"))),
        (None, many) => {
            let ids: Vec<&str> = many.iter().filter_map(|found| found["id"].as_str()).collect();
            Err(Failure::Unfit(format!(
                "{} of the name {name} there are: take an id: {kind} {}",
                many.len(),
                ids.join(", ")
            )))
        }
    }
}

/// What is missing for a placement, in sentences.
///
/// # Errors
/// Where a service could not be asked.
pub(super) async fn missing(session: &Session, config: &PlacementConfig) -> Result<Vec<String>, Failure> {
    let mut missing = Vec::new();
    let flavor = told(&mut missing, look_up(session, Kind::Flavor, config.flavor()).await)?;
    let image = told(&mut missing, look_up(session, Kind::Image, config.image()).await)?;
    if let (Some(flavor), Some(image)) = (&flavor, &image) {
        missing.extend(misfits(config, flavor, image));
    }
    let networks = config.networks.iter().chain(&config.floating_network).map(|name| (Kind::Network, name));
    let groups = config.security_groups.iter().map(|name| (Kind::SecurityGroup, name));
    let others = config.server_group.iter().map(|name| (Kind::ServerGroup, name));
    for (kind, name) in networks.chain(groups).chain(others) {
        told(&mut missing, look_up(session, kind, name).await)?;
    }
    if config.networks.is_empty() {
        missing.extend(only_network(session).await?);
    }
    missing.extend(key_pair(session, config).await?);
    missing.extend(zone(session, config).await?);
    missing.extend(volume(session, config).await?);
    missing.extend(rights(session).await?);
    if let Some(flavor) = &flavor {
        missing.extend(quota(session, flavor).await?);
    }
    Ok(missing)
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

fn misfits(config: &PlacementConfig, flavor: &Value, image: &Value) -> Vec<String> {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let mut misfits = Vec::new();
    if image["status"] != "active" {
        misfits.push(format!(
            "image {} is {}, not active",
            config.image(),
            image["status"].as_str().unwrap_or("in no state")
        ));
    }
    let disk = config.volume.as_ref().map_or(number(&flavor["disk"]), |volume| u64::from(volume.size_gib));
    // A flavor with a disk of 0 takes the image's size.
    if disk != 0 && disk < number(&image["min_disk"]) {
        misfits.push(format!(
            "image {} needs a disk of {} GiB, and gets {disk}",
            config.image(),
            number(&image["min_disk"])
        ));
    }
    if number(&flavor["ram"]) < number(&image["min_ram"]) {
        let (has, needs) = (number(&flavor["ram"]), number(&image["min_ram"]));
        misfits.push(format!(
            "image {} needs {needs} MiB of memory, and flavor {} has {has}",
            config.image(),
            config.flavor()
        ));
    }
    misfits
}

/// Without a word on networks, there must be one to take.
async fn only_network(session: &Session) -> Result<Option<String>, Failure> {
    let inner = Call::get(Service::Network, &["networks"]).with("router:external", "false");
    let networks = pages(session, inner, "networks").await?;
    let names: Vec<&str> = networks.iter().filter_map(|network| network["name"].as_str()).collect();
    Ok(match names.as_slice() {
        [_] => None,
        [] => Some("the project sees no network: make one, and name it in `networks`".to_owned()),
        many => Some(format!("say with `networks` which of these it is: {}", many.join(", "))),
    })
}

async fn key_pair(session: &Session, config: &PlacementConfig) -> Result<Option<String>, Failure> {
    let Some(pair) = &config.key_pair else { return Ok(None) };
    match session.call(&Call::get(Service::Compute, &["os-keypairs", pair])).await {
        Ok(_) => Ok(None),
        Err(failure) if failure.is_absent() => Ok(Some(format!("the user has no key pair {pair}"))),
        Err(failure) => Err(failure),
    }
}

async fn zone(session: &Session, config: &PlacementConfig) -> Result<Option<String>, Failure> {
    let Some(zone) = config.zone() else { return Ok(None) };
    let zones: Value = session.read(&Call::get(Service::Compute, &["os-availability-zone"])).await?;
    let zones = zones["availabilityZoneInfo"].as_array().cloned().unwrap_or_default();
    Ok(match zones.iter().find(|told| told["zoneName"] == zone) {
        Some(told) if told["zoneState"]["available"] == true => None,
        Some(_) => Some(format!("the availability zone {zone} is out of order")),
        None => {
            let known: Vec<&str> = zones.iter().filter_map(|told| told["zoneName"].as_str()).collect();
            Some(format!("there is no availability zone {zone}; there are: {}", known.join(", ")))
        }
    })
}

async fn volume(session: &Session, config: &PlacementConfig) -> Result<Option<String>, Failure> {
    let Some(volume) = &config.volume else { return Ok(None) };
    if !session.has(Service::Volume).await? {
        return Ok(Some(
            "the cloud has no volume service, so that nothing boots from a new volume".to_owned(),
        ));
    }
    let Some(kind) = &volume.kind else { return Ok(None) };
    let types = pages(session, Call::get(Service::Volume, &["types"]), "volume_types").await?;
    let known = types.iter().any(|told| told["name"] == *kind || told["id"] == *kind);
    Ok((!known).then(|| format!("there is no volume type {kind}, or the user may not see it")))
}

/// OpenStack tells of no rights, but of roles; one that may only read is known.
async fn rights(session: &Session) -> Result<Option<String>, Failure> {
    let login = session.login(None).await?;
    let only_reads = !login.roles.is_empty() && login.roles.iter().all(|role| role == "reader");
    Ok(only_reads
        .then(|| "the user has the role `reader` alone, and making servers takes `member`".to_owned()))
}

/// Where a quota is too small for one instance, even if nothing is used of it.
async fn quota(session: &Session, flavor: &Value) -> Result<Vec<String>, Failure> {
    let limits: Value = session.read(&Call::get(Service::Compute, &["limits"])).await?;
    let limit = |key: &str| limits["limits"]["absolute"][key].as_i64().filter(|limit| *limit >= 0);
    let needed = [
        ("instances", limit("maxTotalInstances"), Some(1)),
        ("cores", limit("maxTotalCores"), flavor["vcpus"].as_i64()),
        ("MiB of memory", limit("maxTotalRAMSize"), flavor["ram"].as_i64()),
    ];
    let short = needed.into_iter().filter_map(|(what, limit, needed)| {
        let (limit, needed) = (limit?, needed?);
        (limit < needed).then(|| format!("the quota allows {limit} {what}, and an instance takes {needed}"))
    });
    Ok(short.collect())
}
