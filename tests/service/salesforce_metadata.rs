//! `tokenmint salesforce-metadata`: the files that it writes, field by field as in the metadata reference, and the
//! differences that it finds in a retrieved project. tests/interop checks that Salesforce's own library accepts the
//! files.

use std::fs;
use std::path::{Path, PathBuf};

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Value, json};

use crate::doctor::Given;
use crate::sandbox::PAIRS;
use crate::support::Workspace;

/// The members of each type, as the Metadata API Developer Guide lists them (62.0).
const REFERENCE: [(&str, &[&str]); 6] = [
    (
        "PublicKeyCertificateSet",
        &["description", "jwksEndPoint", "jwtIssuer", "masterLabel", "publicKeyCertificateSetKeys", "type"],
    ),
    ("publicKeyCertificateSetKeys", &["publicKeyCertificate"]),
    ("PublicKeyCertificate", &["description", "isActive", "jsonWebKey", "masterLabel"]),
    ("MessagingChannel", &["embeddedConfig"]),
    ("embeddedConfig", &["authMode", "messagingAuthorizations"]),
    (
        "messagingAuthorizations",
        &["authIdentifier", "authorizationType", "enabled", "publicKeyCertificateSetName"],
    ),
];

const SET: &str = "force-app/main/default/PublicKeyCertificateSet/web.PublicKeyCertificateSet-meta.xml";
const KEY: &str = "force-app/main/default/PublicKeyCertificate/Key1.PublicKeyCertificate-meta.xml";
const CHANNEL: &str = "force-app/main/default/messagingChannels/Web.messagingChannel-meta.xml";

/// An XML element with its text or its child elements.
struct Element {
    name: String,
    namespace: Option<String>,
    text: String,
    elements: Vec<Self>,
}

