//! A model of kie.ai behind a model of the wire: moods that change, latencies, links with real ends, a clock of its
//! own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;

use super::oracle::Oracle;
use crate::{
    clock::{Clock, Instant, KieClock, testing::VirtualTime},
    kie_sim::Answer,
    link::{self, Link, Policy},
    source::Source,
    telemetry::trace::Span,
    upstream::{
        Doubt, Error, Life, MintFuture, Minted, Transport, Via,
        envelope::{self, Raw},
        life,
    },
};

/// How kie.ai feels for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// Resets, answers with HTML or with nothing, or times out; which of these is drawn for each request.
    Down,
    /// 429, with or without `Retry-After`.
    Limiting,
    /// Answers, but beyond every timeout.
    Silent,
    /// Hands out links with little life left.
    Stingy,
    /// 422 for everything.
    Refusing,
    /// Refuses the account with this code.
    Account(i64),
    /// A gateway's 503, with `Retry-After`.
    Unavailable,
    /// A gateway's 403 without kie.ai's envelope.
    Forbidden,
}

impl Mood {
    /// The answer that is no link, with its `Retry-After`; `None` in the moods in which kie.ai gives one.
    pub(super) fn refusal(self, rng: &mut fastrand::Rng) -> Option<(Answer, Option<Duration>)> {
        Some(match self {
            Mood::Well | Mood::Silent | Mood::Stingy => return None,
            Mood::Refusing => (Answer::code(422), None),
            Mood::Limiting => (Answer::too_frequent(), rng.bool().then(|| Duration::from_secs(rng.u64(0..9)))),
            Mood::Down if rng.bool() => (Answer::html(500), None),
            Mood::Down => (Answer::empty(), None),
            Mood::Account(code) => (Answer::code(code), None),
            Mood::Unavailable => (Answer::html(503), Some(Duration::from_secs(rng.u64(0..121)))),
            Mood::Forbidden => (Answer::banned(), None),
        })
    }
}

/// What becomes of a link that is asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    Never,
    /// The same link until it ends, and then another.
    UntilItEnds,
    /// The same link for ever; each time it is given it lives for 20 minutes more.
    Renewed,
}

pub(super) struct Model {
    clock: Clock,
    kie_clock: KieClock,
    /// For what kie.ai does by itself, as seen from outside: it does not sleep when our machine does.
    time: Arc<VirtualTime>,
    oracle: Arc<Oracle>,
    state: Mutex<State>,
}

struct State {
    rng: fastrand::Rng,
    mood: Mood,
    /// What some files meet, whatever the mood.
    bad: HashMap<Source, Mood>,
    repeats: Repeats,
    /// The links that are given again, by file, and when they end.
    repeated: HashMap<Source, (String, Instant)>,
    /// kie.ai's clock minus the true time.
    skew: i64,
    /// Whether one of kie.ai's gateways has a wrong clock.
    wrong_gateway: bool,
    right_answers: u32,
    last_wrong: Instant,
    /// Whether one of kie.ai's gateways keeps answers for a while.
    keeping_gateway: bool,
    /// The longest latency when kie.ai is well.
    latency: Duration,
    made: u64,
    /// Connections are numbered in the order in which they were made. Those up to this number have fallen silent.
    silent_up_to: u64,
    connections: u64,
    have_answered: bool,
}

/// Marks the request as over however it ends.
struct OnItsWay<'a>(&'a Oracle, &'a Source);

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.0.request_over(self.1);
    }
}

/// The true time at the clock's origin; kie.ai's clock is this plus its skew.
pub(super) const EPOCH: i64 = 1_780_000_000;

impl Model {
    pub(super) fn new(time: Arc<VirtualTime>, kie_clock: KieClock, oracle: Arc<Oracle>, seed: u64) -> Model {
        let mut rng = fastrand::Rng::with_seed(seed);
        let skew = if rng.u8(..4) == 0 { rng.i64(-4000..4000) } else { 0 };
        let latency = Duration::from_millis(rng.u64(0..1500));
        let clock = time.clock();
        let state = State {
            rng,
            mood: Mood::Well,
            bad: HashMap::new(),
            repeats: Repeats::Never,
            repeated: HashMap::new(),
            skew,
            wrong_gateway: false,
            right_answers: 0,
            last_wrong: Instant::from_origin(Duration::ZERO),
            keeping_gateway: false,
            latency,
            made: 0,
            silent_up_to: 0,
            connections: 1,
            have_answered: false,
        };
        Model { clock, kie_clock, time, oracle, state: Mutex::new(state) }
    }

