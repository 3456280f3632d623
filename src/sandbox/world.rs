//! The state of the simulation: its settings, its clock, its chance, its files, and what has happened.
//!
//! It does not know HTTP.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::Url;

use super::{Config, Error, Sample, Wall, quota::Quota, samples::SAMPLES, signature::Credential};

/// The state of the simulated kie.ai and its file host.
pub struct World {
    key: SecretString,
    files: Url,
    wall: Wall,
    credential: Credential,
    contents: BTreeMap<String, Content>,
    state: Mutex<State>,
}

struct State {
    config: Config,
    outage_end: Option<Timestamp>,
    quota: Quota,
    random: fastrand::Rng,
    counts: Counts,
}

/// What the file host has under one path.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

/// What was answered to requests for a link.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counts {
    /// Answered with a link.
    pub(crate) mints: u64,
    /// Answered with anything else.
    pub(crate) refused: u64,
    /// By the code in the body; where there is none, by the HTTP status; `empty` where there is no body.
    pub(crate) by_code: BTreeMap<String, u64>,
}

/// A failure for no reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    BadGateway,
    ServerError,
    EmptyBody,
}

impl World {
    /// `key` is the only API key it accepts, `files` the address under which callers reach
    /// [`files::router`](super::files::router), and `seed` the beginning of all randomness: failures, session ids,
    /// the credential that signs links.
    pub fn new(config: Config, key: SecretString, files: Url, wall: Wall, seed: u64) -> Result<Self, Error> {
        config.check()?;
        let http = matches!(files.scheme(), "http" | "https");
        if !http || !files.username().is_empty() || files.password().is_some() {
            return Err(Error::Files);
        }
        let mut random = fastrand::Rng::with_seed(seed);
        // Shaped as R2 has it. It guards nothing but samples, so a seeded, guessable generator will do.
        let credential = Credential {
            id: format!("{:032x}", random.u128(..)),
            secret: format!("{:032x}{:032x}", random.u128(..), random.u128(..)),
            region: "auto",
            service: "s3",
        };
        let quota = Quota::new(config.quota, wall());
        Ok(Self {
            key,
            files,
            wall,
            credential,
            contents: contents(),
            state: Mutex::new(State { config, outage_end: None, quota, random, counts: Counts::default() }),
        })
    }

