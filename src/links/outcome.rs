//! How a lookup ended: one word each, the same in header, log and metric.

use std::sync::Arc;

use super::{Entry, Times};
use crate::{clock::Instant, upstream};

/// One word each, the same everywhere; `as_str` is what people see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From memory, before the refresh point.
    Hit,
    /// From memory, past the refresh point; a refresh is under way or backing off.
    HitRefresh,
    /// Minted for this request.
    Miss,
    /// Waited for a flight that another request began.
    Joined,
    /// A remembered refusal of kie.ai.
    Negative,
    /// Answered without kie.ai: bad request, source not allowed, overload, not cached.
    Refused,
    /// kie.ai was asked and no link could be had.
    Error,
}

impl Outcome {
    /// In the order of the variants, so that `outcome as usize` is a place in it.
    pub const ALL: [Outcome; 7] = [
        Outcome::Hit,
        Outcome::HitRefresh,
        Outcome::Miss,
        Outcome::Joined,
        Outcome::Negative,
        Outcome::Refused,
        Outcome::Error,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::HitRefresh => "hit-refresh",
            Outcome::Miss => "miss",
            Outcome::Joined => "joined",
            Outcome::Negative => "negative",
            Outcome::Refused => "refused",
            Outcome::Error => "error",
        }
    }
}

/// A live link.
#[derive(Debug)]
pub struct Lookup {
    pub entry: Arc<Entry>,
    /// Its life as it was known then.
    pub times: Times,
    pub outcome: Outcome,
    /// Whether the caller had it minted although a live link was there.
    pub forced: bool,
    /// The moment at which the entry was found alive.
    pub now: Instant,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_outcomes_are_there_in_their_places() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
            // A new one does not compile here, and belongs above, too.
            match outcome {
                Outcome::Hit | Outcome::HitRefresh | Outcome::Miss | Outcome::Joined => {}
                Outcome::Negative | Outcome::Refused | Outcome::Error => {}
            }
        }
    }
}
