//! Bindings to Intel's Crypto Multi-buffer library (`crypto_mb`), loaded at run time: up to eight RSA operations at once,
//! private or public.
//!
//! This module has the crate's only `unsafe` code. Its declarations follow the headers `rsa.h`, `version.h`, `status.h` and
//! `cpu_features.h` of interface version 13 (github.com/intel/cryptography-primitives).
//!
//! - [`CryptoMb::open`] succeeds only if the library states that interface, has every function, and supports this CPU.
//! - All lengths are checked before a call. All lanes have one [`ModulusSize`]: each message and signature has its bytes, and
//!   each number of a [`CrtKey`] its words.
//! - The library's results are not trusted; [`super::batch`] verifies them.
//! - The numbers of a key are zeroized when dropped. The library's working memory is allocated here and zeroized after each call.

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use thiserror::Error;
use zeroize::Zeroizing;

use super::pem::CrtNumbers;

/// Maximum number of operations in one call.
pub(crate) const LANES: usize = 8;

/// The interface of the declarations below, as the library's version text states it: for example `(13.3)`.
const INTERFACE_PREFIX: &str = "(13.";
/// The runtime libraries of Intel's compiler. The loader looks for them in its usual directories, not beside the library. So those
/// beside the library are loaded first, and the loader then uses them.
const COMPILER_RUNTIME_LIBRARIES: &[&str] = &["libintlc.so.5", "libimf.so", "libirng.so", "libsvml.so"];

/// The reasons why the library can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchLibraryError {
    #[error("there is no such file")]
    Missing,
    #[error("{0}")]
    NotLoaded(String),
    #[error("it has no {0}, so it isn't crypto_mb or is too old")]
    MissingSymbol(String),
    #[error("its version is `{0}`, and not one with interface 13; take the wheel ipp-crypto 2026.2.0")]
    UnsupportedVersion(String),
    #[error("it reports that this CPU has no AVX-512 IFMA")]
    UnsupportedCpu,
}

/// The modulus lengths that the library supports, except 1024 bits, which is too short for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModulusSize {
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

impl ModulusSize {
    const ALL: &[Self] = &[Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    /// The size of a modulus of `bits`; `None` for other lengths.
    pub(crate) fn of(bits: usize) -> Option<Self> {
        Self::ALL.iter().copied().find(|size| size.bits() == bits)
    }

    const fn bits(self) -> usize {
        match self {
            Self::Rsa2048 => 2048,
            Self::Rsa3072 => 3072,
            Self::Rsa4096 => 4096,
        }
    }

    /// The bytes of a message and of a signature.
    pub(crate) const fn bytes(self) -> usize {
        self.bits() / 8
    }

    /// The 64-bit words of each private number of a [`CrtKey`]: half of the modulus.
    const fn crt_number_words(self) -> usize {
        self.bits() / 2 / 64
    }

    /// The library's `enum MBX_ALGO`.
    const fn algorithm(self) -> c_int {
        match self {
            Self::Rsa2048 => 1,
            Self::Rsa3072 => 2,
            Self::Rsa4096 => 3,
        }
    }
}

/// A private key in Chinese remainder form (RFC 8017, section 3.2) and its modulus, as words, the least significant first.
pub(crate) struct CrtKey {
    pub(crate) size: ModulusSize,
    /// `p`, `q`, `dP`, `dQ`, `qInv`, each with [`ModulusSize::crt_number_words`].
    private: [Zeroizing<Vec<u64>>; 5],
    /// Has twice [`ModulusSize::crt_number_words`].
    modulus: Zeroizing<Vec<u64>>,
}

/// The only public exponent that the library supports: 65537.
const PUBLIC_EXPONENT_BYTES: [u8; 3] = [1, 0, 1];

impl CrtKey {
    /// Returns `None` if the public exponent isn't 65537, or a number is too long for `size`.
    pub(crate) fn new(size: ModulusSize, numbers: &CrtNumbers<'_>) -> Option<Self> {
        let [p, q, dp, dq, qinv] = numbers.private.map(|number| to_words(number, size.crt_number_words()));
        let modulus = to_words(numbers.modulus, 2 * size.crt_number_words())?;
        let private = [p?, q?, dp?, dq?, qinv?];
        (numbers.public_exponent == PUBLIC_EXPONENT_BYTES).then_some(Self { size, private, modulus })
    }