    /// The files there are. Any other URL on a result host gets a link too, as with kie.ai, but one that leads to a
    /// 404.
    pub fn sources(&self) -> Vec<Sample> {
        SAMPLES.to_vec()
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.wall)()
    }

    /// The one place that exposes the key. `==` may tell by its timing how much of a guess is right: this key opens
    /// nothing.
    pub(crate) fn accepts(&self, key: &str) -> bool {
        key == self.key.expose_secret()
    }

    pub(crate) fn config(&self) -> Config {
        self.state().config.clone()
    }

    /// Takes effect at once, also for links: those minted from now on. A new quota begins full.
    pub(crate) fn reconfigure(&self, config: Config) -> Result<(), Error> {
        config.check()?;
        let now = self.now();
        let mut state = self.state();
        if state.config.quota != config.quota {
            state.quota = Quota::new(config.quota, now);
        }
        state.config = config;
        Ok(())
    }

    /// From now on, for this long; 0 ends an outage.
    pub(crate) fn begin_outage(&self, length: Duration) {
        let end = self.now().checked_add(length).unwrap_or(Timestamp::MAX);
        self.state().outage_end = Some(end);
    }

    /// How much longer the outage lasts, if there is one.
    pub(crate) fn outage_left(&self) -> Option<Duration> {
        let now = self.now();
        let left = self.state().outage_end?.duration_since(now);
        Duration::try_from(left).ok().filter(|left| !left.is_zero())
    }

    /// Whether this call is one of those that fail for no reason, and how.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let mut state = self.state();
        // `f64()` is below 1, so a rate of 1 fails every call and a rate of 0 none.
        if state.random.f64() >= state.config.failure_rate {
            return None;
        }
        state.random.choice([Failure::BadGateway, Failure::ServerError, Failure::EmptyBody])
    }

    pub(crate) fn take_from_quota(&self) -> bool {
        let now = self.now();
        self.state().quota.take(now)
    }

    /// A link for a source URL, whether there is such a file or not. Its host becomes a part of the path: the samples
    /// of all result hosts are on one file host here.
    pub(crate) fn mint(&self, source: &Url) -> String {
        let path = format!("/{}{}", source.host_str().unwrap_or_default(), source.path());
        let life = self.config().link_life;
        self.credential.sign("GET", &self.files, &path, self.now(), life)
    }

    pub(crate) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// `path` is decoded.
    pub(crate) fn content(&self, path: &str) -> Option<Content> {
        self.contents.get(path).cloned()
    }

    /// What a servlet container puts into its session cookie.
    pub(crate) fn session_id(&self) -> String {
        format!("{:032X}", self.state().random.u128(..))
    }

    pub(crate) fn count(&self, code: String, minted: bool) {
        let counts = &mut self.state().counts;
        if minted {
            counts.mints += 1;
        } else {
            counts.refused += 1;
        }
        *counts.by_code.entry(code).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// No section under this lock leaves the state half changed, so a panic elsewhere is no reason to stop.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn contents() -> BTreeMap<String, Content> {
    SAMPLES
        .iter()
        .map(|sample| {
            let path = sample.source_url.trim_start_matches("https:/").to_owned();
            let content = Content { content_type: sample.content_type, body: Bytes::from((sample.make)()) };
            (path, content)
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;

    pub(crate) const KEY: &str = "the-only-key";

    /// Answers at once and never fails; its clock stands still until the test moves it.
    pub(crate) struct Bench {
        pub(crate) world: Arc<World>,
        clock: Arc<Mutex<Timestamp>>,
    }

    impl Bench {
        pub(crate) fn new() -> Self {
            Self::with(Config { latency: Duration::ZERO, ..Config::GOOD_DAY })
        }

        pub(crate) fn with(config: Config) -> Self {
            let clock = Arc::new(Mutex::new("2025-04-15T10:10:07Z".parse().unwrap()));
            let hand = Arc::clone(&clock);
            let wall: Wall = Arc::new(move || *hand.lock().unwrap());
            let files = Url::parse("http://127.0.0.1:40001").unwrap();
            let world = World::new(config, KEY.into(), files, wall, 7).unwrap();
            Self { world: Arc::new(world), clock }
        }

        pub(crate) fn pass(&self, time: Duration) {
            *self.clock.lock().unwrap() += time;
        }
    }

    #[test]
    fn a_file_host_that_no_link_can_lead_to_is_refused() {
        for files in ["data:,", "ftp://127.0.0.1", "http://me@127.0.0.1"] {
            let wall: Wall = Arc::new(|| Timestamp::UNIX_EPOCH);
            let files = Url::parse(files).unwrap();
            let world = World::new(Config::GOOD_DAY, KEY.into(), files, wall, 7);
            assert_eq!(world.err(), Some(Error::Files));
        }
    }

    #[test]
    fn a_failure_rate_means_that_share_of_the_calls_in_all_three_ways() {
        let bench = Bench::new();
        let table = [(0.0, 0..=0), (0.3, 240..=360), (1.0, 1000..=1000)];
        for (failure_rate, expected) in table {
            let config = Config { failure_rate, ..bench.world.config() };
            bench.world.reconfigure(config).unwrap();
            let failures: Vec<_> = (0..1000).filter_map(|_| bench.world.failure()).collect();
            assert!(expected.contains(&failures.len()), "{}", failures.len());
            for kind in [Failure::BadGateway, Failure::ServerError, Failure::EmptyBody] {
                assert_eq!(failures.contains(&kind), failure_rate > 0.0);
            }
        }
    }

    #[test]
    fn every_sample_is_a_file_under_the_path_that_its_link_has() {
        let bench = Bench::new();
        for sample in bench.world.sources() {
            let link = bench.world.mint(&Url::parse(sample.source_url).unwrap());
            let link = Url::parse(&link).unwrap();
            let content = bench.world.content(link.path()).unwrap();
            assert!(!content.body.is_empty(), "{}", sample.about);
        }
    }
}
