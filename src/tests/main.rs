//! The one integration binary: starts the real gateway on free ports and talks to it over HTTP.
//!
//! Upstreams are mocks in this process that count their calls. No test needs another, none leaves loopback, none waits by
//! sleeping: what is waited for is asked for until it is there or a generous limit is over.

mod chat;
mod config;
mod flywheel;
mod harness;
mod layering;
mod process;
mod routing;
mod sdk;
mod streams;
