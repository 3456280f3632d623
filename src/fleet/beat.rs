//! What replicas tell each other every second, and what happens when the tier goes and comes.

use std::{collections::HashSet, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{join, join_all, select_all},
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    BEHIND, Fleet, Inner,
    later::{Deletion, Heard, Untold},
    local::Present,
    realm::Realm,
};
use crate::{
    clock::Instant,
    shared::{Beat, Content, FileNames, LEASE, PEEK, Request, Saying, State},
    source::Source,
    upstream::Kie,
};

const EVERY: Duration = Duration::from_secs(1);

/// Three times within a lease's life, less some time for the trip.
const RENEW_EVERY: Duration = Duration::from_millis(LEASE.as_millis() as u64 * 35 / 100);

/// Leases renewed in one question.
const RENEWED_AT_ONCE: usize = 64;

/// Links, or forgotten files, that the tier is told of at once: callers' questions must not wait behind many, nor the tier be
/// taken for silent where all of them take longer than a caller's patience with it.
const TOLD_AT_ONCE: usize = 16;

/// For the last words of all: the process ends.
const GOODBYE: Duration = Duration::from_millis(20);

/// What a replica says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    /// Drawn at its start.
    #[serde(default)]
    pub id: String,
    pub version: String,
    pub age_seconds: u64,
    /// Links that it minted within the last second.
    pub mints: u64,
    /// Its `upstream.rate`.
    pub rate: u32,
}

/// What a replica tells the others.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    #[serde(flatten)]
    member: Member,
    /// It keeps its share for those who waited when the tier came back.
    #[serde(default)]
    is_apart: bool,
    /// It has just found the tier, if that, and goes by its share.
    #[serde(default)]
    is_listening: bool,
}

/// Which files other replicas were told to forget: known by what stands for them.
pub struct Forgotten(Vec<(Arc<Realm>, HashSet<String>)>);

impl Forgotten {
    pub(super) fn of(realm: Arc<Realm>, ids: HashSet<String>) -> Forgotten {
        Forgotten(vec![(realm, ids)])
    }

    pub fn is_meant(&self, source: &Source) -> bool {
        self.0.iter().any(|(realm, ids)| ids.contains(&realm.file(source).id))
    }

    /// These and those.
    pub fn and(mut self, others: Forgotten) -> Forgotten {
        for (realm, ids) in others.0 {
            match self.0.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &realm)) {
                Some((_, known)) => known.extend(ids),
                None => self.0.push((realm, ids)),
            }
        }
        self
    }
}

/// What the beats of one replica go by.
struct Beating {
    began: Instant,
    minted: u64,
}

impl Fleet {
    /// Beats every second, renews leases, and does what was put off when the tier is back; until `stop`, and then says goodbye,
    /// which takes 20 ms at most. `minted` counts links; `forget` is told what other replicas forgot.
    pub async fn run(
        self,
        kie: Kie,
        minted: impl Fn() -> u64 + Send + Sync,
        forget: impl Fn(Forgotten) + Send + Sync,
        stop: CancellationToken,
    ) {
        let inner = &self.0;
        let began = inner.clock.now();
        let beats = unbroken("beats", || inner.beat_on(began, &kie, &minted, &forget));
        let renewals = unbroken("renewals", || async {
            loop {
                tokio::time::sleep(RENEW_EVERY).await;
                inner.renew().await;
            }
        });
        let payments = unbroken("payments", || inner.pay_on());
        let moves = unbroken("moves", || inner.watch_address());
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { tokio::join!(beats, renewals, payments, moves); } => {}
        }
        // Whoever goes without a word is missed within a few seconds.
        let _ = tokio::time::timeout(GOODBYE, inner.say_goodbye()).await;
        inner.realms().iter().for_each(|realm| realm.disconnect());
    }
}

/// Begins it anew after a panic: without it this replica would be alone, or forgotten by the others.
async fn unbroken<F: Future<Output = ()>>(task: &'static str, work: impl Fn() -> F) {
    while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
        tracing::error!(task, "a task of the fleet has panicked and begins anew");
        tokio::time::sleep(EVERY).await;
    }
}

