//! A connection through an HTTP proxy: CONNECT, then the bytes of the other end. TLS and HTTP come after it, as on a
//! direct connection.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_core::protocols::l4::stream::Stream;
use pingora_error::{Error, ErrorType, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest answer to CONNECT.
const MAX_HEAD: usize = 8 * 1024;

/// Asks a proxy for a connection to `target`.
pub struct Tunnel {
    pub proxy: SocketAddr,
    /// Host and port.
    pub target: String,
    pub timeout: Duration,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} through {}", self.target, self.proxy)
    }
}

#[async_trait]
impl L4Connect for Tunnel {
    async fn connect(&self, _peer: &PeerAddress) -> Result<Stream> {
        match tokio::time::timeout(self.timeout, self.open()).await {
            Ok(Ok(stream)) => Ok(stream.into()),
            Ok(Err(error)) => Error::e_explain(ErrorType::ConnectError, format!("{self:?}: {error}")),
            Err(_) => Error::e_explain(
                ErrorType::ConnectTimedout,
                format!("{self:?}: not connected within {} ms", self.timeout.as_millis()),
            ),
        }
    }
}

impl Tunnel {
    async fn open(&self) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.proxy).await?;
        stream.set_nodelay(true)?;
        let target = &self.target;
        stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
        let mut head = Vec::with_capacity(128);
        // Byte by byte: what follows the head belongs to whoever speaks through the tunnel.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > MAX_HEAD {
                return Err(std::io::Error::other("the proxy's answer has no end"));
            }
            head.push(stream.read_u8().await?);
        }
        let text = String::from_utf8_lossy(&head);
        let status = text.lines().next().unwrap_or_default();
        match status.split(' ').nth(1) {
            Some(code) if code.starts_with('2') && code.len() == 3 => Ok(stream),
            _ => Err(std::io::Error::other(format!("the proxy answered \"{status}\""))),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test waits for its own tasks")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A proxy that answers this to CONNECT and then says hello; gives what it was asked.
    async fn proxy(answer: &'static str) -> (Tunnel, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        (Tunnel { proxy, target: "api.example.com:443".into(), timeout: Duration::from_secs(5) }, asked)
    }

    #[tokio::test]
    async fn bytes_behind_the_head_belong_to_the_tunnel() {
        let (tunnel, asked) = proxy("HTTP/1.1 200 Connection established\r\nx: y\r\n\r\nhello").await;
        let mut stream = tunnel.open().await.unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
        assert_eq!(asked.await.unwrap(), "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n");
    }

    #[tokio::test]
    async fn a_refusal_is_told() {
        let (tunnel, _) = proxy("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        let error = tunnel.open().await.unwrap_err().to_string();
        assert!(error.contains("407 Proxy Authentication Required"), "{error}");
    }
}
