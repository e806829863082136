//! The load itself: N virtual users with a connection each, for a bounded time. Closed loop (a user asks again as soon as it is
//! answered) or at a fixed rate, where the latency counts from the time the request was due. A stall is not hidden, not even one that
//! lasts to the end: what was due by then is waited for a while longer, and counts with its age if no answer comes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::OptionFuture;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::tls::Tls;
use super::workload::HttpVersion;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The reason of requests that had no answer when the grace was over.
const UNANSWERED: &str = "unanswered";
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
    /// Answers and failures before this are not counted.
    pub measure_from: Instant,
    /// Nothing is due from here on.
    pub end: Instant,
    /// How long after the end answers are waited for; none by then, and a request is unanswered.
    pub grace: Duration,
}

/// What came of the requests that were not over before the measured time. Times in microseconds.
#[derive(Default)]
pub struct Tally {
    /// Answers that came before the end.
    pub n_in_time: usize,
    /// Of all answers, and the ages of what stayed unanswered: its latency is at least that.
    pub latencies: Vec<f64>,
    /// Of all answers.
    pub first_bytes: Vec<f64>,
    /// By reason.
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    /// `age` is that of a request whose answer did not come.
    fn fail(&mut self, reason: String, age: Option<Duration>) {
        *self.errors.entry(reason).or_default() += 1;
        self.latencies.extend(age.map(micros));
    }

    fn add(&mut self, other: Tally) {
        self.n_in_time += other.n_in_time;
        self.latencies.extend(other.latencies);
        self.first_bytes.extend(other.first_bytes);
        for (reason, n) in other.errors {
            *self.errors.entry(reason).or_default() += n;
        }
    }
}

/// Runs all users to the end of the schedule and, where answers are missing then, of its grace.
pub async fn drive(prepared: &Prepared, schedule: Schedule) -> Result<Tally> {
    let mut users = JoinSet::new();
    for i in 0..schedule.n_connections {
        let prepared = prepared.clone();
        users.spawn(async move { user(&prepared, schedule, i).await });
    }
    let mut all = Tally::default();
    while let Some(tally) = users.join_next().await {
        all.add(tally.context("a virtual user failed")?);
    }
    Ok(all)
}

/// One checked request: status 200, `expected` in the answer. Used before anything is measured; returns how long it took.
pub async fn probe(prepared: &Prepared, expected: &[u8]) -> Result<Duration> {
    let began = Instant::now();
    let checked = timeout(REQUEST_TIMEOUT, async {
        let mut connection = Connection::open(prepared).await?;
        let mut body = Vec::new();
        connection.exchange(prepared, 0, |data| body.extend_from_slice(data)).await?;
        if memchr::memmem::find(&body, expected).is_none() {
            bail!("the answer lacks {:?}: {}", String::from_utf8_lossy(expected), crate::http::excerpt(&body));
        }
        Ok(began.elapsed())
    });
    checked.await.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", REQUEST_TIMEOUT.as_secs())))
}

/// Asks again and again, with a new connection after each failure, until nothing is due any more.
async fn user(prepared: &Prepared, schedule: Schedule, i: usize) -> Tally {
    let interval = schedule.rate.map(|rate| Duration::from_secs_f64(schedule.n_connections as f64 / rate));
    let mut due = schedule.start + interval.unwrap_or_default().mul_f64(i as f64 / schedule.n_connections as f64);
    let give_up = schedule.end + schedule.grace;
    let mut tally = Tally::default();
    let mut connection = None;
    for n in i.. {
        let now = Instant::now();
        let sent = if interval.is_some() { due } else { now };
        due += interval.unwrap_or_default();
        if sent >= schedule.end {
            break;
        }
        if now >= give_up {
            // Never sent, as the answers before it did not come.
            tally.fail(UNANSWERED.to_string(), Some(give_up - sent));
            continue;
        }
        // Timers tick in milliseconds: a closed loop must not wait for one.
        if interval.is_some() {
            sleep_until(sent).await;
        }
        let until = give_up.min(Instant::now() + REQUEST_TIMEOUT);
        let asked = timeout_at(until, ask(prepared, n, connection.take())).await;
        let now = Instant::now();
        let is_counted = now >= schedule.measure_from;
        let (reason, age) = match asked {
            Ok(Ok((opened, first_byte))) => {
                connection = Some(opened);
                if is_counted {
                    tally.n_in_time += usize::from(now < schedule.end);
                    tally.latencies.push(micros(now - sent));
                    tally.first_bytes.push(micros(first_byte - sent));
                }
                continue;
            }
            Ok(Err(error)) => (error.to_string(), None),
            Err(_) if until < give_up => ("no whole answer in time".to_string(), Some(now - sent)),
            Err(_) => (UNANSWERED.to_string(), Some(now - sent)),
        };
        if is_counted {
            tally.fail(reason, age);
        }
        // A target that refuses connections must not turn this loop into a busy one.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tally
}

/// One exchange, on a new connection if there is none that still stands; the connection and when the first byte of the body came.
async fn ask(prepared: &Prepared, n: usize, connection: Option<Connection>) -> Result<(Connection, Instant)> {
    let mut opened = match connection.and_then(Connection::kept) {
        Some(connection) => connection,
        None => Connection::open(prepared).await?,
    };
    let mut first_byte = None;
    opened
        .exchange(prepared, n, |_| {
            first_byte.get_or_insert_with(Instant::now);
        })
        .await?;
    Ok((opened, first_byte.unwrap_or_else(Instant::now)))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// One connection. Its driver is polled beside each exchange, not in a task of its own: that would cost a wake-up per message.
struct Connection {
    sender: Sender,
    /// `None` when it has ended.
    driver: Option<Driver>,
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
                Connection { sender: Sender::Http1(sender), driver: Some(Box::pin(driver)) }
            }
            HttpVersion::Http2 => {
                let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await?;
                Connection { sender: Sender::Http2(sender), driver: Some(Box::pin(driver)) }
            }
        })
    }

    /// The same connection, unless the other side has ended it since the last answer, as it may: that is no error.
    fn kept(mut self) -> Option<Connection> {
        self.driver.as_mut()?.now_or_never().is_none().then_some(self)
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
        loop {
            tokio::select! {
                biased;
                answered = &mut answered => return answered,
                Some(ended) = OptionFuture::from(driver.as_mut()) => {
                    ended?;
                    // Dropped, as an answer that has not come would wait for ever for what it holds.
                    *driver = None;
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
