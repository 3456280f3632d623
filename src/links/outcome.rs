//! How a lookup ended.

use std::sync::Arc;

use super::{Entry, Times};
use crate::{clock::Instant, upstream};

/// How a link was found. One word each, the same in header, log and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// In memory, before the refresh point.
    Hit,
    /// In memory, past the refresh point; a refresh is under way or backing off.
    HitRefresh,
    /// In the shared tier: another replica had minted it.
    Shared,
    /// Minted for this request.
    Miss,
    /// Waited for a flight that another request began.
    Joined,
}

impl Found {
    pub fn as_str(self) -> &'static str {
        match self {
            Found::Hit => "hit",
            Found::HitRefresh => "hit-refresh",
            Found::Shared => "shared",
            Found::Miss => "miss",
            Found::Joined => "joined",
        }
    }
}

/// A live link.
#[derive(Debug)]
pub struct Lookup {
    pub entry: Arc<Entry>,
    /// The points of its life as they were known at `now`.
    pub times: Times,
    pub found: Found,
    /// Whether the caller had it minted although a live link was there.
    pub forced: bool,
    /// The moment at which the entry was found alive.
    pub now: Instant,
}

impl Lookup {
    /// A link that memory has.
    pub(super) fn hit(entry: Arc<Entry>, times: Times, due: bool, now: Instant) -> Lookup {
        let found = if due { Found::HitRefresh } else { Found::Hit };
        Lookup { entry, times, found, forced: false, now }
    }
}

/// Why a caller gets no link.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Upstream(Arc<upstream::Error>),
    #[error("kie.ai refused this file a moment ago")]
    Refused(#[source] Arc<upstream::Error>),
    #[error("nothing is cached and the caller wants nothing else")]
    NotCached,
    #[error("as many callers wait as may")]
    Crowded,
    #[error("the caller's deadline passed")]
    TimedOut,
    #[error("the flight was lost, several times over")]
    Lost,
}
