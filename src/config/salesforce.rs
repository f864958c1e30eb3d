//! Classifies Salesforce's host names and URLs: the kind of host, My Domain, sandbox, country. The configuration, the doctor and
//! the exchange judge addresses by this module alone.
//!
//! Sources: Salesforce Help, "My Domain URL Formats"; "OAuth 2.0 JWT Bearer Flow"; practitioners' reports. A host name that
//! changed with enhanced domains is not resolved any more since Spring '26.

use std::net::IpAddr;

use url::Url;

use super::names::is_loopback;

/// The path of the OAuth token endpoint, below an org's or a site's address.
pub const TOKEN_PATH: &str = "/services/oauth2/token";

/// What a host serves, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// `login.salesforce.com`
    Login,
    /// `test.salesforce.com`
    Test,
    /// `NAME.my.salesforce.com`, for an org's logins and APIs.
    MyDomain,
    /// `NAME.my.salesforce-scrt.com`
    Messaging,
    /// An Experience Cloud site: `NAME.my.site.com`, and older forms.
    Site,
    /// Pages for signed-in users: `NAME.lightning.force.com` and its like.
    Pages,
    /// `na1.salesforce.com`
    Instance,
    /// Another host in a domain of Salesforce's.
    Other,
    /// A host in nobody's or somebody else's domain whose name reads like Salesforce's.
    LookAlike,
    Loopback,
    /// Somebody else's. An Experience Cloud site may have such a name.
    Foreign,
}

/// Where Salesforce runs: orgs of one cloud are unknown in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    Public,
    /// `.mil`
    Government,
    China,
}

/// A host name, classified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub kind: HostKind,
    pub cloud: Cloud,
    /// The org's My Domain name, without the sandbox's.
    pub my_domain: Option<String>,
    /// The sandbox's name, `uat` of `acme--uat.sandbox.my.salesforce.com`.
    pub sandbox: Option<String>,
    /// What stands between the org's name and `my`: `sandbox`, `develop`, `scratch`, or an instance in old names.
    partition: Option<String>,
}

/// Suffixes of a host name, each with what the host serves.
const SUFFIXES: &[(&str, HostKind, Cloud)] = &[
    (".my.salesforce-scrt.com", HostKind::Messaging, Cloud::Public),
    (".my.salesforce-scrt.mil", HostKind::Messaging, Cloud::Government),
    (".my.salesforce.com", HostKind::MyDomain, Cloud::Public),
    (".my.salesforce.mil", HostKind::MyDomain, Cloud::Government),
    (".my.sfcrmproducts.cn", HostKind::MyDomain, Cloud::China),
    (".my.sfcrmapps.cn", HostKind::MyDomain, Cloud::China),
    (".my.site.com", HostKind::Site, Cloud::Public),
    (".my.salesforce-sites.com", HostKind::Site, Cloud::Public),
    (".my.salesforce-setup.com", HostKind::Pages, Cloud::Public),
    (".lightning.force.com", HostKind::Pages, Cloud::Public),
    (".builder.salesforce-experience.com", HostKind::Pages, Cloud::Public),
    (".vf.force.com", HostKind::Pages, Cloud::Public),
    (".visual.force.com", HostKind::Pages, Cloud::Public),
    (".file.force.com", HostKind::Pages, Cloud::Public),
    (".content.force.com", HostKind::Pages, Cloud::Public),
    (".documentforce.com", HostKind::Pages, Cloud::Public),
    (".visualforce.com", HostKind::Pages, Cloud::Public),
    (".lightning.crmforce.mil", HostKind::Pages, Cloud::Government),
    (".force.com", HostKind::Site, Cloud::Public),
    (".salesforce.com", HostKind::Other, Cloud::Public),
    (".salesforce.mil", HostKind::Other, Cloud::Government),
    (".sfcrmproducts.cn", HostKind::Other, Cloud::China),
    (".sfcrmapps.cn", HostKind::Other, Cloud::China),
    (".cloudforce.com", HostKind::Other, Cloud::Public),
    (".salesforce-scrt.com", HostKind::Other, Cloud::Public),
    (".salesforce-sites.com", HostKind::Other, Cloud::Public),
    (".site.com", HostKind::Other, Cloud::Public),
];

/// The domains in which an answer of Salesforce may name an address. The last two are those of Salesforce in China.
const ANSWERING: &[&str] = &[
    ".salesforce.com",
    ".force.com",
    ".salesforce.mil",
    ".cloudforce.com",
    ".sfcrmproducts.cn",
    ".sfcrmapps.cn",
];

