//! Why a request is refused, and by which setting.

use super::rate_limit::RateLimited;

/// What a caller's own settings can say no to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyRule {
    /// `allow`
    Profile,
    /// `subjects`
    Subject,
    /// `subjects_per_minute`
    SubjectLimit,
}

impl PolicyRule {
    pub const ALL: [Self; 3] = [Self::Profile, Self::Subject, Self::SubjectLimit];

    /// The value of the label `rule`: the setting's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Profile => "allow",
            Self::Subject => "subjects",
            Self::SubjectLimit => "subjects_per_minute",
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
    SubjectLimit(RateLimited),
}

impl Violation {
    /// The caller's own setting, which can be tried; what its profile says can't.
    pub const fn rule(&self) -> Option<PolicyRule> {
        match self {
            Self::ProfileSubjects => None,
            Self::Allow => Some(PolicyRule::Profile),
            Self::Subjects => Some(PolicyRule::Subject),
            Self::SubjectLimit(_) => Some(PolicyRule::SubjectLimit),
        }
    }
}
