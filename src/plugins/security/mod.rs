//! Who may ask what: origins, addresses, forbidden contents, robots.

pub mod bot_detect;
pub mod cors;
pub mod ip_restriction;
pub mod request_block;