impl Host {
    pub fn of(url: &Url) -> Self {
        let name = url.host_str().unwrap_or_default();
        if is_loopback(url) {
            return Self { kind: HostKind::Loopback, ..Self::unknown(name) };
        }
        Self::named(name)
    }

    fn unknown(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: HostKind::Foreign,
            cloud: Cloud::Public,
            my_domain: None,
            sandbox: None,
            partition: None,
        }
    }

    /// Classifies a host name in lower case.
    pub fn named(name: &str) -> Self {
        let host = Self::unknown(name);
        let known = SUFFIXES
            .iter()
            .find_map(|(suffix, kind, cloud)| Some((name.strip_suffix(suffix)?, *suffix, *kind, *cloud)));
        let Some((labels, suffix, kind, cloud)) = known.filter(|(labels, ..)| !labels.is_empty()) else {
            let kind = if reads_like_salesforce(name) { HostKind::LookAlike } else { HostKind::Foreign };
            return Self { kind, ..host };
        };
        let kind = match (labels, suffix) {
            ("login", ".salesforce.com" | ".salesforce.mil" | ".sfcrmproducts.cn") => HostKind::Login,
            ("test", ".salesforce.com" | ".salesforce.mil" | ".sfcrmproducts.cn") => HostKind::Test,
            (label, ".salesforce.com") if is_instance(label) => HostKind::Instance,
            _ => kind,
        };
        if !suffix.starts_with(".my.") {
            return Self { kind, cloud, ..host };
        }
        let (org, partition) = labels.split_once('.').map_or((labels, None), |(org, rest)| (org, Some(rest)));
        if org.starts_with("xn--") {
            // No org has a name with letters of another script; one of them looks like a Latin one.
            return Self { kind: HostKind::LookAlike, cloud, ..host };
        }
        let (org, sandbox) = org.split_once("--").map_or((org, None), |(org, name)| (org, Some(name)));
        let owned = |text: &str| text.to_owned();
        Self {
            kind,
            cloud,
            my_domain: Some(owned(org)),
            sandbox: sandbox.map(owned),
            partition: partition.map(owned),
            ..host
        }
    }

    /// Whether it is a sandbox's, or where sandboxes' users log in.
    pub fn is_sandbox(&self) -> bool {
        self.kind == HostKind::Test || self.sandbox.is_some() || self.partition.as_deref() == Some("sandbox")
    }

    /// The kind of org whose host it is, or whose users log in there, as far as its name tells.
    fn org_kind(&self) -> Option<OrgKind> {
        match (self.kind, self.partition.as_deref()) {
            (HostKind::Login, _) => Some(OrgKind::Production),
            _ if self.is_sandbox() => Some(OrgKind::Sandbox),
            (HostKind::MyDomain, None) => Some(OrgKind::Production),
            (HostKind::MyDomain, Some("develop")) => Some(OrgKind::DeveloperEdition),
            (HostKind::MyDomain, Some("scratch")) => Some(OrgKind::Scratch),
            _ => None,
        }
    }

    /// The present name of a host whose name is from before enhanced domains.
    fn renamed(&self) -> Option<String> {
        let is_old = match self.partition.as_deref() {
            None => self.sandbox.is_some(),
            Some(partition) => is_instance(partition),
        };
        if !is_old {
            return None;
        }
        let (_, suffix) = self.name.split_once(".my.")?;
        let org = self.my_domain.as_deref()?;
        Some(self.sandbox.as_ref().map_or_else(
            || format!("{org}.my.{suffix}"),
            |sandbox| format!("{org}--{sandbox}.sandbox.my.{suffix}"),
        ))
    }

    /// Whether an answer of Salesforce may name an address of this host.
    pub fn may_answer(&self) -> bool {
        ANSWERING.iter().any(|domain| self.name.ends_with(domain))
    }
}

/// `na1`, `cs42`, `eu5`, `usa123`, with a letter behind it in some.
fn is_instance(label: &str) -> bool {
    let letters = label.bytes().take_while(u8::is_ascii_lowercase).count();
    let digits = label.bytes().skip(letters).take_while(u8::is_ascii_digit).count();
    (2..=4).contains(&letters) && (1..=4).contains(&digits) && label.len() <= letters + digits + 1
}

