//! What a server's certificate is checked with: the system's certificates, or those that the user names.
//!
//! Cryptography is aws-lc-rs, whatever the process has installed.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// What makes TLS connections. `ca` is PEM, and takes the place of the system's certificates, which are read
/// once. What cannot be used is told in words.
pub(crate) fn client_config(ca: Option<&str>) -> Result<ClientConfig, String> {
    let roots = match ca {
        Some(pem) => named(pem)?,
        None => of_the_system()?,
    };
    with_roots(roots)
}

/// What makes TLS connections and trusts nobody: for where none are made.
#[cfg(feature = "octocrab")]
pub(crate) fn trusting_nobody() -> Result<ClientConfig, String> {
    with_roots(RootCertStore::empty())
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn named(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("ca is no PEM: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("ca has a certificate that cannot be used: {error}"))?;
    }
    if roots.is_empty() { Err("ca has no certificate in it".to_owned()) } else { Ok(roots) }
}

fn of_the_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors = found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return Err(format!(
            "this system has no certificates: install them, or name some with ca ({errors})"
        ));
    }
    Ok(roots)
}
