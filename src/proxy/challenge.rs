//! Answers to the challenges by which a certificate authority finds out that a domain is served here. `server` shows them
//! while an order runs; requests and handshakes that ask for one get it before anything else looks at them.

use std::collections::HashMap;

use http::Method;
use parking_lot::RwLock;
use pingora_http::RequestHeader;

use super::tls::ChallengeKeys;
use crate::plugins::Reply;

/// Below it, HTTP-01 looks for the token.
const FOLDER: &str = "/.well-known/acme-challenge/";

#[derive(Default)]
pub struct Challenges {
    pub texts: ChallengeTexts,
    pub keys: ChallengeKeys,
}

/// Texts by token.
#[derive(Default)]
pub struct ChallengeTexts {
    texts: RwLock<HashMap<String, String>>,
}

impl ChallengeTexts {
    pub fn show(&self, token: &str, text: &str) {
        self.texts.write().insert(token.to_owned(), text.to_owned());
    }

    pub fn remove(&self, token: &str) {
        self.texts.write().remove(token);
    }

    /// The answer, if the request is for one that is shown. All other requests go on, whatever their path.
    pub fn reply(&self, head: &RequestHeader) -> Option<Reply> {
        let token = head.uri.path().strip_prefix(FOLDER).filter(|_| head.method == Method::GET)?;
        let text = self.texts.read().get(token).cloned()?;
        Some(Reply::new(200, "acme_challenge").text(text))
    }
}
