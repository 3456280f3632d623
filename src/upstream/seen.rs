//! What was seen of kie.ai: how its last calls went, and whether it takes the key. For people; nothing is decided by it.

use std::{
    collections::VecDeque,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;

use super::{Condition, Error, Inner, Kie};
use crate::clock::Instant;

/// Enough to tell a hiccup from an outage, and few enough that they are recent.
const MOST: usize = 6;

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// How each call failed, `None` where it did not; the oldest first.
    calls: VecDeque<Option<String>>,
    last_at: Option<Instant>,
    /// Since when calls have gone as the last one did.
    since: Option<Instant>,
    /// The version of the key that kie.ai has taken last.
    taken_key: Option<u64>,
    /// The version of a key that was refused to a call besides the mint, and has not minted.
    refused_key: Option<u64>,
}

/// The last calls to kie.ai, at most six.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    pub calls: usize,
    pub failed: usize,
    /// In a few words, none of which is a caller's.
    pub last_failure: Option<String>,
    pub last_was_good: bool,
    /// How long ago the last one ended, and since when they have gone as it did.
    #[serde(skip)]
    pub age: Duration,
    #[serde(skip)]
    pub alike_for: Duration,
    /// How often one went otherwise than the one before it.
    #[serde(skip)]
    pub turns: usize,
}

/// What kie.ai thinks of the key, as far as it has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    NotTried,
    Taken,
    Refused,
}

impl Calls {
    /// What was seen, for people: never that all is well where nothing was tried, or where it fails.
    pub fn said(&self, condition: Condition) -> String {
        let state = match condition {
            Condition::Well => None,
            Condition::Limiting => Some("limits the rate"),
            Condition::Unwell => Some("unwell"),
            Condition::Refusing => Some("refuses the account"),
        };
        match (state, self.counted()) {
            (Some(state), Some(calls)) => format!("{state}, {calls}"),
            (Some(state), None) => state.to_owned(),
            (None, Some(calls)) => calls,
            (None, None) if self.calls == 0 => "not asked yet".to_owned(),
            (None, None) => "ok".to_owned(),
        }
    }

    /// How many of them failed, where any did.
    fn counted(&self) -> Option<String> {
        let Calls { calls, failed, .. } = self;
        let why = self.last_failure.as_ref()?;
        Some(match (calls, calls - failed) {
            (1, _) => format!("the last call failed: {why}"),
            (_, 0) => format!("0 of the last {calls} calls worked: {why}"),
            (_, _) => format!("{failed} of the last {calls} calls failed: {why}"),
        })
    }

    /// Whether there is nothing to worry about in what was seen.
    pub fn look_well(&self, condition: Condition) -> bool {
        condition == Condition::Well && (self.calls == 0 || self.last_was_good)
    }
}

impl Seen {
    fn note(&mut self, failure: Option<String>, now: Instant) {
        let is_as_before = self.calls.back().is_some_and(|last| last.is_some() == failure.is_some());
        if self.calls.len() == MOST {
            self.calls.pop_front();
        }
        self.calls.push_back(failure);
        self.last_at = Some(now);
        if !is_as_before {
            self.since = Some(now);
        }
    }

    fn calls(&self, now: Instant) -> Calls {
        let ago = |at: Option<Instant>| at.map(|at| at.until(now)).unwrap_or_default();
        Calls {
            calls: self.calls.len(),
            failed: self.calls.iter().flatten().count(),
            last_failure: self.calls.iter().rev().flatten().next().cloned(),
            last_was_good: self.calls.back().is_some_and(Option::is_none),
            age: ago(self.last_at),
            alike_for: ago(self.since),
            turns: self.calls.iter().zip(self.calls.iter().skip(1)).filter(|(a, b)| a.is_some() != b.is_some()).count(),
        }
    }
}

