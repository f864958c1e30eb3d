//! The kinds of tokens that are signed with a shared secret (HS256).
//!
//! [`Hs256Kind::facts`] holds the differences between the kinds. A new kind is a variant, a row of facts, a section in
//! `schema`, a route and the doctor's checks.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hs256Kind {
    Intercom,
}

/// The differences between the kinds.
pub(crate) struct Hs256Facts {
    /// Its section in the configuration, and the name of the kind in `--as` and JSON.
    pub(crate) section: &'static str,
    /// The claim that names the user, and the field of a request.
    pub(crate) user_claim: &'static str,
    pub(crate) relying_party: &'static str,
    pub(crate) token: &'static str,
    /// The relying party's name for the secret.
    pub(crate) secret: &'static str,
    /// The relying party's page that shows the secret.
    pub(crate) secret_page: &'static str,
    /// The reason that the doctor gives for skipping the checks if no such token was given.
    pub(crate) no_token: &'static str,
}

impl Hs256Kind {
    pub(crate) const ALL: &[Self] = &[Self::Intercom];

    pub(crate) const fn facts(self) -> &'static Hs256Facts {
        match self {
            Self::Intercom => &Hs256Facts {
                section: "intercom",
                user_claim: "user_id",
                relying_party: "Intercom",
                token: "an Intercom user JWT",
                secret: "Messenger API secret",
                secret_page: "Settings > Messenger > Security",
                no_token: "no Intercom token was given",
            },
        }
    }
}
