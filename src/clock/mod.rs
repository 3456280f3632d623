//! The one place that reads clocks.
//!
//! Life is measured on a clock that goes on counting while the machine sleeps (`CLOCK_BOOTTIME`): a link dies on
//! kie.ai's side whether or not this host is awake, and `std::time::Instant` stands still while it sleeps. Wall time is
//! read for what people see (`expires_at`, logs). It decides about life in two cases only: for a link whose answer
//! carried no `Date`; and when the wall clock steps forward, which takes life away until kie.ai's clock is known again
//! (`kie`).
//!
//! Nothing else in the crate asks what time it is: `now` is an argument. What kie.ai's clock shows is kept in `kie`.

mod gist;
mod heard;
mod kie;
mod told;

use std::{
    fmt,
    ops::{Add, Sub},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

pub use self::{
    heard::{Heard, PackedHeard},
    kie::KieClock,
    told::Witness,
};

/// A point on the suspend-proof clock. Only meaningful within one boot of one machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time from `self` to `later`, zero if it has passed.
    pub fn until(self, later: Instant) -> Duration {
        later.since(self)
    }

    /// The time from the clock's origin (boot), for code that calculates in durations.
    pub fn since_origin(self) -> Duration {
        self.0
    }

    /// The point that lies so long after the clock's origin; tests and simulations begin at an origin of their own.
    pub fn from_origin(elapsed: Duration) -> Instant {
        Instant(elapsed)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, by: Duration) -> Instant {
        Instant(self.0.saturating_add(by))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    /// Saturates at the origin: a point before boot is not needed by any caller.
    fn sub(self, by: Duration) -> Instant {
        Instant(self.0.saturating_sub(by))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot+{:?}", self.0)
    }
}

/// Reads both clocks. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Virtual(Arc<dyn Virtual>),
}

/// What a test or simulation puts in the place of the machine's clocks.
pub trait Virtual: Send + Sync {
    fn now(&self) -> Instant;
    fn wall(&self) -> Timestamp;
}

impl Clock {
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    pub fn of(source: Arc<dyn Virtual>) -> Clock {
        Clock(Source::Virtual(source))
    }

    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::System => Instant(since_boot()),
            Source::Virtual(source) => source.now(),
        }
    }

    /// Wall time, UTC. May step in either direction at any moment.
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let (second, nanos) = since_epoch();
                Timestamp::new(second, nanos).unwrap_or(Timestamp::MAX)
            }
            Source::Virtual(source) => source.wall(),
        }
    }
}

/// The wall time of `at`, where it is `now`, and `wall` by the wall clock; cut to the second. By numbers: this is done for each hit.
pub fn wall_at(wall: Timestamp, at: Instant, now: Instant) -> Timestamp {
    let (at, now) = (at.since_origin(), now.since_origin());
    let seconds = at.as_secs().cast_signed().saturating_sub(now.as_secs().cast_signed());
    let nanos = i64::from(wall.subsec_nanosecond()) + i64::from(at.subsec_nanos()) - i64::from(now.subsec_nanos());
    let second = wall.as_second().saturating_add(seconds).saturating_add(nanos.div_euclid(1_000_000_000));
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

/// As people see it: RFC 3339, UTC, whole seconds, rounded down.
pub fn rfc3339(at: Timestamp) -> String {
    let mut text = Vec::with_capacity("0000-00-00T00:00:00Z".len());
    push_rfc3339(&mut text, at);
    String::from_utf8(text).expect("ASCII")
}

/// The same, written behind `text`.
///
/// By arithmetic where it can be: every hit says when its link ends. (Days are counted from 1 March 0000 in spans of 400
/// years, so that a leap day is the last of its year.)
pub fn push_rfc3339(text: &mut Vec<u8>, at: Timestamp) {
    const DAYS_BEFORE_1970: u32 = 719_468;
    const DAYS_OF_400_YEARS: u32 = 146_097;
    let Ok(seconds) = u64::try_from(at.as_second()) else {
        let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
        return text.extend_from_slice(whole.to_string().as_bytes());
    };
    let (days, second) = ((seconds / 86_400) as u32 + DAYS_BEFORE_1970, (seconds % 86_400) as u32);
    let (era, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / (DAYS_OF_400_YEARS - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + u32::from(month >= 10), (month + 2) % 12 + 1);
    let mut date = *b"0000-00-00T00:00:00Z";
    let two_digits = [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, second / 3600),
        (14, second / 60 % 60),
        (17, second % 60),
    ];
    for (place, number) in two_digits {
        date[place] += (number / 10) as u8;
        date[place + 1] += (number % 10) as u8;
    }
    text.extend_from_slice(&date);
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock::system",
            Source::Virtual(_) => "Clock::virtual",
        })
    }
}

