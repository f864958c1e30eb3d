//! The caller's policy, asked for every token that speaks of a subject, also for one that is kept: a cache never
//! answers in its place.

use super::audit::TARGET;
use super::request::Asker;
use super::{Refusal, Service};
use crate::callers::{Denied, Rule, TooOften};
use crate::config::ProfileName;
use crate::tokens::Subject;
use crate::traces::Fact;

/// What a request asks for, as far as the policy is concerned.
pub(super) struct Wish<'a> {
    pub profile: &'a ProfileName,
    /// Whether the caller's `allow` names it.
    pub allowed: bool,
    /// Whether the profile speaks of such subjects.
    pub covered: bool,
    pub subject: &'a Subject,
    /// What the request calls the subject.
    pub field: &'static str,
}

/// Says no with the first rule that does, or lets it through and says which would have.
pub(super) fn admit(service: &Service, asker: &Asker, wish: &Wish<'_>) -> Result<(), Refusal> {
    asker.trace().note(Fact::Profile(wish.profile));
    let caller = &asker.caller;
    let denied = || Refusal::Denied { denied: Denied::Subject, field: wish.field };
    if !wish.covered {
        return Err(denied());
    }
    if !wish.allowed && caller.lets_through(Rule::Profile) {
        would_refuse(service, asker, wish, Rule::Profile);
        return Ok(());
    }
    if !caller.may_name(wish.subject) {
        if !caller.lets_through(Rule::Subject) {
            return Err(denied());
        }
        would_refuse(service, asker, wish, Rule::Subject);
        return Ok(());
    }
    caller.spend(wish.subject, service.clock.steady()).or_else(|TooOften { retry_after, begins }| {
        let let_through = caller.lets_through(Rule::Budget);
        if begins {
            tracing::warn!(
                request_id = asker.id.as_str(),
                trace_id = asker.id.trace_id(),
                caller = %caller.name,
                let_through,
                "names more different subjects than its subjects_per_minute: has its credential been stolen?"
            );
        }
        if let_through {
            return Ok(());
        }
        caller.subjects_refused.inc();
        Err(Refusal::RateLimited { retry_after, who: "this caller, for so many different subjects," })
    })
}

fn would_refuse(service: &Service, asker: &Asker, wish: &Wish<'_>, rule: Rule) {
    tracing::warn!(
        target: TARGET,
        request_id = asker.id.as_str(),
        trace_id = asker.id.trace_id(),
        caller = %asker.caller.name,
        profile = %wish.profile,
        subject_hmac = service.audit.hash(wish.subject),
        rule = rule.as_str(),
        "would be refused"
    );
}
