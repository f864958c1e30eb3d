//! `check_session`: clients whose session ended get a new token, and cause no series of logins.

use super::{CLIENT_CREDENTIALS, JOB, TokenEndpoint, refused};
use crate::exchange::Mood;
use serde_json::json;

/// Salesforce's answers to a user info request with a token whose session has ended.
const ENDED: [(u16, &str); 2] = [(403, "Bad_OAuth_Token"), (401, "[{\"errorCode\":\"INVALID_SESSION_ID\"}]")];

async fn token(service: &TokenEndpoint) -> String {
    let body = service.form(JOB).await.ok();
    body["access_token"].as_str().and_then(|token| token.split('!').nth(1)).expect("a token").to_owned()
}

#[tokio::test]
async fn a_client_whose_session_ended_gets_a_new_token() {
    for (status, body) in ENDED {
        let service = TokenEndpoint::start().await;
        assert_eq!(token(&service).await, "token.1");
        service.fake.answer_checks(status, body);
        service.pass(10);
        assert_eq!(token(&service).await, "token.2", "{body}");
        service.fake.answer_checks(200, "{}");
        assert_eq!(token(&service).await, "token.2");
        assert_eq!((service.fake.asked(), service.fake.checked()), (2, 1));
        let counted =
            service.metric("tokenmint_session_checks_total{outcome=\"ended\",profile=\"oauth.live\"}").await;
        assert!(counted.ends_with(" 1"), "{counted}");
    }
}

#[tokio::test]
async fn a_token_is_checked_at_most_once_in_the_interval() {
    let service = TokenEndpoint::start().await;
    // The login itself shows that the session lives.
    for _ in 0..3 {
        assert_eq!(token(&service).await, "token.1");
        service.pass(3);
    }
    assert_eq!(service.fake.checked(), 0);
    service.pass(1);
    for _ in 0..20 {
        assert_eq!(token(&service).await, "token.1");
    }
    assert_eq!(service.fake.checked(), 1);
    service.pass(10);
    assert_eq!(token(&service).await, "token.1");
    assert_eq!((service.fake.asked(), service.fake.checked()), (1, 2));
}

#[tokio::test]
async fn fifty_clients_whose_session_ended_share_one_check_and_one_login() {
    let service = TokenEndpoint::start().await;
    token(&service).await;
    let (status, body) = ENDED[0];
    service.fake.answer_checks(status, body);
    service.pass(10);
    let tokens = futures_util::future::join_all((0..50).map(|_| token(&service))).await;
    assert!(tokens.iter().all(|token| token == "token.2"), "{tokens:?}");
    assert_eq!((service.fake.asked(), service.fake.checked()), (2, 1));
}

/// Salesforce refuses every token: without the limit of `rejected_token`, each check would be a login.
#[tokio::test]
async fn a_salesforce_that_accepts_no_token_causes_few_logins() {
    let service = TokenEndpoint::start().await;
    let (status, body) = ENDED[0];
    service.fake.answer_checks(status, body);
    for _ in 0..360 {
        token(&service).await;
        service.pass(10);
    }
    // The first login, three replacements at once, and then one in 30 seconds.
    let logins = service.fake.asked();
    assert!((100..=1 + 3 + 3600 / 30).contains(&logins), "{logins} logins in an hour");
}

#[tokio::test]
async fn without_a_clear_answer_the_token_counts_as_valid() {
    for (status, body) in
        [(403, "insufficient_scope"), (404, ""), (429, ""), (500, "x"), (503, ""), (302, "")]
    {
        let service = TokenEndpoint::start().await;
        token(&service).await;
        service.fake.answer_checks(status, body);
        service.pass(10);
        assert_eq!(token(&service).await, "token.1", "{status}");
        assert_eq!((service.fake.asked(), service.fake.checked()), (1, 1), "{status}");
        let counted = service.metric("tokenmint_session_checks_total{outcome=\"unknown\"").await;
        assert!(counted.ends_with(" 1"), "{counted}");
    }
}

/// A test with real time: the check gives up after two seconds.
#[tokio::test]
async fn a_check_that_hangs_delays_the_answer_for_two_seconds() {
    let service = TokenEndpoint::start().await;
    token(&service).await;
    service.fake.answer_checks(0, "");
    service.pass(10);
    let start = std::time::Instant::now();
    assert_eq!(token(&service).await, "token.1");
    assert!(start.elapsed() >= std::time::Duration::from_millis(1900), "{:?}", start.elapsed());
    // The next clients don't wait, and not after ten seconds either.
    service.pass(20);
    assert_eq!(token(&service).await, "token.1");
    assert_eq!((service.fake.asked(), service.fake.checked()), (1, 1));
    service.fake.answer_checks(200, "{}");
    service.pass(10);
    assert_eq!(token(&service).await, "token.1");
    assert_eq!((service.fake.asked(), service.fake.checked()), (1, 2));
}

#[tokio::test]
async fn an_ended_session_whose_replacement_fails_is_an_error() {
    let service = TokenEndpoint::start().await;
    token(&service).await;
    let (status, body) = ENDED[0];
    service.fake.answer_checks(status, body);
    let refusal =
        json!({"error": "invalid_grant", "error_description": "user hasn't approved this consumer"});
    service.fake.is(Mood::Error(400, refusal, None));
    service.pass(10);
    refused(&service.form(JOB).await, 502, "upstream_rejected");
}

#[tokio::test]
async fn without_check_session_only_rejected_token_replaces_a_token() {
    let service = TokenEndpoint::start().await;
    let form = format!("{CLIENT_CREDENTIALS}&client_id=two&client_secret=two-key&profile=crm");
    let first = service.form(&form).await.ok()["access_token"].clone();
    let (status, body) = ENDED[0];
    service.fake.answer_checks(status, body);
    service.pass(30);
    assert_eq!(service.form(&form).await.ok()["access_token"], first);
    assert_eq!((service.fake.asked(), service.fake.checked()), (1, 0));
    let rejected = first.as_str().expect("a token").replace('!', "%21");
    let second = service.form(&format!("{form}&rejected_token={rejected}")).await.ok();
    assert_ne!(second["access_token"], first);
}
