//! Helpers of the tests: serve a router on a free loopback port, and post to it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::http::Client;
use crate::mock::fixed;

/// A server that ends when dropped.
pub struct Server {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Server {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

pub async fn serve_router(router: axum::Router) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Server { address, _task: task }
}

/// The static mock at a free port.
pub async fn serve_fixed() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move { fixed::serve(listener, Duration::ZERO).await.unwrap() });
    Server { address, _task: task }
}

/// Status and body of a POST.
pub async fn post_json(url: &str, body: &Value) -> (u16, String) {
    let request = Client::request("POST", url, &[], Bytes::from(body.to_string())).unwrap();
    let answer = Client::new().send(request).await.unwrap();
    (answer.status, String::from_utf8(answer.body.to_vec()).unwrap())
}
