//! Salesforce's errors in plain words: what each known answer means, and what to do about it. The one place
//! for it: the endpoints, the doctor and the docs say the same.
//!
//! Sources: Salesforce Help, "OAuth Authorization Errors"; the Mobile SDK's list of the server's error codes;
//! practitioners' reports. Texts are compared in lower case and by whole words, since they differ between releases; where
//! several fit, the longest counts, so that the order of the tables means nothing.

use std::time::Duration;

/// For a limit of which Salesforce doesn't say when it ends.
const PAUSE: Duration = Duration::from_mins(1);
/// A user that Salesforce has stopped stays stopped for an hour; asking again costs nothing before, and somebody may help.
const STOPPED: Duration = Duration::from_mins(15);

/// Whether asking again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not before somebody changes something. Failed logins can get the address blocked.
    Permanent,
    /// Soon.
    Transient,
    /// Salesforce's limit is reached.
    Limited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Tells it from all others, also between replicas.
    pub id: &'static str,
    pub class: Class,
    /// How long not to ask again, where Salesforce doesn't say and its limit is reached.
    pub pause: Duration,
    pub cause: &'static str,
    pub fix: &'static str,
}

/// A known answer: its `error` and a part of its description, either of which may be anything (`""`).
struct Known {
    error: &'static str,
    description: &'static str,
    meaning: Meaning,
}

const fn known(
    id: &'static str,
    error: &'static str,
    description: &'static str,
    class: Class,
    cause: &'static str,
    fix: &'static str,
) -> Known {
    Known { error, description, meaning: Meaning { id, class, pause: PAUSE, cause, fix } }
}

/// The ids that others than this module know.
pub mod id {
    pub const NO_AUTH_SCHEMES: &str = "no-auth-schemes";
    pub const AUTH_MODE: &str = "auth-mode";
    pub const DEPLOYMENT_UNKNOWN: &str = "deployment-unknown";
    pub const AUDIENCE_REFUSED: &str = "audience-refused";
    pub const APP_NOT_FOUND: &str = "app-not-found";
    pub const USER_NOT_APPROVED: &str = "user-not-approved";
    pub const APP_NOT_ASSIGNED: &str = "app-not-assigned";
    pub const CLIENT_UNKNOWN: &str = "client-unknown";
    pub const ASSERTION_INVALID: &str = "assertion-invalid";
}

impl Known {
    const fn pausing(mut self, pause: Duration) -> Self {
        self.meaning.pause = pause;
        self
    }

    /// The words by which it is known.
    fn words(&self) -> impl Iterator<Item = &'static str> {
        [self.error, self.description].into_iter().filter(|words| !words.is_empty())
    }

    /// How much of an answer it explains; nothing where it doesn't fit.
    fn fits(&self, error: &str, description: &str) -> Option<(usize, usize)> {
        let by_code = self.error.is_empty() || self.error == error;
        let by_words = self.description.is_empty()
            || has_words(description, self.description)
            || has_words(error, self.description);
        (by_code && by_words).then_some((self.description.len(), self.error.len()))
    }
}

/// Whether `words` stand in `text`, not as a part of other words.
fn has_words(text: &str, words: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(words)
        .any(|(at, _)| !text[..at].ends_with(inside) && !text[at + words.len()..].starts_with(inside))
}

use Class::{Limited, Permanent, Transient};

