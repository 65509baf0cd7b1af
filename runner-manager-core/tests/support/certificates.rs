//! A CA of our own and a certificate that it signed, for 127.0.0.1 or other names, made anew by the `openssl` program.

use std::path::Path;
use std::process::{Command, Stdio};

/// Writes `ca.pem`, `server.pem` and `server.key` into a folder. False where this machine lacks the program; in CI
/// that fails.
pub(crate) fn make_certificates(folder: &Path) -> bool {
    make_certificates_for(folder, "IP:127.0.0.1")
}

/// The same for other names, as in `DNS:a,DNS:b`.
pub(crate) fn make_certificates_for(folder: &Path, names: &str) -> bool {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let openssl = |arguments: &[&str]| {
        let done = Command::new("openssl").args(arguments).current_dir(folder).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    let ca = ["req", "-x509", "-subj", "/CN=a CA of tests", "-keyout", "ca.key", "-out", "ca.pem"];
    let server = ["req", "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=server"];
    let server_files = ["-keyout", "server.key", "-out", "server.pem"];
    let names = format!("subjectAltName={names}");
    let names = ["-addext", &names, "-addext", "basicConstraints=critical,CA:FALSE"];
    let made =
        openssl(&[&ca[..], &key].concat()) && openssl(&[&server[..], &key, &server_files, &names].concat());
    assert!(made || std::env::var("CI").as_deref() != Ok("true"), "CI has no openssl");
    if !made {
        eprintln!("skipped: no openssl");
    }
    made
}
