//! Where a cloud is and who signs in, from all three places.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::super::catalog::Service;
use super::super::cloud::{Cloud, Credential, Domain, Named, Who};
use super::super::config::Settings;

const CLOUDS: &str = r#"
clouds:
  acme:
    profile: vendor
    auth:
      username: runner
      project_name: ci
      project_domain_name: corp
    region_name: north
    verify: false
    compute_endpoint_override: https://nova.acme/v2.1
  credential:
    auth_type: v3applicationcredential
    auth: {auth_url: "https://keystone/identity", application_credential_id: id1, application_credential_secret: "0123"}
  number:
    auth: {auth_url: "https://keystone/v3", username: u, password: 0123, project_name: p}
  federated:
    auth_type: v3oidcpassword
    auth: {auth_url: "https://keystone/v3"}
"#;

const SECURE: &str = "clouds: {acme: {auth: {password: pass-of-acme}}}";

const VENDORS: &str = r"
public-clouds:
  vendor:
    auth: {auth_url: https://keystone.vendor/v2.0, project_name: overridden}
    interface: internal
";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("clouds.yaml", CLOUDS), ("secure.yaml", SECURE), ("clouds-public.yaml", VENDORS)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn cloud(settings: &Value, variables: &[(&str, &str)]) -> Result<Cloud, String> {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    let settings = Settings::read(settings).unwrap();
    Cloud::find(&settings, &|name| variables.get(name).map(|&value| value.to_owned()))
}

fn in_file(folder: &Path, name: &str) -> Result<Cloud, String> {
    cloud(&json!({"cloud": name, "clouds_file": folder.join("clouds.yaml")}), &[])
}

#[test]
fn three_files_make_one_cloud() {
    let folder = folder();
    let acme = in_file(folder.path(), "acme").unwrap();
    assert_eq!(acme.auth_url.as_str(), "https://keystone.vendor/v3");
    assert_eq!(
        (acme.region.as_deref(), acme.interface.as_str(), acme.verify),
        (Some("north"), "internal", false)
    );
    assert_eq!(acme.overrides[&Service::Compute].as_str(), "https://nova.acme/v2.1");
    let Who::Password { user, password, project } = &acme.who else { panic!("{acme:?}") };
    let name = |name: &str, domain| Named::Name { name: name.to_owned(), domain };
    assert_eq!(*user, name("runner", Domain::Id("default".to_owned())));
    assert_eq!(*project, name("ci", Domain::Name("corp".to_owned())));
    assert_eq!(password.expose(), "pass-of-acme");
    assert!(!format!("{acme:?}").contains("pass-of-acme"));
}

#[test]
fn an_application_credential_needs_no_project() {
    let folder = folder();
    let cloud = in_file(folder.path(), "credential").unwrap();
    assert_eq!(cloud.auth_url.as_str(), "https://keystone/identity/v3");
    let Who::ApplicationCredential { credential, secret } = cloud.who else { panic!("a password") };
    assert_eq!((credential, secret.expose()), (Credential::Id("id1".to_owned()), "0123"));
}

#[test]
fn what_is_wrong_with_a_file_is_told_without_its_secrets() {
    let folder = folder();
    for (name, told) in [
        ("nowhere", "has no such cloud; it has: acme, credential, federated, number"),
        ("number", "password is no text: write it in quotes"),
        ("federated", "auth_type v3oidcpassword is not known here"),
    ] {
        let why = in_file(folder.path(), name).unwrap_err();
        assert!(why.contains(told), "{name}: {why}");
    }
    let broken = folder.path().join("clouds.yaml");
    std::fs::write(&broken, "clouds:\n  a: {auth: {password: hunter2}\n  b: [").unwrap();
    let why = in_file(folder.path(), "a").unwrap_err();
    assert!(why.contains("is no YAML") && !why.contains("hunter2"), "{why}");
    std::fs::remove_file(&broken).unwrap();
    assert!(in_file(folder.path(), "a").unwrap_err().contains("clouds.yaml"));
}