/// The answers of `/services/oauth2/token`.
static OAUTH: &[Known] = &[
    known(
        "login-rate-exceeded",
        "",
        "login_rate_exceeded",
        Limited,
        "the user has logged in too often: Salesforce allows 3,600 logins an hour",
        "wait an hour, and find who logs in without a cache",
    )
    .pausing(STOPPED),
    known(
        "user-inactive",
        "",
        "inactive user",
        Permanent,
        "the user is inactive",
        "activate the user, or set another `username`",
    ),
    known(
        "user-unknown",
        "",
        "invalid user",
        Permanent,
        "Salesforce does not know the user, or it is no user of this org",
        "compare `username` with the user's in Setup > Users; in a sandbox it mostly ends in the sandbox's name",
    ),
    known(
        "scope-missing",
        "",
        "refresh_token scope is required",
        Permanent,
        "the app lacks a scope, or isn't installed and pre-authorized in the org",
        "add the scope refresh_token, offline_access to the app, and set Permitted Users to \"Admin approved users are \
         pre-authorized\" in its policies",
    ),
    known(
        "address-barred-by-app",
        "",
        "ip restricted by app developer",
        Permanent,
        "Salesforce takes the address of this host for an anonymizing or high-risk one, or the app's developer has barred it",
        "ask from another address, or have the app's developer add this one to the app's IP ranges",
    ),
    known(
        id::USER_NOT_APPROVED,
        "",
        "hasn't approved this consumer",
        Permanent,
        "the user is not pre-authorized for the app, or `audience` and host don't fit each other",
        "in the app's policies set Permitted Users to \"Admin approved users are pre-authorized\" and assign the \
         user's profile or permission set; the app needs the scopes api and refresh_token, offline_access",
    ),
    known(
        id::APP_NOT_ASSIGNED,
        "invalid_app_access",
        "",
        Permanent,
        "the user's profile or permission set is not assigned to the app",
        "assign it in the app's policies (Manage Profiles, Manage Permission Sets)",
    ),
    known(
        id::AUDIENCE_REFUSED,
        "",
        "audience",
        Permanent,
        "Salesforce does not take this `audience`",
        "connected apps take https://login.salesforce.com, or https://test.salesforce.com for a sandbox; External \
         Client Apps take the My Domain URL; without a slash at the end",
    ),
    known(
        "assertion-expired",
        "",
        "expired authorization code",
        Permanent,
        "the assertion had expired when it arrived",
        "set this host's clock (NTP): Salesforce allows three minutes at most",
    ),
    known(
        id::ASSERTION_INVALID,
        "",
        "invalid assertion",
        Permanent,
        "the signature does not fit the certificate of the app",
        "upload the certificate of this keyset's signing key to the app (`tokenmint keys list` says which signs)",
    ),
    known(
        "address-restricted",
        "",
        "ip restricted",
        Permanent,
        "the address of this host is not allowed to log in",
        "relax IP restrictions in the app's policies, or add the address to the user's login ranges",
    ),
    known(
        id::APP_NOT_FOUND,
        "app_not_found",
        "",
        Permanent,
        "the app is not installed in the org that was asked; External Client Apps are not found through login. or \
         test.salesforce.com",
        "use the My Domain URL as `audience` and for `token_url`",
    ),
    known(
        id::CLIENT_UNKNOWN,
        "invalid_client_id",
        "",
        Permanent,
        "Salesforce does not know this consumer key; a new app needs up to 30 minutes to be known",
        "compare `consumer_key` with the app's; wait, if it is new",
    ),
    known(
        id::CLIENT_UNKNOWN,
        "",
        "client identifier invalid",
        Permanent,
        "Salesforce does not know this consumer key; a new app needs up to 30 minutes to be known",
        "compare `consumer_key` with the app's; wait, if it is new",
    ),
    known(
        "assertion-repeated",
        "bad_jti_claim",
        "",
        Transient,
        "the assertion was taken for a repeated one",
        "nothing: the next one has another jti",
    ),
    known(
        "user-inactive",
        "inactive_user",
        "",
        Permanent,
        "the user is inactive",
        "activate the user, or set another `username`",
    ),
    known(
        "org-inactive",
        "inactive_org",
        "",
        Permanent,
        "the org is locked or closed",
        "ask Salesforce Support",
    ),
    known(
        "client-refused",
        "invalid_client",
        "",
        Permanent,
        "the app refuses this kind of client",
        "enable the JWT bearer flow in the app's OAuth settings",
    ),
    known(
        "flow-disabled",
        "oauth_flow_disabled",
        "",
        Permanent,
        "the JWT bearer flow is switched off for the app or the org",
        "enable it in the app's settings and in Setup > OAuth and OpenID Connect Settings",
    ),
    known(
        "app-blocked",
        "app_blocked",
        "",
        Permanent,
        "an administrator has blocked the app",
        "unblock it in Setup > Connected Apps OAuth Usage",
    ),
    known(
        "app-policy-missing",
        "oauth_policy_not_found",
        "",
        Permanent,
        "the app has no policies in this org",
        "install the app and set its policies",
    ),
    known(
        "external-app-policy-missing",
        "ecapp_policy_not_found",
        "",
        Permanent,
        "the app has no policies in this org",
        "set the External Client App's policies",
    ),
    known(
        "grant-type-unsupported",
        "unsupported_grant_type",
        "",
        Permanent,
        "the address asked is no OAuth token endpoint of Salesforce",
        "compare `token_url`: it ends in /services/oauth2/token",
    ),
    known(
        "scope-invalid",
        "invalid_scope",
        "",
        Permanent,
        "the app has no scope that a token could be given for",
        "add the scopes api and refresh_token, offline_access to the app",
    ),
    known("rate-limited", "rate_limit_exceeded", "", Limited, "Salesforce's rate limit is reached", "wait"),
    known("slow-down", "slow_down", "", Transient, "Salesforce asks for fewer requests", "wait"),
    known(
        "login-error",
        "login_error",
        "",
        Transient,
        "Salesforce failed to log in",
        "wait; see the user's Login History if it stays",
    ),
    known(
        "server-error",
        "server_error",
        "",
        Transient,
        "Salesforce failed",
        "wait; see status.salesforce.com",
    ),
    known(
        "service-unavailable",
        "service_unavailable",
        "",
        Transient,
        "Salesforce is not available",
        "wait; see status.salesforce.com",
    ),
    known(
        "system-down",
        "system_down",
        "",
        Transient,
        "Salesforce is down",
        "wait; see status.salesforce.com",
    ),
    known("unknown-error", "unknown_error", "", Transient, "Salesforce failed and does not say why", "wait"),
];

