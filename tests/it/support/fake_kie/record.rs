//! What the fake kie.ai has seen, what it is to answer, and the gate in between. One lock around all of it, so that
//! a test that sees a request counted also finds it held.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::answer::Answer;
use super::{CREDIT_PATH, MINT_PATH};

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body's `url`.
    pub(crate) source: Option<String>,
    /// Since the fake was started.
    pub(crate) at: Duration,
}

impl Recorded {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_mint(&self) -> bool {
        self.method == "POST" && self.path == MINT_PATH
    }
}

pub(super) struct Record {
    pub(super) started: tokio::time::Instant,
    /// How many mints arrived.
    pub(super) mints: watch::Sender<usize>,
    seed: AtomicU64,
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    /// The keys that are accepted; `None`: any.
    pub(super) keys: Option<Vec<String>>,
    /// What the others hear.
    pub(super) refusal: Answer,
    pub(super) usual: Answer,
    pub(super) next: VecDeque<Answer>,
    pub(super) by_source: HashMap<String, Answer>,
    pub(super) credit: Answer,
    pub(super) requests: Vec<Recorded>,
    pub(super) links: Vec<String>,
    pub(super) connections: usize,
    pub(super) max_in_flight_per_source: usize,
    in_flight: HashMap<Option<String>, usize>,
    held: VecDeque<oneshot::Sender<()>>,
    holding: bool,
    /// `release_one` calls that came before their request.
    released_ahead: usize,
}

impl Inner {
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
            // One whose peer hung up is no longer there to be told.
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
}

impl Record {
    /// `unique` tells two fakes apart that run at the same time.
    pub(super) fn new(unique: u16) -> Self {
        let inner = Inner {
            keys: None,
            refusal: Answer::unauthorized(),
            usual: Answer::link(),
            next: VecDeque::new(),
            by_source: HashMap::new(),
            credit: Answer::data(serde_json::json!(5916.25)),
            requests: Vec::new(),
            links: Vec::new(),
            connections: 0,
            max_in_flight_per_source: 0,
            in_flight: HashMap::new(),
            held: VecDeque::new(),
            holding: false,
            released_ahead: 0,
        };
        Self {
            started: tokio::time::Instant::now(),
            mints: watch::Sender::new(0),
            seed: AtomicU64::new(u64::from(unique) << 32),
            inner: Mutex::new(inner),
        }
    }

    /// A panic elsewhere is reported when the fake is dropped; it must not hide behind a poisoned lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts the request and, while the gate is shut, queues it there.
    pub(super) fn arrive(self: &Arc<Self>, request: &Recorded) -> Arrival {
        let mut inner = self.lock();
        inner.requests.push(request.clone());
        let flight = request.is_mint().then(|| {
            let source = request.source.clone();
            let same = inner.in_flight.entry(source.clone()).or_default();
            *same += 1;
            let same = *same;
            if source.is_some() {
                inner.max_in_flight_per_source = inner.max_in_flight_per_source.max(same);
            }
            Flight { record: Arc::clone(self), source }
        });
        let ahead = inner.released_ahead > 0;
        let gate = (inner.holding && !ahead).then(|| {
            let (opened, gate) = oneshot::channel();
            inner.held.push_back(opened);
            gate
        });
        if inner.holding && ahead {
            inner.released_ahead -= 1;
        }
        drop(inner);
        if flight.is_some() {
            self.mints.send_modify(|mints| *mints += 1);
        }
        Arrival { flight, gate }
    }

    /// The answer, chosen when the request leaves the gate: a test may hold, look, and only then decide.
    pub(super) fn choose(&self, request: &Recorded) -> Answer {
        if request.header("user-agent").is_none_or(str::is_empty) {
            return Answer::banned();
        }
        if request.method == "GET" && request.path == CREDIT_PATH {
            return self.lock().credit.clone();
        }
        if !request.is_mint() {
            return Answer::spring_404_at(&request.path);
        }
        let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let accepts = |key: &str| self.lock().keys.as_ref().is_none_or(|keys| keys.iter().any(|known| known == key));
        if !bearer.is_some_and(accepts) {
            return self.lock().refusal.clone();
        }
        let Some(source) = &request.source else {
            return Answer::envelope(422, "url is wrong");
        };
        let mut inner = self.lock();
        if let Some(next) = inner.next.pop_front() {
            return next;
        }
        inner.by_source.get(source).unwrap_or(&inner.usual).clone()
    }
}

/// A request that was recorded.
pub(super) struct Arrival {
    /// Only a mint has one.
    pub(super) flight: Option<Flight>,
    /// Completes when the gate opens; nothing where it is open.
    pub(super) gate: Option<oneshot::Receiver<()>>,
}

/// A mint is in flight for as long as this lives.
pub(super) struct Flight {
    record: Arc<Record>,
    source: Option<String>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut inner = self.record.lock();
        if let Some(same) = inner.in_flight.get_mut(&self.source) {
            *same -= 1;
        }
    }
}
