//! The tokens of a PKCS#11 module: an HSM, a TPM, or SoftHSM.
//!
//! - <https://docs.oasis-open.org/pkcs11/pkcs11-base/v2.40/>: `C_Sign`, `C_Encrypt` and the errors. Tokens and keys are found by their
//!   labels, because the numbers of slots change.
//! - Sealing uses AES-GCM with the key's names as associated data, if the token has an AES key of that label. A TPM can't do that. There
//!   it is RSA-OAEP, which has no associated data. Then only AES-GCM of the sealed file itself binds the names (`keys/sealed_key.rs`).
//! - A module runs in this process, may hang, and may not bear several threads. So each one has a thread of its own that makes all calls,
//!   and callers wait for its answer up to a deadline. While a call hangs, further ones fail at once.
//! - A login is for the whole process, so all loads and requests share one session for each token. A lost session is replaced once for
//!   each call. A PIN that the token refused isn't tried again, because a few wrong ones lock a token.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::{AuthPin, Ulong};
use rsa::pkcs8::{EncodePublicKey as _, LineEnding};
use rsa::{BigUint, RsaPublicKey};
use secrecy::{ExposeSecret as _, SecretBox};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::error::StoreError;
use super::store::{BoxFuture, DATA_KEY_LEN, DataKey, SealContext, SessionLifetime, Store};
use crate::clock::{Randomness as _, SystemRandomness};
use crate::config::{Algorithm, Pkcs11Config, RemoteKeyName, UnverifiedPath};
use crate::files::OpenedFile;
use crate::http_client::REQUEST_TIMEOUT;

/// The longest time of making a key. A TPM needs up to half a minute.
const CREATE_KEY_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest PIN in a file, in bytes. PKCS#11 has no limit; tokens take up to 255.
const MAX_PIN_BYTES: u64 = 1 << 10;
/// How a sealed data key begins.
const GCM: &str = "pkcs11:gcm:";
const OAEP: &str = "pkcs11:oaep:";
/// The lengths of AES-GCM's nonce in bytes and of its tag in bits.
const NONCE_LEN: usize = 12;
const TAG_BITS: Ulong = Ulong::new(128);
/// The exponent 65537, big-endian.
const PUBLIC_EXPONENT: [u8; 3] = [1, 0, 1];
/// What `DigestInfo` (RFC 8017, 9.2, note 1) has before the digest.
const SHA256_INFO: &[u8] = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
const SHA512_INFO: &[u8] = b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40";

/// The modules that this process has loaded, by path. `C_Initialize` is for the whole process.
static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

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
    /// Has the module's thread call `act` with a session. Repeats it once if the session was lost.
    async fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        act: impl FnMut(&mut TokenSession) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let config = self.config.clone();
        self.module.run(timeout, move |worker| worker.with_session(&config, act)).await
    }
}

/// A module's thread, as its callers see it.
struct Module {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    /// When the current call began.
    busy_since: Arc<Mutex<Option<Instant>>>,
}

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

impl Module {
    /// Returns the thread of a module. Starts it if there is none.
    fn of(file: &UnverifiedPath) -> Result<Arc<Self>, StoreError> {
        // Two paths of one file are one module.
        let path = file.as_path().canonicalize().map_err(|error| StoreError::File {
            key: "module",
            reason: format!("({file}) can't be opened: {error}: install the library, or correct the path"),
        })?;
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&path) {
            return Ok(module.clone());
        }
        let (jobs, received) = mpsc::channel::<Job>();
        let busy_since = Arc::new(Mutex::new(None));
        let mut worker = Worker::new(path.clone());
        let busy = busy_since.clone();
        // Nobody joins it, so a call that hangs doesn't delay the end of the process.
        let thread = std::thread::Builder::new().name("pkcs11".to_owned()).spawn(move || {
            let set_busy = |since| *busy.lock().unwrap_or_else(PoisonError::into_inner) = since;
            for job in received {
                set_busy(Some(Instant::now()));
                job(&mut worker);
                set_busy(None);
            }
        });
        thread.map_err(|error| {
            StoreError::Unavailable(format!("no thread can be started for its module: {error}"))
        })?;
        let module = Arc::new(Self { path: path.clone(), jobs, busy_since });
        modules.insert(path, module.clone());
        Ok(module)
    }

    async fn run<T: Send + 'static>(
        &self,
        timeout: Duration,
        act: impl FnOnce(&mut Worker) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let path = self.path.display();
        let busy_since = *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(busy) = busy_since.map(|since| since.elapsed()).filter(|busy| *busy > REQUEST_TIMEOUT) {
            let seconds = busy.as_secs();
            return Err(StoreError::Unavailable(format!(
                "its module {path} hasn't returned from a call for {seconds} s; restart tokenmint if it never does"
            )));
        }
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |worker| {
            // Its caller may have given up while it waited.
            if !reply.is_closed() {
                let _ = reply.send(act(worker));
            }
        });
        let ended = || StoreError::Unavailable(format!("the thread of its module {path} has ended: restart"));
        self.jobs.send(job).map_err(|_| ended())?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(ended())),
            Err(_) => {
                let seconds = timeout.as_secs();
                Err(StoreError::Unavailable(format!("its module {path} didn't return within {seconds} s")))
            }
        }
    }
}

