//! The composition root: builds the parts, runs them, and has them end.

use std::{fmt, future::Future, io, sync::Arc};

use futures_util::FutureExt as _;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::dispatcher;

pub use crate::drain::Ended;
use crate::{
    admin::{
        self,
        status::{self, Status},
    },
    clock::{Clock, KieClock},
    credits::{self, Credits},
    drain::{self, Drain},
    fleet::{self, Fleet, Forgotten, Minter},
    http,
    key::{ApiKey, KeySource, Keys, Reload},
    links::{self, Links, MintResult},
    readiness::{Latch, Readiness},
    server::{self, Address, Bound, Ending, Inherited, Server},
    telemetry::{self, Telemetry, metrics::counting},
    upstream::{self, Amount, Chain, Kie, Mint, SetupError, Transport as _, Wire},
    web::{self, edge::Watched, metrics::Requests, probes::Probes},
};

/// The process's settings: the sum of what its parts want to know.
#[derive(Debug, Clone)]
pub struct Config {
    pub key: ApiKey,
    pub key_source: KeySource,
    /// The interface for callers.
    pub data: server::Config,
    pub admin: server::Config,
    pub drain: drain::Config,
    pub http: http::Config,
    pub links: links::Config,
    pub upstream: upstream::Config,
    pub credits: credits::Config,
    /// Where there is a shared tier.
    pub fleet: Option<fleet::Config>,
    pub log: telemetry::Config,
    /// Legal but risky; said once at start.
    pub warnings: Vec<String>,
    /// Defaults that are smaller than the built-in ones, since memory is limited; said once at start.
    pub fitted: Vec<(String, String)>,
    /// Every setting as it took effect, in the order of `config/default.toml`.
    pub effective: Vec<(String, String)>,
    /// Those that are not as `config/default.toml` has them, with what stands there.
    pub changed: Vec<(String, Option<String>)>,
}

/// Bound listeners: nothing is served yet, but every address is taken or has failed.
#[derive(Debug)]
pub struct Listeners {
    data: Vec<Bound>,
    admin: Vec<Bound>,
}

/// Where callers ask, and where probes and people do.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub data: Vec<Address>,
    pub admin: Vec<Address>,
}

/// All parts, put together. Nothing is served yet.
pub struct App {
    pub addresses: Addresses,
    listeners: Listeners,
    data: Server,
    admin: Server,
    listening: Latch,
    keys: Keys,
    kie_clock: KieClock,
    fleet: Option<(Fleet, Kie, Links)>,
    credits: Credits,
    links: Links,
    status: Status,
    telemetry: Telemetry,
    clock: Clock,
    drain: Drain,
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

impl Listeners {
    /// Sockets that were handed over take the place of the settings' addresses. A socket with `admin` in its name, or
    /// bound to an address of `admin.listen`, is for the admin interface; all other sockets are for callers.
    ///
    /// # Errors
    /// With the first address that cannot be had.
    pub fn bind(config: &Config, inherited: Vec<Inherited>) -> io::Result<Listeners> {
        let configured: Vec<Address> = config.admin.listen.iter().flat_map(Address::resolved).collect();
        let is_configured = |bound: &Bound| configured.contains(&bound.address());
        let is_admin = |socket: &Inherited| socket.name.contains("admin") || is_configured(&socket.bound);
        let (admin, data): (Vec<_>, Vec<_>) = inherited.into_iter().partition(is_admin);
        if !admin.is_empty() && !admin.iter().any(|socket| is_configured(&socket.bound)) {
            tracing::warn!(
                "the admin socket that was handed over is not at admin.listen: healthcheck and wait look there"
            );
        }
        let settle = |sockets: Vec<Inherited>, addresses: &[Address], flag: &str| {
            if sockets.is_empty() {
                return addresses.iter().map(|address| Bound::bind(address, flag)).collect::<io::Result<Vec<_>>>();
            }
            Ok(sockets.into_iter().map(|socket| socket.bound).collect())
        };
        let data = settle(data, &config.data.listen, "--listen")?;
        Ok(Listeners { data, admin: settle(admin, &config.admin.listen, "--admin-listen")? })
    }

