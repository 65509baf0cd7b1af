//! TLS to a Redis: with aws-lc-rs whatever the process has installed, and the system's certificates or
//! those that the user names.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::open_error::RedisOpenError;

/// What makes TLS connections. `ca` is PEM; without it the system's certificates are read, once.
pub(super) fn connector(ca: Option<&str>) -> Result<TlsConnector, RedisOpenError> {
    let refused = |reason: String| RedisOpenError::Certificates { reason };
    let roots = match ca {
        Some(pem) => named(pem).map_err(refused)?,
        None => of_the_system().map_err(refused)?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
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
