//! The stream itself: tells whether the peer takes what is written, and waits a moment for the peer at the end, which
//! hyper does not.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::activity::Activity;

/// To close while the peer still sends is a reset, and a reset would take the last answer along. So after that answer
/// we read and discard what comes, for so long and for so many bytes: a little more than the largest body that may be
/// refused.
const GOODBYE: Duration = Duration::from_millis(500);
const GOODBYE_BYTES: usize = 8 * 1024 * 1024;

/// A stream that can be asked for bytes that have not been announced yet.
pub(super) trait HasUnread {
    /// Whether bytes have arrived that were not read.
    fn has_unread(&self) -> bool;
}

pub(super) struct Goodbye<S> {
    stream: S,
    activity: Activity,
    /// Runs once our side is shut.
    goodbye: Option<Pin<Box<Sleep>>>,
    discarded: usize,
}

impl<S> Goodbye<S> {
    pub(super) fn new(stream: S, activity: Activity) -> Goodbye<S> {
        Goodbye { stream, activity, goodbye: None, discarded: 0 }
    }
}

impl<S: AsyncRead + HasUnread + Unpin> AsyncRead for Goodbye<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_pending() && this.activity.looks_again() && this.stream.has_unread() {
            this.activity.found_unread();
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Goodbye<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.activity.wrote();
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.activity.wrote();
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Who writes, hyper or `at_once`, flushes once it has handed over everything: only then has the peer taken it all, and
    /// not when it takes a byte now and then.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let goodbye = match &mut this.goodbye {
            Some(goodbye) => goodbye,
            None => {
                ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                this.goodbye.insert(Box::pin(tokio::time::sleep(GOODBYE)))
            }
        };
        let mut bytes = [MaybeUninit::uninit(); 8 * 1024];
        while this.discarded < GOODBYE_BYTES {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => this.discarded += buffer.filled().len(),
                // The peer has closed, too.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return goodbye.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
impl HasUnread for tokio::io::DuplexStream {
    fn has_unread(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{super::activity::Phase, *};

    #[tokio::test(start_paused = true)]
    async fn what_is_written_waits_for_the_peer_until_all_of_it_is_taken() {
        // What waits for the peer is more than the pipe holds.
        let (mine, mut theirs) = tokio::io::duplex(64);
        let activity = Activity::default();
        let mut stream = Goodbye::new(mine, activity.clone());
        activity.heard(false);
        let before = activity.now();
        let writing = async {
            stream.write_all(&[7; 4096]).await?;
            stream.flush().await
        };
        let reading = async {
            // As far as we know, the peer has taken what the pipe holds.
            for _ in 0..4096 - 64 {
                assert_eq!(activity.now(), (Phase::Unread, before.1));
                theirs.read_u8().await.unwrap();
            }
            theirs.read_exact(&mut [0; 64]).await.unwrap();
        };
        let (written, ()) = tokio::join!(writing, reading);
        written.unwrap();
        assert_eq!(activity.now(), (Phase::Idle, before.1 + 1));
    }

    #[tokio::test]
    async fn what_is_written_in_slices_waits_for_the_peer_as_well() {
        let (mine, _theirs) = tokio::io::duplex(64);
        let activity = Activity::default();
        let mut stream = Goodbye::new(mine, activity.clone());
        activity.heard(false);
        assert_eq!(stream.write_vectored(&[IoSlice::new(&[7; 8])]).await.unwrap(), 8);
        assert_eq!(activity.now().0, Phase::Unread);
        stream.flush().await.unwrap();
        assert_eq!(activity.now().0, Phase::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_peer_still_sends_is_read_away_for_a_moment_and_no_longer() {
        // A peer that goes on for a while and closes, and a peer that never closes.
        for closes in [true, false] {
            let (mine, mut theirs) = tokio::io::duplex(64);
            let mut stream = Goodbye::new(mine, Activity::default());
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
            assert!(if closes { waited < GOODBYE } else { waited >= GOODBYE }, "{waited:?}");
        }
    }
}
