//! What the tests of several backends share. Nothing of it is in the library.

#[cfg(any(feature = "aws", feature = "gcp", feature = "openstack", feature = "vsphere"))]
pub(crate) mod fault_proxy;
