//! Failures that repeat: summed up in the log instead of written a thousand times a second, and kept for `/status`.
//!
//! A failure is a line at `warn` or above, or one that names a problem. Two of them are the same where level, message, problem,
//! reason and error are: hosts and request ids differ a thousandfold in one outage.

mod gatekeeper;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::gatekeeper::Line;
use crate::clock::{self, Clock, Instant};

/// The first so many lines of one failure in a window are written; of the others only their number, when it has ended.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Failures that are told apart at once; in an outage there are a handful.
const MOST: usize = 128;

/// What a sum's line says.
const SUM: &str = "more of the same";

/// Shared between the log, which counts, and those who look. Cheap to clone.
#[derive(Clone)]
pub struct Failures(Arc<Shared>);

struct Shared {
    clock: Clock,
    state: Mutex<Table>,
}

/// The failures that are told apart.
#[derive(Debug, Default)]
struct Table {
    /// At `warn` and above; at most `MOST`.
    severe: HashMap<Key, State>,
    /// Refused requests, by their problem: as many as there are problem types, so that none pushes out a severe one, nor one of
    /// those these.
    refused: HashMap<Key, State>,
    /// Sums of severe ones that were pushed out, still to be written; at most `MOST`.
    owed: Vec<(Key, u64)>,
}

/// What makes two failures the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Key {
    severity: Severity,
    message: String,
    problem: Option<String>,
    reason: Option<String>,
    error: Option<String>,
}

/// The levels that a failure's line may have, the worst last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Severity {
    /// A request that was refused.
    #[default]
    Info,
    Warn,
    Error,
}

#[derive(Debug)]
struct State {
    /// Whole, of the last one; the key has it without what kie.ai said, which may be different each time.
    error: Option<String>,
    count: u64,
    first_at: Timestamp,
    last_at: Timestamp,
    last_seen: Instant,
    /// Of the last one.
    source_host: Option<String>,
    window_began: Instant,
    lines: u32,
    left_out: u64,
}

/// One failure, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// `error` or `warn`.
    pub level: &'static str,
    pub message: String,
    pub problem: Option<String>,
    /// Of a mint: why it was made.
    pub reason: Option<String>,
    /// The cause and what lies behind it.
    pub error: Option<String>,
    /// How often, and when first and last.
    pub count: u64,
    pub first_at: String,
    pub last_at: String,
    /// Of the last one.
    pub source_host: Option<String>,
}

impl Default for Failures {
    fn default() -> Failures {
        Failures::on(Clock::system())
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").finish_non_exhaustive()
    }
}

impl Failures {
    fn on(clock: Clock) -> Failures {
        Failures(Arc::new(Shared { clock, state: Mutex::default() }))
    }

    /// The most recent ones at `warn` or above, newest first, at most `most`.
    pub fn recent(&self, most: usize) -> Vec<Failure> {
        let state = self.lock();
        let mut severe: Vec<_> = state.severe.iter().collect();
        severe.sort_by_key(|(_, state)| std::cmp::Reverse(state.last_seen));
        let shown = severe.into_iter().take(most).map(|(key, state)| Failure {
            level: if key.severity == Severity::Error { "error" } else { "warn" },
            message: key.message.clone(),
            problem: key.problem.clone(),
            reason: key.reason.clone(),
            error: state.error.clone(),
            count: state.count,
            first_at: clock::rfc3339(state.first_at),
            last_at: clock::rfc3339(state.last_at),
            source_host: state.source_host.clone(),
        });
        shown.collect()
    }

    /// Writes a line for each failure of which lines were left out, once its window has ended; until `stop`.
    pub async fn sum_up(self, stop: CancellationToken) {
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(Duration::from_secs(1)) => false,
            };
            for (key, left_out) in self.take_left_out(is_last) {
                let Key { severity, message, problem, reason, error } = key;
                macro_rules! line {
                    ($level:ident) => {
                        tracing::$level!(repeated = message, problem, reason, error, left_out, "{SUM}")
                    };
                }
                match severity {
                    Severity::Error => line!(error),
                    Severity::Warn => line!(warn),
                    Severity::Info => line!(info),
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

    /// Notes one, of which lines `are_written`; false where this line is to be left out.
    fn note(&self, line: Line, are_written: bool) -> bool {
        let (now, wall) = (self.0.clock.now(), self.0.clock.wall());
        let mut table = self.lock();
        let all = match line.key.severity {
            Severity::Info => &mut table.refused,
            Severity::Warn | Severity::Error => {
                table.make_room_for(&line.key);
                &mut table.severe
            }
        };
        let state = all.entry(line.key).or_insert(State {
            error: None,
            count: 0,
            first_at: wall,
            last_at: wall,
            last_seen: now,
            source_host: None,
            window_began: now,
            lines: 0,
            left_out: 0,
        });
        state.error = line.error;
        state.count += 1;
        (state.last_at, state.last_seen) = (wall, now);
        state.source_host = line.source_host.or(state.source_host.take());
        if !are_written {
            return false;
        }
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
    /// The least severe goes first, and of those the one that is longest ago; what it owes is written all the same.
    fn make_room_for(&mut self, key: &Key) {
        if self.severe.contains_key(key) || self.severe.len() < MOST {
            return;
        }
        let least = self.severe.iter().min_by_key(|(key, state)| (key.severity, state.last_seen));
        if let Some(key) = least.map(|(key, _)| key.clone())
            && let Some(state) = self.severe.remove(&key)
            && state.left_out > 0
            && self.owed.len() < MOST
        {
            self.owed.push((key, state.left_out));
        }
    }
}

#[cfg(test)]
mod tests;
