//! A model provider: from a client's request to the one the provider is sent.
//!
//! [`ProviderConfig::parse`] checks the configuration, [`Provider::prepare`] applies it to a request: host, path, credential,
//! the provider's name of the model, enforced settings. Pure; the exchange connects, retries and picks the token
//! ([`failover`](super::failover)).

mod api;
mod config;
mod endpoint;
mod fields;
pub mod policy;
mod prepare;
mod table;

pub use api::{Api, Recognised, recognise};
pub use config::{BasePath, CustomSetting, Protocol, ProviderConfig};
pub use endpoint::{Address, Direct, Endpoint};
pub use fields::{FieldError, FieldErrorKind};
pub use prepare::{ClientRequest, Provider, ProviderRequest};
pub use table::{Adapter, Auth, ProviderType};

#[cfg(test)]
mod tests;
