//! One schedule: a world made from a seed, and what happens in it.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    kie::{Model, Mood},
    non_zero,
    oracle::{Oracle, Promises, Totals},
};
use crate::{
    clock::{Clock, testing::VirtualTime},
    key::ApiKey,
    links::{self, Links, Outcome, Wish},
    source::SourceUrl,
    telemetry::trace::Tracer,
    upstream::{GateConfig, Kie, KieConfig},
};

const SECOND: Duration = Duration::from_secs(1);

struct World {
    rng: Rng,
    time: Arc<VirtualTime>,
    clock: Clock,
    model: Arc<Model>,
    oracle: Arc<Oracle>,
    links: Links,
    config: links::Config,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Runs the schedule of this seed; panics at the first broken promise.
pub(super) fn run(seed: u64) -> Totals {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    fastrand::seed(seed);
    runtime.block_on(async {
        let mut rng = Rng::with_seed(seed);
        let is_outage = rng.u8(..8) == 0;
        let mut world = World::new(seed, rng, is_outage);
        if is_outage {
            world.outage_within_the_window().await;
        } else {
            world.anything().await;
        }
        world.end().await
    })
}

impl World {
    fn new(seed: u64, mut rng: Rng, long_lives: bool) -> World {
        let time = VirtualTime::new();
        let clock = time.clock();
        let request_timeout = SECOND * rng.u32(if long_lives { 5..25 } else { 2..25 });
        // Long lives as in production, or short ones, so that much happens in little time.
        let config = if long_lives || rng.bool() {
            let ttl = SECOND * 19 * 60;
            links_config(ttl, SECOND * 60, SECOND * 12 * 60, request_timeout, &mut rng)
        } else {
            let ttl = SECOND * rng.u32(5..60);
            let margin = SECOND * rng.u32(0..60);
            let refresh_after = ttl.mul_f64(0.2 + 0.7 * rng.f64());
            links_config(ttl, margin, refresh_after, request_timeout, &mut rng)
        };
        let (rate, burst) = (rng.u32(1..30), rng.u32(1..30));
        let gate = GateConfig {
            rate: non_zero(rate),
            burst: non_zero(burst),
            in_flight: non_zero(rng.u32(1..40)),
            reserve: request_timeout / 10,
        };
        let oracle =
            Arc::new(Oracle::new(Promises { margin: config.margin, rate: f64::from(rate), burst: f64::from(burst) }));
        let model = Arc::new(Model::new(Arc::clone(&time), Arc::clone(&oracle), seed));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        // With long lives, longer than kie.ai ever takes when it is well.
        let shortest = if long_lives { 2.0 } else { 0.5 };
        let attempt_timeout = SECOND.mul_f64(shortest + 8.0 * rng.f64());
        let config_of_kie = KieConfig { gate, attempt_timeout, attempts: rng.u32(1..4) };
        let mint = Kie::new(&config_of_kie, Arc::clone(&model), clock.clone(), &tasks, stop.clone());
        let hash = ApiKey::new("simulated-key").unwrap().log_hash();
        let tracer = Tracer::default();
        let (links_tasks, links_stop) = (tasks.clone(), stop.clone());
        let links = Links::new(config.clone(), Arc::new(mint), clock.clone(), hash, tracer, links_tasks, links_stop);
        World { rng, time, clock, model, oracle, links, config, tasks, stop }
    }

