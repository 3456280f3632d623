//! One schedule: a fleet made from a seed, and what happens in it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::{
    kie::Kie,
    oracle::{Mints, Oracle, Promises, Sight, Totals},
    replica::{Replica, Settings},
    world::{Machine, World},
};
use crate::{
    links::{self, Wish},
    shared::model::{Manner, Model},
    simulation::{
        kie::{EPOCH, Mood},
        non_zero,
    },
    source::Source,
};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// What a few replicas' queues do to the quota is within what an outage allows; what so many do is not.
const LARGE: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing fails.
    Calm,
    /// Replicas are killed, kie.ai is slow, the tier forgets.
    Leases,
    /// More is wanted than the quota has, while the tier goes and comes for all at once.
    Quota,
    /// Whatever can happen to the tier, while kie.ai is well.
    Tier,
    /// Whatever can happen.
    Anything,
}

impl Kind {
    /// Each of the tests that run side by side has all kinds.
    fn of(seed: u64) -> Kind {
        [Kind::Calm, Kind::Leases, Kind::Quota, Kind::Tier, Kind::Anything, Kind::Anything][seed as usize / 4 % 6]
    }
}

struct Simulated {
    rng: Rng,
    kind: Kind,
    world: Arc<World>,
    oracle: Arc<Oracle>,
    kie: Arc<Kie>,
    tier: Option<Arc<Model>>,
    /// The tier's clock, less the true time, in milliseconds.
    tier_off: Arc<AtomicI64>,
    settings: Settings,
    replicas: Vec<Replica>,
    started: usize,
    /// So many of them have callers.
    busy: usize,
    files: usize,
    /// How far behind the true time replicas are at most, which an answer tells them that is on its way.
    told: Vec<(usize, Duration)>,
    callers: JoinSet<Option<(usize, bool)>>,
    /// Which callers had a link, in the order in which they asked; `None` where it does not matter.
    had: Vec<Option<bool>>,
}

/// Runs the schedule of this seed; panics at the first broken promise.
pub(super) fn run(seed: u64) -> Totals {
    let (mut totals, with) = run_once(seed, true);
    if Kind::of(seed) == Kind::Tier {
        let (_, without) = run_once(seed, false);
        assert_eq!(with.len(), without.len(), "the same callers");
        for (caller, pair) in with.into_iter().zip(without).enumerate() {
            let (Some(with), Some(without)) = pair else { continue };
            totals.compared += 1;
            assert!(with || !without, "caller {caller} had a link without the tier, and has none with it");
        }
    }
    totals
}

fn run_once(seed: u64, has_tier: bool) -> (Totals, Vec<Option<bool>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    fastrand::seed(seed);
    runtime.block_on(async {
        let mut simulated = Simulated::new(seed, has_tier);
        match simulated.kind {
            Kind::Calm | Kind::Leases => simulated.mint_together().await,
            Kind::Quota => simulated.share_the_quota().await,
            Kind::Tier => simulated.trouble_with_the_tier().await,
            Kind::Anything => simulated.anything().await,
        }
        simulated.end().await
    })
}

