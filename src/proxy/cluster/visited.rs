//! Where a request has been.

use std::net::SocketAddr;

/// The endpoints that one request has been to.
#[derive(Debug, Default)]
pub struct Visited {
    addresses: Vec<SocketAddr>,
    has_answer: bool,
}

impl Visited {
    pub fn push(&mut self, address: SocketAddr) {
        self.addresses.push(address);
    }

    /// The last visit counts for nothing: the connection was at fault, and not the endpoint.
    pub fn pop(&mut self) {
        self.addresses.pop();
    }

    /// The last visit brought an answer, if one that is given up.
    pub fn answered(&mut self) {
        self.has_answer = true;
    }

    pub fn clear(&mut self) {
        *self = Visited::default();
    }

    pub fn contains(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&address)
    }

    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    pub fn last(&self) -> Option<SocketAddr> {
        self.addresses.last().copied()
    }

    /// Whether any of them answers at all.
    pub fn has_answer(&self) -> bool {
        self.has_answer
    }
}
