//! What is wrong with the configuration: profiles, limits, addresses.

use super::Case;
use super::Source::{Doc, Field, Own};
use crate::doctor::checks::profiles;

pub(super) const CASES: [Case; 11] = [
    Case {
        id: "configuration",
        title: "The configuration loads",
        sees: "tokenmint doesn't start",
        answers: "Would `tokenmint serve` start?",
        fix: "mend the line that the message names; `tokenmint check` shows the same",
        source: Own,
        online: false,
        check: profiles::configuration,
    },
    Case {
        id: "configuration-warnings",
        title: "The configuration holds nothing odd",
        sees: "it runs, but not as meant",
        answers: "Is something allowed, but probably not meant?",
        fix: "mend what the message names, or leave it, knowingly",
        source: Own,
        online: false,
        check: profiles::warnings,
    },
    Case {
        id: "scrt-url",
        title: "`scrt_url` is the messaging host",
        sees: "404, HTML, or no answer when a token is exchanged",
        answers: "Is it https://….my.salesforce-scrt.com, not .my.salesforce.com and not .my.site.com?",
        fix: "copy it from Setup > Embedded Service Deployments > the deployment > Install Code Snippet (`scrt2URL`)",
        source: Doc,
        online: false,
        check: profiles::scrt_url,
    },
    Case {
        id: "org-id",
        title: "`org_id` is an org's id",
        sees: "400 when a token is exchanged",
        answers: "Has it 15 or 18 characters, beginning with 00D?",
        fix: "copy Organization ID from Setup > Company Information",
        source: Doc,
        online: false,
        check: profiles::org_id,
    },
    Case {
        id: "deployment",
        title: "`es_developer_name` is a published deployment's API name",
        sees: "400 or 404 when a token is exchanged",
        answers: "Is it the API name (not the label) of a published Custom Client deployment?",
        fix: "copy API Name from Setup > Embedded Service Deployments; it begins with a letter and has letters, \
              digits and `_`. Publish it, and wait ten minutes",
        source: Doc,
        online: false,
        check: profiles::deployment,
    },
    Case {
        id: "audience",
        title: "`audience` fits the host and the user",
        sees: "`audience is invalid`",
        answers: "Is `aud` https://login.salesforce.com, for a sandbox https://test.salesforce.com, or the My Domain \
                  URL, without a slash at the end?",
        fix: "set `audience` in [oauth.NAME] to one of these, and `token_url` to the org's My Domain",
        source: Field,
        online: false,
        check: profiles::audience,
    },
    Case {
        id: "audience-host",
        title: "The app is asked where it can be found",
        sees: "`app_not_found`: External client app is not installed in this org",
        answers: "Is an External Client App asked through My Domain, as it must since Spring '26?",
        fix: "`audience = \"https://ACME.my.salesforce.com\"` in [oauth.NAME], and no `token_url`: Setup > My Domain \
              shows the name",
        source: Field,
        online: false,
        check: profiles::audience_host,
    },
    Case {
        id: "username",
        title: "`username` is a user name of that org",
        sees: "`invalid_grant`",
        answers: "Is `sub` the user name, with the sandbox's suffix, and not the e-mail address?",
        fix: "copy Username from Setup > Users; a sandbox adds its name, as integration@acme.com.uat",
        source: Field,
        online: false,
        check: profiles::username,
    },
    Case {
        id: "limits",
        title: "Profiles together stay below Salesforce's limits",
        sees: "it works, then fails for everybody: `LOGIN_RATE_EXCEEDED`, 429",
        answers: "Do all profiles of one user or org together keep to 3,600 logins an hour and 200 access-token \
                  requests a minute?",
        fix: "lower `logins_per_hour` in [oauth.NAME], or `requests_per_minute` in [identity.NAME.messaging]; with \
              several replicas, to their share",
        source: Doc,
        online: false,
        check: profiles::limits,
    },
    Case {
        id: "runaway-page",
        title: "A page that asks without end is stopped",
        sees: "\"Something went wrong. Log in again…\", and 40 tokens a second for one user",
        answers: "Is the endpoint's answer never cached (no-store, no ETag), and is there a limit for each user?",
        fix: "tokenmint's answers are never stored; leave `remint_burst` and `remints_per_minute` in [server.limits] \
              at their defaults, and use examples/browser/tokenmint.js in the page",
        source: Field,
        online: false,
        check: profiles::runaway,
    },
    Case {
        id: "public-url",
        title: "Salesforce can reach the Endpoint URL",
        sees: "every chat is a guest's",
        answers: "Is the JWKS on https, on port 443, for everybody?",
        fix: "`url` in [server.public] is what Salesforce asks: a host name of yours on 443, without a path",
        source: Field,
        online: false,
        check: profiles::public_url,
    },
];
