//! The connections to kie.ai: kept while they answer, and all made anew when one of them does not.
//!
//! HTTP/1.1 only. At ten requests a second HTTP/2 saves nothing, and on its one connection a single fault (silence, a
//! GOAWAY, a refused stream) is everybody's.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::ClientConfig;

use crate::roots::{self, Roots};

/// A server closes idle connections after a minute or more (nginx: 75 s); closing them before the server does avoids
/// most races.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long kie.ai takes for an answer, generously: a third of a second is usual.
const USUAL_ANSWER: Duration = Duration::from_millis(500);

/// How many idle connections are kept: as many as are in use at once while mints follow each other as fast as `rate`
/// allows, at most `in_flight`. Each takes some 25 KB. What a burst needs beyond them is closed when it is over: the next
/// burst, which `rate` has to earn first, shakes hands anew, as it does after every quiet minute.
pub fn most_idle(rate: NonZeroU32, in_flight: NonZeroU32) -> usize {
    let in_use = (f64::from(rate.get()) * USUAL_ANSWER.as_secs_f64()).ceil();
    (in_use as usize).min(in_flight.get() as usize)
}

/// Why there is no client for kie.ai.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("there are no root certificates that could vouch for kie.ai: SSL_CERT_FILE or SSL_CERT_DIR names them")]
    NoRoots(#[source] Option<roots::ReadError>),
    #[error("the HTTP client cannot be set up")]
    Client(#[from] reqwest::Error),
}

/// The pool of connections in use, and the certificates that vouch for the server that they lead to.
pub(super) struct Connections {
    settings: Settings,
    state: Mutex<State>,
    /// Whether the certificates are being read: one thread at a time, which may hang on a dead mount.
    reading: AtomicBool,
}

/// What every pool is made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) connect_timeout: Duration,
    pub(super) most_idle: usize,
}

struct State {
    pool: Arc<Pool>,
    /// `None` where no TLS is spoken.
    roots: Option<Roots>,
}

/// Connections that are given up together. A request keeps its pool until it is over.
pub(super) struct Pool {
    client: reqwest::Client,
    /// Whether an answer came over one of its connections, which may be open and idle since.
    has_answered: AtomicBool,
}

impl Pool {
    pub(super) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(super) fn answered(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
    }

    /// Whether a request may go over a connection that was open before; over a fresh one otherwise.
    pub(super) fn may_be_kept(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }
}

impl Connections {
    /// # Errors
    /// Where TLS is wanted, and no root certificate can be had.
    pub(super) fn new(with_tls: bool, settings: Settings) -> Result<Connections, SetupError> {
        // Process-wide by rustls's design, and idempotent: an error means that a provider is there already. reqwest
        // wants one even where no TLS is spoken.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let roots = if with_tls { Some(Roots::read().map_err(SetupError::NoRoots)?) } else { None };
        let pool = pool(roots.as_ref(), settings)?;
        let state = Mutex::new(State { pool: Arc::new(pool), roots });
        Ok(Connections { settings, state, reading: AtomicBool::new(false) })
    }

