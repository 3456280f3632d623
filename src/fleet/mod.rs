//! Many replicas as one: they find each other's links in the shared tier, mint each file once among them, and keep
//! kie.ai's quota together.
//!
//! Stands between `links`, which knows nothing but a mint, and `upstream`, which knows nothing but a quota. Knows what a
//! mint is; does not know that there is a cache. Whatever the tier does, no request fails because of it: a replica that
//! cannot ask it does what a single kielink does, with its part of the quota.

mod address;
mod beat;
mod bucket;
mod credits;
mod later;
mod leases;
mod local;
mod metrics;
mod mint;
mod others;
mod poll;
mod queue;
mod quota;
mod realm;
mod seek;
mod words;

use std::{
    fmt,
    num::NonZeroU32,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    beat::{Forgotten, Member},
    credits::{SeenBefore, Turn},
    mint::Minter,
};
use self::{
    leases::Leases,
    local::Local,
    metrics::Metrics,
    queue::Queue,
    realm::{Connection, Realm},
};
use crate::{
    clock::{Clock, KieClock},
    key::{ApiKey, Keys},
    link,
    shared::{self, Address, Holder, Names, Quota, Replica, Request, State, Supervisor, Tier},
    source::Source,
};

/// No answer of the tier is waited for longer; what a caller waits for has a shorter budget of its own, but for another replica's
/// mint and for a turn. A tier that is silent is given up much earlier.
const BEHIND: Duration = Duration::from_secs(2);

/// After its end is due, a connection is there for its last words for so long.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How many replicas act as one.
#[derive(Debug, Clone)]
pub struct Config {
    pub tier: shared::Config,
    /// Where the tier's address is, where it comes from a file, which is watched.
    pub address_file: Option<PathBuf>,
    /// How many replicas there are, where none was ever seen.
    pub presumed: NonZeroU32,
    /// Requests a second to kie.ai, of all replicas together, and how many may go at once.
    pub rate: NonZeroU32,
    pub burst: NonZeroU32,
    /// Life that a link must have left whenever it is handed out.
    pub margin: Duration,
    pub negative_ttl: Duration,
    pub force_interval: Duration,
    /// A turn at kie.ai that comes later than this before a caller's deadline is no use.
    pub reserve: Duration,
    /// Where links may point.
    pub links: link::Policy,
}

/// The share of rate that is kept back, as the gate of each replica does (`upstream`).
const GUARD: f64 = 0.03;

/// One replica's view of its fleet. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    config: Config,
    quota: Quota,
    replica: Replica,
    flights: AtomicU64,
    keys: Keys,
    clock: Clock,
    kie_clock: KieClock,
    tasks: TaskTracker,
    stop: CancellationToken,
    address: Mutex<Address>,
    /// Of the keys in use, the newest first, and of those that were a moment ago.
    realms: Mutex<Vec<Arc<Realm>>>,
    leases: Leases,
    local: Mutex<Local>,
    /// There may be tokens that the fleet's bucket does not know of.
    untold: Notify,
    queue: Queue,
    members: Mutex<Vec<Member>>,
    metrics: Metrics,
}

/// What a fleet works with.
pub struct Parts {
    pub keys: Keys,
    pub clock: Clock,
    pub kie_clock: KieClock,
    /// Connections, and what nobody waits for, run on this tracker.
    pub tasks: TaskTracker,
    /// All of it ends when this is cancelled.
    pub stop: CancellationToken,
}

/// Who has heard that a file is to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// All replicas that the tier can reach, within a second.
    Told,
    /// Not all of them yet: they are told when the tier is back.
    Unreachable,
}

/// The fleet and its tier, for people.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    #[serde(flatten)]
    pub tier: shared::Description,
    /// This replica's name.
    pub id: String,
    /// How many replicas were live within the last minute; what is presumed where none was seen.
    pub replicas: u32,
    /// What each says of itself.
    pub members: Vec<Member>,
    /// What people should look at.
    pub warning: Option<&'static str>,
}

impl Fleet {
    /// Connects at once, on tasks of its own; nobody waits for that. To be called on the runtime.
    pub fn new(config: Config, parts: Parts) -> Fleet {
        let Parts { keys, clock, kie_clock, tasks, stop } = parts;
        let period = Duration::from_secs_f64((1.0 + GUARD) / f64::from(config.rate.get()));
        let quota = Quota { period, burst: config.burst };
        let address = Mutex::new(config.tier.address.clone());
        let local = Mutex::new(Local::new(config.presumed));
        let fleet = Fleet(Arc::new(Inner {
            config,
            quota,
            replica: Replica::random(),
            flights: AtomicU64::new(0),
            keys,
            clock,
            kie_clock,
            tasks,
            stop,
            address,
            realms: Mutex::default(),
            leases: Leases::default(),
            local,
            untold: Notify::new(),
            queue: Queue::default(),
            members: Mutex::default(),
            metrics: Metrics::default(),
        }));
        fleet.0.realms();
        fleet
    }

