//! One replica of a simulated fleet: all that decides is real, put together as `app` does.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    kie::{Kie, Wire},
    world::Machine,
};
use crate::{
    clock::{Clock, KieClock},
    fleet::{self, Fleet, Minter},
    key::{ApiKey, KeySource, Keys},
    link::Policy,
    links::{self, Links, MintResult},
    shared::{self, Names, State, model},
    simulation::non_zero,
    telemetry::{Failures, trace::Tracer},
    upstream::{self, GateConfig, KieConfig, Mint},
};

/// How all replicas of one fleet are set.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) links: links::Config,
    pub(super) rate: u32,
    pub(super) burst: u32,
    pub(super) in_flight: u32,
    pub(super) attempt_timeout: Duration,
    pub(super) attempts: u32,
    pub(super) presumed: NonZeroU32,
}

pub(super) struct Replica {
    pub(super) number: usize,
    pub(super) machine: Arc<Machine>,
    pub(super) clock: Clock,
    pub(super) links: Links,
    pub(super) fleet: Option<Fleet>,
    /// Its machine is gone, and nobody asks it.
    pub(super) is_dead: Arc<AtomicBool>,
    tier: Option<Arc<model::Model>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

fn key() -> ApiKey {
    ApiKey::new("simulated-key").unwrap()
}

pub(super) fn names() -> Names {
    Names::new(&key().fleet_secret())
}

impl Replica {
    pub(super) fn start(
        number: usize,
        settings: &Settings,
        machine: Arc<Machine>,
        kie: &Arc<Kie>,
        tier: Option<&Arc<model::Model>>,
    ) -> Replica {
        let (clock, kie_clock, is_dead) = (machine.clock(), KieClock::default(), Arc::new(AtomicBool::new(false)));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let Settings { links, rate, burst, in_flight, attempt_timeout, attempts, presumed } = settings.clone();
        let (rate, burst) = (non_zero(rate), non_zero(burst));
        let reserve = links.flight_timeout / 10;
        let fleet = tier.map(|tier| {
            let config = fleet::Config {
                tier: shared::Config { address: tier.address(number), timeout: Duration::from_millis(20) },
                address_file: None,
                presumed,
                rate,
                burst,
                margin: links.margin,
                negative_ttl: links.negative_ttl,
                force_interval: links.force_interval,
                reserve,
                links: Policy::default(),
            };
            let keys = Keys::new(key(), KeySource::Environment, clock.clone());
            let (clock, kie_clock, tasks, stop) = (clock.clone(), kie_clock.clone(), tasks.clone(), stop.clone());
            Fleet::new(config, fleet::Parts { keys, clock, kie_clock, tasks, stop })
        });
        let wire = Wire {
            kie: Arc::clone(kie),
            replica: number,
            machine: Arc::clone(&machine),
            clock: clock.clone(),
            kie_clock: kie_clock.clone(),
            is_dead: Arc::clone(&is_dead),
            tier: tier.map(|tier| (Arc::clone(tier), names())),
        };
        let gate = GateConfig { rate, burst, in_flight: non_zero(in_flight), waiting: 1000, reserve };
        let config = KieConfig { gate, attempt_timeout, attempts };
        let quota = fleet.clone().map(|fleet| Arc::new(fleet) as Arc<dyn upstream::Quota>);
        let kie = upstream::Kie::within(quota, &config, wire, clock.clone(), &tasks, stop.clone());
        let mint: Arc<dyn Mint> = match &fleet {
            Some(fleet) => Arc::new(Minter::new(fleet.clone(), Arc::new(kie.clone()))),
            None => Arc::new(kie.clone()),
        };
        let parts = links::Parts {
            mint,
            clock: clock.clone(),
            kie_clock: kie_clock.clone(),
            log_hash: key().log_hash(),
            tracer: Tracer::default(),
            noted: Failures::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let links = Links::new(links, parts);
        tasks.spawn(kie_clock.clone().watch(clock.clone(), stop.clone()));
        if let Some(fleet) = &fleet {
            let (greeter, stopped) = (kie.clone(), stop.clone());
            tasks.spawn(async move { stopped.run_until_cancelled(greeter.greet(&kie_clock)).await });
            let (counted, forgetting) = (links.clone(), links.clone());
            let minted = move || {
                let good = counted.mints().into_iter().filter(|count| count.result == MintResult::Ok);
                good.map(|count| count.count).sum()
            };
            let forget =
                move |forgotten: fleet::Forgotten| forgetting.forget_where(|source| forgotten.is_meant(source));
            tasks.spawn(fleet.clone().run(kie, minted, forget, stop.clone()));
        }
        Replica { number, machine, clock, links, fleet, is_dead, tier: tier.cloned(), tasks, stop }
    }

    /// Whether it asks the tier for its tokens, and owes it nothing.
    pub(super) fn is_square(&self) -> bool {
        self.fleet.as_ref().is_none_or(crate::fleet::Fleet::is_square)
    }

    /// Whether the others leave it its share.
    pub(super) fn is_apart(&self) -> bool {
        self.fleet.as_ref().is_some_and(crate::fleet::Fleet::is_apart)
    }

    pub(super) fn sees_the_tier(&self) -> bool {
        self.fleet.as_ref().is_some_and(|fleet| fleet.state() == State::Up)
    }

    /// How many replicas it knows.
    pub(super) fn knows(&self) -> u32 {
        self.fleet.as_ref().and_then(Fleet::describe).map_or(1, |described| described.replicas)
    }

    /// Without a word: what it has asked comes to no end, and what it has leased lapses.
    pub(super) fn kill(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
        if let Some(tier) = &self.tier {
            tier.cut_off(self.number, true);
        }
        self.stop.cancel();
    }

    /// Nothing is left behind.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await.expect("every task ends at shutdown");
    }
}
