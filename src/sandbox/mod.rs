//! What stands behind `kielink sandbox`: a simulated kie.ai and its file host, to try kielink with no key and no
//! network.
//!
//! | module | |
//! |---|---|
//! | `world` | the state that all of them share |
//! | `kie`, `answer` | kie.ai with its habits: errors as HTTP 200, HTML from a gateway, empty bodies |
//! | `control` | `/sandbox` on the same port: outages, latency, failures, while it runs |
//! | `files` | the host that the links lead to: it serves a file until the link's end and not a second longer |
//! | `signature`, `encoding` | pure: signed links |
//! | `quota`, `samples` | pure: how often kie.ai may be called; the files themselves |
//! | `run` | the only part that knows kielink: puts the simulation behind it and prints what to try |
//!
//! Whoever runs it serves the two routers, [`kie::router`] and [`files::router`], over one [`World`]. The sandbox
//! prints nothing and reads no clock but the one it is given.

mod answer;
mod control;
mod encoding;
pub mod files;
pub mod kie;
mod quota;
pub mod run;
mod samples;
mod signature;
mod world;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

pub use samples::Sample;
pub use world::World;

/// The wall clock, given from outside.
pub type Wall = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Far over what any caller waits, and short enough that a mistyped unit does not hang a demonstration for a day.
const LONGEST_LATENCY: Duration = Duration::from_secs(60 * 60);

/// How the simulated kie.ai behaves. All of it can be changed at `/sandbox` while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// From a call's arrival to its answer.
    pub latency: Duration,
    /// The share of calls, 0 to 1, that fail for no reason.
    pub failure_rate: f64,
    /// From a mint to the end of its link; whole seconds count.
    pub link_life: Duration,
    /// Calls a second; 0 refuses them all.
    pub quota: u32,
}

impl Config {
    /// kie.ai on a good day: the latency that was measured, the life that is documented.
    ///
    /// No quota is published for this call. 30 a second is over what kielink sends with its own defaults even in its
    /// first second (a burst of 20, then 10 a second), so that a 429 here is always one that somebody asked for.
    pub const GOOD_DAY: Self = Self {
        latency: Duration::from_millis(325),
        failure_rate: 0.0,
        link_life: Duration::from_secs(20 * 60),
        quota: 30,
    };

    fn check(&self) -> Result<(), Error> {
        if self.latency > LONGEST_LATENCY {
            return Err(Error::Latency);
        }
        // Written this way round, NaN is refused too.
        if !(0.0..=1.0).contains(&self.failure_rate) {
            return Err(Error::FailureRate);
        }
        if !(signature::SHORTEST_LIFE..=signature::LONGEST_LIFE).contains(&self.link_life) {
            return Err(Error::LinkLife);
        }
        Ok(())
    }
}

/// Why a sandbox cannot be like that.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("latency is at most 1h")]
    Latency,
    #[error("failure_rate is a share from 0 to 1, such as 0.3")]
    FailureRate,
    #[error("link_life is 1s to 7d, as for any signed link")]
    LinkLife,
    #[error("the file host's base URL is an http or https URL without credentials")]
    Files,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_no_sandbox_can_have_are_refused_by_name() {
        let good = Config::GOOD_DAY;
        let seconds = Duration::from_secs;
        let with_life = |link_life| Config { link_life, ..good.clone() };
        let with_rate = |failure_rate| Config { failure_rate, ..good.clone() };
        let with_latency = |latency| Config { latency, ..good.clone() };
        let table = [
            (good.clone(), Ok(())),
            (with_life(Duration::from_millis(999)), Err(Error::LinkLife)),
            (with_life(seconds(1)), Ok(())),
            (with_life(seconds(604_800)), Ok(())),
            (with_life(seconds(604_801)), Err(Error::LinkLife)),
            (with_rate(-0.01), Err(Error::FailureRate)),
            (with_rate(1.0), Ok(())),
            (with_rate(1.01), Err(Error::FailureRate)),
            (with_rate(f64::NAN), Err(Error::FailureRate)),
            (with_latency(seconds(3600)), Ok(())),
            (with_latency(seconds(3601)), Err(Error::Latency)),
        ];
        for (config, expected) in table {
            assert_eq!(config.check(), expected, "{config:?}");
        }
    }
}
