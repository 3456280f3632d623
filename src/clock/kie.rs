//! kie.ai's clock, as its answers show it: a second judge of how much life a link has left.
//!
//! A hypervisor that pauses its guest stops every clock of that guest, even the clock that counts sleep. Only kie.ai's
//! clock goes on, and each answer of kie.ai says what that clock shows. As long as the answers agree with ours, this
//! judge keeps silent. When an answer shows that more time has passed at kie.ai than here, the judge says how much more
//! at most. It only ever takes life away, and it heals: three answers later, what one wrong clock said is forgotten.
//!
//! Links that other machines have minted are judged by kie.ai's clock alone: by an upper bound of what it shows now, made
//! of the same answers (`KieClock::upper_bound`).
//!
//! Pure but for its lock: times are arguments.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{
    Clock, Instant,
    gist::{Gist, Known},
    heard::{Bounds, DRIFT, Heard, PackedHeard, nanos, signed, signed_nanos, since_epoch},
    told::{self, Told, Witness, Witnesses},
};
use crate::link;

/// How many answers are believed: with one, a single gateway with a wrong clock would be the judge of everything.
const ANSWERS: usize = 3;

/// A step of the wall clock smaller than this is taken for the noise of reading two clocks one after the other.
const SMALLEST_STEP: SignedDuration = SignedDuration::from_millis(500);

/// How often the wall clock is looked at. For so long at most, a dead link may still go out after the step that shows
/// it dead.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of kie.ai's clock. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KieClock(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    gist: Gist,
}

/// The state while it is changed; what hits ask is noted when the change is over.
struct Change<'a> {
    state: MutexGuard<'a, State>,
    gist: &'a Gist,
}

impl Deref for Change<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let answers = self.state.answers.iter().filter_map(|answer| Some(signed_nanos(answer.ahead?.least))).max();
        self.gist.note(&Known {
            stepped: nanos(self.state.stepped),
            answers: answers.unwrap_or(i64::MIN),
            beacons: self.state.told.beacons(),
        });
    }
}

#[derive(Debug, Default)]
struct State {
    /// The latest answers that had a `Date`, by when they were asked for; the oldest first.
    answers: Vec<Heard>,
    /// Answers so far.
    count: u64,
    /// All forward steps of the wall clock so far, added up. After a pause the guest's wall clock is set right some
    /// time later; its other clocks never are.
    stepped: Duration,
    /// The forward steps of the last 20 minutes, and when each was seen. (A link that was asked for earlier is dead.)
    steps: Vec<(Instant, Duration)>,
    /// The wall clock less ours, at the last look.
    wall: Option<SignedDuration>,
    /// What other replicas have said, until three answers have come.
    told: Witnesses,
}

impl State {
    /// Keeps an answer until `ANSWERS` quick answers have been asked for after it. A slow answer is also pushed out by
    /// as many later slow ones.
    fn remember(&mut self, heard: Heard) {
        // A slow answer may be from any moment until it came, and may be the only sign of a pause.
        let asked_at = |known: &Heard| if known.took_long() { known.at } else { known.sent_at };
        let place = self.answers.partition_point(|known| asked_at(known) <= asked_at(&heard));
        self.answers.insert(place, heard);
        let (mut short, mut long) = (0, 0);
        self.answers.reverse();
        self.answers.retain(|known| {
            let is_pushed_out = short >= ANSWERS || known.took_long() && long >= ANSWERS;
            *if known.took_long() { &mut long } else { &mut short } += 1;
            !is_pushed_out
        });
        self.answers.reverse();
        // What others say heals as what kie.ai says.
        let answers = &self.answers;
        let since = |told: &Told| answers.iter().filter(|own| own.sent_at > told.at() && !own.took_long()).count();
        self.told.forget(|told| since(told) >= ANSWERS);
    }

    /// The most that kie.ai's clock shows at `now` by our own answers, with `ahead` telling how far ahead each shows it, if it
    /// does. Drift counts for so long at most.
    fn most(
        &self,
        now: Instant,
        longest: Duration,
        ahead: impl Fn(&Heard) -> Option<SignedDuration>,
    ) -> Option<SignedDuration> {
        let drifted = |answer: &Heard| signed(answer.sent_at.until(now).min(longest) / DRIFT);
        let most = |answer: &Heard| Some(ahead(answer)?.saturating_add(drifted(answer)));
        Some(self.answers.iter().filter_map(most).max()?.saturating_add(signed(now.since_origin())))
    }

