//! Reads requests: the authenticated caller, the response format, and the fields of the JSON body.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;
use secrecy::{ExposeSecret as _, SecretString};

use super::content_negotiation::ResponseFormat;
use super::middleware::RequestScope;
use super::request_body::{JSON, read_body};
use super::{ApiError, AppState, RequestContext, SharedState};
use crate::callers::{BearerLookup, Caller, Credential, JwtError};
use crate::config::Name;
use crate::json::{Json, Members};
use crate::tokens::InvalidField;
use crate::traces::{SpanAttribute, Trace};

/// The authenticated caller of a request.
pub(super) struct AuthenticatedCaller {
    pub(crate) caller: Arc<Caller>,
    /// How the caller authenticated, for the audit line.
    pub(crate) credential: Credential,
    pub(crate) scope: RequestScope,
}

impl FromRequestParts<SharedState> for AuthenticatedCaller {
    type Rejection = ApiError;

    /// See [`AuthenticatedCaller::by_bearer_or_connection`].
    async fn from_request_parts(parts: &mut Parts, state: &SharedState) -> Result<Self, ApiError> {
        let authenticated = Self::by_bearer_or_connection(parts, state).await?;
        parts.extensions.insert(KnownCaller(authenticated.caller.clone()));
        Ok(authenticated)
    }
}

impl AuthenticatedCaller {
    /// Authenticates the caller by its API key or JWT, or without an `Authorization` header by its connection.
    ///
    /// # Errors
    /// Missing credentials, a wrong key, a refused JWT and a malformed header give the same error. A request with a wrong key is
    /// rejected even if its connection belongs to a caller.
    pub(super) async fn by_bearer_or_connection(
        parts: &Parts,
        state: &SharedState,
    ) -> Result<Self, ApiError> {
        let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
        let header = headers.next();
        if headers.next().is_some() {
            return Err(ApiError::MultipleCredentials);
        }
        if let Some(header) = header {
            let credential = credentials_of(header, "bearer").ok_or(ApiError::InvalidClient)?;
            let (kind, caller) = authenticate_bearer(state, credential, scope_of(parts)).await?;
            return Ok(Self::new(parts, kind, caller));
        }
        let peer = parts.extensions.get::<RequestContext>().and_then(|context| context.peer.as_ref());
        let caller = peer.and_then(|peer| state.snapshot.load().callers.by_peer(peer).cloned());
        Ok(Self::new(parts, Credential::Connection, caller.ok_or(ApiError::InvalidClient)?))
    }

    /// Authenticates the caller by the JWT of its platform.
    ///
    /// # Errors
    /// The JWT is refused, or its issuer's keys aren't available.
    pub(super) async fn by_jwt(
        parts: &Parts,
        state: &SharedState,
        jwt: &SecretString,
    ) -> Result<Self, ApiError> {
        let credential = jwt.expose_secret().as_bytes();
        match authenticate_bearer(state, credential, scope_of(parts)).await? {
            (Credential::Jwt, caller) => Ok(Self::new(parts, Credential::Jwt, caller)),
            // An API key is no JWT.
            _ => Err(ApiError::InvalidClient),
        }
    }

    /// The caller of a request, found by this kind of credential.
    pub(super) fn new(parts: &Parts, credential: Credential, caller: Arc<Caller>) -> Self {
        let scope = scope_of(parts).clone();
        scope.trace().set_attribute(SpanAttribute::Caller(&caller.name));
        Self { caller, credential, scope }
    }

    /// The trace of the request.
    pub(crate) const fn trace(&self) -> &Trace {
        self.scope.trace()
    }
}

fn scope_of(parts: &Parts) -> &RequestScope {
    parts.extensions.get::<RequestScope>().expect("the middleware gives every request a scope")
}

/// Finds the caller of an API key or a JWT, and how it authenticated. Logs why a JWT is refused, because the response doesn't say
/// it. The number of these lines is limited.
async fn authenticate_bearer(
    state: &SharedState,
    credential: &[u8],
    scope: &RequestScope,
) -> Result<(Credential, Arc<Caller>), ApiError> {
    let now = state.clock.now();
    let digest = match state.snapshot.load().callers.find_bearer(credential, now) {
        BearerLookup::Caller(kind, caller) => return Ok((kind, caller.clone())),
        BearerLookup::UnverifiedJwt(digest) => digest,
        BearerLookup::Unknown => return Err(ApiError::InvalidClient),
    };
    // Verification may wait for keys, so it holds the snapshot itself and not a guard.
    let snapshot = state.snapshot.load_full();
    match snapshot.callers.by_jwt(credential, digest, &*state.clock).await {
        Ok(caller) => Ok((Credential::Jwt, caller.clone())),
        Err(error) => {
            if let JwtError::Refused { issuer, refusal } = &error
                && snapshot.callers.may_log_refused_jwt(issuer.as_ref(), state.clock.monotonic())
            {
                tracing::warn!(
                    request_id = scope.id(),
                    trace_id = scope.trace_id(),
                    issuer = issuer.as_ref().map(Name::as_str),
                    rule = refusal.rule(),
                    "refused a caller: {error}"
                );
            }
            Err(error.into())
        }
    }
}

/// The request extension that says that the caller is authenticated. Without it, [`RequestFields`] rejects the request before it
/// reads the body.
#[derive(Clone)]
struct KnownCaller(Arc<Caller>);