    /// The state of the tier, of the key that is used next.
    pub fn state(&self) -> State {
        self.0.realms().first().map_or(State::Down, |realm| realm.tier().state())
    }

    /// Has all replicas forget a file. Its mint under way, wherever that is, cannot bring it back.
    pub async fn forget(&self, source: &Source) -> Told {
        let (realms, now) = (self.0.realms(), self.0.clock.now());
        let heard = join_all(realms.iter().map(|realm| self.0.forget(realm, source, now))).await;
        if heard.into_iter().all(|heard| heard) { Told::Told } else { Told::Unreachable }
    }

    pub fn describe(&self) -> Option<Description> {
        let inner = &self.0;
        let tier = inner.realms().first()?.tier().describe();
        let members = inner.members().clone();
        let disagree = members.iter().any(|member| member.rate != inner.config.rate.get());
        Some(Description {
            tier,
            id: inner.replica.as_str().to_owned(),
            replicas: inner.local().replicas().get(),
            members,
            warning: disagree.then_some("replicas disagree about upstream.rate"),
        })
    }
}

impl Inner {
    /// One for each key in use, the newest first, then those of keys that were in use a moment ago. Where the keys have
    /// changed, connections are begun and ended.
    fn realms(&self) -> Vec<Arc<Realm>> {
        let (held, now) = (self.keys.held(), self.clock.now());
        let mut known = self.realms.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |(key, realm): (&ApiKey, &Arc<Realm>)| realm.fingerprint == key.fingerprint();
        let is_as_it_was = known.len() == held.len() && held.iter().zip(known.iter()).all(is_known);
        if is_as_it_was || self.stop.is_cancelled() {
            return known.clone();
        }
        let beside = known.first().map(|realm| realm.tier());
        let mut realms = Vec::new();
        for key in &held {
            let at = known.iter().position(|realm| realm.fingerprint == key.fingerprint());
            let realm = at
                .map(|at| known.remove(at))
                .unwrap_or_else(|| Arc::new(Realm::new(key, |names| self.connect(names, beside.as_ref()))));
            realm.is_needed(true, now);
            realms.push(realm);
        }
        for realm in known.drain(..) {
            if realm.is_needed(false, now) {
                realms.push(realm);
            } else {
                realm.disconnect();
            }
        }
        known.clone_from(&realms);
        realms
    }

    /// To the tier at its present address.
    fn connect(&self, names: &Names, beside: Option<&Tier>) -> Connection {
        let (config, end) =
            (shared::Config { address: self.address().clone(), ..self.config.tier }, CancellationToken::new());
        let (tier, supervisor) = match beside {
            Some(tier) => tier.beside(config, names.clone(), self.clock.clone()),
            None => Tier::new(config, names.clone(), self.clock.clone()),
        };
        self.supervise(supervisor, end.clone());
        Connection { tier, end }
    }

    /// Does this beside whoever calls it. In a box, which makes all such tasks one kind: each kind takes 5 KB of the image.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(Box::pin(work) as BoxFuture<'static, ()>);
    }

    /// Asks the tier what nobody waits for, and nobody needs to hear of.
    fn ask_behind<T: 'static>(&self, realm: &Arc<Realm>, request: Request<T>) {
        let realm = Arc::clone(realm);
        self.spawn(async move {
            let _ = realm.ask(request, BEHIND).await;
        });
    }

    fn supervise(&self, supervisor: Supervisor, own: CancellationToken) {
        let stop = self.stop.clone();
        self.spawn(async move {
            let late = async {
                stop.cancelled().await;
                tokio::time::sleep(LAST_WORDS).await;
            };
            tokio::select! {
                () = supervisor.run(own) => {}
                () = late => {}
            }
        });
    }

    /// The realm of the key that has minted last.
    fn serving(&self) -> Option<Arc<Realm>> {
        let realms = self.realms();
        let serving = self.keys.serving();
        let found = realms.iter().find(|realm| realm.fingerprint == serving.fingerprint());
        found.or(realms.first()).cloned()
    }

    /// A name for a flight of this replica.
    fn holder(&self) -> Holder {
        self.replica.holder(self.flights.fetch_add(1, Ordering::Relaxed))
    }

    fn address(&self) -> MutexGuard<'_, Address> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("replica", &self.0.replica).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
