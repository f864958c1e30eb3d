//! A request as handlers take it: who asks, in which form they want the answer, and the fields of the body,
//! each of the right type or refused by name.

use std::sync::Arc;

use ::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use ::http::request::Parts;
use ::http::{HeaderMap, HeaderValue};
use axum::extract::{FromRequest, FromRequestParts, Request};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use secrecy::SecretString;
use tokio::time::Instant;

use super::accept::Form;
use super::observe::RequestId;
use super::{BodyGate, Refusal, Shared};
use crate::callers::{Caller, Peer};
use crate::json::{Json, Members};
use crate::tokens::Objection;
use crate::traces::{Fact, Trace};

/// What the connection knows of a request.
#[derive(Clone)]
pub struct Arrival {
    /// When its first byte came.
    pub began: Instant,
    /// Why it isn't looked at.
    pub refusal: Option<Refusal>,
    pub peer: Option<Arc<Peer>>,
    pub body: Arc<BodyGate>,
}

/// The caller behind a request, with all that it may use.
pub(super) struct Asker {
    pub caller: Arc<Caller>,
    /// By what it is known, for the audit line.
    pub credential: &'static str,
    pub id: RequestId,
}

impl FromRequestParts<Shared> for Asker {
    type Rejection = Refusal;

    /// No key, a wrong key and a malformed header are told apart by nobody. Who sends a key is the caller of that
    /// key or nobody: with a wrong one, the connection's own caller must not take its place unnoticed.
    async fn from_request_parts(parts: &mut Parts, service: &Shared) -> Result<Self, Refusal> {
        let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
        let header = headers.next();
        if headers.next().is_some() {
            return Err(Refusal::SeveralCredentials);
        }
        let rooms = service.rooms.load();
        let peer = parts.extensions.get::<Arrival>().and_then(|arrival| arrival.peer.as_ref());
        let (credential, caller) = match (header, peer) {
            (Some(header), _) => {
                ("api_key", bearer(header).and_then(|api_key| rooms.callers.by_api_key(api_key)))
            }
            (None, Some(peer)) => ("connection", rooms.callers.by_peer(peer)),
            (None, None) => return Err(Refusal::InvalidClient),
        };
        let caller = caller.cloned().ok_or(Refusal::InvalidClient)?;
        parts.extensions.insert(KnownCaller(caller.clone()));
        let id = parts.extensions.get::<RequestId>().cloned();
        let id = id.expect("the door gives every request an id");
        id.trace().note(Fact::Caller(&caller.name));
        Ok(Self { caller, credential, id })
    }
}

/// Goes with a request whose caller is known, so that its body may be read.
#[derive(Clone)]
struct KnownCaller(Arc<Caller>);

impl Asker {
    /// Where the request stands in a trace.
    pub const fn trace(&self) -> &Trace {
        self.id.trace()
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750, section 2.1).
fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

impl FromRequestParts<Shared> for Form {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Refusal> {
        Self::accepted(&parts.headers).ok_or(Refusal::NotAcceptable)
    }
}

/// The members of the JSON object that is a request's body.
pub(super) struct Fields(Members);

impl FromRequest<Shared> for Fields {
    type Rejection = Refusal;

    /// Reads a body only of a caller that is known. One that asks too often is told so behind the body, so that it can
    /// use the connection again.
    async fn from_request(request: Request, service: &Shared) -> Result<Self, Refusal> {
        let KnownCaller(caller) = request.extensions().get::<KnownCaller>().ok_or(Refusal::InvalidClient)?;
        let turn = caller
            .take_turn(service.clock.steady())
            .map_err(|retry_after| Refusal::RateLimited { retry_after, who: "this caller" });
        is_plain_json(request.headers())?;
        let limit = service.limits.body;
        // At once, and not when the limit is reached.
        if declared_length(request.headers()).is_some_and(|length| length > limit) {
            return Err(Refusal::BodyTooLarge(limit));
        }
        let within = service.limits.body_timeout();
        let mut deadline = Instant::now() + within;
        if let Some(arrival) = request.extensions().get::<Arrival>() {
            deadline = deadline.min(arrival.began + service.limits.request_timeout);
        }
        let body = Limited::new(request.into_body(), limit).collect();
        let body = tokio::time::timeout_at(deadline, body).await;
        let body = body.map_err(|_| Refusal::ArrivedTooSlowly { what: "body", within })?;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => Refusal::BodyTooLarge(limit),
            None => Refusal::BodyCutShort,
        })?;
        turn?;
        Self::parse(&body.to_bytes())
    }
}

