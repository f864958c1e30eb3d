//! Diagnoses error responses of Salesforce: maps each to a cause, a fix, and whether retrying can help.
//!
//! The endpoints, the doctor and the table in `docs/troubleshooting.md` all take their texts from [`table`]. Descriptions
//! match by whole words, since they differ between releases, and codes exactly; both are compared in lower case.

mod known_error;
pub(crate) mod table;

use ErrorClass::Limited;
use known_error::KnownError;
pub use known_error::{Diagnosis, ErrorClass};
use table::{
    MESSAGING_ERRORS, OAUTH_ERRORS, RATE_LIMIT, SERVER_ERROR, SESSION_OF_ANOTHER_USER,
    UNKNOWN_MESSAGING_ERROR, UNKNOWN_OAUTH_ERROR, UNVERIFIED_SESSION,
};

/// Diagnoses an error response of the OAuth token endpoint.
pub(crate) fn diagnose_oauth(status: u16, error: &str, description: &str) -> &'static Diagnosis {
    look_up(OAUTH_ERRORS, status, error, description, &UNKNOWN_OAUTH_ERROR)
}

/// Diagnoses an error response of the messaging endpoint.
pub(crate) fn diagnose_messaging(status: u16, message: &str) -> &'static Diagnosis {
    look_up(MESSAGING_ERRORS, status, "", message, &UNKNOWN_MESSAGING_ERROR)
}

/// Lists all rows: endpoint, first pattern, and diagnosis.
pub fn known_errors() -> impl Iterator<Item = (&'static str, &'static str, &'static Diagnosis)> {
    let of = |from: &'static str, table: &'static [KnownError]| {
        table.iter().map(move |known| (from, known.patterns().next().unwrap_or_default(), &known.diagnosis))
    };
    of("token endpoint", OAUTH_ERRORS).chain(of("messaging", MESSAGING_ERRORS))
}

/// Finds a diagnosis by its id.
pub(crate) fn by_id(id: &str) -> Option<&'static Diagnosis> {
    let others = [
        &UNKNOWN_OAUTH_ERROR,
        &UNKNOWN_MESSAGING_ERROR,
        &UNVERIFIED_SESSION,
        &SESSION_OF_ANOTHER_USER,
        &SERVER_ERROR,
        &RATE_LIMIT,
    ];
    known_errors().map(|(_, _, diagnosis)| diagnosis).chain(others).find(|diagnosis| diagnosis.id == id)
}

/// Converts an error response to the form of the tables: lower case, with ASCII apostrophes.
fn normalize(error: &str, description: &str) -> (String, String) {
    (error.to_lowercase(), description.to_lowercase().replace('\u{2019}', "'"))
}

fn look_up(
    table: &'static [KnownError],
    status: u16,
    error: &str,
    description: &str,
    unknown: &'static Diagnosis,
) -> &'static Diagnosis {
    let (error, description) = normalize(error, description);
    let found = table
        .iter()
        .filter(|known| !(known.is_guess && status >= 500))
        .find(|known| known.matches(&error, &description))
        .map(|known| &known.diagnosis);
    match (status, found) {
        // Salesforce may report its rate limits with any status.
        (_, Some(diagnosis)) if diagnosis.class == Limited => diagnosis,
        (429, _) => &RATE_LIMIT,
        // A known cause counts even with a status from 500 on: waiting doesn't fix a configuration.
        (_, Some(diagnosis)) => diagnosis,
        (500.., None) => &SERVER_ERROR,
        (_, None) => unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorClass::Transient;
    use super::table::id;
    use super::*;

    #[test]
    fn known_errors_map_to_their_causes() {
        let diagnosis = |error, description| diagnose_oauth(400, error, description);
        assert!(
            diagnosis("invalid_grant", "user hasn\u{2019}t approved this consumer")
                .fix
                .contains("pre-authorized")
        );
        assert!(diagnosis("invalid_grant", "Audience validation failed").fix.contains("My Domain"));
        assert!(diagnosis("invalid_grant", "invalid assertion").cause.contains("certificate"));
        assert_eq!(diagnosis("LOGIN_RATE_EXCEEDED", "").class, Limited);
        assert_eq!(diagnosis("invalid_grant", "something new"), &UNKNOWN_OAUTH_ERROR);
        assert_eq!(diagnose_oauth(503, "invalid_grant", "").class, Transient);
        assert_eq!(diagnose_messaging(429, "").class, Limited);
        let inactive = diagnose_messaging(400, "User verification configuration has no active AuthSchemes.");
        assert!(inactive.fix.contains("Messaging Settings"));
    }

    #[test]
    fn errors_match_by_whole_words_and_the_first_matching_row_counts() {
        for (status, message, id) in [
            (400, "The token was forged", UNKNOWN_MESSAGING_ERROR.id),
            (400, "the redeployment failed", UNKNOWN_MESSAGING_ERROR.id),
            (400, "Unknown org", "org-unknown"),
            (400, "Deployment Web_Channel not found in this organization", id::DEPLOYMENT_UNKNOWN),
            (404, "No deployment for orgId 00D000000000001", id::DEPLOYMENT_UNKNOWN),
            (400, "The deployment of this org has no active AuthSchemes", id::NO_AUTH_SCHEMES),
            (500, "User verification configuration has no active AuthSchemes.", id::NO_AUTH_SCHEMES),
            (503, "Unavailable during a deployment in this organization", SERVER_ERROR.id),
            (429, "no active AuthSchemes", RATE_LIMIT.id),
        ] {
            assert_eq!(diagnose_messaging(status, message).id, id, "{status} {message}");
        }
        for (status, error, description, id) in [
            (500, "invalid_grant", "audience is invalid", id::AUDIENCE_REFUSED),
            (400, "invalid_grant", "no such audience", id::AUDIENCE_REFUSED),
            (503, "invalid_grant", "no audience today", SERVER_ERROR.id),
            (503, "service_unavailable", "", "service-unavailable"),
        ] {
            assert_eq!(diagnose_oauth(status, error, description).id, id, "{status} {error}: {description}");
        }
    }

    /// A reported error response for each row, in the order of the table.
    const OAUTH_SAMPLES: &[(&str, &str)] = &[
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
    const MESSAGING_SAMPLES: &[(&str, &str)] = &[
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
        for (table, samples) in [(OAUTH_ERRORS, OAUTH_SAMPLES), (MESSAGING_ERRORS, MESSAGING_SAMPLES)] {
            assert_eq!(table.len(), samples.len(), "each row has its sample");
            for (row, (error, description)) in samples.iter().enumerate() {
                let (error, description) = normalize(error, description);
                let found = table.iter().position(|known| known.matches(&error, &description));
                assert_eq!(found, Some(row), "{error}: {description}");
            }
        }
    }

    #[test]
    fn every_row_is_found_by_its_id() {
        for (_, _, diagnosis) in known_errors() {
            assert_eq!(by_id(diagnosis.id), Some(diagnosis));
        }
    }
}
