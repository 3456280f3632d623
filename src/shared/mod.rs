//! The tier that a fleet shares, so that many replicas act as one: they find each other's links there, mint each file
//! once among them, and keep kie.ai's quota together.
//!
//! Does not know what a mint is, nor who waits for one; `links` and `upstream` ask. Whatever the tier does, nobody waits
//! for it beyond a budget, and nothing that it says can make a dead link live: what rests there is sealed (`seal`) and
//! judged by kie.ai's clock (`life`). A tier that is away costs one wait, then nothing until it is back.

mod connection;
mod dial;
mod fault;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod life;
mod line;
mod metrics;
#[cfg(test)]
pub(crate) mod model;
mod names;
mod quota;
mod resolve;
mod scripts;
mod seal;
mod starved;
mod state;
#[cfg(test)]
mod testing;
mod url;

pub use self::{
    connection::{Config, Description, Supervisor, Tier},
    fault::Error,
    life::{Alive, Withheld, judge, kept},
    names::{FileNames, FleetNames, Holder, Names, Replica},
    quota::{Debt, Fleet, Known, Level, Quota, REMEMBERED},
    scripts::{Beat, LEASE, Look, Newer, Operation, PEEK, Peek, Put, Request, Saying, TOMBSTONE, Take, Taken},
    seal::{Content, Kept, Rejection, Seals},
    state::State,
    url::{Address, Invalid},
};