/// Why an operation failed: an error to report, or one of the module, which may be repeated.
enum Failure {
    Store(StoreError),
    Module(Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Module(error)
    }
}

fn refused(message: String) -> Failure {
    Failure::Store(StoreError::Refused(message))
}

/// What only the module's thread uses.
struct Worker {
    path: PathBuf,
    module: Option<Pkcs11>,
    is_initialized: bool,
    /// By the label of the token.
    sessions: BTreeMap<String, TokenSession>,
    /// The last PIN that each token refused.
    refused_pins: BTreeMap<String, AuthPin>,
}

impl Worker {
    const fn new(path: PathBuf) -> Self {
        Self {
            path,
            module: None,
            is_initialized: false,
            sessions: BTreeMap::new(),
            refused_pins: BTreeMap::new(),
        }
    }

    fn with_session<T>(
        &mut self,
        config: &Pkcs11Config,
        mut act: impl FnMut(&mut TokenSession) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut is_first = true;
        loop {
            let error = match self.session(config).and_then(&mut act) {
                Ok(done) => return Ok(done),
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Module(error)) => error,
            };
            // Some modules leave an operation active in the session of a failed call.
            self.sessions.remove(&config.token_label);
            let recovery = recovery(&error);
            if !is_first || recovery == Recovery::None {
                return Err(describe(error));
            }
            if recovery == Recovery::Initialize {
                self.finalize();
            }
            is_first = false;
        }
    }

    /// Returns the session with the token. Loads the module and logs in if that wasn't done.
    fn session(&mut self, config: &Pkcs11Config) -> Result<&mut TokenSession, Failure> {
        if !self.sessions.contains_key(&config.token_label) {
            let module = self.initialized()?;
            let session = self.log_in(&module, config)?;
            self.sessions.insert(config.token_label.clone(), session);
        }
        let session = self.sessions.get_mut(&config.token_label);
        Ok(session.expect("it was there or has just been inserted"))
    }

    fn initialized(&mut self) -> Result<Pkcs11, Failure> {
        let module = match &self.module {
            Some(module) => module,
            None => self.module.insert(Pkcs11::new(&self.path).map_err(|error| {
                let reason = match error {
                    Error::LibraryLoading(error) => error.to_string(),
                    error => error.to_string(),
                };
                let reason = format!("isn't a PKCS#11 module that can be loaded: {reason}");
                StoreError::File { key: "module", reason }
            })?),
        };
        if !self.is_initialized {
            match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
                Err(error) => return Err(error.into()),
            }
            self.is_initialized = true;
        }
        Ok(module.clone())
    }

    /// Ends all sessions. The library stays loaded.
    fn finalize(&mut self) {
        self.sessions.clear();
        if let Some(module) = &self.module {
            // It is initialized again, whatever this returns.
            let _ = module.clone().finalize();
        }
        self.is_initialized = false;
    }

    fn log_in(&mut self, module: &Pkcs11, config: &Pkcs11Config) -> Result<TokenSession, Failure> {
        let slot = find_token(module, &config.token_label)?;
        let session = module.open_ro_session(slot)?;
        let Pkcs11Config { token_label, pin_file, .. } = config;
        let pin = read_pin(pin_file)?;
        let denied = |why: &str| {
            let message = format!(
                "the token `{token_label}` doesn't accept the PIN in `pin_file` ({pin_file}): {why}. Correct the file; tokenmint tries this \
                 PIN again only after a restart"
            );
            StoreError::Denied(message).into()
        };
        let is_same = |refused: &AuthPin| refused.expose_secret() == pin.expose_secret();
        if self.refused_pins.get(token_label).is_some_and(is_same) {
            return Err(denied("it refused it before"));
        }
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(Error::Pkcs11(
                error @ (RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired),
                _,
            )) => {
                self.refused_pins.insert(token_label.clone(), pin);
                return Err(denied(&format!("{error:?}")));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(TokenSession { session, module: module.clone(), slot, signing_keys: BTreeMap::new() })
    }
}

