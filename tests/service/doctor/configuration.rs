//! Checks of profiles, limits and URLs in a configuration.

use serde_json::Value;

use super::Given;

const AUDIENCE: &str = "audience = \"https://acme.my.salesforce.com\"";
const SCRT: &str = "https://acme.my.salesforce-scrt.com";
const PUBLIC: &str = "https://tokens.acme.example";
const USERNAME: &str = "username = \"integration@acme.com\"";
const LISTEN: &str = "[server]\n";

/// A second profile for the same user, with limits for both.
const SECOND: &str = r#"logins_per_hour = 3600
[oauth.second]
keyset = "crm"
consumer_key = "3MVG9.second"
username = "integration@acme.com"
audience = "https://acme.my.salesforce.com"
logins_per_hour = 3600
[intercom.fin]"#;

/// The audience of the sound configuration, with that `token_url`.
fn token_url(url: &str) -> Given {
    Given::configured(&[(AUDIENCE, &format!("{AUDIENCE}\ntoken_url = \"{url}\""))])
}

fn audience(url: &str) -> Given {
    Given::configured(&[(AUDIENCE, &format!("audience = \"{url}\""))])
}

/// A certificate of the public listener for `names`, and its `url`.
fn with_public_certificate(url: &str, names: &[&str]) -> Given {
    let tls = "tls = { certificate_file = \"public.crt\", private_key_file = \"public.key\" }";
    let given = Given::configured(&[(&format!("url = \"{PUBLIC}\""), &format!("{tls}\nurl = \"{url}\""))]);
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let san = rcgen::CertificateParams::new(names).expect("names").subject_alt_names;
    let certificate =
        super::certificate_of(&PAIRS[1], -1, 90, |params| params.subject_alt_names.clone_from(&san));
    given.workspace.write_key("public.key", &PAIRS[1].pem);
    given.workspace.write("public.crt", &super::pem_of(&certificate));
    given
}

/// `check` and the doctor agree.
#[test]
fn a_certificate_of_the_public_listener_for_its_host_has_no_finding() {
    for (url, names) in [
        (PUBLIC, &["other.example", "tokens.acme.example"][..]),
        (PUBLIC, &["*.acme.example"]),
        ("https://TOKENS.acme.example:443", &["tokens.acme.example"]),
    ] {
        let given = with_public_certificate(url, names);
        given.is_well();
        let ran = given.workspace.run(&["check"]);
        assert!(!ran.stdout.contains("isn't valid for"), "{names:?}: {}{}", ran.stdout, ran.stderr);
    }
    let ran = with_public_certificate(PUBLIC, &["acme.example"]).workspace.run(&["check"]);
    let said = ran.stdout.clone() + &ran.stderr;
    assert_eq!(ran.code(), 0, "{said}");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("isn't valid for `tokens.acme.example`, the host of `url`"), "{said}");
}

const SANDBOX: &str = "audience = \"https://acme--uat.sandbox.my.salesforce.com\"";

/// Another profile for the same user, in another case.
const TWICE: &str = "[oauth.other]\nkeyset = \"crm\"\nconsumer_key = \"3MVG9.other\"\nusername = \"Integration@ACME.com\"\n\
                     audience = \"https://acme.my.salesforce.com\"\nlogins_per_hour = 3600\n[callers.web]";

use crate::sandbox::PAIRS;

