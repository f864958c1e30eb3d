//! What only an answer tells.

use super::Case;
use super::Source::{Doc, Field};
use crate::doctor::checks::online;

pub(super) const CASES: [Case; 10] = [
    Case {
        id: "jwks-reachable",
        title: "The JWKS answers 200 at once",
        sees: "every chat is a guest's, and every status is 200",
        answers: "Is the Endpoint URL behind a login, a redirect, or down?",
        fix: "make `curl -i URL` from outside answer 200 and JSON: no login, no redirect, no bot protection; the URL \
              in Setup > Enhanced Chat User Verification > Keysets is the same",
        source: Field,
        online: true,
        check: online::reachable,
    },
    Case {
        id: "jwks-light",
        title: "The JWKS is fast and small",
        sees: "now and then a chat is a guest's",
        answers: "Does it answer within 500 ms and 50 KiB, the defaults of the library that most Java servers fetch \
                  with?",
        fix: "put a cache in front of it, near Salesforce; remove keys that are gone (`tokenmint keys list`)",
        source: Field,
        online: true,
        check: online::light,
    },
    Case {
        id: "jwks-current",
        title: "The JWKS shows the keys that sign",
        sees: "after a change of keys every chat is a guest's",
        answers: "Salesforce asks: Was the JWT created using the same JWKS uploaded and configured?",
        fix: "let every replica have the same key files, and no cache keep the answer for longer than its max-age",
        source: Field,
        online: true,
        check: online::same,
    },
    Case {
        id: "clock",
        title: "Our clock is Salesforce's",
        sees: "`expired authorization code`; some chats end at once",
        answers: "Do the clocks agree within Salesforce's three minutes?",
        fix: "run NTP (chrony, systemd-timesyncd) on this host",
        source: Doc,
        online: true,
        check: online::clock,
    },
    Case {
        id: "exchange",
        title: "Salesforce gives a token, for a verified user",
        sees: "502 `upstream_rejected` or `unverified`",
        answers: "Does one exchange work?",
        fix: "see the user's Login History in Setup, and the other findings",
        source: Field,
        online: true,
        check: online::exchange,
    },
    Case {
        id: "auth-schemes",
        title: "The channel has an active User Verification configuration",
        sees: "`User verification configuration has no active AuthSchemes`",
        answers: "Is the keyset linked to the channel, and the configuration Active?",
        fix: "Setup > Messaging Settings > the channel > User Verification > New: name, keyset, Active",
        source: Field,
        online: true,
        check: online::auth_schemes,
    },
    Case {
        id: "verification-mode",
        title: "The channel verifies users",
        sees: "400, `Set the auth mode to false`",
        answers: "Is Add User Verification on, and the authenticated endpoint asked?",
        fix: "Setup > Messaging Settings > Edit in the channel's row: Add User Verification",
        source: Field,
        online: true,
        check: online::mode,
    },
    Case {
        id: "preauthorized",
        title: "The user may use the app",
        sees: "`user hasn't approved this consumer`, `invalid_app_access`",
        answers: "Is the app for \"Admin approved users are pre-authorized\", and the user's profile or permission set \
                  assigned?",
        fix: "Setup > External Client App Manager > the app > Policies: Permitted Users, and assign the permission \
              set; scopes api and refresh_token, offline_access",
        source: Doc,
        online: true,
        check: online::approval,
    },
    Case {
        id: "app-propagation",
        title: "Salesforce knows the app",
        sees: "`invalid_client_id`: client identifier invalid",
        answers: "Is the consumer key right, and was the app made more than 30 minutes ago?",
        fix: "wait: a new app takes two to thirty minutes, and asking often gets the address blocked. Then compare \
              `consumer_key` in [oauth.NAME] with Setup > External Client App Manager > the app > Consumer Key and Secret",
        source: Field,
        online: true,
        check: online::propagation,
    },
    Case {
        id: "app-certificate-of-key",
        title: "The app has the certificate of the key that signs",
        sees: "`invalid assertion`",
        answers: "Is the certificate in the app that of this keyset's signing key?",
        fix: "upload KID.crt to Setup > External Client App Manager > the app > OAuth settings > Use digital signatures",
        source: Field,
        online: true,
        check: online::certificate,
    },
];
