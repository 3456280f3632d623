//! What other replicas have told of kie.ai's clock. Pure.

use jiff::SignedDuration;

use super::{
    Instant,
    heard::{DRIFT, signed},
};

/// So many beacons are kept, of which each is less than the one before.
const BEACONS: usize = 8;

/// How another replica says what kie.ai's clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// It minted a link then. One wrong clock, kept with a link for twenty minutes, must not shorten the life of all
    /// links in memory: this counts for other machines' links only.
    Mint,
    /// Its own upper bound. This counts for links in memory, too.
    Beacon,
}

/// That kie.ai's clock shows more than ours by so much at least, or that some replica has reason to fear it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) at: Instant,
    pub(super) ahead: SignedDuration,
}

impl Told {
    /// kie.ai's clock less ours at `now`, as this tells it: clocks drift.
    pub(super) fn ahead_at(self, now: Instant) -> SignedDuration {
        self.ahead.saturating_add(signed(self.at.until(now) / DRIFT))
    }
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

    pub(super) fn beacons(&self) -> impl Iterator<Item = &Told> {
        self.beacons.iter()
    }

    /// The greatest at `now`, by whomever.
    pub(super) fn ahead_at(&self, now: Instant) -> Option<SignedDuration> {
        self.mint.iter().chain(&self.beacons).map(|told| told.ahead_at(now)).max()
    }
}
