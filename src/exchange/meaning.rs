//! Salesforce's errors in plain words: what each known answer means, and what to do about it. The one place
//! for it: the endpoints, the doctor and the docs say the same.
//!
//! Sources: Salesforce Help, "OAuth Authorization Errors"; the Mobile SDK's list of the server's error codes;
//! practitioners' reports. Texts are compared in lower case and by part, since they differ between releases.

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
    pub class: Class,
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
    error: &'static str,
    description: &'static str,
    class: Class,
    cause: &'static str,
    fix: &'static str,
) -> Known {
    Known { error, description, meaning: Meaning { class, cause, fix } }
}

use Class::{Limited, Permanent, Transient};

/// The answers of `/services/oauth2/token`. The first that fits counts.
static OAUTH: [Known; 26] = [
    known(
        "",
        "login_rate_exceeded",
        Limited,
        "the user has logged in too often: Salesforce allows 3,600 logins an hour",
        "wait an hour, and find who logs in without a cache",
    ),
    known(
        "",
        "hasn't approved this consumer",
        Permanent,
        "the user is not pre-authorized for the app, or `audience` and host don't fit each other",
        "in the app's policies set Permitted Users to \"Admin approved users are pre-authorized\" and assign the \
         user's profile or permission set; the app needs the scopes api and refresh_token, offline_access",
    ),
    known(
        "invalid_app_access",
        "",
        Permanent,
        "the user's profile or permission set is not assigned to the app",
        "assign it in the app's policies (Manage Profiles, Manage Permission Sets)",
    ),
    known(
        "",
        "audience",
        Permanent,
        "Salesforce does not take this `audience`",
        "connected apps take https://login.salesforce.com, or https://test.salesforce.com for a sandbox; External \
         Client Apps take the My Domain URL; without a slash at the end",
    ),
    known(
        "",
        "expired authorization code",
        Permanent,
        "the assertion had expired when it arrived",
        "set this host's clock (NTP): Salesforce allows three minutes at most",
    ),
    known(
        "",
        "invalid assertion",
        Permanent,
        "the signature does not fit the certificate of the app",
        "upload the certificate of this keyset's signing key to the app (`tokenmint keys list` says which signs)",
    ),
    known(
        "",
        "ip restricted",
        Permanent,
        "the address of this host is not allowed to log in",
        "relax IP restrictions in the app's policies, or add the address to the user's login ranges",
    ),
    known(
        "app_not_found",
        "",
        Permanent,
        "the app is not installed in the org that was asked; External Client Apps are not found through login. or \
         test.salesforce.com",
        "use the My Domain URL as `audience` and for `token_url`",
    ),
    known(
        "invalid_client_id",
        "",
        Permanent,
        "Salesforce does not know this consumer key; a new app needs up to 30 minutes to be known",
        "compare `consumer_key` with the app's; wait, if it is new",
    ),
    known(
        "bad_jti_claim",
        "",
        Transient,
        "the assertion was taken for a repeated one",
        "nothing: the next one has another jti",
    ),
    known(
        "inactive_user",
        "",
        Permanent,
        "the user is inactive",
        "activate the user, or set another `username`",
    ),
    known("inactive_org", "", Permanent, "the org is locked or closed", "ask Salesforce Support"),
    known(
        "invalid_client",
        "",
        Permanent,
        "the app refuses this kind of client",
        "enable the JWT bearer flow in the app's OAuth settings",
    ),
    known(
        "oauth_flow_disabled",
        "",
        Permanent,
        "the JWT bearer flow is switched off for the app or the org",
        "enable it in the app's settings and in Setup > OAuth and OpenID Connect Settings",
    ),
    known(
        "app_blocked",
        "",
        Permanent,
        "an administrator has blocked the app",
        "unblock it in Setup > Connected Apps OAuth Usage",
    ),
    known(
        "oauth_policy_not_found",
        "",
        Permanent,
        "the app has no policies in this org",
        "install the app and set its policies",
    ),
    known(
        "ecapp_policy_not_found",
        "",
        Permanent,
        "the app has no policies in this org",
        "set the External Client App's policies",
    ),
    known(
        "unsupported_grant_type",
        "",
        Permanent,
        "the address asked is no OAuth token endpoint of Salesforce",
        "compare `token_url`: it ends in /services/oauth2/token",
    ),
    known(
        "invalid_scope",
        "",
        Permanent,
        "the app has no scope that a token could be given for",
        "add the scopes api and refresh_token, offline_access to the app",
    ),
    known("rate_limit_exceeded", "", Limited, "Salesforce's rate limit is reached", "wait"),
    known("slow_down", "", Transient, "Salesforce asks for fewer requests", "wait"),
    known(
        "login_error",
        "",
        Transient,
        "Salesforce failed to log in",
        "wait; see the user's Login History if it stays",
    ),
    known("server_error", "", Transient, "Salesforce failed", "wait; see status.salesforce.com"),
    known(
        "service_unavailable",
        "",
        Transient,
        "Salesforce is not available",
        "wait; see status.salesforce.com",
    ),
    known("system_down", "", Transient, "Salesforce is down", "wait; see status.salesforce.com"),
    known("unknown_error", "", Transient, "Salesforce failed and does not say why", "wait"),
];

