//! Salesforce's errors in plain words: what each known answer means, and what to do about it. The one place
//! for it: the endpoints, the doctor and the docs say the same.
//!
//! Sources: Salesforce Help, "OAuth Authorization Errors"; the Mobile SDK's list of the server's error codes;
//! practitioners' reports. Texts are compared in lower case and by whole words, since they differ between releases. The first
//! row of a table that fits counts: Salesforce's own sentences come before codes, which stand for several causes, and both
//! before single words, which only hint at a cause.

use std::time::Duration;

/// For a limit of which Salesforce doesn't say when it ends.
const PAUSE: Duration = Duration::from_mins(1);
/// Salesforce refuses a user's logins for an hour once there were too many. A quarter of that is the longest that a service
/// goes on refusing after an administrator has ended it earlier.
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
    /// Whether it is a guess by a single word. A server in trouble uses such words for other things, so that a guess doesn't
    /// count with a status of 500 or more.
    is_guess: bool,
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
    Known { error, description, is_guess: false, meaning: Meaning { id, class, pause: PAUSE, cause, fix } }
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

    const fn guessed(mut self) -> Self {
        self.is_guess = true;
        self
    }

    /// The words by which it is known.
    fn words(&self) -> impl Iterator<Item = &'static str> {
        [self.error, self.description].into_iter().filter(|words| !words.is_empty())
    }

    /// Whether an answer in lower case has its code and its words.
    fn fits(&self, error: &str, description: &str) -> bool {
        let by_code = self.error.is_empty() || self.error == error;
        let by_words = self.description.is_empty()
            || has_words(description, self.description)
            || has_words(error, self.description);
        by_code && by_words
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
    // Sentences.
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
        "the app's developer allows other addresses than this host's, or Salesforce takes this one for that of an anonymizer or \
         a high-risk network, which it blocks since April 2026",
        "have the app's developer add this host's address to the app's IP ranges, and ask from a fixed address of your own, \
         through no VPN or anonymizing proxy",
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
    known(id::AUDIENCE_REFUSED, "", "audience is invalid", Permanent, AUDIENCE.0, AUDIENCE.1),
    known(id::AUDIENCE_REFUSED, "", "audience validation failed", Permanent, AUDIENCE.0, AUDIENCE.1),
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
    known(id::CLIENT_UNKNOWN, "", "client identifier invalid", Permanent, NO_CLIENT.0, NO_CLIENT.1),
    // Codes.
    known(
        id::APP_NOT_ASSIGNED,
        "invalid_app_access",
        "",
        Permanent,
        "the user's profile or permission set is not assigned to the app",
        "assign it in the app's policies (Manage Profiles, Manage Permission Sets)",
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
    known(id::CLIENT_UNKNOWN, "invalid_client_id", "", Permanent, NO_CLIENT.0, NO_CLIENT.1),
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
    // Guesses.
    known(id::AUDIENCE_REFUSED, "", "audience", Permanent, AUDIENCE.0, AUDIENCE.1).guessed(),
];

/// Causes and fixes of several rows.
const AUDIENCE: (&str, &str) = (
    "Salesforce does not take this `audience`",
    "connected apps take https://login.salesforce.com, or https://test.salesforce.com for a sandbox; External Client Apps take \
     the My Domain URL; without a slash at the end",
);
const NO_CLIENT: (&str, &str) = (
    "Salesforce does not know this consumer key; a new app needs up to 30 minutes to be known",
    "compare `consumer_key` with the app's; wait, if it is new",
);
const NO_ORG: (&str, &str) = (
    "Salesforce does not know the org",
    "compare `org_id` with Setup > Company Information, and `scrt_url` with the deployment's code snippet",
);

/// The messages of the messaging access-token endpoint.
static MESSAGING: &[Known] = &[
    // Sentences.
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
    // Guesses. Whatever an answer says of a deployment, it may name its org as well.
    known(
        id::DEPLOYMENT_UNKNOWN,
        "",
        "deployment",
        Permanent,
        "Salesforce does not know the deployment",
        "compare `es_developer_name` with the API name in Setup > Embedded Service Deployments; it must be a Custom \
         Client and published, which takes up to ten minutes",
    )
    .guessed(),
    known(
        "identity-token-expired",
        "",
        "expired",
        Permanent,
        "the identity token had expired when it arrived",
        "set this host's clock (NTP)",
    )
    .guessed(),
    known("org-unknown", "", "org", Permanent, NO_ORG.0, NO_ORG.1).guessed(),
    known("org-unknown", "", "orgid", Permanent, NO_ORG.0, NO_ORG.1).guessed(),
    known("org-unknown", "", "organization", Permanent, NO_ORG.0, NO_ORG.1).guessed(),
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

/// The two texts of an answer as the tables have them.
fn in_lower_case(error: &str, description: &str) -> (String, String) {
    (error.to_lowercase(), description.to_lowercase().replace('\u{2019}', "'"))
}

fn find(
    table: &'static [Known],
    status: u16,
    error: &str,
    description: &str,
    unknown: &'static Meaning,
) -> &'static Meaning {
    let (error, description) = in_lower_case(error, description);
    let found = table
        .iter()
        .filter(|known| !(known.is_guess && status >= 500))
        .find(|known| known.fits(&error, &description))
        .map(|known| &known.meaning);
    match (status, found) {
        // A user that is stopped is told so with any status.
        (_, Some(meaning)) if meaning.class == Limited => meaning,
        (429, _) => &LIMIT,
        // A cause that Salesforce names is the cause, also with a 500: waiting doesn't mend a configuration.
        (_, Some(meaning)) => meaning,
        (500.., None) => &TROUBLE,
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
    fn an_answer_is_known_by_whole_words_and_by_the_first_row_that_fits() {
        for (status, message, id) in [
            (400, "The token was forged", UNKNOWN_MESSAGING.id),
            (400, "the redeployment failed", UNKNOWN_MESSAGING.id),
            (400, "Unknown org", "org-unknown"),
            (400, "Deployment Web_Channel not found in this organization", id::DEPLOYMENT_UNKNOWN),
            (404, "No deployment for orgId 00D000000000001", id::DEPLOYMENT_UNKNOWN),
            (400, "The deployment of this org has no active AuthSchemes", id::NO_AUTH_SCHEMES),
            (500, "User verification configuration has no active AuthSchemes.", id::NO_AUTH_SCHEMES),
            (503, "Unavailable during a deployment in this organization", TROUBLE.id),
            (429, "no active AuthSchemes", LIMIT.id),
        ] {
            assert_eq!(of_messaging(status, message).id, id, "{status} {message}");
        }
        for (status, error, description, id) in [
            (500, "invalid_grant", "audience is invalid", id::AUDIENCE_REFUSED),
            (400, "invalid_grant", "no such audience", id::AUDIENCE_REFUSED),
            (503, "invalid_grant", "no audience today", TROUBLE.id),
            (503, "service_unavailable", "", "service-unavailable"),
        ] {
            assert_eq!(of_oauth(status, error, description).id, id, "{status} {error}: {description}");
        }
    }

    /// An answer for each row of a table, in the words that are reported, in the order of the rows.
    const OF_OAUTH: &[(&str, &str)] = &[
        ("invalid_grant", "LOGIN_RATE_EXCEEDED"),
        ("invalid_grant", "inactive user"),
        ("invalid_grant", "invalid user"),
        (
            "invalid_request",
            "refresh_token scope is required and the connected app should be installed and preauthorized",
        ),
        ("invalid_grant", "ip restricted by app developer"),
        ("invalid_grant", "user hasn\u{2019}t approved this consumer"),
        ("invalid_grant", "audience is invalid"),
        ("invalid_grant", "Audience validation failed"),
        ("invalid_grant", "expired authorization code"),
        ("invalid_grant", "invalid assertion"),
        ("invalid_grant", "ip restricted"),
        ("invalid_client_id", "client identifier invalid"),
        ("invalid_app_access", "user is not admin approved to access this app"),
        ("app_not_found", "External client app is not installed in this org"),
        ("invalid_client_id", ""),
        ("bad_jti_claim", ""),
        ("inactive_user", ""),
        ("inactive_org", ""),
        ("invalid_client", "invalid client credentials"),
        ("oauth_flow_disabled", ""),
        ("app_blocked", ""),
        ("oauth_policy_not_found", ""),
        ("ecapp_policy_not_found", ""),
        ("unsupported_grant_type", "grant type not supported"),
        ("invalid_scope", ""),
        ("rate_limit_exceeded", ""),
        ("slow_down", ""),
        ("login_error", ""),
        ("server_error", ""),
        ("service_unavailable", ""),
        ("system_down", ""),
        ("unknown_error", "retry your request"),
        ("invalid_grant", "no such audience"),
    ];
    const OF_MESSAGING: &[(&str, &str)] = &[
        ("", "User verification configuration has no active AuthSchemes."),
        ("BAD_REQUEST", "Set the auth mode to false"),
        ("NOT_FOUND", "No published deployment has this esDeveloperName."),
        ("", "The customer identity token has expired"),
        ("", "Unknown org"),
        ("BAD_REQUEST", "orgId is invalid"),
        ("", "This organization does not exist"),
    ];

    #[test]
    fn no_row_is_shadowed_by_an_earlier_one() {
        for (table, samples) in [(OAUTH, OF_OAUTH), (MESSAGING, OF_MESSAGING)] {
            assert_eq!(table.len(), samples.len(), "each row has its sample");
            for (row, (error, description)) in samples.iter().enumerate() {
                let (error, description) = in_lower_case(error, description);
                let found = table.iter().position(|known| known.fits(&error, &description));
                assert_eq!(found, Some(row), "{error}: {description}");
            }
        }
    }

    #[test]
    fn each_meaning_has_an_id_of_its_own() {
        for (_, _, meaning) in all() {
            assert_eq!(by_id(meaning.id), Some(meaning));
        }
    }
}
