//! `[issuers.NAME]` and the settings of callers that refer to it.

use std::fs;
use std::path::{Path, PathBuf};

use tokenmint::config::{Config, Environment};

use super::{RSA, issuer, jwt_caller};
use crate::support::{Workspace, sha256_hex};

const URL: &str = "jwks_url = \"https://login.acme.example/jwks\"";

/// Runs `check` on a configuration with `more`, and returns its exit code and what it says.
fn check(more: &str) -> (i32, String) {
    let workspace = Workspace::with(more);
    workspace.write("jwks.json", &serde_json::json!({"keys": [RSA.jwk("a")]}).to_string());
    workspace.write("empty.json", "{\"keys\": []}");
    workspace.write("long.secret", "0123456789abcdef0123456789abcdef");
    workspace.write("public.secret", &RSA.pair.public_key_pem());
    workspace.write("short.secret", "0123456789abcdef");
    let ran = workspace.run(&["check"]);
    (ran.code(), ran.stdout + &ran.stderr)
}

#[test]
fn valid_issuers_are_accepted() {
    for keys in [
        URL,
        "jwks_url = \"http://127.0.0.1:9/jwks\"\nleeway = \"0s\"\nmax_age = \"1h\"\nbearer_token_file = \"absent.token\"",
        "discovery = true",
        "jwks_url = \"https://a.example\"\ndiscovery = false",
        "jwks_file = \"jwks.json\"\nalgorithms = [\"RS256\"]",
        "secret_file = \"long.secret\"",
        "secret_file = \"long.secret\"\nalgorithms = [\"HS256\"]",
    ] {
        let (code, said) = check(&(issuer(keys) + &jwt_caller("workload", "job")));
        assert_eq!(code, 0, "{keys}: {said}");
    }
}

#[test]
fn invalid_issuers_are_refused_by_field() {
    let good = |keys: &str| issuer(keys) + &jwt_caller("workload", "job");
    let no_audience = |audience: &str| good(URL).replace("audience = [\"mint-for-shop\"]\n", audience);
    for (more, field, message) in [
        (no_audience(""), "issuers.corp.audience", "is missing: name what the tokens must be issued for"),
        (no_audience("audience = []\n"), "issuers.corp.audience", "is missing"),
        (no_audience("audience = [\"\"]\n"), "issuers.corp.audience", "must not be empty"),
        (no_audience("audience = [\"a\", \"a\"]\n"), "issuers.corp.audience", "twice"),
        (good(""), "issuers.corp.jwks_url", "give exactly one of"),
        (good("discovery = false"), "issuers.corp.jwks_url", "give exactly one of"),
        (good(&format!("{URL}\ndiscovery = true")), "issuers.corp.jwks_url", "give exactly one of"),
        (good(&format!("{URL}\njwks_file = \"jwks.json\"")), "issuers.corp.jwks_url", "give exactly one of"),
        (
            good("jwks_url = \"http://login.acme.example/jwks\""),
            "issuers.corp.jwks_url",
            "must begin with https://",
        ),
        (good("jwks_url = \"https://u:p@a.example/jwks\""), "issuers.corp.jwks_url", "user name or password"),
        (
            good("discovery = true")
                .replace("acme.example\"", "acme.example/.well-known/openid-configuration\""),
            "issuers.corp.issuer",
            "holds the address of the metadata",
        ),
        (
            good("discovery = true").replace("https://login", "http://login"),
            "issuers.corp.issuer",
            "must begin with https://",
        ),
        (good(&format!("{URL}\nalgorithms = [\"none\"]")), "issuers.corp.algorithms", "must be one of RS256"),
        (good(&format!("{URL}\nalgorithms = [\"HS256\"]")), "issuers.corp.algorithms", "must not hold HS256"),
        (good(&format!("{URL}\nalgorithms = []")), "issuers.corp.algorithms", "is empty"),
        (
            good("secret_file = \"long.secret\"\nalgorithms = [\"RS256\"]"),
            "issuers.corp.algorithms",
            "must be [\"HS256\"]",
        ),
        (good("secret_file = \"short.secret\""), "issuers.corp.secret_file", "fewer than 32 bytes"),
        (good("secret_file = \"public.secret\""), "issuers.corp.secret_file", "holds PEM text"),
        (good("secret_file = \"absent.secret\""), "issuers.corp.secret_file", "names no file"),
        (
            good("jwks_file = \"empty.json\""),
            "issuers.corp.jwks_file",
            "has no key for signatures with RS256 or ES256",
        ),
        (
            good("jwks_file = \"long.secret\""),
            "issuers.corp.jwks_file",
            "isn't a JWKS: a JSON object with an array `keys`",
        ),
        (good("jwks_file = \"absent.json\""), "issuers.corp.jwks_file", "can't be"),
        (
            good("jwks_file = \"jwks.json\"\nca_file = \"jwks.json\""),
            "issuers.corp.ca_file",
            "is only for keys that are fetched",
        ),
        (good(&format!("{URL}\nca_file = \"jwks.json\"")), "issuers.corp.ca_file", "holds no certificate"),
        (
            good("secret_file = \"long.secret\"\nbearer_token_file = \"a\""),
            "issuers.corp.bearer_token_file",
            "is only for",
        ),
        (good(&format!("{URL}\nleeway = \"6m\"")), "issuers.corp.leeway", "between 0s and 5m"),
        (good(&format!("{URL}\nmax_age = \"0s\"")), "issuers.corp.max_age", "between 1s and 24h"),
        (good(&format!("{URL}\nsecret = \"x\"")), "issuers.corp.secret", "unknown key"),
        (
            good(URL).replace("jwt_issuer = \"corp\"", "jwt_issuer = \"other\""),
            "callers.workload.jwt_issuer",
            "isn't an issuer; defined: `issuers.corp`",
        ),
        (good(URL).replace("jwt_issuer = \"corp\"\n", ""), "callers.workload.jwt_issuer", "is missing"),
        (
            good(URL).replace("jwt_claims = { sub = [\"job\"] }\n", ""),
            "callers.workload.jwt_claims",
            "must name `sub`",
        ),
        (
            good(URL).replace("{ sub = [\"job\"] }", "{ email = [\"a\"] }"),
            "callers.workload.jwt_claims",
            "must name `sub`",
        ),
        (good(URL).replace("[\"job\"]", "[]"), "callers.workload.jwt_claims.sub", "lists no value"),
        (
            good(URL).replace("[\"job\"]", "\"job\""),
            "callers.workload.jwt_claims.sub",
            "must be a list of strings, like [\"a\", \"b\"], not a string",
        ),
        (good(URL).replace("[\"job\"]", "[1]"), "callers.workload.jwt_claims.sub", "must be"),
        (good(URL) + &jwt_caller("twin", "job"), "callers", "one JWT could be both `twin` and `workload`"),
        (
            good(URL) + &jwt_caller("twin", "job").replace("\"job\"] }", "\"job\"], env = [\"prod\"] }"),
            "callers",
            "one JWT could be both",
        ),
        (good(URL) + "subject_token = \"required\"\n", "callers.workload.subject_issuer", "is missing"),
        (
            good(URL) + "subject_token = \"always\"\nsubject_issuer = \"corp\"\n",
            "callers.workload.subject_token",
            "must be",
        ),
        (
            good(URL) + "subject_issuer = \"corp\"\n",
            "callers.workload.subject_issuer",
            "needs `subject_token`",
        ),
        (
            good(URL) + "subject_token = \"required\"\nsubject_issuer = \"x\"\n",
            "callers.workload.subject_issuer",
            "isn't an issuer",
        ),
        (
            good(URL) + "subject_token = \"required\"\nsubject_issuer = \"corp\"\nsubject_claim = \"\"\n",
            "callers.workload.subject_claim",
            "must not be empty",
        ),
    ] {
        let (code, said) = check(&more);
        assert_eq!(code, 64, "{field} {message}: {said}");
        let is_it = |line: &str| line.starts_with(field) && line.contains(message);
        assert!(said.lines().any(is_it), "{field} {message}: {said}");
    }
}

