//! Catalogue entries (title, symptom, fix) of the checks that need a probe or a served JWKS; the functions are in
//! `checks::online`.

use crate::doctor::check_spec::EvidenceSource::{Doc, Field};
use crate::doctor::check_spec::{CheckSpec, Requirement};
use crate::doctor::checks::online;

pub(super) const CHECKS: &[CheckSpec] = &[
    CheckSpec {
        id: "jwks-reachable",
        title: "The JWKS answers 200 at once",
        symptom: "every chat is unverified, and every status is 200",
        question: "Is the Endpoint URL behind a login, a redirect, or down?",
        fix: "make `curl -i URL` from outside answer 200 and JSON, over https: no login, no redirect, no bot protection; the URL \
              in Setup > Enhanced Chat User Verification > Keysets is the same",
        source: Field,
        online: true,
        requires: Requirement::FetchedJwks,
        run: online::jwks_reachable,
    },
    CheckSpec {
        id: "jwks-light",
        title: "The JWKS is fast and small",
        symptom: "now and then a chat is unverified",
        question: "Does it answer within 500 ms and 50 KiB, the defaults of the library that most Java servers fetch \
                  with?",
        fix: "put a cache in front of it, near Salesforce; remove keys that are gone (`tokenmint keys list`)",
        source: Field,
        online: true,
        requires: Requirement::FetchedJwks,
        run: online::jwks_light,
    },
    CheckSpec {
        id: "jwks-current",
        title: "The JWKS shows the keys that sign",
        symptom: "after a change of keys every chat is unverified",
        question: "Salesforce asks: Was the JWT created using the same JWKS uploaded and configured?",
        fix: "let every replica have the same key files, and no cache keep the answer for longer than its max-age",
        source: Field,
        online: true,
        requires: Requirement::OwnJwks,
        run: online::jwks_current,
    },
    CheckSpec {
        id: "clock",
        title: "Our clock is Salesforce's",
        symptom: "`expired authorization code`; some chats end at once",
        question: "Do the clocks agree within Salesforce's three minutes?",
        fix: "run NTP (chrony, systemd-timesyncd) on this host",
        source: Doc,
        online: true,
        requires: Requirement::ProbeResult,
        run: online::clock,
    },
    CheckSpec {
        id: "exchange",
        title: "Salesforce gives a token, for a verified user",
        symptom: "502 `upstream_rejected` or `unverified`",
        question: "Does one exchange work?",
        fix: "see the user's Login History in Setup, and the other findings",
        source: Field,
        online: true,
        requires: Requirement::ProbeResult,
        run: online::exchange,
    },
    CheckSpec {
        id: "auth-schemes",
        title: "The channel has an active User Verification configuration",
        symptom: "`User verification configuration has no active AuthSchemes`",
        question: "Is the keyset linked to the channel, and the configuration Active?",
        fix: "Setup > Messaging Settings > the channel > User Verification > New: name, keyset, Active",
        source: Field,
        online: true,
        requires: Requirement::ProbeResult,
        run: online::auth_schemes,
    },
    CheckSpec {
        id: "verification-mode",
        title: "The channel verifies users",
        symptom: "400, `Set the auth mode to false`",
        question: "Is Add User Verification on, and the authenticated endpoint asked?",
        fix: "Setup > Messaging Settings > Edit in the channel's row: Add User Verification",
        source: Field,
        online: true,
        requires: Requirement::ProbeResult,
        run: online::verification_mode,
    },
    CheckSpec {
        id: "preauthorized",
        title: "The user may use the app",
        symptom: "`user hasn't approved this consumer`, `invalid_app_access`",
        question: "Is the app for \"Admin approved users are pre-authorized\", and the user's profile or permission set \
                  assigned?",
        fix: "Setup > External Client App Manager > the app > Policies: Permitted Users, and assign the permission \
              set; scopes api and refresh_token, offline_access",
        source: Doc,
        online: true,
        requires: Requirement::ProbeResult,
        run: online::preauthorized,
    },
    CheckSpec {
        id: "app-propagation",
        title: "Salesforce knows the app",
        symptom: "`invalid_client_id`: client identifier invalid",
        question: "Is the consumer key right, and was the app made more than 30 minutes ago?",
        fix: "wait: a new app takes two to thirty minutes, and asking often gets the address blocked. Then compare \
              `consumer_key` in [oauth.NAME] with Setup > External Client App Manager > the app > Consumer Key and Secret",
        source: Field,
        online: true,
        requires: Requirement::ProbeResult,
        run: online::app_propagation,
    },
    CheckSpec {
        id: "app-certificate-of-key",
        title: "The app has the certificate of the key that signs",
        symptom: "`invalid assertion`",
        question: "Does the app have the certificate of this keyset's signing key?",
        fix: "upload KID.crt to Setup > External Client App Manager > the app > OAuth settings > Use digital signatures",
        source: Field,
        online: true,
        requires: Requirement::ProbeResult,
        run: online::app_certificate_of_key,
    },
];
