//! Password hashes in the forms of `htpasswd` and crypt(3) that Higress' basic-auth takes
//! (`plugins/wasm-cpp/common/crypto_util.cc`): `{PLAIN}`, `{SHA}`, `{SSHA}`, `$apr1$`, `$1$`, `$5$`, `$6$`, `$2a$` and its kin.
//!
//! Not taken: crypt's first form (DES, 13 characters without a `$`), which keeps eight characters and is searched through in
//! hours.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use ring::digest;
use sha_crypt::{PasswordHashRef, PasswordVerifier as _, ShaCrypt};

use crate::base::secret::Secret;

#[derive(Debug, Clone)]
pub enum PasswordHash {
    Plain(Secret),
    /// SHA-1 of password and salt.
    Sha1 {
        digest: Vec<u8>,
        salt: Vec<u8>,
    },
    /// 1000 rounds of MD5, with the magic of FreeBSD or of Apache.
    Md5Crypt {
        magic: &'static str,
        salt: String,
        whole: Secret,
    },
    ShaCrypt(Secret),
    Bcrypt(Secret),
}

impl PasswordHash {
    /// # Errors
    /// Why this is no hash to check a password against; nothing of it is shown.
    pub fn parse(text: &str) -> Result<PasswordHash, &'static str> {
        if let Some(plain) = text.strip_prefix("{PLAIN}") {
            return Ok(PasswordHash::Plain(Secret::new(plain)));
        }
        if let Some(encoded) = text.strip_prefix("{SHA}").or_else(|| text.strip_prefix("{SSHA}")) {
            let mut digest = STANDARD.decode(encoded).map_err(|_| "is not base64 after {SHA} or {SSHA}")?;
            if digest.len() < digest::SHA1_OUTPUT_LEN {
                return Err("is shorter than a SHA-1 digest");
            }
            let salt = digest.split_off(digest::SHA1_OUTPUT_LEN);
            return Ok(PasswordHash::Sha1 { digest, salt });
        }
        for magic in ["$apr1$", "$1$"] {
            if let Some((salt, _)) = text.strip_prefix(magic).and_then(|rest| rest.split_once('$')) {
                let salt = salt.chars().take(8).collect();
                return Ok(PasswordHash::Md5Crypt { magic, salt, whole: Secret::new(text) });
            }
        }
        if text.starts_with("$5$") || text.starts_with("$6$") {
            let hash = PasswordHashRef::new(text).map_err(|_| "is no complete SHA-crypt hash")?;
            return Ok(PasswordHash::ShaCrypt(Secret::new(hash.as_str())));
        }
        if text.starts_with("$2") {
            let parts: Result<bcrypt::HashParts, _> = text.parse();
            return parts.map(|_| PasswordHash::Bcrypt(Secret::new(text))).map_err(|_| "is no complete bcrypt hash");
        }
        Err("is in no form known here: {PLAIN}, {SHA}, {SSHA}, $apr1$, $1$, $5$, $6$ or $2y$")
    }

    /// May take tens of milliseconds of a processor: that is what these hashes are for.
    pub fn matches(&self, password: &[u8]) -> bool {
        match self {
            PasswordHash::Plain(plain) => plain.matches(password),
            PasswordHash::Sha1 { digest, salt } => {
                let found = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[password, salt].concat());
                subtle::ConstantTimeEq::ct_eq(found.as_ref(), digest.as_slice()).into()
            }
            PasswordHash::Md5Crypt { magic, salt, whole } => {
                whole.matches(md5_crypt(password, salt.as_bytes(), magic).as_bytes())
            }
            PasswordHash::ShaCrypt(hash) => ShaCrypt::default().verify_password(password, hash.expose()).is_ok(),
            PasswordHash::Bcrypt(hash) => bcrypt::verify(password, hash.expose()).unwrap_or(false),
        }
    }
}

/// MD5-crypt as FreeBSD brought it (`$1$`) and Apache took it over with another magic.
fn md5_crypt(password: &[u8], salt: &[u8], magic: &str) -> String {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut outer = Md5::new().chain_update(password).chain_update(magic).chain_update(salt);
    for start in (0..password.len()).step_by(inner.len()) {
        outer.update(&inner[..inner.len().min(password.len() - start)]);
    }
    let mut bits = password.len();
    while bits > 0 {
        outer.update(if bits & 1 == 1 { &[0][..] } else { &password[..1] });
        bits >>= 1;
    }
    let mut digest = outer.finalize();
    for round in 0..1000 {
        let is_odd = round % 2 == 1;
        let mut step = Md5::new();
        step.update(if is_odd { password } else { &digest[..] });
        if round % 3 != 0 {
            step.update(salt);
        }
        if round % 7 != 0 {
            step.update(password);
        }
        step.update(if is_odd { &digest[..] } else { password });
        digest = step.finalize();
    }
    let mut text = format!("{magic}{}$", String::from_utf8_lossy(salt));
    for [high, middle, low] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        let bits = u32::from(digest[high]) << 16 | u32::from(digest[middle]) << 8 | u32::from(digest[low]);
        push_base64(&mut text, bits, 4);
    }
    push_base64(&mut text, u32::from(digest[11]), 2);
    text
}

/// crypt's own base 64: lowest six bits first.
fn push_base64(text: &mut String, mut bits: u32, n: usize) {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for _ in 0..n {
        text.push(char::from(ALPHABET[(bits & 0x3f) as usize]));
        bits >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl passwd` and the C library's crypt(3).
    #[test]
    fn every_form_is_checked() {
        for hash in [
            "{PLAIN}test123",
            "{SHA}cojt0Pw//L6ToM8G41aOKFIWh7w=",
            "{SSHA}lAEABvLzWoiQCGahiVdDJ0YnyRBzYWx0",
            "$apr1$r31....$0sgGvUE2ebRwj3EuTo/yP1",
            "$1$saltsalt$uODog0jKoMVYs4vDW7pRr.",
            "$5$saltstring$O7oDIcUlbNNSXwFDkfo3OgUHWouWNc50xsLb4oDEec8",
            "$6$saltstring$W4OJbbRWemb6GNnTMa9RlcSozfJ18FNF6ikNnfZxheFZjw2qm0x2U9jSLH1bCqRSluDgFHJWXyl3.cA1TCX/a.",
            "$2b$04$abcdefghijklmnopqrstuuY7PturneRu55TuQb1Ei51BTRdrR8N56",
        ] {
            let parsed = PasswordHash::parse(hash).unwrap_or_else(|why| panic!("{hash} {why}"));
            assert!(parsed.matches(b"test123"), "{hash}");
            assert!(!parsed.matches(b"test124"), "{hash}");
            assert!(!parsed.matches(b""), "{hash}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "rqXexS6ZhobKA", "$2b$04$short", "{SHA}!", "{SSHA}YWJj", "$6$"] {
            assert!(PasswordHash::parse(text).is_err(), "{text}");
        }
    }
}