/// Whether a name was registered that has Salesforce's in it, or differs from it by one or two letters; or whether Salesforce's
/// whole domain stands before somebody else's. A label below a domain of one's own is no such thing: `salesforce.acme.com`.
fn reads_like_salesforce(name: &str) -> bool {
    /// What stands in the place of `com` below the top-level domain of a country.
    const SECOND_LEVEL: &[&str] = &["ac", "co", "com", "edu", "gov", "net", "org"];
    if name.parse::<IpAddr>().is_ok() {
        return false;
    }
    let like = |label: &str| {
        label.contains("salesforce")
            || ["salesforce", "salesforce-scrt"]
                .iter()
                .any(|own| strsim::damerau_levenshtein(label, own) <= 2)
    };
    let labels: Vec<&str> = name.split('.').collect();
    let (registered, top) = match labels.as_slice() {
        [.., label, second, top] if top.len() == 2 && SECOND_LEVEL.contains(second) => (*label, *top),
        [.., label, top] => (*label, *top),
        [top] => ("", *top),
        [] => return false,
    };
    like(registered)
        || like(top)
        || labels.windows(2).any(|pair| like(pair[0]) && matches!(pair[1], "com" | "mil"))
}

/// What is wrong with an address in its place. Empty where nothing is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Salesforce refuses it.
    pub faults: Vec<String>,
    /// Salesforce may take it.
    pub doubts: Vec<String>,
}

impl Judgement {
    fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    /// Notes what makes a host unfit for logging in.
    fn login_host(&mut self, host: &Host) {
        if host.name.ends_with('.') {
            return self.fault("a dot at the end of the host");
        }
        if host.my_domain.as_deref() == Some("mydomain") {
            return self.fault("the placeholder MYDOMAIN, in place of the org's own name");
        }
        match host.kind {
            HostKind::Login | HostKind::Test | HostKind::Site | HostKind::Loopback => {}
            HostKind::MyDomain => {
                if let Some(now) = host.renamed() {
                    self.fault(format!(
                        "the org's old host, which is gone since Spring '26; it is {now} now"
                    ));
                }
            }
            HostKind::Messaging => self.fault("a messaging host, where nobody logs in"),
            HostKind::Pages => {
                self.fault("a host of pages for signed-in users, where no program logs in; My Domain is …my.salesforce.com");
            }
            HostKind::Instance => {
                self.fault("an instance's host, which names no org; My Domain is …my.salesforce.com");
            }
            HostKind::Other => self.fault("no login host of Salesforce's; My Domain is …my.salesforce.com"),
            HostKind::LookAlike => {
                self.fault(
                    "a host in none of Salesforce's domains, though it reads like one: a typing error?",
                );
            }
            HostKind::Foreign => {
                self.doubts
                    .push("a host in none of Salesforce's domains, as only a site may have".to_owned());
            }
        }
    }
}

/// Judges an `aud` of the JWT bearer flow, which Salesforce compares byte for byte.
pub fn audience(written: &str) -> (Option<Host>, Judgement) {
    let mut judged = Judgement::default();
    let trimmed = written.trim();
    if trimmed != written {
        judged.fault("white space at an end");
    }
    let Ok(url) = Url::parse(trimmed) else {
        judged.fault("no URL");
        return (None, judged);
    };
    let host = Host::of(&url);
    if url.scheme() != "https" && host.kind != HostKind::Loopback {
        judged.fault(format!("`{}:` in place of `https:`", url.scheme()));
    }
    let path = url.path().trim_end_matches('/');
    if path.ends_with(TOKEN_PATH) || path.contains("/services/") {
        judged.fault("the address of the token endpoint, in place of the host");
    } else if !path.is_empty()
        && !matches!(host.kind, HostKind::Site | HostKind::Foreign | HostKind::Loopback)
    {
        judged.fault("a path behind the host");
    }
    let has_more = url.query().is_some() || url.fragment().is_some() || !url.username().is_empty();
    if has_more {
        judged.fault("more than a host");
    }
    if trimmed.ends_with('/') {
        judged.fault("a slash at the end");
    }
    if !has_more && trimmed.trim_end_matches('/') != url.as_str().trim_end_matches('/') {
        judged.fault(format!("written otherwise than `{}`", url.as_str().trim_end_matches('/')));
    }
    judged.login_host(&host);
    (Some(host), judged)
}

