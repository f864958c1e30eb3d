//! Intel's Crypto Multi-buffer library (`crypto_mb`), loaded at run time: eight RSA operations at once, private or public.
//!
//! The only `unsafe` of the house is here. The declarations are ours, after the headers `rsa.h`, `version.h`,
//! `status.h` and `cpu_features.h` of interface version 13 (github.com/intel/cryptography-primitives).
//!
//! - A [`Library`] exists only if it says that it has that interface, has every function, and supports this CPU.
//! - Lengths are settled by types before anything is called: all lanes are of one [`Size`], so each message and
//!   signature has its bytes and each number of a [`Crt`] its words.
//! - What the library answers is not to be trusted; see [`super::batch`].
//! - The numbers of a key are wiped when they go, and the library's working memory, which is ours, after each call.

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use thiserror::Error;
use zeroize::Zeroizing;

use super::pem::CrtNumbers;

/// Operations in one call.
pub const LANES: usize = 8;

/// The interface that the declarations below are of, as the library writes it into its version: `(13.3)`.
const INTERFACE: &str = "(13.";
/// Intel's compiler's own libraries. The loader looks for them in its usual places and not beside the library; one
/// that is there is loaded first, and then it is the one that is found.
const COMPANIONS: &[&str] = &["libintlc.so.5", "libimf.so", "libirng.so", "libsvml.so"];

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unavailable {
    #[error("there is no such file")]
    Missing,
    #[error("{0}")]
    NotLoaded(String),
    #[error("it has no {0}, so it isn't crypto_mb, or too old")]
    Symbol(String),
    #[error("its version is `{0}`, and not one with interface 13; take the wheel ipp-crypto 2026.2.0")]
    Version(String),
    #[error("it says that this CPU has no AVX-512 IFMA")]
    Cpu,
}

/// The lengths of a modulus that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

impl Size {
    const ALL: &[Self] = &[Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    pub fn of(bits: usize) -> Option<Self> {
        Self::ALL.iter().copied().find(|size| size.bits() == bits)
    }

    const fn bits(self) -> usize {
        match self {
            Self::Rsa2048 => 2048,
            Self::Rsa3072 => 3072,
            Self::Rsa4096 => 4096,
        }
    }

    /// Of a message and of a signature.
    pub const fn bytes(self) -> usize {
        self.bits() / 8
    }

    /// Of each number of a [`Crt`]: half of the modulus.
    const fn words(self) -> usize {
        self.bits() / 2 / 64
    }

    /// `enum MBX_ALGO`.
    const fn algorithm(self) -> c_int {
        match self {
            Self::Rsa2048 => 1,
            Self::Rsa3072 => 2,
            Self::Rsa4096 => 3,
        }
    }
}

/// A private key as the Chinese remainder theorem wants it (RFC 8017, section 3.2), and its public half: least word first.
pub struct Crt {
    pub size: Size,
    /// `p`, `q`, `dP`, `dQ`, `qInv`, each of [`Size::words`].
    private: [Zeroizing<Vec<u64>>; 5],
    /// Of twice as many.
    modulus: Zeroizing<Vec<u64>>,
}

/// The one public exponent that the library has.
const PUBLIC_EXPONENT: [u8; 3] = [1, 0, 1];

impl Crt {
    /// `None` where the public exponent isn't 65537, or a number is longer than `size` says.
    pub fn new(size: Size, numbers: &CrtNumbers<'_>) -> Option<Self> {
        let [p, q, dp, dq, qinv] = numbers.private.map(|number| words(number, size.words()));
        let modulus = words(numbers.modulus, 2 * size.words())?;
        let private = [p?, q?, dp?, dq?, qinv?];
        (numbers.public_exponent == PUBLIC_EXPONENT).then_some(Self { size, private, modulus })
    }

