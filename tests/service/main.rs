//! Integration tests of the service: the real binary, real files and real sockets. Some run the service in the
//! test's process, to set its clock.

#![allow(clippy::panic, clippy::print_stdout, reason = "a test panics to fail, and says what it leaves out")]
#![allow(clippy::many_single_char_names, reason = "RFC 8017 names the numbers of a key by single letters")]
#![allow(clippy::collection_is_never_read, reason = "connections are held open by being kept")]

mod aws_kms;
mod batch;
mod bundle;
mod callers;
mod command_line;
mod commands;
mod configuration;
mod connections;
mod credentials;
mod doctor;
mod environment;
mod example;
mod exchange;
mod exchange_faults;
mod fake_kms;
mod fake_vault;
mod host;
mod hs256;
mod import_cycles;
mod in_process;
mod issuers;
mod key_files;
mod listeners;
mod logs;
mod messages;
mod minting;
mod module_order;
mod openapi;
mod outages;
mod pages;
mod panics;
mod pkcs11;
mod policy;
mod properties;
mod publishing;
mod readers;
mod reference;
mod refusals;
mod reload;
mod remote_keys;
mod request_smuggling;
mod retirement;
mod rotation;
mod salesforce_metadata;
mod sandbox;
mod sealed_keys;
mod secrecy;
mod shared_cache;
mod supervisor;
mod supply;
mod support;
mod tls;
mod token_endpoint;
mod traces;
mod troubleshooting;
