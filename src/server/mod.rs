//! Listeners and connections: bounded in number, in time and in header bytes, and ended in order.
//!
//! Does not know what is served. `axum::serve` has neither a header timeout nor a connection limit, and its
//! graceful shutdown waits for idle peers; hence hyper-util.

mod activity;
mod framing;
mod inherited;
mod listener;
mod patience;

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Layer as _, ServiceExt as _};

pub(crate) use self::framing::{Ambiguous, LastRequest};
use self::{
    activity::Activity,
    framing::{Framing, Verdicts},
    patience::Patience,
};
pub use self::{
    inherited::Inherited,
    listener::{Bound, Listener},
};

/// A head larger than this is refused; one of 100 KiB still gets a proper 414.
const MAX_HEAD_BYTES: usize = 128 * 1024;

/// HTTP/2's heads: the longest URI and as much again. There are many of them on a connection.
const MAX_HEADER_LIST: u32 = 32 * 1024;

/// HTTP/2: streams a connection may have open, what may wait in its buffers, and what a peer may send unasked.
pub(crate) const MAX_STREAMS: u32 = 256;
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// A stream's body may be ahead of its reader by so much; hyper's own is sixteen times that, for downloads.
const STREAM_WINDOW: u32 = 64 * 1024;
/// As hyper has it, pinned: the streams of a connection share it.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// RFC 9113 section 4.2: the least that every peer must be allowed.
const FRAME_BYTES: u32 = 16 * 1024;
/// Streams that a peer opened and reset before we looked (as hyper has it, pinned: CVE-2023-44487), and those that we had to
/// reset for its errors (half of what may be open; hyper allows 1,024: CVE-2025-8671). Beyond them the connection ends.
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 128;

/// Said to a connection beyond the limit, before it is closed.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\n\
    cache-control: no-store\r\n\
    cache-status: kielink; fwd=bypass; detail=overloaded\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\
    content-length: 143\r\n\r\n\
    {\"type\":\"urn:kielink:problem:overloaded\",\"title\":\"Overloaded\",\"status\":503,\
    \"detail\":\"Too many connections are open. Close some and try again.\"}";

/// How long a connection that is turned away may take to hear it, and how many may at once.
const FAREWELL: Duration = Duration::from_millis(200);
pub(crate) const FAREWELLS: usize = 64;

/// In a request's extensions: it came over a Unix socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverUnixSocket;

/// What all connections of one interface share.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) service: Router,
    /// One permit a connection.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) header_timeout: Duration,
    /// A connection without a request under way is closed after this; longer than any answer takes. HTTP/1's own limit
    /// comes first; an HTTP/2 peer would keep its connection for ever by answering pings, or by granting no window.
    pub(crate) idle_timeout: Duration,
    pub(crate) tasks: TaskTracker,
    /// Stop accepting; let every connection finish the request it is at.
    pub(crate) drain: CancellationToken,
    /// Drop what is still there.
    pub(crate) kill: CancellationToken,
    /// HTTP/2 streams that a connection may have open.
    pub(crate) streams: u32,
    /// One permit a connection that is being turned away; beyond them it is dropped without a word.
    pub(crate) farewells: Arc<Semaphore>,
    /// Connections that were turned away.
    pub(crate) turned_away: Arc<AtomicU64>,
}

/// Runs HTTP/2's streams on the tracker, so that shutdown waits for them.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

impl Server {
    /// Accepts until `drain`. Every connection is a task on `tasks`.
    pub(crate) async fn run(self, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                () = self.drain.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => self.admit(stream),
                // A peer that gave up before its turn.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    // Most likely out of file descriptors: wait for some to be closed instead of spinning.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::select! {
                        () = self.drain.cancelled() => return,
                        () = tokio::time::sleep(Duration::from_millis(100)) => {}
                    }
                }
            }
        }
    }

    fn admit(&self, stream: listener::Stream) {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => {
                let server = self.clone();
                let over_unix_socket = matches!(stream, listener::Stream::Unix(_)).then_some(OverUnixSocket);
                self.tasks.spawn(async move {
                    server.connection(stream, over_unix_socket).await;
                    drop(place);
                });
            }
            Err(_) => self.turn_away(stream),
        }
    }

    /// Says why and closes. What the peer has sent meanwhile is read away for a moment: closing over unread bytes is a
    /// reset, which would take the answer along.
    fn turn_away(&self, mut stream: listener::Stream) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        let Ok(place) = Arc::clone(&self.farewells).try_acquire_owned() else { return };
        self.tasks.spawn(async move {
            let farewell = async {
                stream.write_all(TOO_MANY).await?;
                stream.shutdown().await?;
                tokio::io::copy(&mut stream.take(MAX_HEAD_BYTES as u64), &mut tokio::io::sink()).await
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
            drop(place);
        });
    }

    async fn connection<S>(&self, stream: S, over_unix_socket: Option<OverUnixSocket>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = auto::Builder::new(Tracked(self.tasks.clone()));
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.header_timeout).max_buf_size(MAX_HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(LOCAL_RESETS)
            .max_header_list_size(MAX_HEADER_LIST)
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .keep_alive_timeout(self.header_timeout);
        let (activity, verdicts) = (Activity::default(), Verdicts::default());
        let service = verdicts.layer().layer(activity.layer().layer(self.service.clone()));
        let service = service.map_request(move |mut request: Request<Incoming>| {
            if let Some(mark) = over_unix_socket {
                request.extensions_mut().insert(mark);
            }
            request
        });
        let service = TowerToHyperService::new(service);
        let stream = Framing::new(Patience::new(stream, self.header_timeout), &verdicts);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = self.kill.cancelled() => return,
                }
            }
            () = activity.idle_for(self.idle_timeout) => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(self.header_timeout, connection.as_mut()).await {
                    Ok(ended) => ended,
                    Err(_elapsed) => return,
                }
            }
        };
        if let Err(error) = ended {
            // The peer's doing, and frequent: hung up, timed out, spoke nonsense.
            tracing::trace!(%error, "connection ended early");
        }
    }
}
