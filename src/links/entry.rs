//! One link in the cache, with the three points of its life.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    Config,
    freshness::{Life, Times},
};
use crate::{
    clock::{Instant, KieClock, PackedHeard},
    link::Link,
    upstream::{self, Minted},
};

/// A link and what is known of it. Immutable but for its renewal. There may be tens of thousands: a test holds its size.
#[derive(Debug)]
pub struct Entry {
    pub link: Link,
    /// The points of its life, as long as kie.ai's clock does not contradict ours.
    life: Life,
    /// What kie.ai's clock showed when it was minted.
    heard: PackedHeard,
    /// `None` until something is known of it: most links die without a renewal.
    renewal: Mutex<Option<Box<Renewal>>>,
}

/// How the attempts to replace an entry have gone.
#[derive(Debug, Clone, Default)]
pub struct Renewal {
    /// Refreshes that failed since the entry was minted.
    pub failures: u32,
    /// No refresh begins before this.
    not_before: Option<Instant>,
    /// When a caller last had this file minted anew.
    forced_at: Option<Instant>,
    /// Why the last refresh failed.
    pub last_error: Option<Arc<upstream::Error>>,
}

impl Renewal {
    fn may_refresh(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before)
    }
}

impl Entry {
    /// `jitter` in `0.0..1.0` moves the refresh point earlier, at most by a twentieth, so that links minted together
    /// are not refreshed together.
    pub(super) fn new(minted: Minted, config: &Config, jitter: f64, forced_at: Option<Instant>) -> Entry {
        let Minted { link, sent_at, ends_at, heard, says_its_end: _, via: _ } = minted;
        let life = sent_at.until(ends_at).saturating_sub(config.margin).min(config.ttl);
        // A link that arrives with little life is refreshed in proportion.
        let share = config.refresh_after.as_secs_f64() / config.ttl.as_secs_f64();
        let refresh_after = config.refresh_after.min(life.mul_f64(share)).mul_f64(1.0 - JITTER * jitter);
        let times =
            Times { minted_at: sent_at, refresh_at: sent_at + refresh_after, deadline: sent_at + life, ends_at };
        let renewal = forced_at.map(|at| Box::new(Renewal { forced_at: Some(at), ..Renewal::default() }));
        Entry { link, life: Life::from(times), heard: PackedHeard::from(heard), renewal: Mutex::new(renewal) }
    }

    /// The points of its life by both clocks: where kie.ai's clock shows that more time has passed there than here,
    /// that much of the life is gone.
    pub(super) fn times(&self, kie_clock: &KieClock, margin: Duration, now: Instant) -> Times {
        self.life.times().less(kie_clock.ahead_since_packed(&self.heard, now), margin)
    }

    /// The deadline by our clock alone.
    pub(super) fn own_deadline(&self) -> Instant {
        self.life.times().deadline
    }

    /// What the entry weighs in the cache, in bytes: link, key and an estimate for everything around them.
    pub(super) fn weight(&self, source: &str) -> u32 {
        u32::try_from(self.link.as_str().len() + source.len() + OVERHEAD).unwrap_or(u32::MAX)
    }

    /// Whether the next refresh is nobody's yet.
    pub(super) fn may_refresh(&self, now: Instant) -> bool {
        self.lock().as_ref().is_none_or(|renewal| renewal.may_refresh(now))
    }

    /// Claims the next refresh: true for one caller, false for all others until that caller's refresh has failed and
    /// its back-off has passed. The claim lapses after `lease`, should the flight be lost.
    pub(super) fn claim_refresh(&self, now: Instant, lease: Duration) -> bool {
        let mut renewal = self.lock();
        let renewal = renewal.get_or_insert_default();
        if !renewal.may_refresh(now) {
            return false;
        }
        renewal.not_before = Some(now + lease);
        true
    }

    /// Notes a failed refresh; the next one waits for `backoff`.
    pub(super) fn refresh_failed(
        &self,
        error: Arc<upstream::Error>,
        now: Instant,
        backoff: impl FnOnce(u32) -> Duration,
    ) {
        let mut renewal = self.lock();
        let renewal = renewal.get_or_insert_default();
        renewal.failures = renewal.failures.saturating_add(1);
        renewal.not_before = Some(now + backoff(renewal.failures));
        renewal.last_error = Some(error);
    }

    pub(super) fn forced_at(&self) -> Option<Instant> {
        self.lock().as_ref()?.forced_at
    }

    pub(super) fn forced(&self, now: Instant) {
        self.lock().get_or_insert_default().forced_at = Some(now);
    }

    /// A copy of how the renewal stands, for people.
    pub fn renewal(&self) -> Renewal {
        self.lock().as_deref().cloned().unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Box<Renewal>>> {
        // A panic while holding it cannot leave it half-written: every section is a few assignments.
        self.renewal.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The largest share of `refresh_after` by which a refresh point is moved earlier.
const JITTER: f64 = 0.05;

/// Entry, two `Arc` headers, map bucket, moka's nodes and timer: measured at 500–600 bytes an entry, rounded up.
pub(super) const OVERHEAD: usize = 640;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{self, Policy};

    const SECOND: Duration = Duration::from_secs(1);

    fn entry(life: Duration, jitter: f64) -> Entry {
        let sent_at = Instant::from_origin(100 * SECOND);
        let link = Link::parse("https://h.example/a", &Policy::default()).unwrap();
        let heard = KieClock::default().heard(None, None, sent_at, sent_at);
        let minted =
            Minted { link, sent_at, ends_at: sent_at + life, heard, says_its_end: false, via: upstream::Via::Kie };
        Entry::new(minted, &Config::for_tests(), jitter, None)
    }

    fn after(entry: &Entry, point: Instant) -> u64 {
        point.since(entry.life.times().minted_at).as_secs()
    }

    /// With the two counts of its `Arc` it is 120 bytes: glibc's malloc takes 128 for it, and 144 for one byte more.
    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<Entry>(), 104);
    }

    #[test]
    fn a_full_life_gives_the_configured_points() {
        let entry = entry(link::LIFE, 0.0);
        assert_eq!(after(&entry, entry.life.times().refresh_at), 12 * 60);
        assert_eq!(after(&entry, entry.life.times().deadline), 19 * 60);
    }

    #[test]
    fn a_short_life_ends_a_margin_early_and_is_refreshed_in_proportion() {
        let short = entry(250 * SECOND, 0.0);
        assert_eq!(after(&short, short.life.times().deadline), 190);
        assert_eq!(after(&short, short.life.times().refresh_at), 120);
        let dead = entry(60 * SECOND, 0.0);
        assert_eq!(after(&dead, dead.life.times().deadline), 0);
    }

    #[test]
    fn jitter_only_shortens() {
        let entry = entry(link::LIFE, 0.999);
        let refresh = after(&entry, entry.life.times().refresh_at);
        assert!((648..720).contains(&refresh), "{refresh}");
    }

    #[test]
    fn one_caller_claims_a_refresh_until_its_back_off_has_passed() {
        let entry = entry(link::LIFE, 0.0);
        let now = entry.life.times().refresh_at;
        assert!(entry.claim_refresh(now, 20 * SECOND));
        assert!(!entry.claim_refresh(now + 19 * SECOND, 20 * SECOND));
        entry.refresh_failed(Arc::new(upstream::Error::Timeout), now + SECOND, |failures| SECOND * failures);
        assert!(!entry.claim_refresh(now + SECOND, SECOND));
        assert!(entry.claim_refresh(now + 2 * SECOND, SECOND));
        assert!(entry.claim_refresh(now + 3 * SECOND, SECOND), "a lost flight's claim lapses");
    }
}
