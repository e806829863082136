//! The language-model protocols: what a request asks, what an answer said, and how a provider wants to be called.
//!
//! Called by the proxy's exchange path and by the AI plugins. Pure: no IO, no clock, no randomness (both are passed in),
//! no async, nothing of pingora or axum; it uses `base` only. Bytes that need not be understood pass through: a request is
//! a view over the client's body, changes are splices, and an answer is observed, never rewritten.
//!
//! | Module | Answers |
//! |---|---|
//! | [`request`] | is this a valid chat request, and what does it ask for? |
//! | [`splice`] | how do I change one field and leave every other byte alone? |
//! | [`multipart`] | the same for a form field of an audio or image request |
//! | [`provider`] | where does this request go, with which path, headers and body? |
//! | [`model_map`] | what does the provider call this model? |
//! | [`failover`] | which API token is used now? |
//! | [`sse`] | where does one event end and the next begin? |
//! | [`observe`] | what did the answer say, and what did it use? |
//! | [`error`] | how is a failure told to the client? |
//! | [`tokens`], [`cost`] | how large was it (estimate), and what did it cost? |

pub mod cost;
pub mod error;
pub mod failover;
pub mod json;
pub mod model_map;
pub mod multipart;
pub mod observe;
pub mod provider;
pub mod request;
pub mod splice;
pub mod sse;
pub mod tokens;
