//! The load itself: N virtual users with a connection each, for a bounded time. Closed loop (a user asks again as soon as it is
//! answered) or at a fixed rate, where the latency counts from the time the request was due, so a stall is not hidden.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::tls::Tls;
use super::workload::HttpVersion;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const DONE: &[u8] = b"[DONE]";

/// Requests ready to be sent to one target.
#[derive(Clone)]
pub struct Prepared {
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    pub http: HttpVersion,
    /// Request without target and body; each user clones it.
    pub head: Request<()>,
    /// Where the requests go in turn: URI, and the Host header of HTTP/1.1.
    pub aims: Vec<(Uri, Option<HeaderValue>)>,
    pub bodies: Vec<Bytes>,
    /// Whether the answer must be a stream that ends with `[DONE]`.
    pub stream: bool,
}

/// How long and how hard.
#[derive(Clone, Copy)]
pub struct Schedule {
    pub n_connections: usize,
    /// Requests per second over all connections; closed loop if `None`.
    pub rate: Option<f64>,
    pub start: Instant,
    /// Answers before this are not counted.
    pub measure_from: Instant,
    pub end: Instant,
}

/// Times of all answers that came in the measured time, in microseconds, and what failed by reason.
#[derive(Default)]
pub struct Tally {
    pub latencies: Vec<f64>,
    pub first_bytes: Vec<f64>,
    pub errors: BTreeMap<String, u64>,
}

/// Runs all users to the end of the schedule.
pub async fn drive(prepared: &Prepared, schedule: Schedule) -> Result<Tally> {
    let mut users = JoinSet::new();
    for i in 0..schedule.n_connections {
        let prepared = prepared.clone();
        users.spawn(async move {
            let mut tally = Tally::default();
            // What is in flight at the end is neither an answer nor an error.
            let _ = tokio::time::timeout_at(schedule.end, user(&prepared, schedule, i, &mut tally)).await;
            tally
        });
    }
    let mut all = Tally::default();
    while let Some(tally) = users.join_next().await {
        let tally = tally.context("a virtual user failed")?;
        all.latencies.extend(tally.latencies);
        all.first_bytes.extend(tally.first_bytes);
        for (reason, n) in tally.errors {
            *all.errors.entry(reason).or_default() += n;
        }
    }
    Ok(all)
}

/// One checked request: status 200, `expected` in the answer. Used before anything is measured.
pub async fn probe(prepared: &Prepared, expected: &[u8]) -> Result<()> {
    let checked = timeout(REQUEST_TIMEOUT, async {
        let mut connection = Connection::open(prepared).await?;
        let mut body = Vec::new();
        connection.exchange(prepared, 0, |data| body.extend_from_slice(data)).await?;
        if memchr::memmem::find(&body, expected).is_none() {
            bail!("the answer lacks {:?}: {}", String::from_utf8_lossy(expected), crate::http::excerpt(&body));
        }
        Ok(())
    });
    checked.await.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", REQUEST_TIMEOUT.as_secs())))
}

/// Asks again and again, with a new connection after each failure.
async fn user(prepared: &Prepared, schedule: Schedule, i: usize, tally: &mut Tally) {
    let interval = schedule.rate.map(|rate| Duration::from_secs_f64(schedule.n_connections as f64 / rate));
    let mut due = schedule.start + interval.unwrap_or_default().mul_f64(i as f64 / schedule.n_connections as f64);
    let mut connection = None;
    for n in i.. {
        let sent = match interval {
            Some(interval) => {
                sleep_until(due).await;
                let sent = due;
                due += interval;
                sent
            }
            None => Instant::now(),
        };
        let asked = timeout(REQUEST_TIMEOUT, async {
            let mut opened = match connection.take() {
                Some(connection) => connection,
                None => Connection::open(prepared).await?,
            };
            let mut first_byte = None;
            opened
                .exchange(prepared, n, |_| {
                    first_byte.get_or_insert_with(Instant::now);
                })
                .await?;
            Ok::<_, anyhow::Error>((opened, first_byte.unwrap_or_else(Instant::now)))
        });
        let error = match asked.await {
            Ok(Ok((opened, first_byte))) => {
                connection = Some(opened);
                if Instant::now() >= schedule.measure_from {
                    tally.latencies.push(sent.elapsed().as_secs_f64() * 1e6);
                    tally.first_bytes.push((first_byte - sent).as_secs_f64() * 1e6);
                }
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no whole answer in time".to_string(),
        };
        *tally.errors.entry(error).or_default() += 1;
        // A target that refuses connections must not turn this loop into a busy one.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One connection. Its driver is polled beside each exchange, not in a task of its own: that would cost a wake-up per message.
struct Connection {
    sender: Sender,
    driver: Driver,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

type Driver = std::pin::Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

impl Connection {
    async fn open(prepared: &Prepared) -> Result<Connection> {
        let stream = TcpStream::connect(prepared.address).await.map_err(|e| anyhow!("connecting: {e}"))?;
        stream.set_nodelay(true)?;
        match &prepared.tls {
            Some(tls) => Connection::speak(prepared.http, tls.connect(stream).await?).await,
            None => Connection::speak(prepared.http, stream).await,
        }
    }

    async fn speak(
        http: HttpVersion,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Connection> {
        let io = TokioIo::new(stream);
        Ok(match http {
            HttpVersion::Http1 => {
                let (sender, driver) = http1::handshake(io).await?;
                Connection { sender: Sender::Http1(sender), driver: Box::pin(driver) }
            }
            HttpVersion::Http2 => {
                let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await?;
                Connection { sender: Sender::Http2(sender), driver: Box::pin(driver) }
            }
        })
    }

    /// Sends request `n` and hands out the pieces of the answer's body.
    async fn exchange(&mut self, prepared: &Prepared, n: usize, on_data: impl FnMut(&[u8])) -> Result<()> {
        let mut request = prepared.head.clone().map(|()| Full::new(prepared.bodies[n % prepared.bodies.len()].clone()));
        let (uri, host) = &prepared.aims[n % prepared.aims.len()];
        *request.uri_mut() = uri.clone();
        if let Some(host) = host {
            request.headers_mut().insert(HOST, host.clone());
        }
        let Connection { sender, driver } = self;
        let mut answered = pin!(async {
            let response = match sender {
                Sender::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Sender::Http2(sender) => sender.send_request(request).await?,
            };
            read(response, prepared.stream, on_data).await
        });
        let mut driver_ended = false;
        loop {
            tokio::select! {
                biased;
                answered = &mut answered => return answered,
                ended = &mut *driver, if !driver_ended => {
                    ended?;
                    driver_ended = true;
                }
            }
        }
    }
}

async fn read(response: Response<Incoming>, stream: bool, mut on_data: impl FnMut(&[u8])) -> Result<()> {
    let status = response.status();
    let mut body = response.into_body();
    let (mut n_bytes, mut tail) = (0, Vec::with_capacity(64));
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { continue };
        n_bytes += data.len();
        on_data(data);
        if stream {
            tail.drain(..tail.len().saturating_sub(16));
            tail.extend_from_slice(&data[data.len().saturating_sub(16)..]);
        }
    }
    if status != StatusCode::OK {
        bail!("status {}", status.as_u16());
    }
    if n_bytes == 0 {
        bail!("empty answer");
    }
    if stream && memchr::memmem::find(&tail, DONE).is_none() {
        bail!("stream without [DONE] at its end");
    }
    Ok(())
}
