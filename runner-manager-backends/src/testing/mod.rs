//! What the tests of several backends share. Nothing of it is in the library.

#[cfg(feature = "vsphere")]
pub(crate) mod calling;
#[cfg(any(feature = "aws", feature = "gcp", feature = "openstack", feature = "vsphere"))]
pub(crate) mod fault_proxy;

/// Whether a program is here; where it is not the test is skipped, and fails under `CI=true`.
pub(crate) fn has(program: &str) -> bool {
    let found = std::process::Command::new(program).arg("--version").output().is_ok();
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "there is no {program}");
    if !found {
        println!("skipped: there is no {program}");
    }
    found
}
