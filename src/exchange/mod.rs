//! The Salesforce client: exchanges signed JWTs for access tokens, caches the tokens, and explains Salesforce's errors.
//!
//! There are two exchanges: the OAuth 2.0 JWT bearer flow (RFC 7523), and the access token of Messaging for In-App and Web.
//!
//! - Client (`client`, `upstream`): one exchange, and the HTTP transport that sends its request.
//! - Diagnosis (`errors`): maps Salesforce's error responses to a cause, a fix, and whether to retry.
//! - Single-flight (`single_flight`): concurrent requests for one cache key share one exchange. It runs in its own task, so
//!   a caller that disconnects neither cancels nor repeats it.
//! - Stale-while-revalidate (`token`, `read_through_cache`): the first request after 65 to 75 % of a token's lifetime starts
//!   a refresh in the background. If the refresh fails, the old token is served until it expires.
//! - `rejected_token`: a token that a caller reports as rejected is replaced only after a new one arrived.
//!   `rejection_limit` limits how often that can be asked for one cache key.
//! - `check_session`: the clients of the token endpoint can't report a rejected token. So the session of a cached token can be
//!   checked before it is served to them (`session_check`).
//! - Expiry: a token expires by the wall clock or by the monotonic clock, whichever says so first. Setting the host's clock
//!   back doesn't extend its lifetime.
//! - Negative cache (`negative_cache`), circuit breaker (`circuit_breaker`) and login rate limit (`login_rate_limit`):
//!   they limit the requests to Salesforce, however many requests callers send. The login rate limit is a sliding window
//!   for each account, counted in memory and, where configured, in a file and across replicas.
//! - Shared cache (`shared`): replicas can share tokens through Redis. Without Redis each replica uses its own memory.
//! - Revoked keys: a token that was obtained with a key that its profile no longer has is never served.
//! - Validation (`request`): only the tokens of complete, valid responses are cached. The URLs that are passed on must be in
//!   Salesforce's domains or on the token endpoint's host. A messaging session must be verified as the user's.
//! - Authorization happens before, in `api` and `callers`, on each request of a caller. A cache hit doesn't bypass it.
//!
//! `tests/model` drives the exchanger through random histories, with an in-memory store in place of Redis.

mod circuit_breaker;
mod client;
mod deps;
pub mod errors;
mod exchange_error;
mod exchanger;
mod login_rate_limit;
mod negative_cache;
mod read_through_cache;
mod rejection_limit;
mod request;
mod session_check;
mod shared;
mod single_flight;
mod token;
mod upstream;

pub use deps::ExchangerDeps;
pub(crate) use exchange_error::SalesforceError;
pub use exchange_error::{ExchangeError, TimeoutCause};
pub use exchanger::Exchanger;
pub(crate) use exchanger::ExchangerBuildError;
pub(crate) use login_rate_limit::reject_shared_directory;
pub use read_through_cache::FetchOptions;
pub use shared::store;
pub use token::ServedToken;
pub(crate) use token::TokenMetadata;
pub(crate) use upstream::probe;
pub use upstream::{BoxFuture, SessionState, Transport, UpstreamError, UpstreamRequest, UpstreamResponse};