    /// Whether the modulus exceeds `signature`, which has [`ModulusSize::bytes`]. The public operation accepts a larger signature
    /// too, but verifiers reject it (RFC 8017, section 5.2.2).
    pub(crate) fn modulus_exceeds(&self, signature: &[u8]) -> bool {
        self.modulus.iter().rev().copied().gt(signature.chunks_exact(8).map(word))
    }
}

/// Converts big-endian bytes to `count` words; `None` if they don't fit.
fn to_words(bytes: &[u8], count: usize) -> Option<Zeroizing<Vec<u64>>> {
    let skip = bytes.iter().take_while(|byte| **byte == 0).count();
    let mut words = Zeroizing::new(vec![0_u64; count]);
    if bytes.len() - skip > count * 8 {
        return None;
    }
    for (into, chunk) in words.iter_mut().zip(bytes[skip..].rchunks(8)) {
        *into = word(chunk);
    }
    Some(words)
}

/// Converts up to eight big-endian bytes to a word.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// The library's `mbxVersion`.
#[repr(C)]
struct MbxVersion {
    major: c_int,
    minor: c_int,
    patch: c_int,
    target_cpu: [c_char; 4],
    name: *const c_char,
    build_date: *const c_char,
    text: *const c_char,
}

type GetVersion = unsafe extern "C" fn() -> *const MbxVersion;
type AlgorithmInfo = unsafe extern "C" fn(c_int) -> u64;
type Method = unsafe extern "C" fn(c_int) -> *const c_void;
type MethodBufferSize = unsafe extern "C" fn(*const c_void) -> c_int;
type NumberLanes = *const [*const u64; LANES];
type PublicOperation = unsafe extern "C" fn(
    from: *const [*const u8; LANES],
    to: *const [*mut u8; LANES],
    modulus: NumberLanes,
    bits: c_int,
    method: *const c_void,
    buffer: *mut u8,
) -> u32;
type PrivateCrtOperation = unsafe extern "C" fn(
    from: *const [*const u8; LANES],
    to: *const [*mut u8; LANES],
    p: NumberLanes,
    q: NumberLanes,
    dp: NumberLanes,
    dq: NumberLanes,
    qinv: NumberLanes,
    bits: c_int,
    method: *const c_void,
    buffer: *mut u8,
) -> u32;

/// The loaded library.
pub(crate) struct CryptoMb {
    private_crt: PrivateCrtOperation,
    public: PublicOperation,
    /// The words of working memory, in the order of [`ModulusSize::ALL`]: enough for either operation. `None` for sizes that
    /// this CPU doesn't support.
    buffer_words: [Option<usize>; ModulusSize::ALL.len()],
    pub(crate) version: String,
    /// The last field, as fields are dropped in order: the code must outlive the pointers into it.
    _handles: Vec<Handle>,
}

impl CryptoMb {
    /// Loads the library from `file`.
    pub(crate) fn open(file: &Path) -> Result<Self, BatchLibraryError> {
        let folder = file.parent().unwrap_or_else(|| Path::new("/"));
        let beside = COMPILER_RUNTIME_LIBRARIES.iter().map(|name| folder.join(name));
        let mut handles: Vec<Handle> =
            beside.filter(|path| path.exists()).filter_map(|path| load_library(&path).ok()).collect();
        let library = load_library(file);
        // The loader's own message, which names the missing library, is the error's source.
        let message =
            |error: libloading::Error| error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let library = library.map_err(|error| BatchLibraryError::NotLoaded(message(error)))?;

        // SAFETY: the type matches `mbx_getversion` in version.h, which is the same in all versions.
        let version = unsafe {
            let get_version: GetVersion = resolve_symbol(&library, "mbx_getversion")?;
            read_version(get_version)
        };
        if !version.contains(INTERFACE_PREFIX) {
            return Err(BatchLibraryError::UnsupportedVersion(version));
        }
        // SAFETY: the types match the headers of the interface version that was just checked.
        let (info, methods, buffer_size, private_crt, public) = unsafe {
            let info: AlgorithmInfo = resolve_symbol(&library, "mbx_get_algo_info")?;
            let methods: [Method; 2] = [
                resolve_symbol(&library, "mbx_RSA_private_crt_Method")?,
                resolve_symbol(&library, "mbx_RSA_pub65537_Method")?,
            ];
            let buffer_size: MethodBufferSize = resolve_symbol(&library, "mbx_RSA_Method_BufSize")?;
            let private_crt: PrivateCrtOperation = resolve_symbol(&library, "mbx_rsa_private_crt_mb8")?;
            let public: PublicOperation = resolve_symbol(&library, "mbx_rsa_public_mb8")?;
            (info, methods, buffer_size, private_crt, public)
        };
        let buffer_words = std::array::from_fn(|at| {
            let size = ModulusSize::ALL[at];
            let bits = c_int::try_from(size.bits()).expect("a few thousand");
            let bytes = |method: Method| {
                // SAFETY: both functions accept any value. `method` returns a pointer to static data, or null.
                let bytes = unsafe { buffer_size(method(bits)) };
                usize::try_from(bytes).ok().filter(|bytes| (1..=MAX_BUFFER_BYTES).contains(bytes))
            };
            let [private, public] = methods.map(bytes);
            // SAFETY: the function accepts any value.
            let widths = unsafe { info(size.algorithm()) };
            (widths & LANES as u64 != 0).then_some(private?.max(public?).div_ceil(8))
        });
        if buffer_words.iter().all(Option::is_none) {
            return Err(BatchLibraryError::UnsupportedCpu);
        }
        handles.push(library);
        Ok(Self { private_crt, public, buffer_words, version, _handles: handles })
    }

