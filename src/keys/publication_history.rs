//! Rejects a reload that verifiers couldn't follow.
//!
//! - A key must not sign before verifiers know it.
//! - A key that was retired or has expired must not be published again. One whose entry was removed counts as new.
//! - A key id must not change to another key.
//! - A published key must not change its algorithm.
//! - `publish_lead` must not become shorter than a cache may keep an earlier JWKS.
//! - A keyset that signs must go on signing, unless its signing key is retired.
//!
//! `emergency = true` allows the first, the second for an expired key, and the last if its key signs next.
//!
//! These rules apply per profile and key id over all keysets, since a verifier trusts an issuer and not the name of a
//! directory. [`PublicationHistory`] holds what this process has published since its start. After a restart the files
//! alone count, as the new process doesn't know which keys verifiers have fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::SCHEDULE_FILE;
use super::timeline::{KeyState, KeyValidity};
use crate::clock::UnixTime;
use crate::config::{Algorithm, CONFIGURATION, KeyId, Name, Problem, ProfileName};
use crate::shell;

/// The longest `max-age` of a JWKS.
const MAX_AGE_LIMIT: Duration = Duration::from_mins(5);

/// Returns the `max-age` of a JWKS whose keys are published for `publish_lead` before they sign: a quarter of it, so that caches
/// refetch the set before a new key signs, and at most [`MAX_AGE_LIMIT`].
pub(crate) fn jwks_max_age(publish_lead: Duration) -> Duration {
    Duration::from_secs(publish_lead.as_secs() / 4).min(MAX_AGE_LIMIT)
}

/// SHA-256 of the base64url text of the modulus, which identifies a key whatever its key id.
pub type ModulusHash = [u8; 32];

/// The keys of one keyset that verifiers can see, and those that they no longer can.
pub struct PublishedKeyset<'a> {
    pub name: &'a Name,
    pub used_by: &'a [ProfileName],
    pub algorithm: Algorithm,
    pub publish_lead: Duration,
    pub keys: Vec<PublishedKey<'a>>,
    /// Listed keys that neither sign nor are published.
    pub gone: Vec<&'a KeyValidity>,
}

impl PublishedKeyset<'_> {
    /// The key that signs at `now`, see [`Keyset::signing_position`](super::Keyset::signing_position).
    fn signing_key(&self, now: UnixTime) -> Option<&KeyValidity> {
        let signs = |validity: &KeyValidity| validity.state(now) == KeyState::Signing;
        let mut open = self.keys.iter().map(|key| key.validity);
        let gone_signs = self.gone.iter().any(|validity| signs(validity));
        open.clone().find(|validity| signs(validity)).or_else(|| open.next().filter(|_| gone_signs))
    }

    /// Whether both have the same name, or sign for the same profile.
    fn continues(&self, other: &PublishedKeyset<'_>) -> bool {
        self.name == other.name || self.used_by.iter().any(|profile| other.used_by.contains(profile))
    }
}

/// A key that signs or is published.
pub struct PublishedKey<'a> {
    pub modulus_hash: ModulusHash,
    pub validity: &'a KeyValidity,
}

/// The keys that this process has published so far.
#[derive(Clone, Default)]
pub struct PublicationHistory {
    keys: BTreeMap<KeyId, KeyRecord>,
    /// The profiles that have used a keyset, each with the longest `max-age` of its JWKS.
    profiles: BTreeMap<ProfileName, Duration>,
}

/// The history of one key id.
#[derive(Clone)]
struct KeyRecord {
    /// `None` if the key was gone before this process could open it.
    modulus_hash: Option<ModulusHash>,
    /// The `alg` with which it was published.
    algorithm: Option<Algorithm>,
    fate: KeyFate,
    published_since: UnixTime,
    /// The time of its first signature for each profile, past or scheduled.
    signs_from: BTreeMap<ProfileName, UnixTime>,
}

