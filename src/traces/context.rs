//! Parses and writes `traceparent` and `tracestate` (W3C Trace Context, level 1). Malformed values are ignored.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::clock::Randomness;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Length of version 00: `00-`, trace id, `-`, span id, `-`, flags.
const TRACEPARENT_LENGTH: usize = 55;
/// The longest `tracestate`, in bytes: at least this length should be propagated (section 3.3.1.5). A longer one is dropped.
const MAX_TRACESTATE_BYTES: usize = 512;
/// The most members of `tracestate`. One with more is dropped.
const MAX_TRACESTATE_MEMBERS: usize = 32;

/// The context of a span. Both ids are lower-case hexadecimal digits. Neither consists of zeros alone.
pub(super) struct TraceContext {
    pub(crate) trace_id: [u8; 32],
    pub(crate) span_id: [u8; 16],
    pub(crate) sampled: bool,
    /// Vendor data, passed on unchanged if it is valid, otherwise dropped. Several headers become one.
    pub(crate) tracestate: Option<HeaderValue>,
}

impl TraceContext {
    /// Reads the context of a request; `None` unless it has exactly one `traceparent`, well-formed.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let (parent, None) = (parents.next()?, parents.next()) else { return None };
        let context = Self::parse(parent.as_bytes())?;
        Some(Self { tracestate: parse_tracestate(headers), ..context })
    }

    /// Parses `traceparent`. Future versions may append fields (section 3.2.4).
    fn parse(parent: &[u8]) -> Option<Self> {
        let (known, more) = parent.split_at_checked(TRACEPARENT_LENGTH)?;
        let dashed = [2, 35, 52].iter().all(|&at| known[at] == b'-');
        let (version, trace_id, span_id, flags) = (&known[..2], &known[3..35], &known[36..52], &known[53..]);
        let whole = match version {
            b"00" => more.is_empty(),
            b"ff" => false,
            _ => more.is_empty() || more.starts_with(b"-"),
        };
        let is_hex = |digits: &[u8]| digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let is_id = |digits: &[u8]| is_hex(digits) && digits.iter().any(|&digit| digit != b'0');
        let flags = std::str::from_utf8(flags).ok().filter(|flags| is_hex(flags.as_bytes()))?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (dashed && whole && is_hex(version) && is_id(trace_id) && is_id(span_id)).then_some(())?;
        Some(Self {
            trace_id: trace_id.try_into().ok()?,
            span_id: span_id.try_into().ok()?,
            sampled: flags & 1 == 1,
            tracestate: None,
        })
    }

    pub(crate) fn trace_id(&self) -> &str {
        std::str::from_utf8(&self.trace_id).expect("hexadecimal digits are ASCII")
    }

    pub(crate) fn span_id(&self) -> &str {
        std::str::from_utf8(&self.span_id).expect("hexadecimal digits are ASCII")
    }

    /// Creates the context of a child span; `None` if no randomness is available.
    pub(crate) fn child(&self, randomness: &dyn Randomness) -> Option<Self> {
        let mut bytes = [0; 8];
        randomness.fill(&mut bytes).ok()?;
        // An id of zeros is invalid.
        let id = format!("{:016x}", u64::from_be_bytes(bytes).max(1));
        let span_id = id.as_bytes().try_into().ok()?;
        Some(Self {
            trace_id: self.trace_id,
            span_id,
            sampled: self.sampled,
            tracestate: self.tracestate.clone(),
        })
    }

    /// Returns both headers. Level 1 defines one flag, `sampled`; the others must be 0 (section 3.2.2.5).
    pub(crate) fn headers(&self) -> HeaderMap {
        let parent = format!("00-{}-{}-{:02x}", self.trace_id(), self.span_id(), u8::from(self.sampled));
        let parent = HeaderValue::from_str(&parent).expect("hexadecimal digits and dashes");
        let state = self.tracestate.clone().map(|state| (TRACESTATE, state));
        std::iter::once((TRACEPARENT, parent)).chain(state).collect()
    }
}

/// Reads `tracestate`, which may be split into several headers.
fn parse_tracestate(headers: &HeaderMap) -> Option<HeaderValue> {
    let values = headers.get_all(TRACESTATE).iter().map(HeaderValue::to_str);
    let text = values.collect::<Result<Vec<_>, _>>().ok()?.join(",");
    let members =
        || text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    let good = text.len() <= MAX_TRACESTATE_BYTES
        && (1..=MAX_TRACESTATE_MEMBERS).contains(&members().count())
        && members()
            .all(|member| member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value)));
    good.then(|| HeaderValue::from_str(&text).ok())?
}

/// Whether a key is valid: a simple key, or `tenant@system` (section 3.3.1.3.1).
fn is_key(key: &str) -> bool {
    let part = |text: &str, most: usize, digit_first: bool| {
        let first = text.bytes().next();
        (1..=most).contains(&text.len())
            && first.is_some_and(|b| b.is_ascii_lowercase() || (digit_first && b.is_ascii_digit()))
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'))
    };
    match key.split_once('@') {
        None => part(key, 256, false),
        Some((tenant, system)) => part(tenant, 241, true) && part(system, 14, false),
    }
}

/// Whether a value is valid: printable ASCII without comma and equals sign (section 3.3.1.3.2).
fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && value.bytes().all(|b| matches!(b, b' '..=b'~') && b != b',' && b != b'=')
}
