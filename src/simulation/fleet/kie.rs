//! One kie.ai, and a wire in front of it for each replica.

use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

use super::{
    oracle::Oracle,
    world::{Machine, World},
};
use crate::{
    clock::{Clock, KieClock},
    link::{self, Link, Policy},
    shared::{Names, model},
    simulation::kie::{EPOCH, Mood, error},
    source::Source,
    telemetry::trace::Span,
    upstream::{Doubt, Error, Life, MintFuture, Minted, Transport, Via, life},
};

pub(super) struct Kie {
    world: Arc<World>,
    oracle: Arc<Oracle>,
    state: Mutex<State>,
}

struct State {
    rng: fastrand::Rng,
    mood: Mood,
    /// The files that it does not know.
    refused: HashSet<Source>,
    latency: Duration,
    /// How long its links live, where they say so.
    life: Duration,
    made: u64,
}

/// What a replica has of kie.ai.
pub(super) struct Wire {
    pub(super) kie: Arc<Kie>,
    pub(super) replica: usize,
    pub(super) machine: Arc<Machine>,
    pub(super) clock: Clock,
    pub(super) kie_clock: KieClock,
    /// The replica is dead: nothing that it asks comes to an end.
    pub(super) is_dead: Arc<AtomicBool>,
    /// Whose leases are lost, and how they are called, where there is a tier.
    pub(super) tier: Option<(Arc<model::Model>, Names)>,
}

/// Ends the request however it ends.
struct OnItsWay<'a>(&'a Wire, &'a Source);

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.0.kie.oracle.request_over(self.0.replica, self.1);
    }
}

impl Kie {
    pub(super) fn new(seed: u64, world: &Arc<World>, oracle: &Arc<Oracle>, latency: Duration, life: Duration) -> Kie {
        let rng = fastrand::Rng::with_seed(seed);
        let state = State { rng, mood: Mood::Well, refused: HashSet::new(), latency, life, made: 0 };
        Kie { world: Arc::clone(world), oracle: Arc::clone(oracle), state: Mutex::new(state) }
    }

    pub(super) fn feel(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    pub(super) fn answers_within(&self, latency: Duration) {
        self.state.lock().unwrap().latency = latency;
    }

    pub(super) fn refuse(&self, source: Source) {
        self.state.lock().unwrap().refused.insert(source);
    }

    fn latencies(&self) -> (Duration, Duration) {
        let mut state = self.state.lock().unwrap();
        let whole = match state.mood {
            Mood::Silent => Duration::from_secs(30),
            _ => state.latency.mul_f64(state.rng.f64()),
        };
        let before = whole.mul_f64(state.rng.f64());
        (before, whole - before)
    }
}

/// No flight takes longer, in milliseconds.
const FLIGHT: i64 = 40_000;

/// kie.ai's clock is right.
fn date(at: Duration) -> Timestamp {
    Timestamp::from_second(EPOCH + i64::try_from(at.as_secs()).unwrap()).unwrap()
}

impl Wire {
    async fn answer(&self, source: &Source) -> Result<Minted, Error> {
        let (asked_at, sent_at, missed) = (self.kie.world.now(), self.clock.now(), self.machine.missed());
        let (before, after) = self.kie.latencies();
        tokio::time::sleep(before).await;
        let signed_at = self.kie.world.now();
        tokio::time::sleep(after).await;
        let date = date(signed_at + after);
        let heard = self.kie_clock.heard(Some(date), None, sent_at, self.clock.now());
        if missed == self.machine.missed() && sent_at.until(self.clock.now()) < Duration::from_secs(60) {
            self.kie.oracle.knows(self.replica, Duration::ZERO);
        }
        let mut state = self.kie.state.lock().unwrap();
        let mood = if state.refused.contains(source) { Mood::Refusing } else { state.mood };
        if let Some((answer, retry_after)) = mood.refusal(&mut state.rng) {
            self.kie.oracle.count(|totals| totals.limited += u64::from(mood == Mood::Limiting));
            return Err(error(&answer, retry_after));
        }
        state.made += 1;
        let (says_its_end, made) = (state.rng.bool(), state.made);
        let life = match mood {
            Mood::Stingy => Duration::from_secs(state.rng.u64(0..90)),
            _ if says_its_end => state.life,
            _ => link::LIFE,
        };
        let mut text = format!("https://files.example/{made}");
        let mut ends = signed_at + life;
        if life != link::LIFE {
            let signed = Timestamp::from_second(EPOCH + i64::try_from(signed_at.as_secs()).unwrap()).unwrap();
            let stamp = signed.strftime("%Y%m%dT%H%M%SZ");
            text = format!("{text}?X-Amz-Date={stamp}&X-Amz-Expires={}", life.as_secs());
            ends = Duration::from_secs(signed_at.as_secs()) + life;
        }
        self.kie.oracle.made(&text, ends, asked_at);
        let link = Link::parse(&text, &Policy::default()).unwrap();
        let Life { left, says_its_end } = life_of(&link, date, &self.clock);
        Ok(Minted { link, sent_at, ends_at: sent_at + left, heard, says_its_end, via: Via::Kie })
    }
}

fn life_of(link: &Link, date: Timestamp, clock: &Clock) -> Life {
    life(link, Some(date), None, clock.wall())
}

impl Transport for Wire {
    fn send<'a>(
        &'a self,
        source: &'a Source,
        _doubt: Option<&'a Doubt>,
        patience: Duration,
        _span: &'a Span,
    ) -> MintFuture<'a> {
        Box::pin(async move {
            if self.is_dead.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            let lost = |(tier, names): &(Arc<model::Model>, Names)| tier.lost(&names.file(source.key()).lease, FLIGHT);
            let lost = self.tier.as_ref().map_or(0, lost);
            self.kie.oracle.request(self.replica, Some((source, lost)), self.kie.world.now());
            let _on_its_way = OnItsWay(self, source);
            let answer = tokio::time::timeout(patience, self.answer(source)).await.unwrap_or(Err(Error::Timeout));
            if self.is_dead.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            answer
        })
    }

    fn key_version(&self) -> u64 {
        0
    }

    fn greet<'a>(&'a self, patience: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            self.kie.oracle.request(self.replica, None, self.kie.world.now());
            let (sent_at, missed) = (self.clock.now(), self.machine.missed());
            let (before, after) = self.kie.latencies();
            let answered = tokio::time::timeout(patience, tokio::time::sleep(before + after)).await;
            // Where the machine slept meanwhile, it was dated before that.
            if answered.is_ok() && missed == self.machine.missed() {
                let now = self.clock.now();
                let slept = sent_at.until(now).saturating_sub(before + after + Duration::from_secs(1));
                self.kie_clock.heard(Some(date(self.kie.world.now() - slept)), None, sent_at, now);
            }
        })
    }
}
