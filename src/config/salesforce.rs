//! Classifies Salesforce host names and checks Salesforce URLs: the kind of host, My Domain, sandbox and cloud.
//!
//! Used by the configuration, the doctor, the exchange and the `sandbox` command. Sources: Salesforce Help, "My
//! Domain URL Formats" and "OAuth 2.0 JWT Bearer Flow"; reports of practitioners. Host names from before enhanced
//! domains don't resolve since Spring '26.

use std::net::IpAddr;

use url::Url;

use super::names::is_loopback;

/// The path of the OAuth token endpoint, appended to the address of an org or a site.
pub(crate) const TOKEN_ENDPOINT_PATH: &str = "/services/oauth2/token";

/// The purpose of a host, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostKind {
    /// `login.salesforce.com`, or another cloud's login host.
    Login,
    /// `test.salesforce.com`, or another cloud's login host of sandboxes.
    Test,
    /// `NAME.my.salesforce.com`: logins and APIs of an org.
    MyDomain,
    /// `NAME.my.salesforce-scrt.com`
    Messaging,
    /// An Experience Cloud site: `NAME.my.site.com`, and older forms.
    Site,
    /// Pages for signed-in users, for example `NAME.lightning.force.com`.
    UserPages,
    /// An instance, for example `na1.salesforce.com`.
    Instance,
    /// Any other host in a Salesforce domain.
    Other,
    /// A host outside Salesforce's domains with a name that resembles them.
    Lookalike,
    Loopback,
    /// Any other host. An Experience Cloud site may have such a name.
    ThirdParty,
}

/// The Salesforce cloud of a host. An org exists in one cloud only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cloud {
    Public,
    /// `.mil`
    Government,
    China,
}

/// A classified host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SalesforceHost {
    pub(crate) name: String,
    pub(crate) kind: HostKind,
    pub(crate) cloud: Cloud,
    /// The org's My Domain name, without the sandbox name.
    pub(crate) my_domain: Option<String>,
    /// The sandbox name: `uat` in `acme--uat.sandbox.my.salesforce.com`.
    pub(crate) sandbox_name: Option<String>,
    /// The labels between the org's name and `my`: `sandbox`, `develop`, `scratch`, or an instance in old names.
    partition: Option<String>,
}

