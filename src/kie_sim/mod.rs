//! A simulated kie.ai and its file host, with all their manners and bad manners. It stands behind `kielink sandbox`, to
//! try kielink with no key and no network, and behind the integration tests.
//!
//! | module | |
//! |---|---|
//! | `world` | the state that all of them share, and what it is told to do |
//! | `kie` | which answer is due: kie.ai as documented, or as told |
//! | `answer`, `canned`, `words` | an answer as a value: how it is built, and how it is written as text |
//! | `links`, `signature`, `encoding` | the links: signed, or in any other form |
//! | `render`, `body` | an answer as bytes |
//! | `files`, `range`, `samples` | the host that the links lead to: it serves a file until the link's end and not a second longer |
//! | `control` | `/sandbox` on kie.ai's port: what to change while it runs |
//! | `door`, `connection`, `wire`, `request` | connections, request by request, on the raw stream |
//! | `record`, `quota`, `balance` | what was asked, how often it may be, and the credits left |
//!
//! It speaks HTTP/1.1 by hand: a library would keep it from breaking the protocol. It knows nothing of kielink but its
//! clock, prints nothing, and nothing that a peer sends makes it panic or grow.

mod answer;
mod balance;
mod body;
mod canned;
mod connection;
mod control;
mod door;
mod encoding;
mod files;
mod kie;
mod links;
mod quota;
mod range;
mod record;
mod render;
mod request;
mod samples;
mod signature;
mod wire;
mod words;
mod world;

use std::time::Duration;

pub use self::{
    answer::Answer,
    connection::{Ending, converse},
    door::serve,
    kie::{CREDIT, DOWNLOAD_URL, DOWNLOAD_URL_4O},
    request::Request,
    samples::Sample,
    world::{Script, World},
};

/// Which of the two hosts a connection leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Host {
    Kie,
    Files,
}

/// Far over what any caller waits, and short enough that a mistyped unit does not hang a demonstration for a day.
const LONGEST_LATENCY: Duration = Duration::from_secs(60 * 60);

/// How the simulated kie.ai behaves on the whole. The numbers can be changed at `/sandbox` while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Time from a call's arrival to its answer.
    pub latency: Duration,
    /// The share of calls, 0 to 1, that fail for no reason.
    pub failure_rate: f64,
    /// Time from a mint to the end of its link; whole seconds count.
    pub link_life: Duration,
    /// Calls a second; 0 refuses them all.
    pub quota: u32,
    /// Whether there are links for anything at all, or only for URLs on the hosts where kie.ai keeps its results.
    pub takes_any_source: bool,
    /// How many requests and links are kept to be looked at.
    pub remembers: usize,
}

impl Config {
    /// kie.ai on a good day: the latency that was measured, the life that is documented.
    ///
    /// No quota is published for this call. 30 a second is more than kielink sends with its own defaults even in its
    /// first second (a burst of 20, then 10 a second), so that a 429 here is always one that somebody asked for.
    pub const GOOD_DAY: Self = Self {
        latency: Duration::from_millis(325),
        failure_rate: 0.0,
        link_life: Duration::from_secs(20 * 60),
        quota: 30,
        takes_any_source: false,
        remembers: 0,
    };

    /// For tests: nothing happens by itself, and everything is remembered.
    pub const SCRIPTED: Self = Self {
        latency: Duration::ZERO,
        quota: u32::MAX,
        takes_any_source: true,
        remembers: usize::MAX,
        ..Self::GOOD_DAY
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

/// Why a simulation cannot have these settings.
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
    fn settings_that_no_simulation_can_have_are_refused_by_name() {
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
