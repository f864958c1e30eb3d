//! The known error responses of Salesforce, as rows with cause and fix. One error can have several rows.
//!
//! The first matching row counts, so the order matters. Sentences come first. Error codes come next, because one code has
//! several causes. Guesses by a single word come last.
//!
//! Sources: Salesforce Help, "OAuth Authorization Errors"; the Mobile SDK's list of the server's error codes;
//! practitioners' reports.

use std::time::Duration;

use super::known_error::ErrorClass::{Limited, Permanent, Transient};
use super::known_error::{DEFAULT_RETRY_AFTER, Diagnosis, KnownError, known_error};

/// Backoff after Salesforce's login limit. Salesforce says to wait an hour; a shorter backoff notices soon when logins
/// succeed again.
const LOGIN_LIMIT_BACKOFF: Duration = Duration::from_mins(15);

/// The ids that other modules refer to.
pub(crate) mod id {
    pub(crate) const NO_AUTH_SCHEMES: &str = "no-auth-schemes";
    pub(crate) const AUTH_MODE: &str = "auth-mode";
    pub(crate) const DEPLOYMENT_UNKNOWN: &str = "deployment-unknown";
    pub(crate) const AUDIENCE_REFUSED: &str = "audience-refused";
    pub(crate) const APP_NOT_FOUND: &str = "app-not-found";
    pub(crate) const USER_NOT_APPROVED: &str = "user-not-approved";
    pub(crate) const APP_NOT_ASSIGNED: &str = "app-not-assigned";
    pub(crate) const CLIENT_UNKNOWN: &str = "client-unknown";
    pub(crate) const ASSERTION_INVALID: &str = "assertion-invalid";
}

