//! Property tests of authorization: for any strings, it grants only what `allow` and `subjects` name.

use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use tokenmint::callers::{Callers, Permission as _};
use tokenmint::clock::UnixTime;
use tokenmint::config::{Config, Environment, Hs256Kind, SubjectPattern};
use tokenmint::issuers::Issuers;
use tokenmint::keys::KeyRing;
use tokenmint::metrics::Metrics;
use tokenmint::tokens::{Profiles, Subject};

use crate::support::{API_KEY, KEYS, sha256_hex};

/// The configured profiles of each kind. Some differ only by case or by kind.
const PROFILES: [&str; 11] = [
    "identity.web",
    "identity.Web",
    "identity.shop",
    "oauth.crm",
    "oauth.web",
    "intercom.fin",
    "intercom.web",
    "hs256.fin",
    "hs256.web",
    "bundles.fin",
    "bundles.web",
];

fn config(allow: &[&str], subjects: &str) -> Config {
    let mut text = format!(
        "[keysets.web]\nkey = '''{}'''\nkid = 'k'\n[callers.one]\napi_key_sha256 = ['{}']\nallow = {allow:?}\nsubjects = '{subjects}'\n",
        KEYS.web,
        sha256_hex(API_KEY)
    );
    for profile in PROFILES {
        text += "[";
        text += profile;
        text += "]\n";
        text += match profile.split_once('.').expect("a kind").0 {
            "identity" => "keyset = 'web'\nissuer = 'i'\n",
            "oauth" => {
                "keyset = 'web'\nconsumer_key = 'c'\nusername = 'u'\naudience = 'https://login.salesforce.com'\n"
            }
            "intercom" => "secret = 'intercom-messenger-api-secret-0123456789'\n",
            "hs256" => {
                "secret = 'a-relying-party-s-secret-0123456789'\nsubject_claim = 'user_id'\nkid = 'one'\n\
                 fixed_claims = { scope = 'user' }\n"
            }
            _ => "one = 'identity.shop'\n",
        };
    }
    let parsed = Config::parse("tokenmint.toml", &text, PathBuf::new(), &Environment::new());
    parsed.unwrap_or_else(|invalid| panic!("{:?}", invalid.problems))
}

static RING: LazyLock<KeyRing> = LazyLock::new(|| {
    let loaded = KeyRing::load(
        &config(&[], ".*").keysets,
        UnixTime::from_seconds(1_800_000_000),
        None,
        &std::sync::Arc::new(Metrics::new()),
    );
    loaded.unwrap_or_else(|problems| panic!("{problems:?}"))
});

fn callers(config: &Config) -> Callers {
    Callers::new(config, &Profiles::new(config, &RING), &Issuers::default(), &Metrics::new())
}

/// Names of configured profiles, with and without their kind, similar names, and others.
fn asked() -> impl Strategy<Value = String> {
    let name = prop::sample::select(&PROFILES[..]);
    prop_oneof![
        4 => name.clone().prop_map(str::to_owned),
        4 => name.clone().prop_map(|name| name.split_once('.').expect("a kind").1.to_owned()),
        1 => (name.clone(), ".{0,3}", ".{0,3}").prop_map(|(name, before, after)| before + name + &after),
        1 => name.prop_map(str::to_uppercase),
        1 => ".{0,12}",
    ]
}

proptest! {
    #[test]
    fn a_caller_gets_what_allow_names_and_nothing_else(
        allow in prop::sample::subsequence(&PROFILES[..], 0..=PROFILES.len()),
        asked in prop::option::of(asked()),
    ) {
        let callers = callers(&config(&allow, ".*"));
        let caller = callers.by_api_key(API_KEY.as_bytes()).expect("its key");
        let asked = asked.as_deref();
        let got = [
            ("identity", caller.identity.select(asked).map(|grant| grant.name().to_string())),
            ("oauth", caller.oauth.select(asked).map(|grant| grant.name().to_string())),
            ("intercom", caller.hs256[&Hs256Kind::Intercom].select(asked).map(|grant| grant.name().to_string())),
            ("hs256", caller.hs256[&Hs256Kind::General].select(asked).map(|grant| grant.name().to_string())),
            ("bundles", caller.bundles.select(asked).map(|grant| grant.name().to_string())),
        ];
        for (kind, got) in got {
            let of_kind = || allow.iter().copied().filter(|name| name.split_once('.').expect("a kind").0 == kind);
            let whole = |asked: &str| if asked.contains('.') { asked.to_owned() } else { format!("{kind}.{asked}") };
            let expected = match asked {
                None if of_kind().count() == 1 => of_kind().next(),
                None => None,
                Some(asked) => of_kind().find(|name| *name == whole(asked)),
            };
            match got {
                Ok(got) => prop_assert_eq!(Some(got.as_str()), expected),
                Err(denied) => {
                    prop_assert_eq!(expected, None, "{}", denied);
                    // A caller that may not use a profile isn't told that it exists.
                    let message = denied.to_string();
                    let closed = PROFILES.iter().filter(|name| !allow.contains(name));
                    for name in closed {
                        prop_assert!(!message.contains(&format!("`{name}`")), "{}", message);
                    }
                }
            }
        }
    }

    /// A bundle grants nothing of its own.
    #[test]
    fn a_bundle_is_given_only_to_callers_allowed_each_entry(
        allow in prop::sample::subsequence(&PROFILES[..], 0..=PROFILES.len()),
    ) {
        let callers = callers(&config(&allow, ".*"));
        let caller = callers.by_api_key(API_KEY.as_bytes()).expect("its key");
        let got = caller.bundles.select(Some("fin")).and_then(|bundle| bundle.entries().map(<[_]>::len));
        let open = allow.contains(&"bundles.fin") && allow.contains(&"identity.shop");
        prop_assert_eq!(got.is_ok(), open);
    }

    #[test]
    fn only_its_own_key_authenticates_a_caller(key in prop_oneof![".{0,40}", Just(format!("{API_KEY}\0")), Just(sha256_hex(API_KEY))]) {
        let callers = callers(&config(&PROFILES, ".*"));
        prop_assert_eq!(callers.by_api_key(key.as_bytes()).is_some(), key == API_KEY);
    }

    /// With anchors in any place, each alternative matches only a whole subject.
    #[test]
    fn a_pattern_matches_whole_subjects_only(
        words in prop::collection::vec(("\\^?", "[ab]{1,3}", "\\$?"), 1..4),
        flags in prop::sample::select(&["", "(?m)", "(?s)", "(?U)", "(?mR)"][..]),
        subject in "[ab\n]{0,4}",
    ) {
        let parts: Vec<String> = words.iter().map(|(begin, word, end)| format!("{begin}{word}{end}")).collect();
        let pattern = SubjectPattern::parse(&format!("{flags}{}", parts.join("|"))).expect("a pattern");
        prop_assert_eq!(pattern.matches(&subject), words.iter().any(|(_, word, _)| *word == subject));
    }

    #[test]
    fn a_caller_names_the_subjects_of_its_pattern_and_no_others(subject in "(user-|admin-|x)[0-9a-z]{1,4}") {
        static CALLERS: LazyLock<Callers> = LazyLock::new(|| callers(&config(&["identity.web"], "user-[0-9]+|admin-a")));
        let caller = CALLERS.by_api_key(API_KEY.as_bytes()).expect("its key");
        let number = subject.strip_prefix("user-").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        let parsed = Subject::parse("sub", subject.clone()).expect("a subject");
        prop_assert_eq!(caller.may_use_subject(&parsed), number || subject == "admin-a");
    }
}
