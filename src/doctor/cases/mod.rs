//! The catalogue: every fault that the doctor knows, in the order in which a person would look.

mod keys;
mod online;
mod profiles;
mod published;
mod tokens;

use super::case::Case;
pub use tokens::SIGNATURES;

const GROUPS: &[&[Case]] = &[profiles::CASES, keys::CASES, published::CASES, tokens::CASES, online::CASES];

const COUNT: usize = {
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
};

pub static CASES: [Case; COUNT] = {
    let mut all = [profiles::CASES[0]; COUNT];
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
