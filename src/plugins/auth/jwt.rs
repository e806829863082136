//! JSON Web Tokens (RFC 7519): taking one apart, checking its time, its signature against a key set (RFC 7517), signing one.
//!
//! The words of [`Fault`] are those that Higress' jwt-auth answers with (google/jwt_verify_lib `src/status.cc`). Cryptography is
//! ring's, which rustls has linked anyway. Not known: P-521 (ES512), which ring does not have, and `none`.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use ring::{hmac, signature};
use serde_json::{Map, Value};

/// Keys are written with and without padding.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("Jwt is missing")]
    Missing,
    #[error("Jwt is not in the form of Header.Payload.Signature")]
    Form,
    #[error("Jwt header is an invalid Base64url input or an invalid JSON")]
    Header,
    #[error("Jwt header [alg] field is not a string")]
    Algorithm,
    #[error("Jwt header [kid] field is not a string")]
    KeyId,
    #[error("Jwt payload is an invalid Base64 or an invalid JSON")]
    Payload,
    #[error("Jwt signature is an invalid Base64")]
    Signature,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwt is expired")]
    Expired,
    #[error("Jwt verification fails")]
    Unverified,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    #[error("Jwks remote fetch is failed")]
    NoKeys,
}

/// A token taken apart; nothing in it has been verified.
pub struct Jwt {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    algorithm: String,
    key_id: Option<String>,
    /// What the signature is over.
    signed: String,
    signature: Vec<u8>,
}

impl Jwt {
    /// # Errors
    /// What is wrong with the form.
    pub fn parse(token: &str) -> Result<Jwt, Fault> {
        let mut parts = token.split('.');
        let (Some(head), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Fault::Form);
        };
        let header = json_part(head).ok_or(Fault::Header)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Fault::Algorithm)?.to_owned();
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()).filter(|id| !id.is_empty()),
            Some(_) => return Err(Fault::KeyId),
        };
        let claims = json_part(payload).ok_or(Fault::Payload)?;
        // A time that is no number must not pass for one that is not given.
        if ["exp", "nbf", "iat"].iter().any(|name| claims.get(*name).is_some_and(|time| !time.is_number())) {
            return Err(Fault::Payload);
        }
        let signature = BASE64URL.decode(signature).map_err(|_| Fault::Signature)?;
        Ok(Jwt { header, claims, algorithm, key_id, signed: format!("{head}.{payload}"), signature })
    }

    /// A claim that is text.
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    /// A time, in seconds since 1970.
    pub fn time(&self, claim: &str) -> Option<i64> {
        let value = self.claims.get(claim)?;
        #[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and so far away is as good as never")]
        value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
    }

    /// # Errors
    /// `now` is outside of the token's time, which `skew` seconds widen.
    pub fn check_time(&self, now: i64, skew: i64) -> Result<(), Fault> {
        if self.time("nbf").is_some_and(|from| now.saturating_add(skew) < from) {
            return Err(Fault::NotYetValid);
        }
        if self.time("exp").is_some_and(|until| now > until.saturating_add(skew)) {
            return Err(Fault::Expired);
        }
        Ok(())
    }
}

fn json_part(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&BASE64URL.decode(part).ok()?).ok()
}

/// A key set.
pub struct Jwks {
    keys: Vec<Key>,
}

impl Jwks {
    /// Reads a key set. Keys of kinds not known here are passed over.
    ///
    /// # Errors
    /// No key is left, and why.
    pub fn parse(text: &[u8]) -> Result<Jwks, String> {
        let set: Value = serde_json::from_slice(text).map_err(|error| format!("is not JSON: {error}"))?;
        let Some(written) = set.get("keys").and_then(Value::as_array) else {
            return Err("must have a list \"keys\"".into());
        };
        let mut keys = Vec::with_capacity(written.len());
        let mut faults = Vec::new();
        for (index, key) in written.iter().enumerate() {
            match Key::read(key) {
                Ok(key) => keys.push(key),
                Err(fault) => faults.push(format!("keys[{index}] {fault}")),
            }
        }
        match keys.is_empty() {
            false => Ok(Jwks { keys }),
            true if faults.is_empty() => Err("has no key".into()),
            true => Err(format!("has no key that can be used: {}", faults.join("; "))),
        }
    }

