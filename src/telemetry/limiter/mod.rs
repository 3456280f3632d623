//! Lines that repeat are summed up in the log instead of written a thousand times a second.
//!
//! Lines at `warn` or above are limited, and so are lines that name a problem. Two lines are the same where level,
//! message, problem, reason and error are the same: hosts and request ids differ a thousandfold in one outage.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

use super::{
    LogLevel, NOTED,
    line::{Line, without_quotes},
};
use crate::clock::{Clock, Instant};

/// The first so many lines of one kind in a window are written. Further lines are only counted; the number is written
/// when the window has ended.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// How many kinds of lines are told apart at once; in an outage there are a handful.
const MOST: usize = 128;

/// What a sum's line says.
const SUM: &str = "more of the same";

/// Counts the log's lines, both those that are written and those that are left out. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Limiter(Arc<Shared>);

struct Shared {
    clock: Clock,
    state: Mutex<Table>,
}

/// The kinds of lines that are told apart.
#[derive(Debug, Default)]
struct Table {
    /// At `warn` and above; at most `MOST`.
    severe: HashMap<Key, State>,
    /// Refused requests, by their problem. There are as many as there are problem types, so that a refused request
    /// never pushes out a severe line, nor a severe line a refused request.
    refused: HashMap<Key, State>,
    /// Sums of severe lines that were pushed out, still to be written; at most `MOST`.
    owed: Vec<(Key, u64)>,
}

/// What makes two lines the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    level: Level,
    message: String,
    problem: Option<String>,
    reason: Option<String>,
    error: Option<String>,
}

#[derive(Debug)]
struct State {
    last_seen: Instant,
    window_began: Instant,
    lines: u32,
    left_out: u64,
}

impl Default for Limiter {
    fn default() -> Limiter {
        Limiter::on(Clock::system())
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").finish_non_exhaustive()
    }
}

impl Limiter {
    pub(super) fn on(clock: Clock) -> Limiter {
        Limiter(Arc::new(Shared { clock, state: Mutex::default() }))
    }

    /// The filter in front of a layer that writes lines of `level` and above.
    pub(super) fn filter(&self, level: &LogLevel) -> Limited {
        Limited { limiter: self.clone(), level: level.clone() }
    }

    /// Writes a line for each kind whose lines were left out, once its window has ended; until `stop`.
    pub async fn sum_up(self, stop: CancellationToken) {
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(Duration::from_secs(1)) => false,
            };
            for (key, left_out) in self.take_left_out(is_last) {
                let Key { level, message, problem, reason, error } = key;
                macro_rules! line {
                    ($level:ident) => {
                        tracing::$level!(target: NOTED, repeated = message, problem, reason, error, left_out, "{SUM}")
                    };
                }
                match level {
                    Level::ERROR => line!(error),
                    Level::WARN => line!(warn),
                    _ => line!(info),
                }
            }
            if is_last {
                return;
            }
        }
    }

    fn take_left_out(&self, also_unended: bool) -> Vec<(Key, u64)> {
        let now = self.0.clock.now();
        let mut table = self.lock();
        let mut left_out = std::mem::take(&mut table.owed);
        let Table { severe, refused, .. } = &mut *table;
        for (key, state) in severe.iter_mut().chain(refused) {
            if state.left_out > 0 && (also_unended || now.since(state.window_began) >= WINDOW) {
                left_out.push((key.clone(), std::mem::take(&mut state.left_out)));
            }
        }
        left_out
    }

    /// Counts a line; false where it is to be left out.
    fn admit(&self, key: Key) -> bool {
        let now = self.0.clock.now();
        let mut table = self.lock();
        let all = if key.level == Level::INFO {
            &mut table.refused
        } else {
            table.make_room_for(&key);
            &mut table.severe
        };
        let state = all.entry(key).or_insert(State { last_seen: now, window_began: now, lines: 0, left_out: 0 });
        state.last_seen = now;
        if now.since(state.window_began) >= WINDOW && state.left_out == 0 {
            (state.window_began, state.lines) = (now, 0);
        }
        if state.lines < LINES {
            state.lines += 1;
            true
        } else {
            state.left_out += 1;
            false
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic in the middle leaves a count that is off by one.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The least severe kind goes first, and among equals the oldest; its sum is written all the same.
    fn make_room_for(&mut self, key: &Key) {
        if self.severe.contains_key(key) || self.severe.len() < MOST {
            return;
        }
        // In tracing's order of levels, `error` is the least.
        let least = self.severe.iter().min_by_key(|(key, state)| (Reverse(key.level), state.last_seen));
        if let Some(key) = least.map(|(key, _)| key.clone())
            && let Some(state) = self.severe.remove(&key)
            && state.left_out > 0
            && self.owed.len() < MOST
        {
            self.owed.push((key, state.left_out));
        }
    }
}

/// In front of the layer that writes: decides for each line whether it is written.
#[derive(Debug)]
pub(super) struct Limited {
    limiter: Limiter,
    /// Less severe lines are not written at all.
    level: LogLevel,
}

impl<S: Subscriber> Filter<S> for Limited {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let level = *event.metadata().level();
        if level > self.level.filter_level() {
            return false;
        }
        if level > Level::INFO {
            return true;
        }
        let Line { message, problem, reason, error, .. } = Line::read(event);
        if message == SUM || (level == Level::INFO && problem.is_none()) {
            return true;
        }
        // What a caller did wrong is the same whatever the error says; and of a cause, kie.ai's own words do not count.
        let error = error.filter(|_| level != Level::INFO).map(|error| without_quotes(&error).to_owned());
        self.limiter.admit(Key { level, message, problem, reason, error })
    }
}

#[cfg(test)]
mod tests;
