//! A model of kie.ai behind a model of the wire: moods that change, latencies, links with real ends.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;

use super::oracle::Oracle;
use crate::{
    clock::{Clock, Instant, testing::VirtualTime},
    link::{self, Link, Policy},
    source::SourceUrl,
    telemetry::trace::Span,
    upstream::{Answer, BadAnswer, Error, MintFuture, Minted, Transport, life},
};

/// How kie.ai feels for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// Refuses to connect, resets, answers with HTML or nothing, times out: one of them each time.
    Down,
    /// 429, with or without `Retry-After`.
    Limiting,
    /// Answers, but beyond every timeout.
    Hanging,
    /// Hands out links with little life left.
    Stingy,
    /// 422 for everything.
    Refusing,
}

pub(super) struct Model {
    clock: Clock,
    /// kie.ai's own doings are seen from outside: it does not sleep when our machine does.
    time: Arc<VirtualTime>,
    oracle: Arc<Oracle>,
    state: Mutex<State>,
}

struct State {
    rng: fastrand::Rng,
    mood: Mood,
    /// Its clock minus the true time.
    skew: i64,
    /// Longest latency when it is well.
    latency: Duration,
    made: u64,
}

/// Marks the request as over however it ends.
struct OnItsWay<'a>(&'a Oracle, &'a SourceUrl);

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.0.request_over(self.1);
    }
}

/// The true time at the clock's origin; kie.ai's clock is this plus its skew.
const EPOCH: i64 = 1_780_000_000;

impl Model {
    pub(super) fn new(time: Arc<VirtualTime>, oracle: Arc<Oracle>, seed: u64) -> Model {
        let mut rng = fastrand::Rng::with_seed(seed);
        let skew = if rng.u8(..4) == 0 { rng.i64(-4000..4000) } else { 0 };
        let latency = Duration::from_millis(rng.u64(0..1500));
        let clock = time.clock();
        Model { clock, time, oracle, state: Mutex::new(State { rng, mood: Mood::Well, skew, latency, made: 0 }) }
    }

    pub(super) fn feel(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    async fn answer(&self, source: &SourceUrl) -> Result<Minted, Error> {
        let sent_at = self.clock.now();
        self.oracle.request(source, sent_at, self.time.has_just_woken());
        let _on_its_way = OnItsWay(&self.oracle, source);
        let (before, after, mood) = {
            let mut state = self.state.lock().unwrap();
            let mood = state.mood;
            let whole = match mood {
                Mood::Hanging => Duration::from_secs(30),
                _ => state.latency.mul_f64(state.rng.f64()),
            };
            let before = whole.mul_f64(state.rng.f64());
            (before, whole - before, mood)
        };
        tokio::time::sleep(before).await;
        // Signed somewhere on the way, dated at the end of it.
        let signed_at = self.time.peek();
        tokio::time::sleep(after).await;
        self.decide(mood, sent_at, signed_at)
    }

    fn decide(&self, mood: Mood, sent_at: Instant, signed_at: Instant) -> Result<Minted, Error> {
        let now = self.time.peek();
        let mut state = self.state.lock().unwrap();
        let answer = |code| Answer { http_status: 200, code: Some(code), message: None };
        match mood {
            Mood::Well | Mood::Hanging => Ok(self.make(&mut state, sent_at, signed_at, now, link::LIFE)),
            Mood::Stingy => {
                self.oracle.count(|totals| totals.short_lived += 1);
                let life = Duration::from_secs(state.rng.u64(0..90));
                Ok(self.make(&mut state, sent_at, signed_at, now, life))
            }
            Mood::Refusing => Err(Error::SourceRefused(answer(422))),
            Mood::Limiting => {
                let retry_after = (state.rng.bool()).then(|| Duration::from_secs(state.rng.u64(0..9)));
                let pause = retry_after.unwrap_or(Duration::from_secs(2)).max(Duration::from_secs(1));
                self.oracle.limited(now, pause);
                Err(Error::RateLimited { answer: answer(429), retry_after })
            }
            Mood::Down => Err(match state.rng.u8(..3) {
                0 => Error::Failed(answer(500)),
                1 => Error::Unusable { reason: BadAnswer::Empty, answer: answer(200) },
                _ => Error::Timeout,
            }),
        }
    }

    /// A link whose end is known, as the real wire would read it.
    fn make(
        &self,
        state: &mut State,
        sent_at: Instant,
        signed_at: Instant,
        now: Instant,
        life_given: Duration,
    ) -> Minted {
        state.made += 1;
        let kies_clock = |at: Instant| EPOCH + i64::try_from(at.since_origin().as_secs()).unwrap() + state.skew;
        let text = format!("https://files.example/{}", state.made);
        let (text, ends) = if life_given == link::LIFE && state.rng.u8(..4) == 0 {
            // No expiry of its own: it lives as documented, from the moment it was signed.
            (text, signed_at + link::LIFE)
        } else {
            let (signed, seconds) = (kies_clock(signed_at), i64::try_from(life_given.as_secs()).unwrap());
            let stamp = Timestamp::from_second(signed).unwrap().strftime("%Y%m%dT%H%M%SZ").to_string();
            let end = u64::try_from(signed + seconds - EPOCH - state.skew).unwrap();
            (
                format!("{text}?X-Amz-Date={stamp}&X-Amz-Expires={seconds}"),
                Instant::from_origin(Duration::from_secs(end)),
            )
        };
        self.oracle.made(&text, ends);
        let link = Link::parse(&text, &Policy::default()).unwrap();
        let date = Timestamp::from_second(kies_clock(now)).unwrap();
        let ends_at = sent_at + life(&link, Some(date), self.clock.wall());
        Minted { link, sent_at, ends_at }
    }
}

impl Transport for Arc<Model> {
    fn send<'a>(&'a self, source: &'a SourceUrl, _span: &'a Span) -> MintFuture<'a> {
        Box::pin(self.answer(source))
    }
}
