//! The simulated kie.ai for tests: on a port of its own, in a thread of its own, it answers as scripted and remembers what
//! it was asked.
//!
//! Without a script it is the kie.ai of the documentation: a new link for every mint, an amount of credits, Spring's
//! 404 elsewhere; a 401 envelope without a bearer key, Cloudflare's 1010 without a User-Agent.

use std::any::Any;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Deref;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use kielink::clock::Clock;
pub(crate) use kielink::kie_sim::{Answer, DOWNLOAD_URL as MINT_PATH};
use kielink::kie_sim::{Config, Host, Request as Recorded, World, serve};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Where the links lead.
const FILES: &str = "https://x.r2.cloudflarestorage.com";

/// For whatever should come at once: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs until it is dropped; dropping it fails the test where it panicked, or was sent what is no request.
pub(crate) struct FakeKie {
    port: u16,
    world: Arc<World>,
    runtime: Handle,
    stop: CancellationToken,
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
        let files = FILES.parse().expect("a URL");
        // The port tells two fakes apart that run at the same time.
        let world = World::new(Config::SCRIPTED, None, files, Clock::system(), port.into()).expect("sensible settings");
        let stop = CancellationToken::new();
        let thread = {
            let (world, stop) = (Arc::clone(&world), stop.clone());
            std::thread::Builder::new().name("fake-kie".to_owned()).spawn(move || {
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener).expect("it is a listener");
                    serve(listener, world, Host::Kie, stop).await.expect("the listener listens");
                });
            })
        };
        let thread = Some(thread.expect("there are resources for a thread"));
        Self { port, world, runtime: handle, stop, thread }
    }

    /// Without a slash at the end.
    pub(crate) fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn mint_url(&self) -> String {
        format!("{}{MINT_PATH}", self.base_url())
    }

    /// To serve a stream that came another way, such as one with TLS in front, with `kie_sim::converse`.
    pub(crate) fn world(&self) -> Arc<World> {
        Arc::clone(&self.world)
    }
}

/// The script: for each mint the next of `answer_next`, else the source's, else the usual one. It is consulted when
/// the request leaves the gate, so it may be written while requests are held.
impl FakeKie {
    /// The usual answer to a mint, from now on.
    pub(crate) fn answer(&self, answer: Answer) {
        self.script(|script| script.usual = answer);
    }

    /// One answer each for the next mints, whatever their source.
    pub(crate) fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script(|script| script.next.extend(answers));
    }

    /// The usual answer for one source URL.
    pub(crate) fn answer_for(&self, source_url: &str, answer: Answer) {
        self.script(|script| script.by_source.insert(source_url.to_owned(), answer));
    }

    /// From now on every other key is unauthorized.
    pub(crate) fn accept_only(&self, keys: &[&str]) {
        self.script(|script| script.keys = Some(keys.iter().map(|key| (*key).into()).collect()));
    }

    /// What a key that is not accepted hears; usually 401.
    pub(crate) fn refuse_with(&self, answer: Answer) {
        self.script(|script| script.refusal = answer);
    }

    /// The usual answer to `GET /api/v1/chat/credit`.
    pub(crate) fn answer_credit(&self, answer: Answer) {
        self.script(|script| script.credit = Some(answer));
    }

    /// What every call with a good key hears, until it is `None`: the whole account is refused.
    pub(crate) fn refuse_account(&self, answer: impl Into<Option<Answer>>) {
        self.script(|script| script.account = answer.into());
    }

    /// What every request hears that is not the first on its connection, until it is `None`.
    pub(crate) fn answer_kept(&self, answer: impl Into<Option<Answer>>) {
        self.script(|script| script.kept = answer.into());
    }

    /// From now on kie's own clock is this far ahead of the machine's, or behind where negative.
    pub(crate) fn clock_off(&self, seconds: i64) {
        self.script(|script| script.clock_off_seconds = seconds);
    }
}

/// Gates, what befalls connections, observations: `kie_sim::World` has most of them.
impl Deref for FakeKie {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl FakeKie {
    /// Resets all connections and refuses new ones. It has happened when this returns.
    pub(crate) fn stop_listening(&self) {
        self.world.refuse_connections(Duration::MAX);
        self.wait_until_door_is(true);
    }

    /// Accepts connections again, on the same port.
    pub(crate) fn listen_again(&self) {
        self.world.refuse_connections(Duration::ZERO);
        self.wait_until_door_is(false);
    }

    fn wait_until_door_is(&self, shut: bool) {
        let (done, obeyed) = mpsc::channel();
        let world = Arc::clone(&self.world);
        self.runtime.spawn(async move {
            world.door_is(shut).await;
            // Whoever gave the order may have gone.
            let _ = done.send(());
        });
        assert!(obeyed.recv_timeout(PATIENCE).is_ok(), "the fake kie.ai no longer runs: it panicked, see above");
    }

    /// Mints that arrived, answered or not.
    pub(crate) fn mints(&self) -> usize {
        *self.mints.borrow()
    }

    pub(crate) fn mints_for(&self, source_url: &str) -> usize {
        let same = |r: &&Recorded| r.is_mint() && r.source.as_deref() == Some(source_url);
        self.requests().iter().filter(same).count()
    }

    /// Returns as soon as `n` mints have arrived; panics where they do not within 10 s.
    ///
    /// The clock is the fake's own, which runs even where the test's is paused.
    pub(crate) async fn wait_for_mints(&self, n: usize) {
        let mut mints = self.mints.subscribe();
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
        self.stop.cancel();
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        // A second panic would abort the test run; the first one has been printed already.
        if std::thread::panicking() {
            return;
        }
        if let Err(panic) = ended {
            panic!("the fake kie.ai panicked: {}", message(&*panic));
        }
        assert_eq!(self.unreadable(), 0, "the fake kie.ai was sent what is no request");
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let formatted = panic.downcast_ref::<String>().map(String::as_str);
    formatted.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

#[cfg(test)]
mod tests;
