//! What other replicas have told of kie.ai's clock. Pure.

use std::{array, time::Duration};

use jiff::SignedDuration;

use super::{
    Instant,
    heard::{DRIFT, PackedHeard, nanos, signed_nanos},
};

/// So many beacons are kept, of which each is less than the one before.
pub(super) const BEACONS: usize = 8;

/// How another replica says what kie.ai's clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// It minted a link then. One wrong clock, kept with a link for twenty minutes, must not shorten the life of all
    /// links in memory: this counts for other machines' links only.
    Mint,
    /// Its own upper bound. This counts for links in memory, too.
    Beacon,
}

/// That kie.ai's clock shows more than ours by so much at least, or that some replica has reason to fear it. In nanoseconds,
/// as `PackedHeard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) at: u64,
    /// `i64::MAX` is more than can be told: nothing lives on.
    pub(super) ahead: i64,
}

impl Told {
    /// Contradicts nobody.
    const NOTHING: Told = Told { at: 0, ahead: i64::MIN };

    pub(super) fn new(at: Instant, ahead: SignedDuration) -> Told {
        Told { at: nanos(at.since_origin()), ahead: signed_nanos(ahead) }
    }

    pub(super) fn at(self) -> Instant {
        Instant::from_origin(Duration::from_nanos(self.at))
    }

    /// kie.ai's clock less ours at `now`, as this tells it: clocks drift.
    fn ahead_at(self, now: u64) -> i64 {
        self.ahead.saturating_add_unsigned(now.saturating_sub(self.at) / u64::from(DRIFT))
    }
}

/// How much more time, at most, has passed at kie.ai than here since `then`, by the beacons that came after it was asked
/// for: such a beacon shows as much as an answer. The drift of `then` counts from when it was asked for, as in
/// `KieClock::beacon`: an answer is not contradicted by a beacon that is made of it alone.
pub(super) fn ahead_since(beacons: &[Told], then: &PackedHeard, now: Instant) -> Duration {
    let Some(most) = then.most() else { return Duration::ZERO };
    let now = nanos(now.since_origin());
    let drifted = |told: &Told| (told.at - then.sent_at) / u64::from(DRIFT);
    let taken = |told: &Told| match told.ahead {
        _ if told.at <= then.sent_at => 0,
        i64::MAX => u64::MAX,
        ahead if ahead > most.saturating_add_unsigned(drifted(told)) => told.ahead_at(now).abs_diff(then.least),
        _ => 0,
    };
    Duration::from_nanos(beacons.iter().map(taken).max().unwrap_or_default())
}

#[derive(Debug, Default)]
pub(super) struct Witnesses {
    /// The greatest that mints have shown.
    mint: Option<Told>,
    /// The greatest of the beacons, and those that came later, each less than the one before: what came after a link was
    /// asked for counts for it, though an earlier and greater one does not.
    beacons: Vec<Told>,
}

impl Witnesses {
    pub(super) fn hear(&mut self, witness: Witness, told: Told) {
        let is_outdone = |known: &Told| known.ahead_at(told.at) <= told.ahead;
        match witness {
            Witness::Mint if self.mint.as_ref().is_none_or(is_outdone) => self.mint = Some(told),
            Witness::Mint => {}
            Witness::Beacon => {
                self.beacons.retain(|known| !is_outdone(known));
                self.beacons.push(told);
                if self.beacons.len() > BEACONS {
                    // The greater of the last two, as if it had come with the last: too pessimistic rather than forgotten.
                    self.beacons.pop();
                    self.beacons.last_mut().expect("more than one").at = told.at;
                }
            }
        }
    }

    pub(super) fn forget(&mut self, is_healed: impl Fn(&Told) -> bool) {
        self.mint.take_if(|told| is_healed(told));
        self.beacons.retain(|told| !is_healed(told));
    }

    /// As they came; the rest is nothing.
    pub(super) fn beacons(&self) -> [Told; BEACONS] {
        array::from_fn(|number| self.beacons.get(number).copied().unwrap_or(Told::NOTHING))
    }

    /// The greatest at `now`, by whomever.
    pub(super) fn ahead_at(&self, now: Instant) -> Option<SignedDuration> {
        let now = nanos(now.since_origin());
        let most = self.mint.iter().chain(&self.beacons).map(|told| told.ahead_at(now)).max()?;
        Some(if most == i64::MAX { SignedDuration::MAX } else { SignedDuration::from_nanos(most) })
    }
}
