//! Authorization: the caller's policy, asked for every token, also for one that is kept: a cache never answers in its
//! place. What it lets through is handed on as a proof, without which nothing can be minted.

use super::audit::TARGET;
use super::request::AuthenticatedCaller;
use super::{Refusal, Service};
use crate::callers::{Authorized, Denied, Permission, PolicyRule, RateLimited, Violation};
use crate::config::ProfileName;
use crate::tokens::Subject;
use crate::traces::SpanAttribute;

/// What a request asks for.
pub(super) struct AccessRequest<'a, G> {
    pub grant: &'a G,
    /// Whom it speaks of, and what it calls that. Without one it is the login of an integration user.
    pub subject: Option<(&'static str, &'a Subject)>,
    /// Whether a token is made for it, whatever is kept: then each subject has a rate of its own.
    pub mints: bool,
}

/// The one gate. Says no with the first rule that does, or lets the request through and says which would have.
pub(super) fn authorize<'a, G: Permission>(
    service: &Service,
    asker: &AuthenticatedCaller,
    request: &AccessRequest<'a, G>,
) -> Result<Authorized<'a, G>, Refusal> {
    let &AccessRequest { grant, subject, mints } = request;
    asker.trace().set_attribute(SpanAttribute::Profile(grant.name()));
    let now = service.clock.steady();
    let caller = &asker.caller;
    let authorized = caller.authorize(grant, subject.map(|(_, subject)| subject), now);
    let (violation, let_through) = match &authorized {
        Ok(authorized) => (authorized.audit_violation, true),
        Err(violation) => (Some(*violation), false),
    };
    if let Some(Violation::SubjectLimit(RateLimited { is_first: true, .. })) = violation {
        tracing::warn!(
            request_id = asker.id.as_str(),
            trace_id = asker.id.trace_id(),
            caller = %caller.name,
            let_through,
            "names more different subjects than its subjects_per_minute: has its credential been stolen?"
        );
    }
    let rule = violation.filter(|_| let_through).and_then(|violation| violation.rule());
    if let (Some(rule), Some((_, subject))) = (rule, subject) {
        would_refuse(service, asker, grant.name(), subject, rule);
    }
    let authorized = authorized.map_err(|violation| match violation {
        Violation::Allow => Refusal::Denied { denied: Denied::NotAllowed, field: "profile" },
        Violation::ProfileSubjects | Violation::Subjects => {
            Refusal::Denied { denied: Denied::Subject, field: subject.map_or("profile", |(field, _)| field) }
        }
        Violation::SubjectLimit(RateLimited { retry_after, .. }) => {
            caller.subjects_refused.inc();
            Refusal::RateLimited { retry_after, who: "this caller, for so many different subjects," }
        }
    })?;
    if let Some((_, subject)) = subject.filter(|_| mints) {
        check_remints(service, asker, grant.name(), subject)?;
    }
    Ok(authorized)
}

fn would_refuse(
    service: &Service,
    asker: &AuthenticatedCaller,
    profile: &ProfileName,
    subject: &Subject,
    rule: PolicyRule,
) {
    tracing::warn!(
        target: TARGET,
        request_id = asker.id.as_str(),
        trace_id = asker.id.trace_id(),
        caller = %asker.caller.name,
        %profile,
        subject_hmac = service.audit.hash(subject).as_str(),
        rule = rule.as_str(),
        "would be refused"
    );
}

/// How often one subject's tokens are asked for; one line in the log for each storm.
fn check_remints(
    service: &Service,
    asker: &AuthenticatedCaller,
    profile: &ProfileName,
    subject: &Subject,
) -> Result<(), Refusal> {
    let caller = &asker.caller.name;
    service.subject_rate_limiter.check_subject_rate(caller, profile, subject, service.clock.steady()).map_err(
        |RateLimited { retry_after, is_first }| {
            service.metrics.remints_refused.with_label_values(&[profile.as_str(), caller.as_str()]).inc();
            if is_first {
                let subject = service.audit.hash(subject);
                tracing::warn!(
                    request_id = asker.id.as_str(),
                    trace_id = asker.id.trace_id(),
                    %caller,
                    %profile,
                    subject_hmac = subject.as_str(),
                    "a page asks for tokens again and again: Salesforce probably refuses them"
                );
            }
            Refusal::RateLimited { retry_after, who: "one subject's page" }
        },
    )
}
