//! The state of the simulation: settings, clock, randomness, files, what it is told to do, and what has happened.
//!
//! It does not know HTTP.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use url::Url;

use super::{
    Config, Error, Host,
    answer::Answer,
    balance::Balance,
    links::Links,
    quota::Quota,
    record::{Arrival, Record},
    request::Request,
    samples::{SAMPLES, Sample},
    wire::{Line, Wire},
};
use crate::clock::{Clock, Instant};

/// The simulated kie.ai and its file host, without their sockets.
pub struct World {
    pub(super) clock: Clock,
    started: Instant,
    contents: BTreeMap<String, Content>,
    /// Mints that arrived, answered or not.
    pub mints: watch::Sender<usize>,
    pub(super) wire: watch::Sender<Wire>,
    /// How many connections to kie.ai were accepted so far.
    connections: AtomicU64,
    /// Under a lock of its own, because signing takes its time.
    links: Mutex<Links>,
    state: Mutex<State>,
}

/// Under one lock, so that a test which sees a request counted also finds it held.
pub(super) struct State {
    pub(super) config: Config,
    pub(super) script: Script,
    pub(super) record: Record,
    pub(super) outage_end: Instant,
    pub(super) quota: Quota,
    pub(super) balance: Balance,
    pub(super) random: fastrand::Rng,
    /// What was switched on at `/sandbox`, as it was written there.
    pub(super) switched: BTreeMap<String, String>,
}

/// What is to be answered. The script is read when a request leaves the gate, so it may be written while requests are
/// held.
pub struct Script {
    /// The answer to a mint, if nothing else is said here.
    pub usual: Answer,
    /// One answer each for the next mints, whatever their source.
    pub next: VecDeque<Answer>,
    /// The usual answer for one source URL.
    pub by_source: HashMap<String, Answer>,
    /// The answer to `GET /api/v1/chat/credit`; `None`: the balance.
    pub credit: Option<Answer>,
    /// The keys that are accepted; `None` accepts any key.
    pub keys: Option<Vec<SecretString>>,
    /// The answer to calls with any other key.
    pub refusal: Answer,
    /// The answer to all calls, in the place of their own: the whole account is refused.
    pub account: Option<Answer>,
    /// The answer to a request that is not the first on its connection.
    pub kept: Option<Answer>,
    /// kie.ai's own clock, the file host's included, is ahead of the machine's, or behind where negative.
    pub clock_off_seconds: i64,
}

/// What the file host has under one path.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
}

impl World {
    /// `key` is the only API key that is accepted; `None` accepts any key. `files` is the address under which callers
    /// reach the file host. `seed` begins all randomness: failures, session ids, the keys that sign links.
    ///
    /// # Errors
    /// When the settings make no sense, or no link can lead to the file host.
    pub fn new(
        config: Config,
        key: Option<SecretString>,
        files: Url,
        clock: Clock,
        seed: u64,
    ) -> Result<Arc<Self>, Error> {
        config.check()?;
        let http = matches!(files.scheme(), "http" | "https");
        if !http || !files.username().is_empty() || files.password().is_some() {
            return Err(Error::Files);
        }
        let now = clock.now();
        let script = Script {
            usual: Answer::link(),
            next: VecDeque::new(),
            by_source: HashMap::new(),
            credit: None,
            keys: key.map(|key| vec![key]),
            refusal: Answer::unauthorized(),
            account: None,
            kept: None,
            clock_off_seconds: 0,
        };
        let links = Links::new(files, seed, config.remembers);
        let state = State {
            quota: Quota::new(config.quota, now),
            balance: Balance::new(now),
            config,
            script,
            record: Record::default(),
            outage_end: now,
            random: fastrand::Rng::with_seed(seed),
            switched: BTreeMap::new(),
        };
        Ok(Arc::new(Self {
            clock,
            started: now,
            contents: contents(),
            mints: watch::Sender::new(0),
            wire: watch::Sender::new(Wire::default()),
            connections: AtomicU64::new(0),
            links: Mutex::new(links),
            state: Mutex::new(state),
        }))
    }

    /// The files there are. Any other URL on a result host gets a link too, as with kie.ai, but one that leads to a
    /// 404.
    pub fn sources() -> Vec<Sample> {
        SAMPLES.to_vec()
    }

