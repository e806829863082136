//! Who is calling. Each plugin is a file or folder; the other modules are what several of them share: `consumers` (whom to
//! check and to let pass), `places` (where tokens stand), `password`, `clock`.

pub mod basic_auth;
pub mod clock;
pub mod consumers;
pub mod hmac_auth;
pub mod hmac_auth_apisix;
pub mod key_auth;
pub mod password;
pub mod places;
