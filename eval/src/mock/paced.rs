//! A response body whose pieces come out at set times. It needs no task of its own, so a client that goes away ends it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Instant, Sleep};

pub struct PacedBody {
    start: Instant,
    pieces: VecDeque<(Duration, Bytes)>,
    sleep: Pin<Box<Sleep>>,
}

impl PacedBody {
    /// Pieces with their times from now, in order.
    pub fn new(pieces: Vec<(Duration, Bytes)>) -> PacedBody {
        let start = Instant::now();
        PacedBody { start, pieces: pieces.into(), sleep: Box::pin(tokio::time::sleep_until(start)) }
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some((due, _)) = self.pieces.front() else { return Poll::Ready(None) };
        let due = self.start + *due;
        if due > Instant::now() {
            if self.sleep.deadline() != due {
                self.sleep.as_mut().reset(due);
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(self.pieces.pop_front().map(|(_, bytes)| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn pieces_come_in_order_and_not_early() {
        let due = [0, 5, 5, 12].map(Duration::from_millis);
        let start = Instant::now();
        let mut body = PacedBody::new(due.iter().map(|due| (*due, Bytes::from(format!("{due:?}")))).collect());
        for due in due {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), format!("{due:?}"));
            assert!(start.elapsed() >= due);
        }
        assert!(body.frame().await.is_none());
    }
}
