//! What was asked, and the gate at which requests wait while they are held.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::sync::oneshot;

use super::{World, request::Request};

#[derive(Default)]
pub(super) struct Record {
    pub(super) counts: Counts,
    pub(super) requests: Vec<Request>,
    /// How often something came that was no request.
    pub(super) unreadable: u64,
    pub(super) max_in_flight_per_source: usize,
    in_flight: HashMap<Wanted, usize>,
    held: VecDeque<oneshot::Sender<()>>,
    holding: bool,
    /// `release_one` calls that came before their request.
    released_ahead: usize,
}

/// The source URL of a mint, and its task.
type Wanted = (Option<String>, Option<String>);

/// What was answered to requests for a link.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Counts {
    /// Answered with a link.
    pub(super) mints: u64,
    /// Answered with anything else.
    pub(super) refused: u64,
    /// How often each code was answered, as `Answer::counts_as` has it.
    pub(super) by_code: BTreeMap<String, u64>,
}

impl Counts {
    pub(super) fn count(&mut self, code: String) {
        let counted = if code == "200" { &mut self.mints } else { &mut self.refused };
        *counted += 1;
        *self.by_code.entry(code).or_default() += 1;
    }
}

impl Record {
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.values().sum()
    }

    pub(super) fn hold(&mut self) {
        self.holding = true;
        self.released_ahead = 0;
    }

    pub(super) fn release(&mut self) {
        self.holding = false;
        for held in self.held.drain(..) {
            // A request whose peer hung up is no longer there to be told.
            let _ = held.send(());
        }
    }

    pub(super) fn release_one(&mut self) {
        while let Some(held) = self.held.pop_front() {
            if held.send(()).is_ok() {
                return;
            }
        }
        self.released_ahead += 1;
    }

    /// Counts the request and, while the gate is shut, queues it there.
    pub(super) fn arrive(&mut self, request: &Request, world: &Arc<World>, latency: Duration) -> Arrival {
        let flight = request.is_mint().then(|| {
            let wanted = (request.source.clone(), request.task.clone());
            let same = self.in_flight.entry(wanted.clone()).or_default();
            *same += 1;
            if request.source.is_some() {
                self.max_in_flight_per_source = self.max_in_flight_per_source.max(*same);
            }
            Flight { world: Arc::clone(world), wanted }
        });
        let ahead = self.released_ahead > 0;
        let gate = (self.holding && !ahead).then(|| {
            let (opened, gate) = oneshot::channel();
            self.held.push_back(opened);
            gate
        });
        if self.holding && ahead {
            self.released_ahead -= 1;
        }
        Arrival { flight, gate, latency }
    }

    fn land(&mut self, wanted: &Wanted) {
        if let Some(same) = self.in_flight.get_mut(wanted) {
            *same -= 1;
            if *same == 0 {
                self.in_flight.remove(wanted);
            }
        }
    }
}

/// A request that was recorded.
pub(super) struct Arrival {
    /// Only a mint has one.
    pub(super) flight: Option<Flight>,
    /// Completes when the gate opens; `None` where it is open.
    pub(super) gate: Option<oneshot::Receiver<()>>,
    /// How long kie.ai takes after that.
    pub(super) latency: Duration,
}

/// A mint is in flight for as long as this lives.
pub(super) struct Flight {
    world: Arc<World>,
    wanted: Wanted,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.world.state().record.land(&self.wanted);
    }
}
