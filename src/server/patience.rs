//! Two deadlines that hyper does not keep: for the first bytes of a connection, and for a peer that stops reading. And a
//! moment's patience at the end, which hyper does not have.
//!
//! hyper-util reads until it can tell HTTP/1 from HTTP/2, and only then does any of their own timeouts begin: a peer
//! that says nothing, or a part of HTTP/2's preface, would hold its place for ever.

use std::{
    io::{self, ErrorKind, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Closing over what the peer still sends is a reset, which would take the last answer along. So after that answer what comes
/// is read away for so long, and for so many bytes: a little more than the largest body that may be refused.
const FAREWELL: Duration = Duration::from_millis(500);
const FAREWELL_BYTES: usize = 8 * 1024 * 1024;

/// Reading fails at the deadline, unless the version is known by then; writing fails when the peer stops reading.
pub(crate) struct Patience<S> {
    stream: S,
    /// Bytes of the preface so far.
    matched: usize,
    /// `None` once the version is known.
    deadline: Option<Pin<Box<Sleep>>>,
    timeout: Duration,
    /// While the peer reads nothing of what waits for it.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Once our side is shut.
    farewell: Option<Pin<Box<Sleep>>>,
    discarded: usize,
}

impl<S> Patience<S> {
    pub(crate) fn new(stream: S, timeout: Duration) -> Patience<S> {
        let deadline = Some(Box::pin(tokio::time::sleep(timeout)));
        Patience { stream, matched: 0, deadline, timeout, stalled: None, farewell: None, discarded: 0 }
    }

    /// Fails when the peer has not taken all that waits for it within the timeout: hyper flushes once it has handed over
    /// everything, and a peer that takes a byte now and then has not.
    fn bound(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() && self.stalled.is_none() {
            return written;
        }
        let timeout = self.timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            Poll::Pending => written,
        }
    }

    fn saw(&mut self, bytes: &[u8]) {
        let expected = &PREFACE[self.matched..];
        let length = bytes.len().min(expected.len());
        self.matched += length;
        if bytes[..length] != expected[..length] || self.matched == PREFACE.len() {
            self.deadline = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patience<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let Some(deadline) = &mut this.deadline else {
            return read;
        };
        if read.is_ready() {
            this.saw(&buffer.filled()[before..]);
            return read;
        }
        match deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patience<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.bound(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.bound(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        if flushed.is_ready() {
            this.stalled = None;
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let farewell = match &mut this.farewell {
            Some(farewell) => farewell,
            None => {
                ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                this.farewell.insert(Box::pin(tokio::time::sleep(FAREWELL)))
            }
        };
        let mut bytes = [MaybeUninit::uninit(); 8 * 1024];
        while this.discarded < FAREWELL_BYTES {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => this.discarded += buffer.filled().len(),
                // The peer has closed, too.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return farewell.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What waits for the peer is more than the pipe holds.
    async fn write_all(stream: &mut Patience<tokio::io::DuplexStream>) -> io::Result<()> {
        use tokio::io::AsyncWriteExt as _;
        stream.write_all(&[7; 4096]).await?;
        stream.flush().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_is_let_go_also_if_it_takes_a_byte_now_and_then() {
        use tokio::io::AsyncReadExt as _;
        for trickles in [false, true] {
            let (mine, mut theirs) = tokio::io::duplex(64);
            let mut stream = Patience::new(mine, Duration::from_secs(10));
            let began = tokio::time::Instant::now();
            let reading = async {
                if !trickles {
                    std::future::pending::<()>().await;
                }
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    theirs.read_u8().await.unwrap();
                }
            };
            let written = tokio::select! {
                written = write_all(&mut stream) => written,
                never = reading => never,
            };
            assert_eq!(written.unwrap_err().kind(), ErrorKind::TimedOut);
            assert_eq!(began.elapsed().as_secs(), 10);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_peer_still_sends_is_read_away_for_a_moment_and_no_longer() {
        use tokio::io::AsyncWriteExt as _;
        // One that goes on for a while and closes, and one that never does.
        for closes in [true, false] {
            let (mine, mut theirs) = tokio::io::duplex(64);
            let mut stream = Patience::new(mine, Duration::from_secs(10));
            let began = tokio::time::Instant::now();
            let sending = async {
                theirs.write_all(&[7; 4096]).await.unwrap();
                if !closes {
                    std::future::pending::<()>().await;
                }
                drop(theirs);
            };
            let (shut, ()) = tokio::join!(stream.shutdown(), async {
                let _ = tokio::time::timeout(Duration::from_secs(60), sending).await;
            });
            shut.unwrap();
            assert_eq!(stream.discarded, 4096);
            let waited = began.elapsed();
            assert!(if closes { waited < FAREWELL } else { waited >= FAREWELL }, "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_everything_in_time_is_not() {
        use tokio::io::AsyncReadExt as _;
        let (mine, mut theirs) = tokio::io::duplex(64);
        let mut stream = Patience::new(mine, Duration::from_secs(10));
        for _ in 0..3 {
            let mut taken = vec![0; 4096];
            let reading = async {
                tokio::time::sleep(Duration::from_secs(9)).await;
                theirs.read_exact(&mut taken).await
            };
            let (written, read) = tokio::join!(write_all(&mut stream), reading);
            assert!(written.is_ok() && read.is_ok());
        }
    }
}
