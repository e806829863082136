//! How much, and where to: limits, tags, rewritten calls.

pub mod cluster_key_rate_limit;
pub mod de_graphql;
pub mod frontend_gray;
pub mod geo_ip;
pub mod key_rate_limit;
mod rate;
pub mod traffic_tag;
