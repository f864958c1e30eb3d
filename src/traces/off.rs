//! A build without the feature `otel`: nothing is recorded, which costs nothing.

#![expect(clippy::missing_const_for_fn, reason = "what records isn't const either")]

use std::sync::Arc;

use http::Method;

use super::context::Context;
use super::{Fact, endpoint};
use crate::clock::Randomness;
use crate::config::{Environment, HttpsUrl};

/// No span.
#[derive(Clone, Default)]
pub(super) struct Recording(());

impl Recording {
    pub fn server(_: Option<&Context>, _: &Method, _: &'static str) -> Option<(Self, Context)> {
        None
    }

    pub fn step(&self, _: &'static str) -> Option<Self> {
        None
    }

    pub fn client(&self, _: &Context, _: &HttpsUrl) -> Option<(Self, Context)> {
        None
    }

    pub fn note(&self, _: Fact<'_>) {}

    pub fn end(&self) {}
}

/// No export.
pub struct Export;

impl Export {
    /// Says in the log if somebody waits for spans.
    pub fn start(environment: &Environment, _: Arc<dyn Randomness>) -> Self {
        if let Some(variable) = endpoint(environment) {
            tracing::warn!(
                variable,
                "is set, but this build of tokenmint exports no traces: build it with `--features otel`, or leave the variable out"
            );
        }
        Self
    }

    pub fn finish(self) {}
}
