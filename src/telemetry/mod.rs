//! What the process says about itself. Logs are here; `metrics` and `trace` have what the parts need to count and to
//! trace themselves.
//!
//! An event is one line on standard error, for which nobody waits (`queue`); lines that repeat are summed up
//! (`limiter`). What fails is also noted for `/status` (`failures`). The libraries underneath never log below `warn`:
//! at `debug` and `trace` some print addresses, and an address may be a link.

mod failures;
mod level;
mod limiter;
mod line;
pub(crate) mod metrics;
mod priority;
mod queue;
pub mod trace;

use std::{fmt, io::IsTerminal, str::FromStr};

use tracing::{Dispatch, level_filters::LevelFilter};
use tracing_subscriber::{Layer as _, fmt::MakeWriter, layer::SubscriberExt};

pub(crate) use self::queue::LAST_LINES;
pub use self::{
    failures::{Failed, Failure, Failures, Severity, What},
    level::LogLevel,
    limiter::Limiter,
    queue::{DroppedLines, Log},
};
use self::{priority::Prioritised, trace::Tracer};

/// The target of lines that tell of a failure which is noted elsewhere, or that sum up other lines: such a line is no
/// failure of its own.
pub(crate) const NOTED: &str = concat!(env!("CARGO_PKG_NAME"), "::noted");

/// How and how much is logged.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub format: Format,
    pub level: Level,
    /// Whether each line begins with its priority, for systemd's journal.
    pub priorities: bool,
}

/// What a run reports to, besides the log's writer. Cheap to clone; `Default` traces nothing.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// What has failed of late.
    pub failures: Failures,
    /// What sums up lines that repeat.
    pub limiter: Limiter,
    /// How much is logged, which can be changed while it runs.
    pub level: LogLevel,
    pub tracer: Tracer,
    /// Log lines that could not be written in time.
    pub dropped_lines: DroppedLines,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, else JSON.
    Auto,
    Text,
    Json,
}

/// The least severe level that is still logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(LevelFilter);

impl Config {
    /// Whether lines are text; else they are JSON.
    pub fn is_text(&self) -> bool {
        match self.format {
            Format::Text => true,
            Format::Json => false,
            Format::Auto => std::io::stderr().is_terminal(),
        }
    }

    /// The subscriber that writes to `writer` what `telemetry.level` lets through, from `self.level` on, and notes what
    /// fails. The caller decides for which threads it holds.
    pub fn dispatch<W>(&self, writer: W, telemetry: &Telemetry) -> Dispatch
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let Telemetry { failures, limiter, level, .. } = telemetry;
        level.set(self.level);
        // These layers stand in front of the one that writes, so that failures are noted whether or not their lines are
        // written.
        let all = tracing_subscriber::registry().with(level.filter()).with(failures.lines());
        let limited = limiter.filter(level);
        if self.is_text() {
            let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).with_target(false);
            let layer = layer.map_event_format(|format| Prioritised { format, priorities: self.priorities });
            Dispatch::new(all.with(layer.with_filter(limited)))
        } else {
            let layer = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_target(false)
                .with_writer(writer)
                .map_event_format(|format| Prioritised { format, priorities: self.priorities });
            Dispatch::new(all.with(layer.with_filter(limited)))
        }
    }
}

impl Level {
    pub const ERROR: Level = Level(LevelFilter::ERROR);
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "auto" => Ok(Format::Auto),
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err("expected \"auto\", \"text\" or \"json\"".to_owned()),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Auto => "auto",
            Format::Text => "text",
            Format::Json => "json",
        })
    }
}

impl FromStr for Level {
    type Err = String;

    /// A plain level, not a filter expression: see the head of this module.
    fn from_str(text: &str) -> Result<Level, String> {
        match text.to_ascii_lowercase().as_str() {
            "error" => Ok(Level(LevelFilter::ERROR)),
            "warn" => Ok(Level(LevelFilter::WARN)),
            "info" => Ok(Level(LevelFilter::INFO)),
            "debug" => Ok(Level(LevelFilter::DEBUG)),
            "trace" => Ok(Level(LevelFilter::TRACE)),
            _ => Err("expected error, warn, info, debug or trace".to_owned()),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string())
    }
}
