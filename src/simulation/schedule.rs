//! One schedule: a world made from a seed, and what happens in it.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    kie::{Model, Mood, Repeats},
    non_zero,
    oracle::{Oracle, Promises, Totals},
};
use crate::{
    clock::{Clock, KieClock, testing::VirtualTime},
    key::ApiKey,
    links::{self, Found, Links, Wish},
    source::Source,
    telemetry::{Failures, trace::Tracer},
    upstream::{GateConfig, Kie, KieConfig},
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Anything,
    Outage,
    SpoiltFile,
    SilentConnection,
}

struct World {
    rng: Rng,
    time: Arc<VirtualTime>,
    clock: Clock,
    kie_clock: KieClock,
    model: Arc<Model>,
    oracle: Arc<Oracle>,
    links: Links,
    config: links::Config,
    attempt_timeout: Duration,
    /// What the wall clock has missed in pauses.
    missed: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Runs the schedule of this seed; panics at the first broken promise.
pub(super) fn run(seed: u64) -> Totals {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    fastrand::seed(seed);
    runtime.block_on(async {
        let mut rng = Rng::with_seed(seed);
        let kind = match rng.u8(..16) {
            0..2 => Kind::Outage,
            2 => Kind::SpoiltFile,
            3 => Kind::SilentConnection,
            _ => Kind::Anything,
        };
        let mut world = World::new(seed, rng, kind);
        match kind {
            Kind::Outage => world.outage_within_the_window().await,
            Kind::SpoiltFile => world.one_spoilt_file().await,
            Kind::SilentConnection => world.connections_fall_silent().await,
            Kind::Anything => world.anything().await,
        }
        world.end().await
    })
}

impl World {
    fn new(seed: u64, mut rng: Rng, kind: Kind) -> World {
        let is_calm = kind != Kind::Anything;
        let time = VirtualTime::new();
        let clock = time.clock();
        let request_timeout = SECOND * rng.u32(if is_calm { 15..25 } else { 2..25 });
        // Long lives as in production, or short ones, so that much happens in little time.
        let config = match kind {
            Kind::Outage if rng.bool() => {
                let ttl = SECOND * rng.u32(30..90);
                links_config(ttl, SECOND * 60, ttl.mul_f64(0.15 + 0.2 * rng.f64()), request_timeout, is_calm, &mut rng)
            }
            Kind::SpoiltFile => links_config(SECOND * 5, SECOND * 60, SECOND * 4, request_timeout, is_calm, &mut rng),
            Kind::Anything if rng.bool() => {
                let ttl = SECOND * rng.u32(5..60);
                let margin = SECOND * rng.u32(0..60);
                let refresh_after = ttl.mul_f64(0.2 + 0.7 * rng.f64());
                links_config(ttl, margin, refresh_after, request_timeout, is_calm, &mut rng)
            }
            Kind::Anything | Kind::Outage | Kind::SilentConnection => {
                links_config(SECOND * 19 * 60, SECOND * 60, SECOND * 12 * 60, request_timeout, is_calm, &mut rng)
            }
        };
        // Where users may not notice anything, there is room for the refreshes.
        let least = if is_calm { 10 } else { 1 };
        let (rate, burst) = (rng.u32(least..30), rng.u32(least..30));
        let gate = GateConfig {
            rate: non_zero(rate),
            burst: non_zero(burst),
            in_flight: non_zero(rng.u32(least..40)),
            waiting: if is_calm { 100 } else { 1 + seed as usize % 60 },
            reserve: request_timeout / 10,
        };
        let promises = Promises { margin: config.margin, rate: f64::from(rate), burst: f64::from(burst) };
        let oracle = Arc::new(Oracle::new(promises));
        let kie_clock = KieClock::default();
        let model = Model::new(Arc::clone(&time), kie_clock.clone(), Arc::clone(&oracle), seed);
        if is_calm {
            model.answers_within(SECOND * 9 / 10);
        }
        let model = Arc::new(model);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        // Where users may not notice anything, it is longer than kie.ai ever takes when it is well.
        let shortest = if is_calm { 2.0 } else { 0.5 };
        let attempt_timeout = SECOND.mul_f64(shortest + if is_calm { 6.0 } else { 8.0 } * rng.f64());
        let attempts = if kind == Kind::SilentConnection { 3 } else { rng.u32(1..4) };
        let config_of_kie = KieConfig { gate, attempt_timeout, attempts };
        let mint = Kie::new(&config_of_kie, Arc::clone(&model), clock.clone(), &tasks, stop.clone());
        let links = Links::new(
            config.clone(),
            links::Parts {
                mint: Arc::new(mint),
                clock: clock.clone(),
                kie_clock: kie_clock.clone(),
                log_hash: ApiKey::new("simulated-key").unwrap().log_hash(),
                tracer: Tracer::default(),
                noted: Failures::default(),
                tasks: tasks.clone(),
                stop: stop.clone(),
            },
        );
        kie_clock.look(clock.wall(), clock.now());
        World {
            rng,
            time,
            clock,
            kie_clock,
            model,
            oracle,
            links,
            config,
            attempt_timeout,
            missed: Duration::ZERO,
            tasks,
            stop,
        }
    }

