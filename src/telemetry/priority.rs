//! A line as systemd's journal wants it: with its priority in front (`sd-daemon(3)`), so that `journalctl -p warning` finds it.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// A format whose lines have their priority in front, where that is wanted.
pub(super) struct Prioritised<F> {
    pub(super) format: F,
    pub(super) priorities: bool,
}

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.priorities {
            write!(to, "<{}>", syslog(*event.metadata().level()))?;
        }
        self.format.format_event(context, to, event)
    }
}

/// The number of `syslog(3)`. Nobody looks for what is rarer than an error here.
fn syslog(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use tracing::dispatcher;

    use crate::telemetry::{Config, Format, Telemetry};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(format: Format, priorities: bool) -> Vec<String> {
        let config = Config { format, level: "trace".parse().unwrap(), priorities };
        let written = Written::default();
        let sink = written.clone();
        dispatcher::with_default(&config.dispatch(move || sink.clone(), &Telemetry::default()), || {
            tracing::error!("one");
            tracing::warn!("two");
            tracing::info!("three");
            tracing::debug!("four");
            tracing::trace!("five");
        });
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn every_line_has_its_priority_in_front_where_that_is_wanted() {
        for (format, begins) in [(Format::Json, "{"), (Format::Text, "20")] {
            let told: Vec<_> = lines(format, true).iter().map(|line| line[..3].to_owned()).collect();
            assert_eq!(told, ["<3>", "<4>", "<6>", "<7>", "<7>"], "{format}");
            assert!(lines(format, true).iter().all(|line| line[3..].starts_with(begins)), "{format}");
            assert!(lines(format, false).iter().all(|line| line.starts_with(begins)), "{format}");
        }
    }
}
