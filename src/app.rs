//! The composition root: builds the parts, runs them, ends them in order.

use std::{future::Future, io, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::dispatcher;

use crate::{
    admin::{
        self,
        status::{self, Status},
    },
    clock::{Clock, KieClock},
    config, http,
    key::{Keys, Reload},
    links::Links,
    readiness::Readiness,
    server::{Address, Bound, Crowd, GivesWay, Inherited, Patience, Server},
    telemetry::{
        LAST_LINES, Telemetry,
        metrics::{counting, reading},
    },
    upstream::{Chain, Kie, SetupError, Wire},
    web::{self, edge::Watched, metrics::Requests, probes::Probes},
};

/// Where to listen and how to end.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Vec<Address>,
    pub admin_listen: Vec<Address>,
    pub drain_delay: Duration,
    pub shutdown_grace: Duration,
    pub connections: usize,
    /// Of the admin interface.
    pub admin_connections: usize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    /// HTTP/2 streams on one connection.
    pub streams: u32,
    /// Bytes of a head of HTTP/2.
    pub header_list: u32,
    /// Bytes of answers that may wait to be read over HTTP/2: of callers, and of the admin interface.
    pub unread: usize,
    pub admin_unread: usize,
}

/// Bound listeners: nothing is served yet, but every address is taken or has failed.
#[derive(Debug)]
pub struct Listeners {
    data: Vec<Bound>,
    admin: Vec<Bound>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything accepted was answered.
    Drained,
    /// `shutdown_grace` ran out first.
    CutShort,
}