/// Of UTF-8 and, in both orders, of UTF-16; no JSON begins with one (RFC 8259, section 8.1).
const BYTE_ORDER_MARKS: &[&[u8]] = &[b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe"];

impl Fields {
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        if BYTE_ORDER_MARKS.iter().any(|mark| body.starts_with(mark)) {
            let message = "the body begins with a byte order mark (BOM): send JSON in UTF-8 without one";
            return Err(Refusal::NotJson(message.to_owned()));
        }
        let json =
            Json::parse(body).map_err(|error| Refusal::NotJson(format!("the body isn't JSON: {error}")))?;
        if let Some(field) = json.doubled() {
            return Err(Objection::new(field, "is given twice").into());
        }
        match json {
            Json::Object(members) => Ok(Self(members)),
            other => {
                let message = format!("the body must be a JSON object, not {}", other.type_name());
                Err(Refusal::NotJson(message))
            }
        }
    }

    /// Refuses every field but `known`.
    pub fn only(self, known: &[&str]) -> Result<Self, Refusal> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(self),
            Some((name, _)) => {
                let message = format!("isn't a field of this request; it has {}", known.join(", "));
                Err(Objection::new(name, message).into())
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<Json> {
        let at = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.swap_remove(at).1)
    }

    pub fn required_string(&mut self, name: &str) -> Result<String, Refusal> {
        self.string(name)?.ok_or_else(|| Objection::new(name, "is missing").into())
    }

    pub fn string(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a string", &other)),
        }
    }

    /// A token or the like; taken out of the text at once.
    pub fn secret(&mut self, name: &str) -> Result<Option<SecretString>, Refusal> {
        Ok(self.string(name)?.map(SecretString::from))
    }

    pub fn seconds(&mut self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::Number(number)) => match number.as_u64() {
                None => Err(Objection::new(name, "must be a whole number of seconds").into()),
                seconds => Ok(seconds),
            },
            Some(other) => Err(wrong_type(name, "a whole number of seconds", &other)),
        }
    }

    /// An object of objects, each under its name.
    pub fn objects(&mut self, name: &str) -> Result<Vec<(String, Members)>, Refusal> {
        let inner = |(entry, value): (String, Json)| match value {
            Json::Object(members) => Ok((entry, members)),
            other => Err(wrong_type(&format!("{name}.{entry}"), "an object", &other)),
        };
        self.object(name)?.into_iter().map(inner).collect()
    }

    pub fn object(&mut self, name: &str) -> Result<Members, Refusal> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Json::Object(members)) => Ok(members),
            Some(other) => Err(wrong_type(name, "an object", &other)),
        }
    }
}

fn wrong_type(name: &str, wanted: &str, got: &Json) -> Refusal {
    Objection::new(name, format!("must be {wanted}, not {}", got.type_name())).into()
}

/// `application/json`, in UTF-8 if it says in which (RFC 8259, section 8.1), and not compressed.
fn is_plain_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let unsupported = |what| Err(Refusal::UnsupportedMediaType(what));
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return unsupported("send the body as it is, without Content-Encoding");
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(media), None) = (types.next(), types.next()) else {
        return unsupported("send the body as JSON, with one header `Content-Type: application/json`");
    };
    let mut parts = media.to_str().unwrap_or_default().split(';').map(str::trim);
    if !parts.next().is_some_and(|media| media.eq_ignore_ascii_case("application/json")) {
        return unsupported("send the body as JSON, with `Content-Type: application/json`");
    }
    let is_another_charset = |parameter: &str| {
        let charset = parameter.get(..8).filter(|name| name.eq_ignore_ascii_case("charset="));
        charset.is_some() && !parameter[8..].trim_matches('"').eq_ignore_ascii_case("utf-8")
    };
    if parts.any(is_another_charset) {
        return unsupported(
            "send the body in UTF-8: leave the parameter `charset` of Content-Type out, or say `charset=utf-8`",
        );
    }
    Ok(())
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
