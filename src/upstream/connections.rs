//! The connections to kie.ai: kept while they answer, and all made anew when one of them does not.
//!
//! HTTP/1.1 only. At ten requests a second HTTP/2 saves nothing, and on its one connection a single fault (silence, a
//! GOAWAY, a refused stream) is everybody's.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};

/// A server closes idle connections after a minute or more (nginx: 75 s); closing them before the server does avoids
/// most races.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no client for kie.ai.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("there are no root certificates that could vouch for kie.ai: SSL_CERT_FILE or SSL_CERT_DIR names them")]
    NoRoots(#[source] Option<rustls_native_certs::Error>),
    #[error("the HTTP client cannot be set up")]
    Client(#[from] reqwest::Error),
}

/// The pool of connections in use, and the certificates that vouch for the server that they lead to.
pub(super) struct Connections {
    connect_timeout: Duration,
    state: Mutex<State>,
    /// Whether the certificates are being read: one thread at a time, which may hang on a dead mount.
    reading: AtomicBool,
}

struct State {
    pool: Arc<Pool>,
    /// `None` where no TLS is spoken.
    roots: Option<Roots>,
}

/// Root certificates, as read.
#[derive(Clone)]
struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    tls: Arc<ClientConfig>,
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
    pub(super) fn new(with_tls: bool, connect_timeout: Duration) -> Result<Connections, SetupError> {
        // Process-wide by rustls's design, and idempotent: an error means that a provider is there already. reqwest
        // wants one even where no TLS is spoken.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let roots = if with_tls { Some(Roots::read()?) } else { None };
        let pool = pool(roots.as_ref(), connect_timeout)?;
        let state = Mutex::new(State { pool: Arc::new(pool), roots });
        Ok(Connections { connect_timeout, state, reading: AtomicBool::new(false) })
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
            state.replace(self.connect_timeout);
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
            let read = Roots::read();
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
            state.replace(self.connect_timeout);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn replace(&mut self, connect_timeout: Duration) {
        match pool(self.roots.as_ref(), connect_timeout) {
            Ok(pool) => self.pool = Arc::new(pool),
            // A client was made of the same settings before.
            Err(error) => tracing::error!(error = %super::Chain(&error), "the connections to kie.ai go on as they are"),
        }
    }
}

impl Roots {
    /// Reads the system's certificates, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. Blocks.
    pub(super) fn read() -> Result<Roots, SetupError> {
        let mut found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        // Single certificates that make no sense are passed over, as everywhere.
        store.add_parsable_certificates(found.certs.iter().cloned());
        if store.is_empty() {
            return Err(SetupError::NoRoots(found.errors.pop()));
        }
        let mut tls = ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Roots { certificates: found.certs, tls: Arc::new(tls) })
    }
}

/// Whether the root certificates that would vouch for kie.ai can be had. Blocks.
///
/// # Errors
/// Where there is none.
pub fn check_roots() -> Result<(), SetupError> {
    Roots::read().map(|_| ())
}

fn pool(roots: Option<&Roots>, connect_timeout: Duration) -> Result<Pool, reqwest::Error> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("kielink/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect_timeout)
        .http1_only()
        // SECURITY: a redirect would carry the key, or a caller's trust, to another host.
        .redirect(reqwest::redirect::Policy::none())
        // SECURITY: a proxy of the environment would see the key on a plain connection.
        .no_proxy()
        // Every request must pass the budget; the client must not repeat any on its own.
        .retry(reqwest::retry::never())
        .referer(false)
        .tcp_nodelay(true)
        .pool_idle_timeout(IDLE_TIMEOUT);
    let client = match roots {
        Some(roots) => client.tls_backend_preconfigured(ClientConfig::clone(&roots.tls)),
        // No TLS will be spoken: a machine without root certificates must do.
        None => client.tls_certs_only([]),
    };
    Ok(Pool { client: client.build()?, has_answered: AtomicBool::new(false) })
}
