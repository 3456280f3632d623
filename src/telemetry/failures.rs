//! Failures that repeat: summed up in the log instead of written a thousand times a second, and kept for `/status`.
//!
//! A failure is a line at `warn` or above, or one that names a problem. Two of them are the same where level, message, problem,
//! reason and error are: hosts and request ids differ a thousandfold in one outage.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::layer::{Context, Filter};

use crate::clock::{Clock, Instant};

/// The first so many lines of one failure in a window are written; of the others only their number, when it has ended.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Failures that are told apart at once; in an outage there are a handful.
const MOST: usize = 128;

/// What is remembered of one: enough for a cause and everything behind it.
const LONGEST: usize = 300;

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
            first_at: seconds(state.first_at),
            last_at: seconds(state.last_at),
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

    /// What stands in front of a layer that writes lines of `level` and above.
    pub(super) fn gatekeeper(&self, level: LevelFilter) -> Gatekeeper {
        Gatekeeper { failures: self.clone(), level }
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

fn seconds(at: Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// In front of the layer that writes: decides for each line whether it is written, and counts it, written or not.
#[derive(Debug)]
pub(super) struct Gatekeeper {
    failures: Failures,
    /// Lines below are counted only.
    level: LevelFilter,
}

impl<S: Subscriber> Filter<S> for Gatekeeper {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return level <= self.level;
        }
        let mut line = Line::default();
        event.record(&mut line);
        if line.key.message.is_empty() {
            // OpenTelemetry's own events have a name and no message.
            line.key.message = event.metadata().name().to_owned();
        }
        line.key.severity = match level {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warn,
            _ => Severity::Info,
        };
        if line.key.message == SUM || (line.key.severity == Severity::Info && line.key.problem.is_none()) {
            return level <= self.level;
        }
        // What a caller did wrong is the same whatever is said of it; and of a cause, kie.ai's own words do not count.
        line.key.error = match line.key.severity {
            Severity::Info => None,
            Severity::Warn | Severity::Error => {
                line.error.as_ref().map(|error| error.split('"').next().unwrap_or_default().to_owned())
            }
        };
        self.failures.note(line, level <= self.level)
    }
}

/// What an event says, as far as it matters here.
#[derive(Debug, Default)]
struct Line {
    key: Key,
    error: Option<String>,
    source_host: Option<String>,
}