    /// Whether `signature`, of [`Size::bytes`], is below the modulus. The public operation takes one that is above as well, and
    /// verifiers refuse it (RFC 8017, section 5.2.2).
    pub fn is_above(&self, signature: &[u8]) -> bool {
        self.modulus.iter().rev().copied().gt(signature.chunks_exact(8).map(word))
    }
}

/// Big-endian bytes as `count` words.
fn words(bytes: &[u8], count: usize) -> Option<Zeroizing<Vec<u64>>> {
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

/// Up to eight big-endian bytes.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// `mbxVersion`.
#[repr(C)]
struct Version {
    major: c_int,
    minor: c_int,
    patch: c_int,
    target_cpu: [c_char; 4],
    name: *const c_char,
    build_date: *const c_char,
    text: *const c_char,
}

type GetVersion = unsafe extern "C" fn() -> *const Version;
type AlgorithmInfo = unsafe extern "C" fn(c_int) -> u64;
type Method = unsafe extern "C" fn(c_int) -> *const c_void;
type MethodBufferSize = unsafe extern "C" fn(*const c_void) -> c_int;
type Number = *const [*const u64; LANES];
type Public = unsafe extern "C" fn(
    from: *const [*const u8; LANES],
    to: *const [*mut u8; LANES],
    modulus: Number,
    bits: c_int,
    method: *const c_void,
    buffer: *mut u8,
) -> u32;
type PrivateCrt = unsafe extern "C" fn(
    from: *const [*const u8; LANES],
    to: *const [*mut u8; LANES],
    p: Number,
    q: Number,
    dp: Number,
    dq: Number,
    qinv: Number,
    bits: c_int,
    method: *const c_void,
    buffer: *mut u8,
) -> u32;

pub struct Library {
    private_crt: PrivateCrt,
    public: Public,
    /// Words of working memory, for whichever operation takes more, by size in the order of [`Size::ALL`]; `None` where
    /// the CPU can't.
    buffers: [Option<usize>; Size::ALL.len()],
    pub version: String,
    /// Last, as fields are dropped in order: the code stays while there are pointers into it.
    _handles: Vec<Handle>,
}

impl Library {
    /// Loads it from `file`.
    pub fn open(file: &Path) -> Result<Self, Unavailable> {
        let folder = file.parent().unwrap_or_else(|| Path::new("/"));
        let beside = COMPANIONS.iter().map(|name| folder.join(name));
        let mut handles: Vec<Handle> =
            beside.filter(|path| path.exists()).filter_map(|path| load(&path).ok()).collect();
        let library = load(file);
        // The loader's own words, with the name of what is missing, are the error's source.
        let words =
            |error: libloading::Error| error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let library = library.map_err(|error| Unavailable::NotLoaded(words(error)))?;

        // SAFETY: the type is that of `mbx_getversion` in version.h, which has been the same in all versions.
        let version = unsafe {
            let get_version: GetVersion = symbol(&library, "mbx_getversion")?;
            read_version(get_version)
        };
        if !version.contains(INTERFACE) {
            return Err(Unavailable::Version(version));
        }
        // SAFETY: the types are those of the headers of the interface that was just seen.
        let (info, methods, buffer_size, private_crt, public) = unsafe {
            let info: AlgorithmInfo = symbol(&library, "mbx_get_algo_info")?;
            let methods: [Method; 2] = [
                symbol(&library, "mbx_RSA_private_crt_Method")?,
                symbol(&library, "mbx_RSA_pub65537_Method")?,
            ];
            let buffer_size: MethodBufferSize = symbol(&library, "mbx_RSA_Method_BufSize")?;
            let private_crt: PrivateCrt = symbol(&library, "mbx_rsa_private_crt_mb8")?;
            let public: Public = symbol(&library, "mbx_rsa_public_mb8")?;
            (info, methods, buffer_size, private_crt, public)
        };
        let buffers = std::array::from_fn(|at| {
            let size = Size::ALL[at];
            let bits = c_int::try_from(size.bits()).expect("a few thousand");
            let bytes = |method: Method| {
                // SAFETY: both take any value. `method` answers with a pointer to static data, or null.
                let bytes = unsafe { buffer_size(method(bits)) };
                usize::try_from(bytes).ok().filter(|bytes| (1..=MOST_BUFFER).contains(bytes))
            };
            let [private, public] = methods.map(bytes);
            // SAFETY: it takes any value.
            let widths = unsafe { info(size.algorithm()) };
            (widths & LANES as u64 != 0).then_some(private?.max(public?).div_ceil(8))
        });
        if buffers.iter().all(Option::is_none) {
            return Err(Unavailable::Cpu);
        }
        handles.push(library);
        Ok(Self { private_crt, public, buffers, version, _handles: handles })
    }

    /// Whether it can sign with keys of that size here.
    pub const fn supports(&self, size: Size) -> bool {
        self.buffers[size as usize].is_some()
    }

    /// The RSA private operation (RSASP1) on each message, which is of `size.bytes()` and below its key's modulus. The
    /// answer is that of the library, true or not; `None` where it reports a failure.
    ///
    /// # Panics
    /// More than [`LANES`] lanes, a size that it doesn't support, or lanes that aren't all of `size`.
    pub fn private(&self, size: Size, lanes: &[Lane<'_>]) -> Vec<Option<Zeroizing<Vec<u8>>>> {
        let mut numbers = [[ptr::null(); LANES]; 5];
        for (lane, (crt, _)) in lanes.iter().enumerate() {
            for (pointers, number) in numbers.iter_mut().zip(&crt.private) {
                pointers[lane] = number.as_ptr();
            }
        }
        let [p, q, dp, dq, qinv] = &numbers;
        self.run(size, lanes, |from, to, bits, buffer| {
            // SAFETY: as `run` says, and the five numbers of each lane have the words of `size`, as `Crt::new` makes them.
            // A null method means the one for `bits`.
            unsafe { (self.private_crt)(from, to, p, q, dp, dq, qinv, bits, ptr::null(), buffer) }
        })
    }

    /// The RSA public operation (RSAVP1) on each signature, as [`private`](Self::private) on messages.
    ///
    /// # Panics
    /// As there.
    pub fn public(&self, size: Size, lanes: &[Lane<'_>]) -> Vec<Option<Zeroizing<Vec<u8>>>> {
        let mut moduli = [ptr::null(); LANES];
        for (pointer, (crt, _)) in moduli.iter_mut().zip(lanes) {
            *pointer = crt.modulus.as_ptr();
        }
        self.run(size, lanes, |from, to, bits, buffer| {
            // SAFETY: as `run` says, and each modulus has the words of `size`, as `Crt::new` makes it. A null method means
            // the one for `bits`.
            unsafe { (self.public)(from, to, &raw const moduli, bits, ptr::null(), buffer) }
        })
    }

    /// Lays out `lanes` for `operation`, and reads its status. Each pointer that it gets and that isn't null is to memory
    /// of the length that `size` says, and outlives the call; what is written to is borrowed by nobody else. The buffer
    /// has the bytes that the library asked for; it aligns within.
    fn run(
        &self,
        size: Size,
        lanes: &[Lane<'_>],
        operation: impl FnOnce(*const [*const u8; LANES], *const [*mut u8; LANES], c_int, *mut u8) -> u32,
    ) -> Vec<Option<Zeroizing<Vec<u8>>>> {
        assert!(lanes.len() <= LANES, "eight lanes");
        let words = self.buffers[size as usize].expect("a supported size");
        let mut buffer = Zeroizing::new(vec![0_u64; words]);
        // Zeros, so that what the library leaves out doesn't pass for an answer of an earlier call.
        let mut answers: Vec<_> = lanes.iter().map(|_| Zeroizing::new(vec![0_u8; size.bytes()])).collect();
        // A lane that isn't used is null, and the library leaves it out.
        let mut from = [ptr::null(); LANES];
        let mut to = [ptr::null_mut(); LANES];
        for (lane, ((crt, input), answer)) in lanes.iter().zip(&mut answers).enumerate() {
            assert!(crt.size == size && input.len() == size.bytes(), "all lanes are of one size");
            from[lane] = input.as_ptr();
            to[lane] = answer.as_mut_ptr();
        }
        let bits = c_int::try_from(size.bits()).expect("a few thousand");
        let status = operation(&raw const from, &raw const to, bits, buffer.as_mut_ptr().cast());
        // Four bits a lane, 0 is fine (`MBX_GET_STS`).
        let good = |lane: usize| status >> (4 * lane) & 0xf == 0;
        answers.into_iter().enumerate().map(|(lane, answer)| good(lane).then_some(answer)).collect()
    }
}

/// A key, and what it is used on: as many bytes as its modulus has.
pub type Lane<'a> = (&'a Crt, &'a [u8]);

/// Bytes of working memory that are believed; 4096 bits take some 100 KiB.
const MOST_BUFFER: usize = 1 << 20;

fn load(path: &Path) -> Result<Handle, libloading::Error> {
    // The loader searches its own folders for a name without a slash. An absolute path stays as it is.
    let path = Path::new(".").join(path);
    // SAFETY: loading runs the library's initialisers. Whoever writes the configuration says which file that is.
    unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
}

/// # Safety
/// `T` is the type of that function.
unsafe fn symbol<T: Copy>(library: &Handle, name: &str) -> Result<T, Unavailable> {
    // SAFETY: the caller's.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|_| Unavailable::Symbol(name.to_owned()))
}

/// # Safety
/// It is `crypto_mb`'s.
unsafe fn read_version(get_version: GetVersion) -> String {
    // SAFETY: it takes nothing, and answers with a pointer to static data whose text is static and ends with a null.
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
    fn a_signature_is_below_the_modulus_or_none() {
        let mut modulus = [0x80; 256];
        modulus[255] = 1;
        let numbers = CrtNumbers { private: [&[3]; 5], modulus: &modulus, public_exponent: &PUBLIC_EXPONENT };
        let crt = Crt::new(Size::Rsa2048, &numbers).expect("of that size");
        assert!(crt.is_above(&[0; 256]));
        assert!(!crt.is_above(&modulus));
        modulus[255] = 0;
        assert!(crt.is_above(&modulus));
        modulus[0] = 0x81;
        assert!(!crt.is_above(&modulus));
    }
}
