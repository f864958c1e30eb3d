//! The pages of docs/reference: generated from the code, and true of the binary.

mod configuration;
mod exit_codes;
mod http;
mod pages;