/// Errors of `/services/oauth2/token`.
pub(super) static OAUTH_ERRORS: &[KnownError] = &[
    // Sentences.
    known_error(
        "login-rate-exceeded",
        "",
        "login_rate_exceeded",
        Limited,
        "the user has logged in too often: Salesforce allows 3,600 logins an hour",
        "wait an hour, and find who logs in without a cache",
    )
    .with_backoff(LOGIN_LIMIT_BACKOFF),
    known_error(
        "user-inactive",
        "",
        "inactive user",
        Permanent,
        "the user is inactive",
        "activate the user, or set another `username`",
    ),
    known_error(
        "user-unknown",
        "",
        "invalid user",
        Permanent,
        "Salesforce does not know the user, or it is no user of this org",
        "compare `username` with the user's in Setup > Users; in a sandbox it mostly ends in the sandbox's name",
    ),
    known_error(
        "scope-missing",
        "",
        "refresh_token scope is required",
        Permanent,
        "the app lacks a scope, or isn't installed and pre-authorized in the org",
        "add the scope refresh_token, offline_access to the app, and set Permitted Users to \"Admin approved users are \
         pre-authorized\" in its policies",
    ),
    known_error(
        "address-barred-by-app",
        "",
        "ip restricted by app developer",
        Permanent,
        "the app's developer doesn't allow this host's address, or Salesforce blocks it as an anonymizer or a high-risk network \
         (since April 2026)",
        "have the app's developer add this host's address to the app's IP ranges; use a fixed address of your own, without a VPN \
         or an anonymizing proxy",
    ),
    known_error(
        id::USER_NOT_APPROVED,
        "",
        "hasn't approved this consumer",
        Permanent,
        "the user is not pre-authorized for the app, or `audience` and host don't fit each other",
        "in the app's policies set Permitted Users to \"Admin approved users are pre-authorized\" and assign the \
         user's profile or permission set; the app needs the scopes api and refresh_token, offline_access",
    ),
    known_error(
        id::AUDIENCE_REFUSED,
        "",
        "audience is invalid",
        Permanent,
        INVALID_AUDIENCE.0,
        INVALID_AUDIENCE.1,
    ),
    known_error(
        id::AUDIENCE_REFUSED,
        "",
        "audience validation failed",
        Permanent,
        INVALID_AUDIENCE.0,
        INVALID_AUDIENCE.1,
    ),
    known_error(
        "assertion-expired",
        "",
        "expired authorization code",
        Permanent,
        "the assertion had expired when it arrived",
        "set this host's clock (NTP): Salesforce allows three minutes at most",
    ),
    known_error(
        id::ASSERTION_INVALID,
        "",
        "invalid assertion",
        Permanent,
        "the signature does not fit the certificate of the app",
        "upload the certificate of this keyset's signing key to the app (`tokenmint keys list` says which signs)",
    ),
    known_error(
        "address-restricted",
        "",
        "ip restricted",
        Permanent,
        "the address of this host is not allowed to log in",
        "relax IP restrictions in the app's policies, or add the address to the user's login ranges",
    ),
    known_error(
        id::CLIENT_UNKNOWN,
        "",
        "client identifier invalid",
        Permanent,
        UNKNOWN_CONSUMER_KEY.0,
        UNKNOWN_CONSUMER_KEY.1,
    ),
    // Codes.
    known_error(
        id::APP_NOT_ASSIGNED,
        "invalid_app_access",
        "",
        Permanent,
        "the user's profile or permission set is not assigned to the app",
        "assign it in the app's policies (Manage Profiles, Manage Permission Sets)",
    ),
    known_error(
        id::APP_NOT_FOUND,
        "app_not_found",
        "",
        Permanent,
        "the app is not installed in the org that was asked; External Client Apps are not found through login. or \
         test.salesforce.com",
        "use the My Domain URL as `audience` and for `token_url`",
    ),
    known_error(
        id::CLIENT_UNKNOWN,
        "invalid_client_id",
        "",
        Permanent,
        UNKNOWN_CONSUMER_KEY.0,
        UNKNOWN_CONSUMER_KEY.1,
    ),
    known_error(
        "assertion-repeated",
        "bad_jti_claim",
        "",
        Transient,
        "the assertion was taken for a repeated one",
        "nothing: the next one has another jti",
    ),
    known_error(
        "user-inactive",
        "inactive_user",
        "",
        Permanent,
        "the user is inactive",
        "activate the user, or set another `username`",
    ),
    known_error(
        "org-inactive",
        "inactive_org",
        "",
        Permanent,
        "the org is locked or closed",
        "ask Salesforce Support",
    ),
    known_error(
        "client-refused",
        "invalid_client",
        "",
        Permanent,
        "the app refuses this kind of client",
        "enable the JWT bearer flow in the app's OAuth settings",
    ),
    known_error(
        "flow-disabled",
        "oauth_flow_disabled",
        "",
        Permanent,
        "the JWT bearer flow is switched off for the app or the org",
        "enable it in the app's settings and in Setup > OAuth and OpenID Connect Settings",
    ),
    known_error(
        "app-blocked",
        "app_blocked",
        "",
        Permanent,
        "an administrator has blocked the app",
        "unblock it in Setup > Connected Apps OAuth Usage",
    ),
    known_error(
        "app-policy-missing",
        "oauth_policy_not_found",
        "",
        Permanent,
        "the app has no policies in this org",
        "install the app and set its policies",
    ),
    known_error(
        "external-app-policy-missing",
        "ecapp_policy_not_found",
        "",
        Permanent,
        "the app has no policies in this org",
        "set the External Client App's policies",
    ),
    known_error(
        "grant-type-unsupported",
        "unsupported_grant_type",
        "",
        Permanent,
        "the address asked is no OAuth token endpoint of Salesforce",
        "compare `token_url`: it ends in /services/oauth2/token",
    ),
    known_error(
        "scope-invalid",
        "invalid_scope",
        "",
        Permanent,
        "the app has no scope that a token could be given for",
        "add the scopes api and refresh_token, offline_access to the app",
    ),
    known_error(
        "rate-limited",
        "rate_limit_exceeded",
        "",
        Limited,
        "Salesforce's rate limit is reached",
        "wait",
    ),
    known_error("slow-down", "slow_down", "", Transient, "Salesforce asks for fewer requests", "wait"),
    known_error(
        "login-error",
        "login_error",
        "",
        Transient,
        "Salesforce failed to log in",
        "wait; see the user's Login History if it stays",
    ),
    known_error(
        "server-error",
        "server_error",
        "",
        Transient,
        "Salesforce failed",
        "wait; see status.salesforce.com",
    ),
    known_error(
        "service-unavailable",
        "service_unavailable",
        "",
        Transient,
        "Salesforce is not available",
        "wait; see status.salesforce.com",
    ),
    known_error(
        "system-down",
        "system_down",
        "",
        Transient,
        "Salesforce is down",
        "wait; see status.salesforce.com",
    ),
    known_error(
        "unknown-error",
        "unknown_error",
        "",
        Transient,
        "Salesforce failed and does not say why",
        "wait",
    ),
    // Guesses.
    known_error(id::AUDIENCE_REFUSED, "", "audience", Permanent, INVALID_AUDIENCE.0, INVALID_AUDIENCE.1)
        .guessed(),
];

