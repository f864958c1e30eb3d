//! Authorizes each request for a token by the settings of its caller and its profile, and applies the rate limits for subjects.
//!
//! Every token needs an authorization, including one from the cache. The result, [`Authorized`], is the only access to
//! the profile that mints.

use super::audit::AUDIT_TARGET;
use super::request::{AuthenticatedCaller, RequestFields};
use super::{ApiError, AppState};
use crate::callers::{Authorized, Denied, Permission, PolicyRule, RateLimited, RequestedSubject, Violation};
use crate::config::ProfileName;
use crate::tokens::Subject;
use crate::traces::SpanAttribute;

/// A request for a token, to be authorized.
pub(super) struct AccessRequest<'a, G> {
    pub(crate) grant: &'a G,
    /// The subject, with the name of its field in the request. `None` for OAuth profiles, whose user the configuration sets.
    pub(crate) subject: Option<(&'static str, &'a RequestedSubject)>,
    /// Whether the request always mints a new token. If so, and if it has a subject, the subject's own rate limit applies.
    pub(crate) mints: bool,
}

/// Finds the subject of a request by its fields `field` and `subject_token`.
///
/// # Errors
/// A field is missing or invalid, or the token is refused or can't be verified. In audit mode, a request that names its subject isn't
/// rejected for its token.
pub(super) async fn requested_subject(
    state: &AppState,
    authenticated: &AuthenticatedCaller,
    fields: &mut RequestFields,
    field: &'static str,
) -> Result<RequestedSubject, ApiError> {
    let (named, token) = (fields.string(field)?, fields.secret("subject_token")?);
    Ok(authenticated.caller.resolve_subject(field, named, token.as_ref(), &*state.clock).await?)
}

/// Checks `request` against the policy, and against the subject's rate limit if the request has a subject and always mints.
///
/// In audit mode, a violation of one of the caller's own settings is logged and doesn't reject the request. An OAuth profile that
/// `allow` doesn't contain is rejected in audit mode too.
///
/// # Errors
/// The first rule that rejects the request.
pub(super) fn authorize<'a, G: Permission>(
    state: &AppState,
    authenticated: &AuthenticatedCaller,
    request: &AccessRequest<'a, G>,
) -> Result<Authorized<'a, G>, ApiError> {
    let &AccessRequest { grant, subject: requested, mints } = request;
    let subject = requested.map(|(field, requested)| (field, &requested.subject));
    authenticated.trace().set_attribute(SpanAttribute::Profile(grant.name()));
    let now = state.clock.monotonic();
    let caller = &authenticated.caller;
    let authorized = caller.authorize(grant, subject.map(|(_, subject)| subject), now);
    let (violation, let_through) = match &authorized {
        Ok(authorized) => (authorized.audit_violation, true),
        Err(violation) => (Some(*violation), false),
    };
    if let Some(Violation::SubjectLimit(RateLimited { is_first: true, .. })) = violation {
        tracing::warn!(
            request_id = authenticated.scope.id(),
            trace_id = authenticated.scope.trace_id(),
            caller = %caller.name,
            let_through,
            "the caller names more different subjects than its subjects_per_minute: has its credential been stolen?"
        );
    }
    let rule = violation.filter(|_| let_through).and_then(|violation| violation.rule());
    if let (Some(rule), Some((_, subject))) = (rule, subject) {
        log_audit_only_violation(state, authenticated, grant.name(), subject, rule, None);
    }
    let authorized = authorized.map_err(|violation| match violation {
        Violation::Allow => ApiError::Denied { denied: Denied::NotAllowed, field: "profile" },
        Violation::ProfileSubjects | Violation::Subjects => {
            ApiError::Denied { denied: Denied::Subject, field: subject.map_or("profile", |(field, _)| field) }
        }
        Violation::SubjectLimit(RateLimited { retry_after, .. }) => {
            caller.subjects_refused.inc();
            ApiError::RateLimited {
                retry_after,
                why: "this caller named more different subjects in a minute than its subjects_per_minute",
            }
        }
    })?;
    if let Some((_, requested)) = requested
        && let Some(violation) = &requested.audit_violation
    {
        caller.count_subject_token_violation();
        let reason = violation.to_string();
        let (subject, rule) = (&requested.subject, PolicyRule::SubjectToken);
        log_audit_only_violation(state, authenticated, grant.name(), subject, rule, Some(&reason));
    }
    if let Some((_, subject)) = subject.filter(|_| mints) {
        check_subject_rate_limit(state, authenticated, grant.name(), subject)?;
    }
    Ok(authorized)
}

/// Logs a request that audit mode allows although `rule` would reject it.
fn log_audit_only_violation(
    state: &AppState,
    authenticated: &AuthenticatedCaller,
    profile: &ProfileName,
    subject: &Subject,
    rule: PolicyRule,
    reason: Option<&str>,
) {
    tracing::warn!(
        target: AUDIT_TARGET,
        request_id = authenticated.scope.id(),
        trace_id = authenticated.scope.trace_id(),
        caller = %authenticated.caller.name,
        %profile,
        subject_hmac = state.audit.subject_hmac(subject).as_str(),
        rule = rule.as_str(),
        reason,
        "would be refused"
    );
}

/// Limits how often a caller mints one subject's tokens of one profile or bundle. Logs one line when a series of rejections
/// begins.
fn check_subject_rate_limit(
    state: &AppState,
    authenticated: &AuthenticatedCaller,
    profile: &ProfileName,
    subject: &Subject,
) -> Result<(), ApiError> {
    let caller = &authenticated.caller.name;
    state.subject_rate_limiter.check_subject_rate(caller, profile, subject, state.clock.monotonic()).map_err(
        |RateLimited { retry_after, is_first }| {
            state.metrics.remints_refused.with_label_values(&[profile.as_str(), caller.as_str()]).inc();
            if is_first {
                let subject = state.audit.subject_hmac(subject);
                tracing::warn!(
                    request_id = authenticated.scope.id(),
                    trace_id = authenticated.scope.trace_id(),
                    %caller,
                    %profile,
                    subject_hmac = subject.as_str(),
                    "a subject exceeded its rate of tokens: its page probably loops because Salesforce rejects them; \
                     run `tokenmint doctor`"
                );
            }
            ApiError::RateLimited { retry_after, why: "too many tokens were requested for this subject (limits.remints_per_minute)" }
        },
    )
}
