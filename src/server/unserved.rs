//! What is said where there is no request to serve. To heads that it cannot parse, hyper has bare answers of its own;
//! the answers that the server was given (`Refuse`) go in their place.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::activity::Activity;

/// Why there is no request to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unserved {
    /// What came is no HTTP, or not quite.
    Malformed,
    /// The head is larger than a head may be, and its first line alone takes most of that.
    TargetTooLong,
    HeadTooLarge,
    TooManyConnections,
}

/// Makes the whole answer (HTTP/1.1), after which the connection ends. The bytes are the head's `X-Request-Id`, where
/// it could be read.
pub(crate) type Refuse = Arc<dyn Fn(Unserved, Option<&[u8]>) -> Vec<u8> + Send + Sync>;

/// Replaces the bare answers that hyper writes by itself, over HTTP/1 only. What is written is hyper's own where no
/// request has begun since the last flush, and none was open at that flush.
pub(super) struct Instead {
    refuse: Refuse,
    activity: Activity,
    /// How many requests had begun, and were all answered to the end, when the last flush was through.
    answered: u64,
    /// What is left of our answer; `None` as long as it is not needed.
    answer: Option<Bytes>,
}

impl Instead {
    pub(super) fn new(refuse: Refuse, activity: Activity) -> Instead {
        Instead { refuse, activity, answered: 0, answer: None }
    }

    /// Whether what is written is hyper's own answer.
    pub(super) fn is_needed(&self) -> bool {
        !self.activity.is_http_2() && self.activity.requests().0 == self.answered
    }

    /// `bytes` begin with hyper's answer.
    pub(super) fn take_over(&mut self, bytes: &[u8], has_long_target: bool, id: Option<&[u8]>) {
        if self.answer.is_none() {
            let why = match bytes.get(b"HTTP/1.1 ".len()..).and_then(|rest| rest.get(..3)) {
                Some(b"414") => Unserved::TargetTooLong,
                Some(b"431") if has_long_target => Unserved::TargetTooLong,
                Some(b"431") => Unserved::HeadTooLarge,
                Some(_) | None => Unserved::Malformed,
            };
            self.answer = Some((self.refuse)(why, id).into());
        }
    }

    /// Hands our answer, if there is one, to the stream.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(answer) = self.answer.as_mut().filter(|answer| answer.has_remaining()) {
            let taken = ready!(Pin::new(&mut *stream).poll_write(cx, answer))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            answer.advance(taken);
        }
        Poll::Ready(Ok(()))
    }

    /// Everything was taken.
    pub(super) fn flushed(&mut self) {
        let (begun, open) = self.activity.requests();
        if open == 0 {
            self.answered = begun;
        }
    }
}
