//! Listeners and connections: bounded in number, in time and in header bytes, and ended in order.
//!
//! Does not know what is served. `axum::serve` has neither a header timeout nor a connection limit, and its
//! graceful shutdown waits for idle peers; hence hyper-util.

mod account;
mod activity;
mod address;
mod at_once;
mod bell;
mod crowd;
mod framing;
mod goodbye;
mod heads;
mod inherited;
mod last_head;
mod listener;
mod metrics;
mod service;
mod serving;
mod turn;
mod unserved;
mod watch;

use std::{fs::File, future::poll_fn, io::ErrorKind, pin::pin, sync::Arc, task::Poll, time::Duration};

use axum::{
    Router,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};
use futures_util::FutureExt as _;
use hyper_util::{rt::TokioTimer, server::conn::auto};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    account::Account,
    activity::{Activity, Phase},
    at_once::{Answering, Responder},
    bell::Ringing,
    crowd::{Crowd, Member},
    framing::Framing,
    goodbye::{Goodbye, HasUnread},
    heads::Heads,
    listener::Stream,
    service::Routed,
    serving::Serving,
    turn::Turns,
    watch::{Over, Patience, Watch},
};
pub use self::{
    address::Address,
    inherited::Inherited,
    listener::{Bound, Listener},
    watch::GivesWay,
};
pub(crate) use self::{
    at_once::AtOnce,
    heads::{Ambiguous, HeadTooLarge, LastRequest},
    listener::Peer,
    unserved::{Refuse, Unserved},
};

/// How long a connection that has just been made has for its first request where the end has begun.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// A head larger than this is refused: the longest URI, and as much again. Every connection may hold one.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// How much of a head h2 reads; a longer head gets a bare answer of h2's own. Where memory is ample, the larger number
/// leaves room to say what is wrong with a head. Where memory is little, the longest URI fits, or 512 headers without
/// values, which take 36 KiB.
pub(crate) const HEADER_LIST: u32 = 64 * 1024;
pub(crate) const SMALL_HEADER_LIST: u32 = 16 * 1024 + 640;

/// HTTP/2: streams a connection may have open, what may wait in its buffers, and what a peer may send unasked.
pub(crate) const MAX_STREAMS: u32 = 256;
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// How far a stream's body may be ahead of its reader. hyper's own window is sixteen times that, for downloads.
const STREAM_WINDOW: u32 = 64 * 1024;
/// As hyper has it, pinned: the streams of a connection share this window.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// RFC 9113 section 4.2: the least that every peer must be allowed.
const FRAME_BYTES: u32 = 16 * 1024;
/// How many streams a peer may have opened and reset before we looked (CVE-2023-44487; hyper allows 20, but the bytes
/// of a turn hold a dozen such streams at most), and how many we may have had to reset for the peer's errors (half of
/// what may be open; hyper allows 1,024: CVE-2025-8671). Beyond either number the connection ends.
const PENDING_RESETS: usize = 4;
const LOCAL_RESETS: usize = 128;

/// How long a connection that is turned away may take to hear it.
const GOODBYE: Duration = Duration::from_millis(200);

/// How long to wait before accepting again where open files are used up: the shorter time where a connection has been
/// asked to go.
const NO_FILES: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_millis(5);

/// The settings of one interface.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Vec<Address>,
    pub connections: usize,
    pub gives_way: GivesWay,
    /// How long a head may take to arrive, and an answer to be read where another connection needs the place.
    pub header_timeout: Duration,
    /// How long a connection may stay open between requests.
    pub idle_timeout: Duration,
    /// HTTP/2 streams that a connection may have open.
    pub streams: u32,
    /// Bytes of a head that HTTP/2 reads.
    pub header_list: u32,
    /// Bytes of answers that may wait to be read over HTTP/2.
    pub unread: usize,
}

/// How the connections of one interface end. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// What has to end.
    pub(crate) tasks: TaskTracker,
    /// Stop accepting; let every connection finish the request it is at.
    pub(crate) drain: CancellationToken,
    /// Drop what is still there.
    pub(crate) kill: CancellationToken,
}

/// What is served.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) router: Router,
    /// What answers before hyper and the router have their turn.
    pub(crate) at_once: Option<Arc<dyn AtOnce>>,
}