impl Inner {
    /// Notes how a call went, and the version of the key that it carried, where that is the newest.
    pub(super) fn saw(&self, error: Option<&Error>, key: Option<u64>) {
        let failure = error.filter(|error| !error.is_refusal()).map(Error::in_a_few_words);
        // Whoever refuses a file has taken the key.
        let takes_key = match error {
            None => true,
            Some(error) => error.is_refusal() && error.answer().is_some_and(|answer| answer.code.is_some()),
        };
        let now = self.clock.now();
        let mut seen = self.seen();
        seen.note(failure, now);
        if let Some(key) = key.filter(|_| takes_key) {
            (seen.taken_key, seen.refused_key) = (Some(key), None);
        }
    }

    /// The same for a call besides the mint. What kie.ai itself says against that call says nothing of mints, except that
    /// a key which was never taken may be a wrong one.
    pub(super) fn saw_aside(&self, error: Option<&Error>, key: u64) {
        let by_code = error.and_then(Error::answer).is_some_and(|answer| answer.code.is_some());
        if !by_code {
            return self.saw(error, Some(key));
        }
        let is_refused = matches!(error, Some(Error::KeyRefused(_))) && self.seen().taken_key != Some(key);
        if is_refused {
            self.saw(error, Some(key));
            self.seen().refused_key = Some(key);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Every section leaves it whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kie {
    /// Whether kie.ai refuses the account because it has no credits.
    pub fn is_out_of_credits(&self) -> bool {
        self.0.gate.is_out_of_credits()
    }

    pub fn calls(&self) -> Calls {
        let now = self.0.clock.now();
        self.0.seen().calls(now)
    }

    /// Of the newest key.
    pub fn key_state(&self) -> KeyState {
        let version = self.key_version();
        let seen = self.0.seen();
        match seen.taken_key {
            _ if self.0.gate.refuses_key(version) || seen.refused_key == Some(version) => KeyState::Refused,
            Some(taken) if taken == version => KeyState::Taken,
            Some(_) | None => KeyState::NotTried,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` for a call that worked, `-` for one that did not.
    fn calls(went: &str) -> Calls {
        let mut seen = Seen::default();
        let at = |seconds: usize| Instant::from_origin(Duration::from_secs(seconds as u64));
        for (second, how) in went.chars().enumerate() {
            seen.note((how == '-').then(|| "HTTP 502".to_owned()), at(second));
        }
        seen.calls(at(100))
    }

    #[test]
    fn what_was_seen_is_said_and_what_was_not_tried_is_not_called_well() {
        for (went, condition, looks_well, said) in [
            ("", Condition::Well, true, "not asked yet"),
            ("+", Condition::Well, true, "ok"),
            ("-", Condition::Well, false, "the last call failed: HTTP 502"),
            ("-+", Condition::Well, true, "1 of the last 2 calls failed: HTTP 502"),
            ("+-", Condition::Well, false, "1 of the last 2 calls failed: HTTP 502"),
            ("--+++-", Condition::Well, false, "3 of the last 6 calls failed: HTTP 502"),
            ("+------", Condition::Well, false, "0 of the last 6 calls worked: HTTP 502"),
            ("------", Condition::Unwell, false, "unwell, 0 of the last 6 calls worked: HTTP 502"),
            ("++++++", Condition::Limiting, false, "limits the rate"),
            ("-", Condition::Refusing, false, "refuses the account, the last call failed: HTTP 502"),
            ("-++++++", Condition::Well, true, "ok"),
        ] {
            let calls = calls(went);
            assert_eq!((calls.look_well(condition), calls.said(condition).as_str()), (looks_well, said), "{went}");
        }
    }

    #[test]
    fn it_is_known_since_when_it_is_so() {
        for (went, age, alike_for) in [("", 0, 0), ("+", 100, 100), ("++--", 97, 98), ("--++++", 95, 98)] {
            let calls = calls(went);
            assert_eq!((calls.age.as_secs(), calls.alike_for.as_secs()), (age, alike_for), "{went}");
        }
    }
}
