//! PKCS#11 in a static build, which can't load a module.

use std::sync::Arc;

use super::error::StoreError;
use super::store::Store;
use crate::config::Pkcs11Config;

/// Does nothing: no module is loaded.
pub(crate) const fn finalize_modules() {}

/// # Errors
/// Always.
#[allow(clippy::unused_async, reason = "the one that can load a module is asynchronous")]
pub(super) async fn connect(
    Pkcs11Config { module, .. }: &Pkcs11Config,
) -> Result<Arc<dyn Store>, StoreError> {
    Err(StoreError::Refused(format!(
        "needs a PKCS#11 module ({module}), and this build of tokenmint is static and can't load one: use the image of the target \
         `pkcs11`, or a build for glibc"
    )))
}
