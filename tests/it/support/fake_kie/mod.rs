//! A fake kie.ai: a real HTTP/1.1 server on a port of its own, in a thread of its own, that answers as scripted and
//! remembers what it was asked. It knows kie.ai's side of the contract and nothing of kielink.
//!
//! Without a script it is the kie.ai of the documentation: a new link for every mint, an amount of credits, Spring's
//! 404 elsewhere; a 401 envelope without a bearer key, Cloudflare's 1010 without a User-Agent.

mod answer;
mod canned;
mod connection;
mod record;
mod render;
mod server;

use std::any::Any;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

pub(crate) use self::answer::Answer;
use self::record::Record;
pub(crate) use self::record::Recorded;
use self::server::{Order, serve};

pub(crate) const MINT_PATH: &str = "/api/v1/common/download-url";
pub(crate) const CREDIT_PATH: &str = "/api/v1/chat/credit";

/// For whatever should come at once: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs until it is dropped; dropping it fails the test where the fake itself panicked.
pub(crate) struct FakeKie {
    port: u16,
    record: Arc<Record>,
    runtime: Handle,
    /// `None` only while it is dropped.
    orders: Option<UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeKie {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        listener.set_nonblocking(true).expect("a listener need not block");
        // Its own runtime: a test that blocks, or stops tokio's clock, does not stop the fake.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("there are resources for a runtime");
        let handle = runtime.handle().clone();
        let (orders, received) = unbounded_channel();
        let record = Arc::new(Record::new(port));
        let thread = {
            let record = Arc::clone(&record);
            std::thread::Builder::new().name("fake-kie".to_owned()).spawn(move || {
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener).expect("it is a listener");
                    serve(listener, received, record).await;
                });
            })
        };
        let thread = Some(thread.expect("there are resources for a thread"));
        Self { port, record, runtime: handle, orders: Some(orders), thread }
    }

    /// Without a slash at the end.
    pub(crate) fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn mint_url(&self) -> String {
        format!("{}{MINT_PATH}", self.base_url())
    }
}

/// The script: for each mint the next of `answer_next`, else the source's, else the usual one. It is consulted when
/// the request leaves the gate, so it may be written while requests are held.
impl FakeKie {
    /// The usual answer to a mint, from now on.
    pub(crate) fn answer(&self, answer: Answer) {
        self.record.lock().usual = answer;
    }

    /// One answer each for the next mints, whatever their source.
    pub(crate) fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.record.lock().next.extend(answers);
    }

    /// The usual answer for one source URL.
    pub(crate) fn answer_for(&self, source_url: &str, answer: Answer) {
        self.record.lock().by_source.insert(source_url.to_owned(), answer);
    }

    /// From now on every other key is unauthorized.
    pub(crate) fn accept_only(&self, keys: &[&str]) {
        self.record.lock().keys = Some(keys.iter().map(|key| (*key).to_owned()).collect());
    }

    /// What a key that is not accepted hears; usually 401.
    pub(crate) fn refuse_with(&self, answer: Answer) {
        self.record.lock().refusal = answer;
    }

    /// The usual answer to `GET /api/v1/chat/credit`.
    pub(crate) fn answer_credit(&self, answer: Answer) {
        self.record.lock().credit = answer;
    }
}

/// Gates and outages.
impl FakeKie {
    /// From now on requests are recorded when they arrive, and wait.
    pub(crate) fn hold(&self) {
        self.record.lock().hold();
    }

    /// All that wait go on, and later ones do not wait.
    pub(crate) fn release(&self) {
        self.record.lock().release();
    }

    /// The one that waits longest goes on; where none waits, the next to arrive will not.
    pub(crate) fn release_one(&self) {
        self.record.lock().release_one();
    }

    /// Resets all connections and refuses new ones. It has happened when this returns.
    pub(crate) fn stop_listening(&self) {
        self.order(Order::StopListening);
    }

    /// Accepts connections again, on the same port.
    pub(crate) fn listen_again(&self) {
        self.order(Order::ListenAgain);
    }

    fn order(&self, order: impl FnOnce(mpsc::Sender<()>) -> Order) {
        let (done, obeyed) = mpsc::channel();
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order(done)).is_ok());
        let obeyed = sent && obeyed.recv_timeout(PATIENCE).is_ok();
        assert!(obeyed, "the fake kie.ai no longer runs: it panicked, see above");
    }
}

/// Observations.
impl FakeKie {
    /// Mints that arrived, answered or not.
    pub(crate) fn mints(&self) -> usize {
        *self.record.mints.borrow()
    }

    pub(crate) fn mints_for(&self, source_url: &str) -> usize {
        let inner = self.record.lock();
        let same = |r: &&Recorded| r.is_mint() && r.source.as_deref() == Some(source_url);
        inner.requests.iter().filter(same).count()
    }

    /// All requests, mints or not, in the order in which they arrived.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.record.lock().requests.clone()
    }

    /// Mints that arrived and are neither answered nor given up by their peer.
    pub(crate) fn in_flight(&self) -> usize {
        self.record.lock().in_flight()
    }

    /// The most mints for one and the same source that were ever in flight at once.
    pub(crate) fn max_in_flight_per_source(&self) -> usize {
        self.record.lock().max_in_flight_per_source
    }

    /// Every `data` that was given as a link, in that order.
    pub(crate) fn links_given(&self) -> Vec<String> {
        self.record.lock().links.clone()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.record.lock().connections
    }

    /// Returns as soon as `n` mints have arrived; panics where they do not within 10 s.
    ///
    /// The clock is the fake's own, which runs even where the test's is paused.
    pub(crate) async fn wait_for_mints(&self, n: usize) {
        let mut mints = self.record.mints.subscribe();
        let waiting = self.runtime.spawn(async move {
            let enough = mints.wait_for(|mints| *mints >= n);
            tokio::time::timeout(PATIENCE, enough).await.is_ok()
        });
        let Ok(arrived) = waiting.await else {
            panic!("the fake kie.ai no longer runs: it panicked, see above");
        };
        assert!(arrived, "waited {PATIENCE:?} for {n} mints at kie.ai, and {} came", self.mints());
    }
}

impl Drop for FakeKie {
    fn drop(&mut self) {
        drop(self.orders.take());
        let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) else {
            return;
        };
        // A second panic would abort the test run; the first one has been printed already.
        if !std::thread::panicking() {
            panic!("the fake kie.ai panicked: {}", message(&*panic));
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let formatted = panic.downcast_ref::<String>().map(String::as_str);
    formatted.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

#[cfg(test)]
mod tests;