/// Judges the address that an assertion is sent to.
pub fn token_url(url: &Url) -> (Host, Judgement) {
    let mut judged = Judgement::default();
    let host = Host::of(url);
    judged.login_host(&host);
    if host.kind != HostKind::Loopback && (!url.path().ends_with(TOKEN_PATH) || url.path().contains("//")) {
        judged.fault(format!("the path isn't {TOKEN_PATH}, where the token endpoint is"));
    }
    if host.kind != HostKind::Loopback && (url.query().is_some() || url.fragment().is_some()) {
        judged.fault("more than a path behind the host");
    }
    (host, judged)
}

/// Judges the address of messaging.
pub fn scrt_url(url: &Url) -> (Host, Judgement) {
    let mut judged = Judgement::default();
    let host = Host::of(url);
    match host.kind {
        HostKind::Loopback => {}
        HostKind::Messaging => {
            if let Some(now) = host.renamed() {
                judged.fault(format!("the org's old host, which is gone since Spring '26; it is {now} now"));
            }
        }
        _ => judged.fault("no host of messaging (…my.salesforce-scrt.com)"),
    }
    (host, judged)
}

/// Why an assertion for `audience` isn't taken at `token_host`, where it is known of both hosts where their users log in.
pub fn mismatch(audience: &Host, token_host: &Host) -> Option<String> {
    use HostKind::{Login, MyDomain, Test};
    let is_login_host = |host: &Host| matches!(host.kind, Login | Test | MyDomain);
    if !is_login_host(audience) || !is_login_host(token_host) {
        return None;
    }
    if audience.cloud != token_host.cloud {
        return Some("an audience of another cloud of Salesforce's than the host".to_owned());
    }
    if let (Some(wanted), Some(asked)) = (&audience.my_domain, &token_host.my_domain)
        && (wanted, &audience.sandbox) != (asked, &token_host.sandbox)
    {
        return Some("the audience of one org, asked at another's host".to_owned());
    }
    let (wanted, asked) = (audience.org_kind()?, token_host.org_kind()?);
    (wanted.login_host() != asked.login_host())
        .then(|| format!("{}, with {}'s audience", asked.name(), wanted.name()))
}

/// The kinds of orgs whose users log in at different general hosts (Salesforce Help, "My Domain URL Formats").
#[derive(Clone, Copy)]
enum OrgKind {
    Production,
    DeveloperEdition,
    Sandbox,
    Scratch,
}

impl OrgKind {
    const fn login_host(self) -> HostKind {
        match self {
            Self::Production | Self::DeveloperEdition => HostKind::Login,
            Self::Sandbox | Self::Scratch => HostKind::Test,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::DeveloperEdition => "a Developer Edition org",
            Self::Sandbox => "a sandbox",
            Self::Scratch => "a scratch org",
        }
    }
}

/// Whether a text has the form of a Salesforce record's id with that prefix, like `005` for a user.
pub fn is_record_id(text: &str, prefix: &str) -> bool {
    matches!(text.len(), 15 | 18)
        && text.starts_with(prefix)
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether the last three of the 18 characters of a record's id contradict the others.
///
/// They say which of the first 15 are capital letters (Salesforce Help, "What's the difference between 15 and 18 character record IDs?").
pub fn has_wrong_suffix(id: &str) -> bool {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";
    let Some((short, suffix)) = id.split_at_checked(15).filter(|(_, suffix)| suffix.len() == 3) else {
        return false;
    };
    let digit = |five: &[u8]| {
        let capitals = five.iter().enumerate().filter(|(_, octet)| octet.is_ascii_uppercase());
        DIGITS[capitals.map(|(at, _)| 1 << at).sum::<usize>()]
    };
    let right: Vec<u8> = short.as_bytes().chunks(5).map(digit).collect();
    !suffix.as_bytes().eq_ignore_ascii_case(&right)
}

/// What a consumer key begins with that Salesforce made.
pub const CONSUMER_KEY_PREFIX: &str = "3MVG9";

/// Why a text is no consumer key, as far as its form tells.
pub fn consumer_key_fault(text: &str) -> Option<&'static str> {
    match text {
        _ if text.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            Some("it holds white space or a control character")
        }
        _ if text.contains('@') => Some("it reads like a user name, which is `username`"),
        _ if text.contains("://") => Some("it is an address"),
        _ if text.starts_with(CONSUMER_KEY_PREFIX) || may_be_consumer_key(text) => None,
        _ => Some("consumer keys begin with 3MVG9, or are 8 letters and digits at least"),
    }
}

