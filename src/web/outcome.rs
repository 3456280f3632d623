//! What became of a request for a link: how it was found, or why there is none. One word each, the same in log, metric
//! and page.

use crate::links::Found;

/// Why an answer has no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoLink {
    /// A remembered refusal of kie.ai's.
    Negative,
    /// Answered without kie.ai: bad request, source not allowed, overload, not cached.
    Refused,
    /// kie.ai was asked and no link could be had.
    Error,
}

impl NoLink {
    pub fn as_str(self) -> &'static str {
        match self {
            NoLink::Negative => "negative",
            NoLink::Refused => "refused",
            NoLink::Error => "error",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Found(Found),
    NoLink(NoLink),
}

impl Outcome {
    /// In the order in which people are shown them.
    pub const ALL: [Outcome; 8] = [
        Outcome::Found(Found::Hit),
        Outcome::Found(Found::HitRefresh),
        Outcome::Found(Found::Shared),
        Outcome::Found(Found::Miss),
        Outcome::Found(Found::Joined),
        Outcome::NoLink(NoLink::Negative),
        Outcome::NoLink(NoLink::Refused),
        Outcome::NoLink(NoLink::Error),
    ];

    /// Its position in `ALL`.
    pub(super) fn index(self) -> usize {
        match self {
            Outcome::Found(found) => found as usize,
            Outcome::NoLink(why) => Found::Joined as usize + 1 + why as usize,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Found(found) => found.as_str(),
            Outcome::NoLink(why) => why.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_outcomes_are_there_in_their_order() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome.index(), index);
        }
        assert_eq!(Outcome::NoLink(NoLink::Error).index() + 1, Outcome::ALL.len());
    }
}
