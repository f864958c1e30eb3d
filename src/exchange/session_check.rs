//! Checks whether Salesforce has ended the session of a cached access token.
//!
//! A client whose session ended requests a new token at the token endpoint, and doesn't say why. Without a check it would get
//! the same token again until that expires. Salesforce says whether it accepts a token at `/services/oauth2/userinfo`, which
//! doesn't count as a login. One result serves all requests for `check_session`, and concurrent requests share one check
//! (single-flight). So a token is checked at most once in that time, however many clients there are.
//!
//! A session that has ended is reported like a `rejected_token`, so the same limits apply. Without a clear answer the token
//! counts as valid: an outage of Salesforce must not cause logins. The next check is then at least [`UNCLEAR_PAUSE`](super::token::UNCLEAR_PAUSE) later, so that
//! clients don't wait for an endpoint that hangs again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use url::Url;

use super::read_through_cache::{PanicCounter, ReadThroughCache};
use super::single_flight::Joined;
use super::token::{AccessToken, TokenMetadata};
use super::upstream::SessionState;
use crate::config::ProfileName;

impl ReadThroughCache {
    /// Returns the state of a token's session, at most `interval` old. [`SessionState::Unknown`] if no answer came by
    /// `deadline`.
    pub(super) async fn check_session(
        self: &Arc<Self>,
        profile: &ProfileName,
        token: &Arc<AccessToken>,
        interval: Duration,
        deadline: Instant,
    ) -> SessionState {
        let known = || token.session_state(interval, self.deps.clock.now(), self.deps.clock.monotonic());
        if let Some(state) = known() {
            return state;
        }
        let in_flight = match self.session_checks.join(token.hash(), known) {
            Joined::Resolved(state) => return state,
            Joined::Follower(in_flight) => in_flight,
            Joined::Leader(in_flight, guard) => {
                let (cache, token, profile) = (self.clone(), token.clone(), profile.clone());
                tokio::spawn(async move {
                    let _counted = PanicCounter(&cache.deps.metrics);
                    let state = match user_info_url(&token) {
                        Some(url) => cache.client.transport.check_session(url, &token.secret).await,
                        None => SessionState::Unknown,
                    };
                    token.record_check(state, cache.deps.clock.monotonic());
                    if state == SessionState::Ended {
                        let age = token.obtained_at.seconds_until(cache.deps.clock.now());
                        tracing::warn!(
                            profile = profile.as_str(),
                            age,
                            "Salesforce has ended the session of a cached access token, so tokenmint logs in again; if each token \
                             ends so soon (`age`, in seconds), the app's tokens can't be checked at /services/oauth2/userinfo: remove \
                             `check_session`"
                        );
                    }
                    let labels = [profile.as_str(), state.label()];
                    cache.deps.metrics.session_checks.with_label_values(&labels).inc();
                    guard.complete(state);
                });
                in_flight
            }
        };
        timeout_at(deadline, in_flight.outcome()).await.ok().flatten().unwrap_or(SessionState::Unknown)
    }
}

/// The user info endpoint of the token's org. `None` for a messaging token, which has none. The response's validation ensures that
/// `instance_url` is an origin.
fn user_info_url(token: &AccessToken) -> Option<Url> {
    match &token.metadata {
        TokenMetadata::Oauth { instance_url, .. } => {
            Url::parse(instance_url).ok()?.join("/services/oauth2/userinfo").ok()
        }
        TokenMetadata::Messaging { .. } => None,
    }
}