    /// Callers of all kinds while moods, clocks and the machine change.
    async fn anything(&mut self) {
        let files = self.rng.usize(1..12);
        let mut callers = JoinSet::new();
        let pause = *pick(&mut self.rng, &[SECOND / 50, SECOND / 2, SECOND * 40]);
        for _ in 0..self.rng.usize(20..80) {
            match self.rng.u8(..20) {
                0..2 => self.time.step_wall(self.rng.i64(-86_400..86_400)),
                2..5 => {
                    let moods = [
                        Mood::Well,
                        Mood::Well,
                        Mood::Down,
                        Mood::Limiting,
                        Mood::Hanging,
                        Mood::Stingy,
                        Mood::Refusing,
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
                    // Between two steps of whatever happens next.
                    false => self.time.suspend_before_reading(self.rng.u32(..40), for_how_long),
                }
            }
            tokio::time::sleep(pause.mul_f64(self.rng.f64())).await;
        }
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
    }

    /// A link in constant use while kie.ai is away for less than the refresh window, and nobody else.
    async fn outage_within_the_window(&mut self) {
        let source = file(0);
        let window = self.config.ttl - self.config.refresh_after;
        // The last try before the deadline needs a moment, and an open breaker lets one through every 15 s.
        let outage = window.saturating_sub(SECOND * 35).mul_f64(self.rng.f64());
        let wish = Wish::default();
        let ask = async |most: Duration| {
            let began = tokio::time::Instant::now();
            let lookup = self.links.get(&source, &wish, self.clock.now() + self.config.flight_timeout).await;
            let lookup = lookup.unwrap_or_else(|error| panic!("P5: a user of the link noticed the outage: {error:?}"));
            self.oracle.handed_out(lookup.entry.link.as_str(), self.time.peek());
            assert!(began.elapsed() <= most, "P5: a user of the link waited {:?}", began.elapsed());
        };
        ask(SECOND * 4).await;
        // It may begin at any moment of the link's life.
        let before = self.config.ttl.mul_f64(1.5 * self.rng.f64());
        let phases = [
            (Mood::Well, before, SECOND * 8),
            (Mood::Down, outage, SECOND),
            (Mood::Well, SECOND * 40, SECOND),
            (Mood::Well, self.config.ttl, SECOND * 8),
        ];
        for (mood, length, beat) in phases {
            self.model.feel(mood);
            for _ in 0..length.div_duration_f64(beat).ceil() as u32 {
                ask(Duration::ZERO).await;
                tokio::time::sleep(beat).await;
            }
        }
        self.oracle.count(|totals| totals.outages_unnoticed += 1);
    }

    /// One caller: asks, perhaps insists, perhaps leaves.
    fn caller(&mut self, files: usize, callers: &mut JoinSet<()>) {
        let source = file(self.rng.usize(..files));
        let wish = wish(&mut self.rng);
        let patience = (self.rng.u8(..5) == 0).then(|| SECOND.mul_f64(3.0 * self.rng.f64()));
        let (links, time, oracle) = (self.links.clone(), Arc::clone(&self.time), Arc::clone(&self.oracle));
        // Some have spent much of it before they ask, for example on a slow body.
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
                    let is_hit = matches!(lookup.outcome, Outcome::Hit | Outcome::HitRefresh);
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
        let flights = async {
            while self.links.flights_under_way() > 0 {
                tokio::time::sleep(SECOND / 10).await;
            }
        };
        tokio::time::timeout(SECOND * 60, flights).await.expect("every flight lands");
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
    rng: &mut Rng,
) -> links::Config {
    links::Config {
        ttl,
        margin,
        refresh_after,
        negative_ttl: SECOND * rng.u32(0..40),
        force_interval: SECOND * rng.u32(0..20),
        // Room for everything, or for two or three.
        max_bytes: if rng.u8(..4) == 0 { 2048 } else { 1 << 20 },
        flight_timeout: request_timeout,
        waiting: rng.usize(1..200),
    }
}

fn wish(rng: &mut Rng) -> Wish {
    let some = |rng: &mut Rng| (rng.u8(..5) == 0).then(|| SECOND * rng.u32(0..1300));
    Wish { max_age: some(rng), min_fresh: some(rng), only_if_cached: rng.u8(..10) == 0 }
}

fn file(number: usize) -> SourceUrl {
    SourceUrl::parse(&format!("https://file.kie.ai/{number}")).unwrap()
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}
