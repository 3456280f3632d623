//! What systemd wants to hear of a `Type=notify` service (`sd_notify(3)`), and what its journal wants to see
//! (`sd-daemon(3)`). Nothing is said where nobody listens.

use std::{collections::HashMap, convert::Infallible, io, time::Duration};

use kielink::{cli::probe, server::Address};
use sd_notify::NotifyState;

/// `admin` answers a moment after it is served; where it never does, systemd's own timeout for starts ends the wait.
const LONGEST_START: Duration = Duration::from_secs(24 * 60 * 60);

/// How often `systemctl status` has news, at most.
const NEWS: Duration = Duration::from_secs(5);

/// Says `READY=1` once the admin interface says so, and from then on the `headline` whenever it is another one, and
/// `WATCHDOG=1` twice as often as systemd asks for it, as long as this runtime, which serves the callers, comes round
/// to it.
pub(crate) async fn report(admin: Address, is_supervised: bool, headline: impl Fn() -> String) -> Infallible {
    if !is_supervised {
        return std::future::pending().await;
    }
    if probe::wait(&admin, LONGEST_START).await.is_ok() {
        say(&[NotifyState::Ready]);
    }
    let watchdog = sd_notify::watchdog_enabled();
    let step = watchdog.map_or(NEWS, |interval| NEWS.min(interval / 2));
    let mut told = String::new();
    loop {
        let headline = headline();
        if headline != told {
            say(&[NotifyState::Status(&headline)]);
            told = headline;
        }
        if watchdog.is_some() {
            say(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(step).await;
    }
}

pub(crate) fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// Whether standard error is the journal, which reads a line's priority at its beginning. systemd says which file the
/// journal is; who was given another one by a shell has the variable all the same.
pub(crate) fn logs_to_journal(environment: &HashMap<String, String>) -> bool {
    let Some(journal) = environment.get("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(io::stderr()).is_ok_and(|file| *journal == format!("{}:{}", file.st_dev, file.st_ino))
}

/// Each line of `text` as the journal sees that it is an error.
pub(crate) fn as_errors(text: &str) -> String {
    text.lines().map(|line| format!("<3>{line}\n")).collect()
}
