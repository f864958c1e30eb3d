//! The types of `[stores.NAME]`, and of the settings of a keyset that refer to it.

use std::sync::Arc;

use super::aws_kms::AwsKmsConfig;
use super::{HttpsOrLoopbackUrl, Name, RateLimit, UnverifiedPath};

/// A store of keys outside of this host. It seals private keys, so that they don't lie on a disk in the clear, or signs with keys that
/// never leave it.
#[derive(PartialEq, Eq)]
pub(crate) struct StoreConfig {
    pub(crate) name: Name,
    pub(crate) kind: StoreKind,
    /// The most signatures that this process asks for.
    pub(crate) signature_rate: RateLimit,
    /// The most signatures that this process asks for at once.
    pub(crate) concurrent_signatures: usize,
}

#[derive(PartialEq, Eq)]
pub(crate) enum StoreKind {
    Vault(VaultConfig),
    AwsKms(AwsKmsConfig),
    Pkcs11(Pkcs11Config),
}

impl StoreConfig {
    /// Whether a session begins with a request.
    pub(crate) const fn needs_login(&self) -> bool {
        match &self.kind {
            StoreKind::Vault(vault) => matches!(vault.login, VaultLogin::Jwt { .. }),
            StoreKind::AwsKms(kms) => kms.credentials.needs_request(),
            StoreKind::Pkcs11(_) => true,
        }
    }
}

impl StoreKind {
    /// The value of `kind`.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Vault(_) => "vault",
            Self::AwsKms(_) => "aws-kms",
            Self::Pkcs11(_) => "pkcs11",
        }
    }
}

/// The transit secrets engine of HashiCorp Vault or OpenBao.
#[derive(PartialEq, Eq)]
pub(crate) struct VaultConfig {
    pub(crate) address: HttpsOrLoopbackUrl,
    /// The path at which the transit engine is mounted.
    pub(crate) mount: String,
    pub(crate) namespace: Option<String>,
    /// The only certificate authorities that are trusted; by default the host's.
    pub(crate) ca_file: Option<UnverifiedPath>,
    pub(crate) login: VaultLogin,
}

/// How the service gets a token of the store. The files are read anew for each login.
#[derive(PartialEq, Eq)]
pub(crate) enum VaultLogin {
    TokenFile(UnverifiedPath),
    /// The auth method `kubernetes` or `jwt`.
    Jwt {
        /// The path at which the auth method is mounted.
        mount: String,
        role: String,
        jwt_file: UnverifiedPath,
    },
}

/// A token of a PKCS#11 module: an HSM, a TPM, or SoftHSM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pkcs11Config {
    /// The shared library of the vendor.
    pub(crate) module: UnverifiedPath,
    pub(crate) token_label: String,
    /// The PIN of the token's user. It is read anew for each login.
    pub(crate) pin_file: UnverifiedPath,
}

/// With what the keys of a keyset are sealed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SealConfig {
    pub(crate) store: Arc<StoreConfig>,
    /// The store's name for the key that seals.
    pub(crate) key: String,
}
