//! The request path, from accepted connection to access log line.
//!
//! 1. `listener` binds and `front` accepts: TLS as the host of the handshake has it (`tls`), or passed through unopened; then
//!    `head` reads each HTTP/1 head within its limits and `framing` refuses what could be read in two ways
//! 2. `hygiene` removes what clients must not say, names the request and continues its trace (`span`); `challenge` answers
//!    certificate authorities
//! 3. `gate` matches the route (`route`, `context`), chooses arm and destination (`arm`), and asks what the route demands:
//!    an allowed address, a token (`limit`); it answers preflight requests (`cors`)
//! 4. `chain` runs the plugins by phase and priority; `body` reads the body if one asks for it. What is for an MCP server of this
//!    process is answered then (`mcp`); what the route sends elsewhere is redirected
//! 5. `outgoing` changes the head as the route says; `exchange` sends it when the body was read (model calls, for one), `dubbo`
//!    calls the service of an Http2Rpc, `exchange` passes bodies on to HTTP/2 upstreams, else pingora streams through (`retry` decides about another attempt); `upstream` and
//!    `resolve` know the addresses, `cluster` what became of them so far, `balance` picks one (`mcp_session` says which has a session), `mirror` sends copies. An error may
//!    lead to a second round from 3 on, with the request as the client sent it (`Context::reenter`)
//! 6. `respond` runs the chain in reverse and answers; `streamed` sends an own answer while it is written, as long as the client has not left (`departure`);
//!    `failure` says what pingora's errors mean
//! 7. `finish` writes metrics and the access log line (`log_line`, if the configuration gives its form)
//!
//! `service` calls these stages in this order (a test compares this list with its stage table), 3 to 5 through `round`. `snapshot` is the
//! configuration a request runs under. Nothing here knows what a plugin does or where configuration comes from.

mod answer_head;
pub mod arm;
mod asked;
pub mod balance;
pub mod body;
pub mod chain;
pub mod challenge;
pub mod client_identity;
pub mod cluster;
pub mod context;
pub mod conversation;
pub mod cors;
pub mod departure;
pub mod dubbo;
pub mod exchange;
pub mod failure;
pub mod finish;
pub mod framing;
pub mod front;
pub mod gate;
pub mod grpc;
pub mod gzip;
pub mod head;
mod http10;
pub mod hygiene;
pub mod limit;
pub mod listener;
pub mod log_line;
pub mod mcp;
pub mod mcp_session;
pub mod mirror;
pub mod outgoing;
pub mod refused;
pub mod resolve;
pub mod respond;
pub mod retry;
pub mod rewound;
pub mod round;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod span;
pub mod streamed;
pub mod tls;
pub mod tunnel;
pub mod upstream;