/// Causes and fixes that several rows share.
const INVALID_AUDIENCE: (&str, &str) = (
    "Salesforce does not take this `audience`",
    "connected apps take https://login.salesforce.com, or https://test.salesforce.com for a sandbox; External Client Apps take \
     the My Domain URL; without a slash at the end",
);
const UNKNOWN_CONSUMER_KEY: (&str, &str) = (
    "Salesforce does not know this consumer key; a new app needs up to 30 minutes to be known",
    "compare `consumer_key` with the app's; wait, if it is new",
);
const UNKNOWN_ORG: (&str, &str) = (
    "Salesforce does not know the org",
    "compare `org_id` with Setup > Company Information, and `scrt_url` with the deployment's code snippet",
);

/// Errors of the messaging access-token endpoint.
pub(super) static MESSAGING_ERRORS: &[KnownError] = &[
    // Sentences.
    known_error(
        id::NO_AUTH_SCHEMES,
        "",
        "no active authschemes",
        Permanent,
        "the channel has no active User Verification configuration",
        "in Setup > Messaging Settings open the channel, add a User Verification configuration with the keyset, \
         and make it Active",
    ),
    known_error(
        id::AUTH_MODE,
        "",
        "auth mode",
        Permanent,
        "the deployment and the endpoint disagree on user verification",
        "switch Add User Verification on for the channel, in Setup > Messaging Settings",
    ),
    // Guesses. A message about the deployment may also mention the org, so the deployment comes first.
    known_error(
        id::DEPLOYMENT_UNKNOWN,
        "",
        "deployment",
        Permanent,
        "Salesforce does not know the deployment",
        "compare `es_developer_name` with the API name in Setup > Embedded Service Deployments; it must be a Custom \
         Client and published, which takes up to ten minutes",
    )
    .guessed(),
    known_error(
        "identity-token-expired",
        "",
        "expired",
        Permanent,
        "the identity token had expired when it arrived",
        "set this host's clock (NTP)",
    )
    .guessed(),
    known_error("org-unknown", "", "org", Permanent, UNKNOWN_ORG.0, UNKNOWN_ORG.1).guessed(),
    known_error("org-unknown", "", "orgid", Permanent, UNKNOWN_ORG.0, UNKNOWN_ORG.1).guessed(),
    known_error("org-unknown", "", "organization", Permanent, UNKNOWN_ORG.0, UNKNOWN_ORG.1).guessed(),
];

pub(super) static UNKNOWN_OAUTH_ERROR: Diagnosis = Diagnosis {
    id: "unknown-at-token-endpoint",
    class: Permanent,
    backoff: DEFAULT_RETRY_AFTER,
    cause: "Salesforce refused the assertion for a reason that tokenmint does not know",
    fix: "see the user's Login History in Setup",
};

pub(super) static UNKNOWN_MESSAGING_ERROR: Diagnosis = Diagnosis {
    id: "unknown-in-messaging",
    class: Permanent,
    backoff: DEFAULT_RETRY_AFTER,
    cause: "Salesforce refused the identity token",
    fix: "check keyset, issuer and key id in Setup > Enhanced Chat User Verification, and that Salesforce can reach \
          the JWKS",
};

/// Salesforce answered with success, but with an anonymous session.
pub(crate) static UNVERIFIED_SESSION: Diagnosis = Diagnosis {
    id: "unverified",
    class: Permanent,
    backoff: DEFAULT_RETRY_AFTER,
    cause: "Salesforce took the request but did not verify the user: the session is anonymous",
    fix: "Salesforce must reach the keyset's JWKS without login or redirect; issuer and key id must be the same byte for \
          byte; the channel's User Verification must be Active and use this keyset",
};

/// Salesforce answered with success, but with a session that it verified as another user's.
pub(crate) static SESSION_OF_ANOTHER_USER: Diagnosis = Diagnosis {
    id: "another-user",
    class: Permanent,
    backoff: DEFAULT_RETRY_AFTER,
    cause: "Salesforce verified the session as another user's",
    fix: "nobody is handed that session; if the two names differ in upper and lower case alone, give `sub` as Salesforce \
          knows it; otherwise show Salesforce's support the request's time and org id",
};

pub(super) static SERVER_ERROR: Diagnosis = Diagnosis {
    id: "trouble",
    class: Transient,
    backoff: DEFAULT_RETRY_AFTER,
    cause: "Salesforce answered with a server error",
    fix: "wait; see status.salesforce.com",
};

pub(super) static RATE_LIMIT: Diagnosis = Diagnosis {
    id: "limit",
    class: Limited,
    backoff: DEFAULT_RETRY_AFTER,
    cause: "Salesforce's rate limit is reached",
    fix: "wait",
};
