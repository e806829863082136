//! Sessions of MCP over server-sent events (`load-balance: mcp-sse`): the server names the session in its first event, and what
//! the client posts to that session must reach the same endpoint.
//!
//! Higress' Envoy writes the endpoint's address behind the session's name on its way to the client, and takes it off again when it
//! comes back. Here it is a number made of the address, which tells the client nothing and is the same in every gateway.

use bytes::{BufMut, Bytes, BytesMut};

/// Between the session's name and the number.
const MARK: char = '.';
const N_DIGITS: usize = 16;

/// The query as the server knows it, and the endpoint's number. `None` without a parameter that has one.
pub fn opened(query: &str, parameter: &str) -> Option<(String, u64)> {
    let mut found = None;
    let pairs: Vec<&str> = query.split('&').map(|pair| opened_pair(pair, parameter, &mut found)).collect();
    found.map(|endpoint| (pairs.join("&"), endpoint))
}

fn opened_pair<'a>(pair: &'a str, parameter: &str, found: &mut Option<u64>) -> &'a str {
    let Some((session, digits)) = pair.rsplit_once(MARK) else { return pair };
    let is_meant = session.split_once('=').is_some_and(|(name, _)| name == parameter);
    match u64::from_str_radix(digits, 16) {
        Ok(endpoint) if is_meant && digits.len() == N_DIGITS => {
            *found = Some(endpoint);
            session
        }
        _ => pair,
    }
}

/// Writes the endpoint's number into the first address with the parameter that an answer holds, however it is cut into pieces.
pub struct Announcement {
    /// With the character before it, for which `?` stands.
    sought: Vec<u8>,
    seal: String,
    state: State,
}

enum State {
    /// So many bytes of `sought` have been seen.
    Seeking(usize),
    InSession,
    Done,
}

impl Announcement {
    pub fn new(parameter: &str, endpoint: u64) -> Announcement {
        let sought = format!("?{parameter}=").into_bytes();
        Announcement { sought, seal: format!("{MARK}{endpoint:0N_DIGITS$x}"), state: State::Seeking(0) }
    }

    pub fn pass(&mut self, piece: &mut Bytes) {
        for (at, &byte) in piece.iter().enumerate() {
            match self.state {
                State::Seeking(n) => self.state = self.sought_at(n, byte),
                State::InSession if is_of_value(byte) => {}
                State::InSession => {
                    let mut sealed = BytesMut::with_capacity(piece.len() + self.seal.len());
                    sealed.put_slice(&piece[..at]);
                    sealed.put_slice(self.seal.as_bytes());
                    sealed.put_slice(&piece[at..]);
                    *piece = sealed.freeze();
                    self.state = State::Done;
                    return;
                }
                State::Done => return,
            }
        }
    }

    /// Neither `?` nor `&` can be in the middle, so a failed match begins anew only with them.
    fn sought_at(&self, n_seen: usize, byte: u8) -> State {
        if matches!(byte, b'?' | b'&') {
            return State::Seeking(1);
        }
        match self.sought.get(n_seen) {
            Some(&expected) if n_seen > 0 && expected == byte => match n_seen + 1 {
                n if n == self.sought.len() => State::InSession,
                n => State::Seeking(n),
            },
            _ => State::Seeking(0),
        }
    }
}

/// Ends at the next parameter, a quote, the line.
fn is_of_value(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~%+:@/=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_sealed_is_opened() {
        assert_eq!(
            opened("a=1&sessionId=x.y.00000000000000ff&b", "sessionId"),
            Some(("a=1&sessionId=x.y&b".into(), 255))
        );
        for query in ["", "sessionId=x", "sessionId=x.ff", "other=x.00000000000000ff", "sessionId=x.+000000000000ff"] {
            assert_eq!(opened(query, "sessionId"), None, "{query}");
        }
    }

    fn passed(text: &str, cuts: &[usize]) -> String {
        let mut announcement = Announcement::new("sessionId", 255);
        let mut from = 0;
        let mut out = Vec::new();
        for cut in cuts.iter().copied().chain([text.len()]) {
            let cut = cut.clamp(from, text.len());
            let mut piece = Bytes::copy_from_slice(&text.as_bytes()[from..cut]);
            announcement.pass(&mut piece);
            out.extend_from_slice(&piece);
            from = cut;
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_first_session_is_sealed() {
        let event = "event: endpoint\ndata: /message?a=1&sessionId=abc-1\n\ndata: ?sessionId=second\n\n";
        let sealed = event.replacen("abc-1", "abc-1.00000000000000ff", 1);
        assert_eq!(passed(event, &[]), sealed);
        assert_eq!(passed("data: mysessionId=x\n", &[]), "data: mysessionId=x\n");
        assert_eq!(passed("??sessionId=x ", &[]), "??sessionId=x.00000000000000ff ");
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(mut cuts in proptest::collection::vec(0_usize..60, 0..6)) {
            cuts.sort_unstable();
            let event = "event: endpoint\ndata: http://h/message?sessionId=abc-1\n\nmore";
            prop_assert_eq!(passed(event, &cuts), event.replace("abc-1", "abc-1.00000000000000ff"));
        }
    }
}
