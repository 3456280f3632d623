//! The credits left, asked for by one replica for all: they rest in the tier under a name that no source URL can have, and
//! whoever finds them too old there has the leave to ask kie.ai.

use std::{fmt, sync::Arc, time::Duration};

use super::{BEHIND, Fleet, Inner, realm::Realm, words};
use crate::{
    shared::{Content, FileNames, Holder, Look, Newer, Rejection, Request, State},
    upstream::{Amount, Error},
};

/// Stands where a source URL does; none has a blank.
const CREDITS: &str = "credits left";

/// Another replica's call is waited for no longer than this, and looked after so often.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Another replica has asked.
#[derive(Debug, Clone)]
pub enum SeenBefore {
    Left {
        left: Amount,
        /// At most.
        age: Duration,
    },
    Failed(Error),
}

/// The leave to ask kie.ai. The others are told what came of it, and may ask themselves where it is dropped.
pub struct Turn {
    fleet: Fleet,
    /// `None` where the tier is done without.
    place: Option<(Arc<Realm>, FileNames, Holder)>,
}

impl Fleet {
    /// Waits a moment for the tier, which is not there yet when kielink has just started.
    pub async fn settled(&self) {
        let Some(realm) = self.0.realms().first().cloned() else { return };
        let mut changes = realm.tier().changes();
        let _ = tokio::time::timeout(BEHIND, changes.wait_for(|state| *state == State::Up)).await;
    }

    /// The credits as another replica has seen them no longer ago than `within`; else the leave to ask kie.ai.
    pub async fn turn_for_credits(&self, within: Duration) -> Result<Turn, SeenBefore> {
        let turn = |place| Ok(Turn { fleet: self.clone(), place });
        let Some(realm) = self.up() else { return turn(None) };
        let (file, holder) = (realm.names.file(CREDITS), self.0.holder());
        let give_up_at = self.0.clock.now() + LONGEST_WAIT;
        let (mut newer, mut waits) = (Newer::Any, false);
        while self.0.clock.now() < give_up_at {
            // Why another replica's call failed is told to those who wait, and have no holder.
            let asking = (!waits).then_some(&holder);
            match realm.ask(Request::look(&file, realm.names.fleet(), asking, newer), BEHIND).await {
                Ok(Look::Hit { sealed, beacon }) => {
                    match self.0.credits_in(&realm, &file, &sealed, beacon, within) {
                        Ok(seen) => return Err(seen),
                        Err(passed) => newer = passed,
                    }
                    continue;
                }
                Ok(Look::Mine) => return turn(Some((realm, file, holder))),
                Ok(Look::Failed { sealed }) => {
                    let failure = self.0.failure(&realm, &file, &sealed);
                    return failure.map_or_else(|| turn(None), |error| Err(SeenBefore::Failed(error)));
                }
                Ok(Look::Free) => {
                    waits = false;
                    continue;
                }
                Ok(Look::Wait { .. }) => waits = true,
                Err(_) => return turn(None),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        turn(None)
    }

    /// The same, where nobody is to ask kie.ai.
    pub async fn look_for_credits(&self, within: Duration) -> Option<(Amount, Duration)> {
        let realm = self.up()?;
        let file = realm.names.file(CREDITS);
        let look = realm.ask(Request::look(&file, realm.names.fleet(), None, Newer::Any), BEHIND).await;
        let Ok(Look::Hit { sealed, beacon }) = look else { return None };
        match self.0.credits_in(&realm, &file, &sealed, beacon, within) {
            Ok(SeenBefore::Left { left, age }) => Some((left, age)),
            Ok(SeenBefore::Failed(_)) | Err(_) => None,
        }
    }

    fn up(&self) -> Option<Arc<Realm>> {
        self.0.realms().first().filter(|realm| realm.is_up()).cloned()
    }
}

impl Turn {
    /// Tells the others, for whom an answer is good for `life`. Nobody waits for that.
    pub fn tell(mut self, result: &Result<Amount, Error>, life: Duration) {
        let Some((realm, file, holder)) = self.place.take() else { return };
        let inner = &self.fleet.0;
        let Some(at) = inner.kie_clock.beacon(inner.clock.now()) else {
            return inner.release(&realm, &file, &holder);
        };
        match result {
            Ok(left) => {
                let content = Content::Credits { at, text: left.to_string() };
                let put = Request::put(&file, &holder, realm.seals.seal(&file.link, &content), life);
                // Whoever does not find it asks kie.ai.
                inner.ask_behind(&realm, put);
            }
            Err(error) => {
                let told = words::write(error).map(|text| Content::Failure { at, text });
                let sealed = told.map(|content| realm.seals.seal(&file.lease, &content));
                // It lapses by itself.
                inner.ask_behind(&realm, Request::release(&file, &holder, sealed));
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((realm, file, holder)) = self.place.take() {
            self.fleet.0.release(&realm, &file, &holder);
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("is_for_all", &self.place.is_some()).finish_non_exhaustive()
    }
}

impl Inner {
    /// What was found; else, what must be newer to do.
    fn credits_in(
        &self,
        realm: &Realm,
        file: &FileNames,
        sealed: &[u8],
        beacon: Option<Vec<u8>>,
        within: Duration,
    ) -> Result<SeenBefore, Newer> {
        self.hear_beacon(realm, beacon.as_deref());
        let (at, text) = match realm.seals.open(&file.link, sealed) {
            Ok(Content::Credits { at, text }) => (at, text),
            Ok(_) => {
                realm.rejected(Rejection::Malformed);
                return Err(Newer::Never);
            }
            Err(why) => {
                realm.rejected(why);
                return Err(Newer::Never);
            }
        };
        let now = self.clock.now();
        let age = self.kie_clock.upper_bound(now).map(|shown| {
            // Another replica may know better how late it is.
            Duration::try_from(shown.duration_since(at)).unwrap_or_default()
        });
        match (Amount::read(&text), age.filter(|age| *age <= within)) {
            (Some(left), Some(age)) => Ok(SeenBefore::Left { left, age }),
            (Some(_), None) => Err(Newer::Than(at)),
            (None, _) => Err(Newer::Never),
        }
    }
}