    /// A set of one shared secret.
    pub fn of_secret(secret: &[u8]) -> Jwks {
        Jwks { keys: vec![Key { id: None, algorithm: None, material: Material::Secret(secret.to_vec()) }] }
    }

    /// Without shared secrets: in a set that anybody may read there are none to trust.
    pub fn public_only(mut self) -> Jwks {
        self.keys.retain(|key| !matches!(key.material, Material::Secret(_)));
        self
    }

    /// # Errors
    /// No key is for this token, or none of them made its signature.
    pub fn verify(&self, jwt: &Jwt) -> Result<(), Fault> {
        let mut fault = Fault::NoKey;
        for key in &self.keys {
            let is_other = |of_key: &Option<String>, of_jwt: Option<&str>| matches!((of_key.as_deref(), of_jwt), (Some(a), Some(b)) if a != b);
            if is_other(&key.id, jwt.key_id.as_deref()) || is_other(&key.algorithm, Some(&jwt.algorithm)) {
                continue;
            }
            if key.material.verifies(jwt) {
                return Ok(());
            }
            fault = Fault::Unverified;
        }
        Err(fault)
    }
}

/// Of the modulus.
const LEAST_RSA_BYTES: usize = 256;

struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed points.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(Vec<u8>),
}

impl Key {
    fn read(value: &Value) -> Result<Key, String> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let bytes = |name: &str| {
            let text = text(name).ok_or_else(|| format!("has no {name}"))?;
            BASE64URL.decode(text).map_err(|_| format!("has a {name} that is not base64url"))
        };
        let point = |size: usize| {
            let mut point = vec![4];
            for name in ["x", "y"] {
                let coordinate = bytes(name)?;
                let missing = size.checked_sub(coordinate.len()).ok_or_else(|| format!("has too long a {name}"))?;
                point.extend(std::iter::repeat_n(0, missing));
                point.extend(coordinate);
            }
            Ok::<_, String>(point)
        };
        let material = match (text("kty"), text("crv")) {
            (Some("RSA"), _) => {
                // Java writes numbers with a sign.
                let number =
                    |name: &str| bytes(name).map(|bytes| bytes.iter().copied().skip_while(|byte| *byte == 0).collect());
                let (n, e): (Vec<u8>, Vec<u8>) = (number("n")?, number("e")?);
                if n.len() < LEAST_RSA_BYTES {
                    return Err(format!("has {} bits, and 2048 are needed", n.len() * 8));
                }
                Material::Rsa { n, e }
            }
            (Some("EC"), Some("P-256")) => Material::P256(point(32)?),
            (Some("EC"), Some("P-384")) => Material::P384(point(48)?),
            (Some("OKP"), Some("Ed25519")) => Material::Ed25519(bytes("x")?),
            (Some("oct"), _) => Material::Secret(bytes("k")?),
            (Some("EC" | "OKP"), curve) => return Err(format!("is on the curve {}", curve.unwrap_or("(none)"))),
            (Some(kind), _) => return Err(format!("is of the kind {kind}")),
            (None, _) => return Err("has no kty".into()),
        };
        let given = |name: &str| text(name).filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Key { id: given("kid"), algorithm: given("alg"), material })
    }
}

impl Material {
    /// The kind of key decides which algorithms a token may name.
    fn verifies(&self, jwt: &Jwt) -> bool {
        let message = jwt.signed.as_bytes();
        let with = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(algorithm, key).verify(message, &jwt.signature).is_ok()
        };
        match (self, jwt.algorithm.as_str()) {
            (Material::Rsa { n, e }, algorithm) => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, &jwt.signature).is_ok()
            }
            (Material::P256(point), "ES256") => with(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Material::P384(point), "ES384") => with(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Material::Ed25519(key), "EdDSA") => with(&signature::ED25519, key),
            (Material::Secret(secret), algorithm) => {
                let algorithm = match algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => return false,
                };
                hmac::verify(&hmac::Key::new(algorithm, secret), message, &jwt.signature).is_ok()
            }
            _ => false,
        }
    }
}

