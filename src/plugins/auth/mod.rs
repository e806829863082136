//! Who is calling.

pub mod key_auth;