faults! {
    a_setting_that_there_is_not: "configuration", fail, "unknown key",
        Given::configured(&[(LISTEN, "[server]\nremints = 5\n")]);
    a_key_directory_that_is_not_there: "configuration", fail, "can't be listed",
        Given::configured(&[("keys/identity", "keys/elsewhere")]);
    a_secret_that_can_be_guessed: "configuration", fail, "shorter than 32 bytes",
        Given::configured(&[("intercom-messenger-api-secret-0123456789", "guess-me")]);
    a_key_file_that_is_never_read: "configuration-warnings", warn, "is ignored",
        {
            let given = Given::configured(&[]);
            given.workspace.write("keys/identity/old.pem", "");
            given
        };
    the_org_s_page_instead_of_its_messaging_host: "scrt-url", fail, "on acme.my.salesforce.com: not a messaging host",
        Given::configured(&[(SCRT, "https://acme.my.salesforce.com")]);
    a_site_instead_of_the_messaging_host: "scrt-url", fail, "on acme.my.site.com: not a messaging host",
        Given::configured(&[(SCRT, "https://acme.my.site.com")]);
    a_messaging_host_without_its_scheme: "scrt-url", fail, "isn't a URL",
        Given::configured(&[(SCRT, "acme.my.salesforce-scrt.com")]);
    a_sandbox_s_old_messaging_host: "scrt-url", fail, "it is acme--uat.sandbox.my.salesforce-scrt.com now",
        Given::configured(&[(SCRT, "https://acme--uat.my.salesforce-scrt.com")]);
    a_typing_error_in_the_messaging_host: "scrt-url", fail, "not a messaging host",
        Given::configured(&[(SCRT, "https://acme.my.saleforce-scrt.com")]);
    a_user_name_in_the_place_of_the_consumer_key: "consumer-key", fail, "it looks like a user name",
        Given::configured(&[("3MVG9.sandbox", "integration@acme.com")]);
    an_address_in_the_place_of_the_consumer_key: "consumer-key", fail, "it is an address",
        Given::configured(&[("3MVG9.sandbox", "https://acme.my.salesforce.com")]);
    a_consumer_key_with_a_blank: "consumer-key", fail, "white space",
        Given::configured(&[("3MVG9.sandbox", "3MVG9abc def")]);
    a_consumer_key_that_is_too_short: "consumer-key", fail, "8 letters and digits",
        Given::configured(&[("3MVG9.sandbox", "abc")]);
    two_users_in_the_place_of_one: "username", fail, "more than one e-mail address",
        Given::configured(&[("integration@acme.com", "a@acme.com,b@acme.com")]);
    an_org_s_id_with_a_typing_error: "org-id", warn, "don't fit the others",
        Given::configured(&[("00D000000000001", "00D5g000004XyZaEAA")]);
    an_issuer_with_an_invisible_character_inside: "issuer", fail, "holds an invisible character",
        Given::configured(&[("issuer = \"https://acme.example\"", "issuer = \"https://acme\\u200b.example\"")]);
    a_public_url_of_a_private_network: "public-url", warn, "which Salesforce can't reach",
        Given::configured(&[("https://tokens.acme.example", "https://10.0.0.1")]);
    a_public_url_without_a_domain: "public-url", warn, "which Salesforce can't reach",
        Given::configured(&[("https://tokens.acme.example", "https://tokens.internal")]);
    one_user_in_two_spellings_over_the_limit: "limits", fail, "logins an hour",
        Given::configured(&[("[callers.web]", TWICE)]);
    a_jwk_of_another_algorithm_than_the_profile_s: "key-pair", fail, "its `alg` is RS256, and keysets.web signs with RS512",
        Given::configured(&[("ttl = \"1h\"", "ttl = \"1h\"\nalgorithm = \"RS512\"")]).jwk(&PAIRS[0].jwk("Key1"));
    a_certificate_of_the_public_listener_that_has_expired: "configuration-warnings", fail, "so clients reject it",
        {
            let given = Given::configured(&[("url = \"https://tokens", "tls = { certificate_file = \"public.crt\", private_key_file = \"public.key\" }\nurl = \"https://tokens")]);
            given.workspace.write_key("public.key", &PAIRS[1].pem);
            given.workspace.write("public.crt", &super::pem_of(&super::certificate_of(&PAIRS[1], -400, -1, |_| ())));
            given
        };
    a_certificate_of_the_public_listener_for_another_host: "configuration-warnings", warn,
        "isn't valid for `tokens.acme.example`, the host of `url`",
        with_public_certificate(PUBLIC, &["acme.example", "*.tokens.acme.example"]);
    a_certificate_of_the_public_listener_without_its_address: "configuration-warnings", warn, "isn't valid for `203.0.113.7`",
        with_public_certificate("https://203.0.113.7", &["203.0.113.8"]).beside("public-url");
    an_org_s_id_that_is_cut_short: "org-id", fail, "15 or 18",
        Given::configured(&[("00D000000000001", "00D00000000001")]);
    a_user_s_id_instead_of_the_org_s: "org-id", fail, "00D",
        Given::configured(&[("00D000000000001", "005000000000001")]);
    a_deployment_s_label_instead_of_its_name: "deployment", fail, "must be an API name",
        Given::configured(&[("Web_Channel", "Web Channel")]);
    an_audience_with_a_slash_at_its_end: "audience", fail, "a slash at the end",
        Given::configured(&[(AUDIENCE, "audience = \"https://acme.my.salesforce.com/\"")]);
    an_audience_of_lightning_pages: "audience", fail, "a host of pages for signed-in users",
        audience("https://acme.lightning.force.com");
    an_audience_with_a_typing_error: "audience", fail, "a typo?",
        audience("https://acme.my.saleforce.com");
    an_audience_without_its_my: "audience", fail, "not a login host of Salesforce",
        audience("https://acme.salesforce.com");
    an_audience_that_is_an_instance: "audience", fail, "which names no org",
        audience("https://na1.salesforce.com");
    an_audience_in_a_domain_of_somebody_else_s: "audience", warn, "outside Salesforce's domains",
        Given::configured(&[
            (AUDIENCE, "audience = \"https://community.acme.com\"\ntoken_url = \
                        \"https://acme.my.salesforce.com/services/oauth2/token\""),
        ]);
    a_sandbox_s_old_host: "audience", fail, "it is acme--uat.sandbox.my.salesforce.com now",
        Given::configured(&[
            (AUDIENCE, "audience = \"https://acme--uat.my.salesforce.com\""),
            (USERNAME, "username = \"integration@acme.com.uat\""),
        ]);
    the_audience_of_another_org: "audience", fail, "to one org, and the host to another",
        Given::configured(&[
            (AUDIENCE, "audience = \"https://other.my.salesforce.com\"\ntoken_url = \
                        \"https://acme.my.salesforce.com/services/oauth2/token\""),
        ]);
    a_host_in_place_of_the_token_endpoint: "token-url", fail, "the path isn't /services/oauth2/token",
        token_url("https://acme.my.salesforce.com");
    a_token_endpoint_on_lightning: "token-url", fail, "a host of pages for signed-in users",
        token_url("https://acme.lightning.force.com/services/oauth2/token");
    a_token_endpoint_of_somebody_else_s: "token-url", warn, "outside Salesforce's domains",
        token_url("https://community.acme.com/services/oauth2/token");
    a_sandbox_with_production_s_audience: "audience", fail, "a sandbox, with production's audience",
        Given::configured(&[
            (AUDIENCE, "audience = \"https://login.salesforce.com\"\ntoken_url = \
                        \"https://acme--uat.sandbox.my.salesforce.com/services/oauth2/token\""),
            (USERNAME, "username = \"integration@acme.com.uat\""),
        ]);
    a_production_org_asked_at_the_sandboxes_host: "audience", fail, "a sandbox, with production's audience",
        Given::configured(&[
            (AUDIENCE, &format!("{AUDIENCE}\ntoken_url = \"https://test.salesforce.com/services/oauth2/token\"")),
        ]);
    a_developer_edition_with_the_sandboxes_audience: "audience", fail, "a Developer Edition org, with a sandbox's audience",
        Given::configured(&[
            (AUDIENCE, "audience = \"https://test.salesforce.com\"\ntoken_url = \
                        \"https://acme-dev-ed.develop.my.salesforce.com/services/oauth2/token\""),
        ]);
    a_scratch_org_with_production_s_audience: "audience", fail, "a scratch org, with production's audience",
        Given::configured(&[
            (AUDIENCE, "audience = \"https://login.salesforce.com\"\ntoken_url = \
                        \"https://acme-dev.scratch.my.salesforce.com/services/oauth2/token\""),
        ]);
    a_site_of_a_domain_of_its_own_with_salesforce_in_its_name: "audience", warn, "outside Salesforce's domains",
        audience("https://salesforce.acme.com/customers");
    production_s_host_for_an_external_client_app: "audience-host", warn, "isn't found there",
        Given::configured(&[(AUDIENCE, "audience = \"https://login.salesforce.com\"")]);
    a_user_name_that_is_none: "username", fail, "has the form of an e-mail address",
        Given::configured(&[(USERNAME, "username = \"integration\"")]);
    a_user_s_id_instead_of_the_name: "username", fail, "that is a user's id",
        Given::configured(&[(USERNAME, "username = \"005000000000001AAA\"")]);
    a_sandbox_s_user_without_its_suffix: "username", warn, "without the suffix `.uat`",
        Given::configured(&[(AUDIENCE, SANDBOX)]);
    two_profiles_that_together_log_in_too_often: "limits", fail, "7200 logins an hour",
        Given::configured(&[("[intercom.fin]", SECOND)]);
    a_guard_that_stops_no_page: "runaway-page", warn, "a page in a loop isn't stopped",
        Given::configured(&[(LISTEN, "[server]\nlimits = { remints_per_minute = 3000 }\n")]);
    a_public_address_on_another_port: "public-url", warn, "names port 8443",
        Given::configured(&[(PUBLIC, "https://tokens.acme.example:8443")]);
    a_public_address_on_this_host: "public-url", warn, "can't reach",
        Given::configured(&[(PUBLIC, "http://localhost:8443")]);
    a_profile_s_life_below_browsers_clock_errors: "lifetime", warn, "less than the error of some browsers' clocks",
        Given::configured(&[("ttl = \"1h\"", "ttl = \"2m\"")]);
    a_profile_s_life_beyond_the_channel_s_session: "lifetime", warn, "longer than a channel's session",
        Given::configured(&[("ttl = \"1h\"", "ttl = \"3h\"")]);
    a_profile_s_issuer_with_a_slash_at_its_end: "issuer", warn, "ends with a slash",
        Given::configured(&[("https://acme.example", "https://acme.example/")]);
    a_wholly_other_issuer_in_setup: "issuer", fail, "in Setup `intercom.com`",
        Given::configured(&[]).with(&["--issuer", "intercom.com"]);
    another_issuer_in_setup_than_the_profile_s: "issuer", fail, "in Setup `https://acme.example/`",
        Given::configured(&[]).with(&["--issuer", "https://acme.example/"]);
}

/// The text about the host of an app's token endpoint.
#[test]
fn the_kind_of_the_token_host_is_reported() {
    for (url, said, list) in [
        ("https://acme.my.salesforce.com", "asks the org's own host, acme.my.salesforce.com", "findings"),
        ("https://acme.my.site.com", "a site of the org", "findings"),
        ("https://salesforce.acme.com", "can't be told by its name", "not_looked_at"),
        ("https://acme.my.saleforce.com", "nobody logs in at", "not_looked_at"),
        ("https://acme.lightning.force.com", "nobody logs in at", "not_looked_at"),
    ] {
        let report: Value = serde_json::from_str(&audience(url).run(&["--json"]).stdout).expect("JSON");
        let one = report[list].as_array().expect("a list").iter().find(|one| one["check"] == "audience-host");
        let one = one.unwrap_or_else(|| panic!("{url}: {report}")).to_string();
        assert!(one.contains("oauth.crm") && one.contains(said), "{url}: {one}");
    }
}
