//! What replicas with one API key share: names, seals, and a connection to the tier. A replica has one, and a second one
//! while its key is replaced by another.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{later::Later, poll::Polls};
use crate::{
    clock::Instant,
    key::ApiKey,
    shared::{self, FileNames, Known, Level, Names, Rejection, Request, Seals, State, Tier},
    source::Source,
    upstream::Progress,
};

/// For so long after a key was let go, its fleet's quota is kept, too: other replicas may still have it. Kubernetes takes up to
/// two minutes to bring a changed secret to all nodes (its documentation: the kubelet's sync period and the delay of its cache);
/// one is for those that see it late.
const RETIRED_FOR: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub(super) struct Realm {
    /// Of its key.
    pub(super) fingerprint: String,
    pub(super) names: Names,
    pub(super) seals: Seals,
    /// Who waits for mints of other replicas.
    pub(super) polls: Polls,
    connection: Mutex<Connection>,
    later: Mutex<Later>,
    /// The number of the last deletion that was heard of.
    sequence: Mutex<Option<i64>>,
    /// How its bucket was when it was heard of last.
    bucket: Mutex<Known>,
    /// Since when the key is none of those in use.
    retired_at: Mutex<Option<Instant>>,
}

/// To the tier, where that is now.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) tier: Tier,
    pub(super) end: CancellationToken,
}

impl Realm {
    pub(super) fn new(key: &ApiKey, connect: impl FnOnce(&Names) -> Connection) -> Realm {
        let secret = key.fleet_secret();
        let names = Names::new(&secret);
        Realm {
            fingerprint: key.fingerprint().to_owned(),
            seals: Seals::new(&secret),
            polls: Polls::default(),
            connection: Mutex::new(connect(&names)),
            later: Mutex::default(),
            sequence: Mutex::default(),
            bucket: Mutex::default(),
            retired_at: Mutex::default(),
            names,
        }
    }

    /// What was heard of the tier holds: it may be the same one, by another password.
    pub(super) fn reconnect(&self, connection: Connection) {
        std::mem::replace(&mut *self.connection(), connection).end.cancel();
    }

    pub(super) fn disconnect(&self) {
        self.connection().end.cancel();
    }

    pub(super) fn tier(&self) -> Tier {
        self.connection().tier.clone()
    }

    /// As `Tier::ask`.
    pub(super) fn ask<T>(
        &self,
        request: Request<T>,
        patience: Duration,
    ) -> impl Future<Output = Result<T, shared::Error>> + Send + use<T> {
        self.tier().ask(request, patience)
    }

    /// The same for a mint that may wait for the tier for so long in all, and is charged what it has waited.
    pub(super) async fn ask_for<T>(
        &self,
        request: Request<T>,
        progress: &Progress,
        budget: Duration,
    ) -> Result<T, shared::Error> {
        let tier = self.tier();
        let spent = tier.stopwatch();
        let answer = tier.ask(request, progress.left_of(budget)).await;
        progress.waited(spent());
        answer
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn later(&self) -> MutexGuard<'_, Later> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_up(&self) -> bool {
        self.tier().state() == State::Up
    }

    pub(super) fn file(&self, source: &Source) -> FileNames {
        self.names.file(source.key())
    }

    pub(super) fn rejected(&self, why: Rejection) {
        self.tier().rejected(why);
    }

    pub(super) fn sequence(&self) -> Option<i64> {
        *self.sequence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_sequence(&self, sequence: i64) {
        *self.sequence.lock().unwrap_or_else(PoisonError::into_inner) = Some(sequence);
    }

    /// What to tell the tier of its bucket.
    pub(super) fn known(&self, now: Instant) -> Level {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).level(now)
    }

    /// The tier, asked at `asked_at`, has told of its bucket.
    pub(super) fn heard(&self, bucket: Level, asked_at: Instant) {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).heard(bucket, asked_at);
    }

    /// Notes whether its key is in use, and tells whether it is still needed.
    pub(super) fn is_needed(&self, is_in_use: bool, now: Instant) -> bool {
        let mut retired_at = self.retired_at.lock().unwrap_or_else(PoisonError::into_inner);
        if is_in_use {
            *retired_at = None;
            return true;
        }
        now.since(*retired_at.get_or_insert(now)) < RETIRED_FOR
    }
}
