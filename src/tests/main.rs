//! The one integration binary: starts the real gateway on free ports and talks to it over HTTP.
//!
//! Upstreams are mocks in this process that count their calls. No test needs another, none leaves loopback, none waits by
//! sleeping: what is waited for is asked for until it is there or a generous limit is over.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing expectation is how a test speaks"
)]
#![allow(clippy::disallowed_methods, reason = "a test waits for its own tasks")]
#![allow(clippy::needless_pass_by_value, reason = "helpers take what tests have at hand")]

mod acme;
mod answers;
mod auth;
mod balancing;
mod chat;
mod clients;
mod config;
mod control_plane;
mod conversations;
mod defaults;
mod degraded;
mod duplex;
mod edge;
mod flywheel;
mod found_services;
mod full_disk;
mod gateway_api;
mod guards;
mod harness;
mod higress_config;
mod hot_swap;
mod ingress;
mod layering;
mod matching;
mod mcp;
mod models;
mod plugin_objects;
mod plugins;
mod pooled;
mod process;
mod process_log;
mod protocols;
mod rag;
mod rag_answers;
mod rag_s3;
mod rag_sources;
mod registries;
mod retraining;
mod route_limits;
mod routing;
mod sdk;
mod shadow;
mod streams;
mod timeouts;
mod traffic;
mod transform;
mod upstreams;
