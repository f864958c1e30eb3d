//! The kinds of tokens that are signed with a shared secret (HS256).
//!
//! [`Hs256Kind::facts`] holds the differences between the kinds. A new kind is a variant, a row of facts, a section in
//! `schema`, a route and the doctor's checks.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hs256Kind {
    Intercom,
    /// For any relying party: the profile names the claim of the user, and has fixed claims and header members.
    General,
}

/// The differences between the kinds.
pub(crate) struct Hs256Facts {
    /// Its section in the configuration, and the name of the kind in `--as` and JSON.
    pub(crate) section: &'static str,
    /// The field of a request that names the user.
    pub(crate) request_field: &'static str,
    /// The claim that names the user. `None` if each profile names it (`subject_claim`).
    pub(crate) user_claim: Option<&'static str>,
    pub(crate) relying_party: &'static str,
    pub(crate) token: &'static str,
    /// The relying party's name for the secret.
    pub(crate) secret: &'static str,
    /// Where the relying party shows the secret.
    pub(crate) secret_page: &'static str,
    /// The reason that the doctor gives for skipping the checks if no such token was given.
    pub(crate) no_token: &'static str,
}

impl Hs256Kind {
    pub(crate) const ALL: &[Self] = &[Self::Intercom, Self::General];

    pub(crate) const fn facts(self) -> &'static Hs256Facts {
        match self {
            Self::Intercom => &Hs256Facts {
                section: "intercom",
                request_field: "user_id",
                user_claim: Some("user_id"),
                relying_party: "Intercom",
                token: "an Intercom user JWT",
                secret: "Messenger API secret",
                secret_page: "Settings > Messenger > Security",
                no_token: "no Intercom token was given",
            },
            Self::General => &Hs256Facts {
                section: "hs256",
                request_field: "sub",
                user_claim: None,
                relying_party: "the relying party",
                token: "a token of an [hs256.NAME] profile",
                secret: "shared secret",
                secret_page: "the relying party's settings show it",
                no_token: "no token of an [hs256.NAME] profile was given",
            },
        }
    }
}
