//! What every other module may use: secrets, request ids, tracked tasks.
//!
//! Standard library and small crates only. Nothing here knows HTTP, configuration or models.

pub mod ids;
pub mod secret;
pub mod tasks;
