//! What systemd wants to hear of a `Type=notify` service (`sd_notify(3)`). Nothing is said where nobody listens.

use std::{convert::Infallible, time::Duration};

use kielink::{cli::probe, server::Address};
use sd_notify::NotifyState;

/// `admin` answers a moment after it is served; where it never does, systemd's own timeout for starts ends the wait.
const LONGEST_START: Duration = Duration::from_secs(24 * 60 * 60);

/// Says `READY=1` once the admin interface says so, and from then on `WATCHDOG=1` twice as often as systemd asks for
/// it, as long as this runtime, which serves the callers, comes round to it.
pub(crate) async fn report(admin: Address, is_supervised: bool) -> Infallible {
    if is_supervised && probe::wait(&admin, LONGEST_START).await.is_ok() {
        say(NotifyState::Ready);
    }
    let Some(interval) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        say(NotifyState::Watchdog);
        tokio::time::sleep(interval / 2).await;
    }
}

pub(crate) fn stopping() {
    say(NotifyState::Stopping);
}

fn say(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}
