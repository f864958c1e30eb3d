//! The test oracle: which key signs and which are published, computed from the events moment by moment, without the
//! service's timeline.

use std::collections::BTreeSet;

use tokenmint::clock::UnixTime;
use tokenmint::config::KeyId;

use super::simulation::RULES;

/// The entry of a key in a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub kid: KeyId,
    pub sign_from: UnixTime,
    pub added: Option<UnixTime>,
    pub emergency: bool,
    pub retired: Option<UnixTime>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Expected {
    pub signing: Option<KeyId>,
    pub published: BTreeSet<KeyId>,
}

pub fn expected(entries: &[Noted], now: UnixTime) -> Expected {
    let needed = |stopped: UnixTime| stopped.plus(RULES.longest_life).plus(RULES.retire_margin);
    let is_known = |index: usize, at: UnixTime| {
        let Noted { sign_from, added, emergency, .. } = entries[index];
        emergency || added.unwrap_or(sign_from).plus(RULES.publish_lead) <= at
    };
    let is_retired = |index: usize, at: UnixTime| entries[index].retired.is_some_and(|retired| retired <= at);
    let mut moments: BTreeSet<UnixTime> = entries.iter().map(|entry| entry.sign_from).collect();
    moments.extend(entries.iter().filter_map(|entry| entry.retired));
    let mut stopped: Vec<Option<UnixTime>> = vec![None; entries.len()];
    let mut signer: Option<usize> = None;
    for moment in moments.into_iter().filter(|moment| *moment <= now) {
        let starts = (0..entries.len())
            .rev()
            .find(|index| entries[*index].sign_from == moment && !is_retired(*index, moment));
        let next = match (starts, signer) {
            (Some(index), _) => Some(index),
            (None, Some(index)) if is_retired(index, moment) => (0..entries.len())
                .filter(|other| *other != index && !is_retired(*other, moment) && is_known(*other, moment))
                .filter(|other| stopped[*other].is_some_and(|stopped| moment < needed(stopped)))
                .max_by_key(|other| stopped[*other]),
            (None, unchanged) => unchanged,
        };
        if next != signer {
            if let Some(index) = signer {
                stopped[index] = Some(moment);
            }
            signer = next;
        }
    }
    let is_published = |index: &usize| {
        entries[*index].retired.is_none()
            && (signer == Some(*index) || stopped[*index].is_none_or(|stopped| now < needed(stopped)))
    };
    Expected {
        signing: signer.map(|index| entries[index].kid.clone()),
        published: (0..entries.len()).filter(is_published).map(|index| entries[index].kid.clone()).collect(),
    }
}
