//! A cloud: where its Keystone is, who signs in there, and which of its endpoints are taken.
//!
//! All that comes from the backend's own settings, from a `clouds.yaml`, or from the environment, is brought into the
//! form of one entry of a `clouds.yaml` first, and then read in one way.
//! <https://docs.openstack.org/openstacksdk/latest/user/config/configuration.html>

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, Url};
use runner_manager_core::domain::Secret;
use serde_json::{Map, Value, json};

use super::catalog::Service;
use super::config::{AuthConfig, Settings};

/// The most of a file that is read.
const MOST_BYTES: u64 = 1 << 20;

/// A cloud.
#[derive(Debug, Clone)]
pub(super) struct Cloud {
    /// Where Keystone's third version is.
    pub(super) auth_url: Url,
    pub(super) who: Who,
    pub(super) region: Option<String>,
    pub(super) interface: String,
    /// Who must have signed the services' certificates; whom the system trusts, where there are none.
    pub(super) authorities: Vec<Certificate>,
    /// Whether certificates are looked at.
    pub(super) verify: bool,
    /// Endpoints in place of the catalog's.
    pub(super) overrides: BTreeMap<Service, Url>,
}

/// Who signs in.
#[derive(Debug, Clone)]
pub(super) enum Who {
    Password { user: Named, password: Secret, project: Named },
    ApplicationCredential { credential: Credential, secret: Secret },
}

/// Something that has an id, or a name within a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Id(String),
    Name { name: String, domain: Domain },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Domain {
    Id(String),
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    Id(String),
    Name { name: String, user: Named },
}

/// The surroundings of the process: variables of the environment.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Cloud {
    /// The cloud that the settings mean.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn find(settings: &Settings, variable: Variable<'_>) -> Result<Self, String> {
        let mut entry = if let Some(auth) = &settings.auth {
            json!({"auth": spelled_out(auth)?})
        } else if let Some(name) = settings.cloud.clone().or_else(|| variable("OS_CLOUD")) {
            of_files(settings, &name, variable).map_err(|why| format!("cloud {name}: {why}"))?
        } else if variable("OS_AUTH_URL").is_some() {
            of_environment(variable)
        } else {
            return Err(
                "nothing says which cloud is meant: give `cloud` or `auth`, or set OS_CLOUD or OS_AUTH_URL"
                    .to_owned(),
            );
        };
        if let Some(region) = &settings.region {
            entry["region_name"] = json!(region);
        }
        if let Some(interface) = settings.interface {
            entry["interface"] = json!(interface.as_str());
        }
        if let Some(file) = &settings.ca_file {
            entry["cacert"] = json!(file);
        }
        Self::read(&entry)
    }

    /// Reads an entry of a `clouds.yaml`.
    fn read(entry: &Value) -> Result<Self, String> {
        let auth = Texts(&entry["auth"]);
        let auth_url = auth.get("auth_url")?.ok_or("it has no auth_url")?;
        let texts = Texts(entry);
        let interface = match texts.get("interface")? {
            Some(interface) => Some(interface),
            None => texts.get("endpoint_type")?,
        };
        let interface = interface.unwrap_or_else(|| "public".to_owned());
        Ok(Self {
            auth_url: keystone(&auth_url)?,
            who: Who::read(&auth, texts.get("auth_type")?.as_deref())?,
            region: texts.get("region_name")?,
            interface: interface.trim_end_matches("URL").to_owned(),
            authorities: texts
                .get("cacert")?
                .map(|file| authorities(Path::new(&file)))
                .transpose()?
                .unwrap_or_default(),
            verify: entry["verify"].as_bool().unwrap_or(true),
            overrides: overrides(&texts)?,
        })
    }
}