/// Suffixes of host names with the kind of host. The first match counts.
const HOST_SUFFIXES: &[(&str, HostKind, Cloud)] = &[
    (".my.salesforce-scrt.com", HostKind::Messaging, Cloud::Public),
    (".my.salesforce-scrt.mil", HostKind::Messaging, Cloud::Government),
    (".my.salesforce.com", HostKind::MyDomain, Cloud::Public),
    (".my.salesforce.mil", HostKind::MyDomain, Cloud::Government),
    (".my.sfcrmproducts.cn", HostKind::MyDomain, Cloud::China),
    (".my.sfcrmapps.cn", HostKind::MyDomain, Cloud::China),
    (".my.site.com", HostKind::Site, Cloud::Public),
    (".my.salesforce-sites.com", HostKind::Site, Cloud::Public),
    (".my.salesforce-setup.com", HostKind::UserPages, Cloud::Public),
    (".lightning.force.com", HostKind::UserPages, Cloud::Public),
    (".builder.salesforce-experience.com", HostKind::UserPages, Cloud::Public),
    (".vf.force.com", HostKind::UserPages, Cloud::Public),
    (".visual.force.com", HostKind::UserPages, Cloud::Public),
    (".file.force.com", HostKind::UserPages, Cloud::Public),
    (".content.force.com", HostKind::UserPages, Cloud::Public),
    (".documentforce.com", HostKind::UserPages, Cloud::Public),
    (".visualforce.com", HostKind::UserPages, Cloud::Public),
    (".lightning.crmforce.mil", HostKind::UserPages, Cloud::Government),
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

/// The domains of Salesforce that URLs in its responses may have. The last two belong to Salesforce in China.
const TRUSTED_RESPONSE_DOMAINS: &[&str] = &[
    ".salesforce.com",
    ".force.com",
    ".salesforce.mil",
    ".cloudforce.com",
    ".sfcrmproducts.cn",
    ".sfcrmapps.cn",
];

impl SalesforceHost {
    pub(crate) fn from_url(url: &Url) -> Self {
        let name = url.host_str().unwrap_or_default();
        if is_loopback(url) {
            return Self { kind: HostKind::Loopback, ..Self::unclassified(name) };
        }
        Self::from_name(name)
    }

    fn unclassified(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: HostKind::ThirdParty,
            cloud: Cloud::Public,
            my_domain: None,
            sandbox_name: None,
            partition: None,
        }
    }

    /// Classifies a host name; it must be in lower case.
    pub(crate) fn from_name(name: &str) -> Self {
        let host = Self::unclassified(name);
        let known = HOST_SUFFIXES
            .iter()
            .find_map(|(suffix, kind, cloud)| Some((name.strip_suffix(suffix)?, *suffix, *kind, *cloud)));
        let Some((labels, suffix, kind, cloud)) = known.filter(|(labels, ..)| !labels.is_empty()) else {
            let kind = if is_lookalike(name) { HostKind::Lookalike } else { HostKind::ThirdParty };
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
            // Orgs have ASCII names; a letter of another script can imitate a Latin one.
            return Self { kind: HostKind::Lookalike, cloud, ..host };
        }
        let (org, sandbox) = org.split_once("--").map_or((org, None), |(org, name)| (org, Some(name)));
        let owned = |text: &str| text.to_owned();
        Self {
            kind,
            cloud,
            my_domain: Some(owned(org)),
            sandbox_name: sandbox.map(owned),
            partition: partition.map(owned),
            ..host
        }
    }

    /// Whether the host belongs to a sandbox, or is the login host of sandboxes.
    pub(crate) fn is_sandbox(&self) -> bool {
        self.kind == HostKind::Test
            || self.sandbox_name.is_some()
            || self.partition.as_deref() == Some("sandbox")
    }

    /// Returns the kind of org that the host belongs to or whose users log in there, if the name tells.
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

    /// Returns the current name of a host from before enhanced domains; `None` if the name is current.
    fn enhanced_domain_name(&self) -> Option<String> {
        let is_old = match self.partition.as_deref() {
            None => self.sandbox_name.is_some(),
            Some(partition) => is_instance(partition),
        };
        if !is_old {
            return None;
        }
        let (_, suffix) = self.name.split_once(".my.")?;
        let org = self.my_domain.as_deref()?;
        Some(self.sandbox_name.as_ref().map_or_else(
            || format!("{org}.my.{suffix}"),
            |sandbox| format!("{org}--{sandbox}.sandbox.my.{suffix}"),
        ))
    }

    /// Whether a URL in a Salesforce response may have this host.
    pub(crate) fn is_trusted_in_responses(&self) -> bool {
        has_valid_labels(&self.name)
            && TRUSTED_RESPONSE_DOMAINS.iter().any(|domain| self.name.ends_with(domain))
    }
}

/// Whether each label has 1 to 63 letters, digits and inner hyphens (RFC 1123, section 2.1). A URL parser accepts more, for
/// example `;`, at which another program may end the host.
fn has_valid_labels(name: &str) -> bool {
    name.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// Whether the label names an instance: `na1`, `cs42`, `eu5`, `usa123`, some with one more letter.
fn is_instance(label: &str) -> bool {
    let letters = label.bytes().take_while(u8::is_ascii_lowercase).count();
    let digits = label.bytes().skip(letters).take_while(u8::is_ascii_digit).count();
    (2..=4).contains(&letters) && (1..=4).contains(&digits) && label.len() <= letters + digits + 1
}

/// Whether a registered domain contains Salesforce's name or differs from it by one or two letters, or Salesforce's
/// domain precedes another one. A subdomain of one's own domain is no lookalike: `salesforce.acme.com`.
fn is_lookalike(name: &str) -> bool {
    /// Labels that replace `com` below a country's top-level domain.
    const COUNTRY_SECOND_LEVEL: &[&str] = &["ac", "co", "com", "edu", "gov", "net", "org"];
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
        [.., label, second, top] if top.len() == 2 && COUNTRY_SECOND_LEVEL.contains(second) => (*label, *top),
        [.., label, top] => (*label, *top),
        [top] => ("", *top),
        [] => return false,
    };
    like(registered)
        || like(top)
        || labels.windows(2).any(|pair| like(pair[0]) && matches!(pair[1], "com" | "mil"))
}

/// The problems of a URL in its setting.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UrlIssues {
    /// Reasons why Salesforce rejects the URL.
    pub(crate) errors: Vec<String>,
    /// Doubts about a URL that Salesforce may accept.
    pub(crate) warnings: Vec<String>,
}

impl UrlIssues {
    fn error(&mut self, error: impl Into<String>) {
        self.errors.push(error.into());
    }

