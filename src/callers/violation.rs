//! [`Violation`]: which rule of the policy denies a request.

use super::rate_limit::RateLimited;

/// A setting of a caller's policy that can deny a request. `policy = "audit"` applies to each, except to `allow` for OAuth
/// profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyRule {
    /// `allow`
    Profile,
    /// `subjects`
    Subject,
    /// `subjects_per_minute`
    SubjectLimit,
    /// `subject_token`
    SubjectToken,
}

impl PolicyRule {
    pub(crate) const ALL: &[Self] = &[Self::Profile, Self::Subject, Self::SubjectLimit, Self::SubjectToken];

    /// The value of the label `rule`: the setting's name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Profile => "allow",
            Self::Subject => "subjects",
            Self::SubjectLimit => "subjects_per_minute",
            Self::SubjectToken => "subject_token",
        }
    }
}

/// Why the policy denies a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// The profile's own `subjects` doesn't match.
    ProfileSubjects,
    /// The caller's `allow` doesn't contain the profile, the bundle, or a profile of the bundle.
    Allow,
    /// The caller's `subjects` doesn't match.
    Subjects,
    /// The caller's `subjects_per_minute` is exceeded.
    SubjectLimit(RateLimited),
}

impl Violation {
    /// The caller's setting that denies the request, to which `policy = "audit"` applies. `None` for a rule of the profile,
    /// which is always enforced.
    pub(crate) const fn rule(&self) -> Option<PolicyRule> {
        match self {
            Self::ProfileSubjects => None,
            Self::Allow => Some(PolicyRule::Profile),
            Self::Subjects => Some(PolicyRule::Subject),
            Self::SubjectLimit(_) => Some(PolicyRule::SubjectLimit),
        }
    }
}