    pub(super) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.lock().pool)
    }

    /// Gives up `failed`, over which a request had no answer: its idle connections are closed, requests under way
    /// finish, and every later request goes over a fresh connection. The root certificates are read again meanwhile,
    /// since a private authority's may have been rotated.
    pub(super) fn renew(self: &Arc<Self>, failed: &Arc<Pool>) {
        {
            let mut state = self.lock();
            if !Arc::ptr_eq(&state.pool, failed) {
                return;
            }
            state.replace(self.settings);
            if state.roots.is_none() {
                return;
            }
        }
        if self.reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let connections = Arc::clone(self);
        // Nobody waits for the thread.
        drop(tokio::task::spawn_blocking(move || {
            let read = Roots::read().map_err(SetupError::NoRoots);
            connections.reading.store(false, Ordering::Release);
            match read {
                Ok(roots) => connections.take(roots),
                Err(error) => {
                    tracing::warn!(error = %super::Chain(&error), "the root certificates in use go on");
                }
            }
        }));
    }

    fn take(&self, roots: Roots) {
        let mut state = self.lock();
        if state.roots.as_ref().is_none_or(|known| known.certificates != roots.certificates) {
            tracing::info!(certificates = roots.certificates.len(), "other root certificates are used from now on");
            state.roots = Some(roots);
            state.replace(self.settings);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn replace(&mut self, settings: Settings) {
        match pool(self.roots.as_ref(), settings) {
            Ok(pool) => self.pool = Arc::new(pool),
            // A client was made of the same settings before.
            Err(error) => tracing::error!(error = %super::Chain(&error), "the connections to kie.ai go on as they are"),
        }
    }
}

/// Whether the root certificates that would vouch for kie.ai can be had. Blocks.
///
/// # Errors
/// Where there is none.
pub fn check_roots() -> Result<(), SetupError> {
    Roots::read().map(|_| ()).map_err(SetupError::NoRoots)
}

fn tls(roots: &Roots) -> ClientConfig {
    let mut tls = ClientConfig::clone(&roots.tls);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    tls
}

fn pool(roots: Option<&Roots>, settings: Settings) -> Result<Pool, reqwest::Error> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("kielink/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.connect_timeout)
        .http1_only()
        // SECURITY: a redirect would carry the key, or a caller's trust, to another host.
        .redirect(reqwest::redirect::Policy::none())
        // SECURITY: a proxy of the environment would see the key on a plain connection.
        .no_proxy()
        // Every request must pass the budget; the client must not repeat any on its own.
        .retry(reqwest::retry::never())
        .referer(false)
        .tcp_nodelay(true)
        .pool_max_idle_per_host(settings.most_idle)
        .pool_idle_timeout(IDLE_TIMEOUT);
    let client = match roots {
        Some(roots) => client.tls_backend_preconfigured(tls(roots)),
        // No TLS will be spoken: a machine without root certificates must do.
        None => client.tls_certs_only([]),
    };
    Ok(Pool { client: client.build()?, has_answered: AtomicBool::new(false) })
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::{Barrier, mpsc},
    };
    use tokio_util::task::TaskTracker;

    use super::*;

    #[test]
    fn as_many_idle_connections_are_kept_as_the_rate_keeps_busy() {
        let most = |rate, in_flight| most_idle(NonZeroU32::new(rate).unwrap(), NonZeroU32::new(in_flight).unwrap());
        assert_eq!(most(10, 32), 5, "the defaults");
        assert_eq!(most(1, 32), 1, "one mint after the other needs no second handshake");
        assert_eq!(most(10, 2), 2);
        assert_eq!(most(100_000, 32), 32);
        assert_eq!(most(u32::MAX, u32::MAX), 2_147_483_648);
    }

    /// Answers each request once `together` are there, and tells when a peer has closed.
    async fn answer(mut stream: TcpStream, together: Arc<Barrier>, closed: mpsc::UnboundedSender<()>) {
        let mut head = Vec::new();
        while stream.read_buf(&mut head).await.unwrap_or(0) > 0 {
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                together.wait().await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
        let _ = closed.send(());
    }

    #[tokio::test]
    async fn what_a_burst_needed_beyond_them_is_closed_when_it_is_over() {
        const BURST: usize = 6;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut closed) = mpsc::unbounded_channel();
        let tasks = TaskTracker::new();
        let peers = tasks.clone();
        let server = tasks.spawn(async move {
            let together = Arc::new(Barrier::new(BURST));
            while let Ok((stream, _)) = listener.accept().await {
                peers.spawn(answer(stream, Arc::clone(&together), sender.clone()));
            }
        });
        let settings = Settings { connect_timeout: Duration::from_secs(3), most_idle: 2 };
        let connections = Connections::new(false, settings).unwrap();
        let pool = connections.pool();
        let ask = || pool.client().get(format!("http://{address}/")).send();
        let answers = futures_util::future::join_all((0..BURST).map(|_| ask())).await;
        for answer in answers {
            answer.unwrap().bytes().await.unwrap();
        }
        for _ in 0..BURST - 2 {
            closed.recv().await.unwrap();
        }
        let third = tokio::time::timeout(Duration::from_millis(200), closed.recv()).await;
        assert!(third.is_err(), "two are kept");
        server.abort();
    }
}