/// The messages of the messaging access-token endpoint.
static MESSAGING: [Known; 5] = [
    known(
        "",
        "no active authschemes",
        Permanent,
        "the channel has no active User Verification configuration",
        "in Setup > Messaging Settings open the channel, add a User Verification configuration with the keyset, \
         and make it Active",
    ),
    known(
        "",
        "auth mode",
        Permanent,
        "the deployment and the endpoint disagree on user verification",
        "switch Add User Verification on for the channel, in Setup > Messaging Settings",
    ),
    known(
        "",
        "deployment",
        Permanent,
        "Salesforce does not know the deployment",
        "compare `es_developer_name` with the API name in Setup > Embedded Service Deployments; it must be a Custom \
         Client and published, which takes up to ten minutes",
    ),
    known(
        "",
        "org",
        Permanent,
        "Salesforce does not know the org",
        "compare `org_id` with Setup > Company Information, and `scrt_url` with the deployment's code snippet",
    ),
    known(
        "",
        "expired",
        Permanent,
        "the identity token had expired when it arrived",
        "set this host's clock (NTP)",
    ),
];

static UNKNOWN_OAUTH: Meaning = Meaning {
    class: Permanent,
    cause: "Salesforce refused the assertion for a reason that tokenmint does not know",
    fix: "see the user's Login History in Setup",
};

static UNKNOWN_MESSAGING: Meaning = Meaning {
    class: Permanent,
    cause: "Salesforce refused the identity token",
    fix: "check keyset, issuer and key id in Setup > Enhanced Chat User Verification, and that Salesforce can reach \
          the JWKS",
};

/// Salesforce answered 200 with an anonymous session, or with another user's.
pub static UNVERIFIED: Meaning = Meaning {
    class: Permanent,
    cause: "Salesforce took the request but did not verify the user: the session is anonymous",
    fix: "Salesforce must reach the keyset's JWKS without login or redirect; issuer and key id must be the same byte for \
          byte; the channel's User Verification must be Active and use this keyset",
};

static TROUBLE: Meaning =
    Meaning { class: Transient, cause: "Salesforce is in trouble", fix: "wait; see status.salesforce.com" };
static LIMIT: Meaning = Meaning { class: Limited, cause: "Salesforce's rate limit is reached", fix: "wait" };

/// What an error answer of the OAuth token endpoint means.
pub fn of_oauth(status: u16, error: &str, description: &str) -> &'static Meaning {
    find(&OAUTH, status, error, description, &UNKNOWN_OAUTH)
}

/// What an error answer of the messaging endpoint means.
pub fn of_messaging(status: u16, message: &str) -> &'static Meaning {
    find(&MESSAGING, status, "", message, &UNKNOWN_MESSAGING)
}

/// Every known answer: where it comes from, its words, and what it means.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static Meaning)> {
    let of = |from: &'static str, table: &'static [Known]| {
        let words =
            |known: &'static Known| if known.error.is_empty() { known.description } else { known.error };
        table.iter().map(move |known| (from, words(known), &known.meaning))
    };
    of("token endpoint", &OAUTH).chain(of("messaging", &MESSAGING))
}

fn find(
    table: &'static [Known],
    status: u16,
    error: &str,
    description: &str,
    unknown: &'static Meaning,
) -> &'static Meaning {
    let (error, description) = (error.to_lowercase(), description.to_lowercase().replace('\u{2019}', "'"));
    let fits = |known: &&Known| {
        (known.error.is_empty() || known.error == error)
            && (description.contains(known.description) || error.contains(known.description))
    };
    match (status, table.iter().find(fits)) {
        (429, _) => &LIMIT,
        (500.., _) => &TROUBLE,
        (_, Some(known)) => &known.meaning,
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
}