    /// Callers of all kinds while moods, clocks and the machine change.
    async fn anything(&mut self) {
        let files = self.rng.usize(1..12);
        // Either the machine is paused unseen, or kie.ai's clock is wrong now and then: with both, nobody can know how
        // late it is.
        let is_paused_unseen = self.rng.bool();
        // kie.ai either renews a link that it gives again or does not: once it was seen to renew one, it is believed to
        // renew all.
        let repeats = *pick(&mut self.rng, &[Repeats::UntilItEnds, Repeats::Renewed]);
        let mut callers = JoinSet::new();
        let pause = *pick(&mut self.rng, &[SECOND / 50, SECOND / 2, SECOND * 40]);
        for _ in 0..self.rng.usize(20..80) {
            match self.rng.u8(..20) {
                0 => {
                    self.time.step_wall(self.rng.i64(-86_400..86_400));
                    self.look_at_the_wall_clock();
                }
                1 => match self.rng.u8(..5) {
                    0 => self.model.has_a_wrong_gateway(!is_paused_unseen && self.rng.bool()),
                    1 => self.model.has_a_keeping_gateway(self.rng.bool()),
                    2 => self.model.repeat(*pick(&mut self.rng, &[Repeats::Never, repeats])),
                    3 => self.model.silence_connections(),
                    _ => self.links.forget(&file(self.rng.usize(..files))),
                },
                2..5 => {
                    let moods = [
                        Mood::Well,
                        Mood::Well,
                        Mood::Down,
                        Mood::Limiting,
                        Mood::Silent,
                        Mood::Stingy,
                        Mood::Refusing,
                        Mood::Account(401),
                        Mood::Account(402),
                        Mood::Account(455),
                        Mood::Account(505),
                        Mood::Unavailable,
                        Mood::Forbidden,
                    ];
                    self.model.feel(*pick(&mut self.rng, &moods));
                }
                5..17 => self.caller(files, &mut callers),
                // A crowd for one file, or for many.
                _ => (0..self.rng.usize(2..40)).for_each(|_| self.caller(files, &mut callers)),
            }
            if self.rng.u8(..25) == 0 {
                self.oracle.count(|totals| totals.suspends += 1);
                let for_how_long = SECOND * self.rng.u32(1..7200);
                match self.rng.bool() {
                    true => self.time.suspend(for_how_long),
                    // The machine sleeps between two steps of whatever happens next.
                    false => self.time.suspend_before_reading(self.rng.u32(..40), for_how_long),
                }
            }
            if is_paused_unseen && self.rng.u8(..25) == 0 {
                self.pause_unseen().await;
            }
            // kielink does this every minute.
            self.links.sweep();
            tokio::time::sleep(pause.mul_f64(self.rng.f64())).await;
        }
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
    }

    /// kielink does this every second; here it happens only after something has changed the clocks.
    fn look_at_the_wall_clock(&self) {
        self.kie_clock.look(self.clock.wall(), self.clock.now());
    }

    /// The hypervisor pauses the machine. Perhaps the wall clock is set right after a while, which is seen within a
    /// second.
    async fn pause_unseen(&mut self) {
        let for_how_long = SECOND * self.rng.u32(2..2400);
        self.time.pause_unseen(for_how_long);
        self.missed += for_how_long;
        self.oracle.paused_unseen();
        if self.rng.bool() {
            tokio::time::sleep(SECOND.mul_f64(5.0 * self.rng.f64())).await;
            self.time.step_wall(i64::try_from(std::mem::take(&mut self.missed).as_secs()).unwrap());
            tokio::time::sleep(SECOND.mul_f64(self.rng.f64())).await;
            self.look_at_the_wall_clock();
            self.oracle.sign_of_the_pause();
        }
    }

    /// A user of `source` who notices nothing: a link, and no wait.
    async fn use_unnoticed(&self, source: &Source, most: Duration, promise: &str) {
        let began = tokio::time::Instant::now();
        let lookup = self.links.get(source, &Wish::default(), self.clock.now() + self.config.flight_timeout).await;
        let lookup = lookup.unwrap_or_else(|error| panic!("{promise}: a user of {source:?} got {error:?}"));
        self.oracle.handed_out(lookup.entry.link.as_str(), self.time.peek());
        assert!(began.elapsed() <= most, "{promise}: a user of {source:?} waited {:?}", began.elapsed());
    }

