//! An answer as it is written: its text in pieces, then what it was made of.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::{Stream, stream};
use tokio::sync::mpsc;

use super::{Ask, Asked, Listener};
use crate::rag::RagError;
use crate::rag::knowledge_base::KnowledgeBase;

/// What happens while an answer is written.
#[derive(Debug)]
pub enum Event {
    /// The next piece of the answer's text, one or more sentences with their marks.
    Text(String),
    /// The last event.
    End(Result<Box<Asked>, RagError>),
}

/// An answer as it is written.
pub type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Pieces that may wait to be heard; the writing waits then.
const UNHEARD: usize = 8;

/// Works while it is read, and stops when it is dropped.
pub fn events(base: Arc<KnowledgeBase>, ask: Ask) -> impl Stream<Item = Event> + Send {
    let (sender, mut heard) = mpsc::channel(UNHEARD);
    let writing = async move { base.answer(&ask, &Listener::new(sender)).await };
    let mut writing = Some(Box::pin(writing));
    let mut end = None;
    stream::poll_fn(move |context| {
        loop {
            if let Poll::Ready(Some(text)) = heard.poll_recv(context) {
                return Poll::Ready(Some(Event::Text(text)));
            }
            if let Some(end) = end.take() {
                return Poll::Ready(Some(Event::End(end)));
            }
            let Some(work) = &mut writing else { return Poll::Ready(None) };
            match work.as_mut().poll(context) {
                Poll::Ready(asked) => {
                    // What was told last comes first.
                    writing = None;
                    end = Some(asked.map(Box::new));
                }
                Poll::Pending => {
                    return match heard.poll_recv(context) {
                        Poll::Ready(Some(text)) => Poll::Ready(Some(Event::Text(text))),
                        _ => Poll::Pending,
                    };
                }
            }
        }
    })
}
