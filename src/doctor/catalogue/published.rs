//! Catalogue entries (title, symptom, fix) of the checks of JWKs, JWK Sets and copied text; the functions are in
//! `checks::published`.

use crate::doctor::check_spec::EvidenceSource::{Doc, Rfc};
use crate::doctor::check_spec::{CheckSpec, Requirement};
use crate::doctor::checks::published;

const KEY_UPLOAD: &str = "Salesforce asks: Does your key follow the JWK structure?";

pub(super) const CHECKS: &[CheckSpec] = &[
    CheckSpec {
        id: "text",
        title: "A JWK or JWT has no other text around it",
        symptom: "the key fails to upload, or the token is rejected",
        question: "Was it copied whole and bare? Salesforce's utility prints `JWK : ` and `JWT : ` before its output",
        fix: "copy the JSON from its first `{` to its last `}`, or the token alone",
        source: Doc,
        online: false,
        requires: Requirement::Token,
        run: published::text,
    },
    CheckSpec {
        id: "jwk-single",
        title: "One JWK is uploaded at a time",
        symptom: "the key fails to upload",
        question: "Salesforce asks: Did you upload each key individually? You can't upload the keys in one single JSON \
                  array",
        fix: "upload the output of `tokenmint jwk KID`, once for each key. The set (`tokenmint jwks`) is what an \
              Endpoint URL shows; to check one, use --jwks",
        source: Doc,
        online: false,
        requires: Requirement::UploadedJwk,
        run: published::jwk_single,
    },
    CheckSpec {
        id: "jwk-members",
        title: "A JWK has what Salesforce needs",
        symptom: "the key fails to upload",
        question: "Salesforce asks: Does your key include these required properties: kty, kid, alg, x5c?",
        fix: "take the output of `tokenmint jwk KID`",
        source: Doc,
        online: false,
        requires: Requirement::Jwk,
        run: published::jwk_members,
    },
    CheckSpec {
        id: "jwk-numbers",
        title: "`n` and `e` are base64url",
        symptom: "no signature verifies: every chat is unverified",
        question: "Salesforce asks: Are the `n` (modulus) and `e` (exponent) properties of the key Base64 URL encoded?",
        fix: "base64url without padding and without a leading zero octet (RFC 7518, section 6.3.1.1): `-` and `_` in \
              place of `+` and `/`, no `=`; or take the output of `tokenmint jwk KID`",
        source: Doc,
        online: false,
        requires: Requirement::Numbers,
        run: published::jwk_numbers,
    },
    CheckSpec {
        id: "jwk-x5c",
        title: "A JWK carries its certificate",
        symptom: "the key uploads, and every chat is unverified, with no error",
        question: "Salesforce asks: Does your key include these required properties: … x5c?",
        fix: "make a self-signed certificate from the same key and add it; `tokenmint jwk KID` does both",
        source: Doc,
        online: false,
        requires: Requirement::Jwk,
        run: published::jwk_x5c,
    },
    CheckSpec {
        id: "jwk-x5c-form",
        title: "`x5c` is plain base64 of a certificate",
        symptom: "the key fails to upload, or every chat is unverified",
        question: "Salesforce asks: Is the string in the x5c parameter base64-encoded?",
        fix: "an array with the certificate's DER in plain base64 (RFC 7517, section 4.7): the PEM file without its \
              first and last line and without line breaks",
        source: Doc,
        online: false,
        requires: Requirement::X5c,
        run: published::jwk_x5c_form,
    },
    CheckSpec {
        id: "jwk-thumbprint",
        title: "`x5t` and `x5t#S256` are of its certificate",
        symptom: "a strict parser refuses the key",
        question: "Is `x5t` the SHA-1, and `x5t#S256` the SHA-256 of the certificate's DER, in base64url (RFC 7517, \
                  sections 4.8 and 4.9)?",
        fix: "leave both out, because nobody needs them, or take the output of `tokenmint jwk KID`",
        source: Rfc,
        online: false,
        requires: Requirement::Thumbprint,
        run: published::jwk_thumbprint,
    },
    CheckSpec {
        id: "jwk-placeholders",
        title: "A JWK has no members of other kinds of key",
        symptom: "a strict parser or a scanner says that a private key is published",
        question: KEY_UPLOAD,
        fix: "Setup takes it, and nothing has leaked. For anybody else leave out `y`, `crv`, `d` and `k`: \
              `tokenmint jwk KID`",
        source: Doc,
        online: false,
        requires: Requirement::PublicJwk,
        run: published::jwk_placeholders,
    },
    CheckSpec {
        id: "jwk-private",
        title: "A JWK holds no private key",
        symptom: "nothing, until somebody signs in as your customers",
        question: "Salesforce asks: Are you generating the keys using the public certificate? Don't use the private \
                  certificate",
        fix: "treat the key as leaked: make another (`tokenmint keys new`), upload its public JWK (`tokenmint jwk \
              KID`), and delete this one in Setup > Enhanced Chat User Verification > Keys",
        source: Doc,
        online: false,
        requires: Requirement::Jwk,
        run: published::jwk_private,
    },
    CheckSpec {
        id: "jwk-distinct",
        title: "Each key of a set has an id of its own",
        symptom: "some tokens verify and some don't",
        question: "Do different keys have different `kid`s (RFC 7517, section 4.5)?",
        fix: "give one of the keys another id, in its JWK and in the tokens that it signs",
        source: Rfc,
        online: false,
        requires: Requirement::JwkSet,
        run: published::jwk_distinct,
    },
];
