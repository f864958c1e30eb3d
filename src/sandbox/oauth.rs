//! `/services/oauth2/`: the JWT bearer grant (RFC 7523), revocation (RFC 7009) and user info.
//!
//! Refusals follow Salesforce Help, "OAuth Authorization Errors": 400 with `error` and `error_description`. The order of
//! Salesforce's checks is undocumented.

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use data_encoding::HEXLOWER;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::jwt::{self, Jwt};
use super::org::{ConnectedApp, Org, id_15, id_18};
use super::state::OauthSession;
use super::{Sandbox, data, json_response};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const LOGIN_URL: &str = "https://login.salesforce.com";
const TEST_URL: &str = "https://test.salesforce.com";
const HOUR_SECONDS: i64 = 3600;
/// How many seconds ahead `exp` may be with [`Settings::strict_exp`](super::Settings::strict_exp).
const MAX_EXP_AHEAD: i64 = 300;

/// `error` and `error_description` of the response, and the exact reason for the log of the sandbox.
struct OauthError {
    error: &'static str,
    description: &'static str,
    why: String,
}

fn oauth_error(error: &'static str, description: &'static str, why: impl Into<String>) -> OauthError {
    OauthError { error, description, why: why.into() }
}

fn invalid_assertion(why: impl Into<String>) -> OauthError {
    oauth_error("invalid_grant", "invalid assertion", why)
}

fn not_approved(why: impl Into<String>) -> OauthError {
    oauth_error("invalid_grant", "user hasn't approved this consumer", why)
}

pub(super) async fn token(State(sandbox): State<Sandbox>, headers: HeaderMap, body: Bytes) -> Response {
    match login(&sandbox, &headers, &body) {
        Ok(granted) => json_response(StatusCode::OK, &granted),
        Err(refusal) => {
            let OauthError { error, description, why } = refusal;
            sandbox.log_reason(format!("login refused, {error}: {description}: {why}"));
            let now = sandbox.now();
            let mut state = sandbox.state();
            *state.counts.refused.entry(format!("{error}: {description}")).or_default() += 1;
            state.failures.add(now);
            let failures = state.failures.count(now, HOUR_SECONDS);
            if state.settings.failures_until_block.is_some_and(|limit| failures >= limit) {
                state.blocked_until.get_or_insert(now + HOUR_SECONDS);
            }
            drop(state);
            json_response(StatusCode::BAD_REQUEST, &json!({"error": error, "error_description": description}))
        }
    }
}

fn login(sandbox: &Sandbox, headers: &HeaderMap, body: &[u8]) -> Result<Value, OauthError> {
    let now = sandbox.now();
    check_block(sandbox, now)?;
    let form = FormBody::read(headers, body)?;
    match form.get("grant_type") {
        Some(GRANT_TYPE) => {}
        Some(_) => {
            return Err(oauth_error("unsupported_grant_type", "grant type not supported", "grant_type"));
        }
        None => {
            return Err(oauth_error("invalid_request", "must supply a grant type", "grant_type is missing"));
        }
    }
    let assertion = form.get("assertion").ok_or_else(|| invalid_assertion("the parameter is missing"))?;
    let jwt = Jwt::read(assertion).map_err(|why| invalid_assertion(format!("the assertion {why}")))?;
    let url = sandbox.url(headers);
    let app = app_of(sandbox.org(), &jwt)?;
    check_installed(app, headers, &jwt)?;
    check_signature(app, &jwt)?;
    check_audience(sandbox.org(), app, &url, &jwt)?;
    let strict = sandbox.state().settings.strict_exp;
    let expires = check_expiry(&jwt, now, strict)?;
    check_jti(sandbox, app, &jwt)?;
    let user = check_user(app, &jwt)?;
    issue_token(sandbox, app, user, &url, now).inspect(|_| {
        tracing::debug!(user, expires, "sandbox: logged in");
    })
}

/// Refuses every login, valid ones included, for an hour after too many failures: simulates a blocked client address.
fn check_block(sandbox: &Sandbox, now: i64) -> Result<(), OauthError> {
    let mut state = sandbox.state();
    match state.blocked_until {
        Some(until) if now < until => {
            Err(oauth_error("invalid_grant", "ip restricted", "too many logins have failed in an hour"))
        }
        _ => {
            state.blocked_until = None;
            Ok(())
        }
    }
}

/// A form body without duplicate parameters (RFC 6749, section 3.2).
struct FormBody(Vec<(String, String)>);