/// Cause and fix.
const NO_ORG: (&str, &str) = (
    "Salesforce does not know the org",
    "compare `org_id` with Setup > Company Information, and `scrt_url` with the deployment's code snippet",
);

/// The messages of the messaging access-token endpoint.
static MESSAGING: &[Known] = &[
    known(
        id::NO_AUTH_SCHEMES,
        "",
        "no active authschemes",
        Permanent,
        "the channel has no active User Verification configuration",
        "in Setup > Messaging Settings open the channel, add a User Verification configuration with the keyset, \
         and make it Active",
    ),
    known(
        id::AUTH_MODE,
        "",
        "auth mode",
        Permanent,
        "the deployment and the endpoint disagree on user verification",
        "switch Add User Verification on for the channel, in Setup > Messaging Settings",
    ),
    known(
        id::DEPLOYMENT_UNKNOWN,
        "",
        "deployment",
        Permanent,
        "Salesforce does not know the deployment",
        "compare `es_developer_name` with the API name in Setup > Embedded Service Deployments; it must be a Custom \
         Client and published, which takes up to ten minutes",
    ),
    known("org-unknown", "", "org", Permanent, NO_ORG.0, NO_ORG.1),
    known("org-unknown", "", "orgid", Permanent, NO_ORG.0, NO_ORG.1),
    known("org-unknown", "", "organization", Permanent, NO_ORG.0, NO_ORG.1),
    known(
        "identity-token-expired",
        "",
        "expired",
        Permanent,
        "the identity token had expired when it arrived",
        "set this host's clock (NTP)",
    ),
];

static UNKNOWN_OAUTH: Meaning = Meaning {
    id: "unknown-at-token-endpoint",
    class: Permanent,
    pause: PAUSE,
    cause: "Salesforce refused the assertion for a reason that tokenmint does not know",
    fix: "see the user's Login History in Setup",
};

static UNKNOWN_MESSAGING: Meaning = Meaning {
    id: "unknown-in-messaging",
    class: Permanent,
    pause: PAUSE,
    cause: "Salesforce refused the identity token",
    fix: "check keyset, issuer and key id in Setup > Enhanced Chat User Verification, and that Salesforce can reach \
          the JWKS",
};

/// Salesforce answered 200 with an anonymous session.
pub static UNVERIFIED: Meaning = Meaning {
    id: "unverified",
    class: Permanent,
    pause: PAUSE,
    cause: "Salesforce took the request but did not verify the user: the session is anonymous",
    fix: "Salesforce must reach the keyset's JWKS without login or redirect; issuer and key id must be the same byte for \
          byte; the channel's User Verification must be Active and use this keyset",
};

/// Salesforce answered 200 with a session that it has verified as somebody else's.
pub static ANOTHER_USER: Meaning = Meaning {
    id: "another-user",
    class: Permanent,
    pause: PAUSE,
    cause: "Salesforce verified the session as another user's",
    fix: "nobody is handed that session; if the two names differ in upper and lower case alone, give `sub` as Salesforce \
          knows it; otherwise show Salesforce's support the request's time and org id",
};