impl Line {
    fn set(&mut self, field: &Field, value: impl FnOnce() -> String) {
        let place = match field.name() {
            "message" => {
                self.key.message = value();
                return;
            }
            "problem" => &mut self.key.problem,
            "reason" => &mut self.key.reason,
            // A request's line says `cause` of what a mint's calls `error`; `warning` is what check-config would print.
            // `at` is where a panic was.
            "error" | "cause" | "warning" | "at" => &mut self.error,
            "source_host" => &mut self.source_host,
            _ => return,
        };
        *place = Some(value());
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, || value.chars().take(LONGEST).collect());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, || {
            let mut text = String::new();
            write!(text, "{value:?}").expect("a String takes everything");
            text.chars().take(LONGEST).collect()
        });
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{Layer as _, layer::SubscriberExt};

    use super::*;
    use crate::clock::testing::VirtualTime;

    /// Runs `act` under a log that counts; tells how many lines were written.
    fn written(failures: &Failures, act: impl FnOnce()) -> usize {
        written_at(LevelFilter::INFO, failures, act)
    }

    fn written_at(level: LevelFilter, failures: &Failures, act: impl FnOnce()) -> usize {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_filter(failures.gatekeeper(level));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
        let text = lines.0.lock().unwrap();
        text.iter().filter(|byte| **byte == b'\n').count()
    }

    #[test]
    fn a_failure_that_repeats_is_written_a_few_times_and_then_counted() {
        let time = VirtualTime::new();
        let failures = Failures::on(time.clock());
        let fail = |times: u32| {
            for n in 0..times {
                tracing::warn!(request_id = n, problem = "upstream-error", cause = "HTTP 502", "request");
            }
        };
        assert_eq!(written(&failures, || fail(1000)), LINES as usize);
        assert!(failures.take_left_out(false).is_empty(), "its window has not ended");
        time.suspend(WINDOW);
        let left_out = failures.take_left_out(false);
        assert_eq!(left_out.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1000 - u64::from(LINES)]);
        assert_eq!(written(&failures, || fail(3)), 3, "a new window");
        let recent = failures.recent(5);
        assert_eq!(recent.len(), 1);
        assert_eq!((recent[0].count, recent[0].level), (1003, "warn"));
        assert_eq!(recent[0].error.as_deref(), Some("HTTP 502"));
    }

    #[test]
    fn what_differs_in_its_cause_is_another_failure() {
        let failures = Failures::on(VirtualTime::new().clock());
        let lines = written(&failures, || {
            for n in 0..40 {
                tracing::warn!(error = format!("HTTP {}", 500 + n % 4), "mint failed");
                tracing::info!(outcome = "miss", "request");
            }
        });
        assert_eq!(lines, 40 + 40, "four causes, ten times each, and what is no failure");
        assert_eq!(failures.recent(9).len(), 4);
    }

    #[test]
    fn refused_requests_are_summed_up_and_not_shown() {
        let failures = Failures::on(VirtualTime::new().clock());
        let lines = written(&failures, || {
            for _ in 0..50 {
                tracing::info!(problem = "overloaded", "request");
            }
        });
        assert_eq!((lines, failures.recent(9).len()), (10, 0));
    }

    #[test]
    fn what_is_not_written_is_counted_all_the_same() {
        let failures = Failures::on(VirtualTime::new().clock());
        let lines = written_at(LevelFilter::ERROR, &failures, || {
            for _ in 0..50 {
                tracing::warn!(error = "HTTP 502", "mint failed");
            }
            tracing::error!("kie.ai refuses the key");
        });
        assert_eq!((lines, failures.recent(9).len()), (1, 2));
        assert!(failures.take_left_out(true).is_empty(), "nothing was left out of what is written");
    }

    #[test]
    fn memory_is_bounded_and_the_severe_ones_stay() {
        let time = VirtualTime::new();
        let failures = Failures::on(time.clock());
        let lines = written(&failures, || {
            tracing::error!("kie.ai refuses the key");
            for n in 0..3 * MOST {
                time.suspend(Duration::from_millis(1));
                tracing::warn!(error = format!("cause {n}"), "mint failed");
                tracing::info!(problem = "overloaded", "request");
            }
        });
        assert_eq!(failures.lock().severe.len(), MOST);
        let recent = failures.recent(MOST);
        assert!(recent.len() == MOST && recent.iter().any(|failure| failure.level == "error"), "{recent:?}");
        assert_eq!(lines, 1 + 3 * MOST + LINES as usize, "the refused ones were summed up all the while");
    }

    #[test]
    fn what_was_pushed_out_is_summed_up_all_the_same() {
        let failures = Failures::on(VirtualTime::new().clock());
        written(&failures, || {
            for _ in 0..50 {
                tracing::warn!(error = "the first", "mint failed");
            }
            for n in 0..MOST {
                tracing::warn!(error = format!("cause {n}"), "mint failed");
            }
        });
        let left_out: Vec<_> =
            failures.take_left_out(false).into_iter().map(|(key, count)| (key.error, count)).collect();
        assert_eq!(left_out, [(Some("the first".to_owned()), 40)]);
    }

    #[test]
    fn kie_ais_own_words_make_no_other_failure() {
        let failures = Failures::on(VirtualTime::new().clock());
        written(&failures, || {
            for n in 0..5 {
                tracing::warn!(error = format!("kie.ai failed: HTTP 200, code 500, \"trace {n}\""), "mint failed");
            }
        });
        let recent = failures.recent(9);
        assert_eq!((recent.len(), recent[0].count), (1, 5));
        assert!(recent[0].error.as_ref().is_some_and(|error| error.ends_with("\"trace 4\"")), "{recent:?}");
    }

    #[test]
    fn a_sum_has_the_level_of_what_it_sums_up() {
        let time = VirtualTime::new();
        let failures = Failures::on(time.clock());
        written_at(LevelFilter::ERROR, &failures, || {
            for _ in 0..50 {
                tracing::error!("kie.ai refuses the key");
            }
        });
        time.suspend(WINDOW);
        let left_out = failures.take_left_out(false);
        assert_eq!(
            left_out.iter().map(|(key, count)| (key.severity, *count)).collect::<Vec<_>>(),
            [(Severity::Error, 50 - u64::from(LINES))]
        );
    }
}
