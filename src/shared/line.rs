//! A connection to one server, whichever that is: looked up, connected, with TLS or without, and let in.
//!
//! Does not know which server is the one, nor what is asked.

use std::{
    collections::HashMap,
    fmt, io,
    net::{SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{self, BoxFuture};
use memchr::memchr_iter;
use redis::{
    AsyncConnectionConfig, Cmd, ProtocolVersion, RedisConnectionInfo, Value,
    aio::{AsyncStream, MultiplexedConnection},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    fault::{self, Fault},
    url::{Address, Endpoint},
};
use crate::roots::Roots;

/// One step on the way to a connection: TCP, TLS, each first question. A tier that takes longer would be of no use.
const STEP: Duration = Duration::from_millis(250);

/// A name server may take longer, once; the look-up goes on for the next try.
const LOOKUP: Duration = Duration::from_secs(2);

/// Bytes, and `LINE_COST` for each line of them, that may come before an answer is whole. The longest honest one, what a
/// cluster of 2,500 ranges of slots says of itself, has so many; `scripts::PEEK` links have 0.7 MiB. What comes makes at most
/// seven times as many bytes of memory, and that only as an error's text that is no UTF-8.
const LONGEST_ANSWER: usize = 3 * 1024 * 1024;

/// Charged for each line feed, besides the bytes themselves: `*1\r\n`, a list of one, takes 240 bytes as a value.
const LINE_COST: usize = 64;

/// About so many bytes, charged alike, are read before the answers among them are looked at.
const BYTES_A_TURN: usize = 256 * 1024;

/// Calls that may lie in the client library's queue: more than are ever under way.
const QUEUE: usize = 2048;

/// Opens connections to the servers of one address.
pub(super) struct Lines {
    address: Address,
    lookups: Mutex<HashMap<Endpoint, JoinHandle<io::Result<Vec<SocketAddr>>>>>,
    trust: Mutex<Trust>,
}

/// The root certificates, read when they are needed first, and again after TLS has failed.
#[derive(Default)]
struct Trust {
    tls: Option<Arc<ClientConfig>>,
    /// One thread at a time reads them, which may hang on a dead mount.
    reading: Option<JoinHandle<Result<Roots, Option<crate::roots::ReadError>>>>,
}

/// An open connection, and the task that moves its bytes, which is to be polled by whoever has the line.
pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    pub(super) driver: BoxFuture<'static, ()>,
    pub(super) allowance: Allowance,
}

/// How much the tier may still send. Without it a tier could fill the memory with one answer.
#[derive(Clone)]
pub(super) struct Allowance(Arc<Inbound>);

struct Inbound {
    left: AtomicUsize,
    left_in_turn: AtomicUsize,
    /// The first bytes that came were those of a Redis in protected mode, which says why, unasked, and hangs up.
    is_denied: AtomicBool,
    has_begun: AtomicBool,
}

impl Allowance {
    fn new() -> Allowance {
        let [left, left_in_turn] = [LONGEST_ANSWER, BYTES_A_TURN].map(AtomicUsize::new);
        let [is_denied, has_begun] = [false; 2].map(AtomicBool::new);
        Allowance(Arc::new(Inbound { left, left_in_turn, is_denied, has_begun }))
    }

    /// An answer has come.
    pub(super) fn renew(&self) {
        self.0.left.store(LONGEST_ANSWER, Ordering::Relaxed);
    }

    fn begin_turn(&self) {
        self.0.left_in_turn.store(BYTES_A_TURN, Ordering::Relaxed);
    }

    fn is_turn_over(&self) -> bool {
        self.0.left_in_turn.load(Ordering::Relaxed) == 0
    }

    fn spend(&self, bytes: &[u8]) -> io::Result<()> {
        if !bytes.is_empty() && !self.0.has_begun.swap(true, Ordering::Relaxed) {
            self.0.is_denied.store(bytes.starts_with(b"-DENIED "), Ordering::Relaxed);
        }
        let cost = bytes.len() + LINE_COST * memchr_iter(b'\n', bytes).count();
        let spend = |left: &AtomicUsize| {
            let less = left.load(Ordering::Relaxed).saturating_sub(cost);
            left.store(less, Ordering::Relaxed);
            less
        };
        spend(&self.0.left_in_turn);
        if spend(&self.0.left) == 0 { Err(io::Error::from(io::ErrorKind::InvalidData)) } else { Ok(()) }
    }

    /// Why a connection was lost, as far as what came on it tells.
    pub(super) fn fault(&self) -> Fault {
        if self.0.is_denied.load(Ordering::Relaxed) {
            Fault::Protected
        } else if self.0.left.load(Ordering::Relaxed) == 0 {
            Fault::TooLong
        } else {
            Fault::Lost
        }
    }
}

/// A stream with an allowance.
struct Bounded {
    stream: Pin<Box<dyn AsyncStream + Send>>,
    allowance: Allowance,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.allowance.is_turn_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(self.stream.as_mut().poll_read(cx, buffer))?;
        Poll::Ready(self.allowance.spend(&buffer.filled()[before..]))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

impl Lines {
    pub(super) fn new(address: Address) -> Lines {
        Lines { address, lookups: Mutex::default(), trust: Mutex::default() }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// A connection, without a word said on it.
    pub(super) async fn open(&self, endpoint: &Endpoint) -> Result<Line, Fault> {
        let stream = self.stream(endpoint).await?;
        let allowance = Allowance::new();
        let bounded = Bounded { stream, allowance: allowance.clone() };
        // What we say first we say ourselves, so that this says nothing and cannot fail.
        let nothing = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let made = MultiplexedConnection::new_with_config(&nothing, bounded, config).await;
        let (connection, driver) = made.map_err(|_| Fault::Lost)?;
        let (mut driver, turns) = (Box::pin(driver), allowance.clone());
        let driver = Box::pin(future::poll_fn(move |cx| {
            turns.begin_turn();
            driver.as_mut().poll(cx)
        }));
        Ok(Line { connection, driver, allowance })
    }

    async fn stream(&self, endpoint: &Endpoint) -> Result<Pin<Box<dyn AsyncStream + Send>>, Fault> {
        #[cfg(test)]
        if let Some(stand_in) = &self.address.stand_in {
            return Ok(Box::pin(stand_in.connect().map_err(Fault::Connect)?));
        }
        let addresses = self.look_up(endpoint).await?;
        let tcp = timeout(STEP, tcp(addresses)).await.map_err(|_| Fault::Silent)?.map_err(Fault::Connect)?;
        if self.address.has_tls { self.tls(endpoint, tcp).await } else { Ok(Box::pin(tcp)) }
    }

    async fn tls(&self, endpoint: &Endpoint, tcp: TcpStream) -> Result<Pin<Box<dyn AsyncStream + Send>>, Fault> {
        let name = ServerName::try_from(endpoint.host.clone()).map_err(|_| Fault::TlsName)?;
        let connector = TlsConnector::from(self.trust().await?);
        match timeout(STEP, connector.connect(name, tcp)).await.map_err(|_| Fault::Silent)? {
            Ok(stream) => Ok(Box::pin(stream)),
            Err(error) => {
                // A private authority's certificate may have been rotated.
                self.lock_trust().tls = None;
                Err(Fault::of_tls(error))
            }
        }
    }

    async fn trust(&self) -> Result<Arc<ClientConfig>, Fault> {
        let mut reading = {
            let mut trust = self.lock_trust();
            if let Some(tls) = &trust.tls {
                return Ok(Arc::clone(tls));
            }
            trust.reading.take().unwrap_or_else(|| tokio::task::spawn_blocking(Roots::read))
        };
        let Ok(read) = timeout(LOOKUP, &mut reading).await else {
            self.lock_trust().reading = Some(reading);
            return Err(Fault::NoRoots(None));
        };
        let roots = read.unwrap_or(Err(None)).map_err(Fault::NoRoots)?;
        self.lock_trust().tls = Some(Arc::clone(&roots.tls));
        Ok(roots.tls)
    }

    /// Anew each time: names move. One thread for each name at most.
    async fn look_up(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, Fault> {
        let pending = self.lock_lookups().remove(endpoint);
        let mut pending = pending.unwrap_or_else(|| {
            let Endpoint { host, port } = endpoint.clone();
            tokio::task::spawn_blocking(move || Ok((host.as_str(), port).to_socket_addrs()?.collect()))
        });
        let Ok(found) = timeout(LOOKUP, &mut pending).await else {
            self.lock_lookups().insert(endpoint.clone(), pending);
            return Err(Fault::SlowLookup);
        };
        found.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(Fault::Lookup)
    }

    fn lock_trust(&self) -> std::sync::MutexGuard<'_, Trust> {
        // Every section is one assignment.
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_lookups(&self) -> std::sync::MutexGuard<'_, HashMap<Endpoint, JoinHandle<io::Result<Vec<SocketAddr>>>>> {
        // Every section is one insertion or removal.
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives user and password, where there are any.
    pub(super) async fn log_in(&self, line: &mut Line) -> Result<(), Fault> {
        let Some(password) = self.address.password() else { return Ok(()) };
        let mut command = redis::cmd("AUTH");
        if let Some(user) = &self.address.user {
            command.arg(user);
        }
        line.ask(command.arg(password)).await.map(drop)
    }

    /// Has these certificates vouch for the tier.
    #[cfg(test)]
    pub(super) fn trust_in(&self, tls: Arc<ClientConfig>) {
        self.lock_trust().tls = Some(tls);
    }
}

impl Line {
    /// One question and its answer, while nobody else has the line.
    pub(super) async fn ask(&mut self, command: &Cmd) -> Result<Value, Fault> {
        let Line { connection, driver, allowance } = self;
        let answer = timeout(STEP, async {
            tokio::select! {
                biased;
                answer = connection.send_packed_command(command) => fault::read(answer),
                () = driver => Err(Fault::Lost),
            }
        });
        let answer = match answer.await.unwrap_or(Err(Fault::Silent)) {
            Err(Fault::Lost) => Err(allowance.fault()),
            answer => answer,
        };
        allowance.renew();
        answer
    }
}

/// A connection to whichever address answers first.
async fn tcp(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    if addresses.is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    let connecting = addresses.into_iter().map(|address| Box::pin(TcpStream::connect(address)));
    let (stream, _) = future::select_ok(connecting).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_one_are_charged_by_the_line() {
        let lists = |count| b"*1\r\n".repeat(count);
        let each = 4 + LINE_COST;
        assert!(Allowance::new().spend(&lists(LONGEST_ANSWER / each - 1)).is_ok());
        assert!(Allowance::new().spend(&lists(LONGEST_ANSWER / each + 1)).is_err());
    }
}