impl Element {
    fn read(text: &str) -> Self {
        assert!(text.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"), "{text}");
        let mut reader = Reader::from_str(text);
        let mut open =
            vec![Self { name: String::new(), namespace: None, text: String::new(), elements: vec![] }];
        loop {
            match reader.read_event().expect("XML") {
                Event::Start(start) => {
                    let namespace = start.try_get_attribute("xmlns").expect("attributes");
                    let value = |attribute: quick_xml::events::attributes::Attribute<'_>| {
                        attribute.value.into_owned()
                    };
                    open.push(Self {
                        name: start.name().as_ref().to_owned(),
                        namespace: namespace.map(value),
                        text: String::new(),
                        elements: vec![],
                    });
                }
                Event::Text(text) => {
                    open.last_mut().expect("the root").text.push_str(&text);
                }
                Event::End(_) => {
                    let done = open.pop().expect("one is open");
                    open.last_mut().expect("the root").elements.push(done);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        open.remove(0).elements.remove(0)
    }

    fn get(&self, name: &str) -> &str {
        &self.elements.iter().find(|element| element.name == name).unwrap_or_else(|| panic!("no {name}")).text
    }

    /// Asserts that each member belongs to its type, and that they are in alphabetical order.
    fn is_as_the_reference_has_it(&self) {
        let Some((_, members)) = REFERENCE.iter().find(|(name, _)| *name == self.name) else {
            return assert!(self.elements.is_empty(), "{} is no type", self.name);
        };
        let names: Vec<&str> = self.elements.iter().map(|element| element.name.as_str()).collect();
        assert!(names.iter().all(|name| members.contains(name)), "{}: {names:?}", self.name);
        assert!(names.is_sorted(), "{}: {names:?}", self.name);
        self.elements.iter().for_each(Self::is_as_the_reference_has_it);
    }
}

fn write(workspace: &Workspace, arguments: &[&str]) -> Vec<String> {
    let all: Vec<&str> =
        ["salesforce-metadata", "--out", "project", "--json"].iter().chain(arguments).copied().collect();
    let said = workspace.run(&all).json();
    let paths = said["written"].as_array().expect("paths").iter().map(|path| path.as_str().expect("a path"));
    paths.map(|path| path.strip_prefix("project/").expect("in the project").to_owned()).collect()
}

fn read(workspace: &Workspace, path: &str) -> String {
    fs::read_to_string(workspace.path("project").join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn element(workspace: &Workspace, path: &str) -> Element {
    let element = Element::read(&read(workspace, path));
    assert_eq!(element.namespace.as_deref(), Some("http://soap.sforce.com/2006/04/metadata"));
    element.is_as_the_reference_has_it();
    element
}

/// The exit code and the differences of a comparison.
fn compare(workspace: &Workspace, arguments: &[&str]) -> (i32, Vec<Value>) {
    let all: Vec<&str> =
        ["salesforce-metadata", "--diff", "project", "--json"].iter().chain(arguments).copied().collect();
    let ran = workspace.run(&all);
    let said: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stderr));
    assert_eq!(said["ok"], ran.code() == 0);
    (ran.code(), said["differences"].as_array().expect("differences").clone())
}

#[test]
fn a_keyset_with_a_public_address_is_a_set_with_that_endpoint() {
    let workspace = Given::configured(&[]).workspace;
    let written = write(&workspace, &[]);
    assert_eq!(
        written,
        [SET, "fragments/web.messagingChannel.xml", "manifest/package.xml", "sfdx-project.json"]
    );
    let set = element(&workspace, SET);
    assert_eq!(set.name, "PublicKeyCertificateSet");
    assert_eq!(set.get("type"), "JWKS_URL");
    assert_eq!(set.get("jwksEndPoint"), "https://tokens.acme.example/keysets/web/jwks.json");
    assert_eq!(set.get("jwtIssuer"), "https://acme.example");
    let channel = element(&workspace, "fragments/web.messagingChannel.xml");
    let [config] = channel.elements.as_slice() else { panic!("one embeddedConfig") };
    let [mode, authorization] = config.elements.as_slice() else { panic!("a mode and an authorization") };
    assert_eq!(mode.text, "Auth");
    assert_eq!(authorization.get("authorizationType"), "PublicKeyCertificateSet");
    assert_eq!(authorization.get("publicKeyCertificateSetName"), "web");
    assert_eq!(
        (authorization.get("authIdentifier"), authorization.get("enabled")),
        ("web_Verification", "true")
    );
    let project: Value = serde_json::from_str(&read(&workspace, "sfdx-project.json")).expect("JSON");
    assert_eq!(project["packageDirectories"][0], json!({"path": "force-app", "default": true}));
    assert!(!read(&workspace, "manifest/package.xml").contains("MessagingChannel"));
}

/// The key that signs, and the next one, which is published ahead.
#[test]
fn uploaded_keys_are_active_certificates_with_the_jwk_that_tokenmint_prints() {
    let workspace = Given::configured(&[]).workspace;
    let other = crate::support::KEYS.web.clone();
    workspace.write_key("keys/identity/2027-01.acme.key", &other);
    let schedule = "[[key]]\nkid = \"Key1\"\nsign_from = 2026-01-01T00:00:00Z\n\
                    [[key]]\nkid = \"2027-01.acme\"\nsign_from = 2099-01-01T00:00:00Z\n";
    workspace.write("keys/identity/keyset.toml", schedule);
    let written = write(&workspace, &["--upload", "--configuration-name", "Web_Users"]);
    let second = "force-app/main/default/PublicKeyCertificate/Key_2027_01_acme.PublicKeyCertificate-meta.xml";
    assert_eq!(written[..3], [KEY, second, SET]);
    for (path, kid) in [(KEY, "Key1"), (second, "2027-01.acme")] {
        let key = element(&workspace, path);
        assert_eq!(key.get("isActive"), "true");
        let jwk: Value = serde_json::from_str(key.get("jsonWebKey")).expect("a JWK");
        assert_eq!(jwk, workspace.run(&["jwk", kid]).json());
        assert!(["d", "p", "q", "dp", "dq", "qi"].iter().all(|name| jwk.get(name).is_none()), "{jwk}");
    }
    let set = element(&workspace, SET);
    assert_eq!(set.get("type"), "JWKS");
    let keys = set.elements.iter().filter(|element| element.name == "publicKeyCertificateSetKeys");
    let names: Vec<&str> = keys.map(|key| key.get("publicKeyCertificate")).collect();
    assert_eq!(names, ["Key1", "Key_2027_01_acme"]);
    assert!(read(&workspace, "fragments/web.messagingChannel.xml").contains("<authIdentifier>Web_Users<"));
    assert_eq!(compare(&workspace, &["--upload"]), (0, Vec::new()));
}

#[test]
fn a_second_export_updates_its_components_and_keeps_the_project_s_own_files() {
    let workspace = Given::configured(&[]).workspace;
    workspace.write("project/sfdx-project.json", "{}");
    workspace.write("project/manifest/package.xml", "<mine/>");
    workspace.write(&format!("project/{SET}"), "<old/>");
    assert_eq!(write(&workspace, &[]), [SET, "fragments/web.messagingChannel.xml"]);
    assert_eq!(read(&workspace, "sfdx-project.json"), "{}");
    assert_eq!(read(&workspace, "manifest/package.xml"), "<mine/>");
    assert_eq!(element(&workspace, SET).get("type"), "JWKS_URL");
}

/// A project as retrieved from an org, with its channel.
fn retrieved(arguments: &[&str]) -> Workspace {
    let workspace = Given::configured(&[]).workspace;
    write(&workspace, arguments);
    let fragment = read(&workspace, "fragments/web.messagingChannel.xml");
    let more = "<MessagingChannel xmlns=\"http://soap.sforce.com/2006/04/metadata\">\n    <automatedResponses>\n        \
                <type>InitialResponse</type>\n    </automatedResponses>";
    let opening = "<MessagingChannel xmlns=\"http://soap.sforce.com/2006/04/metadata\">";
    workspace.write(&format!("project/{CHANNEL}"), &fragment.replace(opening, more));
    workspace
}

/// Each row: a file, a replacement in it, and the one difference: the field, the value there, and the kind of
/// difference.
type Change<'a> = (&'a str, &'a str, &'a str, &'a str, Value, Value);

#[track_caller]
fn differs(arguments: &[&str], (path, from, to, field, retrieved, in_what): &Change<'_>) {
    let workspace = self::retrieved(arguments);
    let text = read(&workspace, path);
    assert!(text.contains(from), "{from} in {text}");
    workspace.write(&format!("project/{path}"), &text.replace(from, to));
    let (code, differences) = compare(&workspace, arguments);
    let [difference] = differences.as_slice() else { panic!("{to}: not one difference: {differences:#?}") };
    assert_eq!(code, 1);
    assert_eq!(difference["field"], *field, "{difference}");
    assert_eq!(difference["retrieved"], *retrieved, "{difference}");
    assert_eq!(difference.get("in_what").unwrap_or(&Value::Null), in_what, "{difference}");
}

#[test]
fn a_retrieved_endpoint_is_compared_byte_for_byte() {
    assert_eq!(compare(&retrieved(&[]), &[]), (0, Vec::new()));
    let nothing = Value::Null;
    let changes: [Change<'_>; 7] = [
        (
            SET,
            "acme.example</jwt",
            "acme.example/</jwt",
            "jwtIssuer",
            json!("https://acme.example/"),
            json!("a slash at the end"),
        ),
        (
            SET,
            "https://acme.example<",
            "https://Acme.example<",
            "jwtIssuer",
            json!("https://Acme.example"),
            json!("upper and lower case"),
        ),
        (
            SET,
            "https://acme.example<",
            "https://acme.example <",
            "jwtIssuer",
            json!("https://acme.example "),
            json!("white space"),
        ),
        (
            SET,
            "/keysets/web/",
            "/keysets/old/",
            "jwksEndPoint",
            json!("https://tokens.acme.example/keysets/old/jwks.json"),
            nothing.clone(),
        ),
        (CHANNEL, "<enabled>true", "<enabled>false", "enabled", json!("false"), nothing.clone()),
        (CHANNEL, ">Auth<", ">UnAuth<", "authMode", json!("UnAuth"), nothing.clone()),
        (CHANNEL, "SetName>web", "SetName>other", "messagingAuthorizations", nothing.clone(), nothing),
    ];
    for change in &changes {
        differs(&[], change);
    }
}

#[test]
fn retrieved_uploaded_keys_are_compared_byte_for_byte() {
    assert_eq!(compare(&retrieved(&["--upload"]), &["--upload"]), (0, Vec::new()));
    let [ours, other] = [0, 1].map(|at| PAIRS[at].jwk("Key1")["n"].as_str().expect("text").to_owned());
    let changes: [Change<'_>; 4] = [
        (KEY, "\"Key1\"", "\"key1\"", "kid", json!("key1"), json!("upper and lower case")),
        (KEY, "\"Key1\"", "\"Key1 \"", "kid", json!("Key1 "), json!("white space")),
        (KEY, "<isActive>true</isActive>", "", "isActive", json!("false"), Value::Null),
        (KEY, &ours, &other, "jsonWebKey", Value::Null, json!("another key")),
    ];
    for change in &changes {
        differs(&["--upload"], change);
    }
}

type JwkChange = Box<dyn Fn(&mut Value)>;

/// Replaces the JWK of the uploaded key by `change` of it, and returns the differences as text.
fn with_jwk(change: impl Fn(&mut Value)) -> String {
    let workspace = retrieved(&["--upload"]);
    let text = read(&workspace, KEY);
    let (before, rest) = text.split_once("<jsonWebKey>").expect("a JWK");
    let (jwk, after) = rest.split_once("</jsonWebKey>").expect("a JWK");
    let mut jwk = serde_json::from_str(jwk).expect("JSON");
    change(&mut jwk);
    workspace.write(&format!("project/{KEY}"), &format!("{before}<jsonWebKey>{jwk}</jsonWebKey>{after}"));
    let ran = workspace.run(&["salesforce-metadata", "--upload", "--diff", "project"]);
    assert_eq!(ran.code(), i32::from(!ran.stdout.contains("matches")), "{}", ran.stdout);
    ran.stdout
}

/// Salesforce accepts an upload that no token then verifies with.
#[test]
fn a_retrieved_jwk_is_compared_member_by_member_and_checked_like_the_doctor_does() {
    let unchanged = with_jwk(|_| {});
    assert!(unchanged.contains("matches the configuration"), "{unchanged}");
    let other = PAIRS[1].jwk("Key1")["x5c"].clone();
    let garbled = |jwk: &mut Value| {
        let text = jwk["x5c"][0].as_str().expect("text").replacen("MII", "MIIX", 1);
        jwk["x5c"][0] = json!(text);
    };
    let wrapped = |jwk: &mut Value| *jwk = json!([jwk.take()]);
    let set = |name: &'static str, value: Value| move |jwk: &mut Value| jwk[name] = value.clone();
    let without = |name: &'static str| {
        move |jwk: &mut Value| {
            jwk.as_object_mut().expect("an object").remove(name);
        }
    };
    let cases: [(&str, JwkChange); 10] = [
        ("alg is `RS512`, and `RS256` here", Box::new(set("alg", json!("RS512")))),
        ("use is `enc`, and `sig` here", Box::new(set("use", json!("enc")))),
        ("kty is `EC`, and `RSA` here", Box::new(set("kty", json!("EC")))),
        ("alg is ``, and `RS256` here", Box::new(without("alg"))),
        ("has no `x5c`", Box::new(without("x5c"))),
        ("`x5c` ", Box::new(garbled)),
        ("certificate", Box::new(set("x5c", other))),
        ("private members of the key: `d`", Box::new(set("d", json!("A".repeat(342))))),
        ("is an array of keys", Box::new(wrapped)),
        ("another key", Box::new(set("n", json!("AQAB")))),
    ];
    for (expected, change) in cases {
        let said = with_jwk(change);
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_file_with_another_root_element_or_two_is_rejected() {
    for (from, to, expected) in [
        (
            "PublicKeyCertificateSet ",
            "Foo ",
            "has the root element `Foo`, and its name says PublicKeyCertificateSet",
        ),
        (
            "</PublicKeyCertificateSet>",
            "</PublicKeyCertificateSet><PublicKeyCertificateSet/>",
            "more than one root",
        ),
    ] {
        let workspace = retrieved(&["--upload"]);
        let text = read(&workspace, SET).replace(from, to);
        let text = if from == "PublicKeyCertificateSet " {
            text.replace("</PublicKeyCertificateSet>", "</Foo>")
        } else {
            text
        };
        workspace.write(&format!("project/{SET}"), &text);
        let ran = workspace.run(&["salesforce-metadata", "--upload", "--diff", "project"]);
        assert_eq!(ran.code(), 1, "{to}: {}", ran.stdout);
        assert!(ran.stderr.contains(SET) && ran.stderr.contains(expected), "{}", ran.stderr);
    }
}

#[test]
fn a_second_export_deactivates_the_keys_that_are_gone_and_no_others() {
    let workspace = Given::configured(&[]).workspace;
    write(&workspace, &["--upload"]);
    // Another team's key, and keys of other configurations in the same project, one with its set.
    let theirs = read(&workspace, KEY).replace("Made by tokenmint from its configuration", "Made by hand");
    workspace.write(&format!("project/{}", KEY.replace("Key1.", "Hand.")), &theirs);
    for other in ["Other.", "Shop."] {
        workspace.write(&format!("project/{}", KEY.replace("Key1.", other)), &read(&workspace, KEY));
    }
    let shop =
        read(&workspace, SET).replace(">Key1<", ">Shop<").replace("https://acme.example", "shop.example");
    workspace.write(&format!("project/{}", SET.replace("web.", "shop.")), &shop);
    workspace.write_key("keys/identity/Key2.key", &crate::support::KEYS.web);
    let schedule = "[[key]]\nkid = \"Key2\"\nsign_from = 2026-01-01T00:00:00Z\n";
    workspace.write("keys/identity/keyset.toml", schedule);
    fs::remove_file(workspace.path("keys/identity/Key1.key")).expect("it was there");
    let _ = fs::remove_file(workspace.path("keys/identity/Key1.crt"));
    let written = write(&workspace, &["--upload"]);
    assert!(written.contains(&KEY.to_owned()), "{written:?}");
    assert_eq!(element(&workspace, KEY).get("isActive"), "false");
    for kept in ["Key2.", "Hand.", "Other.", "Shop."] {
        assert_eq!(element(&workspace, &KEY.replace("Key1.", kept)).get("isActive"), "true", "{kept}");
    }
    let warned = workspace.run(&["salesforce-metadata", "--upload", "--out", "project"]);
    assert!(
        warned.stderr.contains("shop.PublicKeyCertificateSet-meta.xml is of another run"),
        "{}",
        warned.stderr
    );
    // These keys are in no keyset, active, and not published.
    let (_, differences) = compare(&workspace, &["--upload"]);
    let files: Vec<&str> = differences.iter().map(|found| found["file"].as_str().expect("a file")).collect();
    assert_eq!(files, ["Hand.", "Other."].map(|name| KEY.replace("Key1.", name)), "{differences:#?}");
}

#[test]
fn a_renamed_certificate_set_is_matched_by_its_content() {
    for arguments in [&[][..], &["--upload"]] {
        let workspace = retrieved(arguments);
        let rename = |from: &str, to: &str| {
            let folder = workspace.path("project");
            fs::rename(folder.join(from), folder.join(to)).expect("renamed");
        };
        rename(SET, &SET.replace("web.", "Chat_Keys."));
        let channel = read(&workspace, CHANNEL).replace("SetName>web", "SetName>Chat_Keys");
        workspace.write(&format!("project/{CHANNEL}"), &channel);
        // In the format of the Metadata API instead of the source format.
        let mdapi = |path: &Path| {
            path.with_file_name(
                path.file_name().and_then(|n| n.to_str()).expect("a name").replace("-meta.xml", ""),
            )
        };
        rename(CHANNEL, mdapi(&PathBuf::from(CHANNEL)).to_str().expect("a path"));
        assert_eq!(compare(&workspace, arguments), (0, Vec::new()));
    }
}

#[test]
fn missing_and_surplus_components_are_reported() {
    let workspace = retrieved(&["--upload"]);
    fs::remove_file(workspace.path("project").join(SET)).expect("it was there");
    let (code, differences) = compare(&workspace, &["--upload"]);
    assert_eq!((code, &differences[0]["field"]), (1, &json!("PublicKeyCertificateSet")));

    let workspace = retrieved(&["--upload"]);
    let old = read(&workspace, KEY).replace("\"Key1\"", "\"Key0\"").replace(
        PAIRS[0].jwk("Key1")["n"].as_str().expect("text"),
        PAIRS[1].jwk("Key1")["n"].as_str().expect("text"),
    );
    workspace.write(&format!("project/{}", KEY.replace("Key1.", "Key0.")), &old);
    let set = read(&workspace, SET);
    let reference = "<publicKeyCertificateSetKeys><publicKeyCertificate>Key0</publicKeyCertificate>\
                     </publicKeyCertificateSetKeys>";
    workspace.write(
        &format!("project/{SET}"),
        &set.replacen(
            "<publicKeyCertificateSetKeys>",
            &format!("{reference}<publicKeyCertificateSetKeys>"),
            1,
        ),
    );
    let (_, differences) = compare(&workspace, &["--upload"]);
    let [difference] = differences.as_slice() else { panic!("{differences:#?}") };
    assert_eq!((&difference["retrieved"], &difference["configured"]), (&json!("Key0"), &Value::Null));

    let workspace = retrieved(&["--upload"]);
    fs::remove_file(workspace.path("project").join(KEY)).expect("it was there");
    let (_, differences) = compare(&workspace, &["--upload"]);
    let fields: Vec<&Value> = differences.iter().map(|difference| &difference["field"]).collect();
    assert_eq!(fields, ["kid", "publicKeyCertificate"]);
}

#[test]
fn the_text_output_names_each_difference() {
    let workspace = retrieved(&[]);
    let text = read(&workspace, SET).replace("acme.example</jwt", "acme.example/</jwt");
    workspace.write(&format!("project/{SET}"), &text);
    let ran = workspace.run(&["salesforce-metadata", "--diff", "project"]);
    assert_eq!(ran.code(), 1);
    let expected =
        "jwtIssuer is `https://acme.example/`, and `https://acme.example` here (a slash at the end)";
    assert!(ran.stdout.contains(expected) && ran.stdout.ends_with("1 difference\n"), "{}", ran.stdout);
    workspace.write(&format!("project/{SET}"), "<PublicKeyCertificateSet><type>");
    let ran = workspace.run(&["salesforce-metadata", "--diff", "project"]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stderr.contains(SET), "{}", ran.stderr);
}

#[test]
fn two_issuers_of_one_keyset_are_two_sets_with_the_same_keys() {
    let second = "[identity.app]\nkeyset = \"web\"\nissuer = \"app.example\"\n[oauth.crm]";
    let workspace = Given::configured(&[("[oauth.crm]", second)]).workspace;
    let written = write(&workspace, &["--upload"]);
    let sets: Vec<&str> = written.iter().filter_map(|path| path.split("CertificateSet/").nth(1)).collect();
    assert_eq!(
        sets,
        ["web_app.PublicKeyCertificateSet-meta.xml", "web_web.PublicKeyCertificateSet-meta.xml"]
    );
    assert_eq!(written.iter().filter(|path| path.contains("/PublicKeyCertificate/")).count(), 1);
    assert_eq!(element(&workspace, &SET.replace("web.", "web_app.")).get("jwtIssuer"), "app.example");
    assert_eq!(compare(&workspace, &["--upload"]), (0, Vec::new()));
}

#[test]
fn the_command_that_deploys_can_be_pasted() {
    let said = Given::configured(&[]).workspace.run(&["salesforce-metadata", "--out", "my project"]).ok();
    assert!(said.contains("(cd 'my project' && sf project deploy start)"), "{said}");
}

#[test]
fn components_that_cannot_be_deployed_are_not_written() {
    let refused = |workspace: &Workspace, code: i32, why: &str| {
        let ran = workspace.run(&["salesforce-metadata", "--out", "project"]);
        assert_eq!(ran.code(), code);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
        assert!(!workspace.path("project").exists());
    };
    let plain = Given::configured(&[("https://tokens.acme.example", "http://localhost:8443")]).workspace;
    refused(&plain, 2, "Salesforce fetches keys over https only");
    let alike = "[keysets.We-B]\ndirectory = \"keys/other\"\n[keysets.we_b]\ndirectory = \"keys/third\"\n\
                 [identity.a]\nkeyset = \"We-B\"\nissuer = \"a\"\n[identity.b]\nkeyset = \"we_b\"\nissuer = \"b\"\n[oauth.crm]";
    let alike = Given::configured(&[("[oauth.crm]", alike)]).workspace;
    alike.write_key("keys/other/Other.key", &crate::support::KEYS.web);
    alike.write_key("keys/third/Third.key", &crate::support::KEYS.web512);
    refused(&alike, 1, "would both be called we_b in Salesforce");
    let ran = alike.run(&["salesforce-metadata"]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr.contains("--out <DIR>|--diff <DIR>"), "{}", ran.stderr);
    let ran = alike.run(&["salesforce-metadata", "--out", "project", "--configuration-name", "Web Users"]);
    assert_eq!(ran.code(), 2);
}