impl Who {
    fn read(auth: &Texts<'_>, kind: Option<&str>) -> Result<Self, String> {
        let id = auth.get("application_credential_id")?;
        let name = auth.get("application_credential_name")?;
        let credential = match kind {
            None => id.is_some() || name.is_some(),
            Some("v3applicationcredential" | "applicationcredential") => true,
            Some("v3password" | "password") => false,
            Some(other) => {
                return Err(format!(
                    "auth_type {other} is not known here: v3password and v3applicationcredential are"
                ));
            }
        };
        let missing = |what: &str| format!("its auth has no {what}");
        if credential {
            let secret = auth.get("application_credential_secret")?;
            let secret = Secret::new(secret.ok_or_else(|| missing("application_credential_secret"))?);
            let credential = match (id, name) {
                (Some(id), _) => Credential::Id(id),
                (None, Some(name)) => Credential::Name { name, user: auth.user()? },
                (None, None) => return Err(missing("application_credential_id")),
            };
            return Ok(Self::ApplicationCredential { credential, secret });
        }
        let password = Secret::new(auth.get("password")?.ok_or_else(|| missing("password"))?);
        Ok(Self::Password { user: auth.user()?, password, project: auth.project()? })
    }
}

/// The texts of an object.
struct Texts<'a>(&'a Value);

