//! Who may ask what: origins, addresses, forbidden contents, robots.

pub mod bot_detect;
pub mod cors;
pub mod ip_restriction;
pub mod replay_protection;
pub mod request_block;
pub mod request_validation;
pub mod sni_misdirect;
pub mod waf;