    /// Writes into the script.
    pub fn script<T>(&self, write: impl FnOnce(&mut Script) -> T) -> T {
        write(&mut self.state().script)
    }

    /// No section under this lock leaves the state half changed, so a panic elsewhere is no reason to stop.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by kie.ai's clock.
    pub(super) fn now(&self) -> Timestamp {
        self.now_and_life().0
    }

    /// The time by kie.ai's clock and the usual life of a link, read together.
    pub(super) fn now_and_life(&self) -> (Timestamp, Duration) {
        let (off, life) = {
            let state = self.state();
            (state.script.clock_off_seconds, state.config.link_life)
        };
        let wall = self.clock.wall();
        (wall.checked_add(jiff::SignedDuration::from_secs(off)).unwrap_or(wall), life)
    }

    /// `path` is decoded.
    pub(super) fn content(&self, path: &str) -> Option<&Content> {
        self.contents.get(path)
    }
}

impl State {
    /// Takes effect at once, also for the life of links that are minted from now on. A new quota begins full.
    pub(super) fn reconfigure(&mut self, config: Config, now: Instant) -> Result<(), Error> {
        config.check()?;
        if self.config.quota != config.quota {
            self.quota = Quota::new(config.quota, now);
        }
        self.config = config;
        Ok(())
    }

    /// How this call fails, if it is one of the calls that fail for no reason.
    pub(super) fn failure(&mut self) -> Option<Answer> {
        // `f64()` is below 1, so a rate of 1 fails every call and a rate of 0 none.
        if self.random.f64() >= self.config.failure_rate {
            return None;
        }
        self.random.choice([Answer::html(502), Answer::code(500), Answer::empty().without_content_type()])
    }
}

/// The gate: while it is shut, requests are recorded when they arrive, and wait.
impl World {
    pub fn hold(&self) {
        self.state().record.hold();
    }

    /// All requests that wait go on, and later requests do not wait.
    pub fn release(&self) {
        self.state().record.release();
    }

    /// The request that waits longest goes on; where none waits, the next request to arrive will not wait.
    pub fn release_one(&self) {
        self.state().record.release_one();
    }

    pub(super) fn arrive(self: &Arc<Self>, request: &mut Request) -> Arrival {
        request.at = self.clock.now().since(self.started);
        // Before the lock, which is held as shortly as may be: a test's next call waits for it.
        let copy = request.clone();
        let mut state = self.state();
        let State { config, record, .. } = &mut *state;
        if record.requests.len() < config.remembers {
            record.requests.push(copy);
        }
        let arrival = record.arrive(request, self, config.latency);
        drop(state);
        if arrival.flight.is_some() {
            self.mints.send_modify(|mints| *mints += 1);
        }
        arrival
    }
}

/// What happens to connections to kie.ai; the file host's connections are left alone.
impl World {
    /// All open connections are reset.
    pub fn reset_connections(&self) {
        self.wire.send_modify(|wire| wire.reset = self.connections());
    }

    /// All open connections are closed.
    pub fn close_connections(&self) {
        self.wire.send_modify(|wire| wire.closed = self.connections());
    }

    /// All open connections stay open and say nothing ever again; new connections work.
    pub fn mute_connections(&self) {
        self.wire.send_modify(|wire| wire.mute = self.connections());
    }

    /// Nothing is answered on any connection for this long; what was asked meanwhile is answered after that.
    pub fn be_silent(&self, length: Duration) {
        let until = Some(self.clock.now() + length);
        self.wire.send_modify(|wire| wire.silent_until = until);
    }

    /// Connections are accepted and closed at once, for this long.
    pub fn hang_up(&self, length: Duration) {
        let until = Some(self.clock.now() + length);
        self.wire.send_modify(|wire| wire.hangs_up_until = until);
    }

    /// Connections are reset and new ones refused, for this long; 0 ends it. [`World::door_is`] tells when it has taken
    /// effect.
    pub fn refuse_connections(&self, length: Duration) {
        let until = Some(self.clock.now() + length);
        self.wire.send_modify(|wire| wire.refuses_until = until);
    }

    /// Completes as soon as connections are refused, or are accepted.
    pub async fn door_is(&self, shut: bool) {
        // An error would mean that this world is gone.
        let _ = self.wire.subscribe().wait_for(|wire| wire.is_shut == shut).await;
    }

