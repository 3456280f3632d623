//! How much is logged, which an operator can change while kielink runs.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tracing::{Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{Layer, layer::Context};

use super::Level;

/// The levels by the number that stands for each.
const LEVELS: [LevelFilter; 6] = [
    LevelFilter::OFF,
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
    LevelFilter::TRACE,
];

/// The least severe level that is logged now. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct LogLevel(Arc<AtomicUsize>);

impl Default for LogLevel {
    fn default() -> LogLevel {
        LogLevel(Arc::new(AtomicUsize::new(number(LevelFilter::INFO))))
    }
}

impl LogLevel {
    pub fn get(&self) -> Level {
        Level(self.filter_level())
    }

    /// Takes effect at once, everywhere.
    pub fn set(&self, level: Level) {
        self.0.store(number(level.0), Ordering::Relaxed);
        // Each place in the code that logs remembers what it was told of the old level.
        tracing::callsite::rebuild_interest_cache();
    }

    pub(super) fn filter_level(&self) -> LevelFilter {
        LEVELS[self.0.load(Ordering::Relaxed)]
    }

    /// The filter in front of all layers.
    pub(super) fn filter(&self) -> Threshold {
        Threshold(self.clone())
    }
}

fn number(level: LevelFilter) -> usize {
    LEVELS.iter().position(|known| *known == level).expect("it has all levels")
}

/// Lets kielink's own lines through from the level on, and libraries' lines from `warn` on: failures are counted even
/// where their lines are not written.
#[derive(Debug)]
pub(super) struct Threshold(LogLevel);

impl Threshold {
    fn lets_through(&self, metadata: &Metadata<'_>) -> bool {
        // SECURITY: what OpenTelemetry says of its variables repeats their values. `trace` names the variables instead.
        if metadata.target().starts_with("opentelemetry") && metadata.name().contains(".Config.") {
            return false;
        }
        let own = metadata.target().starts_with(env!("CARGO_PKG_NAME"));
        let level = if own { self.0.filter_level().max(LevelFilter::WARN) } else { LevelFilter::WARN };
        *metadata.level() <= level
    }
}

impl<S: Subscriber> Layer<S> for Threshold {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.lets_through(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        self.lets_through(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.filter_level().max(LevelFilter::WARN))
    }
}