    /// Links in constant use, with no other callers, while kie.ai is away for less than the refresh window.
    async fn outage_within_the_window(&mut self) {
        let moods = [
            Mood::Down,
            Mood::Silent,
            Mood::Account(401),
            Mood::Account(402),
            Mood::Account(455),
            Mood::Account(505),
            Mood::Unavailable,
            Mood::Forbidden,
        ];
        let mood = *pick(&mut self.rng, &moods);
        let files: Vec<Source> = (0..self.rng.usize(1..4)).map(file).collect();
        let window = self.config.ttl - self.config.refresh_after;
        // Promised is the window without five seconds for the last try, and without one try that meets silence.
        let last_try = SECOND * 5 + if mood == Mood::Silent { self.attempt_timeout } else { Duration::ZERO };
        let longest = window.saturating_sub(last_try);
        // Either aimed at the corner, so that the outage begins in the seconds before the refresh point and ends as
        // late as it may; or anywhere.
        let is_aimed = self.rng.bool();
        let (before, outage) = if is_aimed {
            self.oracle.count(|totals| totals.corners += 1);
            let before = self.config.refresh_after.saturating_sub(SECOND.mul_f64(9.0 * self.rng.f64()));
            (before, longest.saturating_sub(SECOND.mul_f64(7.0 * self.rng.f64())))
        } else {
            (self.config.ttl.mul_f64(1.5 * self.rng.f64()), longest.mul_f64(self.rng.f64()))
        };
        for source in &files {
            self.use_unnoticed(source, SECOND * 4, "P5").await;
        }
        let phases = [
            (Mood::Well, before.saturating_sub(SECOND * 15), SECOND * 4),
            (Mood::Well, before.min(SECOND * 15), SECOND / 2),
            (mood, outage.saturating_sub(SECOND * 20), SECOND),
            (mood, outage.min(SECOND * 20), SECOND / 4),
            (Mood::Well, SECOND * 20, SECOND / 4),
            (Mood::Well, self.config.ttl, SECOND * 6),
        ];
        for (mood, length, beat) in phases {
            self.model.feel(mood);
            let end = tokio::time::Instant::now() + length;
            while tokio::time::Instant::now() < end {
                for source in &files {
                    self.use_unnoticed(source, Duration::ZERO, "P5").await;
                }
                tokio::time::sleep(beat.min(end - tokio::time::Instant::now())).await;
            }
        }
        self.oracle.count(|totals| totals.outages_unnoticed += 1);
    }

    /// A file or two that kie.ai cannot make, asked for by polite callers, beside good ones.
    async fn one_spoilt_file(&mut self) {
        self.oracle.count(|totals| totals.spoilt_files += 1);
        let mood = *pick(&mut self.rng, &[Mood::Down, Mood::Forbidden, Mood::Silent, Mood::Unavailable, Mood::Stingy]);
        // Several files that never answer would be kie.ai's own silence.
        let most = if matches!(mood, Mood::Forbidden | Mood::Unavailable | Mood::Stingy) { 4 } else { 2 };
        let bad: Vec<Source> = (90..90 + self.rng.usize(1..most)).map(file).collect();
        let callers = TaskTracker::new();
        for bad in bad {
            self.model.spoil(bad.clone(), mood);
            for _ in 0..self.rng.usize(1..4) {
                let (links, clock, stop, bad) =
                    (self.links.clone(), self.clock.clone(), self.stop.clone(), bad.clone());
                let (beat, patience) = (SECOND.mul_f64(0.1 + 2.0 * self.rng.f64()), self.config.flight_timeout);
                callers.spawn(async move {
                    while !stop.is_cancelled() {
                        let _ = links.get(&bad, &Wish::default(), clock.now() + patience).await;
                        tokio::time::sleep(beat).await;
                    }
                });
            }
        }
        let files = self.rng.usize(1..4);
        let beat = SECOND.mul_f64(0.5 + 8.0 * self.rng.f64());
        for round in 0..20 {
            tokio::time::sleep(beat).await;
            // Several files at once, two groups in turn.
            let together = (0..files).map(|n| file(round % 2 * 10 + n));
            let together: Vec<_> = together.collect();
            let users = together.iter().map(|source| self.use_unnoticed(source, SECOND * 4, "P6"));
            futures_util::future::join_all(users).await;
        }
    }