    pub(super) fn line(&self, host: Host) -> Line {
        let number = (host == Host::Kie).then(|| self.connections.fetch_add(1, Ordering::Relaxed) + 1);
        Line::new(number, &self.wire, self.clock.clone())
    }
}

/// Observations.
impl World {
    /// All requests, mints or not, in the order in which they arrived.
    pub fn requests(&self) -> Vec<Request> {
        self.state().record.requests.clone()
    }

    /// Every `data` that was given as a link, in the order in which it was given.
    pub fn links_given(&self) -> Vec<String> {
        self.links().given.clone()
    }

    /// What was sent that is no request.
    pub fn unreadable(&self) -> u64 {
        self.state().record.unreadable
    }

    /// Mints that arrived and are neither answered nor given up by their peer.
    pub fn in_flight(&self) -> usize {
        self.state().record.in_flight()
    }

    /// The most mints for one and the same source that were ever in flight at once.
    pub fn max_in_flight_per_source(&self) -> usize {
        self.state().record.max_in_flight_per_source
    }

    /// Connections to kie.ai accepted so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

pub(super) fn accepts(keys: &[SecretString], key: &str) -> bool {
    // The one place that exposes these keys. `==` may tell by its timing how much of a guess is right: the keys open
    // nothing.
    keys.iter().any(|known| known.expose_secret() == key)
}

fn contents() -> BTreeMap<String, Content> {
    SAMPLES
        .iter()
        .map(|sample| {
            let path = sample.source_url.trim_start_matches("https:/").to_owned();
            (path, Content { content_type: sample.content_type, body: Bytes::from_static(sample.body) })
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::Virtual;

    pub(crate) const KEY: &str = "the-only-key";

    /// Answers at once and never fails; its clock stands still until the test moves it.
    pub(crate) struct Bench {
        pub(crate) world: Arc<World>,
        passed: Arc<Mutex<Duration>>,
    }

    struct Hand(Arc<Mutex<Duration>>);

    impl Virtual for Hand {
        fn now(&self) -> Instant {
            Instant::from_origin(*self.0.lock().unwrap())
        }

        fn wall(&self) -> Timestamp {
            "2025-04-15T10:10:07Z".parse::<Timestamp>().unwrap() + *self.0.lock().unwrap()
        }
    }

    impl Bench {
        pub(crate) fn new() -> Self {
            Self::with(Config { latency: Duration::ZERO, ..Config::GOOD_DAY })
        }

        pub(crate) fn with(config: Config) -> Self {
            let passed = Arc::default();
            let clock = Clock::of(Arc::new(Hand(Arc::clone(&passed))));
            let files = Url::parse("http://127.0.0.1:40001").unwrap();
            Self { world: World::new(config, Some(KEY.into()), files, clock, 7).unwrap(), passed }
        }

        pub(crate) fn pass(&self, time: Duration) {
            *self.passed.lock().unwrap() += time;
        }

        /// Asks with the headers that kielink sends.
        pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> super::super::connection::tests::Reply {
            let head = format!("User-Agent: test\r\nAuthorization: Bearer {KEY}\r\n");
            super::super::connection::tests::ask(&self.world, Host::Kie, method, path, &head, body).await
        }
    }

    #[test]
    fn a_file_host_that_no_link_can_lead_to_is_refused() {
        for files in ["data:,", "ftp://127.0.0.1", "http://me@127.0.0.1"] {
            let files = Url::parse(files).unwrap();
            let world = World::new(Config::GOOD_DAY, None, files, Clock::system(), 7);
            assert_eq!(world.err(), Some(Error::Files));
        }
    }

    #[test]
    fn a_failure_rate_means_that_share_of_the_calls_in_all_three_ways() {
        let bench = Bench::new();
        let mut state = bench.world.state();
        let table = [(0.0, 0..=0), (0.3, 240..=360), (1.0, 1000..=1000)];
        for (failure_rate, expected) in table {
            let config = Config { failure_rate, ..state.config.clone() };
            state.reconfigure(config, Instant::from_origin(Duration::ZERO)).unwrap();
            let failures: Vec<_> = (0..1000).filter_map(|_| state.failure()).map(|answer| answer.counts_as()).collect();
            assert!(expected.contains(&failures.len()), "{}", failures.len());
            for code in ["502", "500", "empty"] {
                assert_eq!(failures.iter().any(|failure| failure == code), failure_rate > 0.0);
            }
        }
    }
}