impl Simulated {
    fn new(seed: u64, has_tier: bool) -> Simulated {
        let (mut rng, kind) = (Rng::with_seed(seed), Kind::of(seed));
        let world = World::new();
        let request_timeout = SECOND * rng.u32(10..25);
        let ttl = SECOND * if rng.bool() { 19 * 60 } else { rng.u32(5..60) };
        let margin = SECOND * if kind == Kind::Anything && rng.bool() { rng.u32(1..60) } else { 60 };
        let links = links::Config {
            ttl,
            margin,
            refresh_after: ttl.mul_f64(0.2 + 0.6 * rng.f64()),
            negative_ttl: SECOND * rng.u32(0..40),
            force_interval: SECOND * rng.u32(1..20),
            max_bytes: if rng.u8(..4) == 0 { 2048 } else { 1 << 20 },
            flight_timeout: request_timeout,
            waiting: 10_000,
        };
        let is_ample = kind == Kind::Tier;
        let is_large = kind == Kind::Quota && rng.u8(..3) == 0;
        let (rate, burst) = match () {
            () if is_ample => (500, 500),
            // Each has a burst of one at least.
            () if is_large => (rng.u32(3..30), rng.u32(LARGE as u32..30)),
            () => (rng.u32(3..30), rng.u32(5..30)),
        };
        let settings = Settings {
            links,
            rate,
            burst,
            in_flight: if is_ample { 200 } else { rng.u32(8..40) },
            attempt_timeout: SECOND * 10,
            attempts: rng.u32(1..4),
            presumed: non_zero(4),
        };
        let drift = kind == Kind::Anything;
        let promises = Promises {
            margin,
            rate: f64::from(rate),
            burst: f64::from(burst),
            mints: if matches!(kind, Kind::Calm | Kind::Leases) { Mints::One } else { Mints::OneEach },
            drift: if drift { MILLISECOND * 700 } else { Duration::ZERO },
        };
        let oracle = Arc::new(Oracle::new(promises));
        let latency = MILLISECOND * rng.u32(10..1500);
        // Links that die while a schedule runs, or those of kie.ai.
        // Where kie.ai's clock is known to a second or two, less is too little to hand out.
        let life = if kind == Kind::Anything && rng.bool() { margin + SECOND * rng.u32(5..90) } else { SECOND * 1200 };
        let kie = Arc::new(Kie::new(seed, &world, &oracle, latency, life));
        let tier_off = Arc::new(AtomicI64::new(rng.i64(-10_800_000..10_800_000)));
        let tier_drift = rng.i64(-500..500);
        let tier = has_tier.then(|| {
            let (world, off) = (Arc::clone(&world), Arc::clone(&tier_off));
            Model::new(seed, move || {
                let now = i64::try_from(world.now().as_millis()).unwrap();
                EPOCH * 1000 + now + now * tier_drift / 1_000_000 + off.load(Ordering::Relaxed)
            })
        });
        let files = match kind {
            Kind::Quota => 100_000,
            _ => rng.usize(1..10),
        };
        let mut simulated = Simulated {
            rng,
            kind,
            world,
            oracle,
            kie,
            tier,
            tier_off,
            settings,
            replicas: Vec::new(),
            started: 0,
            busy: usize::MAX,
            files,
            told: Vec::new(),
            callers: JoinSet::new(),
            had: Vec::new(),
        };
        if simulated.rng.bool() {
            simulated.kie.refuse(file(0));
        }
        for _ in 0..if is_large { LARGE } else { simulated.rng.usize(2..6) } {
            simulated.start();
        }
        simulated
    }

    fn start(&mut self) {
        let origin = SECOND * self.rng.u32(0..1_000_000);
        let drift = if self.kind == Kind::Anything { self.rng.i64(-500..500) } else { 0 };
        let machine = Machine::new(&self.world, origin, drift, self.rng.i64(-10_800..10_800));
        let number = self.started;
        self.started += 1;
        self.replicas.push(Replica::start(number, &self.settings, machine, &self.kie, self.tier.as_ref()));
    }

    /// Until every replica sees the tier, and each knows the others.
    async fn settle(&self) {
        for _ in 0..300 {
            tokio::time::sleep(SECOND / 5).await;
            let count = u32::try_from(self.replicas.len()).unwrap();
            if self.replicas.iter().all(|replica| replica.sees_the_tier() && replica.knows() >= count) {
                break;
            }
        }
        // One more beat tells what the bucket holds.
        tokio::time::sleep(SECOND * 2).await;
        assert!(self.replicas.iter().all(Replica::sees_the_tier), "a tier that is there is not found");
        // What was spent a moment ago is told with the next beat.
        for _ in 0..20 {
            if self.replicas.iter().all(Replica::is_square) {
                break;
            }
            tokio::time::sleep(SECOND / 10).await;
        }
        assert!(self.replicas.iter().all(Replica::is_square), "a tier that is there is not paid, or not asked");
    }

    /// Crowds, insisting callers and forgotten files, at replicas that all see the tier.
    async fn mint_together(&mut self) {
        self.settle().await;
        self.oracle.count_quota(Some(Sight::All));
        for _ in 0..self.rng.usize(10..40) {
            match self.rng.u8(..12) {
                0..4 => self.caller(),
                4..8 => {
                    let (source, crowd) = (file(self.rng.usize(..self.files)), self.rng.usize(2..12));
                    (0..crowd).for_each(|_| self.ask(source.clone()));
                }
                8 => self.find(),
                9 => self.forget(),
                _ if self.kind == Kind::Calm => {}
                10 => match self.rng.u8(..3) {
                    0 => {
                        let Some(tier) = &self.tier else { continue };
                        self.oracle.flushed(tier.full_in(), tier.given_lately(), self.world.now());
                        tier.flush();
                    }
                    1 => self.kie.answers_within(SECOND * self.rng.u32(1..9)),
                    _ => self.kie.answers_within(SECOND),
                },
                _ if self.replicas.len() > 1 => self.kill(),
                _ => {}
            }
            self.pause(&[20, 500, 3000]).await;
        }
    }

