//! The tokens by which machines show whose they are.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{RunnerName, Secret};

/// What stands before a name in what is signed: the key signs other things, too.
const WHAT: &[u8] = b"runner-manager bootstrap token\0";

/// The key that the tokens of machines are made with: a deployment's `secret_key`.
///
/// A token is an HMAC of a runner's name. Nothing is stored for it, and every replica can check it.
///
/// ```
/// use runner_manager_core::domain::{RunnerName, Secret, TokenKey};
///
/// let key = TokenKey::new(Secret::new("the deployment's secret_key"));
/// let (one, other) = (RunnerName::new("acme-linux-1")?, RunnerName::new("acme-linux-2")?);
/// let token = key.token(&one);
/// assert!(key.fits(&one, token.expose()));
/// assert!(!key.fits(&other, token.expose()));
/// # Ok::<(), runner_manager_core::domain::NameError>(())
/// ```
#[derive(Clone)]
pub struct TokenKey(Secret);

impl TokenKey {
    /// The key of a deployment.
    pub const fn new(secret_key: Secret) -> Self {
        Self(secret_key)
    }

    /// The token of a runner's machine.
    pub fn token(&self, runner: &RunnerName) -> Secret {
        Secret::new(hex::encode(self.code(runner).finalize().into_bytes()))
    }

    /// Whether a token is that of a runner's machine. Takes the same time whatever is wrong with it.
    pub fn fits(&self, runner: &RunnerName, token: &str) -> bool {
        let mut given = [0; 32];
        hex::decode_to_slice(token, &mut given).is_ok() && self.code(runner).verify_slice(&given).is_ok()
    }

    fn code(&self, runner: &RunnerName) -> Hmac<Sha256> {
        let key = self.0.expose().as_bytes();
        Hmac::<Sha256>::new_from_slice(key)
            .expect("HMAC takes keys of any length")
            .chain_update(WHAT)
            .chain_update(runner.as_str())
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose() == other.0.expose()
    }
}

impl Eq for TokenKey {}

#[cfg(test)]
mod tests {
    use super::TokenKey;
    use crate::domain::{RunnerName, Secret};

    #[test]
    fn a_token_fits_its_runner_and_its_key_alone() {
        let (key, other) = (TokenKey::new(Secret::new("a key")), TokenKey::new(Secret::new("another")));
        let runner = RunnerName::new("acme-linux-1").unwrap();
        let token = key.token(&runner);
        assert!(key.fits(&runner, token.expose()));
        assert!(!other.fits(&runner, token.expose()));
        for wrong in ["", "00", &token.expose()[..62], &format!("{}00", token.expose()), &"0".repeat(64)] {
            assert!(!key.fits(&runner, wrong), "{wrong}");
        }
        assert_eq!(format!("{key:?} {token:?}"), "[secret] [secret]");
    }
}
