//! Reads the lines on their way to the log: which failure each is, and whether it is written.

use std::fmt::{self, Write as _};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Filter};

use super::{Failures, Key, SUM, Severity};
use crate::telemetry::LogLevel;

/// What is remembered of one: enough for a cause and everything behind it.
const LONGEST: usize = 300;

/// In front of the layer that writes: decides for each line whether it is written, and counts it, written or not.
#[derive(Debug)]
pub(in crate::telemetry) struct Gatekeeper {
    failures: Failures,
    /// Lines below are counted only.
    level: LogLevel,
}

impl<S: Subscriber> Filter<S> for Gatekeeper {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let level = *event.metadata().level();
        let is_logged = level <= self.level.filter_level();
        if level > Level::INFO {
            return is_logged;
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
            return is_logged;
        }
        // What a caller did wrong is the same whatever is said of it; and of a cause, kie.ai's own words do not count.
        line.key.error = match line.key.severity {
            Severity::Info => None,
            Severity::Warn | Severity::Error => {
                line.error.as_ref().map(|error| error.split('"').next().unwrap_or_default().to_owned())
            }
        };
        self.failures.note(line, is_logged)
    }
}

/// What an event says, as far as it matters here.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) key: Key,
    pub(super) error: Option<String>,
    pub(super) source_host: Option<String>,
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

impl Failures {
    /// What stands in front of a layer that writes lines of `level` and above.
    pub(in crate::telemetry) fn gatekeeper(&self, level: &LogLevel) -> Gatekeeper {
        Gatekeeper { failures: self.clone(), level: level.clone() }
    }
}