    /// Everybody wants another file, all the time; the tier goes and comes for all at once.
    async fn share_the_quota(&mut self) {
        self.kie.answers_within(SECOND / 5);
        self.settle().await;
        self.oracle.count_quota(Some(Sight::All));
        for _ in 0..self.rng.usize(2..5) {
            let tier = Arc::clone(self.tier.as_ref().expect("it has one"));
            self.want_much().await;
            if self.rng.bool() {
                tier.replicate();
                self.want_much().await;
            }
            let (full_in, given) = (tier.full_in(), tier.given_lately());
            match self.rng.u8(..3) {
                0 => {
                    self.oracle.flushed(full_in, given, self.world.now());
                    if self.rng.bool() {
                        tier.flush()
                    } else {
                        tier.fall_back()
                    }
                    continue;
                }
                1 => tier.behave(Manner::Away),
                _ => tier.behave(Manner::Silent),
            }
            self.oracle.away(given, self.world.now());
            self.want_much().await;
            self.oracle.back(self.world.now());
            // Each finds it at another time, which may have lost its memory.
            match self.rng.u8(..4) {
                0 => tier.flush(),
                1 => tier.fall_back(),
                _ => {}
            }
            let mut away: Vec<_> = self.replicas.iter().map(|replica| replica.number).collect();
            away.iter().for_each(|replica| tier.cut_off(*replica, true));
            self.rng.shuffle(&mut away);
            tier.behave(Manner::Answers);
            let (is_wanted_meanwhile, held_up) = (self.rng.bool(), self.rng.usize(..self.replicas.len() * 4));
            for (place, replica) in away.into_iter().enumerate() {
                tier.cut_off(replica, false);
                // Some stay cut off for longer.
                for _ in 0..if place == held_up { 6 } else { usize::from(is_wanted_meanwhile) } {
                    self.want_much().await;
                }
                self.pause(&[20, 100]).await;
            }
            self.settle().await;
            if self.rng.u8(..4) == 0 {
                // Longer than anybody waits.
                let until = self.world.now() + SECOND * 30;
                while self.world.now() < until {
                    self.want_much().await;
                }
                let is_apart = self.replicas.iter().any(Replica::is_apart);
                assert!(!is_apart, "who had waited is gone, and a replica goes by its share still");
            }
        }
    }

    /// For some seconds, of all replicas or of some.
    async fn want_much(&mut self) {
        let quiet = self.rng.u8(..3) == 0;
        if self.rng.bool() {
            self.busy = self.rng.usize(1..=self.replicas.len());
        }
        for _ in 0..self.rng.usize(5..30) {
            for _ in 0..self.rng.usize(if quiet { 0..2 } else { 0..20 }) {
                self.caller();
            }
            self.pause(&[100, 300]).await;
        }
        self.busy = usize::MAX;
    }

    async fn trouble_with_the_tier(&mut self) {
        let rounds = self.rng.usize(10..40);
        for _ in 0..rounds {
            match self.rng.u8(..12) {
                0..5 => self.caller(),
                5..9 => {
                    let (source, crowd) = (file(self.rng.usize(..self.files)), self.rng.usize(2..12));
                    (0..crowd).for_each(|_| self.ask(source.clone()));
                }
                9 if self.replicas.len() > 1 && self.rng.bool() => self.kill(),
                _ => self.trouble(),
            }
            self.pause(&[20, 500, 2000]).await;
        }
    }

    /// Something happens to the tier, or is over.
    fn trouble(&mut self) {
        let (what, much, hours) = (self.rng.u8(..13), self.rng.f64(), self.rng.i64(-10_800_000..10_800_000));
        let whose = self.rng.usize(..self.replicas.len());
        let number = self.replicas[whose].number;
        let Some(tier) = self.tier.clone() else { return };
        match what {
            0 => tier.behave(Manner::Away),
            1 => tier.behave(Manner::Silent),
            2 => tier.behave(Manner::ReadOnly),
            3..6 => tier.behave(Manner::Answers),
            6 => tier.flush(),
            7 => tier.replicate(),
            8 => {
                tier.fail_over();
                self.tier_off.store(hours, Ordering::Relaxed);
            }
            9 => tier.cut_off(number, much < 0.5),
            10 => self.tier_off.store(hours, Ordering::Relaxed),
            11 => tier.is_troubled(if much < 0.5 { 0.0 } else { (much - 0.5) / 4.0 }),
            _ => tier.is_slow(MILLISECOND.mul_f64(30.0 * much * much)),
        }
    }