/// Who is there, the asker among them. Who was apart may be absent by now, and is reckoned with as such. `said` is what each that
/// lives has said, if it can be read: in the order of their last beats, so that those who have beaten of late, `of_late` in number,
/// are the last of them.
fn present(said: &[Option<Said>], of_late: u32, of: u32, asker: &str) -> Present {
    let count = |some: &[Option<Said>], is_so: &dyn Fn(&Said) -> bool| {
        let count = some.iter().flatten().filter(|said| is_so(said)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let latest = &said[said.len().saturating_sub(of_late as usize)..];
    let listening = count(latest, &|said| said.member.id != asker && said.is_listening);
    let together = of_late.saturating_sub(listening).max(1);
    let own = count(said, &|said| said.member.id == asker && said.is_apart);
    let others = count(said, &|said| said.member.id != asker && said.is_apart && !said.is_listening);
    Present { together, apart: own + others.min(together - 1), listening, of }
}

impl Inner {
    async fn beat_on(
        &self,
        began: Instant,
        kie: &Kie,
        minted: &(impl Fn() -> u64 + Sync),
        forget: &(impl Fn(Forgotten) + Sync),
    ) {
        let mut beating = Beating { began, minted: minted() };
        loop {
            let realms = self.realms();
            // A tier that comes or goes is noticed at once, also where it does so in this turn.
            let mut changes: Vec<_> = realms.iter().map(|realm| realm.tier().changes()).collect();
            changes.iter_mut().for_each(|changes| {
                changes.borrow_and_update();
            });
            let count = minted();
            let since = count.saturating_sub(std::mem::replace(&mut beating.minted, count));
            for (place, realm) in realms.iter().enumerate() {
                self.look_after(realm, place == 0, &beating, since, kie, forget).await;
            }
            let changed = select_all(changes.iter_mut().map(|changes| Box::pin(changes.changed())));
            tokio::select! {
                biased;
                _ = changed => realms.iter().for_each(|realm| realm.later().doubt(self.clock.now())),
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    async fn look_after(
        &self,
        realm: &Arc<Realm>,
        is_newest: bool,
        beating: &Beating,
        minted: u64,
        kie: &Kie,
        forget: &(impl Fn(Forgotten) + Sync),
    ) {
        if !realm.is_up() {
            // The others are silent for a moment as this one is, and no longer.
            if is_newest && realm.tier().state() == State::Down {
                self.local().lost();
            }
            return;
        }
        if is_newest {
            self.pay(realm).await;
        }
        let request = self.beat_of(realm, beating, minted, false);
        let asked_at = self.clock.now();
        let Ok(beat) = realm.ask(request, BEHIND).await else { return };
        realm.heard(beat.bucket, asked_at);
        self.hear(realm, is_newest, beat, kie, forget);
        // Once it has heard what was forgotten meanwhile: that is not to be put there again.
        self.catch_up(realm).await;
    }

    fn hear(&self, realm: &Arc<Realm>, is_newest: bool, beat: Beat, kie: &Kie, forget: &(impl Fn(Forgotten) + Sync)) {
        let Beat { live, sequence, forgotten, missed, pause, beacon, bucket, present: of_late, remembered } = beat;
        let now = self.clock.now();
        self.hear_beacon(realm, beacon.as_deref());
        if !pause.is_zero() {
            kie.pause(pause);
        }
        if missed {
            // What was minted while the tier could not be seen may be among them. One that knows of none has lost its memory, and
            // is to have those links again.
            let has_dropped = !forgotten.is_empty() && realm.later().drop_links(|_| true);
            // Who has just begun has nothing in memory.
            if realm.sequence().is_some() || has_dropped {
                // All of it would be asked of kie.ai anew, for the sake of a few that somebody wanted forgotten.
                tracing::warn!(
                    "files that were forgotten while this replica could not hear of it may still be in its memory"
                );
            }
        }
        if !forgotten.is_empty() {
            let forgotten = Forgotten::of(Arc::clone(realm), forgotten.into_iter().collect());
            realm.later().drop_links(|source| forgotten.is_meant(source));
            forget(forgotten);
        }
        if realm.sequence().is_some_and(|known| sequence < known) {
            realm.later().doubt(now);
        }
        realm.set_sequence(sequence);
        if !is_newest {
            return;
        }
        let said = live.iter().map(|(id, record)| record.as_deref().and_then(|record| self.said(realm, id, record)));
        let said: Vec<_> = said.collect();
        let present = present(&said, of_late, remembered, self.replica.as_str());
        self.local().saw(&live, present, self.quota.tokens(bucket.ahead), now);
        *self.members() = said.into_iter().flatten().map(|said| said.member).collect();
    }

    fn said(&self, realm: &Realm, id: &str, record: &[u8]) -> Option<Said> {
        match realm.seals.open(&realm.names.fleet().records, record) {
            Ok(Content::Member { text, .. }) => {
                let mut said: Said = serde_json::from_str(&text).ok()?;
                id.clone_into(&mut said.member.id);
                Some(said)
            }
            Ok(_) => None,
            Err(why) => {
                realm.rejected(why);
                None
            }
        }
    }

    fn beat_of(&self, realm: &Realm, beating: &Beating, minted: u64, goodbye: bool) -> Request<Beat> {
        let now = self.clock.now();
        let names = realm.names.fleet();
        let member = Member {
            id: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            age_seconds: beating.began.until(now).as_secs(),
            mints: minted,
            rate: self.config.rate.get(),
        };
        let is_newest = self.realms().first().is_some_and(|newest| std::ptr::eq(&**newest, realm));
        let (is_apart, is_listening) = {
            let local = self.local();
            // An older key's tier is not listened to.
            (local.is_apart(), is_newest && local.is_listening(now))
        };
        let said = Said { member, is_apart, is_listening };
        let text = serde_json::to_string(&said).expect("numbers and texts serialise");
        let record = realm.seals.seal(&names.records, &Content::Member { at: self.clock.wall(), text });
        let beacon = self.kie_clock.beacon(now).map(|at| realm.seals.seal(&names.beacon, &Content::Beacon { at }));
        let (sequence, bucket) = (realm.sequence(), realm.known(now));
        let saying = Saying { replica: &self.replica, record, sequence, beacon, goodbye, bucket };
        Request::beat(names, self.quota, saying)
    }

    /// Tells the tier of one key that a file is to be forgotten, as somebody wanted at `since`, and keeps that, so that it is told
    /// again where it was not heard. Returns whether it was.
    pub(super) async fn forget(&self, realm: &Realm, source: &Source, since: Instant) -> bool {
        let told = realm.ask(Request::drop(&realm.file(source), realm.names.fleet()), BEHIND).await;
        realm.later().forget(source, since, if told.is_ok() { Heard::Yes } else { Heard::No });
        told.is_ok()
    }

    /// The tier answers: it is told what it has missed, if anything. What it does not hear now it is told with the next beat.
    pub(super) async fn catch_up(&self, realm: &Arc<Realm>) {
        let Untold { pause_until, forgotten, doubted, links } = realm.later().take(self.clock.now());
        if let Some(until) = pause_until {
            self.pause(realm, until).await;
        }
        let mut untold: Vec<_> = forgotten.iter().collect();
        for some in doubted.chunks(PEEK) {
            untold.extend(self.look_for_lost(realm, some).await);
        }
        for some in untold.chunks(TOLD_AT_ONCE) {
            join_all(some.iter().map(|deletion| self.forget(realm, &deletion.source, deletion.since))).await;
        }
        for some in links.chunks(TOLD_AT_ONCE) {
            let puts = some.iter().map(|(source, kept)| async {
                let Some((sealed, life)) = self.sealed(realm, source, &kept.minted) else { return };
                if self.put(realm, &realm.file(source), &self.holder(), sealed, life).await.is_err() {
                    realm.later().put_again(source, kept);
                }
            });
            join_all(puts).await;
        }
    }

    /// Deletions that the tier has lost: it has a link that was there before. Had they all been told again, links that were
    /// minted since would be lost whenever a tier without any memory is back.
    async fn look_for_lost<'a>(&self, realm: &Realm, some: &'a [Deletion]) -> Vec<&'a Deletion> {
        let files: Vec<_> = some.iter().map(|deletion| realm.file(&deletion.source)).collect();
        let peeked = realm.ask(Request::peek(&files, realm.names.fleet()), BEHIND).await;
        let now = self.clock.now();
        let (Some(links), Some(shown)) = (
            peeked.ok().map(|peeked| peeked.links).filter(|links| links.len() == files.len()),
            self.kie_clock.upper_bound(now),
        ) else {
            some.iter().for_each(|deletion| realm.later().forget(&deletion.source, deletion.since, Heard::Lost));
            return Vec::new();
        };
        let is_lost = |deletion: &Deletion, file: &FileNames, sealed: &[u8]| match realm.seals.open(&file.link, sealed)
        {
            Ok(Content::Link(kept) | Content::Refusal(kept)) => {
                let age = Duration::try_from(shown.duration_since(kept.minted_at)).unwrap_or_default();
                age >= now.since(deletion.since)
            }
            _ => false,
        };
        let mut lost = Vec::new();
        for ((deletion, file), sealed) in some.iter().zip(&files).zip(links) {
            match sealed {
                Some(sealed) if is_lost(deletion, file, &sealed) => lost.push(deletion),
                _ => realm.later().forget(&deletion.source, deletion.since, Heard::Yes),
            }
        }
        lost
    }

    async fn renew(&self) {
        let wanted = self.leases.wanted(self.clock.now());
        for realm in self.realms().iter().filter(|realm| realm.is_up()) {
            let ours: Vec<_> = wanted.iter().filter(|lease| Arc::ptr_eq(&lease.realm, realm)).collect();
            for some in ours.chunks(RENEWED_AT_ONCE) {
                let request = Request::renew(some.iter().map(|lease| (&lease.file, &lease.holder)));
                // A lease that is lost costs a second mint.
                let _ = realm.ask(request, LEASE).await;
            }
        }
    }

    async fn say_goodbye(&self) {
        let releases = self.leases.take_all().into_iter().map(|lease| async move {
            let _ = lease.realm.ask(Request::release(&lease.file, &lease.holder, None), GOODBYE).await;
        });
        let realms = self.realms();
        let beating = Beating { began: self.clock.now(), minted: 0 };
        let goodbyes = realms.iter().map(|realm| async {
            let _ = realm.ask(self.beat_of(realm, &beating, 0, true), GOODBYE).await;
        });
        join(join_all(releases), join_all(goodbyes)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn whoever_has_just_found_the_tier_is_not_there_yet_and_those_apart_are_no_more_than_those_who_are() {
        let member = |id: &str| Member { id: id.to_owned(), version: String::new(), age_seconds: 0, mints: 0, rate: 1 };
        let said = |apart: &[&str], listening: &[&str]| {
            let each = ["b", "c", "a"].map(|id| Said {
                member: member(id),
                is_apart: apart.contains(&id),
                is_listening: listening.contains(&id),
            });
            Vec::from(each.map(Some))
        };
        for (apart, listening, of_late, expected) in [
            (&[][..], &[][..], 3, (3, 0, 0)),
            (&["a"], &[], 3, (3, 1, 0)),
            (&["b", "c"], &[], 3, (3, 2, 0)),
            (&["b", "c"], &[], 2, (2, 1, 0)),
            (&["b"], &[], 1, (1, 0, 0)),
            (&["a", "b"], &[], 1, (1, 1, 0)),
            (&["a", "b", "c"], &[], 3, (3, 3, 0)),
            (&[], &["b"], 3, (2, 0, 1)),
            (&["b"], &["b"], 3, (2, 0, 1)),
            (&["c"], &["b"], 3, (2, 1, 1)),
            (&["b", "c"], &["b", "c"], 3, (1, 0, 2)),
            (&[], &["a"], 3, (3, 0, 0)),
            // Who has left while it listened is not taken off twice.
            (&[], &["b", "c"], 2, (1, 0, 1)),
            (&[], &["b"], 2, (2, 0, 0)),
            (&[], &["b", "c"], 1, (1, 0, 0)),
            (&[], &[], 0, (1, 0, 0)),
        ] {
            let Present { together, apart: of_those, listening: more, of } =
                present(&said(apart, listening), of_late, 5, "a");
            assert_eq!(((together, of_those, more), of), (expected, 5), "{apart:?} {listening:?} {of_late}");
        }
        let mut unread = said(&[], &["b", "c"]);
        unread[1] = None;
        let found = |said: &[Option<Said>]| (present(said, 3, 5, "a").together, present(said, 3, 5, "a").listening);
        assert_eq!(found(&unread), (2, 1), "what cannot be read says nothing, and is there");
        assert_eq!(found(&[]), (3, 0));
    }

    #[test]
    fn what_a_replica_says_of_itself_is_read_without_its_name() {
        let said = r#"{"version":"1.2.3","age_seconds":5,"mints":1,"rate":10,"later":true}"#;
        let read = |text: &str| serde_json::from_str::<Said>(text).unwrap();
        let Said { member, is_apart, is_listening } = read(said);
        assert_eq!((member.version.as_str(), member.rate, member.id.as_str(), is_apart), ("1.2.3", 10, "", false));
        assert!(!is_listening, "an older one does not say it");
        let said = serde_json::to_string(&Said { member, is_apart: true, is_listening: true }).unwrap();
        assert!(read(&said).is_apart && read(&said).is_listening);
    }

    #[tokio::test(start_paused = true)]
    async fn what_panics_begins_anew_a_second_later() {
        let (began, runs) = (tokio::time::Instant::now(), AtomicU64::new(0));
        unbroken("a test", || async {
            assert_eq!(runs.fetch_add(1, Ordering::Relaxed), 2, "a defect");
        })
        .await;
        assert_eq!((runs.into_inner(), began.elapsed()), (3, 2 * EVERY));
    }
}
