//! The catalog that comes with a token: which services the cloud has, and where.

use std::collections::BTreeSet;
use std::fmt;

use reqwest::Url;
use serde::Deserialize;

use super::cloud::Cloud;
use super::errors::Failure;

/// A service that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    /// Nova.
    Compute,
    /// Neutron.
    Network,
    /// Glance.
    Image,
    /// Cinder.
    Volume,
}

impl Service {
    pub(super) const ALL: [Self; 4] = [Self::Compute, Self::Network, Self::Image, Self::Volume];

    /// What catalogs call it, newest first.
    /// <https://service-types.openstack.org/service-types.json>
    const fn types(self) -> &'static [&'static str] {
        match self {
            Self::Compute => &["compute"],
            Self::Network => &["network"],
            Self::Image => &["image"],
            Self::Volume => &["block-storage", "volumev3", "block-store", "volume"],
        }
    }

    /// The keys under which a `clouds.yaml` may tell its endpoint, in place of the catalog.
    pub(super) fn overrides(self) -> impl Iterator<Item = String> {
        self.types().iter().map(|word| format!("{}_endpoint_override", word.replace('-', "_")))
    }

    /// What an endpoint's path must begin its end with; catalogs may leave it out.
    const fn version(self) -> &'static str {
        match self {
            Self::Compute => "v2.1",
            Self::Network => "v2.0",
            Self::Image => "v2",
            Self::Volume => "v3",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.types()[0])
    }
}

/// One service of a catalog, as Keystone tells it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Deserialize)]
struct Endpoint {
    interface: String,
    #[serde(default)]
    region: Option<String>,
    url: String,
}

/// Where a service is.
pub(super) fn endpoint(catalog: &[Entry], service: Service, cloud: &Cloud) -> Result<Url, Failure> {
    if let Some(url) = cloud.overrides.get(&service) {
        return Ok(versioned(url.clone(), service));
    }
    let interface = &cloud.interface;
    let of_service = service.types().iter().find_map(|word| catalog.iter().find(|entry| entry.kind == *word));
    let endpoints: Vec<&Endpoint> = of_service
        .iter()
        .flat_map(|entry| &entry.endpoints)
        .filter(|endpoint| endpoint.interface.trim_end_matches("URL") == interface)
        .collect();
    let regions: BTreeSet<&str> =
        endpoints.iter().filter_map(|endpoint| endpoint.region.as_deref()).collect();
    let wanted = match &cloud.region {
        Some(region) => endpoints.iter().find(|endpoint| endpoint.region.as_deref() == Some(region)),
        None if regions.len() > 1 => {
            let regions: Vec<&str> = regions.into_iter().collect();
            return Err(Failure::Unfit(format!(
                "say with `region` which of these it is: {}",
                regions.join(", ")
            )));
        }
        None => endpoints.first(),
    };
    let Some(endpoint) = wanted else {
        let region = cloud.region.as_ref().map(|region| format!(" in region {region}")).unwrap_or_default();
        return Err(Failure::NoService { service, place: format!("{region} for interface {interface}") });
    };
    let url = Url::parse(&endpoint.url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url
        .ok_or_else(|| Failure::Unfit(format!("the catalog's address of the {service} service is no URL")))?;
    Ok(versioned(url, service))
}

/// An endpoint with its version: `https://nova/v2.1/PROJECT` stays, `https://neutron` becomes `https://neutron/v2.0`.
fn versioned(mut url: Url, service: Service) -> Url {
    let is_version = |segment: &str| {
        segment.strip_prefix('v').is_some_and(|rest| rest.starts_with(|char: char| char.is_ascii_digit()))
    };
    let has_one = url.path_segments().is_some_and(|mut segments| segments.any(is_version));
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty();
        if !has_one {
            segments.push(service.version());
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use runner_manager_core::domain::Secret;
    use serde_json::json;

    use super::{Entry, Service, endpoint};
    use crate::openstack::cloud::{Cloud, Named, Who};

    /// One that nobody answers for.
    fn cloud() -> Cloud {
        let id = |id: &str| Named::Id(id.to_owned());
        Cloud {
            auth_url: "http://127.0.0.1:1/v3".parse().unwrap(),
            who: Who::Password { user: id("u"), password: Secret::new("p"), project: id("p") },
            region: None,
            interface: "public".to_owned(),
            authorities: Vec::new(),
            verify: true,
            overrides: BTreeMap::new(),
        }
    }

    fn catalog() -> Vec<Entry> {
        let at = |region: &str, interface: &str, url: &str| json!({"region": region, "interface": interface, "url": url, "id": "x"});
        serde_json::from_value(json!([
            {"type": "compute", "name": "nova", "id": "c", "endpoints": [
                at("one", "internal", "http://inside/v2.1/p"), at("one", "public", "https://nova.one/v2.1/p/"),
                at("two", "public", "https://nova.two/compute"),
            ]},
            {"type": "network", "endpoints": [at("one", "public", "https://neutron")]},
            {"type": "volumev3", "endpoints": [at("one", "public", "https://cinder/volume/v3/p")]},
            {"type": "image", "endpoints": [at("one", "publicURL", "ftp://glance")]},
        ]))
        .unwrap()
    }

    fn found(service: Service, region: Option<&str>, interface: &str) -> Result<String, String> {
        let cloud = Cloud { region: region.map(str::to_owned), interface: interface.to_owned(), ..cloud() };
        endpoint(&catalog(), service, &cloud)
            .map(|url| url.to_string())
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn endpoints_are_chosen_by_region_and_interface() {
        let url = |service, region, interface| found(service, region, interface).unwrap();
        assert_eq!(url(Service::Compute, Some("one"), "public"), "https://nova.one/v2.1/p");
        assert_eq!(url(Service::Compute, Some("one"), "internal"), "http://inside/v2.1/p");
        assert_eq!(url(Service::Compute, Some("two"), "public"), "https://nova.two/compute/v2.1");
        assert_eq!(url(Service::Network, None, "public"), "https://neutron/v2.0");
        assert_eq!(url(Service::Volume, None, "public"), "https://cinder/volume/v3/p");
    }

    #[test]
    fn what_cannot_be_chosen_is_told() {
        let told = |service, region, interface| found(service, region, interface).unwrap_err();
        assert!(told(Service::Compute, None, "public").contains("one, two"));
        let missing = told(Service::Network, Some("two"), "public");
        assert!(missing.contains("network service in region two for interface public"), "{missing}");
        assert!(told(Service::Image, None, "public").contains("no URL"));
    }

    #[test]
    fn an_override_comes_before_the_catalog() {
        let overrides = BTreeMap::from([(Service::Network, "http://other:9696/".parse().unwrap())]);
        let cloud = Cloud { overrides, ..cloud() };
        assert_eq!(endpoint(&[], Service::Network, &cloud).unwrap().as_str(), "http://other:9696/v2.0");
    }
}
