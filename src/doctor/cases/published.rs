//! What is wrong with a JWK or a JWK Set, and with how a text was copied.

use crate::doctor::case::Source::{Doc, Rfc};
use crate::doctor::case::{Case, Needs};
use crate::doctor::checks::published;

const KEY_UPLOAD: &str = "Salesforce asks: Does your key follow the JWK structure?";

pub(super) const CASES: &[Case] = &[
    Case {
        id: "text",
        title: "A JWK or JWT is that and nothing else",
        sees: "the key fails to upload, or the token isn't taken",
        answers: "Was it copied whole and bare? Salesforce's utility prints `JWK : ` and `JWT : ` before its output",
        fix: "copy the JSON from its first `{` to its last `}`, or the token alone",
        source: Doc,
        online: false,
        needs: Needs::Token,
        check: published::text,
    },
    Case {
        id: "jwk-single",
        title: "One JWK is uploaded at a time",
        sees: "the key fails to upload",
        answers: "Salesforce asks: Did you upload each key individually? You can't upload the keys in one single JSON \
                  array",
        fix: "upload the output of `tokenmint jwk KID`, once for each key. The set (`tokenmint jwks`) is what an \
              Endpoint URL shows; to check one, use --jwks",
        source: Doc,
        online: false,
        needs: Needs::UploadedJwk,
        check: published::single,
    },
    Case {
        id: "jwk-members",
        title: "A JWK has what Salesforce needs",
        sees: "the key fails to upload",
        answers: "Salesforce asks: Does your key include these required properties: kty, kid, alg, x5c?",
        fix: "take the output of `tokenmint jwk KID`",
        source: Doc,
        online: false,
        needs: Needs::Jwk,
        check: published::members,
    },
    Case {
        id: "jwk-numbers",
        title: "`n` and `e` are base64url",
        sees: "no signature verifies: every chat is a guest's",
        answers: "Salesforce asks: Are the `n` (modulus) and `e` (exponent) properties of the key Base64 URL encoded?",
        fix: "base64url without padding and without a leading zero octet (RFC 7518, section 6.3.1.1): `-` and `_` in \
              place of `+` and `/`, no `=`; or take the output of `tokenmint jwk KID`",
        source: Doc,
        online: false,
        needs: Needs::Numbers,
        check: published::numbers,
    },
    Case {
        id: "jwk-x5c",
        title: "A JWK carries its certificate",
        sees: "the key uploads, and every chat is a guest's, with no error",
        answers: "Salesforce asks: Does your key include these required properties: … x5c?",
        fix: "make a self-signed certificate from the same key and add it; `tokenmint jwk KID` does both",
        source: Doc,
        online: false,
        needs: Needs::Jwk,
        check: published::x5c_missing,
    },
    Case {
        id: "jwk-x5c-form",
        title: "`x5c` is plain base64 of a certificate",
        sees: "the key fails to upload, or every chat is a guest's",
        answers: "Salesforce asks: Is the string in the x5c parameter base64-encoded?",
        fix: "an array with the certificate's DER in plain base64 (RFC 7517, section 4.7): the PEM file without its \
              first and last line and without line breaks",
        source: Doc,
        online: false,
        needs: Needs::X5c,
        check: published::x5c_form,
    },
    Case {
        id: "jwk-thumbprint",
        title: "`x5t` and `x5t#S256` are of its certificate",
        sees: "a strict parser refuses the key",
        answers: "Is `x5t` the SHA-1, and `x5t#S256` the SHA-256 of the certificate's DER, in base64url (RFC 7517, \
                  sections 4.8 and 4.9)?",
        fix: "leave both out, as no one needs them, or take the output of `tokenmint jwk KID`",
        source: Rfc,
        online: false,
        needs: Needs::Thumbprint,
        check: published::thumbprints,
    },
    Case {
        id: "jwk-placeholders",
        title: "A JWK has no members of other kinds of key",
        sees: "a strict parser or a scanner says that a private key is published",
        answers: KEY_UPLOAD,
        fix: "Setup takes it, and nothing has leaked. For anybody else leave out `y`, `crv`, `d` and `k`: \
              `tokenmint jwk KID`",
        source: Doc,
        online: false,
        needs: Needs::PublicJwk,
        check: published::placeholders,
    },
    Case {
        id: "jwk-private",
        title: "A JWK holds no private key",
        sees: "nothing, until somebody signs in as your customers",
        answers: "Salesforce asks: Are you generating the keys using the public certificate? Don't use the private \
                  certificate",
        fix: "treat the key as leaked: make another (`tokenmint keys new`), upload its public JWK (`tokenmint jwk \
              KID`), and delete this one in Setup > Enhanced Chat User Verification > Keys",
        source: Doc,
        online: false,
        needs: Needs::Jwk,
        check: published::private,
    },
    Case {
        id: "jwk-distinct",
        title: "Each key of a set has an id of its own",
        sees: "some tokens verify and some don't",
        answers: "Do different keys have different `kid`s (RFC 7517, section 4.5)?",
        fix: "give one of the keys another id, in its JWK and in the tokens that it signs",
        source: Rfc,
        online: false,
        needs: Needs::JwkSet,
        check: published::distinct,
    },
];
