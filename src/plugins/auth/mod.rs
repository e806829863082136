//! Who is calling. Each plugin is a file or folder; the other modules are what several of them share: `consumers` (whom to
//! check and to let pass), `places` (where tokens stand), `matching` (patterns over headers and requests), `jwt` and `remote_keys`
//! (tokens and who signed them), `password`, `clock`.

pub mod basic_auth;
pub mod clock;
pub mod consumers;
pub mod ext_auth;
pub mod hmac_auth;
pub mod hmac_auth_apisix;
pub mod jwt;
pub mod jwt_auth;
pub mod key_auth;
pub mod matching;
pub mod oauth;
pub mod oidc;
pub mod opa;
pub mod password;
pub mod places;
pub mod remote_keys;
pub mod simple_jwt_auth;
