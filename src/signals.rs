//! Signals, heard from the first line of `main` on: as process 1 of a container there is no default that would end it,
//! and elsewhere the default leaves socket files behind.

use std::{future::Future, io, time::Duration};

use kielink::key::Reload;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

/// Supervisors and `timeout` send the same signal twice, to the process and to its group. A signal that comes later is
/// meant.
const SAME: Duration = Duration::from_millis(300);

pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Its default would end the process, and operators send it to have files read again.
    hangup: Signal,
    reload: Reload,
}

impl Signals {
    /// From now on no signal is lost. Starts no thread.
    pub(crate) fn listen() -> io::Result<Signals> {
        // A signal that comes before the serving runtime is there is told by that runtime: all runtimes share what was
        // heard.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _inside = runtime.enter();
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reload: Reload::default(),
        })
    }

    /// What SIGHUP asks for.
    pub(crate) fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// The name of the next signal that says stop.
    pub(crate) async fn stop(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => self.reload.request(),
            }
        }
    }

    /// The name of the next signal that says stop and does not repeat the signal of `first`.
    pub(crate) async fn second_stop(&mut self, first: Instant) -> &'static str {
        loop {
            let name = self.stop().await;
            if !is_same(first.elapsed()) {
                return name;
            }
        }
    }

    /// The result of `work`, or the name of the stop signal that came before it.
    pub(crate) async fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> Result<T, &'static str> {
        tokio::select! {
            done = work => Ok(done),
            name = self.stop() => Err(name),
        }
    }
}

/// Whether a signal that comes so long after the first repeats it.
fn is_same(after: Duration) -> bool {
    after < SAME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_the_same_signal_for_a_moment() {
        for (millis, expected) in [(0, true), (299, true), (300, false), (5000, false)] {
            assert_eq!(is_same(Duration::from_millis(millis)), expected, "{millis} ms");
        }
    }
}
