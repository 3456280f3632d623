//! Time in a simulated fleet: the true one, and the clocks of machines, which show another.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    clock::{Clock, Instant, Virtual},
    simulation::kie::EPOCH,
};

/// The true time.
pub(super) struct World {
    began: tokio::time::Instant,
    /// What passed while every machine slept or was paused, so that no timer ran.
    slept: Mutex<Duration>,
}

/// A machine's clocks: how wrong they are, and what they have missed.
pub(super) struct Machine {
    world: Arc<World>,
    /// When it was started, by its own clock, minus the world's begin.
    origin: Duration,
    /// By how many millionths it runs fast.
    drift: i64,
    missed: Mutex<Duration>,
    /// Its wall clock, less the true time, in seconds.
    wall_off: Mutex<i64>,
}

impl World {
    pub(super) fn new() -> Arc<World> {
        Arc::new(World { began: tokio::time::Instant::now(), slept: Mutex::new(Duration::from_secs(1000)) })
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed() + *self.slept.lock().unwrap()
    }

    /// Time passes while no timer runs.
    pub(super) fn pass(&self, time: Duration) {
        *self.slept.lock().unwrap() += time;
    }
}

impl Machine {
    pub(super) fn new(world: &Arc<World>, origin: Duration, drift: i64, wall_off: i64) -> Arc<Machine> {
        let (missed, wall_off) = (Mutex::default(), Mutex::new(wall_off));
        Arc::new(Machine { world: Arc::clone(world), origin, drift, missed, wall_off })
    }

    pub(super) fn clock(self: &Arc<Machine>) -> Clock {
        Clock::of(Arc::clone(self) as Arc<dyn Virtual>)
    }

    /// Its hypervisor had paused it for so long, which none of its clocks has seen.
    pub(super) fn miss(&self, time: Duration) {
        *self.missed.lock().unwrap() += time;
    }

    /// How much its clocks have missed.
    pub(super) fn missed(&self) -> Duration {
        *self.missed.lock().unwrap()
    }

    pub(super) fn step_wall(&self, seconds: i64) {
        *self.wall_off.lock().unwrap() += seconds;
    }
}

impl Virtual for Machine {
    fn now(&self) -> Instant {
        let seen = self.world.now() - self.missed();
        let fast = seen / 1_000_000 * u32::try_from(self.drift.unsigned_abs()).unwrap();
        Instant::from_origin(self.origin + if self.drift < 0 { seen - fast } else { seen + fast })
    }

    fn wall(&self) -> Timestamp {
        let off = SignedDuration::from_secs(EPOCH + *self.wall_off.lock().unwrap());
        Timestamp::from_duration(SignedDuration::try_from(self.world.now() - self.missed()).unwrap() + off).unwrap()
    }
}