    fn step(&mut self, step: Duration, now: Instant) {
        self.stepped = self.stepped.saturating_add(step);
        self.steps.retain(|(seen_at, _)| *seen_at + link::LIFE > now);
        self.steps.push((now, step));
    }

    fn stepped_until(&self, at: Instant) -> Duration {
        let later = self.steps.iter().filter(|(seen_at, _)| *seen_at > at).map(|(_, step)| *step);
        later.fold(self.stepped, Duration::saturating_sub)
    }
}

impl KieClock {
    /// Notes an answer, good or bad: what its `Date` and `Age` say, and when it was asked for and came.
    pub fn heard(
        &self,
        date: Option<Timestamp>,
        age: Option<Duration>,
        sent_at: Instant,
        received_at: Instant,
    ) -> Heard {
        let mut state = self.change();
        let shown = date.map(|date| since_epoch(date).saturating_add(signed(age.unwrap_or_default())));
        let own = shown.map(|shown| Bounds::new(shown, age, sent_at, received_at));
        // Without a `Date`, what earlier answers have shown: the middle one, since one of them may be wrong.
        let ahead = own.or_else(|| {
            let mut known: Vec<Bounds> = state.answers.iter().filter_map(|answer| answer.ahead).collect();
            known.sort_unstable_by_key(|bounds| bounds.least);
            known.get(known.len() / 2).copied()
        });
        state.count += 1;
        let stepped = state.stepped_until(sent_at);
        let heard = Heard { number: state.count, sent_at, at: received_at, ahead, shown, stepped };
        if shown.is_some() {
            state.remember(heard);
        }
        heard
    }

    /// How much more time, at most, has passed at kie.ai than here since `then`; zero as long as nothing shows that any
    /// has. One answer that came after `then` was asked for is enough. Earlier answers count only where two agree: they
    /// show that `then` itself came from a clock that is behind. (A single earlier answer may be wrong, and would spoil
    /// every link.)
    pub fn ahead_since(&self, then: &Heard, now: Instant) -> Duration {
        let state = self.lock();
        let Some(known) = then.ahead else {
            return state.stepped.saturating_sub(then.stepped);
        };
        // A step of the wall clock from before `then` tells nothing of the time since.
        let stepped = |answer: &Heard| state.stepped.saturating_sub(answer.stepped.max(then.stepped));
        let ahead = |answer: &Heard| {
            let (seen, stepped) = (answer.ahead?, signed(stepped(answer)));
            if answer.number == then.number {
                return (!stepped.is_zero()).then_some(stepped);
            }
            let apart = answer.at.since(then.at).max(then.at.since(answer.at));
            let contradicts = seen.least + stepped > known.most + signed(apart / DRIFT);
            contradicts.then(|| seen.most + stepped + signed(answer.at.until(now) / DRIFT) - known.least)
        };
        let since =
            |answer: &&Heard| answer.number > then.number || answer.at > then.sent_at || !stepped(answer).is_zero();
        let (later, earlier): (Vec<_>, Vec<_>) = state.answers.iter().partition(since);
        let later = later.into_iter().filter_map(ahead).max();
        let mut agreed: Vec<_> = earlier.into_iter().filter_map(ahead).collect();
        agreed.sort_unstable();
        let most = later.max(agreed.iter().rev().nth(1).copied());
        let by_answers = most.and_then(|most| Duration::try_from(most).ok()).unwrap_or_default();
        by_answers.max(told::ahead_since(&state.told.beacons(), &PackedHeard::from(*then), now))
    }

    /// The same for an answer as an entry keeps it; without a lock unless a later answer or step contradicts it.
    pub fn ahead_since_packed(&self, then: &PackedHeard, now: Instant) -> Duration {
        self.0.gist.ahead_since(then, now).unwrap_or_else(|| self.ahead_since(&Heard::from(*then), now))
    }

    /// The most that kie.ai's clock may show at `now`; `None` as long as no answer has shown it. Each witness makes it
    /// later, none earlier: the answers that are believed, forward steps of the wall clock since, and what other
    /// replicas have said. What is withheld because of a wrong witness is alive again three answers later.
    pub fn upper_bound(&self, now: Instant) -> Option<Timestamp> {
        let state = self.lock();
        let stepped = |answer: &Heard| signed(state.stepped.saturating_sub(answer.stepped));
        let own = state.most(now, Duration::MAX, |answer| Some(answer.ahead?.most.saturating_add(stepped(answer))))?;
        let told = state.told.ahead_at(now).map(|ahead| ahead.saturating_add(signed(now.since_origin())));
        // A time that no calendar has is later than every link's end.
        Some(Timestamp::from_duration(own.max(told.unwrap_or(own))).unwrap_or(Timestamp::MAX))
    }