/// A token signed with a shared secret (HS256).
pub fn sign(kind: &str, claims: &Value, secret: &[u8]) -> String {
    let header = serde_json::json!({"alg": "HS256", "typ": kind});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let code = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(code))
}

#[cfg(test)]
pub mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;

    /// A key pair for tests, as key set and as signer of claims.
    pub fn ecdsa(key_id: &str) -> (Value, impl Fn(&Value) -> String + Send + Sync + 'static) {
        let random = SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let set = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": key_id, "x": x, "y": y}]});
        let header = json!({"alg": "ES256", "kid": key_id});
        let sign = move |claims: &Value| {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", part(&header), part(claims));
            let signature = pair.sign(&random, signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        (set, sign)
    }

    /// Made with `openssl genrsa` and `openssl dgst -sha256 -sign`; the private key was thrown away.
    const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLCJleHAiOjEzMDA4MTkzODB9.RPNwq_EO9jjm6mCt1SIo22lwdhZGkBXABf6PtrqgMLmStOCoeZCyxjvs1F585kiKATqGx-H-kR3ChwNtiyClf8-t-d5TaotAxs9yCzAQ3PgGZT4XgIDsjNpVovngueu-0gq_FRKcNUI2AtQX2J3ns7TG9amzEuYtEtGduBmkbHe9xAram_DejDVaIAuPlFqmc_mnj8IebEWOXFSnuvLnyrYp2eZzcqGcDU-9pmcNDA9imGbCJjyMBGPJkxHmOrYN7Rnqq7ISFIwBOh3i5v3bD1jKCf4VcEJInu43cg3YB8FF_FAWC1aHRpwTFKVMkanDJVZgMYmtReySsshTEvM5-A";
    const RSA_KEYS: &str = r#"{"keys": [{"kty": "OKP", "crv": "X25519"}, {"kty": "RSA", "e": "AQAB", "n": "rS8aBecLVQJ8kMN7au6ej77z_oQNsA8Mjf4L-ps1NW9BJxETrVH4FEtAZxmW7U1-UCehWonywd7hQiPDP9rQLlz-3F568IBBPaYAZRvOxjCqYnqCsa9wZXQKWRc-YsCvGR2mE-bhtoqxaS3rmpb8z8lXYrD46zZot3dtqqs0iERkBkHnVZfqeceUcPUJsS5hiWjESowByLr0qmaUinqc6Q_JeksUIoGhRqANMT63_k6jg2UmcC3ofIATB4qpGhStgAzNLW9_r6i5XrliFr-HZKs_zfz_EU30NxcJotOkxu3MtOLG6ZPvMZpQybkLaJWSrEkqoDBdLd_0TLoFm_qxkQ"}]}"#;

    #[test]
    fn signatures_are_verified() {
        let jwt = Jwt::parse(RS256).unwrap();
        assert_eq!((jwt.text("iss"), jwt.time("exp")), (Some("joe"), Some(1_300_819_380)));
        assert_eq!(Jwks::parse(RSA_KEYS.as_bytes()).unwrap().verify(&jwt), Ok(()));
        let changed =
            RS256.replacen("eyJpc3MiOiJqb2UiLCJleHAiOjEzMDA4MTkzODB9", "eyJpc3MiOiJqb2YiLCJleHAiOjEzMDA4MTkzODB9", 1);
        assert_ne!(changed, RS256);
        let changed = Jwt::parse(&changed).unwrap();
        assert_eq!(Jwks::parse(RSA_KEYS.as_bytes()).unwrap().verify(&changed), Err(Fault::Unverified));

        let (set, sign_es) = ecdsa("k1");
        let keys = Jwks::parse(set.to_string().as_bytes()).unwrap();
        let token = sign_es(&json!({"sub": "x"}));
        assert_eq!(keys.verify(&Jwt::parse(&token).unwrap()), Ok(()));
        let other = Jwks::parse(ecdsa("k2").0.to_string().as_bytes()).unwrap();
        assert_eq!(other.verify(&Jwt::parse(&token).unwrap()), Err(Fault::NoKey));
        let same_name = Jwks::parse(ecdsa("k1").0.to_string().as_bytes()).unwrap();
        assert_eq!(same_name.verify(&Jwt::parse(&token).unwrap()), Err(Fault::Unverified));
    }

    #[test]
    fn the_kind_of_key_decides_the_algorithm() {
        let claims = json!({"sub": "x"});
        let token = sign("JWT", &claims, b"secret");
        let jwt = Jwt::parse(&token).unwrap();
        assert_eq!(Jwks::of_secret(b"secret").verify(&jwt), Ok(()));
        assert_eq!(Jwks::of_secret(b"other").verify(&jwt), Err(Fault::Unverified));
        // A public key is no shared secret, and `none` is no signature.
        assert_eq!(Jwks::parse(RSA_KEYS.as_bytes()).unwrap().verify(&jwt), Err(Fault::Unverified));
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": "none"}).to_string());
        let unsigned = format!("{header}.{}.", URL_SAFE_NO_PAD.encode(claims.to_string()));
        assert_eq!(Jwks::of_secret(b"secret").verify(&Jwt::parse(&unsigned).unwrap()), Err(Fault::Unverified));
    }

    #[test]
    fn times_are_checked_with_their_skew() {
        let at = |claims: &Value, now: i64| Jwt::parse(&sign("JWT", claims, b"s")).unwrap().check_time(now, 60);
        let claims = json!({"nbf": 1000, "exp": 2000});
        assert_eq!(at(&claims, 939), Err(Fault::NotYetValid));
        assert_eq!(at(&claims, 940), Ok(()));
        assert_eq!(at(&claims, 2060), Ok(()));
        assert_eq!(at(&claims, 2061), Err(Fault::Expired));
        assert_eq!(at(&json!({}), 1), Ok(()));
        assert_eq!(at(&json!({"exp": 1e300}), i64::MAX), Ok(()));
    }

    #[test]
    fn malformed_tokens_are_told_apart() {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let (header, payload) = (part(&json!({"alg": "HS256"})), part(&json!({})));
        for (token, fault) in [
            (String::new(), Fault::Form),
            ("a.b".into(), Fault::Form),
            ("a.b.c.d".into(), Fault::Form),
            (format!("!.{payload}.c"), Fault::Header),
            (format!("{payload}.{payload}.c"), Fault::Algorithm),
            (format!("{}.{payload}.c", part(&json!({"alg": "HS256", "kid": 1}))), Fault::KeyId),
            (format!("{header}.{}.c", part(&json!([]))), Fault::Payload),
            (format!("{header}.{}.c", part(&json!({"exp": "9999999999"}))), Fault::Payload),
            (format!("{header}.{payload}.!"), Fault::Signature),
        ] {
            assert_eq!(Jwt::parse(&token).err(), Some(fault), "{token}");
        }
    }

    #[test]
    fn key_sets_without_a_usable_key_say_why() {
        for (text, why) in [
            ("{", "is not JSON"),
            ("{}", "must have a list"),
            (r#"{"keys": []}"#, "has no key"),
            (r#"{"keys": [{"kty": "EC", "crv": "P-521"}]}"#, "keys[0] is on the curve P-521"),
            (r#"{"keys": [{"kty": "oct", "k": "??"}]}"#, "keys[0] has a k that is not base64url"),
        ] {
            let told = Jwks::parse(text.as_bytes()).err().unwrap();
            assert!(told.contains(why), "{told}");
        }
    }
}