/// The credentials of an `Authorization` header with this scheme, whose name has any case (RFC 9110, section 11.4).
pub(super) fn credentials_of<'a>(header: &'a HeaderValue, scheme: &str) -> Option<&'a [u8]> {
    let (name, credentials) = header.as_bytes().split_at_checked(scheme.len())?;
    let credentials = credentials.strip_prefix(b" ")?;
    name.eq_ignore_ascii_case(scheme.as_bytes()).then_some(credentials)
}

impl FromRequestParts<SharedState> for ResponseFormat {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &SharedState) -> Result<Self, ApiError> {
        Self::negotiate(&parts.headers).ok_or(ApiError::NotAcceptable)
    }
}

/// The fields of the request body, a JSON object. Each accessor removes a field and checks its type.
pub(super) struct RequestFields(Members);

impl FromRequest<SharedState> for RequestFields {
    type Rejection = ApiError;

    /// Reads and parses the body of an authenticated caller. Also counts the request against the caller's rate limit. A caller
    /// above its limit gets the error only after its body was read, so that the connection can be reused.
    async fn from_request(request: Request, state: &SharedState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let KnownCaller(caller) = parts.extensions.get::<KnownCaller>().ok_or(ApiError::InvalidClient)?;
        let rate_check = check_rate_limit(caller, state);
        let body = read_body(&parts, body, &JSON, state).await?;
        rate_check?;
        Self::parse(&body)
    }
}

/// Counts a request against the rate limit of its caller.
pub(super) fn check_rate_limit(caller: &Caller, state: &AppState) -> Result<(), ApiError> {
    caller.check_rate_limit(state.clock.monotonic()).map_err(|retry_after| ApiError::RateLimited {
        retry_after,
        why: "this caller sent more requests than its rate and burst allow",
    })
}

/// The byte order marks of UTF-8, UTF-16BE and UTF-16LE. JSON must not begin with one (RFC 8259, section 8.1).
const BYTE_ORDER_MARKS: &[&[u8]] = &[b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe"];

impl RequestFields {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if BYTE_ORDER_MARKS.iter().any(|mark| body.starts_with(mark)) {
            let message = "the body begins with a byte order mark (BOM): send JSON in UTF-8 without one";
            return Err(ApiError::NotJson(message.to_owned()));
        }
        if body.trim_ascii().is_empty() {
            return Err(ApiError::NotJson("the body is empty: send a JSON object".to_owned()));
        }
        let json = Json::parse(body).map_err(|error| ApiError::NotJson(not_json(&error)))?;
        if let Some(field) = json.duplicate_key() {
            return Err(InvalidField::new(field, "is given twice").into());
        }
        match json {
            Json::Object(members) => Ok(Self(members)),
            other => {
                let message = format!("the body must be a JSON object, not {}", other.type_name());
                Err(ApiError::NotJson(message))
            }
        }
    }

    /// Rejects fields that aren't in `known`.
    pub(crate) fn allow_only(self, known: &[&str]) -> Result<Self, ApiError> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(self),
            Some((name, _)) => {
                let message = format!("isn't a field of this request; its fields are {}", known.join(", "));
                Err(InvalidField::new(name, message).into())
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<Json> {
        let at = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a string", &other)),
        }
    }

    /// Takes a string that is a secret, for example a token.
    pub(crate) fn secret(&mut self, name: &str) -> Result<Option<SecretString>, ApiError> {
        Ok(self.string(name)?.map(SecretString::from))
    }

    /// Takes a number of seconds. A negative number counts as 0, and a too large one as the largest, so that the check of the
    /// bounds rejects it.
    pub(crate) fn seconds(&mut self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::Number(number)) => match number.as_saturated_u64() {
                None => {
                    let message = "must be a whole number of seconds, in digits only";
                    Err(InvalidField::new(name, message).into())
                }
                seconds => Ok(seconds),
            },
            Some(other) => Err(wrong_type(name, "a whole number of seconds", &other)),
        }
    }

    /// Takes an object of objects.
    pub(crate) fn objects(&mut self, name: &str) -> Result<Vec<(String, Members)>, ApiError> {
        let inner = |(entry, value): (String, Json)| match value {
            Json::Object(members) => Ok((entry, members)),
            other => Err(wrong_type(&format!("{name}.{entry}"), "an object", &other)),
        };
        self.object(name)?.into_iter().map(inner).collect()
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Members, ApiError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Json::Object(members)) => Ok(members),
            Some(other) => Err(wrong_type(name, "an object", &other)),
        }
    }
}

/// The message for a body that `serde_json` rejects with `error`.
fn not_json(error: &str) -> String {
    let is_half_pair = ["unexpected end of hex escape", "lone leading surrogate"];
    if is_half_pair.iter().any(|message| error.starts_with(message)) {
        let place = error.find(" at line").map_or("", |at| &error[at..]);
        return format!(
            "the body isn't JSON: half of a surrogate pair{place}; escape both halves, like \\ud83d\\ude00, or send the character in UTF-8"
        );
    }
    format!("the body isn't JSON: {error}")
}

fn wrong_type(name: &str, wanted: &str, got: &Json) -> ApiError {
    InvalidField::new(name, format!("must be {wanted}, not {}", got.type_name())).into()
}