    /// The addresses, with the ports that the system chose.
    pub fn addresses(&self) -> Addresses {
        let of = |listeners: &[Bound]| listeners.iter().map(Bound::address).collect();
        Addresses { data: of(&self.data), admin: of(&self.admin) }
    }
}

/// Puts the parts together. To be called on the runtime, since kie.ai's gate runs from now on.
///
/// # Errors
/// When the client for kie.ai cannot be set up.
pub fn build(config: Config, listeners: Listeners, telemetry: Telemetry, clock: Clock) -> Result<App, Error> {
    let (readiness, [key, listening]) = Readiness::waiting_for(["key", "listeners"]);
    let log_hash = config.key.log_hash();
    let keys = Keys::new(config.key, config.key_source, clock.clone());
    let kie_clock = KieClock::default();
    let wire = Wire::new(config.upstream.wire, keys.clone(), clock.clone(), kie_clock.clone());
    let wire = wire.map_err(Error::Client)?;
    key.open();

    let drain = Drain::new(config.drain, readiness.clone());
    let Drain { background, cut, .. } = &drain;
    let fleet = config.fleet.map(|config| {
        let (keys, clock, kie_clock) = (keys.clone(), clock.clone(), kie_clock.clone());
        Fleet::new(config, fleet::Parts { keys, clock, kie_clock, tasks: background.clone(), stop: cut.clone() })
    });
    let quota = fleet.clone().map(|fleet| Arc::new(fleet) as Arc<dyn upstream::Quota>);
    let kie = Kie::within(quota, &config.upstream.kie, wire, clock.clone(), background, cut.clone());
    let mint: Arc<dyn Mint> = match &fleet {
        Some(fleet) => Arc::new(Minter::new(fleet.clone(), Arc::new(kie.clone()))),
        None => Arc::new(kie.clone()),
    };
    let links = links::Parts {
        mint,
        clock: clock.clone(),
        kie_clock: kie_clock.clone(),
        log_hash: log_hash.clone(),
        tracer: telemetry.tracer.clone(),
        noted: telemetry.failures.clone(),
        tasks: background.clone(),
        stop: cut.clone(),
    };
    let links = Links::new(config.links, links);
    background.spawn(links.clone().sweep_until(cut.clone()).boxed());
    let (tasks, stop) = (background.clone(), cut.clone());
    let parts = credits::Parts { kie: kie.clone(), fleet: fleet.clone(), clock: clock.clone(), tasks, stop };
    let credits = Credits::new(config.credits, parts);
    let requests = Requests::default();
    let watched = Watched { requests: requests.clone(), tracer: telemetry.tracer.clone() };
    let probes = Probes { readiness: readiness.clone(), kie: kie.clone(), fleet: fleet.clone() };
    let refuse = web::refuse(clock.clone());

    let mut registry = Registry::default();
    admin::register_process(&mut registry);
    let own = registry.sub_registry_with_prefix("kielink");
    admin::register(own, &readiness);
    keys.register(own);
    kie.register(own);
    links.register(own);
    credits.register(own);
    if let Some(fleet) = &fleet {
        fleet.register(own);
    }
    let running = fleet.clone().map(|fleet| (fleet, kie.clone(), links.clone()));
    let parts = http::Parts {
        links: links.clone(),
        credits: credits.clone(),
        probes: probes.clone(),
        watched,
        failures: telemetry.failures.clone(),
        tasks: background.clone(),
        clock: clock.clone(),
        log_hash: log_hash.clone(),
        keep_alive: config.data.keep_alive(),
    };
    let hosts = config.http.allowed_hosts.clone();
    let service = http::service(config.http, parts, own);
    let data = Server::new(&config.data, service, refuse.clone(), drain.callers.clone());
    data.register(own);
    let (dropped, help) = (telemetry.dropped_lines.clone(), "Log lines that could not be written in time");
    counting(own, "log_lines_dropped", help, move || dropped.count());

    let status = Status::new(status::Sources {
        readiness,
        requests,
        links: links.clone(),
        kie,
        credits: credits.clone(),
        fleet: fleet.clone(),
        keys: keys.clone(),
        failures: telemetry.failures.clone(),
        dropped_lines: telemetry.dropped_lines.clone(),
        clock: clock.clone(),
        settings: config.effective,
        changed: config.changed,
        callers: listeners.addresses().data,
    });
    let service = admin::router(admin::Parts {
        links: links.clone(),
        fleet,
        probes,
        registry,
        status: status.clone(),
        failures: telemetry.failures.clone(),
        log_level: telemetry.level.clone(),
        clock: clock.clone(),
        log_hash,
        allowed_hosts: hosts,
    });
    // The admin interface's connections end as soon as they are told to.
    let at_once = Ending::default();
    let at_once = Ending { kill: at_once.drain.clone(), ..at_once };
    let admin = Server::new(&config.admin, service.into(), refuse, at_once);
    let addresses = listeners.addresses();
    Ok(App {
        addresses,
        listeners,
        data,
        admin,
        listening,
        keys,
        kie_clock,
        fleet: running,
        credits,
        links,
        status,
        telemetry,
        clock,
        drain,
    })
}

/// What kie.ai says of the key, for people.
#[derive(Debug)]
pub struct KeyTaken {
    fingerprint: String,
    left: Amount,
}

impl fmt::Display for KeyTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kie.ai takes the API key {}; its account has {} credits left", self.fingerprint, self.left)
    }
}