/// Whether somebody may have named that consumer key when they made the app: 8 to 256 letters and digits.
///
/// So the Metadata API Developer Guide has it, `ConnectedAppOauthConfig`. That of Salesforce's own command line is `PlatformCLI`.
pub fn may_be_consumer_key(text: &str) -> bool {
    (8..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_by_its_name() {
        use HostKind::{Foreign, Instance, Login, LookAlike, Messaging, MyDomain, Other, Pages, Site, Test};
        for (name, kind, org, sandbox) in [
            ("login.salesforce.com", Login, None, None),
            ("test.salesforce.com", Test, None, None),
            ("acme.my.salesforce.com", MyDomain, Some("acme"), None),
            ("acme--uat.sandbox.my.salesforce.com", MyDomain, Some("acme"), Some("uat")),
            ("acme-dev-ed.develop.my.salesforce.com", MyDomain, Some("acme-dev-ed"), None),
            ("acme--uat.cs42.my.salesforce.com", MyDomain, Some("acme"), Some("uat")),
            ("acme.my.salesforce.mil", MyDomain, Some("acme"), None),
            ("acme.my.sfcrmproducts.cn", MyDomain, Some("acme"), None),
            ("acme.my.salesforce-scrt.com", Messaging, Some("acme"), None),
            ("acme.my.site.com", Site, Some("acme"), None),
            ("acme.secure.force.com", Site, None, None),
            ("acme.lightning.force.com", Pages, None, None),
            ("acme.my.salesforce-setup.com", Pages, Some("acme"), None),
            ("na1.salesforce.com", Instance, None, None),
            ("cs42.salesforce.com", Instance, None, None),
            ("acme.salesforce.com", Other, None, None),
            ("acme.my.salesforce.co", LookAlike, None, None),
            ("login.saleforce.com", LookAlike, None, None),
            ("login.salesfroce.com", LookAlike, None, None),
            ("acme.my.salesforce.com.evil.example", LookAlike, None, None),
            ("evilsalesforce.com", LookAlike, None, None),
            ("salesforce.co.uk", LookAlike, None, None),
            ("login.saleforce.com.au", LookAlike, None, None),
            ("acme.my.salesforce", LookAlike, None, None),
            ("community.acme.com", Foreign, None, None),
            ("salesforce.acme.com", Foreign, None, None),
            ("salesforce.acme.co.uk", Foreign, None, None),
            ("my.salesforce.acme.com", Foreign, None, None),
            ("salesforce.ibm.com", Foreign, None, None),
            ("my.salesforce.com", Other, None, None),
        ] {
            let host = Host::named(name);
            let seen = (host.kind, host.my_domain.as_deref(), host.sandbox.as_deref());
            assert_eq!(seen, (kind, org, sandbox), "{name}");
        }
    }

    #[test]
    fn an_id_of_eighteen_characters_checks_itself() {
        for (id, is_wrong) in [
            ("00D5g000004XyZa", false),
            ("00D000000000001EAA", false),
            ("00D000000000001eaa", false),
            ("0015000000Gv7qJAAR", false),
            ("00D5g000004XyZaEAA", true),
            ("00D000000000001AAA", true),
        ] {
            assert_eq!(has_wrong_suffix(id), is_wrong, "{id}");
        }
    }

    #[test]
    fn an_audience_is_judged_with_all_that_is_wrong_with_it() {
        for fine in [
            "https://login.salesforce.com",
            "https://test.salesforce.com",
            "https://acme.my.salesforce.com",
            "https://acme--uat.sandbox.my.salesforce.com",
            "https://acme.my.site.com/customers",
        ] {
            assert_eq!(audience(fine).1, Judgement::default(), "{fine}");
        }
        for (wrong, faults) in [
            ("https://acme.lightning.force.com", &["pages for signed-in users"][..]),
            ("http://login.salesforce.com", &["`http:` in place of `https:`"]),
            ("https://login.salesforce.com/", &["a slash at the end"]),
            ("https://login.salesforce.com\n", &["white space at an end"]),
            ("http://acme.salesforce.com/ ", &["white space", "`http:`", "a slash", "no login host"]),
            ("https://LOGIN.salesforce.com", &["written otherwise than `https://login.salesforce.com`"]),
            ("https://login.salesforce.com:443", &["written otherwise"]),
            ("https://acme.my.salesforce.com/services/oauth2/token", &["the token endpoint"]),
            ("https://acme.my.salesforce.com/home", &["a path behind the host"]),
            ("https://acme--uat.cs42.my.salesforce.com", &["it is acme--uat.sandbox.my.salesforce.com now"]),
            ("https://acme--uat.my.salesforce.com", &["it is acme--uat.sandbox.my.salesforce.com now"]),
            ("https://acme.my.salesforce-scrt.com", &["a messaging host"]),
            ("https://login.saleforce.com", &["a typing error?"]),
            ("https://na1.salesforce.com", &["an instance's host"]),
            ("https://\u{430}cme.my.salesforce.com", &["written otherwise", "a typing error?"]),
            ("https://mydomain.my.salesforce.com", &["the placeholder MYDOMAIN"]),
            ("https://acme.my.salesforce.com?x=1", &["more than a host"]),
            ("https://acme.my.salesforce.com.", &["a dot at the end of the host"]),
            ("https://salesforce.acme.com/customers", &[]),
            ("login.salesforce.com", &["no URL"]),
        ] {
            let (_, judged) = audience(wrong);
            assert_eq!(judged.faults.len(), faults.len(), "{wrong}: {judged:?}");
            for (said, fault) in judged.faults.iter().zip(faults) {
                assert!(said.contains(fault), "{wrong}: {said}");
            }
        }
    }

    #[test]
    fn a_token_endpoint_is_judged_by_host_and_path() {
        let judged = |text: &str| token_url(&Url::parse(text).expect("a URL")).1;
        assert_eq!(judged("https://acme.my.salesforce.com/services/oauth2/token"), Judgement::default());
        assert_eq!(judged("https://acme.my.site.com/customers/services/oauth2/token"), Judgement::default());
        assert_eq!(judged("http://127.0.0.1:9/t"), Judgement::default());
        for wrong in [
            "https://acme.my.salesforce.com",
            "https://acme.my.salesforce.com/",
            "https://acme.lightning.force.com/services/oauth2/token",
            "https://acme.my.saleforce.com/services/oauth2/token",
            "https://acme.my.salesforce.com/services/oauth2/token?x",
            "https://acme.my.salesforce.com//services/oauth2/token",
        ] {
            assert_eq!(judged(wrong).faults.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn an_audience_and_a_host_of_different_orgs_do_not_go_together() {
        let pair = |audience: &str, host: &str| mismatch(&Host::named(audience), &Host::named(host));
        for (audience, host) in [
            ("login.salesforce.com", "acme.my.salesforce.com"),
            ("acme.my.salesforce.com", "acme.my.salesforce.com"),
            ("acme.my.salesforce.com", "login.salesforce.com"),
            ("test.salesforce.com", "acme--uat.sandbox.my.salesforce.com"),
            ("test.salesforce.com", "acme-dev.scratch.my.salesforce.com"),
            ("acme-dev.scratch.my.salesforce.com", "test.salesforce.com"),
            ("login.salesforce.com", "acme-dev-ed.develop.my.salesforce.com"),
            ("acme-dev-ed.develop.my.salesforce.com", "login.salesforce.com"),
            ("test.salesforce.com", "acme.somewhere.my.salesforce.com"),
            ("acme--uat.sandbox.my.salesforce.com", "test.salesforce.com"),
            ("login.salesforce.com", "community.acme.com"),
        ] {
            assert_eq!(pair(audience, host), None, "{audience} at {host}");
        }
        for (audience, host, why) in [
            ("login", "acme--uat.sandbox.my", "a sandbox, with production's audience"),
            ("login", "test", "a sandbox, with production's audience"),
            ("login", "acme-dev.scratch.my", "a scratch org, with production's audience"),
            ("test", "login", "production, with a sandbox's audience"),
            ("test", "acme.my", "production, with a sandbox's audience"),
            ("test", "acme-dev-ed.develop.my", "a Developer Edition org, with a sandbox's audience"),
            ("acme.my", "test", "a sandbox, with production's audience"),
            ("acme-dev-ed.develop.my", "test", "a sandbox, with a Developer Edition org's audience"),
            ("acme--uat.sandbox.my", "login", "production, with a sandbox's audience"),
            ("acme-dev.scratch.my", "login", "production, with a scratch org's audience"),
            ("other.my", "acme.my", "the audience of one org, asked at another's host"),
            (
                "acme--dev.sandbox.my",
                "acme--uat.sandbox.my",
                "the audience of one org, asked at another's host",
            ),
        ] {
            let (audience, host) = (format!("{audience}.salesforce.com"), format!("{host}.salesforce.com"));
            assert_eq!(pair(&audience, &host).as_deref(), Some(why), "{audience} at {host}");
        }
        assert!(pair("login.salesforce.com", "acme.my.sfcrmproducts.cn").is_some());
    }
}
