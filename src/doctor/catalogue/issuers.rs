//! Catalogue entries (title, symptom, fix) of the checks of incoming JWTs; the functions are in `checks::issuers` and
//! `checks::incoming`.

use crate::doctor::check_spec::EvidenceSource::{Own, Rfc};
use crate::doctor::check_spec::{CheckSpec, Requirement};
use crate::doctor::checks::{incoming, issuers};

pub(super) const CHECKS: &[CheckSpec] = &[
    CheckSpec {
        id: "issuer-keys",
        title: "The keys of each issuer can be fetched",
        symptom: "503 `issuer_unavailable` after a start",
        question: "Does the issuer's JWKS arrive within 5 s and 64 KiB, with a key for `algorithms`?",
        fix: "fix the address in [issuers.NAME], its `ca_file` or its `bearer_token_file`, as the finding says",
        source: Own,
        online: true,
        requires: Requirement::Issuers,
        run: issuers::issuer_keys,
    },
    CheckSpec {
        id: "incoming-token",
        title: "A caller's JWT or a subject token has the required claims",
        symptom: "401 `invalid_client`, or 400 with the field `subject_token`",
        question: "Would this service accept the JWT, as the credential of a caller or as a subject token?",
        fix: "have the issuer set the claim that the finding names, or change the setting that requires it",
        source: Rfc,
        online: false,
        requires: Requirement::IncomingToken,
        run: incoming::incoming_token,
    },
    CheckSpec {
        id: "incoming-signature",
        title: "A key of its issuer signed the JWT",
        symptom: "401 `invalid_client`, or 400 with the field `subject_token`",
        question: "Is the JWT signed with a key of the [issuers.NAME] that has its `iss`?",
        fix: "copy the token whole. If it is whole, another issuer made it, or the keys in [issuers.NAME] are another issuer's",
        source: Rfc,
        online: false,
        requires: Requirement::IncomingToken,
        run: incoming::incoming_signature,
    },
];
