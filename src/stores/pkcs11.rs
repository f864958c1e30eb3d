//! The tokens of a PKCS#11 module: an HSM, a TPM, or SoftHSM.
//!
//! - <https://docs.oasis-open.org/pkcs11/pkcs11-base/v2.40/>: `C_Sign`, `C_Encrypt` and the errors. Tokens and keys are found by their
//!   labels, because the numbers of slots change.
//! - Sealing uses AES-GCM with the key's names as associated data, if the token has an AES key of that label. A TPM can't do that. There
//!   it is RSA-OAEP, which has no associated data. Then only AES-GCM of the sealed file itself binds the names (`keys/sealed_key.rs`).
//! - `pkcs11_module.rs` makes the calls, on a thread of the module's own.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::types::Ulong;
use rsa::pkcs8::{EncodePublicKey as _, LineEnding};
use rsa::{BigUint, RsaPublicKey};
use secrecy::{ExposeSecret as _, SecretBox};
use zeroize::Zeroizing;

use super::error::StoreError;
pub(crate) use super::pkcs11_module::finalize_modules;
use super::pkcs11_module::{Failure, Module, TokenSession, refused};
use super::store::{BoxFuture, DATA_KEY_LEN, DataKey, SealContext, SessionLifetime, Store};
use crate::clock::{Randomness as _, SystemRandomness};
use crate::config::{Algorithm, Pkcs11Config, RemoteKeyName};
use crate::http_client::REQUEST_TIMEOUT;

/// The longest time of making a key. A TPM needs up to half a minute.
const CREATE_KEY_TIMEOUT: Duration = Duration::from_mins(1);
/// How a sealed data key begins.
const GCM: &str = "pkcs11:gcm:";
const OAEP: &str = "pkcs11:oaep:";
/// The lengths of AES-GCM's nonce in bytes and of its tag in bits.
const NONCE_LEN: usize = 12;
const TAG_BITS: Ulong = Ulong::new(128);
/// The exponent 65537, big-endian.
const PUBLIC_EXPONENT: [u8; 3] = [1, 0, 1];
/// `DigestInfo` without the digest, which is its end (RFC 8017, 9.2, note 1).
const SHA256_INFO: &[u8] = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
const SHA512_INFO: &[u8] = b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40";

/// One token.
struct Pkcs11Store {
    module: Arc<Module>,
    config: Arc<Pkcs11Config>,
}

/// Logs in to a token, unless this process has done that.
///
/// # Errors
/// The module can't be loaded, it has no such token, or the token refuses the PIN.
pub(super) async fn connect(config: &Pkcs11Config) -> Result<Arc<dyn Store>, StoreError> {
    let store = Pkcs11Store { module: Module::of(&config.module)?, config: Arc::new(config.clone()) };
    store.call(REQUEST_TIMEOUT, |_| Ok(())).await?;
    Ok(Arc::new(store))
}

impl Pkcs11Store {
    async fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        act: impl FnMut(&mut TokenSession) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.module.call(self.config.clone(), timeout, act).await
    }
}

/// A key that seals data keys.
enum SealKey {
    Aes(ObjectHandle),
    Rsa(ObjectHandle),
}

impl TokenSession {
    /// Finds a key by its label. Tokens allow several keys with the same one.
    fn find(&self, class: ObjectClass, kind: KeyType, label: &str) -> Result<Option<ObjectHandle>, Failure> {
        let label_bytes = label.as_bytes().to_vec();
        let template = [Attribute::Class(class), Attribute::KeyType(kind), Attribute::Label(label_bytes)];
        let found = self.session.find_objects(&template)?;
        match found[..] {
            [] => Ok(None),
            [key] => Ok(Some(key)),
            _ => Err(refused(format!("has {} keys `{label}`: give each a label of its own", found.len()))),
        }
    }

    fn private_key(&self, label: &str) -> Result<Option<ObjectHandle>, Failure> {
        self.find(ObjectClass::PRIVATE_KEY, KeyType::RSA, label)
    }

    fn signing_key(&mut self, name: &str) -> Result<ObjectHandle, Failure> {
        if let Some(key) = self.signing_keys.get(name) {
            return Ok(*key);
        }
        let key = self.private_key(name)?.ok_or_else(|| {
            refused(format!(
                "has no private RSA key `{name}`: `tokenmint keys new KID --remote` makes one, or \
                 `pkcs11-tool --keypairgen --key-type rsa:2048 --label {name}`"
            ))
        })?;
        self.signing_keys.insert(name.to_owned(), key);
        Ok(key)
    }