/// Seconds since 1970 in UTC, and the nanoseconds of the present one.
fn since_epoch() -> (i64, i32) {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (time.tv_sec, i32::try_from(time.tv_nsec).expect("nanoseconds fit"))
}

/// Time since boot, counting sleep. On Linux that is `CLOCK_BOOTTIME`; elsewhere `CLOCK_MONOTONIC`,
/// which counts sleep on macOS.
fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(id);
    Duration::new(
        u64::try_from(time.tv_sec).expect("time since boot is positive"),
        u32::try_from(time.tv_nsec).expect("nanoseconds fit"),
    )
}

/// A virtual clock for tests and simulations: follows tokio's paused time, and can be made to sleep or step.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Mutex;

    use super::*;

    /// Must be made and read on a tokio runtime.
    pub(crate) struct VirtualTime {
        began: tokio::time::Instant,
        state: Mutex<Steps>,
    }

    struct Steps {
        slept: Duration,
        /// Time that passed while a hypervisor had paused the machine: none of its clocks saw it.
        unseen: Duration,
        wall: Timestamp,
        /// Readings until the machine falls asleep, and how long it sleeps.
        nap: Option<(u32, Duration)>,
        woke_at: Option<Instant>,
    }

    impl VirtualTime {
        pub(crate) fn new() -> Arc<VirtualTime> {
            let wall = "2026-11-23T10:00:00Z".parse().expect("a fixed date");
            let state = Mutex::new(Steps {
                slept: Duration::from_secs(1000),
                unseen: Duration::ZERO,
                wall,
                nap: None,
                woke_at: None,
            });
            Arc::new(VirtualTime { began: tokio::time::Instant::now(), state })
        }

        pub(crate) fn clock(self: &Arc<Self>) -> Clock {
            Clock::of(Arc::clone(self) as Arc<dyn Virtual>)
        }

        /// The machine sleeps: timers stand still, the suspend-proof clock and the wall clock go on.
        pub(crate) fn suspend(&self, for_how_long: Duration) {
            self.state.lock().unwrap().slept += for_how_long;
        }

        /// The machine falls asleep between two steps of some task, which timers cannot bring about: the clock is read
        /// `readings` more times before the sleep.
        pub(crate) fn suspend_before_reading(&self, readings: u32, for_how_long: Duration) {
            self.state.lock().unwrap().nap = Some((readings, for_how_long));
        }

        /// The machine is paused by its hypervisor: time goes on everywhere else.
        pub(crate) fn pause_unseen(&self, for_how_long: Duration) {
            self.state.lock().unwrap().unseen += for_how_long;
        }

        /// The true time, for observers: unlike `now`, it does not count as a reading.
        pub(crate) fn peek(&self) -> Instant {
            let state = self.state.lock().unwrap();
            Instant(self.began.elapsed() + state.slept + state.unseen)
        }

        /// How much of the true time no clock of the machine has seen.
        pub(crate) fn unseen(&self) -> Duration {
            self.state.lock().unwrap().unseen
        }

        /// Whether the machine has woken in this very moment: what happens now may have been decided before its sleep.
        pub(crate) fn has_just_woken(&self) -> bool {
            let woke_at = self.state.lock().unwrap().woke_at;
            woke_at.is_some_and(|woke_at| woke_at + self.unseen() == self.peek())
        }

        /// Somebody sets the wall clock.
        pub(crate) fn step_wall(&self, seconds: i64) {
            let mut state = self.state.lock().unwrap();
            state.wall = state.wall.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
        }
    }

    impl Virtual for VirtualTime {
        fn now(&self) -> Instant {
            let mut state = self.state.lock().unwrap();
            match state.nap {
                Some((0, for_how_long)) => {
                    state.slept += for_how_long;
                    state.nap = None;
                    state.woke_at = Some(Instant(self.began.elapsed() + state.slept));
                }
                Some((readings, for_how_long)) => state.nap = Some((readings - 1, for_how_long)),
                None => {}
            }
            Instant(self.began.elapsed() + state.slept)
        }

        fn wall(&self) -> Timestamp {
            let state = self.state.lock().unwrap();
            state.wall.checked_add(self.began.elapsed() + state.slept).unwrap()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_saturate_instead_of_wrapping() {
        let early = Instant::from_origin(Duration::from_secs(1));
        let late = early + Duration::from_secs(5);
        assert_eq!(late.since(early), Duration::from_secs(5));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.until(late), Duration::from_secs(5));
        assert_eq!(early - Duration::from_secs(9), Instant::from_origin(Duration::ZERO));
    }

    proptest::proptest! {
        #[test]
        fn a_point_of_time_is_written_as_the_library_writes_it(seconds in -1_000_000_000..253_402_207_200i64) {
            let at = Timestamp::from_second(seconds).unwrap();
            proptest::prop_assert_eq!(rfc3339(at), at.to_string());
        }
    }

    #[test]
    fn leap_days_are_written_as_the_library_writes_them() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-02-29T23:59:59Z",
            "2000-03-01T00:00:00Z",
            "2100-02-28T23:59:59Z",
            "2100-03-01T00:00:00Z",
            "2024-12-31T23:59:59Z",
            "9999-12-30T21:59:59Z",
        ] {
            assert_eq!(rfc3339(at(text)), text);
        }
        assert_eq!(rfc3339(Timestamp::MAX), Timestamp::from_second(Timestamp::MAX.as_second()).unwrap().to_string());
    }

    proptest::proptest! {
        #[test]
        fn the_wall_time_of_a_point_is_cut_to_the_second(
            wall in -4_000_000_000_000_000_000i64..4_000_000_000_000_000_000,
            now in 0u64..10_000_000_000_000_000,
            at in 0u64..10_000_000_000_000_000,
        ) {
            let of = |nanos| Instant::from_origin(Duration::from_nanos(nanos));
            let expected = (i128::from(wall) + i128::from(at) - i128::from(now)).div_euclid(1_000_000_000);
            let wall = Timestamp::from_nanosecond(wall.into()).unwrap();
            proptest::prop_assert_eq!(i128::from(wall_at(wall, of(at), of(now)).as_second()), expected);
        }
    }

    /// CLOCK_MONOTONIC stands still while the machine sleeps, which no test can bring about. But a time namespace can
    /// pretend that the machine booted a day earlier, for CLOCK_BOOTTIME alone.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_clock_is_the_one_that_counts_sleep() {
        let own = std::env::current_exe().unwrap();
        let booted_a_day_earlier = std::process::Command::new("unshare")
            .args(["--time", "--fork", "--boottime", "86400", "--"])
            .arg(own)
            .args(["--ignored", "--exact", "clock::tests::it_reads_what_the_kernel_calls_uptime"])
            .output();
        match booted_a_day_earlier {
            Ok(ended) if String::from_utf8_lossy(&ended.stderr).starts_with("unshare: ") => {
                eprintln!("skipped: no namespace of time can be had here: {ended:?}");
            }
            Ok(ended) => assert!(String::from_utf8_lossy(&ended.stdout).contains("1 passed"), "{ended:?}"),
            Err(error) => eprintln!("skipped: there is no unshare: {error}"),
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    #[ignore = "run by the test above, in a namespace of its own"]
    fn it_reads_what_the_kernel_calls_uptime() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let apart = since_boot().as_secs_f64() - uptime;
        assert!(apart.abs() < 3600.0, "{apart} s apart");
    }
}