impl From<Router> for Service {
    fn from(router: Router) -> Service {
        Service { router, at_once: None }
    }
}

/// What all connections of one interface share.
#[derive(Clone)]
pub(crate) struct Server {
    service: Service,
    keep_alive: Arc<HeaderMap>,
    /// What is said where there is no request to serve.
    refuse: Refuse,
    crowd: Crowd,
    patience: Patience,
    ending: Ending,
    streams: u32,
    header_list: u32,
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
    /// `refuse` is what is said where there is no request to serve.
    pub(crate) fn new(config: &Config, service: Service, refuse: Refuse, ending: Ending) -> Server {
        let Config { header_timeout: head, idle_timeout: idle, gives_way, streams, header_list, .. } = *config;
        let crowd = Crowd::new(config.connections, config.unread);
        let keep_alive = Arc::new(config.keep_alive());
        Server {
            service,
            keep_alive,
            refuse,
            crowd,
            patience: Patience { head, idle, gives_way },
            ending,
            streams,
            header_list,
        }
    }

    pub(crate) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Accepts until `drain`. Every connection is a task on its tracker.
    pub(crate) async fn run(self, listener: Listener) {
        let mut spare = spare_file();
        loop {
            let accepted = tokio::select! {
                () = self.ending.drain.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => {
                    spare = spare.or_else(spare_file);
                    self.admit(stream).await;
                }
                // A peer that gave up before its turn.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    // Most likely out of file descriptors: one of ours goes, or else the spare one.
                    let pause = if self.crowd.make_room() || spare.take().is_some() {
                        SOON
                    } else {
                        tracing::warn!(%error, "cannot accept a connection");
                        NO_FILES
                    };
                    tokio::select! {
                        () = self.ending.drain.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// Gives a new connection a place. Where there is none, another connection may make room; otherwise the new
    /// connection is told why it has no place.
    async fn admit(&self, stream: Stream) {
        let (server, activity) = (self.clone(), Activity::default());
        if let Some(member) = self.crowd.enter(&activity) {
            // In a box, here and below: the whole way from a connection to an answer is built in once and not twice.
            self.ending.tasks.spawn(server.connection(stream, activity, member).boxed());
            return;
        }
        let is_one_asked = self.crowd.make_room();
        let Some(door) = self.crowd.at_the_door() else {
            self.crowd.turns_one_away();
            return;
        };
        self.ending.tasks.spawn(async move {
            if is_one_asked && let Some(member) = server.crowd.enter_soon(&activity).await {
                drop(door);
                server.connection(stream, activity, member).boxed().await;
            } else {
                server.crowd.turns_one_away();
                server.turn_away(stream).await;
            }
        });
        // In a flood, too, the connection that was asked to go has time to go.
        tokio::task::yield_now().await;
    }

    /// Says why and closes. For a moment we read and discard what the peer has sent meanwhile: to close over unread
    /// bytes is a reset, and a reset would take the answer along.
    async fn turn_away(&self, mut stream: Stream) {
        let answer = (self.refuse)(Unserved::TooManyConnections, None);
        let goodbye = async {
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            tokio::io::copy(&mut stream.take(MAX_HEAD_BYTES as u64), &mut tokio::io::sink()).await
        };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }

    /// What serves one connection.
    fn serving<S>(&self, stream: S, peer: Peer, activity: &Activity) -> Serving<Goodbye<S>>
    where
        S: AsyncRead + AsyncWrite + HasUnread + Unpin + 'static,
    {
        let mut builder = auto::Builder::new(Tracked(self.ending.tasks.clone()));
        // hyper's own timeout for heads runs between requests, too: ours is in `watch`.
        builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES);
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
            .max_header_list_size(self.header_list)
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .keep_alive_timeout(self.patience.head);
        let heads = Heads::default();
        let Service { router, at_once } = self.service.clone();
        let account = Account::new(activity, &self.keep_alive, &self.crowd);
        let service = Routed::new(account, heads.clone(), peer.clone(), router);
        let stream = Goodbye::new(stream, activity.clone());
        let stream = Framing::new(stream, &heads, activity, self.refuse.clone());
        let responder = at_once.map(|at_once| Responder::new(at_once, peer));
        let stream = Answering::new(stream, heads, activity.clone(), responder);
        Serving::new(stream, builder, service, activity.clone())
    }

    async fn connection(self, stream: Stream, activity: Activity, member: Member) {
        let peer = Peer::of(&stream);
        let mut connection = pin!(self.serving(stream, peer, &activity));
        let mut turns = Turns::new(activity.clone());
        let mut watch = Watch::new(activity.clone(), member, self.patience);
        let mut drain = Ringing::new(self.ending.drain.cancelled(), activity.clone());
        let mut is_draining = false;
        let ended = loop {
            tokio::select! {
                // In this order: what has just come must be read before we ask how long nothing has come.
                biased;
                ended = poll_fn(|cx| turns.poll(connection.as_mut(), cx)) => break ended,
                () = &mut drain, if !is_draining => {
                    is_draining = true;
                    // Whoever has just connected has a request on the way. hyper would close without a word.
                    let first = poll_fn(|cx| match turns.poll(connection.as_mut(), cx) {
                        Poll::Ready(ended) => Poll::Ready(Some(ended)),
                        Poll::Pending if activity.now().0 != Phase::Silent => Poll::Ready(None),
                        Poll::Pending => Poll::Pending,
                    });
                    tokio::select! {
                        ended = tokio::time::timeout(FIRST_REQUEST, first) => if let Ok(Some(ended)) = ended { break ended },
                        () = self.ending.kill.cancelled() => return,
                    }
                    connection.as_mut().graceful_shutdown();
                }
                () = self.ending.kill.cancelled(), if is_draining => return,
                over = poll_fn(|cx| watch.poll_over(cx)) => {
                    if over == Over::TooSlow || is_draining {
                        return;
                    }
                    let looked = poll_fn(|cx| {
                        let mut ended = Poll::Pending;
                        let has_unread = activity.has_unread(|| ended = turns.poll(connection.as_mut(), cx));
                        Poll::Ready((has_unread, ended))
                    });
                    match looked.await {
                        (_, Poll::Ready(ended)) => break ended,
                        // A request came at the last moment. It is read once the runtime has heard of it.
                        (has_unread, Poll::Pending) if watch.is_revived(has_unread) => {
                            tokio::task::yield_now().await;
                            continue;
                        }
                        (_, Poll::Pending) => connection.as_mut().graceful_shutdown(),
                    }
                    if over == Over::GivesWay {
                        // The end is sent, and not waited for.
                        let _ = futures_util::poll!(connection.as_mut());
                        return;
                    }
                    tokio::select! {
                        ended = poll_fn(|cx| turns.poll(connection.as_mut(), cx)) => break ended,
                        () = self.ending.kill.cancelled() => return,
                        () = tokio::time::sleep(self.patience.head) => return,
                    }
                }
            }
        };
        if let Err(error) = ended {
            // The peer's doing, and frequent: hung up, timed out, spoke nonsense.
            tracing::debug!(%error, "connection ended early");
        }
    }
}

/// A file that is open for nothing: when something else has used up all other files, it is closed to make room for a
/// connection.
fn spare_file() -> Option<File> {
    File::open("/dev/null").ok()
}

impl Config {
    /// What an answer over HTTP/1.1 says of a connection that stays open.
    pub(crate) fn keep_alive(&self) -> HeaderMap {
        keep_alive(self.idle_timeout)
    }
}

/// Callers are told a second less than the time between requests is, as a request may be on its way when it ends.
fn keep_alive(idle: Duration) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let seconds = match idle.as_secs() {
        0 => return headers,
        seconds => (seconds - 1).max(1),
    };
    headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    // Leaked, once for each listener: every answer clones it, and clones of a static text share no reference count, which threads
    // would contend for.
    let timeout = HeaderValue::from_static(format!("timeout={seconds}").leak());
    headers.insert(HeaderName::from_static("keep-alive"), timeout);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_hear_a_little_less_than_the_time_between_requests() {
        let say = |millis| {
            let headers = keep_alive(Duration::from_millis(millis));
            headers.get("keep-alive").map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(say(75_000).as_deref(), Some("timeout=74"));
        assert_eq!(say(2500).as_deref(), Some("timeout=1"));
        assert_eq!(say(1000).as_deref(), Some("timeout=1"));
        assert_eq!(say(999), None, "less than can be said");
    }
}
