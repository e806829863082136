//! What the process says about itself: structured logs, the access log, metrics, traces.
//!
//! Names and sinks live here; what happened is handed in. Per-request detail belongs to the access log, not to INFO lines.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod spans;
pub mod trace;