    /// Adds the reasons why nobody can log in at the host, or a warning if that depends on the org.
    fn check_login_host(&mut self, host: &SalesforceHost) {
        if host.name.ends_with('.') {
            return self.error("a dot at the end of the host");
        }
        if host.my_domain.as_deref() == Some("mydomain") {
            return self.error("the placeholder MYDOMAIN instead of the org's own name");
        }
        match host.kind {
            HostKind::Login | HostKind::Test | HostKind::Site | HostKind::Loopback => {}
            HostKind::MyDomain => {
                if let Some(now) = host.enhanced_domain_name() {
                    self.error(format!(
                        "the org's old host, which is gone since Spring '26; it is {now} now"
                    ));
                }
            }
            HostKind::Messaging => self.error("a messaging host, which accepts no logins"),
            HostKind::UserPages => {
                self.error(
                    "a host of pages for signed-in users, where no program logs in; My Domain is \
                …my.salesforce.com",
                );
            }
            HostKind::Instance => {
                self.error("an instance's host, which names no org; My Domain is …my.salesforce.com");
            }
            HostKind::Other => self.error("not a login host of Salesforce; My Domain is …my.salesforce.com"),
            HostKind::Lookalike => {
                self.error(
                    "a host outside Salesforce's domains with a similar name (a typo?); My Domain is …my.salesforce.com",
                );
            }
            HostKind::ThirdParty => {
                self.warnings
                    .push("a host outside Salesforce's domains, which only a site may have".to_owned());
            }
        }
    }
}

/// Checks an `aud` of the JWT bearer flow, which Salesforce compares byte for byte.
pub(crate) fn check_audience(written: &str) -> (Option<SalesforceHost>, UrlIssues) {
    let mut issues = UrlIssues::default();
    let trimmed = written.trim();
    if trimmed != written {
        issues.error("white space at the start or end");
    }
    let Ok(url) = Url::parse(trimmed) else {
        issues.error("not a URL");
        return (None, issues);
    };
    let host = SalesforceHost::from_url(&url);
    if url.scheme() != "https" && host.kind != HostKind::Loopback {
        issues.error(format!("`{}:` instead of `https:`", url.scheme()));
    }
    let path = url.path().trim_end_matches('/');
    if path.ends_with(TOKEN_ENDPOINT_PATH) || path.contains("/services/") {
        issues.error("the address of the token endpoint instead of the host");
    } else if !path.is_empty()
        && !matches!(host.kind, HostKind::Site | HostKind::ThirdParty | HostKind::Loopback)
    {
        issues.error("a path behind the host");
    }
    let has_more = url.query().is_some() || url.fragment().is_some() || !url.username().is_empty();
    if has_more {
        issues.error("more than a host");
    }
    if trimmed.ends_with('/') {
        issues.error("a slash at the end");
    }
    if !has_more && trimmed.trim_end_matches('/') != url.as_str().trim_end_matches('/') {
        issues.error(format!("not in the normal form `{}`", url.as_str().trim_end_matches('/')));
    }
    issues.check_login_host(&host);
    (Some(host), issues)
}

/// Checks the address that receives assertions.
pub(crate) fn check_token_url(url: &Url) -> (SalesforceHost, UrlIssues) {
    let mut issues = UrlIssues::default();
    let host = SalesforceHost::from_url(url);
    issues.check_login_host(&host);
    if host.kind != HostKind::Loopback
        && (!url.path().ends_with(TOKEN_ENDPOINT_PATH) || url.path().contains("//"))
    {
        issues.error(format!("the path isn't {TOKEN_ENDPOINT_PATH}, where the token endpoint is"));
    }
    if host.kind != HostKind::Loopback && (url.query().is_some() || url.fragment().is_some()) {
        issues.error("more than a path behind the host");
    }
    (host, issues)
}

/// Checks the address of the messaging API.
pub(crate) fn check_scrt_url(url: &Url) -> (SalesforceHost, UrlIssues) {
    let mut issues = UrlIssues::default();
    let host = SalesforceHost::from_url(url);
    match host.kind {
        HostKind::Loopback => {}
        HostKind::Messaging => {
            if let Some(now) = host.enhanced_domain_name() {
                issues.error(format!("the org's old host, which is gone since Spring '26; it is {now} now"));
            }
        }
        _ => issues.error("not a messaging host (…my.salesforce-scrt.com)"),
    }
    (host, issues)
}

