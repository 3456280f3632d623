//! One connection while it is served: by hyper from the first request on that is not answered at once.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::BoxError;
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Tracked, activity::Activity, at_once::Answering, service::Routed};

/// Resolves when the connection is over. Dropped, it ends at once.
pub(super) struct Serving<S> {
    state: State<S>,
    activity: Activity,
}

enum State<S> {
    /// Nothing has come that is hyper's to read.
    Before(Box<Before<S>>),
    Hyper {
        connection: Pin<Box<Hyper<S>>>,
        /// Whether it has heard that the connection is to end.
        is_told: bool,
    },
    /// What was written is seen to its end, without hyper.
    After(Box<Answering<S>>),
    Over,
}

/// What hyper's connection will be made of. Until then it takes no buffers.
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
        Serving { state: State::Before(Box::new(Before { stream, builder, service })), activity }
    }

    /// The request that is under way is still answered, and what was written seen to its end. To be polled afterwards.
    pub(super) fn graceful_shutdown(&mut self) {
        self.activity.ends();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Future for Serving<S> {
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            this.state = match std::mem::replace(&mut this.state, State::Over) {
                State::Before(mut before) => match before.stream.poll_pass(cx)? {
                    Poll::Pending if !this.activity.is_ending() => {
                        this.state = State::Before(before);
                        return Poll::Pending;
                    }
                    Poll::Ready(()) if before.stream.has_something() => {
                        let Before { stream, builder, service } = *before;
                        // What is not seen to begin HTTP/2 does not become it.
                        let builder = if stream.may_be_http_2() { builder } else { builder.http1_only() };
                        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
                        State::Hyper { connection: Box::pin(connection), is_told: false }
                    }
                    Poll::Ready(()) | Poll::Pending => State::After(Box::new(before.stream)),
                },
                State::Hyper { mut connection, is_told } => {
                    let ended = connection.as_mut().poll(cx);
                    if ended.is_ready() {
                        return ended;
                    }
                    let is_ending = this.activity.is_ending();
                    // Only now: what had come before has been read.
                    if is_ending && !is_told {
                        connection.as_mut().graceful_shutdown();
                    }
                    this.state = State::Hyper { connection, is_told: is_ending };
                    if is_ending == is_told {
                        return Poll::Pending;
                    }
                    continue;
                }
                State::After(mut stream) => {
                    let ended = Pin::new(&mut *stream).poll_shutdown(cx);
                    if ended.is_pending() {
                        this.state = State::After(stream);
                    }
                    return ended.map_err(BoxError::from);
                }
                State::Over => return Poll::Ready(Ok(())),
            };
        }
    }
}