/// Why it could not start to serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot set up the client for kie.ai")]
    Client(#[source] SetupError),
    #[error("cannot use a listener")]
    Listener(#[source] io::Error),
    #[error("the admin interface failed to start; its log line says why")]
    AdminThread,
}

/// What was sent before the stop arrives, and what waits in the listeners' backlog, is still accepted for this long:
/// closing at once would reset it.
const LINGER: Duration = Duration::from_millis(100);

/// HTTP/2 streams on a connection to the admin interface. A page of some 20 KiB may wait on each of them to be read, and nobody
/// who watches needs more.
const ADMIN_STREAMS: u32 = 8;

/// The part of the grace in which callers who waited in vain are told so; it is one small answer each.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a collector of traces may take for the last ones; part of the grace, too.
const LAST_SPANS: Duration = Duration::from_secs(1);

impl Listeners {
    /// Sockets that were handed over take the place of the settings' addresses: those with `admin` in their name, or bound to
    /// an address of `admin.listen`, those of the admin interface, all others those for callers.
    ///
    /// # Errors
    /// With the first address that cannot be had.
    pub fn bind(config: &Config, inherited: Vec<Inherited>) -> io::Result<Listeners> {
        let configured: Vec<Address> = config.admin_listen.iter().flat_map(Address::resolved).collect();
        let is_configured = |bound: &Bound| configured.contains(&bound.address());
        let is_admin = |socket: &Inherited| socket.name.contains("admin") || is_configured(&socket.bound);
        let (admin, data): (Vec<_>, Vec<_>) = inherited.into_iter().partition(is_admin);
        if !admin.is_empty() && !admin.iter().any(|socket| is_configured(&socket.bound)) {
            tracing::warn!(
                "the admin socket that was handed over is not at admin.listen: healthcheck and wait look there"
            );
        }
        let settle = |sockets: Vec<Inherited>, addresses: &[Address]| {
            if sockets.is_empty() {
                return addresses.iter().map(Bound::bind).collect::<io::Result<Vec<_>>>();
            }
            Ok(sockets.into_iter().map(|socket| socket.bound).collect())
        };
        Ok(Listeners { data: settle(data, &config.listen)?, admin: settle(admin, &config.admin_listen)? })
    }

    /// The addresses for callers, with the ports that the system chose.
    pub fn data_addresses(&self) -> Vec<Address> {
        self.data.iter().map(Bound::address).collect()
    }

    /// The addresses of the admin interface, likewise.
    pub fn admin_addresses(&self) -> Vec<Address> {
        self.admin.iter().map(Bound::address).collect()
    }
}

/// Serves on `listeners` until `stop` resolves, then ends in order: not ready, `drain_delay`, no new connections,
/// accepted requests finish within `shutdown_grace`. Reads the key again when `reload` asks. Shows the failures that the log
/// counts in `telemetry`, and traces with its tracer.
///
/// # Errors
/// When the client for kie.ai or the admin thread cannot be set up.
pub async fn serve(
    listeners: Listeners,
    config: config::Config,
    telemetry: Telemetry,
    clock: Clock,
    reload: Reload,
    stop: impl Future<Output = ()>,
) -> Result<Ended, Error> {
    let (readiness, [key, listening]) = Readiness::waiting_for(["key", "listeners"]);
    let log_hash = config.key.log_hash();
    let keys = Keys::new(config.key, config.key_source, clock.clone());
    let kie_clock = KieClock::default();
    let wire = Wire::new(config.upstream.wire.clone(), keys.clone(), clock.clone(), kie_clock.clone());
    let wire = wire.map_err(Error::Client)?;
    key.open();

    let (background, connections) = (TaskTracker::new(), TaskTracker::new());
    let (drain, kill, cut) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    // Where the start fails half-way, what has begun ends, too.
    let last_words_said = CancellationToken::new();
    let _guards = [&drain, &kill, &cut, &last_words_said].map(|token| token.clone().drop_guard());
    background.spawn(keys.clone().watch(reload, cut.clone()));
    background.spawn(kie_clock.clone().watch(clock.clone(), cut.clone()));
    let sums = TaskTracker::new();
    sums.spawn(telemetry.failures.clone().sum_up(last_words_said.clone()));
    let kie = Kie::new(&config.upstream.kie, wire, clock.clone(), &background, cut.clone());
    let probes = Probes { readiness: readiness.clone(), kie: kie.clone() };
    let links = Links::new(
        config.links,
        Arc::new(kie.clone()),
        clock.clone(),
        kie_clock,
        log_hash.clone(),
        telemetry.tracer.clone(),
        background.clone(),
        cut.clone(),
    );

    let addresses = (listeners.data_addresses(), listeners.admin_addresses());
    let mut registry = Registry::default();
    admin::register_process(&mut registry);
    let own = registry.sub_registry_with_prefix("kielink");
    admin::register(own, &readiness);
    keys.register(own);
    kie.register(own);
    links.register(own);
    let crowd = Crowd::new(config.app.connections, config.app.unread);
    let callers = crowd.clone();
    reading(own, "connections", "Connections of callers", move || callers.present() as f64);
    let callers = crowd.clone();
    let help = "Connections of callers that were turned away, beyond limits.connections";
    counting(own, "connections_turned_away", help, move || callers.turned_away());
    let (dropped, help) = (telemetry.dropped_lines.clone(), "Log lines that could not be written in time");
    counting(own, "log_lines_dropped", help, move || dropped.count());
    let requests = Requests::default();
    let watched = Watched { requests: requests.clone(), tracer: telemetry.tracer.clone() };
    let status = Status::new(status::Sources {
        readiness: readiness.clone(),
        requests,
        links: links.clone(),
        kie: kie.clone(),
        keys: keys.clone(),
        failures: telemetry.failures.clone(),
        dropped_lines: telemetry.dropped_lines.clone(),
        clock: clock.clone(),
        settings: config.effective,
    });
    background.spawn(status.clone().watch(cut.clone()));
    let service =
        http::router(&config.http, &background, links.clone(), probes.clone(), &clock, &log_hash, watched, own);

    let allowed_hosts = &config.http.allowed_hosts;
    let level = telemetry.level;
    let admin_router = admin::router(links, probes, registry, status, level, &clock, &log_hash, allowed_hosts);
    let refuse = web::refuse(clock.clone());
    let patience =
        Patience { head: config.app.header_timeout, idle: config.app.idle_timeout, gives_way: GivesWay::Quiet };
    let drain_admin = CancellationToken::new();
    let admin = AdminThread::start(
        listeners.admin,
        Server {
            service: admin_router,
            refuse: refuse.clone(),
            crowd: Crowd::new(config.app.admin_connections, config.app.admin_unread),
            patience: Patience { gives_way: GivesWay::Any, ..patience },
            tasks: TaskTracker::new(),
            drain: drain_admin.clone(),
            kill: drain_admin,
            streams: ADMIN_STREAMS,
            header_list: config.app.header_list,
        },
    )?;

    let server = Server {
        service,
        refuse,
        crowd,
        patience,
        tasks: connections.clone(),
        drain: drain.clone(),
        kill: kill.clone(),
        streams: config.app.streams,
        header_list: config.app.header_list,
    };
    for bound in listeners.data {
        let listener = bound.register().map_err(Error::Listener)?;
        connections.spawn(server.clone().run(listener));
    }
    listening.open();
    for address in &addresses.0 {
        tracing::info!(%address, "listening");
    }
    for address in &addresses.1 {
        tracing::info!(%address, "listening (admin)");
    }

    stop.await;

    readiness.drain();
    tracing::info!(drain_delay = ?config.app.drain_delay, "not ready any more, still serving");
    tokio::time::sleep(config.app.drain_delay + LINGER).await;
    drain.cancel();
    connections.close();
    let last_words = LAST_WORDS.min(config.app.shutdown_grace / 4);
    let last_spans =
        if telemetry.tracer.is_on() { LAST_SPANS.min(config.app.shutdown_grace / 4) } else { Duration::ZERO };
    // The log's last lines are waited for after this, at the process's end, where nobody reads them.
    let last_lines = LAST_LINES.min(config.app.shutdown_grace / 4);
    let patience = (config.app.shutdown_grace - last_words - last_spans - last_lines).saturating_sub(LINGER);
    let ended = match tokio::time::timeout(patience, connections.wait()).await {
        Ok(()) => Ended::Drained,
        Err(_elapsed) => Ended::CutShort,
    };
    let left = connections.len();
    // Refreshes and mints whose callers have gone; and, where the grace ran out, those that callers still wait for.
    // They are told so, which takes a moment, before their connections are dropped.
    cut.cancel();
    background.close();
    let last = async {
        background.wait().await;
        connections.wait().await;
    };
    let _ = tokio::time::timeout(last_words, last).await;
    kill.cancel();
    match ended {
        Ended::Drained => tracing::info!("every accepted request was answered"),
        Ended::CutShort => tracing::warn!(connections = left, "the grace ran out; connections were cut"),
    }
    // What it has not sent by then is lost: traces are worth less than an orderly end.
    let tracer = telemetry.tracer;
    let _ = tokio::task::spawn_blocking(move || tracer.shutdown(last_spans)).await;
    last_words_said.cancel();
    sums.close();
    sums.wait().await;
    drop(admin);
    Ok(ended)
}

/// The admin interface on its own thread and runtime: under full load of the data interface, probes still answer.
struct AdminThread {
    drain: CancellationToken,
    /// `None` only while it is dropped.
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AdminThread {
    fn start(bound: Vec<Bound>, server: Server) -> Result<AdminThread, Error> {
        let drain = server.drain.clone();
        // Tests capture logs by a thread's subscriber; the new thread takes over its maker's.
        let logs = dispatcher::get_default(Clone::clone);
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let run = move || -> io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                for bound in bound {
                    server.tasks.spawn(server.clone().run(bound.register()?));
                }
                let _ = sender.send(());
                server.drain.cancelled().await;
                server.tasks.close();
                server.tasks.wait().await;
                Ok(())
            })
        };
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                if let Err(error) = dispatcher::with_default(&logs, run) {
                    tracing::error!(error = %Chain(&error), "the admin interface failed to start");
                }
            })
            .map_err(Error::Listener)?;
        match receiver.recv() {
            Ok(()) => Ok(AdminThread { drain, thread: Some(thread) }),
            Err(_) => Err(Error::AdminThread),
        }
    }
}

/// Also where a second signal ends everything at once: the listeners' socket files go with the thread.
impl Drop for AdminThread {
    fn drop(&mut self) {
        self.drain.cancel();
        if let Some(thread) = self.thread.take() {
            // Its tasks end at once, since `kill` is `drain`.
            let _ = thread.join();
        }
    }
}
