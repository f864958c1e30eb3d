//! Salesforce as a client sees it: the two exchanges, what its errors mean, and the cache in front.
//!
//! - One exchange per key, however many ask (`single_flight`). It runs by itself: whoever hangs up neither cancels nor
//!   repeats it.
//! - A hit never waits: between 65 and 75 % of its life a token is renewed behind the answer (stale-while-revalidate), and
//!   if that fails, the old one serves until it really expires.
//! - A rejected token is dropped only when there is another, and as often as `rejection_limit` says.
//! - A token lives until the earlier of the wall clock and a steady one says that it is over, so that no
//!   correction of the host's time prolongs it.
//! - Failures are remembered (`negative_cache`), hosts in trouble left alone (`circuit_breaker`), logins budgeted
//!   (`login_budget`): nothing here can be made to ask Salesforce as often as callers ask us.
//! - Replicas may share what they keep (`shared`); each goes on alone when they can't.
//! - A token that was got with a key which its profile doesn't have any more is handed out to nobody.
//! - Nothing is kept of an answer that isn't whole, verified and in Salesforce's own domains.
//! - Who may ask is decided before, on every request; a hit is no permission.
//!
//! `tests/model` drives all of it through random histories.

mod circuit_breaker;
mod client;
mod deps;
pub mod errors;
mod exchange_error;
mod exchanger;
mod login_rate_limit;
mod negative_cache;
mod rejection_limit;
mod request;
mod shared;
mod single_flight;
mod token;
mod upstream;

pub use deps::ExchangerDeps;
pub use exchange_error::{ExchangeError, SalesforceError, TimeoutCause};
pub use exchanger::{Exchanger, ExchangerBuildError, FetchOptions};
pub use shared::store;
pub use token::{AccessToken, ServedToken, TokenMetadata};
pub use upstream::{
    BoxFuture, ProbeResponse, Transport, UpstreamError, UpstreamRequest, UpstreamResponse, probe,
};