/// Finds the slot of the only token with that label.
fn find_token(module: &Pkcs11, label: &str) -> Result<Slot, Failure> {
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for slot in module.get_slots_with_token()? {
        // Another token may be broken or new.
        let Ok(info) = module.get_token_info(slot) else { continue };
        if info.label() == label {
            found.push(slot);
        } else if info.token_initialized() {
            others.push(format!("`{}`", info.label()));
        }
    }
    match found[..] {
        [slot] => Ok(slot),
        [] if others.is_empty() => {
            Err(refused(format!("has no token: initialize one with the label `{label}`, or connect it")))
        }
        [] => {
            Err(refused(format!("has no token `{label}`: set `token_label`; it has {}", others.join(", "))))
        }
        _ => Err(refused(format!("has {} tokens `{label}`: give each a label of its own", found.len()))),
    }
}

/// Reads a PIN, without the newline that an editor leaves. A token would count it as a wrong PIN.
fn read_pin(file: &UnverifiedPath) -> Result<AuthPin, StoreError> {
    let failed = |reason: String| StoreError::File { key: "pin_file", reason: format!("({file}) {reason}") };
    let read = OpenedFile::open(file.as_path()).and_then(|file| file.read(MAX_PIN_BYTES));
    let bytes = read.map_err(|error| failed(error.to_string()))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("isn't UTF-8 text".to_owned()))?;
    let pin = text.strip_suffix('\n').unwrap_or(text);
    let pin = pin.strip_suffix('\r').unwrap_or(pin);
    if pin.is_empty() {
        return Err(failed("is empty: write the PIN of the token's user into it".to_owned()));
    }
    Ok(AuthPin::from(pin))
}

/// A session with a token, logged in.
struct TokenSession {
    session: Session,
    module: Pkcs11,
    slot: Slot,
    /// A search takes several calls, so keys that sign are remembered for the session.
    signing_keys: BTreeMap<String, ObjectHandle>,
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