impl FormBody {
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, OauthError> {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(oauth_error("invalid_request", "must be a form", format!("Content-Type: {kind}")));
        }
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
        for (at, (name, _)) in pairs.iter().enumerate() {
            if pairs[..at].iter().any(|(other, _)| other == name) {
                return Err(oauth_error("invalid_request", "duplicate parameter", name.as_str()));
            }
        }
        Ok(Self(pairs))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Finds the app by `iss`. This flow ignores `kid`.
fn app_of<'a>(org: &'a Org, jwt: &Jwt<'_>) -> Result<&'a ConnectedApp, OauthError> {
    let key = jwt.claim("iss");
    org.apps.iter().find(|app| Some(app.consumer_key.as_str()) == key).ok_or_else(|| {
        let known: Vec<&str> = org.apps.iter().map(|app| app.consumer_key.as_str()).collect();
        let why = format!("`iss` is no consumer key of this org, which has: {}", known.join(", "));
        oauth_error("invalid_client_id", "client identifier invalid", why)
    })
}

/// Refuses an External Client App with login or test as host or audience, like Salesforce since Spring '26.
fn check_installed(app: &ConnectedApp, headers: &HeaderMap, jwt: &Jwt<'_>) -> Result<(), OauthError> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let shared_host = [LOGIN_URL, TEST_URL].iter().any(|shared| shared.ends_with(&format!("//{host}")));
    let shared_audience = jwt.claim("aud").is_some_and(|aud| [LOGIN_URL, TEST_URL].contains(&aud));
    if app.external && (shared_host || shared_audience) {
        let why = "login and test don't find External Client Apps: use the My Domain as host and `aud`";
        return Err(oauth_error("app_not_found", "External client app is not installed in this org", why));
    }
    Ok(())
}

fn check_signature(app: &ConnectedApp, jwt: &Jwt<'_>) -> Result<(), OauthError> {
    if jwt.header("alg") != Some("RS256") {
        return Err(invalid_assertion("`alg` isn't RS256"));
    }
    let verifies = |der: &Vec<u8>| {
        X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
            let key = DecodingKey::from_rsa_der(&certificate.public_key().subject_public_key.data);
            jwt.verified_by(&key, Algorithm::RS256)
        })
    };
    if app.certificates.iter().any(verifies) {
        Ok(())
    } else {
        Err(invalid_assertion("no certificate of the app verifies the signature"))
    }
}

/// Compares `aud`, or each of its entries, byte for byte: a trailing slash makes another audience.
fn check_audience(org: &Org, app: &ConnectedApp, url: &str, jwt: &Jwt<'_>) -> Result<(), OauthError> {
    let known = |aud: &str| {
        let expected = if app.audiences.is_empty() {
            aud == LOGIN_URL || aud == TEST_URL || org.my_domain.as_deref() == Some(aud)
        } else {
            app.audiences.iter().any(|expected| expected == aud)
        };
        expected || aud == url || aud == format!("{url}/services/oauth2/token")
    };
    let fits = match jwt.claims.get("aud") {
        Some(Value::String(aud)) => known(aud),
        Some(Value::Array(auds)) => auds.iter().filter_map(Value::as_str).any(known),
        _ => false,
    };
    let why = "`aud` is neither login, test, the My Domain nor what the app expects";
    if fits { Ok(()) } else { Err(oauth_error("invalid_grant", "audience is invalid", why)) }
}

/// Checks and returns `exp`, a number or a string of digits in seconds. Milliseconds pass unless `strict` is set, because they
/// are a date far ahead.
fn check_expiry(jwt: &Jwt<'_>, now: i64, strict: bool) -> Result<i64, OauthError> {
    #[expect(clippy::cast_possible_truncation, reason = "what is beyond the range is far enough either way")]
    let exp = match jwt.claims.get("exp") {
        Some(Value::Number(number)) => number.as_i64().or_else(|| number.as_f64().map(|exp| exp as i64)),
        Some(Value::String(digits)) => digits.parse().ok(),
        _ => None,
    };
    let exp = exp.ok_or_else(|| invalid_assertion("`exp` is missing or no number"))?;
    if exp <= now {
        let why = format!("`exp` was {} s ago", now.saturating_sub(exp));
        return Err(oauth_error("invalid_grant", "expired authorization code", why));
    }
    if strict && exp.saturating_sub(now) > MAX_EXP_AHEAD {
        return Err(invalid_assertion(format!(
            "`exp` is more than {MAX_EXP_AHEAD} s ahead, and strict_exp is set"
        )));
    }
    Ok(exp)
}

fn check_jti(sandbox: &Sandbox, app: &ConnectedApp, jwt: &Jwt<'_>) -> Result<(), OauthError> {
    let replayed = |why: &str| oauth_error("bad_jti_claim", "jti has already been used", why);
    match jwt.claims.get("jti") {
        None => Ok(()),
        Some(Value::String(jti)) => {
            let first = sandbox.state().seen_assertions.insert((app.consumer_key.clone(), jti.clone()));
            if first { Ok(()) } else { Err(replayed("an assertion with this `jti` was used before")) }
        }
        Some(_) => Err(replayed("`jti` is no string")),
    }
}