static TROUBLE: Meaning = Meaning {
    id: "trouble",
    class: Transient,
    pause: PAUSE,
    cause: "Salesforce is in trouble",
    fix: "wait; see status.salesforce.com",
};

static LIMIT: Meaning = Meaning {
    id: "limit",
    class: Limited,
    pause: PAUSE,
    cause: "Salesforce's rate limit is reached",
    fix: "wait",
};

/// What an error answer of the OAuth token endpoint means.
pub fn of_oauth(status: u16, error: &str, description: &str) -> &'static Meaning {
    find(OAUTH, status, error, description, &UNKNOWN_OAUTH)
}

/// What an error answer of the messaging endpoint means.
pub fn of_messaging(status: u16, message: &str) -> &'static Meaning {
    find(MESSAGING, status, "", message, &UNKNOWN_MESSAGING)
}

/// Every known answer: where it comes from, its words, and what it means.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static Meaning)> {
    let of = |from: &'static str, table: &'static [Known]| {
        table.iter().map(move |known| (from, known.words().next().unwrap_or_default(), &known.meaning))
    };
    of("token endpoint", OAUTH).chain(of("messaging", MESSAGING))
}

/// The meaning of that id.
pub fn by_id(id: &str) -> Option<&'static Meaning> {
    let others = [&UNKNOWN_OAUTH, &UNKNOWN_MESSAGING, &UNVERIFIED, &ANOTHER_USER, &TROUBLE, &LIMIT];
    all().map(|(_, _, meaning)| meaning).chain(others).find(|meaning| meaning.id == id)
}

fn find(
    table: &'static [Known],
    status: u16,
    error: &str,
    description: &str,
    unknown: &'static Meaning,
) -> &'static Meaning {
    let (error, description) = (error.to_lowercase(), description.to_lowercase().replace('\u{2019}', "'"));
    let fitting = table.iter().filter_map(|known| Some((known.fits(&error, &description)?, known)));
    let found = fitting.max_by_key(|(length, _)| *length).map(|(_, known)| &known.meaning);
    match (status, found) {
        // A user that is stopped is told so with any status.
        (_, Some(meaning)) if meaning.class == Limited => meaning,
        (429, _) => &LIMIT,
        (500.., _) => &TROUBLE,
        (_, Some(meaning)) => meaning,
        (_, None) => unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_answer_has_its_cause() {
        let meaning = |error, description| of_oauth(400, error, description);
        assert!(
            meaning("invalid_grant", "user hasn\u{2019}t approved this consumer")
                .fix
                .contains("pre-authorized")
        );
        assert!(meaning("invalid_grant", "Audience validation failed").fix.contains("My Domain"));
        assert!(meaning("invalid_grant", "invalid assertion").cause.contains("certificate"));
        assert_eq!(meaning("LOGIN_RATE_EXCEEDED", "").class, Limited);
        assert_eq!(meaning("invalid_grant", "something new"), &UNKNOWN_OAUTH);
        assert_eq!(of_oauth(503, "invalid_grant", "").class, Transient);
        assert_eq!(of_messaging(429, "").class, Limited);
        let inactive = of_messaging(400, "User verification configuration has no active AuthSchemes.");
        assert!(inactive.fix.contains("Messaging Settings"));
    }

    #[test]
    fn an_answer_is_known_by_whole_words_and_the_longest_count() {
        let id = |error, description| of_oauth(400, error, description).id;
        assert_eq!(id("invalid_grant", "inactive user"), "user-inactive");
        assert_eq!(id("invalid_grant", "invalid user"), "user-unknown");
        assert_eq!(id("invalid_grant", "ip restricted"), "address-restricted");
        assert_eq!(id("invalid_grant", "ip restricted by app developer"), "address-barred-by-app");
        let scope =
            "refresh_token scope is required and the connected app should be installed and preauthorized";
        assert_eq!(id("invalid_request", scope), "scope-missing");
        for (message, id) in [
            ("The token was forged", UNKNOWN_MESSAGING.id),
            ("the redeployment failed", UNKNOWN_MESSAGING.id),
            ("Unknown org", "org-unknown"),
            ("The deployment of this org has no active AuthSchemes", id::NO_AUTH_SCHEMES),
        ] {
            assert_eq!(of_messaging(400, message).id, id, "{message}");
        }
    }

    #[test]
    fn each_meaning_has_an_id_of_its_own() {
        for (_, _, meaning) in all() {
            assert_eq!(by_id(meaning.id), Some(meaning));
        }
    }
}
