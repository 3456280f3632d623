//! Real servers on loopback, for tests. Each test that needs one passes, with a message, where there is none.

mod proxy;
mod server;
mod topology;

use std::{future::Future, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) use self::{
    proxy::{Manner, Proxy},
    server::{Server, free_port},
    topology::{Cluster, LAST_SLOTS, Watched, says},
};
use super::{Address, Config, Names, Seals, State, Tier};
use crate::{clock::Clock, key::ApiKey};

/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks every few milliseconds until it is so.
pub(super) async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "never: {what}");
}

/// What a replica has of the tier.
pub(super) struct Replica {
    pub(super) tier: Tier,
    pub(super) names: Names,
    pub(super) seals: Seals,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Replica {
    /// With a patience that no busy machine exhausts.
    pub(super) fn patient(url: &str) -> Replica {
        Replica::new(url, PATIENCE)
    }

    pub(super) fn new(url: &str, timeout: Duration) -> Replica {
        Replica::at(url.parse().unwrap(), timeout, Clock::system())
    }

    pub(super) fn at(address: Address, timeout: Duration, clock: Clock) -> Replica {
        let secret = ApiKey::new("first-key").unwrap().fleet_secret();
        let (names, seals) = (Names::new(&secret), Seals::new(&secret));
        let config = Config { address, timeout };
        let (tier, supervisor) = Tier::new(config, names.clone(), clock);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(supervisor.run(stop.clone()));
        Replica { tier, names, seals, tasks, stop }
    }

    pub(super) async fn of(server: &Server) -> Replica {
        let replica = Replica::patient(&server.url());
        replica.is(State::Up).await;
        replica
    }

    /// Waits until the tier is in this state.
    pub(super) async fn is(&self, state: State) {
        let mut changes = self.tier.changes();
        let reached = tokio::time::timeout(PATIENCE, changes.wait_for(|now| *now == state)).await;
        assert!(reached.is_ok(), "never {state:?}: {:?}", self.tier.describe());
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