#[test]
fn the_environment_serves_like_an_openrc() {
    let variables = [
        ("OS_AUTH_URL", "http://keystone:5000"),
        ("OS_USERNAME", "me"),
        ("OS_PASSWORD", "secret"),
        ("OS_PROJECT_ID", "p1"),
        ("OS_USER_DOMAIN_NAME", "corp"),
        ("OS_REGION_NAME", "one"),
        ("OS_ENDPOINT_TYPE", "internalURL"),
        ("OS_INSECURE", "True"),
    ];
    let found = cloud(&json!({}), &variables).unwrap();
    assert_eq!(found.auth_url.as_str(), "http://keystone:5000/v3");
    assert_eq!(
        (found.region.as_deref(), found.interface.as_str(), found.verify),
        (Some("one"), "internal", false)
    );
    let Who::Password { user, project, .. } = found.who else { panic!("no password") };
    let me = Named::Name { name: "me".to_owned(), domain: Domain::Name("corp".to_owned()) };
    assert_eq!((user, project), (me, Named::Id("p1".to_owned())));
    // The backend's own settings come first.
    let settings = json!({"region": "two", "interface": "public"});
    let found = cloud(&settings, &variables).unwrap();
    assert_eq!((found.region.as_deref(), found.interface.as_str()), (Some("two"), "public"));
    assert!(cloud(&json!({}), &[]).unwrap_err().contains("OS_CLOUD or OS_AUTH_URL"));
}

#[test]
fn a_named_cloud_comes_before_the_rest_of_the_environment() {
    let folder = folder();
    let file = folder.path().join("clouds.yaml");
    let variables = [
        ("OS_CLOUD", "credential"),
        ("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap()),
        ("OS_AUTH_URL", "http://other"),
    ];
    let found = cloud(&json!({}), &variables).unwrap();
    assert_eq!(found.auth_url.as_str(), "https://keystone/identity/v3");
    let home = tempfile::tempdir().unwrap();
    let there = home.path().join(".config/openstack");
    std::fs::create_dir_all(&there).unwrap();
    std::fs::write(there.join("clouds.yaml"), CLOUDS).unwrap();
    let variables = [("HOME", home.path().to_str().unwrap())];
    assert!(cloud(&json!({"cloud": "credential"}), &variables).is_ok());
}

#[test]
fn the_settings_themselves_serve() {
    let settings = json!({"auth": {
        "auth_url": "https://keystone/v3", "application_credential_name": "runners", "user_id": "u1",
        "application_credential_secret": {"env": "PATH"},
    }});
    let Who::ApplicationCredential { credential, secret } = cloud(&settings, &[]).unwrap().who else {
        panic!("a password")
    };
    let user = Named::Id("u1".to_owned());
    assert_eq!(credential, Credential::Name { name: "runners".to_owned(), user });
    assert_eq!(secret.expose(), std::env::var("PATH").unwrap());
    let unset = json!({"auth": {
        "auth_url": "https://k", "username": "u", "project_name": "p", "password": {"env": "NO_SUCH_VARIABLE"},
    }});
    assert!(cloud(&unset, &[]).unwrap_err().contains("NO_SUCH_VARIABLE"));
}

#[test]
fn strange_addresses_are_refused() {
    let at = |url: &str| {
        cloud(&json!({"auth": {"auth_url": url, "username": "u", "password": "p", "project_name": "p"}}), &[])
    };
    for wrong in ["keystone", "ftp://keystone", "https://u:p@keystone/v3", ""] {
        assert!(at(wrong).is_err(), "{wrong}");
    }
    for (right, read) in [("https://k", "https://k/v3"), ("https://k:5000/v3/", "https://k:5000/v3")] {
        assert_eq!(at(right).unwrap().auth_url.as_str(), read);
    }
}
