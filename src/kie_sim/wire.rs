//! What happens to connections to the simulated kie.ai, whatever is asked on them.
//!
//! Connections are numbered as they are accepted, so that what happens to "all that are open" does not happen to the
//! next one.

use tokio::sync::watch;

use crate::clock::{Clock, Instant};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wire {
    /// Connections up to this number are reset.
    pub(super) reset: u64,
    /// Connections up to this number are closed.
    pub(super) closed: u64,
    /// Connections up to this number stay open and say nothing ever again.
    pub(super) mute: u64,
    /// Nothing is said on any connection.
    pub(super) silent_until: Option<Instant>,
    /// Connections are accepted and closed at once.
    pub(super) hangs_up_until: Option<Instant>,
    /// Connections are refused.
    pub(super) refuses_until: Option<Instant>,
    /// Whether the door has seen that connections are refused.
    pub(super) is_shut: bool,
}

/// What a connection is told about itself.
pub(super) struct Line {
    number: u64,
    /// Whether the connection may speak in spite of everything.
    pub(super) is_exempt: bool,
    wire: watch::Receiver<Wire>,
    clock: Clock,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Closed,
    /// TCP's own way: the caller of `converse`, who has the socket, sets its linger to zero and drops it.
    Reset,
}

impl Line {
    /// `number` is that of a connection to kie.ai. The file host's connections have none, and nothing happens to them.
    pub(super) fn new(number: Option<u64>, wire: &watch::Sender<Wire>, clock: Clock) -> Line {
        let is_exempt = number.is_none();
        Line { number: number.unwrap_or(u64::MAX), is_exempt, wire: wire.subscribe(), clock }
    }

    /// Completes when something may be said; never, on a connection that fell silent.
    pub(super) async fn may_speak(&mut self) {
        while !self.is_exempt {
            let wire = *self.wire.borrow_and_update();
            if wire.mute >= self.number {
                return std::future::pending().await;
            }
            let now = self.clock.now();
            let Some(until) = wire.silent_until.filter(|until| *until > now) else { return };
            tokio::select! {
                () = tokio::time::sleep(now.until(until)) => {}
                _ = self.wire.changed() => {}
            }
        }
    }

    /// Completes when the connection is to end now.
    pub(super) fn severed(&self) -> impl Future<Output = Ending> + use<> {
        let (number, mut wire) = (self.number, self.wire.clone());
        async move {
            let severed = wire.wait_for(|wire| wire.reset.max(wire.closed) >= number).await;
            // An error means that the simulation is gone.
            if severed.is_ok_and(|wire| wire.reset >= number) { Ending::Reset } else { Ending::Closed }
        }
    }
}
