//! What is kept at the browser: sealed values, and the cookies they stand in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::secret::Secret;
use crate::plugins::Request;
use crate::plugins::auth::places::cookie;

/// Browsers keep 4096 bytes of a cookie, name and attributes included.
const MAX_PART: usize = 3600;
/// A session of more parts is a mistake, or an attempt to make us collect.
const MAX_PARTS: usize = 8;

/// Tokens of a user. No `Debug`: they are never shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct Session {
    pub id_token: String,
    pub access_token: String,
    pub refresh_token: Option<String>,
    /// Or last renewed; seconds since 1970.
    pub created: i64,
}

/// A login under way.
#[derive(Serialize, Deserialize)]
pub struct Login {
    pub state: String,
    pub nonce: String,
    pub verifier: String,
    pub created: i64,
}

impl Login {
    /// `None` if the system gives no random numbers.
    pub fn new(now: i64) -> Option<Login> {
        Some(Login { state: random()?, nonce: random()?, verifier: random()?, created: now })
    }
}

/// 256 random bits as text.
fn random() -> Option<String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

/// Encrypts and authenticates what browsers keep for us.
pub struct Sealer {
    key: LessSafeKey,
}

impl Sealer {
    /// # Errors
    /// The secret is too short to be one.
    pub fn new(secret: &Secret) -> Result<Sealer, &'static str> {
        if secret.expose().len() < 16 {
            return Err("must have at least 16 characters");
        }
        let key = digest::digest(&digest::SHA256, secret.expose().as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| "cannot be made a key")?;
        Ok(Sealer { key: LessSafeKey::new(key) })
    }

    /// `purpose` keeps one kind of value from passing for another. `None` if the system gives no random numbers.
    pub fn seal<T: Serialize>(&self, purpose: &str, value: &T) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = serde_json::to_vec(value).ok()?;
        let aad = Aad::from(purpose.as_bytes());
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// `None` if it was not sealed by this secret for this purpose.
    pub fn open<T: DeserializeOwned>(&self, purpose: &str, text: &str) -> Option<T> {
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        if bytes.len() < NONCE_LEN {
            return None;
        }
        let (nonce, sealed) = bytes.split_at_mut(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.key.open_in_place(nonce, Aad::from(purpose.as_bytes()), sealed).ok()?;
        serde_json::from_slice(opened).ok()
    }
}

/// How cookies are set.
pub struct Cookies {
    pub name: String,
    pub domains: Vec<String>,
    pub path: String,
    /// Seconds; `None` ends with the browser.
    pub expire: Option<i64>,
    pub secure: bool,
    pub http_only: bool,
    pub same_site: Option<&'static str>,
}

impl Cookies {
    /// The session's value, put together. The first part tells how many there are: `2.…`.
    pub fn read(&self, request: &Request<'_>) -> Option<String> {
        let (n_parts, first) = cookie(request, &self.name)?.split_once('.')?;
        let n_parts: usize = n_parts.parse().ok().filter(|n| (1..=MAX_PARTS).contains(n))?;
        let mut value = first.to_owned();
        for part in 1..n_parts {
            value += cookie(request, &format!("{}_{part}", self.name))?;
        }
        Some(value)
    }

    /// Cookies that set the session's value, and end the parts that it no longer has. `None` if it is longer than would be read.
    pub fn write(&self, request: &Request<'_>, value: &str) -> Option<Vec<HeaderValue>> {
        let host = &request.state.host;
        // ASCII, so every byte is a place to cut.
        let parts: Vec<&[u8]> = value.as_bytes().chunks(MAX_PART).collect();
        let n_parts = parts.len();
        let named = parts.into_iter().enumerate().map(|(index, part)| {
            let part = String::from_utf8_lossy(part);
            match index {
                0 => self.one(host, &self.name, &format!("{n_parts}.{part}"), self.expire),
                _ => self.one(host, &format!("{}_{index}", self.name), &part, self.expire),
            }
        });
        let left_over = self.parts_from(request, n_parts).map(|name| self.one(host, &name, "", Some(0)));
        (n_parts <= MAX_PARTS).then(|| named.chain(left_over).collect())
    }

    /// Names of the cookies that a request's session stands in, or may stand in.
    pub fn names(&self, request: &Request<'_>) -> Vec<String> {
        std::iter::once(self.name.clone()).chain(self.parts_from(request, 1)).collect()
    }

    /// Names of the further parts that a request has, from one on.
    fn parts_from(&self, request: &Request<'_>, first: usize) -> impl Iterator<Item = String> {
        let names = (first..MAX_PARTS).map(|part| format!("{}_{part}", self.name));
        names.filter(|name| cookie(request, name).is_some())
    }

    /// Cookies that end the session of a request.
    pub fn clear(&self, request: &Request<'_>) -> Vec<HeaderValue> {
        let names = self.names(request).into_iter();
        names.map(|name| self.one(&request.state.host, &name, "", Some(0))).collect()
    }

    /// One cookie for a host.
    pub fn one(&self, host: &str, name: &str, value: &str, max_age: Option<i64>) -> HeaderValue {
        let mut text = format!("{name}={value}; Path={}", self.path);
        let fits = |domain: &&String| {
            let domain = domain.trim_start_matches('.');
            host == domain || host.strip_suffix(domain).is_some_and(|sub| sub.ends_with('.'))
        };
        // The longest that fits, or else the shortest there is.
        let fitting = self.domains.iter().filter(fits).max_by_key(|domain| domain.len());
        if let Some(domain) = fitting.or_else(|| self.domains.iter().min_by_key(|domain| domain.len())) {
            text += &format!("; Domain={domain}");
        }
        if let Some(seconds) = max_age {
            text += &format!("; Max-Age={seconds}");
        }
        for (is_set, attribute) in [(self.http_only, "; HttpOnly"), (self.secure, "; Secure")] {
            text += if is_set { attribute } else { "" };
        }
        if let Some(same_site) = self.same_site {
            text += &format!("; SameSite={same_site}");
        }
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}
