//! Hessian 2, the encoding of Dubbo's values: what JSON can say is written, everything is read.
//!
//! Written from the specification ("Hessian 2.0 Serialization Protocol"). Strings are counted in UTF-16 units and each unit
//! is encoded by itself, as Java does.

mod read;
mod write;

pub use read::{Reader, Unreadable};
pub use write::{Number, Writer};

#[cfg(test)]
mod tests;