    /// All connections fall silent between two crowds.
    async fn connections_fall_silent(&mut self) {
        self.oracle.count(|totals| totals.silenced += 1);
        for crowd in 0..4 {
            let mut callers = JoinSet::new();
            for number in 0..6 {
                let (links, source) = (self.links.clone(), file(crowd * 6 + number));
                let deadline = self.clock.now() + self.config.flight_timeout;
                callers.spawn(async move { links.get(&source, &Wish::default(), deadline).await });
            }
            let began = tokio::time::Instant::now();
            while let Some(caller) = callers.join_next().await {
                let lookup = caller.unwrap().unwrap_or_else(|error| panic!("P6: a connection's silence: {error:?}"));
                self.oracle.handed_out(lookup.entry.link.as_str(), self.time.peek());
            }
            let most = self.attempt_timeout + SECOND * 5;
            assert!(began.elapsed() <= most, "P6: a crowd waited {:?}", began.elapsed());
            tokio::time::sleep(SECOND * 5).await;
            self.model.silence_connections();
        }
    }

    /// One caller: asks, perhaps insists, perhaps leaves.
    fn caller(&mut self, files: usize, callers: &mut JoinSet<()>) {
        let source = file(self.rng.usize(..files));
        let wish = wish(&mut self.rng);
        let patience = (self.rng.u8(..5) == 0).then(|| SECOND.mul_f64(3.0 * self.rng.f64()));
        let (links, time, oracle) = (self.links.clone(), Arc::clone(&self.time), Arc::clone(&self.oracle));
        // Some callers have spent much of their time before they ask, for example on a slow body.
        let left = self.config.flight_timeout.mul_f64(if self.rng.bool() { 1.0 } else { self.rng.f64() });
        let deadline = self.clock.now() + left;
        callers.spawn(async move {
            let began = tokio::time::Instant::now();
            let asked = links.get(&source, &wish, deadline);
            let result = match patience {
                None => asked.await,
                Some(patience) => match tokio::time::timeout(patience, asked).await {
                    Ok(result) => result,
                    Err(_left) => return oracle.count(|totals| totals.left += 1),
                },
            };
            oracle.answered(began.elapsed(), left);
            match result {
                Ok(lookup) => {
                    oracle.handed_out(lookup.entry.link.as_str(), time.peek());
                    let is_hit = matches!(lookup.found, Found::Hit | Found::HitRefresh);
                    assert!(!is_hit || began.elapsed().is_zero(), "a hit waited {:?}", began.elapsed());
                }
                Err(links::Error::Lost) => panic!("a caller was given up"),
                Err(_) => oracle.problem(),
            }
        });
    }

    /// Everything comes to an end, and nothing is left behind.
    async fn end(self) -> Totals {
        self.model.feel(Mood::Well);
        self.model.repeat(Repeats::Never);
        self.model.has_a_keeping_gateway(false);
        self.model.answers_within(SECOND / 10);
        // A suspension that is still to come is called off.
        self.time.suspend_before_reading(0, Duration::ZERO);
        let flights = async {
            while self.links.flights_under_way() > 0 {
                tokio::time::sleep(SECOND / 10).await;
            }
        };
        tokio::time::timeout(SECOND * 60, flights).await.expect("every flight lands");
        // Long enough for the longest pause that kie.ai can ask for, and for one probe.
        tokio::time::sleep(SECOND * 121).await;
        for number in [0, 1] {
            let mut lookup = self.links.get(&file(number), &Wish::default(), self.clock.now() + SECOND * 20).await;
            if lookup.is_err() {
                tokio::time::sleep(SECOND * 13).await;
                lookup = self.links.get(&file(number), &Wish::default(), self.clock.now() + SECOND * 20).await;
            }
            let lookup = lookup.unwrap_or_else(|error| panic!("links do not flow again: {error:?}"));
            self.oracle.handed_out(lookup.entry.link.as_str(), self.time.peek());
        }
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(SECOND, self.tasks.wait()).await.expect("every task ends at shutdown");
        self.oracle.totals()
    }
}

fn links_config(
    ttl: Duration,
    margin: Duration,
    refresh_after: Duration,
    request_timeout: Duration,
    is_calm: bool,
    rng: &mut Rng,
) -> links::Config {
    links::Config {
        ttl,
        margin,
        refresh_after,
        negative_ttl: SECOND * rng.u32(0..40),
        force_interval: SECOND * rng.u32(0..20),
        // Room for all links, or for two or three.
        max_bytes: if !is_calm && rng.u8(..4) == 0 { 2048 } else { 1 << 20 },
        flight_timeout: request_timeout,
        waiting: rng.usize(if is_calm { 64 } else { 1 }..200),
    }
}

fn wish(rng: &mut Rng) -> Wish {
    let some = |rng: &mut Rng| (rng.u8(..5) == 0).then(|| SECOND * rng.u32(0..1300));
    Wish { max_age: some(rng), min_fresh: some(rng), only_if_cached: rng.u8(..10) == 0 }
}

fn file(number: usize) -> Source {
    Source::parse(&format!("https://file.kie.ai/{number}")).unwrap()
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}