    pub(super) fn feel(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// From now on this file meets `mood`, and other files the usual mood.
    pub(super) fn spoil(&self, source: Source, mood: Mood) {
        self.state.lock().unwrap().bad.insert(source, mood);
    }

    pub(super) fn repeat(&self, repeats: Repeats) {
        self.state.lock().unwrap().repeats = repeats;
    }

    pub(super) fn has_a_wrong_gateway(&self, wrong: bool) {
        self.state.lock().unwrap().wrong_gateway = wrong;
    }

    pub(super) fn has_a_keeping_gateway(&self, keeping: bool) {
        self.state.lock().unwrap().keeping_gateway = keeping;
    }

    pub(super) fn answers_within(&self, latency: Duration) {
        self.state.lock().unwrap().latency = latency;
    }

    /// The connections that are open answer no more; new ones do.
    pub(super) fn silence_connections(&self) {
        let mut state = self.state.lock().unwrap();
        state.silent_up_to = state.connections;
    }

    async fn exchange(&self, source: &Source, patience: Duration) -> Result<Minted, Error> {
        let (connection, was_kept, is_silent) = {
            let state = self.state.lock().unwrap();
            let is_silent = state.have_answered && state.connections <= state.silent_up_to;
            (state.connections, state.have_answered, is_silent)
        };
        let answer = async {
            if is_silent {
                std::future::pending::<()>().await;
            }
            self.answer(source).await
        };
        let result = match tokio::time::timeout(patience, answer).await {
            Ok(result) => result,
            Err(_) if was_kept => Err(Error::SilentConnection),
            Err(_) => Err(Error::Timeout),
        };
        let mut state = self.state.lock().unwrap();
        match &result {
            Err(Error::Timeout | Error::SilentConnection) if state.connections == connection => {
                state.connections += 1;
                state.have_answered = false;
            }
            Err(Error::Timeout | Error::SilentConnection) => {}
            Ok(_) | Err(_) => state.have_answered = true,
        }
        result
    }

    async fn answer(&self, source: &Source) -> Result<Minted, Error> {
        let sent_at = self.clock.now();
        let unseen = self.time.unseen();
        let (before, after, mood) = {
            let mut state = self.state.lock().unwrap();
            let mood = state.bad.get(source).copied().unwrap_or(state.mood);
            let whole = match mood {
                Mood::Silent => Duration::from_secs(30),
                _ => state.latency.mul_f64(state.rng.f64()),
            };
            let before = whole.mul_f64(state.rng.f64());
            (before, whole - before, mood)
        };
        tokio::time::sleep(before).await;
        // The link is signed somewhere on the way, and the answer dated at the end of it; kie.ai itself is never
        // paused.
        let signed_at = self.time.peek();
        tokio::time::sleep(after).await;
        self.decide(mood, source, sent_at, signed_at, signed_at + after, unseen)
    }

    fn decide(
        &self,
        mood: Mood,
        source: &Source,
        sent_at: Instant,
        signed_at: Instant,
        dated_at: Instant,
        unseen_when_sent: Duration,
    ) -> Result<Minted, Error> {
        let mut state = self.state.lock().unwrap();
        if mood == Mood::Down && state.rng.u8(..3) == 0 {
            return Err(Error::Timeout);
        }
        // An answer that a gateway kept for a while was made that much earlier.
        let age = (state.keeping_gateway && state.rng.u8(..4) == 0).then(|| state.rng.u64(1..1200));
        let kept = Duration::from_secs(age.unwrap_or_default());
        // Wrong only now and then: where most answers are wrong, nobody can know which.
        let is_wrong = state.wrong_gateway && state.right_answers >= 3 && state.rng.bool();
        if is_wrong {
            state.right_answers = 0;
            state.last_wrong = sent_at;
        } else if sent_at > state.last_wrong && sent_at.until(self.clock.now()) < Duration::from_secs(60) {
            state.right_answers += 1;
        }
        // `Date` shows whole seconds, so a smaller error cannot be told from none.
        let wrong_by = state.rng.i64(5..4000);
        let ahead = match (is_wrong, state.rng.bool()) {
            (false, _) => 0,
            (true, true) => wrong_by,
            (true, false) => -wrong_by,
        };
        let shown = kies_clock(dated_at, &state) + ahead - i64::try_from(kept.as_secs()).unwrap();
        let date = Timestamp::from_second(shown).unwrap();
        let age = age.map(Duration::from_secs);
        let heard = self.kie_clock.heard(Some(date), age, sent_at, self.clock.now());
        // A request that slept on its way shows no pause that was shorter than its sleep.
        if unseen_when_sent == self.time.unseen() && sent_at.until(self.clock.now()) < Duration::from_secs(60) {
            self.oracle.sign_of_the_pause();
        }
        if let Some((answer, retry_after)) = mood.refusal(&mut state.rng) {
            if mood == Mood::Limiting {
                let pause = retry_after.unwrap_or(Duration::from_secs(2)).max(Duration::from_secs(1));
                self.oracle.limited(self.clock.now(), pause);
            }
            return Err(error(&answer, retry_after));
        }
        let text = self.link(&mut state, source, mood, signed_at - kept);
        let link = Link::parse(&text, &Policy::default()).unwrap();
        let Life { left, says_its_end } = life(&link, Some(date), age, self.clock.wall());
        Ok(Minted { link, sent_at, ends_at: sent_at + left, heard, says_its_end, via: Via::Kie })
    }

    /// A link whose end the oracle knows.
    fn link(&self, state: &mut State, source: &Source, mood: Mood, signed_at: Instant) -> String {
        if let Some((link, ends)) = state.repeated.get(source).cloned()
            && mood == Mood::Well
        {
            match state.repeats {
                Repeats::UntilItEnds if signed_at < ends => return link,
                Repeats::Renewed => {
                    let ends = ends.max(signed_at + link::LIFE);
                    self.oracle.renewed(&link, ends);
                    return link;
                }
                Repeats::Never | Repeats::UntilItEnds => {}
            }
        }
        state.made += 1;
        let text = format!("https://files.example/{}", state.made);
        let (text, ends) = if mood != Mood::Stingy && (state.repeats != Repeats::Never || state.rng.u8(..4) == 0) {
            // A link without an expiry of its own lives as documented, from the moment it was signed.
            (text, signed_at + link::LIFE)
        } else {
            let life = if mood == Mood::Stingy { state.rng.u64(0..90) } else { link::LIFE.as_secs() };
            let signed = kies_clock(signed_at, state);
            let stamp = Timestamp::from_second(signed).unwrap().strftime("%Y%m%dT%H%M%SZ").to_string();
            let end = u64::try_from(signed + i64::try_from(life).unwrap() - EPOCH - state.skew).unwrap();
            (format!("{text}?X-Amz-Date={stamp}&X-Amz-Expires={life}"), Instant::from_origin(Duration::from_secs(end)))
        };
        if mood == Mood::Stingy {
            self.oracle.count(|totals| totals.short_lived += 1);
        }
        state.repeated.insert(source.clone(), (text.clone(), ends));
        self.oracle.made(&text, ends);
        text
    }
}

/// What kielink reads out of an answer that has no link.
pub(super) fn error(answer: &Answer, retry_after: Option<Duration>) -> Error {
    let (http_status, body) = answer.status_and_body().expect("it is the same for every request");
    let read = envelope::read(&Raw { http_status, retry_after, body: &body }, str::to_owned);
    read.expect_err("it has no link")
}

fn kies_clock(at: Instant, state: &State) -> i64 {
    EPOCH + i64::try_from(at.since_origin().as_secs()).unwrap() + state.skew
}

impl Transport for Arc<Model> {
    fn send<'a>(
        &'a self,
        source: &'a Source,
        _doubt: Option<&'a Doubt>,
        patience: Duration,
        _span: &'a Span,
    ) -> MintFuture<'a> {
        Box::pin(async move {
            self.oracle.request(source, self.clock.now(), self.time.has_just_woken());
            let _on_its_way = OnItsWay(&self.oracle, source);
            self.exchange(source, patience).await
        })
    }

    fn key_version(&self) -> u64 {
        0
    }
}