/// Returns the reason why `token_host` rejects an assertion for `audience`; `None` if there is none, or if the names don't tell.
pub(crate) fn audience_mismatch(audience: &SalesforceHost, token_host: &SalesforceHost) -> Option<String> {
    use HostKind::{Login, MyDomain, Test};
    let is_login_host = |host: &SalesforceHost| matches!(host.kind, Login | Test | MyDomain);
    if !is_login_host(audience) || !is_login_host(token_host) {
        return None;
    }
    if audience.cloud != token_host.cloud {
        return Some("the audience belongs to another Salesforce cloud than the host".to_owned());
    }
    if let (Some(audience_org), Some(host_org)) = (&audience.my_domain, &token_host.my_domain)
        && (audience_org, &audience.sandbox_name) != (host_org, &token_host.sandbox_name)
    {
        return Some("the audience belongs to one org, and the host to another".to_owned());
    }
    let (audience_kind, host_kind) = (audience.org_kind()?, token_host.org_kind()?);
    (audience_kind.login_host() != host_kind.login_host())
        .then(|| format!("{}, with {}'s audience", host_kind.name(), audience_kind.name()))
}

/// The kind of an org. It decides the general login host (Salesforce Help, "My Domain URL Formats").
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

/// Whether a text has the form of a Salesforce record id with that prefix, for example `005` for a user.
pub(crate) fn is_record_id(text: &str, prefix: &str) -> bool {
    matches!(text.len(), 15 | 18)
        && text.starts_with(prefix)
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether an id of 18 characters has a wrong checksum in its last three characters.
///
/// The checksum encodes which of the first 15 characters are upper case. Source: Salesforce Help, "What's the
/// difference between 15 and 18 character record IDs?".
pub(crate) fn has_wrong_id_checksum(id: &str) -> bool {
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

/// The prefix of consumer keys that Salesforce generates.
pub(crate) const CONSUMER_KEY_PREFIX: &str = "3MVG9";

/// Returns the reason why a text can't be a consumer key; `None` if it may be one.
pub(crate) fn consumer_key_error(text: &str) -> Option<&'static str> {
    match text {
        _ if text.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            Some("it contains white space or a control character")
        }
        _ if text.contains('@') => Some("it looks like a user name, which belongs in `username`"),
        _ if text.contains("://") => Some("it is an address"),
        _ if text.starts_with(CONSUMER_KEY_PREFIX) || is_custom_consumer_key(text) => None,
        _ => Some("consumer keys begin with 3MVG9, or have at least 8 letters and digits"),
    }
}

