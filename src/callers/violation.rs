//! Why a request is refused, and by which setting.

use super::pace::TooOften;

/// What a caller's own settings can say no to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `allow`
    Profile,
    /// `subjects`
    Subject,
    /// `subjects_per_minute`
    Budget,
}

impl Rule {
    pub const ALL: &[Self] = &[Self::Profile, Self::Subject, Self::Budget];

    /// The value of the label `rule`: the setting's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Profile => "allow",
            Self::Subject => "subjects",
            Self::Budget => "subjects_per_minute",
        }
    }
}

/// What says no to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// What the profile itself says of subjects.
    ProfileSubjects,
    Allow,
    Subjects,
    Budget(TooOften),
}

impl Violation {
    /// The caller's own setting, which can be tried; what its profile says can't.
    pub const fn rule(&self) -> Option<Rule> {
        match self {
            Self::ProfileSubjects => None,
            Self::Allow => Some(Rule::Profile),
            Self::Subjects => Some(Rule::Subject),
            Self::Budget(_) => Some(Rule::Budget),
        }
    }
}
