//! What a line says, as far as it tells one line, or one failure, from another.

use std::fmt::{self, Write as _};

use tracing::{
    Event,
    field::{Field, Visit},
};

/// How many letters of a text are remembered: enough for a cause and everything behind it.
const LONGEST: usize = 300;

#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) message: String,
    pub(super) problem: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) error: Option<String>,
    pub(super) source_host: Option<String>,
}

/// The beginning of a text, as much as is remembered.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// An error without what kie.ai said, which may be different each time.
pub(super) fn without_quotes(error: &str) -> &str {
    error.split('"').next().unwrap_or_default()
}

impl Line {
    pub(super) fn read(event: &Event<'_>) -> Line {
        let mut line = Line::default();
        event.record(&mut line);
        if line.message.is_empty() {
            // OpenTelemetry's own events have a name and no message.
            line.message = event.metadata().name().to_owned();
        }
        line
    }

    fn set(&mut self, field: &Field, value: impl FnOnce() -> String) {
        let text = match field.name() {
            "message" => {
                self.message = value();
                return;
            }
            "problem" => &mut self.problem,
            "reason" => &mut self.reason,
            // A request's line calls `cause` what a mint's line calls `error`; `warning` is what check-config would
            // print. `at` is where a panic was.
            "error" | "cause" | "warning" | "at" => &mut self.error,
            "source_host" => &mut self.source_host,
            _ => return,
        };
        *text = Some(value());
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, || shortened(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, || {
            let mut text = String::new();
            write!(text, "{value:?}").expect("a String takes everything");
            shortened(&text)
        });
    }
}