    /// Reads a public key from the private one, which is there in any case.
    fn public_key(&self, key: ObjectHandle, name: &str) -> Result<RsaPublicKey, Failure> {
        let (mut modulus, mut exponent) = (Vec::new(), Vec::new());
        let wanted = [AttributeType::Modulus, AttributeType::PublicExponent];
        for attribute in self.session.get_attributes(key, &wanted)? {
            match attribute {
                Attribute::Modulus(bytes) => modulus = bytes,
                Attribute::PublicExponent(bytes) => exponent = bytes,
                _ => {}
            }
        }
        let public = RsaPublicKey::new(BigUint::from_bytes_be(&modulus), BigUint::from_bytes_be(&exponent));
        public
            .map_err(|error| refused(format!("has the key `{name}`, whose public key isn't usable: {error}")))
    }

    /// Finds the key that seals. An AES key comes first, since everybody who has an RSA key's public key can seal with it.
    fn seal_key(&self, label: &str) -> Result<SealKey, Failure> {
        if let Some(key) = self.find(ObjectClass::SECRET_KEY, KeyType::AES, label)? {
            return Ok(SealKey::Aes(key));
        }
        let key = self.private_key(label)?.ok_or_else(|| {
            refused(format!(
                "has no key `{label}` that seals: set `seal_key`, or make one: \
                 `pkcs11-tool --keygen --key-type AES:32 --label {label} --private --sensitive`"
            ))
        })?;
        Ok(SealKey::Rsa(key))
    }

    fn seal(&self, label: &str, data_key: &[u8], names: &[u8]) -> Result<String, Failure> {
        let key = match self.seal_key(label)? {
            SealKey::Rsa(key) => key,
            SealKey::Aes(key) => {
                let mut nonce = [0; NONCE_LEN];
                let random = SystemRandomness::default().fill(&mut nonce);
                random.map_err(|error| StoreError::Unavailable(error.to_string()))?;
                let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, names, TAG_BITS)?);
                let ciphertext = self.session.encrypt(&mechanism, key, data_key)?;
                // The token may have written a nonce of its own.
                return Ok(GCM.to_owned() + &STANDARD.encode([&nonce, &*ciphertext].concat()));
            }
        };
        // The public key encrypts here: some modules return a wrong length.
        let public = self.public_key(key, label)?;
        let sealed = public.to_public_key_der().ok().and_then(|der| {
            let key =
                OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(der.as_bytes()).ok()?).ok()?;
            let mut ciphertext = vec![0; key.ciphertext_size()];
            let sealed = key.encrypt(&OAEP_SHA1_MGF1SHA1, data_key, &mut ciphertext, None).ok()?;
            Some(OAEP.to_owned() + &STANDARD.encode(sealed))
        });
        sealed.ok_or_else(|| {
            refused(format!("has the RSA key `{label}`, which can't encrypt: use 2048 bits or more"))
        })
    }

    fn unseal(&self, label: &str, sealed: &str, names: &[u8]) -> Result<DataKey, Failure> {
        let not_sealed_so = || {
            refused(format!(
                "didn't seal this data key with its key `{label}`: set `seal_key`, restore the file, or seal the key again"
            ))
        };
        let decode = |prefix: &str| {
            let text = sealed.strip_prefix(prefix).and_then(|text| STANDARD.decode(text).ok());
            text.ok_or_else(not_sealed_so)
        };
        let plaintext = match self.seal_key(label)? {
            SealKey::Aes(key) => {
                let mut text = decode(GCM)?;
                let (nonce, text) = text.split_first_chunk_mut::<NONCE_LEN>().ok_or_else(not_sealed_so)?;
                let mechanism = Mechanism::AesGcm(GcmParams::new(nonce, names, TAG_BITS)?);
                self.session.decrypt(&mechanism, key, text)?
            }
            SealKey::Rsa(key) => {
                // SoftHSM knows no other hash. OAEP doesn't need one that resists collisions (RFC 8017, 7.1).
                let source = PkcsOaepSource::empty();
                let params = PkcsOaepParams::new(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1, source);
                self.session.decrypt(&Mechanism::RsaPkcsOaep(params), key, &decode(OAEP)?)?
            }
        };
        let plaintext = Zeroizing::new(plaintext);
        if plaintext.len() != DATA_KEY_LEN {
            return Err(refused("decrypts it to something else than a data key"));
        }
        Ok(SecretBox::init_with_mut(|key: &mut [u8; DATA_KEY_LEN]| key.copy_from_slice(&plaintext)))
    }

    fn create_key(&self, name: &str, bits: usize) -> Result<(), Failure> {
        if self.private_key(name)?.is_some() {
            return Err(refused(format!(
                "has a key `{name}` already: list it with --remote-key {name}, or take another key id"
            )));
        }
        // All sessions with the token share the login.
        let session = self.module.open_rw_session(self.slot)?;
        let label = || Attribute::Label(name.as_bytes().to_vec());
        let id = || Attribute::Id(name.as_bytes().to_vec());
        let public = [
            Attribute::Token(true),
            Attribute::Verify(true),
            Attribute::ModulusBits(Ulong::try_from(bits)?),
            Attribute::PublicExponent(PUBLIC_EXPONENT.to_vec()),
            label(),
            id(),
        ];
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            label(),
            id(),
        ];
        session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private)?;
        Ok(())
    }
}

