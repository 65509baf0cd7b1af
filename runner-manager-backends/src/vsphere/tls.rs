//! How vCenter proves that it is the one: by a certificate that the system or a named CA signed, or by the
//! SHA-256 thumbprint of its certificate alone.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use sha2::{Digest, Sha256};

/// The SHA-256 of a certificate in DER, as `openssl x509 -fingerprint -sha256` and vCenter's own pages show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// Reads 32 bytes in hexadecimal, with or without colons between them.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let bytes = hex::decode(digits).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| {
            "is not a SHA-256 thumbprint, which is 64 hexadecimal digits: see `openssl x509 -fingerprint -sha256`"
                .to_owned()
        })
    }

    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.0.iter().map(|byte| format!("{byte:02X}")).collect();
        f.write_str(&bytes.join(":"))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// TLS that trusts the certificate of a thumbprint, and no other.
pub(super) fn pinned(thumbprint: Thumbprint) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Pinned { thumbprint, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// Looks at the thumbprint instead of at names, dates and signers. That the server holds the certificate's
/// key is proved as ever.
#[derive(Debug)]
struct Pinned {
    thumbprint: Thumbprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Thumbprint::of(end_entity);
        if shown == self.thumbprint {
            return Ok(ServerCertVerified::assertion());
        }
        let wanted = self.thumbprint;
        Err(Error::General(format!("the server's certificate has the thumbprint {shown}, not {wanted}")))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::Thumbprint;

    #[test]
    fn thumbprints_read_with_and_without_colons() {
        let plain = "0a".repeat(32);
        let shown = Thumbprint::parse(&plain).unwrap().to_string();
        assert!(shown.starts_with("0A:0A:") && shown.len() == 95, "{shown}");
        assert_eq!(Thumbprint::parse(&shown), Thumbprint::parse(&plain));
        for wrong in ["", "0a", &"0g".repeat(32), &"0a".repeat(20), &"0a".repeat(33)] {
            assert!(Thumbprint::parse(wrong).is_err(), "{wrong}");
        }
    }
}