    async fn anything(&mut self) {
        let (is_paused_unseen, renews) = (self.rng.bool(), self.rng.u8(..3) == 0);
        for _ in 0..self.rng.usize(20..80) {
            match self.rng.u8(..24) {
                0..10 => self.caller(),
                10..14 => {
                    let (source, crowd) = (file(self.rng.usize(..self.files)), self.rng.usize(2..12));
                    (0..crowd).for_each(|_| self.ask(source.clone()));
                }
                14 => self.find(),
                15..18 => self.trouble(),
                18 => {
                    let moods = [
                        Mood::Well,
                        Mood::Well,
                        Mood::Well,
                        Mood::Down,
                        Mood::Limiting,
                        Mood::Silent,
                        Mood::Stingy,
                        Mood::Refusing,
                        Mood::Account(455),
                        Mood::Unavailable,
                        Mood::Forbidden,
                    ];
                    self.kie.feel(moods[self.rng.usize(..moods.len())]);
                }
                19 => {
                    let (whose, by) = (self.rng.usize(..self.replicas.len()), self.rng.i64(-10_800..10_800));
                    self.replicas[whose].machine.step_wall(by);
                }
                20 if is_paused_unseen => self.pause_unseen(renews),
                20 | 21 => self.world.pass(SECOND * self.rng.u32(1..1500)),
                22 if self.replicas.len() > 1 => self.kill(),
                22 | 23 if self.replicas.len() < 5 => self.start(),
                _ => {}
            }
            self.hear();
            self.replicas.iter().for_each(|replica| replica.links.sweep());
            self.pause(&[20, 500, 3000]).await;
        }
    }

    /// A machine was paused, which none of its clocks saw, while the others slept, which all of theirs did.
    fn pause_unseen(&mut self, is_set_right: bool) {
        self.hear();
        // What is on its way now tells nothing of this pause.
        self.hear();
        let time = SECOND * self.rng.u32(2..2400);
        let replica = &self.replicas[self.rng.usize(..self.replicas.len())];
        self.world.pass(time);
        replica.machine.miss(time);
        self.oracle.paused(replica.number, time);
        if is_set_right {
            // It is looked at within a second. What has been missed before is not made good.
            let (machine, oracle, number) = (Arc::clone(&replica.machine), Arc::clone(&self.oracle), replica.number);
            let missed_before = replica.machine.missed() - time;
            TaskTracker::new().spawn(async move {
                tokio::time::sleep(SECOND).await;
                machine.step_wall(i64::try_from(time.as_secs()).unwrap());
                tokio::time::sleep(SECOND + MILLISECOND * 10).await;
                if machine.missed() == missed_before + time {
                    oracle.knows(number, missed_before);
                }
            });
        }
    }

    /// What replicas have heard in the tier of kie.ai's clock is a sign of their pauses.
    fn hear(&mut self) {
        let Some(tier) = &self.tier else { return };
        for (replica, behind) in self.told.drain(..) {
            self.oracle.knows(replica, behind);
        }
        let now = i64::try_from(self.world.now().as_millis()).unwrap() + EPOCH * 1000;
        let behind = |shown: i64| Duration::from_millis(u64::try_from(now - shown).unwrap_or_default());
        self.told.extend(tier.beacons().into_iter().map(|(replica, shown)| (replica, behind(shown))));
    }

    async fn pause(&mut self, millis: &[u32]) {
        let most = millis[self.rng.usize(..millis.len())];
        let time = (MILLISECOND * most).mul_f64(self.rng.f64());
        tokio::time::sleep(time).await;
        self.oracle.check();
    }

    fn kill(&mut self) {
        self.oracle.count(|totals| totals.kills += 1);
        let at = self.rng.usize(..self.replicas.len());
        let killed = self.replicas.swap_remove(at);
        killed.kill();
        TaskTracker::new().spawn(async move { killed.end().await });
    }

    fn caller(&mut self) {
        let source = file(self.rng.usize(..self.files));
        self.ask(source);
    }

