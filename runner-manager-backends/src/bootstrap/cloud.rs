//! What each cloud takes as user data: how a script is wrapped, and how large it may be.

use runner_manager_core::domain::Os;
use thiserror::Error;

/// A cloud, as far as user data go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cloud {
    /// EC2's user data: cloud-init, and `EC2Launch` on Windows.
    Aws,
    /// A metadata value of Compute Engine: `startup-script`, and `windows-startup-script-ps1`.
    Gcp,
    /// Nova's user data: cloud-init, and cloudbase-init on Windows.
    OpenStack,
    /// `guestinfo.userdata`: cloud-init, and cloudbase-init on Windows.
    Vsphere,
}

/// User data that a cloud would not take.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "user data of {size} bytes are too large for {cloud:?}, which takes {limit}: use callback mode, or \
     shorten job hooks and template"
)]
pub struct TooLarge {
    /// Whose limit it is.
    pub cloud: Cloud,
    /// How large they are, in bytes as the cloud counts.
    pub size: usize,
    /// How large they may be.
    pub limit: usize,
}

impl Cloud {
    /// The most bytes of user data, and whether they are counted after base64.
    ///
    /// EC2 counts 16 KiB before base64, Nova 65,535 characters after it, Compute Engine 256 KiB of plain text
    /// in one metadata value. VMware Tools take 64 KiB in one message, in which base64 comes to the machine with a
    /// few bytes before it.
    pub const fn limit(self) -> (usize, bool) {
        match self {
            Self::Aws => (16 * 1024, false),
            Self::Gcp => (256 * 1024, false),
            Self::OpenStack => (65_535, true),
            Self::Vsphere => (63 * 1024, true),
        }
    }

    /// The script as this cloud's agent wants it.
    ///
    /// # Errors
    /// When it is too large.
    pub(super) fn wrap(self, os: Os, script: &str) -> Result<String, TooLarge> {
        let text = match (os, self) {
            (Os::Windows, Self::Aws) => format!("<powershell>\n{script}</powershell>\n"),
            (Os::Windows, Self::OpenStack | Self::Vsphere) => format!("#ps1_sysnative\n{script}"),
            (Os::Windows | Os::Linux | Os::MacOs, _) => script.to_owned(),
        };
        let (limit, encoded) = self.limit();
        let size = if encoded { text.len().div_ceil(3) * 4 } else { text.len() };
        if size > limit {
            return Err(TooLarge { cloud: self, size, limit });
        }
        Ok(text)
    }
}
