//! [`Module`]: a PKCS#11 module in this process, and the sessions with its tokens.
//!
//! - A module may hang, and may not bear several threads. So each one has a thread of its own that makes all calls, and callers wait for its
//!   answer up to a deadline. While a call hangs, further ones fail at once.
//! - A login is for the whole process, so all loads and requests share one session for each token. If a session or a token is lost,
//!   the call is repeated once after `C_Finalize` and `C_Initialize`: tpm2-pkcs11 needs both when its TPM was away.
//! - A PIN that the token refused isn't tried again, because a few wrong ones lock a token.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use secrecy::ExposeSecret as _;
use tokio::sync::oneshot;

use super::error::StoreError;
use crate::config::{Pkcs11Config, UnverifiedPath};
use crate::files::OpenedFile;
use crate::http_client::REQUEST_TIMEOUT;

/// The largest PIN in a file, in bytes. Tokens take up to 255.
const MAX_PIN_BYTES: u64 = 1 << 10;
/// The longest time that the end of the process waits for a module.
const FINALIZE_TIMEOUT: Duration = Duration::from_secs(1);

/// The modules that this process has loaded, by path. `C_Initialize` is for the whole process.
static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// A module's thread, as its callers see it.
pub(super) struct Module {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    /// When the current call began.
    busy_since: Arc<Mutex<Option<Instant>>>,
}

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// Logs out of all tokens. A process that ends without it leaves its sessions in an HSM, and its objects in a TPM.
pub(crate) fn finalize_modules() {
    for module in MODULES.lock().unwrap_or_else(PoisonError::into_inner).values() {
        let (done, finalized) = mpsc::channel();
        let finalize = move |worker: &mut Worker| {
            worker.finalize();
            let _ = done.send(());
        };
        if module.jobs.send(Box::new(finalize)).is_ok() {
            let _ = finalized.recv_timeout(FINALIZE_TIMEOUT);
        }
    }
}

impl Module {
    /// Returns the thread of a module. Starts it if there is none.
    ///
    /// # Errors
    /// The file isn't there.
    pub(super) fn of(file: &UnverifiedPath) -> Result<Arc<Self>, StoreError> {
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
        let mut worker = Worker { path: path.clone(), ..Worker::default() };
        let busy = busy_since.clone();
        // Nobody joins it, so a call that hangs doesn't delay the end of the process.
        let thread = std::thread::Builder::new().name("pkcs11".to_owned()).spawn(move || {
            let set_busy = |since| *busy.lock().unwrap_or_else(PoisonError::into_inner) = since;
            for job in received {
                set_busy(Some(Instant::now()));
                // The panic hook logs a panic. The job's dropped sender tells its caller.
                if catch_unwind(AssertUnwindSafe(|| job(&mut worker))).is_err() {
                    worker.sessions.clear();
                }
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

    /// Has the thread call `act` with a session. Repeats it once if the session was lost.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        config: Arc<Pkcs11Config>,
        timeout: Duration,
        act: impl FnMut(&mut TokenSession) -> Result<T, Failure> + Send + 'static,
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
                let _ = reply.send(worker.call(&config, act));
            }
        });
        let ended = || StoreError::Unavailable(format!("the thread of its module {path} has ended: restart"));
        self.jobs.send(job).map_err(|_| ended())?;
        let Ok(answer) = tokio::time::timeout(timeout, answer).await else {
            let seconds = timeout.as_secs();
            return Err(StoreError::Unavailable(format!(
                "its module {path} didn't return within {seconds} s"
            )));
        };
        answer.unwrap_or_else(|_| Err(ended()))
    }
}

/// A session with a token, logged in.
pub(super) struct TokenSession {
    pub(super) session: Session,
    pub(super) module: Pkcs11,
    pub(super) slot: Slot,
    /// A search takes several calls, so keys that sign are remembered for the session.
    pub(super) signing_keys: BTreeMap<String, ObjectHandle>,
}