    /// Whether the library supports keys of that size on this CPU.
    pub(crate) const fn supports(&self, size: ModulusSize) -> bool {
        self.buffer_words[size as usize].is_some()
    }

    /// Runs the RSA private operation (RSASP1) on each message. A message has `size.bytes()` and is below its key's modulus.
    /// The results are unverified; `None` where the library reports a failure.
    ///
    /// # Panics
    /// Panics on more than [`LANES`] lanes, on an unsupported size, or on a lane of another size or length.
    pub(crate) fn rsa_private(
        &self,
        size: ModulusSize,
        lanes: &[Lane<'_>],
    ) -> Vec<Option<Zeroizing<Vec<u8>>>> {
        let mut numbers = [[ptr::null(); LANES]; 5];
        for (lane, (crt, _)) in lanes.iter().enumerate() {
            for (pointers, number) in numbers.iter_mut().zip(&crt.private) {
                pointers[lane] = number.as_ptr();
            }
        }
        let [p, q, dp, dq, qinv] = &numbers;
        self.run_lanes(size, lanes, |from, to, bits, buffer| {
            // SAFETY: `run_lanes` guarantees its arguments. The five numbers of each lane have the words of `size`, by `CrtKey::new`.
            // A null method means the default one for `bits`.
            unsafe { (self.private_crt)(from, to, p, q, dp, dq, qinv, bits, ptr::null(), buffer) }
        })
    }

    /// Runs the RSA public operation (RSAVP1) on each signature. Otherwise like [`rsa_private`](Self::rsa_private).
    ///
    /// # Panics
    /// Panics where `rsa_private` does.
    pub(crate) fn rsa_public(
        &self,
        size: ModulusSize,
        lanes: &[Lane<'_>],
    ) -> Vec<Option<Zeroizing<Vec<u8>>>> {
        let mut moduli = [ptr::null(); LANES];
        for (pointer, (crt, _)) in moduli.iter_mut().zip(lanes) {
            *pointer = crt.modulus.as_ptr();
        }
        self.run_lanes(size, lanes, |from, to, bits, buffer| {
            // SAFETY: `run_lanes` guarantees its arguments. Each modulus has the words of `size`, by `CrtKey::new`. A null method
            // means the default one for `bits`.
            unsafe { (self.public)(from, to, &raw const moduli, bits, ptr::null(), buffer) }
        })
    }

    /// Lays out `lanes` for `operation`, calls it, and reads its status.
    ///
    /// Each lane's pointer that `operation` gets is null, or points to memory of the length of `size` that outlives the call.
    /// Memory that it writes to has no other borrower. The buffer has the size that the library asked for; the library aligns
    /// within it.
    fn run_lanes(
        &self,
        size: ModulusSize,
        lanes: &[Lane<'_>],
        operation: impl FnOnce(*const [*const u8; LANES], *const [*mut u8; LANES], c_int, *mut u8) -> u32,
    ) -> Vec<Option<Zeroizing<Vec<u8>>>> {
        assert!(lanes.len() <= LANES, "eight lanes");
        let words = self.buffer_words[size as usize].expect("a supported size");
        let mut buffer = Zeroizing::new(vec![0_u64; words]);
        // Zeros, so that a result that the library doesn't write can't be mistaken for one of an earlier call.
        let mut results: Vec<_> = lanes.iter().map(|_| Zeroizing::new(vec![0_u8; size.bytes()])).collect();
        // The library skips a lane whose pointer is null.
        let mut from = [ptr::null(); LANES];
        let mut to = [ptr::null_mut(); LANES];
        for (lane, ((crt, input), result)) in lanes.iter().zip(&mut results).enumerate() {
            assert!(crt.size == size && input.len() == size.bytes(), "all lanes are of one size");
            from[lane] = input.as_ptr();
            to[lane] = result.as_mut_ptr();
        }
        let bits = c_int::try_from(size.bits()).expect("a few thousand");
        let status = operation(&raw const from, &raw const to, bits, buffer.as_mut_ptr().cast());
        // The status has four bits for each lane, and 0 means success (`MBX_GET_STS`).
        let good = |lane: usize| status >> (4 * lane) & 0xf == 0;
        results.into_iter().enumerate().map(|(lane, result)| good(lane).then_some(result)).collect()
    }
}

/// A key and the input of its operation, which has as many bytes as the modulus.
pub(crate) type Lane<'a> = (&'a CrtKey, &'a [u8]);

/// The most working memory that the library may ask for; 4096 bits take about 100 KiB.
const MAX_BUFFER_BYTES: usize = 1 << 20;

fn load_library(path: &Path) -> Result<Handle, libloading::Error> {
    // The loader searches its own directories for a name without a slash. An absolute path stays unchanged.
    let path = Path::new(".").join(path);
    // SAFETY: loading runs the library's initializers. The configuration names the file, so its author trusts it.
    unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
}

/// Looks up a function of the library.
///
/// # Safety
/// `T` must be the type of that function.
unsafe fn resolve_symbol<T: Copy>(library: &Handle, name: &str) -> Result<T, BatchLibraryError> {
    // SAFETY: the caller guarantees the type.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|_| BatchLibraryError::MissingSymbol(name.to_owned()))
}

/// Reads the library's version text.
///
/// # Safety
/// `get_version` must be the library's `mbx_getversion`.
unsafe fn read_version(get_version: GetVersion) -> String {
    // SAFETY: it has no arguments, and returns a pointer to static data with a static, null-terminated text.
    unsafe {
        let version = get_version();
        if version.is_null() || (*version).text.is_null() {
            return "unknown".to_owned();
        }
        CStr::from_ptr((*version).text).to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signature_below_the_modulus_is_exceeded_by_it() {
        let mut modulus = [0x80; 256];
        modulus[255] = 1;
        let numbers =
            CrtNumbers { private: [&[3]; 5], modulus: &modulus, public_exponent: &PUBLIC_EXPONENT_BYTES };
        let crt = CrtKey::new(ModulusSize::Rsa2048, &numbers).expect("of that size");
        assert!(crt.modulus_exceeds(&[0; 256]));
        assert!(!crt.modulus_exceeds(&modulus));
        modulus[255] = 0;
        assert!(crt.modulus_exceeds(&modulus));
        modulus[0] = 0x81;
        assert!(!crt.modulus_exceeds(&modulus));
    }
}
