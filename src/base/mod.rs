//! What every other module may use: secrets, request ids, tracked tasks, a bounded cache, shared values, the cryptography of the process.
//!
//! Standard library and small crates only. Nothing here knows HTTP, configuration or models.

pub mod cache;
pub mod ids;
pub mod secret;
pub mod shared;
pub mod tasks;
pub mod tls;
