//! What the tests of several backends share. Nothing of it is in the library.

#[cfg(feature = "vsphere")]
pub(crate) mod fault_proxy;