/// Why a key is of no use, or perhaps is. The key is told by its fingerprint.
#[derive(Debug, thiserror::Error)]
pub enum KeyTrouble {
    #[error("cannot set up the client for kie.ai")]
    Client(#[source] SetupError),
    #[error(
        "kie.ai refuses the API key {fingerprint}, from {from}: {answer}. Compare it with the key that kie.ai shows, and put \
         a good one there"
    )]
    Refused { fingerprint: String, from: KeySource, answer: upstream::Answer },
    #[error("kie.ai takes the API key {fingerprint}, and its account has no credits: {left} are left. Top it up")]
    NoCredits { fingerprint: String, left: Amount },
    #[error("kie.ai takes the API key {fingerprint}, and says that its account has no credits: {answer}. Top it up")]
    CreditsExhausted { fingerprint: String, answer: upstream::Answer },
    #[error(
        "kie.ai limits how often the credits are asked for, so that nothing is known of the API key. Try again later"
    )]
    Limited,
    #[error("{base_url} did not say whether it takes the API key {fingerprint}")]
    Unknown {
        base_url: String,
        fingerprint: String,
        #[source]
        why: upstream::Error,
    },
}

/// Asks kie.ai for the credits left, once, with the configured key. No kielink need run.
///
/// # Errors
/// When kie.ai cannot be asked, refuses the key, or has no credits for it.
pub async fn check_key(config: Config, clock: Clock) -> Result<KeyTaken, KeyTrouble> {
    let (key, from) = (config.key, config.key_source);
    let fingerprint = key.fingerprint().to_owned();
    let base_url = config.upstream.wire.base_url.to_string();
    // Whatever the file says meanwhile: it is this key that is asked about.
    let keys = Keys::new(key, KeySource::Environment, clock.clone());
    let wire = Wire::new(config.upstream.wire, keys, clock, KieClock::default()).map_err(KeyTrouble::Client)?;
    match wire.credits(config.upstream.kie.attempt_timeout).await {
        Ok(left) if left.as_f64() > 0.0 => Ok(KeyTaken { fingerprint, left }),
        Ok(left) => Err(KeyTrouble::NoCredits { fingerprint, left }),
        Err(upstream::Error::KeyRefused(answer)) => Err(KeyTrouble::Refused { fingerprint, from, answer }),
        Err(upstream::Error::CreditsExhausted(answer)) => Err(KeyTrouble::CreditsExhausted { fingerprint, answer }),
        Err(upstream::Error::RateLimited { .. }) => Err(KeyTrouble::Limited),
        Err(why) => Err(KeyTrouble::Unknown { base_url, fingerprint, why }),
    }
}

impl App {
    /// What `/status` says at its top, whenever it is asked.
    pub fn headline(&self) -> impl Fn() -> String + use<> {
        let status = self.status.clone();
        move || status.headline()
    }

