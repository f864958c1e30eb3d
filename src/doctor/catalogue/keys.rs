//! Catalogue entries (title, symptom, fix) of the checks of keys and certificates; the functions are in `checks::keys`.

use crate::doctor::check_spec::EvidenceSource::{Doc, Field, Own, Rfc};
use crate::doctor::check_spec::{CheckSpec, Requirement};
use crate::doctor::checks::{keys, stores};

pub(super) const CHECKS: &[CheckSpec] = &[
    CheckSpec {
        id: "key-form",
        title: "A private key is readable",
        symptom: "`invalid assertion`, `ASN.1 parsing error`, or tokenmint doesn't start",
        question: "Is it the private key, as PEM, with real line breaks?",
        fix: "give the private key as PEM: PKCS#8 (BEGIN PRIVATE KEY) or PKCS#1 (BEGIN RSA PRIVATE KEY). \
              Salesforce's own utility reads PKCS#8 only: `openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW`",
        source: Field,
        online: false,
        requires: Requirement::Key,
        run: keys::key_form,
    },
    CheckSpec {
        id: "key-strength",
        title: "A key is RSA of 2048 bits or more",
        symptom: "the key fails to upload, or every token is rejected",
        question: "Is it an RSA key that RS256 allows (RFC 7518, section 3.3)?",
        fix: "make another: `tokenmint keys new KID`, or `openssl genpkey -algorithm RSA -pkeyopt \
              rsa_keygen_bits:2048`, and upload its JWK and certificate",
        source: Doc,
        online: false,
        requires: Requirement::Key,
        run: keys::key_strength,
    },
    CheckSpec {
        id: "key-file-mode",
        title: "Only its owner can read a private key",
        symptom: "nothing, until somebody signs in as your customers",
        question: "Who else can read the key?",
        fix: "chmod 600; if others may have read it, make another key",
        source: Own,
        online: false,
        requires: Requirement::PrivateKey,
        run: keys::key_file_mode,
    },
    CheckSpec {
        id: "stores",
        title: "tokenmint is logged in to each store of keys",
        symptom: "503 `temporarily_unavailable` for the tokens of some keysets",
        question: "Does each store of `sealed_by` and `signed_by` answer, and until when does the login last?",
        fix: "start or unseal the store, or renew tokenmint's token or policy there: docs/operate/runbooks.md, \"A store of keys is \
              away\", has the cause of each reason",
        source: Own,
        online: false,
        requires: Requirement::Stores,
        run: stores::logins,
    },
    CheckSpec {
        id: "remote-keys",
        title: "The store signs with the keys of each keyset that has `signed_by`",
        symptom: "503 `temporarily_unavailable` for the tokens of that keyset",
        question: "Does the store have each `remote` key of keyset.toml, is it an RSA key, and does it sign?",
        fix: "write in keyset.toml the name and the version that the store has (`remote`); allow tokenmint to read the public key and to sign: \
              docs/operate/remote-signing.md has the policy",
        source: Own,
        online: false,
        requires: Requirement::RemoteKeysets,
        run: stores::remote_keys,
    },
    CheckSpec {
        id: "sealed-keys",
        title: "The store opens the sealed keys of each keyset",
        symptom: "503 `temporarily_unavailable` for every token after a start, and `/readyz` says `keys are unavailable`",
        question: "Does the store of `sealed_by` answer, and does it open each KID.key.sealed?",
        fix: "unseal or start the store, or renew tokenmint's token or policy there: docs/operate/runbooks.md, \"A store of keys is \
              away\", has the cause of each reason",
        source: Own,
        online: false,
        requires: Requirement::SealedKeysets,
        run: stores::sealed_keys,
    },
    CheckSpec {
        id: "signing-key",
        title: "Each keyset has a key that signs now",
        symptom: "503 `temporarily_unavailable` for every token",
        question: "Does a key sign now?",
        fix: "in keyset.toml give one key a `sign_from` that has passed; `tokenmint keys list` shows all dates",
        source: Own,
        online: false,
        requires: Requirement::Keysets,
        run: keys::signing_key,
    },
    CheckSpec {
        id: "key-pair",
        title: "Private key, JWK and certificate are one pair",
        symptom: "every chat is unverified, or `invalid assertion`",
        question: "Salesforce asks: Is the JWKS for the private key used to sign the JWT?",
        fix: "make JWK and certificate from the key that signs (`tokenmint jwk KID`) and upload them: Setup > \
              Enhanced Chat User Verification > Keys > New Key; for OAuth Setup > External Client App Manager > \
              the app > OAuth settings",
        source: Doc,
        online: false,
        requires: Requirement::Pair,
        run: keys::key_pair,
    },
    CheckSpec {
        id: "separate-keys",
        title: "Identity tokens and OAuth assertions have keys of their own",
        symptom: "nothing, until one leak exposes both",
        question: "Are different kinds of JWT signed by different keys (RFC 8725, section 3.12)?",
        fix: "a keyset for each: `tokenmint keys new KID --directory keys/crm`, [keysets.crm], and `keyset = \"crm\"` \
              in the [oauth] profiles; upload the new certificate to the app",
        source: Rfc,
        online: false,
        requires: Requirement::TwoKinds,
        run: keys::separate_keys,
    },
    CheckSpec {
        id: "certificate-form",
        title: "A certificate is readable",
        symptom: "the certificate fails to upload",
        question: "Salesforce asks: Is your certificate valid? (`keytool -printcert` must print it)",
        fix: "make it from the key: `openssl req -x509 -new -key KEY -days 1095 -subj /CN=NAME -out CRT`, or leave \
              it out and tokenmint derives one",
        source: Doc,
        online: false,
        requires: Requirement::Certificate,
        run: keys::certificate_form,
    },
    CheckSpec {
        id: "certificate-dates",
        title: "A certificate is valid, for ten days at least",
        symptom: "the key fails to upload; later, every chat is unverified",
        question: "Salesforce asks: Has the certificate expired? The certificate must be valid for at least 10 days",
        fix: "make a new certificate for the same key (remove KID.crt and tokenmint derives one), and upload the JWK \
              anew: Setup > Enhanced Chat User Verification > Keys; for OAuth upload the certificate: Setup > External \
              Client App Manager > the app > OAuth settings",
        source: Doc,
        online: false,
        requires: Requirement::Certificate,
        run: keys::certificate_dates,
    },
    CheckSpec {
        id: "app-certificate",
        title: "A certificate fits an app's upload",
        symptom: "the app refuses the certificate",
        question: "Is it at most 4 KB, and valid for a few years, not forever?",
        fix: "make it from a key of 2048 bits and without a chain: `tokenmint keys new`",
        source: Field,
        online: false,
        requires: Requirement::Certificate,
        run: keys::app_certificate,
    },
];