impl Store for Pkcs11Store {
    fn seal<'a>(
        &'a self,
        seal_key: &'a str,
        data_key: &'a DataKey,
        context: SealContext<'a>,
    ) -> BoxFuture<'a, Result<String, StoreError>> {
        let (seal_key, names) = (seal_key.to_owned(), context.to_string());
        let data_key = Zeroizing::new(*data_key.expose_secret());
        Box::pin(self.call(REQUEST_TIMEOUT, move |token| token.seal(&seal_key, &*data_key, names.as_bytes())))
    }

    fn unseal<'a>(
        &'a self,
        seal_key: &'a str,
        sealed: &'a str,
        context: SealContext<'a>,
    ) -> BoxFuture<'a, Result<DataKey, StoreError>> {
        let (seal_key, sealed, names) = (seal_key.to_owned(), sealed.to_owned(), context.to_string());
        Box::pin(self.call(REQUEST_TIMEOUT, move |token| token.unseal(&seal_key, &sealed, names.as_bytes())))
    }

    fn public_key<'a>(&'a self, key: &'a RemoteKeyName) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(async move {
            let name = without_version(key)?;
            let read = move |token: &mut TokenSession| {
                let key = token.signing_key(&name)?;
                token.public_key(key, &name)
            };
            let public = self.call(REQUEST_TIMEOUT, read).await?;
            let pem = public.to_public_key_pem(LineEnding::LF);
            pem.map_err(|error| StoreError::Refused(format!("has no usable public key `{key}`: {error}")))
        })
    }

    fn sign<'a>(
        &'a self,
        key: &'a RemoteKeyName,
        algorithm: Algorithm,
        digest: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, StoreError>> {
        Box::pin(async move {
            let name = without_version(key)?;
            let info = match algorithm {
                Algorithm::Rs256 => SHA256_INFO,
                Algorithm::Rs512 => SHA512_INFO,
            };
            let digest_info = [info, digest].concat();
            let sign = move |token: &mut TokenSession| {
                let key = token.signing_key(&name)?;
                Ok(token.session.sign(&Mechanism::RsaPkcs, key, &digest_info)?)
            };
            self.call(REQUEST_TIMEOUT, sign).await
        })
    }

    fn create_key<'a>(
        &'a self,
        name: &'a str,
        bits: usize,
    ) -> BoxFuture<'a, Result<RemoteKeyName, StoreError>> {
        Box::pin(async move {
            let label = name.to_owned();
            self.call(CREATE_KEY_TIMEOUT, move |token| token.create_key(&label, bits)).await?;
            Ok(RemoteKeyName { name: name.to_owned(), version: None })
        })
    }

    fn lifetime(&self) -> Option<SessionLifetime> {
        None
    }

    /// Does nothing: the login is the whole process's, and a running service shares it.
    fn log_out(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

fn without_version(key: &RemoteKeyName) -> Result<String, StoreError> {
    if key.version.is_some() {
        let name = &key.name;
        return Err(StoreError::Refused(format!("has no versions of keys: write `{name}` and not `{key}`")));
    }
    Ok(key.name.clone())
}