    /// One caller of some replica.
    fn ask(&mut self, source: Source) {
        let replica = &self.replicas[self.rng.usize(..self.replicas.len().min(self.busy))];
        let some = |rng: &mut Rng, share| (rng.u8(..share) == 0).then(|| SECOND * rng.u32(0..100));
        let wish = Wish { max_age: some(&mut self.rng, 8), min_fresh: some(&mut self.rng, 20), only_if_cached: false };
        let left = self.settings.links.flight_timeout.mul_f64(if self.rng.bool() { 1.0 } else { self.rng.f64() });
        // Half of the time may go to waiting for another replica, a little to the tier, and some must be left for kie.ai.
        let is_compared = left >= SECOND * 5;
        let deadline = replica.clock.now() + left;
        let (number, links, is_dead) = (replica.number, replica.links.clone(), Arc::clone(&replica.is_dead));
        let (world, oracle) = (Arc::clone(&self.world), Arc::clone(&self.oracle));
        let place = self.had.len();
        self.had.push(None);
        self.callers.spawn(async move {
            let (began, asked_at) = (tokio::time::Instant::now(), world.now());
            let result = links.get(&source, &wish, deadline).await;
            if is_dead.load(Ordering::Relaxed) {
                return None;
            }
            oracle.answered(began.elapsed(), left);
            match &result {
                Ok(lookup) => {
                    oracle.handed_out(number, &source, lookup.entry.link.as_str(), asked_at, world.now());
                    oracle.count(|totals| match lookup.found {
                        links::Found::Shared => totals.shared += 1,
                        links::Found::Joined => totals.joined += 1,
                        _ => {}
                    });
                }
                Err(links::Error::Lost) => panic!("a caller was given up"),
                Err(_) => oracle.count(|totals| totals.problems += 1),
            }
            is_compared.then_some((place, result.is_ok()))
        });
    }

    /// A batch looks for what others have.
    fn find(&mut self) {
        let replica = &self.replicas[self.rng.usize(..self.replicas.len())];
        let sources: Vec<_> = (0..self.files.min(20)).map(file).collect();
        let (number, links, is_dead) = (replica.number, replica.links.clone(), Arc::clone(&replica.is_dead));
        let (world, oracle) = (Arc::clone(&self.world), Arc::clone(&self.oracle));
        self.callers.spawn(async move {
            let asked_at = world.now();
            let found = links.find_shared(&sources, &Wish::default()).await;
            for (source, lookup) in sources.iter().zip(found) {
                if let Some(lookup) = lookup.filter(|_| !is_dead.load(Ordering::Relaxed)) {
                    oracle.handed_out(number, source, lookup.entry.link.as_str(), asked_at, world.now());
                }
            }
            None
        });
    }

    /// Somebody has a file forgotten.
    fn forget(&mut self) {
        let (source, at) = (file(self.rng.usize(..self.files)), self.rng.usize(..self.replicas.len()));
        let replica = &self.replicas[at];
        let (links, fleet, is_dead) = (replica.links.clone(), replica.fleet.clone(), Arc::clone(&replica.is_dead));
        let (world, oracle) = (Arc::clone(&self.world), Arc::clone(&self.oracle));
        self.callers.spawn(async move {
            let asked_at = world.now();
            links.forget(&source);
            let told = match fleet {
                Some(fleet) => fleet.forget(&source).await == crate::fleet::Told::Told,
                None => true,
            };
            links.forget(&source);
            if told && !is_dead.load(Ordering::Relaxed) {
                oracle.forgotten(&source, asked_at);
            }
            None
        });
    }

    /// Everybody has an answer, and whatever has happened, links flow again.
    async fn end(mut self) -> (Totals, Vec<Option<bool>>) {
        while let Some(caller) = self.callers.join_next().await {
            if let Some((place, had)) = caller.unwrap() {
                self.had[place] = Some(had);
            }
        }
        self.hear();
        self.oracle.count_quota(None);
        if self.kind == Kind::Anything && self.rng.u8(..4) == 0 {
            self.kie.feel(Mood::Well);
            self.kie.answers_within(SECOND / 10);
            if let Some(tier) = &self.tier {
                tier.behave(Manner::Answers);
                tier.is_troubled(0.0);
                tier.is_slow(MILLISECOND);
                self.replicas.iter().for_each(|replica| tier.cut_off(replica.number, false));
            }
            // Long enough for the longest pause that kie.ai can ask for, and for one probe.
            tokio::time::sleep(SECOND * 135).await;
            self.hear();
            for replica in &self.replicas {
                assert!(self.tier.is_none() || replica.sees_the_tier(), "a tier that is back is not found");
                let deadline = replica.clock.now() + SECOND * 20;
                let lookup = replica.links.get(&file(1), &Wish::default(), deadline).await;
                let lookup = lookup.unwrap_or_else(|error| panic!("links do not flow again: {error:?}"));
                let now = self.world.now();
                self.oracle.handed_out(replica.number, &file(1), lookup.entry.link.as_str(), now, now);
            }
        }
        for replica in &self.replicas {
            replica.end().await;
        }
        if let Some(tier) = &self.tier {
            let (calls, faults) = tier.counts();
            self.oracle.count(|totals| (totals.tier_calls, totals.tier_faults) = (calls, faults));
        }
        (self.oracle.totals(), self.had)
    }
}

fn file(number: usize) -> Source {
    Source::parse(&format!("https://file.kie.ai/{number}")).unwrap()
}
