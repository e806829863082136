//! The request path, from accepted connection to access log line.
//!
//! 1. `listener` accepts, `tls` picks the certificate by SNI
//! 2. `hygiene` removes what clients must not say, names the request and continues its trace
//! 3. `context` matches the route (`route`) and chooses a destination (`upstream`)
//! 4. `chain` runs the plugins by phase and priority; `body` reads the body if one asks for it
//! 5. `exchange` calls the model provider when the body was read, else pingora streams through
//! 6. `respond` runs the chain in reverse and answers
//! 7. `finish` writes metrics and the access log line
//!
//! `service` calls these stages in this order (a test compares this list with its stage table). `snapshot` is the
//! configuration a request runs under. Nothing here knows what a plugin does or where configuration comes from.

pub mod body;
pub mod chain;
pub mod context;
pub mod exchange;
pub mod finish;
pub mod gzip;
pub mod hygiene;
pub mod listener;
pub mod respond;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod span;
pub mod tls;
pub mod upstream;