impl Texts<'_> {
    /// The text of a key; an empty one is none. A number is refused: YAML has taken zeros off a password by then.
    fn get(&self, key: &str) -> Result<Option<String>, String> {
        match &self.0[key] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            _ => Err(format!("{key} is no text: write it in quotes")),
        }
    }

    fn first(&self, keys: &[&str]) -> Result<Option<String>, String> {
        for key in keys {
            if let Some(text) = self.get(key)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    fn domain(&self, id: &[&str], name: &[&str]) -> Result<Option<Domain>, String> {
        Ok(match self.first(id)? {
            Some(id) => Some(Domain::Id(id)),
            None => self.first(name)?.map(Domain::Name),
        })
    }

    /// The user's domain, which is also the project's where that has none of its own.
    fn user_domain(&self) -> Result<Domain, String> {
        let domain = self.domain(&["user_domain_id", "domain_id"], &["user_domain_name", "domain_name"])?;
        Ok(domain.unwrap_or_else(|| Domain::Id("default".to_owned())))
    }

    fn user(&self) -> Result<Named, String> {
        if let Some(id) = self.get("user_id")? {
            return Ok(Named::Id(id));
        }
        let name = self.get("username")?.ok_or("its auth has no username")?;
        Ok(Named::Name { name, domain: self.user_domain()? })
    }

    fn project(&self) -> Result<Named, String> {
        if let Some(id) = self.first(&["project_id", "tenant_id"])? {
            return Ok(Named::Id(id));
        }
        let name = self.first(&["project_name", "tenant_name"])?.ok_or("its auth has no project_name")?;
        let domain = match self.domain(&["project_domain_id"], &["project_domain_name"])? {
            Some(domain) => domain,
            None => self.user_domain()?,
        };
        Ok(Named::Name { name, domain })
    }
}

/// The `auth` of the settings, with its secrets.
fn spelled_out(auth: &AuthConfig) -> Result<Value, String> {
    let mut texts = serde_json::to_value(auth).expect("they are plain texts");
    for (key, source) in
        [("password", &auth.password), ("application_credential_secret", &auth.application_credential_secret)]
    {
        if let Some(source) = source {
            texts[key] = json!(source.resolve().map_err(|why| format!("auth.{key}: {why}"))?.expose());
        }
    }
    Ok(texts)
}

/// What the variables of `openrc` files say.
fn of_environment(variable: Variable<'_>) -> Value {
    const AUTH: [&str; 17] = [
        "auth_url",
        "username",
        "user_id",
        "password",
        "user_domain_name",
        "user_domain_id",
        "domain_name",
        "domain_id",
        "project_name",
        "project_id",
        "tenant_name",
        "tenant_id",
        "project_domain_name",
        "project_domain_id",
        "application_credential_id",
        "application_credential_name",
        "application_credential_secret",
    ];
    let text = |key: &str| Some((key.to_owned(), json!(variable(&format!("OS_{}", key.to_uppercase()))?)));
    let auth: Map<String, Value> = AUTH.iter().filter_map(|key| text(key)).collect();
    let others = ["auth_type", "region_name", "interface", "endpoint_type", "cacert"];
    let mut entry: Map<String, Value> = others.iter().filter_map(|key| text(key)).collect();
    entry.insert("auth".to_owned(), Value::Object(auth));
    if variable("OS_INSECURE")
        .is_some_and(|value| ["1", "true", "yes"].contains(&value.to_lowercase().as_str()))
    {
        entry.insert("verify".to_owned(), json!(false));
    }
    Value::Object(entry)
}

/// The entry of a name: of the vendor's profile, over which comes that of `clouds.yaml`, and over that the one of
/// `secure.yaml`.
fn of_files(settings: &Settings, name: &str, variable: Variable<'_>) -> Result<Value, String> {
    let file = clouds_file(settings, variable)?;
    let clouds = yaml(&file)?;
    let beside = |named: &str, other: &str| -> Result<Value, String> {
        let path = variable(named).map_or_else(|| file.with_file_name(other), PathBuf::from);
        if path.is_file() { yaml(&path) } else { Ok(Value::Null) }
    };
    let entry = &clouds["clouds"][name];
    if !entry.is_object() {
        let known: Vec<&str> =
            clouds["clouds"].as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
        return Err(format!("{} has no such cloud; it has: {}", file.display(), known.join(", ")));
    }
    let mut merged = json!({});
    if let Some(profile) = Texts(entry).first(&["profile", "cloud"])? {
        let vendors = beside("OS_CLIENT_VENDOR_FILE", "clouds-public.yaml")?;
        let vendor = &vendors["public-clouds"][&profile];
        if !vendor.is_object() {
            return Err(format!("no clouds-public.yaml has its profile {profile}"));
        }
        merge(&mut merged, vendor);
    }
    merge(&mut merged, entry);
    merge(&mut merged, &beside("OS_CLIENT_SECURE_FILE", "secure.yaml")?["clouds"][name]);
    Ok(merged)
}

fn clouds_file(settings: &Settings, variable: Variable<'_>) -> Result<PathBuf, String> {
    let named = settings.clouds_file.clone().or_else(|| variable("OS_CLIENT_CONFIG_FILE").map(PathBuf::from));
    if let Some(named) = named {
        return Ok(named);
    }
    let home = variable("HOME").map(|home| Path::new(&home).join(".config/openstack/clouds.yaml"));
    let places =
        [Some(PathBuf::from("clouds.yaml")), home, Some(PathBuf::from("/etc/openstack/clouds.yaml"))];
    let found = places.into_iter().flatten().find(|place| place.is_file());
    found.ok_or_else(|| "there is no clouds.yaml: say with clouds_file where it is".to_owned())
}

fn yaml(path: &Path) -> Result<Value, String> {
    let refuse = |why: String| format!("{}: {why}", path.display());
    let length = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?.len();
    if length > MOST_BYTES {
        return Err(refuse(format!("is longer than {MOST_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    // What is wrong with it is told by its place alone: a message may quote a secret.
    serde_saphyr::from_str(&text).map_err(|error| match error.location() {
        Some(at) => refuse(format!("is no YAML at line {}, column {}", at.line(), at.column())),
        None => refuse("is no YAML".to_owned()),
    })
}

fn merge(into: &mut Value, from: &Value) {
    let (Value::Object(into), Value::Object(from)) = (into, from) else { return };
    for (key, value) in from {
        match into.get_mut(key) {
            Some(there) if there.is_object() && value.is_object() => merge(there, value),
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

/// Where Keystone's third version is: many leave it out of the address.
fn keystone(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("auth_url `{text}` is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("auth_url `{text}` is no http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("auth_url must not hold a user or a password, which have keys of their own".to_owned());
    }
    let last = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty();
        match last.as_str() {
            "v3" => {}
            "v2.0" => drop(segments.pop().push("v3")),
            _ => drop(segments.push("v3")),
        }
    }
    Ok(url)
}

fn authorities(file: &Path) -> Result<Vec<Certificate>, String> {
    let shown = file.display();
    let pem = std::fs::read(file).map_err(|error| format!("cacert {shown}: {error}"))?;
    let authorities = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if authorities.is_empty() {
        return Err(format!("cacert {shown} has no certificate in PEM in it"));
    }
    Ok(authorities)
}

fn overrides(texts: &Texts<'_>) -> Result<BTreeMap<Service, Url>, String> {
    let mut overrides = BTreeMap::new();
    for service in Service::ALL {
        for key in service.overrides() {
            if let Some(text) = texts.get(&key)? {
                let url = text.parse().map_err(|error| format!("{key} `{text}` is no URL: {error}"))?;
                overrides.entry(service).or_insert(url);
            }
        }
    }
    Ok(overrides)
}
