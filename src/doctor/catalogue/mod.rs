//! The catalogue of all checks ([`CheckSpec`]), in the order in which a person would look for faults. The functions are in
//! [`checks`](super::checks).

mod issuers;
mod keys;
mod online;
mod profiles;
mod published;
mod tokens;

use super::check_spec::CheckSpec;
pub(crate) use tokens::SIGNATURE_CHECKS;

const GROUPS: &[&[CheckSpec]] =
    &[profiles::CHECKS, keys::CHECKS, published::CHECKS, tokens::CHECKS, issuers::CHECKS, online::CHECKS];

const COUNT: usize = {
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
};

pub static CHECKS: [CheckSpec; COUNT] = {
    let mut all = [profiles::CHECKS[0]; COUNT];
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        let mut at = 0;
        while at < GROUPS[group].len() {
            all[count] = GROUPS[group][at];
            (count, at) = (count + 1, at + 1);
        }
        group += 1;
    }
    all
};
