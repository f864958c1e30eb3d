//! The kinds of tokens that are signed with a shared secret (HS256). What differs between two kinds is in [`Hs256Kind::facts`], so
//! that a new kind is a variant, a row of facts, a route and the doctor's checks.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hs256Kind {
    Intercom,
}

/// What only one kind has.
pub struct Hs256Facts {
    /// Its section in the configuration, and the name of the kind in `--as` and JSON.
    pub section: &'static str,
    /// The claim that names the user, and the field of a request.
    pub user_claim: &'static str,
    pub relying_party: &'static str,
    pub token: &'static str,
    /// What the relying party calls the secret.
    pub secret: &'static str,
    /// Where it shows the secret.
    pub secret_page: &'static str,
    /// What the doctor says where it was given no such token.
    pub no_token: &'static str,
}

impl Hs256Kind {
    pub const ALL: &[Self] = &[Self::Intercom];

    pub const fn facts(self) -> &'static Hs256Facts {
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
