//! Head and body of a request in one segment. pingora sends the head of a request at once and its body after it; on a warm
//! connection the second of two small segments costs as much as everything else the exchange asks of the kernel.

use std::os::fd::BorrowedFd;

use pingora_core::protocols::http::client::HttpSession;
use socket2::SockRef;

/// Keeps what is written to `upstream` in the kernel until [`release`], or until it fills segments. HTTP/2 frames its
/// messages itself, so nothing happens there.
pub fn hold(upstream: &HttpSession) {
    set(upstream, true);
}

/// Sends what is held.
pub fn release(upstream: &HttpSession) {
    set(upstream, false);
}

/// A socket that does not know the option sends two segments instead, which is no reason to fail.
#[cfg(target_os = "linux")]
fn set(upstream: &HttpSession, is_held: bool) {
    let Some(http1) = upstream.as_http1() else { return };
    let fd = http1.stream().id();
    if fd < 0 {
        return;
    }
    #[expect(unsafe_code, reason = "pingora tells a connection's descriptor as a number only")]
    // SAFETY: the connection, borrowed here, owns the descriptor, which is therefore open and stays so.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = SockRef::from(&fd).set_tcp_cork(is_held);
}

#[cfg(not(target_os = "linux"))]
fn set(_: &HttpSession, _: bool) {}
