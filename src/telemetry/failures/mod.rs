//! What has failed of late, for `/status`: how often, when first and last, and why.
//!
//! A mint or a request that fails is noted where that happens, as what it is. Whatever else the log tells at `warn` or
//! above, perhaps in a library's words, is noted from its line (`Lines`). Two failures are the same where all but host
//! and time is the same: hosts and times differ a thousandfold in one outage.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{Layer, layer::Context};

use super::{
    NOTED,
    line::{Line, shortened, without_quotes},
};
use crate::{
    clock::{self, Clock, Instant},
    kind::Kind,
};

/// How many failures are told apart at once; in an outage there are a handful.
const MOST: usize = 128;

/// Shared by the code that notes failures and the code that shows them. Cheap to clone.
#[derive(Clone)]
pub struct Failures(Arc<Shared>);

struct Shared {
    clock: Clock,
    /// At most `MOST`.
    table: Mutex<HashMap<Key, State>>,
}

/// Something that has failed.
#[derive(Debug, Clone)]
pub struct Failed {
    pub severity: Severity,
    pub what: What,
    /// The cause and what lies behind it.
    pub error: Option<String>,
    pub source_host: Option<String>,
}

/// The level of the log's line about the failure, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Warn,
    Error,
}

/// What it is that failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// A mint, by why it was made. Where it `is_awaited`, requests wait for it, and have failed with it for the same
    /// error.
    Mint { reason: &'static str, is_awaited: bool },
    /// A request that got no link, by the problem that its caller was told.
    Request { problem: Kind },
    /// Anything else that the log has a line about.
    Line { message: String, reason: Option<String> },
}

/// What makes two failures the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    severity: Severity,
    what: What,
    error: Option<String>,
}

#[derive(Debug)]
struct State {
    /// The last failure's whole error; the key has it without what kie.ai said.
    error: Option<String>,
    count: u64,
    first_at: Timestamp,
    last_at: Timestamp,
    last_seen: Instant,
    /// Of the last failure.
    source_host: Option<String>,
}

/// One failure, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    #[serde(rename = "level")]
    pub severity: Severity,
    #[serde(flatten)]
    pub what: What,
    /// The cause and what lies behind it.
    pub error: Option<String>,
    /// How often, and when first and last.
    pub count: u64,
    pub first_at: String,
    pub last_at: String,
    /// Of the last failure.
    pub source_host: Option<String>,
}

/// Written as `message`, `problem` and `reason`.
impl Serialize for What {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Told<'a> {
            message: &'a str,
            problem: Option<&'a str>,
            reason: Option<&'a str>,
        }
        let (message, problem, reason) = match self {
            What::Mint { reason, .. } => ("mint failed", None, Some(*reason)),
            What::Request { problem } => ("request", Some(problem.as_str()), None),
            What::Line { message, reason } => (message.as_str(), None, reason.as_deref()),
        };
        Told { message, problem, reason }.serialize(serializer)
    }
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
        Failures(Arc::new(Shared { clock, table: Mutex::default() }))
    }

    pub fn note(&self, failed: Failed) {
        let Failed { severity, what, error, source_host } = failed;
        let error = error.map(|error| shortened(&error));
        let key = Key { severity, what, error: error.as_deref().map(|error| without_quotes(error).to_owned()) };
        let (now, wall) = (self.0.clock.now(), self.0.clock.wall());
        let mut table = self.lock();
        make_room_for(&key, &mut table);
        let state = table.entry(key).or_insert(State {
            error: None,
            count: 0,
            first_at: wall,
            last_at: wall,
            last_seen: now,
            source_host: None,
        });
        state.error = error;
        state.count += 1;
        (state.last_at, state.last_seen) = (wall, now);
        state.source_host = source_host.or(state.source_host.take());
    }

    /// The most recent failures, newest first, at most `most`.
    pub fn recent(&self, most: usize) -> Vec<Failure> {
        let table = self.lock();
        let mut all: Vec<_> = table.iter().collect();
        all.sort_by_key(|(_, state)| std::cmp::Reverse(state.last_seen));
        let shown = all.into_iter().take(most).map(|(key, state)| Failure {
            severity: key.severity,
            what: key.what.clone(),
            error: state.error.clone(),
            count: state.count,
            first_at: clock::rfc3339(state.first_at),
            last_at: clock::rfc3339(state.last_at),
            source_host: state.source_host.clone(),
        });
        shown.collect()
    }

    /// The layer that notes lines.
    pub(super) fn lines(&self) -> Lines {
        Lines(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, State>> {
        // A panic in the middle leaves a count that is off by one.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room: the least severe failure goes first, and among equals the oldest.
fn make_room_for(key: &Key, table: &mut HashMap<Key, State>) {
    if table.contains_key(key) || table.len() < MOST {
        return;
    }
    let least = table.iter().min_by_key(|(key, state)| (key.severity, state.last_seen));
    if let Some(key) = least.map(|(key, _)| key.clone()) {
        table.remove(&key);
    }
}

/// Notes lines at `warn` and above, written or not, except lines about what is noted already.
#[derive(Debug)]
pub(super) struct Lines(Failures);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let severity = match *event.metadata().level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warn,
            _ => return,
        };
        if event.metadata().target() == NOTED {
            return;
        }
        let Line { message, reason, error, source_host, .. } = Line::read(event);
        self.0.note(Failed { severity, what: What::Line { message, reason }, error, source_host });
    }
}

#[cfg(test)]
mod tests;
