//! The meaning of each section: fields into the types of the configuration, and what must hold between them.
//!
//! A section's fields are all read before the first `?`, so that one mistake never hides another and no
//! field is called unknown because nobody got to it.

mod cache;
mod callers;
mod keysets;
mod profiles;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::section::{Findings, Section, count, leftover};
use super::source::{Code, Environment, Node, Origin, PREFIX, Problem, is_other};
use super::{Bundle, Cache, Caller, Config, Hs256Kind, Identity, Keyset, Kind, Name, Oauth, Server};
use callers::{caller, distinct_credentials, open_bundles, usable_credentials};
use keysets::{keyset, share_out};
pub use profiles::Hs256;
use profiles::{bundle, hs256_profile, identity_profile, oauth_profile};

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);
/// The sections that hold no profiles; each [`Kind`] has one of its own.
const SECTIONS: &[&str] = &["server", "cache", "keysets", "callers"];

/// What could be made of the text. `rest` is missing only where a problem says why.
pub(super) struct Parsed {
    pub keysets: BTreeMap<Name, Keyset>,
    pub rest: Option<Rest>,
}

pub(super) struct Rest {
    server: Server,
    cache: Cache,
    identity: BTreeMap<Name, Identity>,
    oauth: BTreeMap<Name, Oauth>,
    hs256: BTreeMap<Hs256Kind, BTreeMap<Name, Hs256>>,
    bundles: BTreeMap<Name, Bundle>,
    callers: BTreeMap<Name, Caller>,
}

impl Rest {
    pub fn into_config(
        self,
        keysets: BTreeMap<Name, Keyset>,
        warnings: Vec<Problem>,
        files: Vec<PathBuf>,
    ) -> Config {
        let Self { server, cache, identity, oauth, hs256, bundles, callers } = self;
        Config { server, cache, keysets, identity, oauth, hs256, bundles, callers, warnings, files }
    }
}

/// Warns of a variable that was surely meant as an override: `TOKENMINT_SERVER_LISTEN`.
pub(super) fn near_misses(environment: &Environment, findings: &Findings) {
    for variable in environment.keys() {
        let Some(path) = variable.strip_prefix(PREFIX) else { continue };
        let mut sections = SECTIONS.iter().copied().chain(Kind::ALL.iter().map(|kind| kind.section()));
        let section = sections.find_map(|section| {
            path.to_lowercase().strip_prefix(section)?.starts_with('_').then_some(section.len())
        });
        if let Some(length) = section
            && !path.contains("__")
        {
            let (section, field) = (&path[..length], &path[length + 1..]);
            let message =
                format!("isn't read: levels are parted by two underscores, as in {PREFIX}{section}__{field}");
            findings.warn(Code::UnreadVariable, "", &Origin::Variable(variable.clone()), message);
        }
    }
}

/// Variables that are no settings, and are read all the same.
pub(super) fn other_variables(environment: &Environment, findings: &Findings) {
    for (variable, text) in environment.iter().filter(|(variable, _)| is_other(variable)) {
        if let Some(message) = leftover(variable, text) {
            findings.add(vec![Problem::new("", Origin::Variable(variable.clone()), message)]);
        }
    }
}

pub(super) fn config(root: &Section<'_>) -> Parsed {
    let server = root.section("server");
    let server = server::server(server.as_ref());
    let cache = cache::cache(root.section("cache").as_ref());
    let named = root.section("keysets");
    let mut keysets = read_all(named.as_ref(), keyset);
    let exist = Existing::of(root);
    let identity =
        read_all(root.section("identity").as_ref(), |name, section| identity_profile(name, section, &exist));
    let oauth =
        read_all(root.section("oauth").as_ref(), |name, section| oauth_profile(name, section, &exist));
    let of_kind = |kind: Hs256Kind| {
        let section = root.section(kind.facts().section);
        read_all(section.as_ref(), |_, section| hs256_profile(kind, section))
    };
    let hs256 = Hs256Kind::ALL.iter().map(|kind| (*kind, of_kind(*kind))).collect();
    let bundles = read_all(root.section("bundles").as_ref(), |name, section| bundle(name, section, &exist));
    let named_callers = root.section("callers");
    let callers = read_all(named_callers.as_ref(), |name, section| caller(name, section, &exist));

    open_bundles(named_callers.as_ref(), &callers, &bundles);
    share_out(named.as_ref(), &mut keysets, &identity, &oauth);
    distinct_credentials(root, &callers);
    usable_credentials(named_callers.as_ref(), &callers, server.as_ref());
    if callers.is_empty() && !root.has("callers") {
        root.warn(
            Code::NoCaller,
            "callers",
            "there is no caller, so nobody can ask for a token: `tokenmint callers new NAME`",
        );
    }
    let rest = server.zip(cache).map(|(server, cache)| Rest {
        server,
        cache,
        identity,
        oauth,
        hs256,
        bundles,
        callers,
    });
    Parsed { keysets, rest }
}

/// Reads each `[section.NAME]`; what is wrong is noted and left out.
fn read_all<T>(
    section: Option<&Section<'_>>,
    read: impl Fn(&Name, &Section<'_>) -> Option<T>,
) -> BTreeMap<Name, T> {
    let Some(section) = section else { return BTreeMap::new() };
    let mut all = BTreeMap::new();
    for (name, entry) in section.sections() {
        match Name::parse(name) {
            Ok(name) => {
                if let Some(value) = read(&name, &entry) {
                    all.insert(name, value);
                }
            }
            Err(message) => section.problem(name, message),
        }
    }
    all
}

/// The names that the file defines, right or wrong, so that a mistake inside a profile isn't reported again
/// by everyone who refers to it.
struct Existing(BTreeMap<&'static str, BTreeSet<String>>);

impl Existing {
    fn of(root: &Section<'_>) -> Self {
        let names = |section: &'static str| (section, root.names_in(section).map(str::to_owned).collect());
        let sections = Kind::ALL.iter().map(|kind| kind.section());
        Self(sections.chain(["keysets"]).map(names).collect())
    }

    fn has(&self, section: &str, name: &str) -> bool {
        self.0.get(section).is_some_and(|names| names.contains(name))
    }

    fn list(&self, section: &str) -> String {
        let names = self.0.get(section).into_iter().flatten();
        let listed = names.map(|name| format!("`{section}.{name}`")).collect::<Vec<_>>().join(", ");
        if listed.is_empty() { "none".to_owned() } else { listed }
    }
}

/// A section was there and is wrong; a problem says how.
struct Wrong;

fn within(value: Duration, from: u64, to: u64, from_text: &str, to_text: &str) -> Result<Duration, String> {
    if (from..=to).contains(&value.as_secs()) {
        Ok(value)
    } else {
        Err(format!("must be between {from_text} and {to_text}"))
    }
}

fn small_count(node: &Node) -> Result<u32, String> {
    let number = count(node)?;
    u32::try_from(number)
        .ok()
        .filter(|number| *number <= 1_000_000)
        .ok_or_else(|| "must be at most 1000000".to_owned())
}