    fn seal(&self, seal_key: &str, data_key: &[u8], names: &[u8]) -> Result<String, Failure> {
        if let Some(key) = self.find(ObjectClass::SECRET_KEY, KeyType::AES, seal_key)? {
            let mut nonce = [0; NONCE_LEN];
            let random = SystemRandomness::default().fill(&mut nonce);
            random.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, names, TAG_BITS)?);
            let ciphertext = self.session.encrypt(&mechanism, key, data_key)?;
            // The token may have written a nonce of its own.
            return Ok(GCM.to_owned() + &STANDARD.encode([&nonce, &*ciphertext].concat()));
        }
        let key = self.private_key(seal_key)?.ok_or_else(|| no_seal_key(seal_key))?;
        // The public key encrypts here: some modules return a wrong length.
        let public = self.public_key(key, seal_key)?;
        let sealed = public.to_public_key_der().ok().and_then(|der| {
            let key =
                OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(der.as_bytes()).ok()?).ok()?;
            let mut ciphertext = vec![0; key.ciphertext_size()];
            let sealed = key.encrypt(&OAEP_SHA1_MGF1SHA1, data_key, &mut ciphertext, None).ok()?;
            Some(OAEP.to_owned() + &STANDARD.encode(sealed))
        });
        sealed.ok_or_else(|| {
            refused(format!("has the RSA key `{seal_key}`, which can't encrypt: use 2048 bits or more"))
        })
    }

    fn unseal(&self, seal_key: &str, sealed: &str, names: &[u8]) -> Result<DataKey, Failure> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| not_sealed_here());
        let plaintext = if let Some(text) = sealed.strip_prefix(GCM) {
            let mut text = decode(text)?;
            let (nonce, text) = text.split_first_chunk_mut::<NONCE_LEN>().ok_or_else(not_sealed_here)?;
            let key = self.find(ObjectClass::SECRET_KEY, KeyType::AES, seal_key)?;
            let key = key.ok_or_else(|| no_seal_key(seal_key))?;
            let mechanism = Mechanism::AesGcm(GcmParams::new(nonce, names, TAG_BITS)?);
            self.session.decrypt(&mechanism, key, text)?
        } else {
            let text = decode(sealed.strip_prefix(OAEP).ok_or_else(not_sealed_here)?)?;
            let key = self.private_key(seal_key)?.ok_or_else(|| no_seal_key(seal_key))?;
            // SoftHSM knows no other hash. OAEP doesn't need one that resists collisions (RFC 8017, 7.1).
            let source = PkcsOaepSource::empty();
            let params = PkcsOaepParams::new(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1, source);
            self.session.decrypt(&Mechanism::RsaPkcsOaep(params), key, &text)?
        };
        let plaintext = Zeroizing::new(plaintext);
        if plaintext.len() != DATA_KEY_LEN {
            return Err(refused("decrypts it to something else than a data key".to_owned()));
        }
        Ok(SecretBox::init_with_mut(|key: &mut [u8; DATA_KEY_LEN]| key.copy_from_slice(&plaintext)))
    }

    fn create_key(&self, name: &str, bits: usize) -> Result<(), Failure> {
        if self.private_key(name)?.is_some() {
            return Err(refused(format!(
                "has a key `{name}` already: list it with --remote={name}, or take another name"
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

fn not_sealed_here() -> Failure {
    refused("didn't seal this data key: restore the file, or seal the key again".to_owned())
}

fn no_seal_key(label: &str) -> Failure {
    refused(format!(
        "has no key `{label}` that seals: set `seal_key`, or make one: \
         `pkcs11-tool --keygen --key-type AES:32 --label {label} --private --sensitive`"
    ))
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

/// What makes a failed call worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    None,
    /// Another session.
    Session,
    /// `C_Finalize` and `C_Initialize`. tpm2-pkcs11 needs them after its TPM was away.
    Initialize,
}

const fn recovery(error: &Error) -> Recovery {
    use RvError as Rv;
    let Error::Pkcs11(code, _) = error else { return Recovery::None };
    match code {
        Rv::SessionHandleInvalid
        | Rv::SessionClosed
        | Rv::UserNotLoggedIn
        | Rv::ObjectHandleInvalid
        | Rv::KeyHandleInvalid
        | Rv::OperationActive
        | Rv::OperationNotInitialized => Recovery::Session,
        Rv::DeviceRemoved
        | Rv::DeviceError
        | Rv::DeviceMemory
        | Rv::HostMemory
        | Rv::TokenNotPresent
        | Rv::TokenNotRecognized
        | Rv::SlotIdInvalid
        | Rv::CryptokiNotInitialized
        | Rv::GeneralError
        | Rv::FunctionFailed => Recovery::Initialize,
        _ => Recovery::None,
    }
}

/// The error for a call that failed also after its recovery.
fn describe(error: Error) -> StoreError {
    use RvError as Rv;
    let Error::Pkcs11(code, function) = error else { return StoreError::Unavailable(error.to_string()) };
    let said = format!("C_{function:?} returned {code:?}");
    match (code, function) {
        (Rv::PinLocked | Rv::UserPinNotInitialized, _) => StoreError::Denied(format!(
            "{said}: set or unlock the PIN of the token's user with the vendor's tool"
        )),
        // SoftHSM says so of a tag that doesn't fit.
        (Rv::GeneralError | Rv::EncryptedDataInvalid | Rv::EncryptedDataLenRange, Function::Decrypt) => {
            StoreError::Refused(format!(
                "can't decrypt it ({said}): it was changed, or sealed for another key id or by another `seal_key`"
            ))
        }
        (
            Rv::MechanismInvalid
            | Rv::MechanismParamInvalid
            | Rv::KeyTypeInconsistent
            | Rv::KeyFunctionNotPermitted
            | Rv::KeySizeRange
            | Rv::ArgumentsBad
            | Rv::AttributeTypeInvalid
            | Rv::AttributeValueInvalid
            | Rv::TemplateInconsistent
            | Rv::TokenWriteProtected
            | Rv::FunctionNotSupported
            | Rv::CantLock,
            _,
        ) => StoreError::Refused(format!(
            "can't do it ({said}): compare the type, the size and the use of the key with `pkcs11-tool --list-mechanisms`"
        )),
        _ => StoreError::Unavailable(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lost_sessions_and_devices_are_tried_again() {
        let of = |code| recovery(&Error::Pkcs11(code, Function::Sign));
        assert_eq!(of(RvError::SessionHandleInvalid), Recovery::Session);
        assert_eq!(of(RvError::DeviceRemoved), Recovery::Initialize);
        for code in [RvError::PinIncorrect, RvError::PinLocked, RvError::MechanismInvalid] {
            assert_eq!(of(code), Recovery::None);
        }
    }

    #[test]
    fn a_general_error_means_a_changed_text_only_of_decryption() {
        let of = |function| describe(Error::Pkcs11(RvError::GeneralError, function));
        assert!(matches!(of(Function::Decrypt), StoreError::Refused(_)));
        assert_eq!(of(Function::Sign), StoreError::Unavailable("C_Sign returned GeneralError".to_owned()));
    }
}