    /// The same by our own answers alone: what other replicas may be told. What they told us would go round for ever,
    /// and the wall clock is this machine's affair. So is a sleep with a request under way: of an answer that took long, what
    /// it is sure of is told, unless there is no other.
    ///
    /// Of drift, what a link lives through: a replica that has asked for nothing in days would else tell of minutes that
    /// have not passed, and the others would take them off links that they have just minted. It may show a little less
    /// than kie.ai's clock then, and still shows a pause.
    pub fn beacon(&self, now: Instant) -> Option<Timestamp> {
        let state = self.lock();
        let is_one_quick = state.answers.iter().any(|answer| !answer.took_long());
        let most = state.most(now, link::LIFE, |answer| {
            let bounds = answer.ahead?;
            Some(if answer.took_long() && is_one_quick { bounds.least } else { bounds.most })
        });
        Timestamp::from_duration(most?).ok()
    }

    /// How long ago the last answer came that showed it.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.lock().answers.iter().map(|answer| answer.at).max().map(|at| at.until(now))
    }

    /// Notes at `now` that kie.ai's clock shows `shown` or more, by another replica.
    pub fn told(&self, witness: Witness, shown: Timestamp, now: Instant) {
        let ahead = since_epoch(shown).saturating_sub(signed(now.since_origin()));
        self.change().told.hear(witness, Told::new(now, ahead));
    }

    /// Looks at the wall clock every second, until `stop`.
    pub async fn watch(self, clock: Clock, stop: CancellationToken) {
        loop {
            self.look(clock.wall(), clock.now());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Notes what the wall clock shows.
    pub(crate) fn look(&self, wall: Timestamp, now: Instant) {
        let seen = since_epoch(wall) - signed(now.since_origin());
        let mut state = self.change();
        let Some(before) = state.wall else {
            state.wall = Some(seen);
            return;
        };
        let step = seen.saturating_sub(before);
        if step >= SMALLEST_STEP {
            state.step(step.unsigned_abs(), now);
            tracing::warn!(
                step_s = step.as_secs_f64(),
                "the wall clock was set forward: perhaps this machine was paused; links that may have died meanwhile are \
                 withheld until kie.ai's clock is known again",
            );
        }
        // `wall` follows the wall clock back, but forward only at a step that counts: smaller steps forward add up
        // until they count.
        if step >= SMALLEST_STEP || step.is_negative() {
            state.wall = Some(seen);
        }
    }

    fn change(&self) -> Change<'_> {
        Change { state: self.lock(), gist: &self.0.gist }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every section is a few assignments.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> Instant {
        Instant::from_origin(Duration::from_secs_f64(seconds))
    }

    fn shown(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp::from_second(1_780_000_000 + seconds).unwrap())
    }

    /// An answer that took half a second, from a kie.ai whose clock shows this many seconds more than ours.
    fn answer(kie: &KieClock, sent_at: f64, ahead: f64) -> Heard {
        kie.heard(shown((sent_at + 0.25 + ahead).floor() as i64), None, at(sent_at), at(sent_at + 0.5))
    }

    fn ahead(kie: &KieClock, then: &Heard, now: f64) -> f64 {
        kie.ahead_since(then, at(now)).as_secs_f64()
    }

    #[test]
    fn answers_that_agree_with_our_clock_take_nothing() {
        let kie = KieClock::default();
        let first = answer(&kie, 100.9, 0.0);
        for sent_at in [101.0, 130.3, 700.7, 1300.99] {
            assert_eq!(ahead(&kie, &first, sent_at), 0.0);
            answer(&kie, sent_at, 0.0);
            assert_eq!(ahead(&kie, &first, sent_at + 1.0), 0.0, "sent at {sent_at}");
        }
    }

    #[test]
    fn a_pause_that_no_clock_of_ours_saw_shows_with_the_next_answer() {
        for pause in [3.0, 75.0, 1170.0, 86_400.0] {
            let kie = KieClock::default();
            let first = answer(&kie, 100.0, 0.0);
            let second = answer(&kie, 110.0, pause);
            let taken = ahead(&kie, &first, 111.0);
            assert!((pause..pause + 2.6).contains(&taken), "{taken} for {pause}");
            assert_eq!(ahead(&kie, &second, 111.0), 0.0, "the second link is younger than the pause");
        }
    }

    #[test]
    fn one_wrong_clock_is_forgotten_after_three_answers() {
        let kie = KieClock::default();
        let first = answer(&kie, 100.0, 0.0);
        answer(&kie, 110.0, 1170.0);
        for sent_at in [120.0, 130.0] {
            answer(&kie, sent_at, 0.0);
            assert!(ahead(&kie, &first, sent_at + 1.0) > 1170.0);
        }
        answer(&kie, 140.0, 0.0);
        assert_eq!(ahead(&kie, &first, 141.0), 0.0);
    }

    #[test]
    fn an_answer_that_was_overtaken_neither_hides_a_pause_nor_escapes_it() {
        let kie = KieClock::default();
        let first = answer(&kie, 100.0, 0.0);
        // The machine is paused for 75 s while three requests are under way; the fourth is sent after it.
        let late = |sent_at: f64| kie.heard(shown(sent_at as i64), None, at(sent_at), at(111.0));
        kie.heard(shown(110 + 75), None, at(110.0), at(110.5));
        let under_way = [late(107.0), late(108.0), late(109.0)];
        for then in [&first, &under_way[0], &under_way[2]] {
            assert!(ahead(&kie, then, 112.0) > 70.0);
        }
    }

    #[test]
    fn a_clock_that_is_behind_gives_no_life_back() {
        let kie = KieClock::default();
        let first = answer(&kie, 100.0, 0.0);
        answer(&kie, 110.0, -3600.0);
        assert_eq!(ahead(&kie, &first, 111.0), 0.0);
    }

    #[test]
    fn an_answer_without_a_date_is_judged_by_those_before_it() {
        let kie = KieClock::default();
        for (sent_at, off) in [(100.0, 0.0), (101.0, 1170.0), (102.0, 0.0)] {
            answer(&kie, sent_at, off);
        }
        let undated = kie.heard(None, None, at(110.0), at(110.5));
        assert_eq!(ahead(&kie, &undated, 111.0), 0.0);
        answer(&kie, 112.0, 1170.0);
        assert!(ahead(&kie, &undated, 113.0) > 1170.0);
    }

    #[test]
    fn a_single_wrong_clock_does_not_spoil_what_comes_after_it_and_two_that_agree_correct_one_that_is_behind() {
        let kie = KieClock::default();
        answer(&kie, 100.0, 0.0);
        answer(&kie, 110.0, 1170.0);
        let right = answer(&kie, 120.0, 0.0);
        assert_eq!(ahead(&kie, &right, 121.0), 0.0);
        answer(&kie, 130.0, 0.0);
        let behind = answer(&kie, 140.0, -900.0);
        assert!(ahead(&kie, &behind, 141.0) > 900.0);
    }

    #[test]
    fn a_kept_answer_shows_date_and_age_together() {
        let kie = KieClock::default();
        let first = answer(&kie, 1000.0, 0.0);
        kie.heard(shown(110), Some(900 * SECOND), at(1010.0), at(1010.5));
        assert_eq!(ahead(&kie, &first, 1011.0), 0.0);
        kie.heard(shown(1010), Some(900 * SECOND), at(1020.0), at(1020.5));
        assert!(ahead(&kie, &first, 1021.0) > 889.0);
    }

    #[test]
    fn forward_steps_of_the_wall_clock_count_until_three_answers_have_come() {
        let kie = KieClock::default();
        let wall = |now: f64, step: f64| {
            let wall = Timestamp::from_millisecond(((1_790_000_000.0 + now + step) * 1000.0) as i64).unwrap();
            kie.look(wall, at(now));
        };
        let first = answer(&kie, 100.0, 0.0);
        let undated = KieClock::default();
        let alone = undated.heard(None, None, at(100.0), at(100.5));
        wall(100.0, 0.0);
        wall(101.0, 0.4);
        wall(102.0, -0.3);
        assert_eq!(ahead(&kie, &first, 102.0), 0.0, "noise");
        wall(103.0, -1000.0);
        assert_eq!(ahead(&kie, &first, 103.0), 0.0, "set back");
        wall(104.0, -925.0);
        let taken = ahead(&kie, &first, 104.0);
        assert!((75.0..77.6).contains(&taken), "set forward from there: {taken}");
        let look =
            |now: u64, step: i64| undated.look(Timestamp::from_second(1_790_000_000 + step).unwrap(), at(now as f64));
        look(100, 100);
        look(101, 176);
        assert_eq!(ahead(&undated, &alone, 104.0).round(), 75.0, "where no answer has a date");
        for sent_at in [105.0, 106.0, 107.0] {
            assert!(ahead(&kie, &first, sent_at) >= 75.0);
            answer(&kie, sent_at, 0.0);
        }
        assert_eq!(ahead(&kie, &first, 108.0), 0.0, "kie.ai's clock has shown that nothing was missed");
        wall(109.0, 3600.0);
        let right = answer(&kie, 110.0, 0.0);
        assert_eq!(ahead(&kie, &right, 111.0), 0.0, "the step was before it");
        assert!(ahead(&kie, &first, 111.0) > 4500.0);
    }

    #[test]
    fn a_step_of_the_wall_clock_counts_for_the_only_answer_however_long_that_took() {
        let kie = KieClock::default();
        let wall = |seconds: i64| Timestamp::from_second(1_780_000_000 + seconds).unwrap();
        kie.look(wall(0), at(0.0));
        let heard = kie.heard(shown(0), None, at(0.0), at(136.0));
        assert!(ahead(&kie, &heard, 140.0) < 1.0);
        kie.look(wall(141 + 2244), at(141.0));
        assert!(ahead(&kie, &heard, 141.0) >= 2244.0);
    }

    #[test]
    fn an_answer_that_took_long_may_be_the_only_sign_of_a_pause_and_pushes_out_no_other() {
        let kie = KieClock::default();
        let earlier = [0.0, 1.0, 2.0].map(|sent_at| answer(&kie, sent_at, 0.0));
        // In the middle of its 400 s on the way, kie.ai's clock shows 1,880 s more than ours.
        kie.heard(shown(2080), None, at(5.0), at(405.0));
        assert!(ahead(&kie, &earlier[0], 406.0) >= 1675.0);
        let after = answer(&kie, 410.0, 1880.0);
        assert!(ahead(&kie, &after, 411.0) < 1.0);
        assert!(ahead(&kie, &earlier[2], 411.0) >= 1675.0);
        for sent_at in [412.0, 413.0, 414.0] {
            answer(&kie, sent_at, 0.0);
        }
        assert!(ahead(&kie, &earlier[0], 415.0) < 1.0, "what one answer said is forgotten");
        assert_eq!(kie.lock().answers.len(), ANSWERS);
    }

    #[test]
    fn a_step_counts_for_an_answer_that_slept_longer_than_the_step_on_its_way() {
        let kie = KieClock::default();
        let wall = |seconds: i64| Timestamp::from_second(1_780_000_000 + seconds).unwrap();
        kie.look(wall(0), at(0.0));
        let heard = kie.heard(shown(0), None, at(0.0), at(1133.0));
        kie.look(wall(1134 + 1017), at(1134.0));
        assert!(ahead(&kie, &heard, 1134.0) >= 1017.0);
    }

    #[test]
    fn a_step_that_was_seen_while_an_answer_was_on_its_way_counts_for_it() {
        let kie = KieClock::default();
        let wall = |seconds: i64| Timestamp::from_second(1_780_000_000 + seconds).unwrap();
        kie.look(wall(0), at(0.0));
        kie.look(wall(1 + 1807), at(1.0));
        let before = kie.heard(shown(0), None, at(0.5), at(1.5));
        let after = kie.heard(shown(1 + 1807), None, at(1.0), at(1.5));
        assert!(ahead(&kie, &before, 2.0) >= 1807.0);
        assert!(ahead(&kie, &after, 2.0) < 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wall_clock_is_looked_at_every_second() {
        let (kie, time) = (KieClock::default(), crate::clock::testing::VirtualTime::new());
        let first = kie.heard(None, None, time.clock().now(), time.clock().now());
        let stop = CancellationToken::new();
        let watching = kie.clone().watch(time.clock(), stop.clone());
        let stepping = async {
            tokio::time::sleep(SECOND * 5).await;
            time.step_wall(75);
            tokio::time::sleep(SECOND * 101 / 100).await;
            assert_eq!(kie.ahead_since(&first, time.clock().now()), 75 * SECOND);
            stop.cancel();
        };
        tokio::join!(watching, stepping);
    }

    #[test]
    fn drift_alone_is_no_contradiction() {
        let kie = KieClock::default();
        let first = answer(&kie, 100.0, 0.0);
        answer(&kie, 87_000.0, 43.0);
        assert_eq!(ahead(&kie, &first, 87_001.0), 0.0, "half a millisecond a second");
    }

    #[test]
    fn what_hits_ask_says_what_all_that_is_known_says() {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

        use proptest::prelude::*;

        #[derive(Debug, Clone)]
        enum Seen {
            /// How far its clock is ahead, and how long it took.
            Answer(i64, f64),
            Wall(i64),
            Beacon(i64),
        }
        let ahead = || prop_oneof![4 => -1i64..=2, 1 => -2000i64..2000, 1 => Just(i64::MAX)];
        let seen = prop_oneof![
            3 => (ahead(), 0.0..2.0f64).prop_map(|(ahead, took)| Seen::Answer(ahead, took)),
            1 => prop_oneof![2 => Just(0i64), 1 => -100i64..100].prop_map(Seen::Wall),
            3 => ahead().prop_map(Seen::Beacon),
        ];
        let (calm, lessened) = (AtomicU64::new(0), AtomicU64::new(0));
        proptest!(|(all in proptest::collection::vec((0.0..90.0f64, seen), 1..24))| {
            let kie = KieClock::default();
            let (mut now, mut stepped, mut heard) = (100.0, 0, Vec::new());
            let date = |ahead: i64, now: f64| if ahead == i64::MAX { Some(Timestamp::MAX) } else { shown(now as i64 + ahead) };
            for (later, seen) in all {
                now += later;
                match seen {
                    Seen::Answer(ahead, took) => heard.push(kie.heard(date(ahead, now), None, at(now), at(now + took))),
                    Seen::Beacon(ahead) => kie.told(Witness::Beacon, date(ahead, now).unwrap(), at(now)),
                    Seen::Wall(step) => {
                        stepped += step;
                        let wall = Timestamp::from_millisecond(1_790_000_000_000 + stepped * 1000 + (now * 1000.0) as i64);
                        kie.look(wall.unwrap(), at(now));
                    }
                }
                for then in &heard {
                    let (packed, now) = (PackedHeard::from(*then), at(now + 3.0));
                    let all = kie.ahead_since(&Heard::from(packed), now);
                    prop_assert_eq!(kie.ahead_since_packed(&packed, now), all);
                    if kie.0.gist.ahead_since(&packed, now).is_some() {
                        if all.is_zero() { &calm } else { &lessened }.fetch_add(1, Relaxed);
                    }
                }
            }
        });
        let compared = [calm.into_inner(), lessened.into_inner()];
        assert!(compared.iter().all(|compared| *compared > 200), "{compared:?}: else nothing was compared");
    }

    #[test]
    fn an_answer_is_not_contradicted_by_a_beacon_that_is_made_of_it() {
        for took in [0.0, 0.2, 4.9, 70.0] {
            let kie = KieClock::default();
            let then = kie.heard(shown(100), None, at(100.0), at(100.0 + took));
            for later in [0.001, 1.0, 60.0, 700.0] {
                let asked_at = 100.0 + took + later;
                kie.told(Witness::Beacon, kie.beacon(at(asked_at)).unwrap(), at(asked_at));
                assert_eq!(ahead(&kie, &then, asked_at + 1.0), 0.0, "{took} s, {later} s later");
            }
        }
    }

    #[test]
    fn a_replica_that_was_idle_for_weeks_takes_nothing_from_others_and_still_shows_them_a_pause() {
        const WEEKS: f64 = 14.0 * 86_400.0;
        let (idle, busy) = (KieClock::default(), KieClock::default());
        answer(&idle, 100.0, 0.0);
        let then = answer(&busy, WEEKS, 0.0);
        let hear = |kie: &KieClock, now: f64| kie.told(Witness::Beacon, idle.beacon(at(now)).unwrap(), at(now));
        hear(&busy, WEEKS + 60.0);
        let taken = ahead(&busy, &then, WEEKS + 60.0);
        assert!(taken < 3.5, "a second and a half, a second of rounding and what a link drifts: {taken}");
        // The busy one was paused for 75 s: its clocks show so much less.
        let paused = KieClock::default();
        let then = answer(&paused, WEEKS, 0.0);
        paused.told(Witness::Beacon, idle.beacon(at(WEEKS + 85.0)).unwrap(), at(WEEKS + 10.0));
        assert!(ahead(&paused, &then, WEEKS + 10.0) >= 75.0);
        assert!(bound(idle.upper_bound(at(WEEKS))) > WEEKS + 1200.0, "what it may itself believe is as it was");
    }

    #[test]
    fn a_beacon_counts_from_a_drift_of_a_thousandth_on_and_grows_by_that() {
        let millis = |millis: i64| Timestamp::from_millisecond(1_780_000_000_000 + millis).unwrap();
        // Asked for at 100 s, it shows at most 101 s for that moment, and at least 100 s for half a second later.
        for (heard_at, shown, now, taken) in [
            (100.0, 9_000_000, 110.0, 0.0),
            (100.001, 9_000_000, 100.001, 9000.0 - 99.501),
            (700.0, 701_600, 700.0, 0.0),
            (700.0, 701_601, 700.0, 1.601 + 0.5),
            (700.0, 701_601, 1700.0, 1.601 + 0.5 + 1.0),
        ] {
            let kie = KieClock::default();
            let then = kie.heard(Some(millis(100_000)), None, at(100.0), at(100.5));
            kie.told(Witness::Beacon, millis(shown), at(heard_at));
            let found = ahead(&kie, &then, now);
            assert!((found - taken).abs() < 1e-6, "{found} instead of {taken}: {shown} at {heard_at}, {now}");
        }
    }

    #[test]
    fn of_beacons_that_contradict_the_greatest_counts_and_none_is_too_great() {
        let kie = KieClock::default();
        let then = answer(&kie, 100.0, 0.0);
        for (more, told_at) in [(75, 110.0), (40, 111.0)] {
            kie.told(Witness::Beacon, shown(told_at as i64 + more).unwrap(), at(told_at));
            assert!(ahead(&kie, &then, 112.0) >= 75.0);
        }
        let far = kie.heard(Some(Timestamp::MAX), None, at(120.0), at(120.5));
        kie.told(Witness::Beacon, Timestamp::MAX, at(130.0));
        for then in [then, far] {
            assert!(ahead(&kie, &then, 131.0) > 1e9);
        }
        assert_eq!(kie.upper_bound(at(131.0)), Some(Timestamp::MAX));
    }

    #[test]
    fn no_date_makes_it_panic() {
        let kie = KieClock::default();
        for date in [Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
            let then = kie.heard(Some(date), Some(1200 * SECOND), at(0.0), at(9.0));
            kie.told(Witness::Mint, date, at(9.0));
            kie.told(Witness::Beacon, date, at(9.0));
            kie.ahead_since(&then, at(10.0));
            kie.upper_bound(at(10.0));
            kie.beacon(at(10.0));
            let _ = (then.shown(), then.asked_at_kie_s());
            kie.ahead_since(&Heard::from(PackedHeard::from(then)), at(10.0));
        }
    }

    /// In seconds after what `shown` counts from.
    fn bound(bound: Option<Timestamp>) -> f64 {
        bound.unwrap().duration_since(shown(0).unwrap()).as_secs_f64()
    }

    #[test]
    fn the_upper_bound_is_what_an_answer_showed_and_a_second_and_what_has_passed_since_it_was_asked_for() {
        let kie = KieClock::default();
        assert_eq!(kie.upper_bound(at(100.0)), None);
        kie.heard(None, None, at(100.0), at(100.5));
        assert_eq!(kie.upper_bound(at(101.0)), None, "it had no date");
        kie.heard(shown(5000), None, at(100.0), at(100.5));
        assert_eq!(bound(kie.upper_bound(at(100.5))), 5001.5005);
        assert_eq!(bound(kie.upper_bound(at(1100.0))), 5001.0 + 1000.0 + 1.0);
        assert_eq!(kie.beacon(at(1100.0)), kie.upper_bound(at(1100.0)));
        let kie = KieClock::default();
        kie.heard(shown(5000), Some(900 * SECOND), at(100.0), at(100.5));
        assert_eq!(bound(kie.upper_bound(at(100.0))), 5902.0, "both `Date` and `Age` are cut to the second");
    }

    #[test]
    fn the_upper_bound_is_the_greatest_of_three_answers_and_heals_after_three_more() {
        let kie = KieClock::default();
        answer(&kie, 100.0, 1000.0);
        answer(&kie, 110.0, 1000.0 + 3600.0);
        for sent_at in [120.0, 130.0, 140.0] {
            assert!(bound(kie.upper_bound(at(sent_at))) > sent_at + 4600.0);
            answer(&kie, sent_at, 1000.0);
        }
        let healed = bound(kie.upper_bound(at(141.0)));
        assert!((1141.0..1142.5).contains(&healed), "{healed}");
    }

    #[test]
    fn a_sleep_with_a_request_under_way_raises_the_upper_bound_and_not_the_beacon() {
        let kie = KieClock::default();
        kie.heard(shown(5000), None, at(100.0), at(1100.0));
        assert_eq!(kie.beacon(at(1100.0)), kie.upper_bound(at(1100.0)), "there is no other answer");
        answer(&kie, 1101.0, 5000.0 - 1101.0);
        let told = bound(kie.beacon(at(1102.0))) - 5000.0;
        let feared = bound(kie.upper_bound(at(1102.0))) - 5000.0;
        assert!((0.0..5.0).contains(&told) && feared > 1000.0, "{told} {feared}");
        // It shows a pause that no other answer has shown.
        kie.heard(shown(9000), None, at(1103.0), at(1203.0));
        assert!(bound(kie.beacon(at(1203.0))) > 9000.0);
    }

    #[test]
    fn forward_steps_of_the_wall_clock_raise_the_upper_bound_and_not_the_beacon() {
        let kie = KieClock::default();
        let wall = |now: f64, step: i64| kie.look(Timestamp::from_second(1_790_000_000 + step).unwrap(), at(now));
        wall(100.0, 100);
        answer(&kie, 100.0, 0.0);
        wall(101.0, 101 + 75);
        let apart = |now: f64| (bound(kie.upper_bound(at(now))) - bound(kie.beacon(at(now)))).round();
        assert_eq!(apart(101.0), 75.0);
        wall(102.0, 102 - 4000);
        assert_eq!(apart(102.0), 75.0, "a step back gives nothing");
        for sent_at in [103.0, 104.0, 105.0] {
            answer(&kie, sent_at, 0.0);
        }
        assert_eq!(kie.upper_bound(at(106.0)), kie.beacon(at(106.0)));
    }

    #[test]
    fn what_others_say_raises_the_upper_bound_until_three_answers_have_come() {
        for witness in [Witness::Mint, Witness::Beacon] {
            let kie = KieClock::default();
            kie.told(witness, shown(0).unwrap(), at(99.0));
            assert_eq!(kie.upper_bound(at(99.0)), None, "others know a lower bound only");
            answer(&kie, 100.0, 0.0);
            let before = kie.upper_bound(at(101.0));
            kie.told(witness, shown(50).unwrap(), at(101.0));
            assert_eq!(kie.upper_bound(at(101.0)), before, "it lies in the past");
            kie.told(witness, shown(701).unwrap(), at(101.0));
            assert_eq!(bound(kie.upper_bound(at(101.0))), 701.0);
            kie.told(witness, shown(600).unwrap(), at(102.0));
            assert_eq!(bound(kie.upper_bound(at(201.0))), 801.1, "the greater counts, and clocks drift");
            assert!(bound(kie.beacon(at(201.0))) < 203.0, "nothing goes round");
            for sent_at in [210.0, 220.0, 230.0] {
                assert!(bound(kie.upper_bound(at(sent_at))) > 800.0);
                answer(&kie, sent_at, 0.0);
            }
            assert!(bound(kie.upper_bound(at(231.0))) < 233.0, "{witness:?}");
        }
    }

    #[test]
    fn another_replica_s_beacon_shows_a_pause_to_links_in_memory_and_its_mints_do_not() {
        let kie = KieClock::default();
        let first = answer(&kie, 100.0, 0.0);
        kie.told(Witness::Beacon, shown(110).unwrap(), at(110.0));
        assert_eq!(ahead(&kie, &first, 110.0), 0.0, "it agrees");
        kie.told(Witness::Mint, shown(110 + 75).unwrap(), at(110.0));
        assert_eq!(ahead(&kie, &first, 110.0), 0.0);
        kie.told(Witness::Beacon, shown(110 + 75).unwrap(), at(110.0));
        let taken = ahead(&kie, &first, 110.0);
        assert!((75.0..77.0).contains(&taken), "{taken}");
        let second = answer(&kie, 120.0, 75.0);
        assert_eq!(ahead(&kie, &second, 121.0), 0.0, "the second link is younger than the pause");
        let alone = KieClock::default();
        let first = answer(&alone, 100.0, 0.0);
        alone.told(Witness::Beacon, shown(3700).unwrap(), at(100.5));
        for sent_at in [101.0, 102.0, 103.0] {
            assert!(ahead(&alone, &first, sent_at) > 3500.0);
            answer(&alone, sent_at, 0.0);
        }
        assert_eq!(ahead(&alone, &first, 104.0), 0.0, "a wrong one is forgotten");
    }

    #[test]
    fn a_beacon_counts_though_a_greater_one_came_before_the_link_was_asked_for() {
        let kie = KieClock::default();
        kie.told(Witness::Beacon, shown(99 + 1800).unwrap(), at(99.0));
        let first = answer(&kie, 100.0, 0.0);
        assert_eq!(ahead(&kie, &first, 110.0), 0.0);
        for second in 0..20 {
            // Each tells a little less than the one before.
            kie.told(Witness::Beacon, shown(110 + 110).unwrap(), at(110.0 + f64::from(second)));
        }
        let taken = ahead(&kie, &first, 130.0);
        assert!((90.0..113.0).contains(&taken), "{taken}");
        assert!(bound(kie.upper_bound(at(130.0))) >= 1900.0, "the greatest counts for other machines' links");
    }
}
