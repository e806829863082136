//! Weirgate: an AI gateway in one binary. See `ARCHITECTURE.md` at the top of the repository for the map; the module list
//! below is ordered as modules may use one another (each uses those under it, never those above).

pub mod cli;
pub mod server;

pub mod admin;
pub mod proxy;

pub mod plugins;

pub mod learning;
pub mod mcp;
pub mod rag;
pub mod routing;

pub mod acme;
pub mod discovery;
pub mod flywheel;
pub mod infer;
pub mod rpc;
pub mod stores;

pub mod config;

pub mod telemetry;

pub mod llm;

pub mod base;