/// Whether the text may be a consumer key that an admin chose: 8 to 256 letters and digits.
///
/// Source: Metadata API Developer Guide, `ConnectedAppOauthConfig`. For example, Salesforce's own command line uses
/// `PlatformCLI`.
pub(crate) fn is_custom_consumer_key(text: &str) -> bool {
    (8..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_classified_by_name() {
        use HostKind::{
            Instance, Login, Lookalike, Messaging, MyDomain, Other, Site, Test, ThirdParty, UserPages,
        };
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
            ("acme.lightning.force.com", UserPages, None, None),
            ("acme.my.salesforce-setup.com", UserPages, Some("acme"), None),
            ("na1.salesforce.com", Instance, None, None),
            ("cs42.salesforce.com", Instance, None, None),
            ("acme.salesforce.com", Other, None, None),
            ("acme.my.salesforce.co", Lookalike, None, None),
            ("login.saleforce.com", Lookalike, None, None),
            ("login.salesfroce.com", Lookalike, None, None),
            ("acme.my.salesforce.com.evil.example", Lookalike, None, None),
            ("evilsalesforce.com", Lookalike, None, None),
            ("salesforce.co.uk", Lookalike, None, None),
            ("login.saleforce.com.au", Lookalike, None, None),
            ("acme.my.salesforce", Lookalike, None, None),
            ("community.acme.com", ThirdParty, None, None),
            ("salesforce.acme.com", ThirdParty, None, None),
            ("salesforce.acme.co.uk", ThirdParty, None, None),
            ("my.salesforce.acme.com", ThirdParty, None, None),
            ("salesforce.ibm.com", ThirdParty, None, None),
            ("my.salesforce.com", Other, None, None),
        ] {
            let host = SalesforceHost::from_name(name);
            let classified = (host.kind, host.my_domain.as_deref(), host.sandbox_name.as_deref());
            assert_eq!(classified, (kind, org, sandbox), "{name}");
        }
    }

    #[test]
    fn the_last_three_characters_of_an_id_are_its_checksum() {
        for (id, is_wrong) in [
            ("00D5g000004XyZa", false),
            ("00D000000000001EAA", false),
            ("00D000000000001eaa", false),
            ("0015000000Gv7qJAAR", false),
            ("00D5g000004XyZaEAA", true),
            ("00D000000000001AAA", true),
        ] {
            assert_eq!(has_wrong_id_checksum(id), is_wrong, "{id}");
        }
    }

    #[test]
    fn every_error_of_an_audience_is_reported() {
        for fine in [
            "https://login.salesforce.com",
            "https://test.salesforce.com",
            "https://acme.my.salesforce.com",
            "https://acme--uat.sandbox.my.salesforce.com",
            "https://acme.my.site.com/customers",
        ] {
            assert_eq!(check_audience(fine).1, UrlIssues::default(), "{fine}");
        }
        for (wrong, errors) in [
            ("https://acme.lightning.force.com", &["pages for signed-in users"][..]),
            ("http://login.salesforce.com", &["`http:` instead of `https:`"]),
            ("https://login.salesforce.com/", &["a slash at the end"]),
            ("https://login.salesforce.com\n", &["white space at the start or end"]),
            ("http://acme.salesforce.com/ ", &["white space", "`http:`", "a slash", "not a login host"]),
            ("https://LOGIN.salesforce.com", &["not in the normal form `https://login.salesforce.com`"]),
            ("https://login.salesforce.com:443", &["not in the normal form"]),
            ("https://acme.my.salesforce.com/services/oauth2/token", &["the token endpoint"]),
            ("https://acme.my.salesforce.com/home", &["a path behind the host"]),
            ("https://acme--uat.cs42.my.salesforce.com", &["it is acme--uat.sandbox.my.salesforce.com now"]),
            ("https://acme--uat.my.salesforce.com", &["it is acme--uat.sandbox.my.salesforce.com now"]),
            ("https://acme.my.salesforce-scrt.com", &["a messaging host"]),
            ("https://login.saleforce.com", &["a typo?"]),
            ("https://na1.salesforce.com", &["an instance's host"]),
            ("https://\u{430}cme.my.salesforce.com", &["not in the normal form", "a typo?"]),
            ("https://mydomain.my.salesforce.com", &["the placeholder MYDOMAIN"]),
            ("https://acme.my.salesforce.com?x=1", &["more than a host"]),
            ("https://acme.my.salesforce.com.", &["a dot at the end of the host"]),
            ("https://salesforce.acme.com/customers", &[]),
            ("login.salesforce.com", &["not a URL"]),
        ] {
            let (_, issues) = check_audience(wrong);
            assert_eq!(issues.errors.len(), errors.len(), "{wrong}: {issues:?}");
            for (said, error) in issues.errors.iter().zip(errors) {
                assert!(said.contains(error), "{wrong}: {said}");
            }
        }
    }

    #[test]
    fn a_token_endpoint_is_checked_by_host_and_path() {
        let issues = |text: &str| check_token_url(&Url::parse(text).expect("a URL")).1;
        assert_eq!(issues("https://acme.my.salesforce.com/services/oauth2/token"), UrlIssues::default());
        assert_eq!(issues("https://acme.my.site.com/customers/services/oauth2/token"), UrlIssues::default());
        assert_eq!(issues("http://127.0.0.1:9/t"), UrlIssues::default());
        for wrong in [
            "https://acme.my.salesforce.com",
            "https://acme.my.salesforce.com/",
            "https://acme.lightning.force.com/services/oauth2/token",
            "https://acme.my.saleforce.com/services/oauth2/token",
            "https://acme.my.salesforce.com/services/oauth2/token?x",
            "https://acme.my.salesforce.com//services/oauth2/token",
        ] {
            assert_eq!(issues(wrong).errors.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn an_audience_and_a_token_host_of_different_orgs_mismatch() {
        let pair = |audience: &str, host: &str| {
            audience_mismatch(&SalesforceHost::from_name(audience), &SalesforceHost::from_name(host))
        };
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
            ("other.my", "acme.my", "the audience belongs to one org, and the host to another"),
            (
                "acme--dev.sandbox.my",
                "acme--uat.sandbox.my",
                "the audience belongs to one org, and the host to another",
            ),
        ] {
            let (audience, host) = (format!("{audience}.salesforce.com"), format!("{host}.salesforce.com"));
            assert_eq!(pair(&audience, &host).as_deref(), Some(why), "{audience} at {host}");
        }
        assert!(pair("login.salesforce.com", "acme.my.sfcrmproducts.cn").is_some());
    }
}