/// Why an operation failed: an error to report, or one of the module, which may be repeated.
pub(super) enum Failure {
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

pub(super) fn refused(message: impl Into<String>) -> Failure {
    Failure::Store(StoreError::Refused(message.into()))
}

/// The state of the module's thread.
#[derive(Default)]
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
    fn call<T>(
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
            if !is_first || !is_loss(&error) {
                return Err(describe(&error));
            }
            self.finalize();
            is_first = false;
        }
    }

    /// Returns the session with the token. Loads the module and logs in if that wasn't done.
    fn session(&mut self, config: &Pkcs11Config) -> Result<&mut TokenSession, Failure> {
        let label = &config.token_label;
        if !self.sessions.contains_key(label) {
            let module = self.initialized()?;
            let session = self.log_in(&module, config)?;
            self.sessions.insert(label.clone(), session);
        }
        Ok(self.sessions.get_mut(label).expect("it was there or has just been inserted"))
    }

    fn initialized(&mut self) -> Result<Pkcs11, Failure> {
        let module = match &self.module {
            Some(module) => module,
            None => self.module.insert(Pkcs11::new(&self.path).map_err(|error| {
                let reason = format!("isn't a PKCS#11 module that can be loaded: {error}");
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
        if let Some(module) = self.module.as_ref().filter(|_| self.is_initialized) {
            // It is initialized again, whatever this returns.
            let _ = module.clone().finalize();
        }
        self.is_initialized = false;
    }

    fn log_in(&mut self, module: &Pkcs11, config: &Pkcs11Config) -> Result<TokenSession, Failure> {
        let Pkcs11Config { token_label, pin_file, .. } = config;
        let slot = find_token(module, token_label)?;
        let session = module.open_ro_session(slot)?;
        let pin = read_pin(pin_file)?;
        let denied = |why: &str| {
            let message = format!(
                "the token `{token_label}` doesn't accept the PIN in `pin_file` ({pin_file}): {why}. Correct the file; \
                 tokenmint tries this PIN again only after a restart"
            );
            Err(StoreError::Denied(message).into())
        };
        let is_same = |refused: &AuthPin| refused.expose_secret() == pin.expose_secret();
        if self.refused_pins.get(token_label).is_some_and(is_same) {
            return denied("it refused it before");
        }
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(Error::Pkcs11(
                code @ (RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired),
                _,
            )) => {
                self.refused_pins.insert(token_label.clone(), pin);
                return denied(&format!("{code:?}"));
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
        [] => {
            let others = if others.is_empty() { "no other".to_owned() } else { others.join(", ") };
            Err(refused(format!(
                "has no token `{label}`, but {others}: set `token_label`, or connect the token"
            )))
        }
        _ => Err(refused(format!("has {} tokens `{label}`: give each a label of its own", found.len()))),
    }
}

/// Reads a PIN, without the newline that an editor leaves. A token would count it as a wrong PIN.
fn read_pin(file: &UnverifiedPath) -> Result<AuthPin, StoreError> {
    let failed = |reason: &str| StoreError::File { key: "pin_file", reason: format!("({file}) {reason}") };
    let read = OpenedFile::open(file.as_path()).and_then(|file| file.read(MAX_PIN_BYTES));
    let bytes = read.map_err(|error| failed(&error.to_string()))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("isn't UTF-8 text"))?;
    let pin = text.strip_suffix('\n').unwrap_or(text);
    let pin = pin.strip_suffix('\r').unwrap_or(pin);
    if pin.is_empty() {
        Err(failed("is empty: write the PIN of the token's user into it"))
    } else {
        Ok(pin.into())
    }
}

/// Whether the session or the token was lost, so that another attempt may succeed. tpm2-pkcs11 returns `GeneralError` for that, and SoftHSM
/// for a changed text too.
const fn is_loss(error: &Error) -> bool {
    use RvError as Rv;
    let Error::Pkcs11(code, _) = error else { return false };
    matches!(
        code,
        Rv::SessionHandleInvalid
            | Rv::SessionClosed
            | Rv::UserNotLoggedIn
            | Rv::ObjectHandleInvalid
            | Rv::KeyHandleInvalid
            | Rv::OperationActive
            | Rv::OperationNotInitialized
            | Rv::DeviceRemoved
            | Rv::DeviceError
            | Rv::DeviceMemory
            | Rv::HostMemory
            | Rv::TokenNotPresent
            | Rv::TokenNotRecognized
            | Rv::SlotIdInvalid
            | Rv::CryptokiNotInitialized
            | Rv::GeneralError
            | Rv::FunctionFailed
    )
}

/// The error for a call that isn't repeated, or not again.
fn describe(error: &Error) -> StoreError {
    use RvError as Rv;
    let Error::Pkcs11(code, function) = error else { return StoreError::Unavailable(error.to_string()) };
    let said = format!("C_{function:?} returned {code:?}");
    match (code, function) {
        (Rv::PinLocked | Rv::UserPinNotInitialized, _) => StoreError::Denied(format!(
            "{said}: set or unlock the PIN of the token's user with the vendor's tool"
        )),
        (Rv::GeneralError | Rv::EncryptedDataInvalid | Rv::EncryptedDataLenRange, Function::Decrypt) => {
            StoreError::Refused(format!(
                "can't decrypt it ({said}): it was changed, or sealed for another key id or by another `seal_key`"
            ))
        }
        (Rv::SessionCount | Rv::FunctionCanceled, _) => StoreError::Unavailable(said),
        _ if is_loss(error) => StoreError::Unavailable(said),
        _ => StoreError::Refused(format!(
            "can't do it ({said}): compare the type, the size and the use of the key with `pkcs11-tool --list-mechanisms`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_losses_are_tried_again() {
        let of = |code| is_loss(&Error::Pkcs11(code, Function::Sign));
        assert!(of(RvError::SessionHandleInvalid) && of(RvError::DeviceRemoved));
        assert!(!of(RvError::PinIncorrect) && !of(RvError::PinLocked) && !of(RvError::MechanismInvalid));
    }

    #[test]
    fn a_general_error_means_a_changed_text_only_of_decryption() {
        let of = |function| describe(&Error::Pkcs11(RvError::GeneralError, function));
        assert!(matches!(of(Function::Decrypt), StoreError::Refused(_)));
        assert_eq!(of(Function::Sign), StoreError::Unavailable("C_Sign returned GeneralError".to_owned()));
    }
}
