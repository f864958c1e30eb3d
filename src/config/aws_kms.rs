//! The types of `[stores.NAME]` with `kind = "aws-kms"`, and where its credentials come from.

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

use super::{HttpsOrLoopbackUrl, UnverifiedPath};

/// AWS Key Management Service in one region.
#[derive(PartialEq, Eq)]
pub(crate) struct AwsKmsConfig {
    pub(crate) region: String,
    /// The address of KMS: the region's, or another one that was configured.
    pub(crate) endpoint: HttpsOrLoopbackUrl,
    /// The only certificate authorities that are trusted; by default the host's.
    pub(crate) ca_file: Option<UnverifiedPath>,
    pub(crate) credentials: AwsCredentialSource,
}

/// Where the credentials come from. The environment decides, in the order of AWS's own clients.
#[derive(PartialEq, Eq)]
pub(crate) enum AwsCredentialSource {
    /// The environment has them.
    Static(AwsCredentials),
    /// STS returns them for the JWT of a pod's service account (IRSA).
    WebIdentity { sts: HttpsOrLoopbackUrl, role_arn: String, session_name: String, token_file: PathBuf },
    /// An agent returns them: EKS Pod Identity, or ECS.
    Container { url: String, authorization: ContainerAuthorization },
    /// The instance metadata service of EC2 returns them (`IMDSv2`). The address has no slash at its end.
    InstanceMetadata { address: String },
}

impl AwsCredentialSource {
    /// Whether getting them takes a request.
    pub(crate) const fn needs_request(&self) -> bool {
        !matches!(self, Self::Static(_))
    }
}

/// The header `Authorization` of a request to the agent.
pub(crate) enum ContainerAuthorization {
    None,
    Token(SecretString),
    /// Read anew for each request.
    File(PathBuf),
}

#[derive(Clone)]
pub(crate) struct AwsCredentials {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: SecretString,
    pub(crate) session_token: Option<SecretString>,
}

/// Compares for a reload, which needn't take constant time.
impl PartialEq for AwsCredentials {
    fn eq(&self, other: &Self) -> bool {
        self.access_key_id == other.access_key_id
            && self.secret_access_key.expose_secret() == other.secret_access_key.expose_secret()
            && self.session_token.as_ref().map(SecretString::expose_secret)
                == other.session_token.as_ref().map(SecretString::expose_secret)
    }
}

impl Eq for AwsCredentials {}

/// Compares for a reload, which needn't take constant time.
impl PartialEq for ContainerAuthorization {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Token(one), Self::Token(two)) => one.expose_secret() == two.expose_secret(),
            (Self::File(one), Self::File(two)) => one == two,
            _ => false,
        }
    }
}

impl Eq for ContainerAuthorization {}