fn check_user<'a>(app: &'a ConnectedApp, jwt: &Jwt<'_>) -> Result<&'a str, OauthError> {
    // `prn` is an old name of `sub`.
    let name = jwt.claim("sub").or_else(|| jwt.claim("prn")).unwrap_or_default();
    if app.unassigned.iter().any(|user| user == name) {
        let description = "user is not admin approved to access this app";
        return Err(oauth_error("invalid_app_access", description, "no profile or permission set"));
    }
    let user = app.users.iter().find(|user| *user == name);
    let user = user.ok_or_else(|| {
        let known = app.users.join(", ");
        not_approved(format!("`sub` isn't a pre-authorized user name; those are: {known}"))
    })?;
    let refresh = |scope: &str| matches!(scope, "refresh_token" | "offline_access");
    if !app.scopes().split(' ').any(refresh) {
        return Err(not_approved("the app has neither the scope refresh_token nor offline_access"));
    }
    if app.scopes().split(' ').all(refresh) {
        let description = "the requested scope is invalid, unknown, or malformed";
        return Err(oauth_error("invalid_scope", description, "the app has no scope besides refresh_token"));
    }
    Ok(user)
}

/// Creates a new session for each login, unless the user has reached `logins_per_hour`. Whether Salesforce reuses a session is
/// undocumented.
fn issue_token(
    sandbox: &Sandbox,
    app: &ConnectedApp,
    user: &str,
    url: &str,
    now: i64,
) -> Result<Value, OauthError> {
    let org_id = id_18(&sandbox.org().org_id);
    let mut state = sandbox.state();
    let limit = state.settings.logins_per_hour;
    // The name of the limit is documented, the form of its response isn't.
    state.logins.entry(user.to_owned()).or_default().try_add(now, HOUR_SECONDS, limit).map_err(|wait| {
        let why = format!("`{user}` has logged in {limit} times within the hour; next in {wait} s");
        oauth_error("LOGIN_RATE_EXCEEDED", "login rate exceeded", why)
    })?;
    *state.counts.logins.entry(user.to_owned()).or_default() += 1;
    let settings = state.settings.clone();
    drop(state);
    let life = i64::try_from(settings.session_life.as_secs()).unwrap_or(i64::MAX);
    let expires_at = now.saturating_add(life);
    let id = format!("{url}/id/{org_id}/{}", user_id(user));
    let access_token = if settings.jwt_access_tokens {
        let claims = json!({
            "iss": url, "sub": format!("uid:{}", user_id(user)), "aud": [url], "scp": app.scopes(),
            "iat": now, "exp": expires_at, "jti": sandbox.random_text(), "client_id": app.consumer_key,
        });
        jwt::issue(&claims, sandbox.key())
    } else {
        format!("{}!AQ{}", id_15(&org_id), sandbox.random_text())
    };
    let session = OauthSession { user: user.to_owned(), expires_at };
    sandbox.state().sessions.insert(access_token.clone(), session);
    let mut granted = json!({
        "access_token": access_token,
        "scope": app.scopes(),
        "instance_url": settings.instance_url.unwrap_or_else(|| url.to_owned()),
        "id": id,
        "token_type": "Bearer",
        "issued_at": now.saturating_mul(1000).to_string(),
    });
    if settings.jwt_access_tokens {
        granted["token_format"] = json!("jwt");
        granted["api_instance_url"] = json!(url);
    }
    if settings.expires_in {
        granted["expires_in"] = json!(life);
    }
    Ok(granted)
}

/// Revokes a token. An unknown token counts as revoked (RFC 7009, section 2.2).
pub(super) async fn revoke(State(sandbox): State<Sandbox>, headers: HeaderMap, body: Bytes) -> Response {
    match FormBody::read(&headers, &body).ok().and_then(|form| form.get("token").map(str::to_owned)) {
        Some(token) => {
            sandbox.state().sessions.remove(&token);
            json_response(StatusCode::OK, &json!({}))
        }
        None => json_response(
            StatusCode::BAD_REQUEST,
            &json!({"error": "invalid_request", "error_description": "must supply a token"}),
        ),
    }
}

pub(super) async fn user_info(State(sandbox): State<Sandbox>, headers: HeaderMap) -> Response {
    let Some(session) = data::session_of_bearer(&sandbox, &headers) else { return bad_oauth_token() };
    let url = sandbox.url(&headers);
    let (org_id, user_id) = (id_18(&sandbox.org().org_id), user_id(&session.user));
    let info = json!({
        "sub": format!("{url}/id/{org_id}/{user_id}"),
        "id": format!("{url}/id/{org_id}/{user_id}"),
        "user_id": user_id,
        "organization_id": org_id,
        "username": session.user,
        "preferred_username": session.user,
        "active": true,
        "urls": {"rest": format!("{url}/services/data/v{{version}}/")},
    });
    json_response(StatusCode::OK, &info)
}

/// The endpoints for user information refuse a token with 403 and a text, unlike the data API with its 401.
fn bad_oauth_token() -> Response {
    (StatusCode::FORBIDDEN, "Bad_OAuth_Token").into_response()
}

/// The record id of a user, derived from the user name.
fn user_id(user: &str) -> String {
    let digest = digest(&SHA256, user.as_bytes());
    id_18(&format!("005{}", HEXLOWER.encode(&digest.as_ref()[..6])))
}
