//! Rejects weak RSA keys, with the checks of Boulder's `goodkey` on the public numbers.
//!
//! A successful parse says little: several parsers load a 512-bit key, or one with `e` = 3. aws-lc checks that the private numbers
//! match the public ones when it loads the key.

use std::fmt;

use rsa::BigUint;

/// The shortest modulus that RS256 allows (RFC 7518, section 3.3).
pub(crate) const MIN_MODULUS_BITS: usize = 2048;
/// The longest modulus that aws-lc supports. A signature with a longer one would take a tenth of a second.
pub(crate) const MAX_MODULUS_BITS: usize = 8192;

const PUBLIC_EXPONENT: u32 = 65_537;
/// Boulder's bound for trial division: every prime below it is tried.
const SMALL_FACTORS_BELOW: u32 = 752;
const FERMAT_ROUNDS: usize = 110;

/// The reasons why a key is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyWeakness {
    TooShort(usize),
    TooLong(usize),
    PublicExponent,
    EvenModulus,
    SmallFactor(u32),
    CloseFactors,
    Roca,
}

impl fmt::Display for KeyWeakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort(bits) => {
                write!(f, "the key has {bits} bits; at least {MIN_MODULUS_BITS} are needed")
            }
            Self::TooLong(bits) => {
                write!(f, "the key has {bits} bits; at most {MAX_MODULUS_BITS} can be used")
            }
            Self::PublicExponent => {
                write!(f, "the public exponent isn't {PUBLIC_EXPONENT}")
            }
            Self::EvenModulus => f.write_str("the modulus is even, so it isn't an RSA key"),
            Self::SmallFactor(prime) => {
                write!(
                    f,
                    "the modulus is divisible by {prime}: the text was damaged on its way, so copy it anew, or anybody can factor it"
                )
            }
            Self::CloseFactors => {
                f.write_str("the primes are so close together that Fermat's method factors the modulus")
            }
            Self::Roca => {
                f.write_str("the modulus has the fingerprint of a ROCA-weak generator (CVE-2017-15361)")
            }
        }
    }
}

/// Checks that a key with these numbers is strong enough to sign.
///
/// # Errors
/// Returns the first weakness that it finds.
pub(super) fn check_strength(modulus: &BigUint, public_exponent: &BigUint) -> Result<(), KeyWeakness> {
    match modulus.bits() {
        bits if bits < MIN_MODULUS_BITS => return Err(KeyWeakness::TooShort(bits)),
        bits if bits > MAX_MODULUS_BITS => return Err(KeyWeakness::TooLong(bits)),
        _ => {}
    }
    if *public_exponent != BigUint::from(PUBLIC_EXPONENT) {
        return Err(KeyWeakness::PublicExponent);
    }
    if remainder(modulus, 2) == 0 {
        return Err(KeyWeakness::EvenModulus);
    }
    if let Some(prime) = small_primes().find(|&prime| remainder(modulus, prime) == 0) {
        return Err(KeyWeakness::SmallFactor(prime));
    }
    if has_roca_fingerprint(modulus) {
        return Err(KeyWeakness::Roca);
    }
    if factors_by_fermat(modulus) {
        return Err(KeyWeakness::CloseFactors);
    }
    Ok(())
}

/// Whether Fermat's method factors the modulus within [`FERMAT_ROUNDS`]. It finds p and q from n = a² - b² with a = (p+q)/2 near √n.
fn factors_by_fermat(modulus: &BigUint) -> bool {
    let mut a = modulus.sqrt();
    if &a * &a < *modulus {
        a += 1_u32;
    }
    for _ in 0..FERMAT_ROUNDS {
        let rest = &a * &a - modulus;
        let b = rest.sqrt();
        if &b * &b == rest {
            return true;
        }
        a += 1_u32;
    }
    false
}

/// Whether the modulus has the fingerprint of the ROCA generator (CVE-2017-15361). It makes primes p = k·M + 65537^a mod M, where
/// M is the product of the first primes. Then n is a power of 65537 modulo each of them. For any other modulus this holds
/// with a probability of 2^-27.
fn has_roca_fingerprint(modulus: &BigUint) -> bool {
    small_primes()
        .filter(|prime| (3..=167).contains(prime))
        .all(|prime| powers(PUBLIC_EXPONENT % prime, prime).any(|power| power == remainder(modulus, prime)))
}

/// The subgroup that `generator` generates modulo `prime`.
fn powers(generator: u32, prime: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(1), move |power| Some(power * generator % prime)).take(prime as usize)
}

fn small_primes() -> impl Iterator<Item = u32> {
    (3..SMALL_FACTORS_BELOW).step_by(2).filter(|candidate| {
        (3..).step_by(2).take_while(|d| d * d <= *candidate).all(|d| !candidate.is_multiple_of(d))
    })
}

fn remainder(number: &BigUint, divisor: u32) -> u32 {
    let rest = number % divisor;
    rest.to_bytes_le().iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_primes_are_those_below_752() {
        assert_eq!(small_primes().take(5).collect::<Vec<_>>(), [3, 5, 7, 11, 13]);
        assert_eq!(small_primes().last(), Some(751));
        assert_eq!(small_primes().count(), 132);
    }

    #[test]
    fn a_power_of_65537_modulo_the_first_primes_has_the_roca_fingerprint() {
        let product = small_primes().filter(|p| *p <= 167).fold(BigUint::from(2_u32), |m, p| m * p);
        let prime =
            &product * 12_345_u32 + BigUint::from(65_537_u32).modpow(&BigUint::from(77_u32), &product);
        assert!(has_roca_fingerprint(&prime));
        assert!(!has_roca_fingerprint(&(prime + 2_u32)));
    }
}