/// Two names of one issuer verify the same tokens.
#[test]
fn callers_of_one_issuer_under_two_names_must_differ() {
    let second =
        |url: &str| issuer(url).replace("issuers.corp", "issuers.again").replace("mint-for-shop", "other");
    let callers = jwt_caller("a", "job") + &jwt_caller("b", "job").replace("\"corp\"", "\"again\"");
    let (code, said) = check(&(issuer(URL) + &second(URL) + &callers));
    assert!(code == 64 && said.contains("one JWT could be both `a` and `b`"), "{said}");
    let (code, said) = check(&(issuer(URL) + &second(&URL.replace("acme", "elsewhere")) + &callers));
    assert_eq!(code, 0, "{said}");
}

#[test]
fn callers_whose_claims_differ_can_share_an_issuer() {
    let callers = jwt_caller("a", "one").replace("\"one\"] }", "\"one\"], env = [\"prod\"] }")
        + &jwt_caller("b", "one").replace("\"one\"] }", "\"one\"], env = [\"test\"] }")
        + &jwt_caller("c", "two");
    let (code, said) = check(&(issuer(URL) + &callers));
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_value_that_looks_like_a_pattern_is_a_warning() {
    let (code, said) = check(&(issuer(URL) + &jwt_caller("workload", "system:serviceaccount:shop:*")));
    assert!(
        code == 0 && said.contains("callers.workload.jwt_claims.sub") && said.contains("has a `*`"),
        "{said}"
    );
}

#[test]
fn an_issuer_that_no_caller_uses_is_a_warning() {
    let (code, said) = check(&issuer(URL));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("issuers.corp") && said.contains("is used by no caller"), "{said}");
}

/// Every configuration on the pages about JWTs of other issuers.
#[test]
fn the_configurations_of_the_pages_are_accepted() {
    let base = r#"
[keysets.web]
directory = "keys/web"
[identity.web]
keyset = "web"
issuer = "intercom.com"
[oauth.crm]
keyset = "web"
consumer_key = "3MVG9.consumer"
username = "integration@acme.com"
audience = "https://login.salesforce.com"
[intercom.fin]
secret = "intercom-messenger-api-secret-0123456789"
[bundles.fin]
salesforce_identity_token = "identity.web"
intercom_user_jwt = "intercom.fin"
"#;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let operate =
        fs::read_dir(docs.join("operate")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let is_of_workloads =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("workload-"));
    let pages = operate.filter(is_of_workloads).chain([docs.join("integrate/subject-tokens.md")]);
    let mut checked = 0;
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page");
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().expect("a block").replace('…', &sha256_hex("a key"));
            let parsed =
                Config::parse("page", &(base.to_owned() + &block), PathBuf::new(), &Environment::new());
            let problems = parsed.err().map(|invalid| invalid.problems).unwrap_or_default();
            assert!(problems.is_empty(), "{}: {problems:?}", page.display());
            checked += 1;
        }
    }
    assert!(checked >= 9, "{checked}");
}