    /// Serves until `stop` resolves, then ends in order ([`drain`]). Reads the key again when `reload` asks. An `App`
    /// whose run is dropped ends at once.
    ///
    /// # Errors
    /// When a listener cannot be used, or the admin thread cannot be started.
    pub async fn run(self, reload: Reload, stop: impl Future<Output = ()>) -> Result<Ended, Error> {
        let App { addresses, listeners, data, admin, listening, keys, .. } = self;
        let App { kie_clock, fleet, credits, links, status, telemetry, clock, drain, .. } = self;
        let Drain { callers, background, cut, sums, sum_up, .. } = &drain;
        // In boxes, which make all of them one kind of task: each kind takes 5 KB of the image.
        background.spawn(keys.watch(reload, cut.clone()).boxed());
        background.spawn(kie_clock.clone().watch(clock, cut.clone()).boxed());
        background.spawn(status.watch(cut.clone()).boxed());
        // Nothing waits for it.
        background.spawn(credits.watch(move || minted(&links), cut.clone()).boxed());
        if let Some((fleet, kie, links)) = fleet {
            let greeter = kie.clone();
            let (shown, stopped) = (kie_clock.clone(), cut.clone());
            // Nobody waits for it.
            background.spawn(async move { stopped.run_until_cancelled(greeter.greet(&shown)).await });
            background.spawn(together(fleet, kie, links, background.clone(), cut.clone()).boxed());
        }
        sums.spawn(telemetry.limiter.sum_up(sum_up.clone()).boxed());
        let admin = AdminThread::start(listeners.admin, admin)?;
        for bound in listeners.data {
            let listener = bound.register().map_err(Error::Listener)?;
            callers.tasks.spawn(data.clone().run(listener));
        }
        listening.open();
        for address in &addresses.data {
            tracing::info!(%address, "listening");
        }
        for address in &addresses.admin {
            tracing::info!(%address, "listening (admin)");
        }
        stop.await;
        let ended = drain.end(telemetry.tracer).await;
        drop(admin);
        Ok(ended)
    }
}

/// What a fleet's replica does besides serving, until `stop`.
async fn together(fleet: Fleet, kie: Kie, links: Links, tasks: TaskTracker, stop: CancellationToken) {
    let counted = links.clone();
    let minted = move || minted(&counted);
    let (tell, told) = mpsc::unbounded_channel();
    let forget = move |forgotten: Forgotten| {
        // It is heard until the fleet has ended.
        let _ = tell.send(forgotten);
    };
    let forgetting = in_turn(told, Forgotten::and, move |forgotten: Forgotten| {
        let links = links.clone();
        // All that is in memory is looked at, which other tasks must not wait for.
        let looking = tasks.spawn_blocking(move || links.forget_where(|source| forgotten.is_meant(source)));
        async move { drop(looking.await) }
    });
    tokio::join!(fleet.run(kie, minted, forget, stop), forgetting);
}

/// Does one thing at a time: what comes meanwhile is put together, and done next. Ends when nothing more can come.
async fn in_turn<T, F: Future<Output = ()>>(
    mut coming: mpsc::UnboundedReceiver<T>,
    and: impl Fn(T, T) -> T,
    work: impl Fn(T) -> F,
) {
    while let Some(mut all) = coming.recv().await {
        while let Ok(more) = coming.try_recv() {
            all = and(all, more);
        }
        work(all).await;
    }
}

/// Links minted since the start.
fn minted(links: &Links) -> u64 {
    let good = links.mints().into_iter().filter(|count| count.result == MintResult::Ok);
    good.map(|count| count.count).sum()
}

/// The admin interface on its own thread and runtime: under full load of the data interface, probes still answer.
struct AdminThread {
    drain: CancellationToken,
    /// `None` only while it is dropped.
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AdminThread {
    fn start(bound: Vec<Bound>, server: Server) -> Result<AdminThread, Error> {
        let Ending { tasks, drain, .. } = server.ending().clone();
        let ending = drain.clone();
        // Tests capture logs by a thread's subscriber; the new thread takes over its maker's.
        let logs = dispatcher::get_default(Clone::clone);
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let run = move || -> io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                for bound in bound {
                    tasks.spawn(server.clone().run(bound.register()?));
                }
                let _ = sender.send(());
                ending.cancelled().await;
                tasks.close();
                tasks.wait().await;
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn what_comes_while_something_is_done_is_done_at_once_after_it() {
        let (tell, told) = mpsc::unbounded_channel();
        let (done, go_on) = (Mutex::new(Vec::new()), Semaphore::new(0));
        let work = |all: Vec<u32>| {
            done.lock().unwrap().push(all);
            async { go_on.acquire().await.unwrap().forget() }
        };
        let and = |mut all: Vec<u32>, more| {
            all.extend(more);
            all
        };
        let telling = async {
            tell.send(vec![1]).unwrap();
            tokio::task::yield_now().await;
            assert_eq!(done.lock().unwrap().len(), 1);
            (2..5).for_each(|number| tell.send(vec![number]).unwrap());
            tokio::task::yield_now().await;
            assert_eq!(done.lock().unwrap().len(), 1, "one at a time");
            go_on.add_permits(2);
            drop(tell);
        };
        tokio::join!(telling, in_turn(told, and, work));
        assert_eq!(*done.lock().unwrap(), [vec![1], vec![2, 3, 4]]);
    }
}
