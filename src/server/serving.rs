//! One connection while it is served: by hyper from the first request on that is not answered at once.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Tracked, activity::Activity, at_once::Answering, service::Routed};

/// Resolves when the connection is over. Dropped, it ends at once.
pub(super) struct Serving<S> {
    state: State<S>,
    activity: Activity,
    /// Whether hyper has heard that the connection is to end.
    is_told: bool,
}

enum State<S> {
    /// Nothing has come but what was answered at once.
    Before(Box<Before<S>>),
    Hyper(Pin<Box<Hyper<S>>>),
    /// What was written is seen to its end, without hyper.
    After(Box<Answering<S>>),
    Over,
}

struct Before<S> {
    stream: Answering<S>,
    builder: auto::Builder<Tracked>,
    service: Routed,
}

type Hyper<S> = auto::Connection<'static, TokioIo<Answering<S>>, Routed, Tracked>;

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Serving<S> {
    pub(super) fn new(
        stream: Answering<S>,
        builder: auto::Builder<Tracked>,
        service: Routed,
        activity: Activity,
    ) -> Serving<S> {
        Serving { state: State::Before(Box::new(Before { stream, builder, service })), activity, is_told: false }
    }

    /// What has come is still answered, and nothing else. To be polled afterwards.
    pub(super) fn graceful_shutdown(&mut self) {
        self.activity.ends();
    }

    /// What comes first and is not answered at once begins the connection of hyper's.
    fn poll_before(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State::Before(before) = &mut self.state else { return Poll::Ready(Ok(())) };
        let passed = before.stream.poll_pass(cx);
        let is_ending = self.activity.is_ending() && !before.stream.is_sending();
        if passed.is_pending() && !is_ending {
            return Poll::Pending;
        }
        let State::Before(before) = std::mem::replace(&mut self.state, State::Over) else { unreachable!("seen above") };
        let Before { stream, builder, service } = *before;
        self.state = match passed {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) if stream.has_something() => {
                State::Hyper(Box::pin(builder.serve_connection(TokioIo::new(stream), service).into_owned()))
            }
            Poll::Ready(Ok(())) | Poll::Pending => State::After(Box::new(stream)),
        };
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Future for Serving<S> {
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        ready!(this.poll_before(cx))?;
        let ended = match &mut this.state {
            State::Hyper(hyper) => {
                let ended = hyper.as_mut().poll(cx);
                if ended.is_ready() || this.is_told || !this.activity.is_ending() {
                    ended
                } else {
                    // Only now: what had come before has been read.
                    this.is_told = true;
                    hyper.as_mut().graceful_shutdown();
                    hyper.as_mut().poll(cx)
                }
            }
            State::After(stream) => Pin::new(&mut **stream).poll_shutdown(cx).map_err(BoxError::from),
            State::Before(_) | State::Over => Poll::Ready(Ok(())),
        };
        if ended.is_ready() {
            this.state = State::Over;
        }
        ended
    }
}
