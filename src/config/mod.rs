//! Configuration: from YAML objects on disk to a checked model of the gateway.
//!
//! Three types, three stages. [`RawObject`] is one YAML object as written (`source/` reads and watches the folder).
//! [`Gateway`] is what the objects mean, valid by construction ([`compile()`] makes it and collects *all* problems). The
//! running snapshot is built from it by `server`, which swaps whole snapshots and keeps the old one when a problem is an
//! error. `settings` is the other input: `config.toml`, process settings only.
//!
//! Called by `server` and `cli`; the model is read by `proxy`, `plugins` and `admin`. This module knows no plugin (it
//! asks a [`PluginCatalog`]), opens no socket, and is the only one that parses YAML.

mod annotations;
mod assembly;
mod catalog;
mod compile;
mod diff;
mod fields;
mod header_change;
mod higress;
mod link;
pub mod model;
mod problem;
pub mod re2;
pub mod settings;
mod source;
mod suggest;
mod yaml;

pub use catalog::{FieldProblem, PluginCatalog, Scope};
pub use compile::{Compiled, Discovered, INERT_KINDS, compile, compile_with};
pub use diff::{Changes, diff};
pub use link::is_of_folder;
pub use model::Gateway;
pub use problem::{Problem, Severity};
pub use settings::Settings;
pub use source::{Folder, Listing, RawObject, SourceError, Watcher, flattened, replace, tls_secret, try_to_write};

/// Objects that name no namespace belong to this one, as everything does in a Higress standalone installation.
pub const SYSTEM_NAMESPACE: &str = "higress-system";

#[cfg(test)]
mod tests;