/// The present state of a key in the history.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyFate {
    Published,
    /// Its entry was removed at that time, before the key expired; `None` if it was never published.
    Removed(Option<UnixTime>),
    /// It expired at that time.
    Gone(UnixTime),
    /// `keyset.toml` marked it as retired.
    Retired,
}

impl PublicationHistory {
    /// Checks the transition from the keys published so far, of which `in_force` are the present ones, to `keysets` at `now`.
    /// Returns the problems.
    pub fn check_transition(
        &self,
        in_force: &[PublishedKeyset<'_>],
        keysets: &[PublishedKeyset<'_>],
        now: UnixTime,
    ) -> Vec<Problem> {
        let mut problems = signing_losses(in_force, keysets, now);
        for keyset in keysets {
            problems.extend(self.algorithm_change(keyset));
            problems.extend(self.lead_problem(keyset));
            for key in &keyset.keys {
                if let Some((source, message)) = self.find_problem(keyset, key, now) {
                    problems.push(Problem::new(format!("keysets.{}", keyset.name), source, message));
                }
            }
        }
        problems
    }

    /// Returns a problem if a key of `keyset` was published for another algorithm.
    fn algorithm_change(&self, keyset: &PublishedKeyset<'_>) -> Option<Problem> {
        let mut kids = keyset.keys.iter().map(|key| &key.validity.entry.kid);
        let (kid, before) = kids.find_map(|kid| {
            let before = self.keys.get(kid)?.algorithm?;
            (before != keyset.algorithm).then_some((kid, before.as_str()))
        })?;
        let message = format!(
            "verifiers keep `{kid}` as a key for {before}: put {before} back. For {}, add a profile whose keyset has a key of its \
             own, or restart the service: until verifiers fetch the keys again, they reject its tokens",
            keyset.algorithm.as_str()
        );
        let field = keyset.used_by.first().map(|profile| format!("{profile}.algorithm"));
        let field = field.unwrap_or_else(|| format!("keysets.{}", keyset.name));
        Some(Problem::new(field, CONFIGURATION, message))
    }

    /// Returns a problem if a key of `keyset` could sign while a cache still keeps a JWKS from before its publication.
    fn lead_problem(&self, keyset: &PublishedKeyset<'_>) -> Option<Problem> {
        let announced = keyset.used_by.iter().filter_map(|profile| self.profiles.get(profile)).max()?;
        (keyset.publish_lead < *announced).then(|| {
            let seconds = announced.as_secs();
            let message = format!(
                "verifiers may keep the JWKS for {seconds} s, as this service has announced since its start: set it to \"{seconds}s\" \
                 or more, or restart"
            );
            Problem::new(format!("keysets.{}.publish_lead", keyset.name), CONFIGURATION, message)
        })
    }

    /// Whether this process has published a key of that id.
    pub(crate) fn contains_kid(&self, kid: &KeyId) -> bool {
        self.keys.get(kid).is_some_and(|record| record.modulus_hash.is_some())
    }

    /// Returns the source and the message of the first problem with `key`.
    fn find_problem(
        &self,
        keyset: &PublishedKeyset<'_>,
        key: &PublishedKey<'_>,
        now: UnixTime,
    ) -> Option<(&'static str, String)> {
        let kid = &key.validity.entry.kid;
        let record = self.keys.get(kid);
        if let Some(record) = record {
            if record.modulus_hash.is_some_and(|material| material != key.modulus_hash) {
                let message = format!(
                    "`{kid}` is another key now; verifiers keep the old one under that id: give the new key an id of its own"
                );
                return Some(("keys", message));
            }
            match record.fate {
                KeyFate::Retired => {
                    let message = format!(
                        "`{kid}` was retired and would come back: a retired key may be in others' hands. Write `retired` into \
                         its entry again, with the date, and make another key with `tokenmint keys rotate`"
                    );
                    return Some((SCHEDULE_FILE, message));
                }
                // If the clock was set back before `at`, the key isn't expired yet.
                KeyFate::Gone(at) if at <= now && !key.validity.entry.emergency => {
                    let message = format!(
                        "`{kid}` was gone since {at} and would be published again, though verifiers have dropped it: remove its \
                         entry and files, or, knowingly, write `emergency = true` into its entry"
                    );
                    return Some((SCHEDULE_FILE, message));
                }
                KeyFate::Gone(_) | KeyFate::Removed(_) | KeyFate::Published => {}
            }
        }
        // A key with the same modulus as a retired one is that key, under another id.
        let retired_copy = self.keys.iter().find(|(other, record)| {
            *other != kid && record.fate == KeyFate::Retired && record.modulus_hash == Some(key.modulus_hash)
        });
        if let Some((other, _)) = retired_copy {
            let message = format!(
                "`{kid}` is the key that was retired as `{other}`: make another with `tokenmint keys rotate`"
            );
            return Some(("keys", message));
        }
        if key.validity.entry.emergency {
            return None;
        }
        // A new key with a signing period in the past counts from then: it could take over from the next key that is retired.
        let first = match record {
            None => key.validity.signs_from().unwrap_or(now),
            Some(_) => key.validity.next_signing_time(now)?,
        };
        // Expected: it has signed already, or signs no sooner than it was scheduled to.
        let is_expected = |profile: &ProfileName| {
            record.and_then(|record| record.signs_from.get(profile)).is_some_and(|from| *from <= first)
        };
        // A new profile has no verifiers yet.
        let is_unexpected =
            |profile: &&ProfileName| self.profiles.contains_key(*profile) && !is_expected(profile);
        keyset.used_by.iter().find(is_unexpected)?;
        let added = key.validity.entry.added;
        let since = record.map_or_else(|| added.unwrap_or(now), |record| record.known_since(added, now));
        let safe_from = since.plus(keyset.publish_lead);
        (first < safe_from).then(|| {
            let when = if first <= now { "at once".to_owned() } else { format!("from {first}") };
            // A later date helps only if another key of the keyset would sign until then. Otherwise the profile moved to this
            // keyset, or the keyset has no directory, or its keys were all replaced.
            let could_sign = |other: &PublishedKey<'_>| {
                let entry = &other.validity.entry;
                entry.kid != *kid
                    && entry.retired.is_none()
                    && other.validity.signs_from().is_some_and(|from| from <= now)
            };
            let has_other = keyset.keys.iter().any(could_sign);
            let advice = if has_other {
                format!(
                    "In {SCHEDULE_FILE} give it added = {now} and sign_from = {} or later, or, knowingly, `emergency = true`; \
                     `tokenmint keys rotate` writes such an entry",
                    now.plus(keyset.publish_lead).max(safe_from)
                )
            } else {
                format!(
                    "No other key of the keyset signs meanwhile, so a date doesn't help. Put the previous keyset or key back and \
                     rotate there, or set `emergency = true` in {SCHEDULE_FILE}, or restart the service: tokens fail until verifiers \
                     have fetched the key"
                )
            };
            let message = format!("`{kid}` is new and would sign {when}, before verifiers know it. {advice}");
            (SCHEDULE_FILE, message)
        })
    }

    /// Returns the history after `keysets` took effect at `now`.
    #[must_use]
    pub fn with_published(&self, keysets: &[PublishedKeyset<'_>], now: UnixTime) -> Self {
        // The first ring of the process: the files alone tell what happened before.
        let is_start = self.keys.is_empty();
        let mut history = self.clone();
        for keyset in keysets {
            for profile in keyset.used_by {
                let longest = history.profiles.entry(profile.clone()).or_default();
                *longest = jwks_max_age(keyset.publish_lead).max(*longest);
            }
        }
        let listed: BTreeSet<&KeyId> = keysets
            .iter()
            .flat_map(|keyset| {
                keyset
                    .keys
                    .iter()
                    .map(|key| key.validity)
                    .chain(keyset.gone.iter().copied())
                    .map(|validity| &validity.entry.kid)
            })
            .collect();
        for (_, record) in history.keys.iter_mut().filter(|(kid, _)| !listed.contains(kid)) {
            if record.fate == KeyFate::Published {
                // A verifier that fetches the JWKS from now on drops the key.
                record.fate = KeyFate::Removed(Some(now));
                record.signs_from.clear();
            }
        }
        for keyset in keysets {
            for key in &keyset.keys {
                let record = history.record(&key.validity.entry.kid, now);
                record.publish(key, keyset, now, is_start);
            }
            for validity in &keyset.gone {
                let record = history.record(&validity.entry.kid, now);
                record.fate = match (validity.entry.retired, validity.published_until, record.fate) {
                    (Some(_), ..) | (.., KeyFate::Retired) => KeyFate::Retired,
                    // The earliest time counts: a later edit of the dates doesn't undo the expiry.
                    (None, Some(at), KeyFate::Gone(since)) if at <= now => KeyFate::Gone(since.min(at)),
                    (None, Some(at), _) if at <= now => KeyFate::Gone(at),
                    // The clock was set back to before the expiry, so the key may be published again.
                    (None, _, fate) => fate,
                };
            }
        }
        history
    }

    fn record(&mut self, kid: &KeyId, now: UnixTime) -> &mut KeyRecord {
        self.keys.entry(kid.clone()).or_insert_with(|| KeyRecord {
            modulus_hash: None,
            algorithm: None,
            fate: KeyFate::Removed(None),
            published_since: now,
            signs_from: BTreeMap::new(),
        })
    }
}

/// Returns a problem for each of `keysets` without a signing key at `now` if a keyset of `in_force` that it continues signs.
/// There is no problem if that signing key was retired, if the next key has `emergency = true`, or if no profile uses the
/// keyset.
fn signing_losses(
    in_force: &[PublishedKeyset<'_>],
    keysets: &[PublishedKeyset<'_>],
    now: UnixTime,
) -> Vec<Problem> {
    let is_retired = |kid: &KeyId| {
        let mut gone = keysets.iter().flat_map(|keyset| &keyset.gone);
        gone.any(|validity| validity.entry.kid == *kid && validity.entry.retired.is_some())
    };
    let mut problems = Vec::new();
    let used = keysets.iter().filter(|keyset| !keyset.used_by.is_empty());
    for keyset in used.filter(|keyset| keyset.signing_key(now).is_none()) {
        let signing = in_force
            .iter()
            .filter(|before| keyset.continues(before))
            .filter_map(|before| before.signing_key(now))
            .find(|validity| !is_retired(&validity.entry.kid));
        let Some(signing) = signing else { continue };
        let next = keyset
            .keys
            .iter()
            .filter_map(|key| Some((key.validity.next_signing_time(now)?, &key.validity.entry)))
            .min_by_key(|(from, _)| *from);
        if next.is_some_and(|(_, entry)| entry.emergency) {
            continue;
        }
        let kid = &signing.entry.kid;
        let dates =
            signing.entry.sign_from.map(|from| format!(" with sign_from = {from}")).unwrap_or_default();
        let until = next.map(|(from, _)| format!(" until {from}")).unwrap_or_default();
        let message = format!(
            "no key would sign{until}, but `{kid}` signs now: put `{kid}` back{dates}, and it signs until another key does; \
             `tokenmint keys retire {} --now` takes away a key that leaked",
            shell::quote(kid)
        );
        problems.push(Problem::new(format!("keysets.{}", keyset.name), SCHEDULE_FILE, message));
    }
    problems
}

impl KeyRecord {
    /// The time since which verifiers can know the key. `added` is its entry's.
    fn known_since(&self, added: Option<UnixTime>, now: UnixTime) -> UnixTime {
        match self.fate {
            // A verifier that fetched meanwhile has dropped it, so an `added` from before the removal doesn't count.
            KeyFate::Removed(at) => added.filter(|added| at.is_none_or(|at| at <= *added)).unwrap_or(now),
            KeyFate::Published | KeyFate::Gone(_) | KeyFate::Retired => {
                added.map_or(self.published_since, |added| added.min(self.published_since))
            }
        }
    }

    fn publish(
        &mut self,
        key: &PublishedKey<'_>,
        keyset: &PublishedKeyset<'_>,
        now: UnixTime,
        is_start: bool,
    ) {
        self.published_since = self.known_since(key.validity.entry.added, now).min(now);
        self.fate = KeyFate::Published;
        self.modulus_hash = Some(key.modulus_hash);
        self.algorithm = Some(keyset.algorithm);
        let begun = key.validity.signing_periods.first().filter(|_| is_start);
        let begun = begun.map(|period| period.from.unwrap_or(UnixTime::from_seconds(i64::MIN)));
        let Some(first) = begun.or_else(|| key.validity.next_signing_time(now)) else { return };
        for profile in keyset.used_by {
            // A past first signature stays; a scheduled one may be postponed.
            let from = self.signs_from.entry(profile.clone()).or_insert(first);
            if *from > now {
                *from = first;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProfileKind;
    use crate::keys::{RotationRules, ScheduleEntry};

    const RULES: RotationRules = RotationRules {
        publish_lead: Duration::from_secs(1000),
        longest_life: Duration::from_mins(1),
        retire_margin: Duration::from_mins(1),
    };

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    fn entry(kid: &str, from: i64) -> ScheduleEntry {
        ScheduleEntry {
            sign_from: Some(at(from)),
            ..ScheduleEntry::without_dates(KeyId::parse(kid).expect("an id"))
        }
    }

    /// Whether a process with that history accepts `entries` at `now`, and its history afterwards.
    fn accept(
        history: &PublicationHistory,
        entries: &[ScheduleEntry],
        now: i64,
    ) -> (bool, PublicationHistory) {
        with_keyset(entries, now, |keyset| {
            (
                history.check_transition(&[], keyset, at(now)).is_empty(),
                history.with_published(keyset, at(now)),
            )
        })
    }

    /// The problems of a change from the entries `before` to `after` at `now`.
    fn problems(before: &[ScheduleEntry], after: &[ScheduleEntry], now: i64) -> Vec<Problem> {
        with_keyset(before, now, |before| {
            let history = PublicationHistory::default().with_published(before, at(now));
            with_keyset(after, now, |after| history.check_transition(before, after, at(now)))
        })
    }

    fn with_keyset<T>(
        entries: &[ScheduleEntry],
        now: i64,
        body: impl FnOnce(&[PublishedKeyset<'_>]) -> T,
    ) -> T {
        let name = Name::parse("web").expect("a name");
        let profiles = [ProfileName::new(ProfileKind::Identity, name.clone())];
        let validities = RULES.validities(entries, at(now));
        let (gone, open): (Vec<_>, Vec<_>) =
            validities.iter().partition(|validity| validity.state(at(now)) == KeyState::Gone);
        let key = |validity| PublishedKey { modulus_hash: [kid_byte(validity); 32], validity };
        body(&[PublishedKeyset {
            name: &name,
            used_by: &profiles,
            algorithm: Algorithm::Rs256,
            publish_lead: RULES.publish_lead,
            keys: open.into_iter().map(key).collect(),
            gone,
        }])
    }

    fn kid_byte(validity: &KeyValidity) -> u8 {
        validity.entry.kid.as_str().as_bytes()[0]
    }

    /// A pending key that was out of the JWKS for a moment is new to a verifier that fetched in that moment.
    #[test]
    fn a_key_that_was_removed_and_comes_back_needs_a_new_added() {
        let added = |from, added| ScheduleEntry { added: Some(at(added)), ..entry("b", from) };
        let a = entry("a", -5000);
        let both = [a.clone(), added(1000, 0)];
        let (_, history) = accept(&PublicationHistory::default(), &both, 10);
        let (_, history) = accept(&history, std::slice::from_ref(&a), 1000);
        assert!(!accept(&history, &both, 1010).0, "at once, by its old date");
        let (is_accepted, _) = accept(&history, &[a, added(2005, 1005)], 1010);
        assert!(is_accepted, "added since");
    }

    #[test]
    fn a_new_key_with_a_past_signing_period_is_rejected_unless_it_was_published_before() {
        let (a, b) = (entry("a", -5000), entry("b", -60));
        let urgent = ScheduleEntry { emergency: true, ..entry("c", -10) };
        let (_, history) = accept(&PublicationHistory::default(), std::slice::from_ref(&a), 0);
        assert!(!accept(&history, &[a.clone(), b.clone(), urgent.clone()], 10).0, "it would count as known");
        let known = ScheduleEntry { added: Some(at(-5000)), ..b };
        assert!(accept(&history, &[a, known, urgent], 10).0);
    }

    #[test]
    fn a_keyset_that_signs_must_go_on_signing_unless_its_key_is_retired() {
        let (a, b) = (entry("a", -5000), entry("b", 5000));
        let both = [a.clone(), b.clone()];
        let refused = |after: &[ScheduleEntry]| {
            let problems = problems(&both, after, 0);
            problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>()
        };
        assert!(refused(&both).is_empty());
        let lost = refused(std::slice::from_ref(&b));
        assert!(
            lost[0].contains("no key would sign until 1970-01-01T01:23:20Z, but `a` signs now"),
            "{lost:?}"
        );
        assert!(lost[0].contains("put `a` back with sign_from = 1969-12-31T22:36:40Z"), "{lost:?}");
        assert_eq!(refused(&[entry("a", 4000), b.clone()]).len(), 1, "a wrong date");
        assert_eq!(refused(&[]).len(), 1);
        let retired = ScheduleEntry { retired: Some(at(0)), ..a };
        assert!(refused(&[retired.clone(), b.clone()]).is_empty());
        assert!(refused(&[retired]).is_empty());
        let knowingly = ScheduleEntry { emergency: true, ..entry("c", 10) };
        assert!(refused(&[knowingly]).is_empty());
        assert!(
            problems(std::slice::from_ref(&b), std::slice::from_ref(&b), 0).is_empty(),
            "none signs before"
        );
        with_keyset(&both, 0, |before| {
            with_keyset(std::slice::from_ref(&b), 0, |after| {
                let PublishedKeyset { name, algorithm, publish_lead, .. } = after[0];
                let keys = Vec::new();
                let unused =
                    [PublishedKeyset { name, used_by: &[], algorithm, publish_lead, keys, gone: Vec::new() }];
                assert!(signing_losses(before, &unused, at(0)).is_empty(), "no profile uses it");
            });
        });
    }

    #[test]
    fn a_lead_may_not_be_shorter_than_caches_keep_the_jwks() {
        let a = [entry("a", -5000)];
        with_keyset(&a, 0, |keyset| {
            let history = PublicationHistory::default().with_published(keyset, at(0));
            let with_lead = |seconds| {
                let keyset = PublishedKeyset {
                    publish_lead: Duration::from_secs(seconds),
                    keys: Vec::new(),
                    gone: Vec::new(),
                    ..keyset[0]
                };
                history.lead_problem(&keyset).map(|problem| problem.message)
            };
            assert!(
                with_lead(249).is_some_and(|message| message.contains("for 250 s")),
                "a quarter of 1000 s"
            );
            assert_eq!(with_lead(250), None);
        });
    }
}
